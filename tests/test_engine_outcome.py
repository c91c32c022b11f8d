"""What is said beside an answer: cohorts that differ by a few, a hospital's own policy, a hospital that left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import lung, training
from tests.support.engine import run, study
from unisono.engines.embedded.exchange import Fault
from unisono.engines.embedded.outcome import _refused_elsewhere
from unisono.engines.embedded.run import Settings, SiteData, run_study
from unisono.errors import PolicyRefusal
from unisono.methods.registry import check
from unisono.site.policy import Policy
from unisono.study.load import load


def lung_with_missing(document: dict[str, object], out: Path, missing: int) -> dict[str, tuple[str, ...]]:
    """Notes by analysis, where this many patients in all have no `ecog`."""
    data = lung.frame()
    data["ecog"] = data["ecog"].where(np.arange(len(data)) >= missing)
    data["sex"] = data["sex"].map({0.0: "male", 1.0: "female"})
    sites = {s: SiteData(data[data["site"] == s].drop(columns="site")) for s in lung.SITES}
    finished = run_study(load(document, check), sites, out, Settings())
    return {name: o.answer.result.notes for name, o in finished.outcomes.items() if o.answer is not None}


@pytest.mark.parametrize(("missing", "said"), [(0, False), (3, True), (25, False)])
def test_two_analyses_over_cohorts_that_differ_by_a_few_patients_say_so(
    missing: int, said: bool, tmp_path: Path
) -> None:
    notes = lung_with_missing(lung.DOCUMENT, tmp_path, missing)
    assert any("differ by fewer than 10 patients" in note for note in notes["effect"]) is said


def test_known_makes_the_cohorts_of_a_study_the_same(tmp_path: Path) -> None:
    notes = lung_with_missing({**lung.DOCUMENT, "cohort": {"include": ["known(ecog)"]}}, tmp_path, 3)
    assert not any("differ by fewer" in note for note in notes["effect"])


@pytest.mark.parametrize("loose", [{"protection": {"hide": "none"}}, {"release": {"min_sites": 3, "min_count": 2}}])
def test_a_study_that_a_hospital_would_refuse_says_so_in_its_results(loose: dict[str, object], tmp_path: Path) -> None:
    finished = run(study("effect", **loose), tmp_path)
    answer = finished.outcomes["effect"].answer
    assert answer is not None
    assert any("A hospital's default policy would refuse this study" in note for note in answer.result.notes)


def test_each_analysis_is_told_its_own_reasons_and_those_of_the_study() -> None:
    asked = training.study(
        analyses={
            "model": training.BASE,
            "trees": {
                "method": "bagged-boosting",
                "objective": "logistic",
                "outcome": "malignant",
                "features": [*training.FEATURES],
            },
            "table": {"method": "describe", "variables": [*training.FEATURES]},
        },
        protection={"hide": "secagg"},
    )
    said = {name: " ".join(_refused_elsewhere(asked, name)) for name in asked.analyses}
    assert all("releases cells of 5 patients" in notes for notes in said.values())
    of = {"trains a model": ["model"], "would show the coordinator this site's own part": ["trees"]}
    for reason, names in of.items():
        assert [name for name, notes in said.items() if reason in notes] == names
    with pytest.raises(PolicyRefusal, match="releases cells"):
        Policy().check_study(asked)


def test_a_result_without_a_hospital_that_left_says_which_and_what_that_shows(tmp_path: Path) -> None:
    leaves = study("effect", participation={"on_dropout": "continue", "deadline": "1 s"})
    finished = run(leaves, tmp_path, faults=[Fault("turin", "mask", occurrence=3, seconds=None)])
    answer = finished.outcomes["effect"].answer
    assert answer is not None
    assert any(note.startswith("Left for good, and not in these numbers: turin.") for note in answer.result.notes)


def test_a_sites_folder_is_its_own(tmp_path: Path) -> None:
    run(study("curves"), tmp_path)
    for name in lung.SITES:
        assert (tmp_path / "sites" / name).stat().st_mode & 0o077 == 0


def test_fresh_leaves_a_folder_of_the_users_that_has_an_analysiss_name(tmp_path: Path) -> None:
    kept = tmp_path / "effect" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    run(study("curves", "effect"), tmp_path, fresh=True)
    assert kept.read_text() == "mine"
