"""A model of boosted trees as it stands in a file: read strictly, as data; evaluated in numpy; merged with others.

A file from elsewhere is parsed as JSON and nothing else, within limits of size, into arrays whose every index is checked. Nothing in
it is executed, and XGBoost does not see it before it has been written anew from the arrays. What the file holds beside the trees
(attributes, parameters of training) is not kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from unisono.errors import ProtocolError
from unisono.methods.boosting.features import Single
from unisono.methods.boosting.xgboost_json import ROOT, assembled, tree_form

Vector = NDArray[np.float64]
Rows = NDArray[np.int32]

TREE, FEATURE, MISSING_LEFT, LEFT = range(4)
LARGEST = 1e30
"""Of a threshold: there is no such measurement, and float32 holds it."""


@dataclass(frozen=True)
class Limits:
    """What a received model may be. leaf: the largest value of one."""

    size: int
    trees: int
    depth: int
    leaf: float


@dataclass(frozen=True)
class Model:
    """splits: (m, 4) tree; feature (-1: a leaf); 1 if a missing value goes left; row of the left child, which the right one
    follows. conditions: (m,) x below it goes left; of a leaf its value. gain, hessian: (m,) as the file says.
    base_score: the prediction before any tree."""

    splits: Rows
    conditions: Single
    gain: Single
    hessian: Single
    base_score: float

    @staticmethod
    def empty(base_score: float) -> Model:
        """No tree yet."""
        none = np.zeros(0, np.float32)
        return Model(np.zeros((0, 4), np.int32), none, none, none, base_score)

    @cached_property
    def trees(self) -> int:
        return int(self.splits[-1, TREE]) + 1 if len(self.splits) else 0

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(t + 1,) the first row of each tree, and the number of rows."""
        return np.asarray(np.searchsorted(self.splits[:, TREE], np.arange(self.trees + 1)), np.int64)

    def leaves(self, x: Single, tree: int) -> NDArray[np.int64]:
        """(n,) the row of the leaf of one tree that each patient of (f, n) comes to; NaN is missing."""
        at = np.full(x.shape[1], self.starts[tree], np.int64)
        moving = np.arange(x.shape[1])
        while len(moving := moving[self.splits[at[moving], FEATURE] >= 0]):
            split = self.splits[at[moving]]
            value = x[split[:, FEATURE], moving]
            left = np.where(np.isnan(value), split[:, MISSING_LEFT] == 1, value < self.conditions[at[moving]])
            at[moving] = split[:, LEFT] + np.where(left, 0, 1)
        return at

    def scores(self, x: Single, margin: float) -> Vector:
        """(n,) margin (the score of `base_score`) and leaf values of patients (f, n)."""
        total = np.full(x.shape[1], margin)
        for tree in range(self.trees):
            total += self.conditions[self.leaves(x, tree)]
        return total

    def written(self, names: Sequence[str], objective: str) -> bytes:
        """As XGBoost's JSON."""
        trees = [self._tree(k, len(names)) for k in range(self.trees)]
        return assembled(trees, list(names), objective, self.base_score)

    def _tree(self, number: int, features: int) -> dict[str, Any]:
        first, last = (int(row) for row in self.starts[number : number + 2])
        splits, conditions = self.splits[first:last], self.conditions[first:last]
        inner = splits[:, FEATURE] >= 0
        left = np.where(inner, splits[:, LEFT] - first, -1)
        parents = np.full(last - first, ROOT, np.int64)
        for child in (0, 1):
            parents[left[inner] + child] = np.flatnonzero(inner)
        return tree_form(
            number,
            features,
            {
                "left_children": left,
                "right_children": np.where(inner, left + 1, -1),
                "parents": parents,
                "split_indices": np.where(inner, splits[:, FEATURE], 0),
                "split_conditions": conditions,
                "default_left": splits[:, MISSING_LEFT],
                "base_weights": np.where(inner, np.float32(0), conditions),
                "loss_changes": self.gain[first:last],
                "sum_hessian": self.hessian[first:last],
            },
        )


def merged(models: Sequence[Model], weights: Sequence[float]) -> Model:
    """One model with all their trees, one model's after the other's, leaf values times the model's weight: its score is the base
    score's and the weighted sum of what the models' trees add to it. All have the same base score."""
    splits, conditions, tree, row = [], [], 0, 0
    for model, weight in zip(models, weights, strict=True):
        inner = model.splits[:, FEATURE] >= 0
        shifted = model.splits.copy()
        shifted[:, TREE] += tree
        shifted[inner, LEFT] += row
        splits.append(shifted)
        conditions.append(np.where(inner, model.conditions, model.conditions * np.float32(weight)))
        tree, row = tree + model.trees, row + len(model.splits)
    gain, hessian = (np.concatenate([getattr(m, name) for m in models]) for name in ("gain", "hessian"))
    return Model(np.concatenate(splits), np.concatenate(conditions), gain, hessian, models[0].base_score)


