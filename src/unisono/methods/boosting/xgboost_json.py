"""The model file that XGBoost opens: written here from our trees; and read strictly, as data, where it comes from elsewhere.

XGBoost's JSON schema (doc/model.schema), in the form that every version since 1.7 loads. Numbers are float32 in their shortest
exact spelling, so that the same trees give the same bytes.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.methods.boosting.ensemble import CUT, FEATURE, LEFT, MISSING_LEFT
from unisono.methods.boosting.features import Feature
from unisono.methods.boosting.forest import GAIN, HESSIAN, WEIGHT, Forest

VERSION = (2, 1, 0)
ROOT = 2147483647
"""The parent of a root."""

_PARAMETERS: dict[str, dict[str, Any]] = {
    "binary:logistic": {"reg_loss_param": {"scale_pos_weight": "1"}},
    "reg:squarederror": {"reg_loss_param": {"scale_pos_weight": "1"}},
    "count:poisson": {"poisson_regression_param": {"max_delta_step": "0.699999988"}},
    "survival:cox": {},
}


def written(forest: Forest, features: tuple[Feature, ...], objective: str, base_score: float) -> bytes:
    """The model as XGBoost's JSON. base_score: the prediction (not the score) before any tree."""
    trees = [_tree(forest, k, len(features)) for k in range(forest.ensemble.trees)]
    return assembled(trees, [f.name for f in features], objective, base_score)


def assembled(trees: list[dict[str, Any]], names: list[str], objective: str, base_score: float) -> bytes:
    """Trees in XGBoost's form as a whole model."""
    number = len(trees)
    model = {
        "learner": {
            "attributes": {},
            "feature_names": names,
            "feature_types": ["float"] * len(names),
            "gradient_booster": {
                "model": {
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(number)},
                    "iteration_indptr": list(range(number + 1)),
                    "tree_info": [0] * number,
                    "trees": trees,
                },
                "name": "gbtree",
            },
            "learner_model_param": {
                "base_score": _single(base_score),
                "boost_from_average": "1",
                "num_class": "0",
                "num_feature": str(len(names)),
                "num_target": "1",
            },
            "objective": {"name": objective, **_PARAMETERS[objective]},
        },
        "version": list(VERSION),
    }
    return json.dumps(model, separators=(",", ":"), allow_nan=False).encode()


def _tree(forest: Forest, number: int, features: int) -> dict[str, Any]:
    """One tree, its rows renumbered from its root."""
    first, last = (int(row) for row in forest.ensemble.starts[number : number + 2])
    splits, values = forest.ensemble.splits[first:last], forest.ensemble.values[first:last]
    known, edges = forest.known[first:last], forest.edges
    m, inner = last - first, splits[:, FEATURE] >= 0
    left = np.where(inner, splits[:, LEFT] - first, -1)
    parents = np.full(m, ROOT, np.int64)
    for child in (0, 1):
        parents[left[inner] + child] = np.flatnonzero(inner)
    conditions = values.copy()
    conditions[inner] = edges.values[edges.starts[splits[inner, FEATURE]] + splits[inner, CUT]]
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
            "base_weights": np.where(inner, known[:, WEIGHT], values),
            "loss_changes": known[:, GAIN],
            "sum_hessian": known[:, HESSIAN],
        },
    )


def tree_form(number: int, features: int, columns: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """A tree's columns (m,) in XGBoost's form."""
    m = len(columns["left_children"])
    plain = {
        name: [_single_number(v) for v in column] if column.dtype.kind == "f" else column.tolist()
        for name, column in columns.items()
    }
    return {
        **plain,
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "id": number,
        "split_type": [0] * m,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(features),
            "num_nodes": str(m),
            "size_leaf_vector": "1",
        },
    }


def _single_number(value: Any) -> float:
    """A number whose shortest spelling is that of the float32."""
    return float(_single(value))


def _single(value: Any) -> str:
    return str(np.float32(value))
