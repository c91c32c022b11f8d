"""sum, mean, tell, snapshot: what a method's coordinator half is given, also when it is run again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import lung
from tests.support.engine import SITES, records, run
from tests.support.methods import EVERY, ROUNDS, Curious, Moody, installed
from unisono.engines.embedded.run import Fault, Run, SiteData
from unisono.engines.verify import verify
from unisono.errors import JournalError, MethodError, PermitError, PolicyRefusal, ProtocolError
from unisono.methods.registry import check
from unisono.study.document import Study
from unisono.study.load import load


@pytest.fixture(autouse=True)
def _methods() -> Iterator[None]:
    with installed():
        yield


@pytest.fixture(autouse=True)
def _as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moody, "mood", 0.0)
    monkeypatch.setattr(Curious, "want", "collect")


def asked(method: str, **changes: Any) -> Study:
    analyses = {"a": {"method": method, "variable": "age"}}
    return load({**lung.DOCUMENT, "analyses": analyses, **changes}, check)


def answer(finished: Run) -> dict[str, Any]:
    outcome = finished.outcomes["a"]
    if outcome.error is not None:
        raise outcome.error
    assert outcome.answer is not None
    return outcome.answer.result.estimates


# -- mean and tell ----------------------------------------------------------------------------------------------------

ages = st.lists(st.floats(18, 100), min_size=10, max_size=30)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ages, min_size=3, max_size=5), st.sampled_from(["none", "secagg"]))
def test_the_mean_is_weighted_by_patients(
    tmp_path_factory: pytest.TempPathFactory, hospitals: list[list[float]], hide: str
) -> None:
    document = {"age": {"type": "number", "unit": "a", "min": 18, "max": 100}}
    data = {f"s{k}": SiteData(pd.DataFrame({"age": values})) for k, values in enumerate(hospitals)}
    study = asked("test-averages", variables=document, protection={"hide": hide, "colluding": 0})
    found = answer(run(study, tmp_path_factory.mktemp("mean"), data=data))
    pooled = np.concatenate([np.array(values) for values in hospitals])
    assert found["value"] == pytest.approx(pooled.mean(), rel=1e-11)
    assert found["square"] == pytest.approx((pooled**2).mean(), rel=1e-11)


def test_a_mean_shows_no_site_its_neighbours_and_its_weight_travels_in_the_sum(tmp_path: Path) -> None:
    run(asked("test-averages"), tmp_path)
    opened = records(tmp_path, "a", "opened")[-1].body
    assert opened is not None
    assert set(opened["leaves"]) == {"value", "square", "weight"}


def test_what_a_site_is_told_stays_at_the_site(tmp_path: Path) -> None:
    found = answer(run(asked("test-averages"), tmp_path))
    sheets = {site: json.loads(next((tmp_path / "sites" / site).glob("kept/*/a.json")).read_text()) for site in SITES}
    for sheet in sheets.values():
        assert "stays at that hospital" in sheet["notice"]
        assert sheet["difference"] == pytest.approx(sheet["own"] - found["value"])
    journal = (tmp_path / "a" / "journal.db").read_bytes()
    for sheet in sheets.values():
        assert repr(sheet["own"]).encode() not in journal
    assert len(list(tmp_path.rglob("a.json"))) == len(SITES)


def test_a_site_that_is_away_misses_what_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = answer(run(asked("test-averages"), tmp_path / "whole"))
    away = Fault("turin", "tell", seconds=None)
    assert answer(run(asked("test-averages"), tmp_path / "away", faults=[away])) == whole
    assert not list((tmp_path / "away" / "sites" / "turin").glob("kept/*/a.json"))


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("want", "kind", "rule"),
    [("collect", PermitError, "permit-contribution"), ("align", PolicyRefusal, "allowed-operations")],
)
def test_operations_that_show_one_part_are_refused_by_the_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, want: str, kind: type[Exception], rule: str
) -> None:
    """A simulation's policy allows `collect`; the permit allows this contribution as a part of sums alone."""
    monkeypatch.setattr(Curious, "want", want)
    error = run(asked("test-curious"), tmp_path).outcomes["a"].error
    assert isinstance(error, kind)
    assert error.rule == rule  # type: ignore[attr-defined]


