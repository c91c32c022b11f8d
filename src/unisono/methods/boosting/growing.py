"""The coordinator's half of a tree: from opened histograms to splits, level by level (Chen & Guestrin 2016, algorithm 3, exact over bins).

Of two siblings only the smaller is asked for: the other is the parent less it, to the last bit, because sums are integers.

No leaf holds fewer than `least` (the study's `min_count`) of the patients that the tree is grown on: its value is their mean
gradient, shrunk, and stands in the model file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unisono.methods.boosting.ensemble import LEAF, Ensemble
from unisono.methods.boosting.features import Edges
from unisono.methods.boosting.rows import Layout

Vector = NDArray[np.float64]
Index = NDArray[np.int64]

LEAST_GAIN = 1e-6
"""XGBoost's kRtEps: what is no more than this is no gain."""
AT_ONCE = 32
"""Nodes whose candidate splits are looked at together: it limits what is held in memory."""


@dataclass(frozen=True)
class Rules:
    """How trees are grown. rate, penalty (lambda), gamma, min_child_weight, largest_step as in XGBoost; least: patients in a leaf."""

    depth: int
    rate: float
    penalty: float
    gamma: float
    min_child_weight: float
    largest_step: float
    least: int

    def weight(self, gradient: Vector, hessian: Vector) -> Vector:
        """The leaf value before shrinkage."""
        w = -gradient / np.maximum(hessian + self.penalty, np.finfo(np.float64).tiny)
        return np.clip(w, -self.largest_step, self.largest_step)

    def gain(self, gradient: Vector, hessian: Vector) -> Vector:
        """Twice the loss that a leaf saves."""
        w = self.weight(gradient, hessian)
        return -(2 * gradient * w + (hessian + self.penalty) * w * w)


@dataclass
class Node:
    """A node that has been made. sums: gradient, hessian, patients. row: in its tree."""

    row: int
    depth: int
    sums: tuple[float, float, float]
    feature: int = LEAF
    cut: int = 0
    missing_left: bool = False
    left: int = 0
    gain: float = 0.0
    histogram: Vector | None = field(default=None, repr=False)  # (3, length), while it is needed


@dataclass(frozen=True)
class Choice:
    """The best split of a node; sums: (3,) of its left side."""

    gain: float
    feature: int
    cut: int
    missing_left: bool
    left: Vector


