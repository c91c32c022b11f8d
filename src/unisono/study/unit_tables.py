"""The unit codes that Unisono knows: UCUM's symbols, pint's names for them, and the words people write instead.

Source: UCUM 2.1, https://ucum.org/ucum.
"""

from __future__ import annotations

SINGLE: dict[str, str] = {
    "a": "year", "mo": "month", "wk": "week", "d": "day", "h": "hour", "min": "minute", "[lb_av]": "pound",
    "lb": "pound", "[oz_av]": "ounce", "[in_i]": "inch", "in": "inch", "[ft_i]": "foot", "ft": "foot",
    "Cel": "degC", "degC": "degC", "[degF]": "degF", "degF": "degF", "%": "percent", "[ppth]": "permille",
    "[ppm]": "ppm", "deg": "degree", "rad": "radian", "mmHg": "mmHg", "[Da]": "dalton",
}  # fmt: skip
"""Codes that take no prefix: UCUM code -> pint's name. The short spellings of everyday use are among them."""
METRIC: dict[str, str] = {
    "m": "meter", "g": "gram", "s": "second", "L": "liter", "l": "liter", "mol": "mole", "K": "kelvin",
    "Pa": "pascal", "bar": "bar", "N": "newton", "J": "joule", "W": "watt", "A": "ampere", "V": "volt",
    "Hz": "hertz", "cal": "calorie", "U": "enzyme_unit", "kat": "katal", "[iU]": "arbitrary_unit",
    "IU": "arbitrary_unit", "Bq": "becquerel", "Gy": "gray", "Sv": "sievert", "eV": "electron_volt",
    "m[Hg]": "mmHg * 1000", "m[H2O]": "cmH2O * 100",
}  # fmt: skip
"""Codes that take a metric prefix: UCUM code -> pint's expression."""
PREFIX: dict[str, int] = {
    "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "d": -1, "c": -2, "m": -3, "u": -6, "µ": -6, "μ": -6, "n": -9,
    "p": -12, "f": -15,
}  # fmt: skip
"""Metric prefixes: power of ten. Micro is u in UCUM, and both Unicode characters that look like it."""
COMMON: tuple[str, ...] = (
    "1", "%", "a", "mo", "wk", "d", "h", "min", "s", "ms", "kg", "g", "mg", "ug", "ng", "pg", "[lb_av]", "lb",
    "[oz_av]", "m", "cm", "mm", "um", "[in_i]", "in", "[ft_i]", "ft", "L", "dL", "mL", "uL", "mol", "mmol", "umol",
    "nmol", "pmol", "mmol/L", "umol/L", "nmol/L", "pmol/L", "mg/dL", "g/dL", "g/L", "mg/L", "ug/L", "ng/mL",
    "pg/mL", "U/L", "kU/L", "[iU]/L", "m[iU]/L", "mm[Hg]", "kPa", "cm[H2O]", "Cel", "[degF]", "K", "kg/m2", "m2",
    "10*9/L", "10*12/L", "/min", "mL/min", "mL/min/1.73m2", "L/min", "mg/kg", "mg/d", "kcal/d", "mg/g", "mg/mmol",
    "mmol/mol", "Hz", "Gy",
)  # fmt: skip
"""What a misspelt unit is compared with."""
WORDS: dict[str, str] = {
    "year": "a", "years": "a", "yr": "a", "y": "a", "month": "mo", "months": "mo", "week": "wk", "weeks": "wk",
    "day": "d", "days": "d", "hour": "h", "hours": "h", "hr": "h", "minute": "min", "minutes": "min", "sec": "s",
    "second": "s", "seconds": "s", "pound": "[lb_av]", "pounds": "[lb_av]", "lbs": "[lb_av]", "inch": "[in_i]",
    "inches": "[in_i]", "feet": "[ft_i]", "percent": "%", "celsius": "Cel", "fahrenheit": "[degF]", "c": "Cel",
    "f": "[degF]", "kilogram": "kg", "gram": "g", "meter": "m", "metre": "m", "liter": "L", "litre": "L",
    "mmhg": "mm[Hg]", "none": "1", "bpm": "/min", "points": "1", "score": "1", "": "1",
}  # fmt: skip
"""Everyday words, in lower case, so that the remedy names the code."""
