"""A finished run is reproduced from its journal, without any hospital; an altered result or journal is told."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import ANALYSES, hospitals, run, study
from unisono.engines.embedded.run import Fault, Run
from unisono.engines.verify import Verified, largest_difference, verify
from unisono.errors import JournalError
from unisono.federation.journal import Journal


def stored(finished: Run, analysis: str) -> dict[str, Any]:
    """What result.json holds, as it is read back."""
    outcome = finished.outcomes[analysis]
    assert outcome.answer is not None
    record = {
        "estimates": outcome.answer.result.estimates,
        "journal_digest": outcome.journal_digest,
        "converged": outcome.answer.result.converged,
        "cohort": outcome.answer.cohort.estimates,
        "sites": list(outcome.answer.sites),
    }
    read: dict[str, Any] = json.loads(json.dumps(record))
    return read


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(study(), tmp_path_factory.mktemp("finished"))


def verified(finished: Run, analysis: str, record: dict[str, Any]) -> Verified:
    return verify(finished.study, analysis, finished.out / analysis / "journal.db", record)


@pytest.mark.parametrize("analysis", sorted(ANALYSES))
def test_every_estimate_is_reproduced_bit_for_bit(finished: Run, analysis: str) -> None:
    found = verified(finished, analysis, stored(finished, analysis))
    assert found.reproduced
    assert found.same_environment
    assert found.largest_difference == 0.0
    assert found.journal_digest == finished.outcomes[analysis].journal_digest
    assert found.sums >= 2


def test_verification_asks_nobody_and_changes_nothing(finished: Run) -> None:
    before = (finished.out / "odds" / "journal.db").read_bytes()
    audits = [p.read_bytes() for p in sorted(finished.out.rglob("audit.jsonl"))]
    verified(finished, "odds", stored(finished, "odds"))
    assert (finished.out / "odds" / "journal.db").read_bytes() == before
    assert [p.read_bytes() for p in sorted(finished.out.rglob("audit.jsonl"))] == audits


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: r["estimates"]["coefficients"][1].update(
            coef=r["estimates"]["coefficients"][1]["coef"] * (1 + 1e-15)
        ),
        lambda r: r["estimates"]["coefficients"][1].update(p=None),
        lambda r: r["estimates"].update(n=r["estimates"]["n"] + 1),
        lambda r: r["estimates"].update(note="better"),
        lambda r: r["estimates"].pop("n"),
        lambda r: r["estimates"]["coefficients"].pop(),
        lambda r: r.update(converged=False),
        lambda r: r["cohort"].update(patients=227),
        lambda r: r["sites"].pop(),
    ],
)
def test_an_edited_result_is_not_reproduced(finished: Run, edit: Any) -> None:
    record = copy.deepcopy(stored(finished, "odds"))
    edit(record)
    assert not verified(finished, "odds", record).reproduced


def test_a_result_of_another_run_is_not_this_journals(finished: Run, tmp_path: Path) -> None:
    other = run(study(), tmp_path, analyses=["odds"])
    found = verified(finished, "odds", stored(other, "odds"))
    assert not found.digest_matches
    assert not found.reproduced


def test_the_journal_of_another_study_is_refused(finished: Run) -> None:
    with pytest.raises(JournalError) as refused:
        verify(study("odds"), "odds", finished.out / "odds" / "journal.db", stored(finished, "odds"))
    assert refused.value.rule == "journal-study"


def test_the_journal_of_another_analysis_is_refused(finished: Run) -> None:
    with pytest.raises(JournalError):
        verify(finished.study, "odds", finished.out / "effect" / "journal.db", stored(finished, "odds"))


def test_a_missing_journal_is_told_and_not_made(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(JournalError) as refused:
        verify(finished.study, "odds", tmp_path / "journal.db", stored(finished, "odds"))
    assert refused.value.rule == "complete-journal"
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_result_is_told(finished: Run) -> None:
    with pytest.raises(JournalError) as refused:
        verified(finished, "odds", {"estimates": {}})
    assert refused.value.rule == "result-file"


def test_an_unfinished_run_is_told_and_its_journal_is_left_as_it_is(tmp_path: Path) -> None:
    stopping = study("odds", participation={"on_dropout": "abort"})
    half = run(stopping, tmp_path, faults=[Fault("turin", "mask", occurrence=4, seconds=None)])
    record = {"estimates": {}, "journal_digest": half.outcomes["odds"].journal_digest}
    with pytest.raises(JournalError) as refused:
        verify(stopping, "odds", tmp_path / "odds" / "journal.db", record)
    assert refused.value.rule == "complete-journal"
    journal = Journal(tmp_path / "odds" / "journal.db")
    assert journal.digest == half.outcomes["odds"].journal_digest
    journal.close()


def test_a_run_that_went_on_without_a_site_is_reproduced(tmp_path: Path) -> None:
    going_on = study("odds", participation={"on_dropout": "continue", "deadline": "2 s"})
    left = run(going_on, tmp_path, faults=[Fault("turin", "mask", occurrence=3, seconds=None)], data=hospitals())
    assert verified(left, "odds", stored(left, "odds")).reproduced


def test_in_another_environment_the_last_bits_may_differ(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.engines.verify.environment", lambda: {"numpy": "another"})
    record = stored(finished, "odds")
    record["estimates"]["coefficients"][1]["coef"] *= 1 + 1e-12
    found = verified(finished, "odds", record)
    assert not found.same_environment
    assert found.reproduced
    record["estimates"]["coefficients"][1]["coef"] *= 1 + 1e-6
    assert not verified(finished, "odds", record).reproduced


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ({"a": [1, 2.0]}, {"a": (1, 2.0)}, 0.0),
        ({"a": 2.0}, {"a": 1.0}, 0.5),
        (None, float("nan"), 0.0),
        (1.0, float("nan"), float("inf")),
        ([0.0, 1.0], [0.0, float("nan")], float("inf")),
        ("a", "b", float("inf")),
        (1, True, 0.0),
        (2, True, float("inf")),
        ({"a": 1}, {"b": 1}, float("inf")),
        ([1], [1, 2], float("inf")),
        (0.0, 1e-300, 1.0),
    ],
)
def test_the_largest_difference(one: Any, other: Any, difference: float) -> None:
    assert largest_difference(one, other) == difference