class Finder:
    """Looks for the best split of nodes in histograms of one layout."""

    def __init__(self, edges: Edges, layout: Layout, rules: Rules) -> None:
        self.rules, self.layout = rules, layout
        numbers = edges.numbers[layout.used]
        # Every edge of every feature in use is a candidate; it is described by the histogram's columns it adds up.
        self.feature = np.repeat(layout.used, numbers)
        first = np.repeat(layout.starts, numbers)
        self.cut = np.arange(len(first)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        self.upto, self.before = first + self.cut, first
        self.missing = first + np.repeat(layout.widths, numbers) - 1

    def best(self, histograms: Vector, totals: Vector) -> list[Choice | None]:
        """histograms: (q, 3, length) gradient, hessian, patients. totals: (q, 3). None where no split is allowed."""
        if not len(self.cut):
            return [None] * len(histograms)
        until = np.concatenate([np.zeros((*histograms.shape[:2], 1)), np.cumsum(histograms, axis=2)], axis=2)
        below = until[:, :, self.upto + 1] - until[:, :, self.before]
        missing = histograms[:, :, self.missing]
        left = np.stack([below + missing, below], axis=3)  # (q, 3, candidates, missing goes left or right)
        right = totals[:, :, None, None] - left
        rules = self.rules
        gain = sum(rules.gain(side[:, 0], side[:, 1]) for side in (left, right))
        gain = np.asarray(gain - rules.gain(totals[:, 0], totals[:, 1])[:, None, None], np.float64)
        allowed = gain > LEAST_GAIN
        allowed &= gain >= rules.gamma
        for side in (left, right):
            allowed &= (side[:, 2] >= rules.least) & (side[:, 1] >= rules.min_child_weight)
        gain = np.where(allowed, gain, -np.inf).reshape(len(gain), -1)
        found: list[Choice | None] = []
        for k, at in enumerate(np.argmax(gain, axis=1)):  # the first of equals: in the order of features and edges
            candidate, option = divmod(int(at), 2)
            if gain[k, at] == -np.inf:
                found.append(None)
                continue
            side = left[k, :, candidate, option]
            # Where nobody lacks the value, later patients without one go where more patients went.
            to_left = option == 0 if missing[k, 2, candidate] else bool(2 * side[2] >= totals[k, 2])
            cut, feature = int(self.cut[candidate]), int(self.feature[candidate])
            found.append(Choice(float(gain[k, at]), feature, cut, to_left, side))
        return found


class Tree:
    """One tree as it grows. number: in the ensemble; offset: the row of its root there. scales: quanta of gradient and hessian."""

    def __init__(self, number: int, offset: int, finder: Finder, rules: Rules, scales: tuple[float, float]) -> None:
        self.number, self.offset, self.rules, self.finder = number, offset, rules, finder
        self.units = np.array([scales[0], scales[1], 1.0])
        self.nodes: list[Node] = []
        self._pairs: list[tuple[Node, Node, Node]] = []  # parent, the sibling that is asked for, the other
        self.asked: list[int] = [0]
        """Rows of the tree whose histograms are wanted next; empty when it is grown."""

    def grow(self, histograms: Vector) -> None:
        """One level. histograms: (q, 3, length) of `asked`, in whole quanta."""
        level: list[Node] = []
        if not self.nodes:
            # Of any one feature: every patient is in one of its bins.
            first = histograms[0, :, : self.finder.layout.widths[0]].sum(axis=1)
            root = Node(0, 0, _three(first))
            root.histogram = histograms[0]
            self.nodes.append(root)
            level.append(root)
        for (parent, smaller, larger), mine in zip(self._pairs, histograms, strict=False):
            assert parent.histogram is not None
            smaller.histogram, larger.histogram = mine, parent.histogram - mine
            parent.histogram = None
            level += sorted((smaller, larger), key=lambda node: node.row)
        self._pairs = []
        ready = [node for node in level if self._may_split(node)]
        for start in range(0, len(ready), AT_ONCE):
            self._split(ready[start : start + AT_ONCE])
        wanted = {parent.row for parent, _, _ in self._pairs}
        for node in level:
            if node.row not in wanted:
                node.histogram = None
        self.asked = [smaller.row for _, smaller, _ in self._pairs]

    def _may_split(self, node: Node) -> bool:
        rules = self.rules
        enough = node.sums[2] >= 2 * rules.least and node.sums[1] * self.units[1] >= 2 * rules.min_child_weight
        return enough and node.depth < rules.depth

    def _split(self, level: Sequence[Node]) -> None:
        stacked = np.stack([node.histogram for node in level if node.histogram is not None]) * self.units[:, None]
        totals = np.array([node.sums for node in level]) * self.units
        for node, choice in zip(level, self.finder.best(stacked, totals), strict=True):
            if choice is None:
                continue
            node.feature, node.cut, node.gain = choice.feature, choice.cut, choice.gain
            node.missing_left, node.left = choice.missing_left, len(self.nodes)
            one = choice.left / self.units
            left = Node(node.left, node.depth + 1, _three(one))
            right = Node(node.left + 1, node.depth + 1, _three(np.array(node.sums) - one))
            self.nodes += [left, right]
            if self._may_split(left) or self._may_split(right):
                pair = (left, right) if left.sums[2] <= right.sums[2] else (right, left)
                self._pairs.append((node, *pair))

    def weights(self) -> Vector:
        """(m,) leaf value of every node, were it a leaf, before shrinkage."""
        sums = np.array([node.sums for node in self.nodes]) * self.units
        return self.rules.weight(sums[:, 0], sums[:, 1])

    def arrays(self) -> Ensemble:
        """Its rows in the ensemble; leaf values only once it is grown."""
        nodes = self.nodes or [Node(0, 0, (0.0, 0.0, 0.0))]
        rows = [
            (self.number, n.feature, n.cut, int(n.missing_left), self.offset + n.left if n.feature >= 0 else 0)
            for n in nodes
        ]
        values = np.zeros(len(nodes), np.float32)
        if not self.asked:
            leaf = np.array([n.feature == LEAF for n in nodes])
            values[leaf] = (self.rules.rate * self.weights()[leaf]).astype(np.float32)
        return Ensemble(np.array(rows, np.int32), values)


def _three(sums: Vector) -> tuple[float, float, float]:
    return float(sums[0]), float(sums[1]), float(sums[2])