def test_a_method_that_asks_more_often_than_it_planned_is_stopped_by_the_permit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Curious, "want", "more")
    error = run(asked("test-curious"), tmp_path).outcomes["a"].error
    assert isinstance(error, PermitError)
    assert error.rule == "permit-steps"
    assert len(records(tmp_path, "a", "opened")) == 1 + ROUNDS


def test_an_argument_that_is_no_number_never_leaves_the_coordinator(tmp_path: Path) -> None:
    error = run(asked("test-wild"), tmp_path).outcomes["a"].error
    assert isinstance(error, ProtocolError)
    assert error.rule == "tree-format"


# -- snapshots and replay ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped_at", range(2, ROUNDS + 2))
def test_a_loop_stopped_at_any_sum_goes_on_from_its_last_snapshot(stopped_at: int, tmp_path: Path) -> None:
    study = asked("test-loop", protection={"hide": "none"}, participation={"on_dropout": "abort"})
    whole = answer(run(study, tmp_path / "whole"))
    stop = Fault("turin", "plain", occurrence=stopped_at, seconds=None)
    assert run(study, tmp_path / "run", faults=[stop]).outcomes["a"].error is not None
    events: list[Any] = []
    assert answer(run(study, tmp_path / "run", observer=events.append)) == whole
    # Sums before the snapshot are neither asked nor replayed; those after it are replayed from the journal.
    done = stopped_at - 2
    after = done - done % EVERY
    assert sorted({e.step - 1 for e in events if e.kind == "replayed" and e.step > 0}) == list(range(after, done))
    assert sorted({e.step - 1 for e in events if e.kind == "opened"}) == list(range(done, ROUNDS))
    bodies = [r.body is not None for r in records(tmp_path / "run", "a", "opened")]
    kept = ROUNDS - ROUNDS % EVERY
    assert bodies == [True] + [k >= kept for k in range(ROUNDS)]


def test_a_loop_under_secure_aggregation_crashing_all_the_time_ends_the_same(tmp_path: Path) -> None:
    whole = answer(run(asked("test-loop"), tmp_path / "whole"))
    faults = [Fault(site, "unmask", "crash", occurrence=k) for site, k in (("turin", 3), ("leiden", 5), ("padua", 9))]
    assert answer(run(asked("test-loop"), tmp_path / "run", faults=faults)) == whole


def test_a_run_with_snapshots_is_verified_from_its_last_one(tmp_path: Path) -> None:
    study = asked("test-loop")
    finished = run(study, tmp_path)
    stored = {"estimates": answer(finished), "journal_digest": finished.outcomes["a"].journal_digest}
    assert verify(study, "a", tmp_path / "a" / "journal.db", stored).reproduced


def test_a_changed_environment_goes_on_at_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = asked("test-loop", participation={"on_dropout": "abort"})
    whole = answer(run(study, tmp_path / "whole"))
    for name, sums in (("before", EVERY), ("after", EVERY + 1)):
        run(study, tmp_path / name, faults=[Fault("turin", "mask", occurrence=sums + 1, seconds=None)])
    monkeypatch.setattr("unisono.engines.embedded.run.environment", lambda: {"numpy": "another"})
    with pytest.raises(JournalError) as told:
        run(study, tmp_path / "before")
    assert told.value.rule == "deterministic-replay"
    assert answer(run(study, tmp_path / "after")) == whole


def test_two_sums_at_once_are_refused_because_a_replay_could_not_follow_them(tmp_path: Path) -> None:
    error = run(asked("test-hasty"), tmp_path).outcomes["a"].error
    assert isinstance(error, MethodError)
    assert error.rule == "one-step-at-a-time"


def test_a_method_that_is_not_deterministic_is_told_when_it_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(run(asked("test-moody"), tmp_path))
    monkeypatch.setattr(Moody, "mood", 0.25)
    error = run(asked("test-moody"), tmp_path).outcomes["a"].error
    assert isinstance(error, JournalError)
    assert error.rule == "deterministic-replay"
    assert "Step 1" in error.what


def test_a_step_that_was_asked_but_not_opened_is_not_asked_with_another_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = asked("test-moody", participation={"on_dropout": "abort"})
    run(study, tmp_path, faults=[Fault("turin", "mask", "drop", "after", occurrence=2, seconds=None)])
    monkeypatch.setattr(Moody, "mood", 0.25)
    error = run(study, tmp_path).outcomes["a"].error
    assert isinstance(error, ProtocolError)
    assert error.rule == "one-question-per-step"
