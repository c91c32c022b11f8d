"""What a hospital's columns look like, for proposing a mapping: kinds, codes that may be shown, dates. Never a patient's value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from unisono.site.data import columns
from unisono.site.data.columns import Values
from unisono.site.data.mapping import MISSING
from unisono.site.data.problems import ColumnError
from unisono.site.data.readers import Raw

MOST_CODES = 20
"""A column with more distinct values is no code list, and nothing of it is shown."""
LEAST_ROWS = 3
LONGEST_CODE = 24

DATE_FORMATS = (None, "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d")
_SAMPLE = 2000
_IMAGE_ENDINGS = (".png", ".dcm", ".dicom", ".nii", ".nii.gz")
_ORDINARY = MISSING
_WORDS_FOR_MISSING = frozenset(
    {"unknown", "unk", "missing", "nd", "n.d.", "na", "unbekannt", "fehlt", "k.a.", "ignoto", "manca", "onbekend", "desconocido", "inconnu", "?", "-"}
)  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """One column. values: (n,) if it is numbers; codes: those that may be shown, commonest first, if it is a code list.
    An ``image`` column holds what look like names of images' files.

    rare: how many codes may not be shown. missing: words that seem to mean missing, beyond the ordinary ones.
    date_format: of a column of dates (None: ISO, or typed dates); ambiguous: day and month could be exchanged.
    """

    name: str
    kind: Literal["number", "codes", "date", "image", "text"]
    values: Values | None = None
    codes: tuple[str, ...] = ()
    rare: int = 0
    missing: tuple[str, ...] = ()
    date_format: str | None = None
    ambiguous: bool = False


def profile(raw: Raw, name: str) -> Profile:
    """The profile of one column of `raw`."""
    column = raw.columns[name]
    kind = _kind(column)
    if kind == "date":
        return Profile(name, "date")
    codes, rare, missing = _code_list(column) if kind is not None else ((), 0, ())
    if kind == "text" and _names_images(column, missing):
        return Profile(name, "image", missing=missing)
    if kind == "text" and (found := _date_format(column)):
        return Profile(name, "date", date_format=found[0], ambiguous=found[1])
    values = _values(raw, column, missing) if kind in ("number", "text") else None
    if values is not None:
        return Profile(name, "number", values, codes, rare, missing)
    return Profile(name, "codes" if codes else "text", None, codes, rare, missing)


def _kind(column: Any) -> columns.Kind | None:
    try:
        return columns.kind_of(column)
    except ColumnError:
        return None


def _code_list(column: Any) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    """(codes that may be shown, how many may not, words for missing); no codes where there are too many of them."""
    try:
        texts, counts, _ = columns.distinct(column)
    except ColumnError:
        return (), 0, ()
    counted = [(t, int(c)) for t, c in zip(texts, counts, strict=True) if t is not None and t not in _ORDINARY]
    missing = tuple(t for t, c in counted if c >= LEAST_ROWS and t.casefold() in _WORDS_FOR_MISSING)
    counted = [(t, c) for t, c in counted if t not in missing]
    if not counted or len(counted) > MOST_CODES:
        return (), 0, missing
    shown = [(t, c) for t, c in counted if c >= LEAST_ROWS and len(t) <= LONGEST_CODE]
    shown.sort(key=lambda item: (-item[1], item[0]))
    return tuple(t for t, _ in shown), len(counted) - len(shown), missing


def _values(raw: Raw, column: Any, missing: tuple[str, ...]) -> Values | None:
    """(n,) if the column is numbers, and not all of them missing."""
    try:
        values = columns.numbers(column, {*_ORDINARY, *missing}, raw.file.decimal or ".")
    except ColumnError:
        return None
    return None if np.isnan(values).all() else values


def _names_images(column: Any, missing: tuple[str, ...]) -> bool:
    """Whether the first rows' text all ends like the name of an image's file."""
    texts = columns.texts_of(column.slice(0, _SAMPLE)).to_pylist()
    known = [t.casefold() for t in texts if t is not None and t not in _ORDINARY and t not in missing]
    return bool(known) and all(t.endswith(_IMAGE_ENDINGS) for t in known)


def _date_format(column: Any) -> tuple[str | None, bool] | None:
    """(format, ambiguous) of text that is dates, judged by its first rows; None if it is none."""
    texts = columns.texts_of(column.slice(0, _SAMPLE))
    known = [t for t in pc.unique(texts).to_pylist() if t is not None and t not in _ORDINARY]
    if not known or not all(any(c.isdigit() for c in t) for t in known):
        return None
    fitting = [f for f in DATE_FORMATS if all(columns.parse_date(t, f) is not None for t in known)]
    if not fitting or (fitting == ["%Y%m%d"] and min(known) < "1850"):
        return None
    return fitting[0], "%d/%m/%Y" in fitting and "%m/%d/%Y" in fitting
