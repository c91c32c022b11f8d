"""A site's half: its patients as bins, their scores at the trees so far, and sums of gradients in the cells of histograms.

What is sent is the whole ensemble, so that every sum is a pure function of the data and the arguments. What was worked out for the
trees before is kept, and used again where the arguments begin with the same trees, bit for bit: it saves time and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unisono.methods.boosting.ensemble import FEATURE, Ensemble, Rows
from unisono.methods.boosting.features import Codes, Edges, Single
from unisono.methods.boosting.objectives import Hazard, Objective, Outcome, Scale
from unisono.methods.boosting.portable import Words

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Standing:
    """Where the patients stand. score: (n,) at all finished trees. at: (n,) row of the tree that grows."""

    ensemble: Ensemble
    score: Vector
    at: Rows

    @property
    def margin(self) -> Vector:
        """(n,) with the last tree's leaf values (0 while it grows)."""
        return np.asarray(self.score + self.ensemble.values[self.at], np.float64) if self.ensemble.nodes else self.score


@dataclass(frozen=True)
class KeptGradients:
    """Of the patients with this very array of scores, at these hazards and scales."""

    score: Vector
    following: tuple[object, ...]
    pair: tuple[Vector, Vector]


@dataclass
class Kept:
    """What was worked out last, with the arguments that it follows from."""

    edges: Edges | None = None
    codes: Codes | None = None
    base: float | None = None
    standing: Standing | None = None
    gradients: KeptGradients | None = None


@dataclass(frozen=True)
class Patients:
    """A site's patients with an outcome. x: (f, n) float32. key: (n,) hash of each. held_out: (n,) not trained on. known: (m,) which
    of the cohort's m rows they are."""

    x: Single
    outcome: Outcome
    key: Words
    held_out: Mask
    known: Mask
    _kept: Kept = field(default_factory=Kept, repr=False)

    @property
    def n(self) -> int:
        return len(self.outcome.y)

    @property
    def held_out_rows(self) -> Mask:
        """(m,) which of the cohort's rows are held out."""
        rows = np.zeros(len(self.known), np.bool_)
        rows[self.known] = self.held_out
        return rows

    def codes(self, edges: Edges) -> Codes:
        """(f, n) the bin of each value."""
        kept = self._kept
        same = kept.edges is not None and all(
            np.array_equal(a, b) for a, b in ((kept.edges.values, edges.values), (kept.edges.ends, edges.ends))
        )
        if kept.codes is None or not same:
            kept.edges, kept.codes, kept.standing, kept.gradients = edges, edges.codes(self.x), None, None
        return kept.codes

    def standing(self, ensemble: Ensemble, edges: Edges, base: float) -> Standing:
        """Scores and places at these trees; only what is new since the last time is walked."""
        codes, before = self.codes(edges), self._kept.standing
        if before is None or self._kept.base != base or not self._follows(before.ensemble, ensemble):
            before = Standing(Ensemble.empty(), np.full(self.n, base), np.zeros(self.n, np.int32))
        last = before.ensemble.trees - 1  # the tree that the patients stand in, -1: none yet
        score, at = before.score, before.at
        for tree in range(max(last, 0), ensemble.trees):
            if tree != last:
                at = np.full(self.n, ensemble.starts[tree], np.int32)
            at = ensemble.route(codes, edges, at)
            if tree < ensemble.trees - 1:
                score = score + ensemble.values[at]
        now = Standing(ensemble, score, at)
        self._kept.standing, self._kept.base = now, base
        return now

    @staticmethod
    def _follows(before: Ensemble, now: Ensemble) -> bool:
        """Whether `now` is `before`, its last tree grown further, and perhaps more trees."""
        if before.nodes == 0:
            return True
        if now.trees < before.trees or now.nodes < before.nodes:
            return False
        done = before.starts[-2]
        growing = before.splits[done:]
        inner = growing[:, FEATURE] >= 0
        return now.begins_with(before.first(before.trees - 1)) and np.array_equal(
            now.splits[done : before.nodes][inner], growing[inner]
        )

    def gradients(
        self, standing: Standing, hazard: Hazard, objective: Objective, scales: tuple[Scale, Scale]
    ) -> tuple[Vector, Vector]:
        """(n,) each, in whole quanta, at the finished trees."""
        following = (hazard.once.tobytes(), hazard.twice.tobytes(), scales)
        kept = self._kept.gradients
        if kept is None or kept.score is not standing.score or kept.following != following:
            first, second = objective.derivatives(standing.score, self.outcome, hazard)
            kept = KeptGradients(standing.score, following, (scales[0].whole(first), scales[1].whole(second)))
            self._kept.gradients = kept
        return kept.pair


@dataclass(frozen=True)
class Layout:
    """Where each of the features in use has its bins in one histogram: feature `used[i]` from `starts[i]`, `widths[i]` bins, of
    which the last holds the patients without a value."""

    used: Index
    starts: Index
    widths: Index

    @staticmethod
    def of(edges: Edges, used: Index) -> Layout:
        widths = edges.numbers[used] + 2
        return Layout(used, np.concatenate([[0], np.cumsum(widths)[:-1]]), widths)

    @property
    def length(self) -> int:
        return int(self.widths.sum())


def histograms(
    codes: Codes, at: Rows, taking_part: Mask, nodes: Index, sums: tuple[Vector, Vector], layout: Layout
) -> tuple[Vector, Vector, Vector]:
    """(q, length) each: the sums of two whole numbers (n,) and the number of patients, in each bin of each feature in use,
    over the patients who take part and stand at each of `nodes`."""
    q = len(nodes)
    place = np.full(max(int(at.max(initial=0)), int(nodes.max())) + 1, -1)
    place[nodes] = np.arange(q)
    slot = place[at]
    rows = np.flatnonzero((slot >= 0) & taking_part)
    slot = slot[rows]
    first, second = (values[rows] for values in sums)
    first_sum, second_sum, number = (np.zeros((q, layout.length)) for _ in range(3))
    everybody = len(rows) == len(at)
    key = np.empty(len(rows), np.int64)
    for feature, start, width in zip(layout.used, layout.starts, layout.widths, strict=True):
        mine = codes[feature] if everybody else codes[feature][rows]
        np.multiply(slot, width, out=key)
        key += mine
        for total, weight in ((first_sum, first), (second_sum, second), (number, None)):
            total[:, start : start + width] = np.bincount(key, weight, q * width).reshape(q, width)
    return first_sum, second_sum, number
