"""How the report says a number, a share, a size and a table's cell: the same on a terminal and in the HTML report."""

from __future__ import annotations

import math
from numbers import Real

import pandas as pd

from unisono.methods.wording import say_number, say_p

NOTHING = "–"
"""Where there is no number, or none that may be shown."""


def cell(value: object, column: str = "") -> str:
    """One value of a summary table: text as it is, whole numbers whole, others to three digits, p-values as such."""
    if value is None or value is pd.NA:
        return NOTHING
    if isinstance(value, str | bool):
        return str(value)
    if not isinstance(value, Real):
        return str(value)
    number = float(value)
    if math.isnan(number):
        return NOTHING
    if column in ("p", "p-value"):
        return p_cell(number)
    return str(int(number)) if _whole(number) else say_number(number)


def p_cell(p: float | None) -> str:
    """A p-value under a heading that says `p`: ``< 0.001``, ``0.012``."""
    return NOTHING if p is None else say_p(p).removeprefix("p ").removeprefix("= ")


def together(sentence: str) -> str:
    """A sentence in which no line ends between ``p``, its sign and its number."""
    for sign in ("<", "=", ">"):
        sentence = sentence.replace(f"p {sign} ", f"p\u00a0{sign}\u00a0")
    return sentence


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash."""
    return NOTHING if value is None or math.isnan(value) else say_number(value, digits)


def count(value: float | None) -> str:
    """A number of patients, ``1,234``; a dash where it may not be shown."""
    return NOTHING if value is None else f"{int(value):,}"


def time(value: float | None) -> str:
    """A time on the grid, without zeros that say nothing: ``6``, ``1.5``."""
    return NOTHING if value is None else f"{value:.6g}"


def gap(value: float | None) -> str:
    """A relative difference: ``1.6e-12``, ``0``."""
    return NOTHING if value is None else f"{value:.1e}" if value else "0"


def digits(value: float | None) -> str:
    """A number with ten significant digits, for comparisons."""
    return NOTHING if value is None else f"{value:.10g}"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """``0.42 to 0.81``; a dash for a limit that was not reached or is not shown."""
    return NOTHING if low is None and high is None else f"{number(low, digits)} to {number(high, digits)}"


def percent(share: float | None) -> str:
    """``62.1%`` of a share in [0, 1]."""
    return NOTHING if share is None else f"{100 * share:.1f}%"


def size(count: int) -> str:
    """A number of bytes: ``312 B``, ``1.4 kB``, ``2.0 MB``."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def plural(count: int, noun: str) -> str:
    """``1 hospital``, ``4 hospitals``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _whole(value: float) -> bool:
    return value.is_integer() and abs(value) < 2**53
