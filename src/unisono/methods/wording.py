"""How results are said: p-values, intervals, numbers and directions, the same in every method's headline and table."""

from __future__ import annotations

import math
from collections.abc import Sequence


def say_p(p: float | None) -> str:
    """``p < 0.001``, ``p = 0.012``, ``p > 0.999``; never ``p = 0.000``. ``p not available`` for None or NaN."""
    if p is None or math.isnan(p):
        return "p not available"
    if p < 0.001:
        return "p < 0.001"
    if p > 0.999:
        return "p > 0.999"
    return f"p = {p:.3f}"


def say_number(value: float | None, digits: int = 3) -> str:
    """A number with about `digits` significant digits and no exponent where a reader would not write one: ``0.58``,
    ``12.4``, ``1234``, ``0.0021``; exponents only below 0.0001 or from a million; ``-`` for None or NaN."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-4 or size >= 1e6:
        return f"{value:.{digits - 1}e}"
    whole = math.floor(math.log10(size)) + 1
    decimals = max(digits - max(whole, 0), 0) if size >= 1 else digits - 1 - min(whole, 0)
    return f"{value:.{decimals}f}"


def say_interval(low: float | None, high: float | None, confidence: float = 0.95, digits: int = 3) -> str:
    """``95% CI 0.42 to 0.81``."""
    percent = f"{100 * confidence:.10g}"
    return f"{percent}% CI {say_number(low, digits)} to {say_number(high, digits)}"


def direction(value: float, null: float = 0.0) -> str:
    """``higher``, ``lower`` or ``the same``: where `value` lies from `null` (0 for a coefficient, 1 for a ratio)."""
    if value > null:
        return "higher"
    return "lower" if value < null else "the same"


_UNITS = {"a": "year", "mo": "month", "wk": "week", "d": "day", "h": "hour", "min": "minute", "s": "second"}


def say_unit(code: str) -> str:
    """A unit as a reader says it: ``years`` for ``a``; codes that are read as they are (``kg``) stay."""
    return f"{_UNITS[code]}s" if code in _UNITS else code


def say_one(code: str) -> str:
    """One of a unit: ``year``, ``1 kg``, ``1``."""
    return "1" if code == "1" else _UNITS.get(code, f"1 {code}")


def say_list(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
