"""What the report's template lays out: tables, figures and facts whose every cell is already in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unisono.report.words import cell

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Grid:
    """A table. The first `names` columns are words and stand to the left; the others are numbers and stand to the right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    note: str = ""
    names: int = 1


@dataclass(frozen=True)
class Picture:
    """A figure as a data URI, what it shows for those who cannot see it, and its caption."""

    uri: str
    alternative: str
    caption: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    words: str


Block = Grid | Picture | Text
"""What a section of the report is made of, in the order in which it is read."""


@dataclass(frozen=True)
class Fact:
    """A short label and what is so."""

    label: str
    value: str


def frame_grid(frame: pd.DataFrame, caption: str = "", note: str = "") -> Grid:
    """A method's summary table, whatever the method."""
    names = [str(name or "") for name in frame.index.names]
    rows = []
    for index, values in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        heads = index if isinstance(index, tuple) else (index,)
        cells = [cell(value, str(column)) for column, value in zip(frame.columns, values, strict=True)]
        rows.append((*(str(h) for h in heads), *cells))
    return Grid((*names, *(str(c) for c in frame.columns)), tuple(rows), caption, note, len(names))


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", note: str = "", names: int = 1) -> Grid:
    """A `Grid` of any sequences."""
    return Grid(tuple(head), tuple(tuple(row) for row in rows), caption, note, names)
