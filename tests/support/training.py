"""Small training studies for tests: scikit-learn's breast cancer and digits, over sites in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unisono.engines.embedded.run import Run, Settings, SiteData, run_study
from unisono.methods.registry import build, check
from unisono.methods.training.result import TrainingResult
from unisono.methods.training.training import Training
from unisono.site.data.snapshot import freeze
from unisono.study.document import Study
from unisono.study.load import load
from unisono.study.table import Table
from unisono.workbench.light import LightFederation, LightSite, answer, cohort

FEATURES = ("radius", "texture", "smoothness", "concavity")
SITES = ("leiden", "padua", "turin")

BASE: dict[str, Any] = {
    "method": "fedavg",
    "outcome": "malignant",
    "features": [*FEATURES],
    "model": {"kind": "mlp", "hidden": [6]},
    "local": {"epochs": 1, "batch": 32, "rate": 0.1},
    "rounds": {"most": 3, "snapshot": 2},
    "seed": 1,
}


@cache
def breast_cancer() -> pd.DataFrame:
    """569 patients: four measurements of a biopsy's cells, and whether they are malignant."""
    from sklearn.datasets import load_breast_cancer

    whole = load_breast_cancer(as_frame=True).frame
    frame = pd.DataFrame({name: whole[f"mean {name}"] for name in FEATURES})
    frame["malignant"] = whole["target"] == 0
    return frame


def study(analysis: Mapping[str, Any] | None = None, **changes: Any) -> Study:
    """The breast-cancer study with this analysis, ``model``. analysis: changes of `BASE`."""
    frame = breast_cancer()
    document: dict[str, Any] = {
        "unisono": 1,
        "id": "cells",
        "question": "Which biopsies are malignant?",
        "variables": {
            **{
                name: {"type": "number", "min": 0, "max": float(np.ceil(frame[name].max() * 1.2 * 10) / 10)}
                for name in FEATURES
            },
            "malignant": {"type": "boolean"},
        },
        "analyses": {"model": {**BASE, **(analysis or {})}},
        "release": {"min_sites": 3, "min_count": 5},
        "protection": {"hide": "none"},
        **changes,
    }
    return load(document, check)


def frames(sites: Sequence[str] = SITES, patients: int = 60) -> dict[str, pd.DataFrame]:
    """So many patients at each site, the same every time."""
    order = np.random.default_rng(0).permutation(len(breast_cancer()))
    return {
        site: breast_cancer().iloc[order[k * patients : (k + 1) * patients]].reset_index(drop=True)
        for k, site in enumerate(sites)
    }


def run(asked: Study, out: Path, data: Mapping[str, pd.DataFrame] | None = None, **settings: Any) -> Run:
    """Answer it. settings: those of `Settings`."""
    given = {site: SiteData(frame) for site, frame in (frames() if data is None else data).items()}
    return run_study(asked, given, out, Settings(**settings))


def result(finished: Run, analysis: str = "model") -> TrainingResult:
    """Of an analysis; raises the error of one that was not answered."""
    outcome = finished.outcomes[analysis]
    if outcome.error is not None:
        raise outcome.error
    assert outcome.answer is not None and isinstance(outcome.answer.result, TrainingResult)
    return outcome.answer.result


def tables(asked: Study, data: Mapping[str, pd.DataFrame] | None = None) -> dict[str, Table]:
    """Each site's patients in the study's words."""
    given = frames() if data is None else data
    return {site: freeze(frame, None, asked, site).table for site, frame in given.items()}


@dataclass
class Light:
    """A method at the coordinator, and its federation in this process, without folders, network or masks."""

    method: Training[Any]
    federation: LightFederation

    def run(self) -> TrainingResult:
        found = answer(self.method, self.federation)
        assert isinstance(found, TrainingResult)
        return found

    def data(self, site: str) -> Any:
        return self.federation.members[site].data

    def memory(self, site: str) -> dict[str, NDArray[Any]]:
        return self.federation.members[site].memory


def light(asked: Study, given: Mapping[str, Table] | None = None, analysis: str = "model") -> Light:
    """Ready to run; every site has an instance of the method of its own, as in a hospital."""
    opened = cohort(asked, analysis, tables(asked) if given is None else given)
    method = build(asked, analysis)
    assert isinstance(method, Training)
    sites = [LightSite(name, method.prepare(table), table.n) for name, table in opened.tables.items()]
    return Light(method, LightFederation(sites, opened.facts))


def weights(found: TrainingResult) -> dict[str, NDArray[np.float32]]:
    """The tensors of the model's file."""
    from safetensors.numpy import load as load_tensors

    (name,) = [name for name in found.files() if name.endswith(".safetensors")]
    return load_tensors(found.files()[name])
