"""What the coordinator has grown so far: the trees, their edges, and what is known of each node. Also what a snapshot holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.methods.boosting.ensemble import FEATURE, Ensemble, Rows
from unisono.methods.boosting.features import Edges, Feature, Single
from unisono.methods.boosting.growing import Tree

Vector = NDArray[np.float64]
Index = NDArray[np.int64]

GAIN, HESSIAN, PATIENTS, WEIGHT = range(4)
"""Columns of `known`."""

Arguments = tuple[Single, Index, Rows, Single, float]
"""What a site is sent of a forest: edges, ends, splits, leaves, base."""


@dataclass(frozen=True)
class Forest:
    """base: the score before any tree. known: (m, 4) of each node: gain of its split, sum of hessians, patients that it was
    grown on, and its value were it a leaf, before shrinkage."""

    edges: Edges
    base: float
    ensemble: Ensemble
    known: Vector

    @staticmethod
    def bare(edges: Edges, base: float) -> Forest:
        return Forest(edges, base, Ensemble.empty(), np.zeros((0, 4)))

    def then(self, tree: Tree) -> Forest:
        """With a tree that is grown."""
        sums = np.array([n.sums for n in tree.nodes])
        gains = [n.gain for n in tree.nodes]
        known = np.stack([gains, sums[:, 1] * tree.units[1], sums[:, 2], tree.weights()], axis=1)
        return replace(self, ensemble=self.ensemble.then(tree.arrays()), known=np.concatenate([self.known, known]))

    def first(self, trees: int) -> Forest:
        """Its first trees."""
        ensemble = self.ensemble.first(trees)
        return replace(self, ensemble=ensemble, known=self.known[: ensemble.nodes])

    def arguments(self, growing: Tree | None = None) -> Arguments:
        """To be sent to the sites, with the tree that grows."""
        trees = self.ensemble if growing is None else self.ensemble.then(growing.arrays())
        return self.edges.values, self.edges.ends, trees.splits, trees.values, self.base

    @property
    def state(self) -> dict[str, Any]:
        """For a snapshot."""
        edges, ends, splits, leaves, base = self.arguments()
        return {"edges": edges, "ends": ends, "splits": splits, "leaves": leaves, "base": base, "known": self.known}

    @staticmethod
    def from_state(state: dict[str, Any]) -> Forest:
        """From a snapshot."""
        edges = Edges(state["edges"], state["ends"])
        return Forest(edges, state["base"], Ensemble(state["splits"], state["leaves"]), state["known"])

    def importance(self, features: tuple[Feature, ...]) -> list[dict[str, Any]]:
        """By feature, in their order: splits, and the mean gain and cover (sum of hessians) of them; as XGBoost defines them."""
        inner = self.ensemble.splits[:, FEATURE] >= 0
        where = self.ensemble.splits[inner, FEATURE]
        number = np.bincount(where, minlength=len(features))
        sums = [np.bincount(where, self.known[inner, k], len(features)) for k in (GAIN, HESSIAN)]
        rows = zip(features, number.tolist(), *(s.tolist() for s in sums), strict=True)
        return [
            {"feature": f.name, "splits": n, "gain": g / n if n else 0.0, "cover": h / n if n else 0.0}
            for f, n, g, h in rows
        ]
