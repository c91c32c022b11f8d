"""What is split: one table of patients, the column that holds the outcome, and, for images, the folder they lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unisono.errors import DataError
from unisono.site.data.columns import is_number
from unisono.site.data.mapping import MISSING
from unisono.site.data.readers import read

Kind = Literal["number", "integer", "boolean", "category"]
MOST_LEVELS = 50
"""A column of text with more distinct values names or describes patients; it is no category."""
QUANTILES = 4
"""A number as the label is split by its quarters."""
MOST_CLASSES = 20
"""A whole number as the label, with at most so many different values, numbers classes."""
_NAMED = 30
"""Columns that a message lists."""
_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


@dataclass(frozen=True)
class Collection:
    """A table of patients, in one place.

    frame: one row a patient; numbers are float64 (NaN missing), booleans 0/1, categories text. label: the outcome's column.
    units: UCUM, by column; "1" if not said. image: the column that holds each
    patient's file, relative to `folder`. origin: one sentence for the record: real, or generated.
    """

    name: str
    frame: pd.DataFrame = field(repr=False)
    kinds: Mapping[str, Kind]
    label: str
    origin: str
    units: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    folder: Path | None = None
    digest: str = ""

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def features(self) -> list[str]:
        """The columns of numbers, booleans and categories, without the label."""
        return [name for name in self.kinds if name != self.label]

    @property
    def numbers(self) -> list[str]:
        """The features that an instrument measures."""
        return [name for name in self.features if self.kinds[name] in ("number", "integer")]

    def classes(self) -> tuple[NDArray[np.int64], list[str]]:
        """The class (n,) of each patient and the classes' names: a number's classes are its quarters. `DataError` for a patient
        without."""
        column = self.frame[self.label]
        if column.isna().any():
            raise DataError(
                f"{int(column.isna().sum())} patients have no {self.label}.",
                rule="skew-label",
                remedy="Remove patients without an outcome before splitting, or name another --label.",
            )
        if self.kinds[self.label] == "number":
            edges = np.unique(np.quantile(column, np.linspace(0, 1, QUANTILES + 1)[1:-1]))
            codes = np.searchsorted(edges, column.to_numpy(), side="right").astype(np.int64)
            return codes, [f"quarter {k + 1}" for k in range(len(edges) + 1)]
        values = sorted(column.unique())
        place = {value: k for k, value in enumerate(values)}
        names = [f"{v:g}" if isinstance(v, float | int | np.number) else str(v) for v in values]
        return column.map(place).to_numpy(np.int64), names


def read_table(
    path: Path,
    *,
    label: str | None,
    units: Mapping[str, str] | None = None,
    images: Path | None = None,
    image: str | None = None,
) -> Collection:
    """A CSV or Parquet file as a collection; with `images`, the column `image` holds files in that folder. `DataError` for what
    names no column of its own."""
    raw = read(path)
    if label is None:
        raise DataError(
            "Which column holds the outcome was not said.",
            rule="known-columns",
            remedy=f"Name it with --label: {_named([name for name in raw.names if name and name != image])}.",
        )
    columns: dict[str, pd.Series] = {}
    kinds: dict[str, Kind] = {}
    for name in raw.names:
        if not name or name not in raw.columns or name == image:
            continue
        columns[name], kinds[name] = _typed(name, raw.columns[name].to_pandas(), raw.file.decimal or ".")
    if label not in kinds:
        raise _absent(label, "--label", list(kinds))
    columns[label], kinds[label] = _as_label(columns[label], kinds[label])
    measured = [name for name in kinds if kinds[name] in ("number", "integer")]
    for name in units or {}:
        if name not in measured:
            raise _absent(name, "--unit NAME=UNIT", measured, "column of numbers")
    if (images is None) != (image is None):
        raise DataError(
            "Images need both their folder and the column that names each patient's file.",
            rule="image-column",
            remedy="Give --images FOLDER and --image-column NAME together.",
        )
    frame = pd.DataFrame(columns)
    if image is not None:
        if image not in raw.columns:
            raise _absent(image, "--image-column", raw.names)
        frame[image] = raw.columns[image].to_pandas().astype(str)
    return Collection(
        path.stem, frame, kinds, label, f"read from {path.name}", units or {}, image, images, _sha256(path)
    )


def _typed(name: str, column: pd.Series, decimal: str) -> tuple[pd.Series, Kind]:
    """A column of any type as numbers, booleans or text of few values, and which of them."""
    if column.dtype.kind == "b":
        return column.astype(float), "boolean"
    if column.dtype.kind in "iuf":
        numbers = column.astype(float)
        return numbers, _number_kind(numbers)
    text = column.astype("string").str.strip()
    text = text.mask(text.isin(MISSING))
    known = text.dropna()
    if known.str.lower().isin(list(_WORDS)).all() and len(known):
        return text.str.lower().map(_WORDS).astype(float), "boolean"
    pointed = text.str.replace(decimal, ".", regex=False)
    if pointed.dropna().map(is_number).all():
        numbers = pd.to_numeric(pointed).astype(float)
        return numbers, _number_kind(numbers)
    if known.nunique() > MOST_LEVELS:
        raise DataError(
            f"The column {name!r} holds text with more than {MOST_LEVELS} different values.",
            rule="column-kind",
            remedy="Remove columns that name or describe patients (the one that names files of images: --image-column).",
        )
    return text.astype(object).where(text.notna(), None), "category"


def _as_label(column: pd.Series, kind: Kind) -> tuple[pd.Series, Kind]:
    """Few whole numbers are names of classes; many are a quantity."""
    if kind != "integer":
        return column, kind
    if column.nunique() > MOST_CLASSES:
        return column, "number"
    return column.map(lambda value: None if pd.isna(value) else f"{value:g}").astype(object), "category"


def _number_kind(numbers: pd.Series) -> Kind:
    known = numbers.dropna()
    if len(known) and known.isin([0.0, 1.0]).all():
        return "boolean"
    return "integer" if len(known) and (known == known.round()).all() else "number"


def _absent(name: str, option: str, names: Sequence[str], what: str = "column") -> DataError:
    return DataError(
        f"There is no {what} {name!r}.",
        rule="known-columns",
        remedy=f"Name one with {option}: {_named(names)}.",
    )


def _named(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
