"""The demo of training: two data sets over five hospitals that differ in whom they see and in how they measure.

Breast cancer (569 biopsies) and handwritten digits (1,797 images as 64 numbers), from scikit-learn, each split by label skew 0.1 and
feature shift. All federated optimisers beside each other under secure aggregation, against everybody's patients pooled and each
hospital alone; boosted trees on breast cancer; the model files opened in plain PyTorch and XGBoost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unisono.api import run as run_study
from unisono.demo.opening import with_pytorch, with_xgboost
from unisono.engines.embedded.run import Settings, SiteData
from unisono.errors import StorageError
from unisono.federation.events import Observer
from unisono.methods.registry import check
from unisono.site.prediction import open_model, predict
from unisono.study.load import load
from unisono.workbench.builtin import built_in
from unisono.workbench.contest import METHODS, RUNS, Contest, Told
from unisono.workbench.contest_page import write as write_comparison
from unisono.workbench.drawings import draw
from unisono.workbench.partition import Plan
from unisono.workbench.standings import Standing, standings
from unisono.workbench.trial import Trial
from unisono.workbench.written import DATA, RECORD, STUDY, write

DATA_SETS = ("breast-cancer", "digits")
PLAN = Plan(sites=5, seed=4, label_skew=0.1, feature_shift=0.3, least=40)
ROUNDS, BOOSTED = 15, 30
MODEL, TREES = "model", "trees"
COMPARISON = "comparison"
SAME = 1e-5
"""Largest difference of two probabilities that are the same model's: single precision in another order."""


@dataclass(frozen=True)
class Scene:
    """One data set of the demo, in its folder."""

    name: str
    folder: Path

    @property
    def sites(self) -> dict[str, SiteData]:
        """Each hospital's file."""
        return {path.stem: SiteData(path) for path in sorted((self.folder / DATA).glob("*.csv"))}

    def patients(self) -> pd.DataFrame:
        """Everybody's, as their hospitals measured them: to try a model on."""
        return pd.concat([pd.read_csv(path) for path in sorted((self.folder / DATA).glob("*.csv"))], ignore_index=True)


@dataclass(frozen=True)
class Compared:
    """What the comparison on one data set gave."""

    contest: Contest
    trials: list[Trial]
    table: list[Standing]


@dataclass(frozen=True)
class Opened:
    """A model's file in another program: which, how many patients it predicted, and the largest difference from `unisono predict`."""

    file: Path
    program: str
    patients: int
    difference: float


def prepare(out: Path, name: str, *, rounds: int = ROUNDS, trees: int = BOOSTED) -> Scene:
    """Split a data set over the hospitals of the demo, once. `StorageError` if the folder holds something else."""
    scene = Scene(name, out / name)
    if (scene.folder / RECORD).exists():
        return scene
    with tempfile.TemporaryDirectory() as scratch:
        written = write(built_in(name, Path(scratch)), PLAN, scene.folder, analyses=analyses(name, rounds, trees))
    draw(written)
    return scene


def analyses(name: str, rounds: int, trees: int) -> dict[str, dict[str, Any]]:
    """What the demo's study asks: a network, and on breast cancer boosted trees too."""
    network: dict[str, Any] = {
        "model": {"kind": "mlp", "hidden": [48, 24], "norm": "layer"},
        "local": {"epochs": 2, "batch": 32, "rate": 0.05, "clip": 5.0},
        "rounds": {"most": rounds},
    }
    boosted = {"method": "hist-boosting", "objective": "logistic", "trees": trees, "depth": 3, "rate": 0.3}
    return {MODEL: network, **({TREES: {**boosted, "validate": {"fraction": 0.2}}} if name == "breast-cancer" else {})}


def compare(scene: Scene, methods: Sequence[str] = METHODS, told: Told = lambda *_: None) -> Compared:
    """All methods on one data set, under secure aggregation; the table, figures and page go to its folder."""
    study = load(scene.folder / STUDY, check)
    contest = Contest(study, MODEL, tuple(methods), (1,), scene.sites, scene.folder / COMPARISON)
    trials = contest.run(told)
    write_comparison(trials, contest.aim, contest.about(), scene.folder / COMPARISON)
    return Compared(contest, trials, standings(trials, contest.aim))


def boost(scene: Scene, observer: Observer) -> Path:
    """Boosted trees by federated histograms; the folder of the results. Raises what stopped the analysis."""
    out = scene.folder / TREES
    settings = Settings(analyses=[TREES], observer=observer)
    answered = run_study(scene.folder / STUDY, scene.sites, out=out, settings=settings)
    for error in answered.errors.values():
        raise error
    return out / TREES


def open_files(scene: Scene, compared: Compared, trees: Path | None) -> list[Opened]:
    """The best network with a file of its own, in plain PyTorch, and the trees in XGBoost: the same predictions as by Unisono.
    `StorageError` (``demo-equal``) if they are not."""
    patients, found = scene.patients(), []
    for standing in compared.table:
        folder = scene.folder / COMPARISON / RUNS / f"{standing.method}-seed1" / MODEL
        if (folder / "model.safetensors").exists():
            scores = with_pytorch(folder, patients)
            theirs = 1 / (1 + np.exp(-scores)) if scores.shape[1] == 1 else _softmax(scores)
            found.append(_opened(folder / "model.safetensors", "PyTorch", theirs, folder, patients))
            break
    if trees is not None:
        theirs = with_xgboost(trees / "model.xgboost.json", patients)[:, None]
        found.append(_opened(trees / "model.xgboost.json", "XGBoost", theirs, trees, patients))
    return found


def _opened(file: Path, program: str, theirs: np.ndarray, folder: Path, patients: pd.DataFrame) -> Opened:
    ours = predict(open_model(folder), patients).values[:, : theirs.shape[1]]
    difference = float(np.abs(ours - theirs).max())
    if not difference < SAME:
        raise StorageError(
            f"{program} and Unisono do not predict the same from {file.name}.",
            rule="demo-equal",
            remedy=f"This must not be. Please report it, with {file}.",
        )
    return Opened(file, program, len(patients), difference)


def _softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
