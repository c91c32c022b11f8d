"""Units: UCUM codes (``mo``, ``mm[Hg]``, ``10*9/L``), conversion between them, and the one parser of durations.

A code is read by a small grammar of its own and looked up in pint's registry, so that only known clinical units are
accepted and pint's own spellings (where ``a`` or ``mo`` could mean something else) never decide. Factors are exact
fractions until the last multiplication: 1 a is 12 mo and not 11.999999999999998.

Source: UCUM 2.1, https://ucum.org/ucum (year 365.25 d, month year/12 = 30.4375 d).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MappingError, StudyError
from unisono.study.unit_tables import COMMON, METRIC, PREFIX, SINGLE, WORDS

Values = NDArray[np.float64]

_ANNOTATION = re.compile(r"\{[^{}]*\}")
_ANNOTATION_ALONE = re.compile(r"(^|[/.])\{[^{}]*\}")
_POWER = re.compile(r"(.*?[^\d+-])([+-]?\d{1,2})?", re.DOTALL)
_TEN = re.compile(r"10[*^]([+-]?\d{1,2})")
_NUMBER = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(.*)", re.DOTALL)
_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]+)\s*")


@dataclass(frozen=True)
class _Scale:
    """A unit as an affine image of the SI base unit of its dimension: ``base = slope * value + offset``."""

    dimension: str
    slope: Fraction
    offset: Fraction = Fraction(0)


class _UnknownUnitError(Exception):
    """A code that the grammar or the tables do not know. Never leaves this file."""


def check_unit(code: str) -> None:
    """`StudyError` naming the nearest known code if `code` is no unit that Unisono knows."""
    _scale(code)


def compatible(a: str, b: str) -> bool:
    """Whether values in unit `a` can be expressed in unit `b` (both must be known; else `StudyError`)."""
    return _scale(a).dimension == _scale(b).dimension


def factor(source: str, target: str) -> float:
    """What a value in `source` is multiplied by to be in `target`.

    `MappingError` when the dimensions differ, and for two temperature scales with different zeros (use `convert`).
    """
    a, b = _pair(source, target)
    if a.offset != b.offset:
        raise MappingError(
            f"{source!r} and {target!r} have different zeros; no single factor leads from one to the other.",
            rule="unit-factor",
            remedy=f"Use one temperature scale for both, or {target!r} in the mapping, which converts values.",
        )
    return float(a.slope / b.slope)


def convert(values: Values, source: str, target: str) -> Values:
    """`values` (n,) in unit `source`, expressed in unit `target`; NaN stays NaN. The same array when nothing changes.

    `MappingError` when the dimensions differ (``L`` to ``%``, ``mmol/L`` to ``mg/dL``).
    """
    a, b = _pair(source, target)
    ratio, shift = a.slope / b.slope, (a.offset - b.offset) / b.slope
    if ratio == 1 and shift == 0:
        return values
    if ratio.numerator < 2**53 and ratio.denominator < 2**53:
        converted = values * float(ratio.numerator) / float(ratio.denominator)  # both exact: 12 mo is exactly 1 a
    else:
        converted = values * float(ratio)
    return converted + float(shift) if shift else converted


def duration(text: str) -> float:
    """Seconds of ``10 min``, ``2 h``, ``90 s``, ``1.5 d``; always above zero. `StudyError` for anything else."""
    match = _DURATION.fullmatch(text)
    if match:
        number, code = match.groups()
        scale = _SCALES_OF_TIME.get(code)
        seconds = float(number) * scale if scale else 0.0
        if 0 < seconds < math.inf:
            return seconds
    raise StudyError(
        f"{text!r} is not a duration.",
        rule="durations",
        remedy=f"Write a number above zero and one of {', '.join(_SCALES_OF_TIME)}, as in '10 min' or '2 h'.",
    )


_SCALES_OF_TIME = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "wk": 604800.0}


def _pair(source: str, target: str) -> tuple[_Scale, _Scale]:
    a, b = _scale(source), _scale(target)
    if a.dimension != b.dimension:
        substance = {a.dimension, b.dimension} == {"[substance] / [length] ** 3", "[mass] / [length] ** 3"}
        raise MappingError(
            f"{source!r} cannot be converted to {target!r}: one measures {a.dimension}, the other {b.dimension}.",
            rule="unit-dimensions",
            remedy=(
                "The conversion depends on the substance's molar mass; give a column in the study's unit."
                if substance
                else "Correct the unit in the mapping, or choose the column that measures what the study asks for."
            ),
        )
    return a, b


@cache
def _registry() -> Any:
    import pint  # 0.2 s, and only studies with units need it

    registry = pint.UnitRegistry(non_int_type=Fraction)
    registry.define(
        "arbitrary_unit = [arbitrary_unit]"
    )  # international units measure an effect; nothing else converts to them
    return registry


@cache
def _scale(code: str) -> _Scale:
    try:
        return _read(code)
    except _UnknownUnitError:
        near = get_close_matches(code, COMMON, 1, 0.5) or get_close_matches(code.lower(), COMMON, 1, 0.5)
        near = [WORDS[code.lower()]] if code.lower() in WORDS else near
        raise StudyError(
            f"There is no unit {code[:40]!r}.",
            rule="known-units",
            remedy=(f"Did you mean {near[0]!r}? " if near else "")
            + "Units are UCUM codes: 'a' years, 'mo' months, 'd' days, 'kg', 'cm', 'mm[Hg]', '%', '1' for none.",
        ) from None


def _read(code: str) -> _Scale:
    """``kg/m2``, ``mL/min/1.73m2``, ``10*9/L``, ``/min``: factors joined by ``.`` and ``/``, left to right."""
    if not code or len(code) > 60:
        raise _UnknownUnitError
    bare = _ANNOTATION.sub(
        "", _ANNOTATION_ALONE.sub(r"\g<1>1", code)
    )  # what is in braces means nothing to a conversion
    if bare in ("Cel", "degC", "[degF]", "degF"):
        return _temperature(SINGLE[bare])
    parts = re.split(r"(/|(?<!\d)\.|\.(?!\d))", bare)
    quantity = _registry().Quantity(Fraction(1))
    if parts[0]:
        quantity = quantity * _factor(parts[0])
    elif len(parts) < 2 or parts[1] != "/":
        raise _UnknownUnitError
    for operator, part in zip(parts[1::2], parts[2::2], strict=True):
        quantity = quantity / _factor(part or "?") if operator == "/" else quantity * _factor(part or "?")
    base = quantity.to_base_units()
    return _Scale(_dimension(base), Fraction(base.magnitude))


def _factor(text: str) -> Any:
    """One factor: a number, a power of ten, or a unit with its exponent, perhaps after a number (``1.73m2``)."""
    registry = _registry()
    if ten := _TEN.fullmatch(text):
        return registry.Quantity(Fraction(10) ** int(ten[1]))
    if number := _NUMBER.fullmatch(text):
        value = registry.Quantity(Fraction(number[1]))
        if value.magnitude == 0:
            raise _UnknownUnitError
        return value * _factor(number[2]) if number[2] else value
    power = _POWER.fullmatch(text)
    if not power:
        raise _UnknownUnitError
    return _atom(power[1]) ** int(power[2] or 1)


def _atom(symbol: str) -> Any:
    registry = _registry()
    if symbol in SINGLE and SINGLE[symbol] not in ("degC", "degF"):
        return registry.Quantity(Fraction(1), SINGLE[symbol])
    for cut in (0, 1, 2):
        prefix, base = symbol[:cut], symbol[cut:]
        if base in METRIC and (not prefix or prefix in PREFIX):
            return registry.parse_expression(METRIC[base]) * Fraction(10) ** PREFIX.get(prefix, 0)
    raise _UnknownUnitError


def _temperature(name: str) -> _Scale:
    registry = _registry()
    zero = Fraction(registry.Quantity(Fraction(0), name).to("kelvin").magnitude)
    one = Fraction(registry.Quantity(Fraction(1), name).to("kelvin").magnitude)
    return _Scale("[temperature]", one - zero, zero)


def _dimension(quantity: Any) -> str:
    """``[mass] / [length] ** 3``, or ``a plain number``. One spelling for each dimension, whatever the order."""
    powers = sorted(
        ((str(name), power) for name, power in quantity.dimensionality.items()), key=lambda item: (item[1] < 0, item[0])
    )
    text = ""
    for name, power in powers:
        term = name if abs(power) == 1 else f"{name} ** {abs(power)}"
        text += (" / " if text or power < 0 else "") + term if power < 0 else (" * " if text else "") + term
    return text.strip() or "a plain number"
