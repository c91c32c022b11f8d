"""A study with every kind of feature, and networks for it with their files, without any training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from unisono.federation.contribution import Facts
from unisono.methods.training import model_file
from unisono.methods.training.models.base import Inputs
from unisono.methods.training.models.initialise import network
from unisono.methods.training.models.registry import model_spec
from unisono.methods.training.preprocessing import Columns, Prepared
from unisono.methods.training.tasks import Binary, Task
from unisono.study.document import Study
from unisono.study.table import Table

VARIABLES: dict[str, Any] = {
    "age": {"type": "number", "unit": "a", "min": 0, "max": 110},
    "height": {"type": "number", "unit": "cm", "min": 100, "max": 220},
    "weight": {"type": "number", "unit": "kg", "min": 20, "max": 250},
    "bmi": {"type": "number", "unit": "kg/m2", "min": 5, "max": 100, "derive": "weight / (height / 100) ** 2"},
    "smoker": {"type": "boolean"},
    "stage": {"type": "category", "levels": ["I", "II", "III", "IV"]},
    "scan": {
        "type": "image",
        "size": [8, 8],
        "intensity": {"window": [0, 255]},
    },
    "malignant": {"type": "boolean"},
    "kg_lost": {"type": "number", "unit": "kg", "min": 0, "max": 50},
}
FEATURES = ("age", "bmi", "smoker", "stage")


def study(**cohort: Any) -> Study:
    """The declarations, with an analysis whose method does not matter here."""
    return Study(
        unisono=1,
        id="risk",
        question="Who is ill?",
        variables=VARIABLES,
        cohort=cohort or {"missing": {"default": "complete-cases", "age": "mean"}},
        analyses={"model": {"method": "describe"}},
    )


def prepared(of: Study, image: str | None = None) -> Prepared:
    """Scales that are not 0 and 1, and a level without an entry of its own."""
    columns = Columns(of, ("age", "bmi"), ("smoker",), ("stage",), image, "malignant", ("false", "true"), None)
    scales = {"age": (61.5, 12.25), "bmi": (26.0, 4.5)}
    return Prepared(columns, scales, {"stage": np.array([True, True, True, False])}, np.array([0.5, 0.5]))


def files(
    written: dict[str, Any] | None = None,
    *,
    task: Task | None = None,
    of: Study | None = None,
    seed: int = 3,
    facts: Facts | None = None,
) -> dict[str, bytes]:
    """The files of a network with first weights, whose norms have seen patients; with the scan for an image model."""
    spec, of, task = (
        model_spec(written or {"kind": "mlp", "hidden": [8, 4], "dropout": 0.2}),
        of or study(),
        task or Binary(outcome="malignant"),
    )
    image = "scan" if spec.kind in ("cnn", "resnet") else None
    inputs = Inputs(("age", "bmi", "smoker"), (5,), (1, 8, 8) if image else None)
    module = network(spec, inputs, task.outputs, seed)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.add_(0.5 + len(name) / 100)
    return model_file.write(
        of,
        "model",
        facts or Facts(400, {"age": 61.0}),
        module=module,
        model=spec,
        inputs=inputs,
        task=task,
        prepared=prepared(of, image),
        rounds=12,
        sites=("padua", "turin", "leiden"),
    )


def patients(n: int = 9, seed: int = 0) -> Table:
    """Patients of the features, the scan among them, within the declared bounds."""
    rng = np.random.default_rng(seed)
    columns = {
        "age": rng.uniform(20, 90, n).round(1),
        "bmi": rng.uniform(18, 35, n).round(1),
        "smoker": rng.integers(0, 2, n).astype(float),
        "stage": np.arange(n) % 4.0,
        "scan": rng.integers(1, 2**40, n).astype(float),
    }
    return Table(columns, n, {"scan": rng.random((n, 1, 8, 8)).astype(np.float32)})
