"""Variables as the columns that trees split, and the bin edges at which they may.

A number or a boolean is one column; a category of two levels is the indicator of the second, one of more levels has an
indicator for each (one-hot: a split then sets one level against the others, and no order is invented). A missing value is
missing in every column of its variable. Values are float32, as in XGBoost, so that both sides of an edge are the same here and
there.

Edges are boundaries of a fixed grid of cells over the *declared* range, never a patient's value; each bin between released edges
holds `min_count` patients of all hospitals at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from unisono.study.document import BooleanVariable, CategoryVariable, NumberVariable, Study
from unisono.study.table import Table

Single = NDArray[np.float32]
Counts = NDArray[np.int64]
Codes = NDArray[np.uint16]


@dataclass(frozen=True)
class Feature:
    """One column. name: as the model file knows it. level: whose indicator it is (None: the value itself).
    boundaries: (c - 1,) float32, between the c cells of the declared range."""

    name: str
    variable: str
    level: int | None
    boundaries: Single

    @property
    def cells(self) -> int:
        return len(self.boundaries) + 1

    def values(self, table: Table) -> Single:
        """(n,) NaN where missing."""
        column = table[self.variable]
        if self.level is not None:
            column = np.where(np.isnan(column), np.nan, column == self.level)
        return column.astype(np.float32)


def features_of(study: Study, names: Sequence[str], cells: int) -> tuple[Feature, ...]:
    """The columns of these variables, in order."""
    found: list[Feature] = []
    half = np.array([0.5], np.float32)
    for name in names:
        variable = study.variables[name]
        if isinstance(variable, NumberVariable):
            found.append(Feature(name, name, None, _boundaries(variable, cells)))
        elif isinstance(variable, BooleanVariable):
            found.append(Feature(name, name, None, half))
        else:
            assert isinstance(variable, CategoryVariable)
            levels = range(1 if len(variable.levels) == 2 else 0, len(variable.levels))
            labels = [f"{name}={level.replace('<', 'lt ')}" for level in variable.levels]  # XGBoost's names hold no <
            unique = [label if labels.count(label) == 1 else f"{label}#{k}" for k, label in enumerate(labels)]
            found += [Feature(unique[k], name, k, half) for k in levels]
    return tuple(found)


def _boundaries(variable: NumberVariable, cells: int) -> Single:
    """Between equal cells; of an integer halfway between values, and each has a cell if there are so few."""
    if variable.type == "integer":
        first, last = np.ceil(variable.min), np.floor(variable.max)
        width = max(1.0, float(np.ceil((last - first + 1) / cells)))
        inner = np.arange(first + width - 0.5, last, width)
    else:
        inner = np.linspace(variable.min, variable.max, cells + 1)[1:-1]
    return np.unique(inner.astype(np.float32))


def matrix(features: Sequence[Feature], table: Table) -> Single:
    """(f, n) every column, NaN where missing."""
    x = np.empty((len(features), table.n), np.float32)
    for row, feature in zip(x, features, strict=True):
        row[:] = feature.values(table)
    return x


def cell_counts(features: Sequence[Feature], x: Single) -> Counts:
    """(sum of cells,) how many of the patients (f, n) are in each cell of each column, one column after the other."""
    found = []
    for feature, row in zip(features, x, strict=True):
        known = row[~np.isnan(row)]
        place = np.searchsorted(feature.boundaries, known, side="right")
        found.append(np.bincount(place, minlength=feature.cells))
    return np.concatenate(found)


@dataclass(frozen=True)
class Edges:
    """Where each feature may be split: feature f at `values[ends[f-1]:ends[f]]` (sorted; x < edge goes left).

    A feature's bin is the number of its edges that do not exceed the value; the bin after the last is for missing values.
    """

    values: Single
    ends: NDArray[np.int64]

    def of(self, feature: int) -> Single:
        return self.values[self.starts[feature] : self.ends[feature]]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], self.ends[:-1]])

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """(f,) edges of each feature."""
        return np.asarray(np.diff(self.ends, prepend=0), np.int64)

    def sound(self, features: int) -> bool:
        """Whether these can be edges of so many features: they come from outside."""
        n = self.numbers
        if len(n) != features or n.min() < 0 or n.max() > 2**15 or self.ends[-1] != len(self.values):
            return False
        rising = np.diff(self.values) > 0
        inner = np.ones(len(self.values), np.bool_)
        inner[self.starts[n > 0]] = False  # the first of each feature follows another's last
        return bool(rising[inner[1:]].all())

    def codes(self, x: Single) -> Codes:
        """(f, n) the bin of each value of (f, n)."""
        found = np.empty(x.shape, np.uint16)
        for f, row in enumerate(x):
            edges = self.of(f)
            found[f] = np.searchsorted(edges, row, side="right")
            found[f][np.isnan(row)] = len(edges) + 1
        return found


def choose_edges(features: Sequence[Feature], counts: Counts, bins: int, least: int) -> Edges:
    """At most `bins` bins a feature, with about as many patients in each and never fewer than `least` (0 < least)."""
    found, at = [], 0
    for feature in features:
        mine = counts[at : at + feature.cells]
        at += feature.cells
        found.append(feature.boundaries[_cuts(mine, bins, least)])
    return Edges(np.concatenate(found), np.cumsum([len(e) for e in found]))


def _cuts(counts: Counts, bins: int, least: int) -> list[int]:
    """Which boundaries (c - 1,) between cells with these counts (c,) are edges, in order."""
    until = np.cumsum(counts)
    total = int(until[-1])
    occupied = np.flatnonzero(counts)
    chosen: list[int] = []
    before, goal = 0, max(total / bins, least)
    for cell, following in pairwise(occupied):
        held = int(until[cell]) - before
        left = total - int(until[cell])
        # Cut where going on by a cell would overshoot the goal by more than stopping here falls short.
        if held >= least and left >= least and held + counts[following] / 2 > goal:
            chosen.append(int(cell + (following - 1 - cell) // 2))
            before = int(until[cell])
            goal = max(left / max(bins - len(chosen), 1), least)
        if len(chosen) == bins - 1:
            break
    return chosen
