"""A study to begin with: the split table's variables, with bounds that hold at every site, and one training analysis to edit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from unisono.study.units import convert
from unisono.workbench.collection import Collection
from unisono.workbench.partition import Split

MARGIN = 0.05
"""Of the range that occurs, on both sides of the declared bounds."""
IMAGE_SIDE = 16
"""Pixels, to begin with."""
DEFAULTS: dict[str, Any] = {
    "local": {"epochs": 2, "batch": 32, "rate": 0.05, "clip": 5.0},
    "rounds": {"most": 30},
    "validate": {"fraction": 0.2, "every": 1, "metric": "loss"},
    "seed": 1,
}


def study_of(
    collection: Collection, splits: Sequence[Split], analyses: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A study document over the sites of `splits`. analyses: of ``model`` what is said otherwise than in `DEFAULTS`; others as they
    are, with the same outcome and features where they say none."""
    variables = {name: _variable(collection, splits, name) for name in collection.kinds}
    if collection.image is not None:
        variables[collection.image] = {
            "type": "image",
            "size": [IMAGE_SIDE, IMAGE_SIDE],
            "intensity": _intensity(collection),
        }
    gone = [name for name in collection.features if any(split.frame[name].isna().any() for split in splits)]
    rules = {name: "mean" if collection.kinds[name] in ("number", "integer") else "mode" for name in gone}
    document: dict[str, Any] = {
        "unisono": 1,
        "id": collection.name.lower().replace("_", "-").replace(" ", "-"),
        "question": f"How well is {collection.label} predicted at every site?",
        "variables": variables,
        "cohort": {"missing": {"default": "complete-cases", **rules}} if rules else {},
        "analyses": {},
        "protection": {"hide": "secagg", "threat": "malicious"},  # updates are summed over whoever answers
        "release": {"min_sites": min(3, len(splits))},
    }
    image = [collection.image] if collection.image is not None else []
    model = {"kind": "cnn"} if image else {"kind": "mlp", "hidden": [64, 32], "norm": "layer"}
    asked = {"outcome": collection.label, "features": [*collection.features, *image]}
    first = {"method": "fedavg", **asked, "model": model, **DEFAULTS, **analyses.get("model", {})}
    others = {name: {**asked, **written} for name, written in analyses.items() if name != "model"}
    document["analyses"] = {"model": first, **others}
    return document


def _intensity(collection: Collection) -> dict[str, list[float]]:
    """Of PNG files the grey levels of a byte; of others, whose quantity nobody has said, each picture's own range."""
    assert collection.image is not None
    png = collection.frame[collection.image].astype(str).str.lower().str.endswith(".png").all()
    return {"window": [0.0, 255.0]} if png else {"percentiles": [1.0, 99.0]}


def _variable(collection: Collection, splits: Sequence[Split], name: str) -> dict[str, Any]:
    kind = collection.kinds[name]
    if kind == "boolean":
        return {"type": "boolean"}
    if kind == "category":
        values = {str(value) for split in splits for value in split.frame[name].dropna().unique()}
        return {"type": "category", "levels": sorted({*values, *map(str, collection.frame[name].dropna().unique())})}
    unit = collection.units.get(name, "1")
    low, high = _bounds([_in_unit(split, name, unit) for split in splits])
    return {"type": "number", "unit": unit, "min": low, "max": high}


def _in_unit(split: Split, name: str, unit: str) -> pd.Series:
    """A site's column in the collection's unit, as its mapping will read it."""
    column = split.frame[name].astype(float)
    declared = split.units.get(name)
    return column if declared is None else pd.Series(convert(np.asarray(column, dtype=np.float64), declared, unit))


def _bounds(columns: Sequence[pd.Series]) -> tuple[float, float]:
    """Two numbers of two digits within which all values lie, with a margin: bounds are declared, not found in the data, and this
    is a simulation, in which the one who declares them has seen everybody's."""
    low, high = (float(f(pd.concat(columns).dropna())) for f in (np.min, np.max))
    span = (high - low) or max(abs(high), 1.0)
    step = 10.0 ** (math.floor(math.log10(span)) - 1)
    least, most = math.floor((low - MARGIN * span) / step) * step, math.ceil((high + MARGIN * span) / step) * step
    return float(f"{least:.6g}"), float(f"{most:.6g}")
