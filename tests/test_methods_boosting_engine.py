"""Boosting through the embedded engine: whatever hides the sums and whoever is lost, the model file is the pooled one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import unisono
from tests.support.boosting import RISK, SITES, frames, pooled, study, tables
from unisono.engines.embedded.run import Fault, Settings, SiteData, run_study

MODEL = "model.xgboost.json"
SMALL: dict[str, Any] = {"trees": 2, "depth": 3, "subsample": {"rows": 0.9}}


def model(out: Path, top: dict[str, Any], data: Mapping[str, SiteData], *faults: Fault) -> bytes:
    outcome = run_study(study(top=top, **SMALL), data, out, Settings(faults=faults)).outcomes[RISK]
    if outcome.error is not None:
        raise outcome.error
    assert outcome.answer is not None
    return outcome.answer.result.files()[MODEL]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    alone = {"protection": {"hide": "none"}, "release": {"min_sites": 1}}
    return model(tmp_path_factory.mktemp("pooled"), alone, pooled())


@pytest.mark.parametrize(
    "protection", [{"hide": "none"}, {"hide": "secagg"}, {"hide": "secagg", "threat": "malicious"}], ids=str
)
def test_four_hospitals_write_the_model_of_the_pooled_patients(
    protection: dict[str, str], reference: bytes, tmp_path: Path
) -> None:
    assert model(tmp_path, {"protection": protection}, frames()) == reference


def test_a_hospital_that_is_lost_after_its_masked_part_is_in_the_trees(reference: bytes, tmp_path: Path) -> None:
    lost = Fault("turin", "mask", "drop", "after", occurrence=4, seconds=0.2, analysis=RISK)
    restarted = Fault("padua", "unmask", "crash", "before", occurrence=6, seconds=0.0, analysis=RISK)
    top = {"protection": {"hide": "secagg", "threat": "malicious"}}
    assert model(tmp_path, top, frames(), lost, restarted) == reference


def test_the_files_are_written_beside_the_result(reference: bytes, tmp_path: Path) -> None:
    found = unisono.run(study(**SMALL), frames(), out=tmp_path)
    assert found[RISK].files()[MODEL] == reference
    folder = tmp_path / RISK
    assert (folder / MODEL).read_bytes() == reference
    result = json.loads((folder / "result.json").read_text("utf-8"))
    assert result["estimates"]["model"][MODEL] == hashlib.sha256(reference).hexdigest()
    said = json.loads((folder / "model.json").read_text("utf-8"))
    assert said["provenance"]["sites"] == ["leiden", "padua", "turin", "utrecht"]
    sheet = json.loads(next((tmp_path / "sites" / "padua" / "kept").glob(f"*/{RISK}.json")).read_text("utf-8"))
    assert sheet["patients"]["trained"] == tables()[SITES.index("padua")].n
