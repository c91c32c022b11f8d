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

Values = NDArray[np.float64]

_SINGLE = {
    # time
    "a": "year", "mo": "month", "wk": "week", "d": "day", "h": "hour", "min": "minute",
    # imperial, with the short spellings of everyday use
    "[lb_av]": "pound", "lb": "pound", "[oz_av]": "ounce", "[in_i]": "inch", "in": "inch", "[ft_i]": "foot", "ft": "foot",
    # temperature (not mere factors), proportions, counts
    "Cel": "degC", "degC": "degC", "[degF]": "degF", "degF": "degF", "%": "percent", "[ppth]": "permille",
    "[ppm]": "ppm", "deg": "degree", "rad": "radian", "mmHg": "mmHg", "[Da]": "dalton",
}  # fmt: skip
"""Codes that take no prefix: UCUM code -> pint's name."""
_METRIC = {
    "m": "meter", "g": "gram", "s": "second", "L": "liter", "l": "liter", "mol": "mole", "K": "kelvin", "Pa": "pascal",
    "bar": "bar", "N": "newton", "J": "joule", "W": "watt", "A": "ampere", "V": "volt", "Hz": "hertz", "cal": "calorie",
    "U": "enzyme_unit", "kat": "katal", "[iU]": "arbitrary_unit", "IU": "arbitrary_unit", "Bq": "becquerel", "Gy": "gray",
    "Sv": "sievert", "eV": "electron_volt", "m[Hg]": "mmHg * 1000", "m[H2O]": "cmH2O * 100",
}  # fmt: skip
"""Codes that take a metric prefix."""
_PREFIX = {
    "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "d": -1, "c": -2, "m": -3, "u": -6, "µ": -6, "μ": -6, "n": -9, "p": -12, "f": -15,
}  # fmt: skip
_COMMON = [
    "1",
    "%",
    "a",
    "mo",
    "wk",
    "d",
    "h",
    "min",
    "s",
    "ms",
    "kg",
    "g",
    "mg",
    "ug",
    "ng",
    "pg",
    "[lb_av]",
    "lb",
    "[oz_av]",
    "m",
    "cm",
    "mm",
    "um",
    "[in_i]",
    "in",
    "[ft_i]",
    "ft",
    "L",
    "dL",
    "mL",
    "uL",
    "mol",
    "mmol",
    "umol",
    "nmol",
    "pmol",
    "mmol/L",
    "umol/L",
    "nmol/L",
    "pmol/L",
    "mg/dL",
    "g/dL",
    "g/L",
    "mg/L",
    "ug/L",
    "ng/mL",
    "pg/mL",
    "U/L",
    "kU/L",
    "[iU]/L",
    "m[iU]/L",
    "mm[Hg]",
    "kPa",
    "cm[H2O]",
    "Cel",
    "[degF]",
    "K",
    "kg/m2",
    "m2",
    "10*9/L",
    "10*12/L",
    "/min",
    "mL/min",
    "mL/min/1.73m2",
    "L/min",
    "mg/kg",
    "mg/d",
    "kcal/d",
    "mg/g",
    "mg/mmol",
    "mmol/mol",
    "Hz",
    "Gy",
]
"""What a misspelt unit is compared with."""
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
        near = get_close_matches(code, _COMMON, 1, 0.5) or get_close_matches(code.lower(), _COMMON, 1, 0.5)
        near = [_WORDS[code.lower()]] if code.lower() in _WORDS else near
        raise StudyError(
            f"There is no unit {code[:40]!r}.",
            rule="known-units",
            remedy=(f"Did you mean {near[0]!r}? " if near else "")
            + "Units are UCUM codes: 'a' years, 'mo' months, 'd' days, 'kg', 'cm', 'mm[Hg]', 'mmol/L', '%', '1' for none.",
        ) from None


_WORDS = {
    "year": "a", "years": "a", "yr": "a", "y": "a", "month": "mo", "months": "mo", "week": "wk", "weeks": "wk", "day": "d", "days": "d",
    "hour": "h", "hours": "h", "hr": "h", "minute": "min", "minutes": "min", "sec": "s", "second": "s", "seconds": "s", "pound": "[lb_av]",
    "pounds": "[lb_av]", "lbs": "[lb_av]", "inch": "[in_i]", "inches": "[in_i]", "feet": "[ft_i]", "percent": "%", "celsius": "Cel",
    "fahrenheit": "[degF]", "c": "Cel", "f": "[degF]", "kilogram": "kg", "gram": "g", "meter": "m", "metre": "m", "liter": "L", "litre": "L",
    "mmhg": "mm[Hg]", "none": "1", "bpm": "/min", "points": "1", "score": "1", "": "1",
}  # fmt: skip
"""Everyday words, so that the remedy names the code."""


def _read(code: str) -> _Scale:
    """``kg/m2``, ``mL/min/1.73m2``, ``10*9/L``, ``/min``, ``{score}``: factors joined by ``.`` and ``/``, left to right."""
    if not code or len(code) > 60:
        raise _UnknownUnitError
    bare = _ANNOTATION.sub(
        "", _ANNOTATION_ALONE.sub(r"\g<1>1", code)
    )  # what is in braces means nothing to a conversion
    if bare in ("Cel", "degC", "[degF]", "degF"):
        return _temperature(_SINGLE[bare])
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
    """One factor: a number, a power of ten, or a unit with its exponent, perhaps with a number before it (``1.73m2``)."""
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
    if symbol in _SINGLE and _SINGLE[symbol] not in ("degC", "degF"):
        return registry.Quantity(Fraction(1), _SINGLE[symbol])
    for cut in (0, 1, 2):
        prefix, base = symbol[:cut], symbol[cut:]
        if base in _METRIC and (not prefix or prefix in _PREFIX):
            return registry.parse_expression(_METRIC[base]) * Fraction(10) ** _PREFIX.get(prefix, 0)
    raise _UnknownUnitError


def _temperature(name: str) -> _Scale:
    registry = _registry()
    zero = Fraction(registry.Quantity(Fraction(0), name).to("kelvin").magnitude)
    one = Fraction(registry.Quantity(Fraction(1), name).to("kelvin").magnitude)
    return _Scale("[temperature]", one - zero, zero)


def _dimension(quantity: Any) -> str:
    """``[mass] / [length] ** 3``; ``a plain number`` without dimensions. One spelling for each dimension, whatever the order."""
    powers = sorted(
        ((str(name), power) for name, power in quantity.dimensionality.items()), key=lambda item: (item[1] < 0, item[0])
    )
    text = ""
    for name, power in powers:
        term = name if abs(power) == 1 else f"{name} ** {abs(power)}"
        text += (" / " if text or power < 0 else "") + term if power < 0 else (" * " if text else "") + term
    return text.strip() or "a plain number"
