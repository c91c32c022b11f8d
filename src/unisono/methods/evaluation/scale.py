"""Fixed bins of a score: the same at every site, from the study alone, so that histograms add up.

A score's rank within its bin is lost: patients of one bin are tied. What is read from a histogram is exact for the
binned scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unisono.errors import MethodError
from unisono.methods.evaluation.base import Array, Counts, Vector, finite, probabilities

_TAIL = 0.01
_DECADES = 4
"""Of the finer tails of probabilities: from 0.01 down to one in a million, and from 0.99 up."""


@dataclass(frozen=True, eq=False)
class Scale:
    """Bins of a score. inner: (b - 1,) edges, increasing; an edge belongs to the bin above. middles: (b,) of probabilities."""

    inner: Vector
    middles: Vector
    of: str

    @property
    def bins(self) -> int:
        return len(self.inner) + 1

    def index(self, scores: Array) -> Counts:
        """(n,) the bin of each score. What is beyond the ends is in the last bin there. `DataError` for a NaN."""
        values = probabilities(scores) if self.of == "probabilities" else finite(scores)
        if self.of == "unbounded":
            values = values / (1 + np.abs(values))
        return np.searchsorted(self.inner, values, side="right").astype(np.int64)

    @staticmethod
    def probabilities(bins: int = 1000, also: Sequence[float] = ()) -> Scale:
        """Bins 1 / `bins` wide from 0.01 to 0.99; beyond, where the scores of rare outcomes are, `bins` / 10 for each factor
        of ten down to 1e-6 (and likewise towards 1). also: thresholds that must be edges."""
        _enough(bins)
        first, last = int(np.ceil(_TAIL * bins)), int(np.floor((1 - _TAIL) * bins))
        tail = 10.0 ** np.linspace(-2 - _DECADES, -2, _DECADES * max(bins // 10, 1) + 1)[:-1]
        middle = np.arange(first, last + 1) / bins
        inner = np.unique(np.concatenate([tail, middle, 1 - tail[::-1], np.asarray(also, np.float64)]))
        inner = inner[(inner > 0) & (inner < 1)]
        edges = np.concatenate([[0.0], inner, [1.0]])
        return Scale(inner, (edges[1:] + edges[:-1]) / 2, "probabilities")

    @staticmethod
    def between(low: float, high: float, bins: int = 1000, also: Sequence[float] = ()) -> Scale:
        """Equally wide bins from `low` to `high`."""
        _enough(bins)
        if not low < high:
            raise MethodError(
                f"A score cannot lie between {low:g} and {high:g}.",
                rule="score-bounds",
                remedy="Give the lower bound first, and another upper bound.",
            )
        inner = low + (high - low) * np.arange(1, bins) / bins
        return Scale(np.unique(np.concatenate([inner, np.asarray(also, np.float64)])), np.zeros(0), "bounded")

    @staticmethod
    def unbounded(bins: int = 200) -> Scale:
        """For risks of any size (a log hazard): equally wide bins of r / (1 + |r|), which orders patients as r does."""
        _enough(bins)
        return Scale(2 * np.arange(1, bins) / bins - 1, np.zeros(0), "unbounded")


def _enough(bins: int) -> None:
    if bins < 2:
        raise MethodError(
            "A score needs two bins at least to order anybody.", rule="score-bins", remedy="Ask for more bins."
        )


def histogram(index: Counts, bins: int) -> Counts:
    """(bins,) how many of `index` (n,) are in each bin."""
    return np.bincount(index, minlength=bins).astype(np.int64)
