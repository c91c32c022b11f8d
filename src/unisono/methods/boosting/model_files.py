"""The model's files: `model.xgboost.json`, for XGBoost, and `model.json`, which says what its numbers mean and where it is from."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from unisono.methods.base import Method
from unisono.methods.boosting.features import coding
from unisono.methods.boosting.spec import BoostingSpec
from unisono.methods.boosting.xgboost_json import written
from unisono.version import VERSION

if TYPE_CHECKING:
    from unisono.methods.boosting.hist import HistBoosting
    from unisono.methods.boosting.training import Trained

MODEL, SIDECAR = "model.xgboost.json", "model.json"

PREDICTS = {
    "logistic": "probability of the outcome",
    "squared-error": "mean of the outcome",
    "poisson": "expected number of events",
    "cox": "hazard ratio to a patient of score 0; no survival probability",
}

Files = tuple[dict[str, bytes], dict[str, str]]
"""The files by name, and the SHA-256 of each."""


def model_files(method: HistBoosting, trained: Trained, sites: tuple[str, ...]) -> Files:
    """Both files of a trained model."""
    forest, features = trained.forest, method.features
    model = written(forest, features, method.objective.xgboost, trained.base)
    said = {
        "features": coding(method.study, features),
        "objective": method.objective.xgboost,
        "base_score": trained.base,
        "trees": forest.ensemble.trees,
        "trained_on": int(trained.patients[0]),
        "held_out": int(trained.patients[1]),
    }
    return with_sidecar(model, {**about(method, sites), **said})


def about(method: Method[Any], sites: tuple[str, ...]) -> dict[str, Any]:
    """What a model predicts, and where it is from."""
    study, spec = method.study, method.spec
    assert isinstance(spec, BoostingSpec)
    return {
        "kind": "boosted-trees",
        "outcome": list(spec.targets()),
        "predicts": PREDICTS[spec.objective],
        "provenance": {
            "study": study.id,
            "study_sha256": study.digest(),
            "question": study.question,
            "analysis": method.analysis,
            "method": method.name,
            "version": method.version,
            "unisono": VERSION,
            "sites": list(sites),
            "protection": study.protection.model_dump(mode="json"),
            "privacy_spent": None,
        },
    }


def with_sidecar(model: bytes, said: dict[str, Any]) -> Files:
    """The model, and the sidecar that names it."""
    said = {**said, "model": {"file": MODEL, "sha256": hashlib.sha256(model).hexdigest()}}
    sidecar = json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False).encode()
    files = {MODEL: model, SIDECAR: sidecar}
    return files, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
