"""The demo of training, small: its data, its comparison, and the model files opened by PyTorch and XGBoost without Unisono."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.test_cli import unisono
from unisono.demo import training
from unisono.demo.opening import with_pytorch, with_xgboost
from unisono.errors import StorageError
from unisono.federation.events import nobody


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> training.Scene:
    return training.prepare(tmp_path_factory.mktemp("training"), "breast-cancer", rounds=2, trees=2)


@pytest.fixture(scope="module")
def compared(scene: training.Scene) -> training.Compared:
    return training.compare(scene, ("fedavg", "fedbn"))


@pytest.fixture(scope="module")
def trees(scene: training.Scene) -> Path:
    return training.boost(scene, nobody)


def test_five_hospitals_differ_in_whom_they_see_and_every_patient_is_at_one(scene: training.Scene) -> None:
    record = json.loads((scene.folder / "partition.json").read_text())
    assert len(scene.patients()) == 569
    shares = [site["classes"]["1"] / site["patients"] for site in record["sites"].values()]
    assert len(shares) == 5 and max(shares) - min(shares) > 0.5
    assert record["plan"]["label_skew"] == 0.1 and record["plan"]["feature_shift"] > 0
    assert (scene.folder / "figures" / "classes.svg").exists()


def test_preparing_again_changes_nothing(scene: training.Scene) -> None:
    before = (scene.folder / "data" / "site-1.csv").read_bytes()
    training.prepare(scene.folder.parent, "breast-cancer", rounds=2, trees=2)
    assert (scene.folder / "data" / "site-1.csv").read_bytes() == before


def test_all_are_compared_under_secure_aggregation_against_pooled_and_alone(compared: training.Compared) -> None:
    assert [standing.method for standing in compared.table[:2]] == ["pooled", "alone"]
    assert {standing.method for standing in compared.table[2:]} == {"fedavg", "fedbn"}
    assert not any(standing.failed for standing in compared.table)
    assert compared.contest.study.protection.hide == "secagg"
    assert (compared.contest.out / "comparison.html").exists()


def test_the_files_open_in_pytorch_and_xgboost_and_predict_what_unisono_predicts(
    scene: training.Scene, compared: training.Compared, trees: Path
) -> None:
    opened = training.open_files(scene, compared, trees)
    assert [o.program for o in opened] == ["PyTorch", "XGBoost"]
    assert all(o.patients == 569 and o.difference < 1e-5 for o in opened)
    assert with_pytorch(opened[0].file.parent, scene.patients()).shape == (569, 1)
    scores = with_xgboost(opened[1].file, scene.patients())
    assert 0 <= scores.min() < scores.max() <= 1


def test_a_file_that_says_something_else_is_noticed(
    scene: training.Scene, compared: training.Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "with_pytorch", lambda _, patients: np.zeros((len(patients), 1)))
    with pytest.raises(StorageError, match="do not predict the same"):
        training.open_files(scene, compared, None)


def test_an_unknown_demo_is_refused_with_those_there_are(tmp_path: Path) -> None:
    said = unisono("demo", "unheard-of", cwd=tmp_path, code=1)
    assert "lung, training" in said
