"""A study's model files opened by the tools that a researcher has: PyTorch and XGBoost, and nothing of Unisono.

What is here could stand in anybody's notebook. It is for `mlp`; docs/methods/models.md shows the other kinds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def with_pytorch(folder: Path, patients: pd.DataFrame) -> Numbers:
    """(n, outputs) what the network in ``model.safetensors`` says of patients, by torch.nn alone."""
    import torch
    from safetensors.torch import load_file
    from torch import nn

    card = json.loads((folder / "model.json").read_text("utf-8"))
    tensors = load_file(folder / "model.safetensors")
    spec = card["architecture"]["model"]
    layers: list[nn.Module] = []
    for k, width in enumerate(spec["hidden"]):
        layers.append(_filled(nn.Linear(tensors[f"body.{k}.0.weight"].shape[1], width), tensors, f"body.{k}.0"))
        if spec["norm"] == "batch":
            layers.append(_filled(nn.BatchNorm1d(width), tensors, f"body.{k}.1"))
        if spec["norm"] == "layer":
            layers.append(_filled(nn.LayerNorm(width), tensors, f"body.{k}.1"))
        layers.append(nn.ReLU())
    layers.append(_filled(nn.Linear(spec["hidden"][-1], card["architecture"]["outputs"]), tensors, "head"))
    scales = card["preprocessing"]["numbers"]
    x = np.stack([(patients[s["name"]] - s["centre"]) / s["scale"] for s in scales], axis=1)
    with torch.inference_mode():
        found: Numbers = nn.Sequential(*layers).eval()(torch.tensor(x, dtype=torch.float32)).double().numpy()
    return found


def with_xgboost(path: Path, patients: pd.DataFrame) -> Numbers:
    """(n,) what the trees in an XGBoost JSON say of patients."""
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(path)
    names = list(booster.feature_names or [])
    found: Numbers = booster.predict(xgboost.DMatrix(patients[names], feature_names=names)).astype(np.float64)
    return found


def _filled(module: Any, tensors: dict[str, Any], name: str) -> Any:
    module.load_state_dict({key: tensors[f"{name}.{key}"] for key in module.state_dict()})
    return module
