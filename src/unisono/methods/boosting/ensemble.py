"""Trees as flat arrays: what is broadcast, routed through, scored, and written to the model file.

All nodes of all trees are rows of one table, tree after tree, the root first; the right child follows the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError
from unisono.methods.boosting.features import Codes, Edges, Single

Vector = NDArray[np.float64]
Rows = NDArray[np.int32]

TREE, FEATURE, CUT, MISSING_LEFT, LEFT = range(5)
"""Columns of `splits`."""
LEAF = -1


@dataclass(frozen=True)
class Ensemble:
    """splits: (m, 5) tree; feature (-1: a leaf); cut (x below the feature's edge of that number goes left); 1 if a missing
    value goes left; the row of the left child. values: (m,) float32, of leaves, shrunk; 0 elsewhere and in a tree that grows."""

    splits: Rows
    values: Single

    @staticmethod
    def empty() -> Ensemble:
        return Ensemble(np.zeros((0, 5), np.int32), np.zeros(0, np.float32))

    @property
    def nodes(self) -> int:
        return len(self.values)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(t + 1,) the first row of each tree, and the number of rows."""
        return np.asarray(np.searchsorted(self.splits[:, TREE], np.arange(self.trees + 1)), np.int64)

    @cached_property
    def trees(self) -> int:
        return int(self.splits[-1, TREE]) + 1 if self.nodes else 0

    def first(self, trees: int) -> Ensemble:
        """Its first trees."""
        return Ensemble(self.splits[: self.starts[trees]], self.values[: self.starts[trees]])

    def then(self, more: Ensemble) -> Ensemble:
        """With rows of further trees."""
        return Ensemble(np.concatenate([self.splits, more.splits]), np.concatenate([self.values, more.values]))

    def begins_with(self, other: Ensemble) -> bool:
        """Whether `other` is its first trees, bit for bit."""
        m = other.nodes
        return np.array_equal(self.splits[:m], other.splits) and np.array_equal(self.values[:m], other.values)

    def checked(self, edges: Edges, depth: int) -> Ensemble:
        """Itself, if these are trees over these edges, of at most `depth`: arguments come from outside. `MethodError`."""
        s = self.splits.astype(np.int64)
        tree, feature, cut, missing, left = s.T
        inner = feature >= 0
        sound = bool(np.isin(np.diff(tree, prepend=-1), (0, 1)).all()) and bool((feature >= LEAF).all())
        sound = sound and bool((feature < len(edges.ends)).all()) and bool(np.isin(missing, (0, 1)).all())
        if sound and inner.any():
            children = left[inner]
            ends = self.starts[tree[inner] + 1]
            # Every row but a root is a child once: the tree is walked downwards, and nothing is shared.
            others = np.setdiff1d(np.arange(self.nodes), self.starts[:-1])
            sound = bool((children > np.flatnonzero(inner)).all() and (children + 1 < ends).all())
            sound = sound and np.array_equal(np.sort(np.concatenate([children, children + 1])), others)
            sound = sound and bool(((cut >= 0) & (cut < edges.numbers[np.maximum(feature, 0)]))[inner].all())
        elif sound:
            sound = self.nodes == self.trees
        if not sound or (self.nodes and self._depth() > depth):
            raise MethodError(
                "What was sent are no trees over the features and edges of this study.",
                rule="trees",
                remedy="Coordinator and site run different versions of the method; or report the coordinator.",
            )
        return self

    def grows_at(self, nodes: NDArray[np.int64]) -> bool:
        """Whether these are different leaves of the last tree, in order."""
        inside = len(nodes) > 0 and self.nodes > 0 and self.starts[-2] <= nodes[0] and nodes[-1] < self.nodes
        rising = inside and bool((np.diff(nodes) > 0).all())
        return rising and bool((self.splits[nodes, FEATURE] == LEAF).all())

    def _depth(self) -> int:
        level, rows = 0, self.splits[self.starts[:-1]]
        while len(rows := rows[rows[:, FEATURE] >= 0]):
            rows = self.splits[np.concatenate([rows[:, LEFT], rows[:, LEFT] + 1])]
            level += 1
        return level

    def route(self, codes: Codes, edges: Edges, at: Rows) -> Rows:
        """(n,) the leaf that each patient, now at row `at`, comes to. codes: (f, n) bins."""
        at = at.copy()
        patients = np.arange(codes.shape[1])
        feature = self.splits[:, FEATURE]
        while True:
            moving = patients if len(patients) == 0 else patients[feature[at[patients]] >= 0]
            if len(moving) == 0:
                return at
            here = at[moving]
            split = self.splits[here]
            code = codes[split[:, FEATURE], moving]
            left = code <= split[:, CUT]
            absent = code > edges.numbers[split[:, FEATURE]]
            left = np.where(absent, split[:, MISSING_LEFT] == 1, left)
            at[moving] = split[:, LEFT] + np.where(left, 0, 1)
            patients = moving

    def scores(self, x: Single, edges: Edges, margin: float) -> Vector:
        """(n,) margin and leaf values of patients (f, n)."""
        codes = edges.codes(x)
        total = np.full(x.shape[1], margin)
        for start in self.starts[:-1]:
            total += self.values[self.route(codes, edges, np.full(x.shape[1], start, np.int32))]
        return total