def read_model(data: bytes, names: Sequence[str], objective: str, limits: Limits) -> Model:
    """The model in an XGBoost JSON file over these features, for this objective. `ProtocolError` if it is anything else."""
    if len(data) > limits.size:
        _refuse(f"it has more than {limits.size:,} bytes")
    try:
        document = json.loads(data, parse_constant=_constant)
        learner = document["learner"]
        parameters, booster = learner["learner_model_param"], learner["gradient_booster"]
        trees = booster["model"]["trees"]
        base = float(str(parameters["base_score"]).strip("[]"))
        facts = (
            learner["objective"]["name"],
            list(learner["feature_names"]),
            booster["name"],
            int(parameters["num_class"]),
            int(parameters["num_target"]),
        )
        if facts != (objective, list(names), "gbtree", 0, 1):
            _refuse("it is for another objective, or over other features")
        if not isinstance(trees, list) or len(trees) > limits.trees:
            _refuse(f"it has more than {limits.trees} trees")
        rows = [_tree_of(tree, len(names), limits) for tree in trees]
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError, RecursionError):
        _refuse("it is not in XGBoost's JSON form")
    if not np.isfinite(base):
        _refuse("its base score is no number")
    return _stacked(rows, base)


@dataclass(frozen=True)
class _Tree:
    splits: Rows
    conditions: Single
    gain: Single
    hessian: Single


def _stacked(trees: Sequence[_Tree], base: float) -> Model:
    """Trees one after the other; children's rows become those of the whole."""
    at, splits = 0, []
    for number, tree in enumerate(trees):
        own = tree.splits.copy()
        own[:, TREE] = number
        own[own[:, FEATURE] >= 0, LEFT] += at
        splits.append(own)
        at += len(own)
    none = np.zeros(0, np.float32)
    conditions, gain, hessian = (
        np.concatenate([none, *(getattr(t, name) for t in trees)]) for name in ("conditions", "gain", "hessian")
    )
    return Model(np.concatenate([np.zeros((0, 4), np.int32), *splits]), conditions, gain, hessian, base)


def _tree_of(tree: dict[str, Any], features: int, limits: Limits) -> _Tree:
    """One tree, walked from its root and numbered anew: what is not reached is not taken over."""
    number = len(tree["left_children"])
    if number > 2 ** (limits.depth + 2) or tree["categories"] or any(tree["split_type"]):
        _refuse("a tree is too large, or splits categories")
    whole = ("left_children", "right_children", "split_indices", "default_left")
    left, right, index, default = (_column(tree[name], number, int) for name in whole)
    condition, gain, hessian = (
        _column(tree[name], number, float) for name in ("split_conditions", "loss_changes", "sum_hessian")
    )
    order, splits, level = [0], [], {0: 0}
    for row in order:  # grows while it is walked
        inner = left[row] != -1
        if not inner:
            splits.append((0, -1, 0, 0))
            continue
        children = int(left[row]), int(right[row])
        fits = all(0 < child < number and child not in level for child in children) and children[0] != children[1]
        if not fits or level[row] >= limits.depth or not 0 <= index[row] < features:
            _refuse("a tree is none, or is too deep")
        splits.append((0, int(index[row]), int(default[row] != 0), len(order)))
        order += children
        level |= dict.fromkeys(children, level[row] + 1)
    rows = np.array(order)
    found = np.array(splits, np.int32)
    leaf = found[:, FEATURE] < 0
    values = condition[rows]
    if (np.abs(values[leaf]) > limits.leaf).any() or (np.abs(values) > LARGEST).any():
        _refuse("a leaf or a threshold is too large")
    single = (v.astype(np.float32) for v in (values, gain[rows], hessian[rows]))
    return _Tree(found, *single)


def _column(values: Any, number: int, kind: type) -> NDArray[Any]:
    """A list of `number` finite numbers of one kind."""
    allowed = (int,) if kind is int else (int, float)
    if not isinstance(values, list) or len(values) != number or not all(type(v) in allowed for v in values):
        _refuse("a column of a tree does not hold numbers")
    column = np.array(values, np.int64 if kind is int else np.float64)
    if not np.isfinite(column).all() or (kind is float and (np.abs(column) > np.finfo(np.float32).max).any()):
        _refuse("a number is not finite")
    return column


def _constant(_: str) -> NoReturn:
    raise ValueError("not a finite number")


def _refuse(why: str) -> NoReturn:
    raise ProtocolError(
        f"A model that a hospital sent cannot be used: {why}.",
        rule="received-model",
        remedy="Nothing of it is used. Ask the hospital for its version of Unisono and XGBoost, then begin anew.",
    )
