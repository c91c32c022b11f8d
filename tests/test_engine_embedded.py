"""One study over sites in one process: the same estimates whatever hides the sums, whatever is lost, and when asked again."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine
from tests.support.engine import SITES, estimates, hospitals, records, run, study
from unisono.engines.embedded.run import Fault
from unisono.errors import DataError, JournalError, ParticipationError, StorageError, StudyError
from unisono.federation.events import Event
from unisono.federation.journal import Journal
from unisono.protection.secagg.aggregate import AggregatorSession

SUM_PHASES = ("advertise", "share", "mask", "unmask")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All four analyses over the four hospitals, nothing going wrong."""
    return estimates(run(study(), tmp_path_factory.mktemp("undisturbed")))


def opened_once(out: Path, analysis: str) -> None:
    """No step of an epoch has two opened sums."""
    steps = [(r.epoch, r.step) for r in records(out, analysis, "opened")]
    assert steps
    assert len(steps) == len(set(steps))


# -- the same whatever hides, orders or repeats -----------------------------------------------------------------------


def test_estimates_are_bit_identical_without_protection(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    assert estimates(run(study(protection={"hide": "none"}), tmp_path)) == undisturbed


def test_estimates_are_bit_identical_with_the_sites_in_other_orders(
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    for k, order in enumerate((SITES[::-1], ("leiden", "madrid", "padua", "turin"))):
        assert estimates(run(study(), tmp_path / str(k), data=hospitals(order))) == undisturbed


def test_estimates_are_bit_identical_with_the_hospitals_patients_under_other_names(
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    renamed = dict(zip(SITES[::-1], hospitals().values(), strict=True))
    found = estimates(run(study("table", "curves", "odds"), tmp_path, data=renamed))
    assert found == {name: undisturbed[name] for name in ("table", "curves", "odds")}


def test_the_same_command_again_gives_the_stored_answer_and_asks_no_site(tmp_path: Path) -> None:
    first = run(study(), tmp_path)
    before = {name: outcome.journal_digest for name, outcome in first.outcomes.items()}
    audits = {site: (tmp_path / "sites" / site / "audit.jsonl").read_text() for site in SITES}
    events: list[Event] = []
    second = run(study(), tmp_path, observer=events.append)
    assert estimates(second) == estimates(first)
    assert {name: outcome.journal_digest for name, outcome in second.outcomes.items()} == before
    assert {event.kind for event in events} == {"analysis", "replayed", "finished"}
    for site, text in audits.items():
        added = (tmp_path / "sites" / site / "audit.jsonl").read_text().removeprefix(text).splitlines()
        assert [line for line in added if '"admitted"' not in line] == []


def test_fresh_forgets_the_folder_and_asks_anew(tmp_path: Path) -> None:
    first = run(study("odds"), tmp_path)
    again = run(study("odds"), tmp_path, fresh=True)
    assert estimates(again) == estimates(first)
    assert again.outcomes["odds"].journal_digest != first.outcomes["odds"].journal_digest


def test_one_analysis_may_be_answered_first_and_the_others_later(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    only = run(study(), tmp_path, analyses=["odds"])
    assert list(only.outcomes) == ["odds"]
    assert estimates(run(study(), tmp_path)) == undisturbed


def test_a_receipt_leaves_its_sheet_at_each_site_and_nowhere_else(tmp_path: Path) -> None:
    run(study("effect"), tmp_path)
    assert sorted(p.parents[2].name for p in tmp_path.rglob("effect.json")) == sorted(SITES)
    (told,) = records(tmp_path, "effect", "told")
    assert set(told.body or {}) == {"question", "name"}


# -- drop-outs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["drop", "crash"])
@pytest.mark.parametrize("phase", [*SUM_PHASES, "tell", "close"])
def test_a_site_lost_once_at_any_message_changes_nothing(
    phase: Any, what: Any, when: Any, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    fault = Fault("turin", phase, what, when, occurrence=4 if phase in ("mask", "unmask") else 1)
    found = estimates(run(study("effect"), tmp_path, faults=[fault]))
    assert found["effect"] == undisturbed["effect"]
    opened_once(tmp_path, "effect")


def test_a_site_that_drops_after_masking_is_counted_and_its_masks_are_recovered(
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    gone_for_good = Fault("turin", "unmask", occurrence=7, seconds=None)  # the last sum of the fit
    finished = run(study("odds"), tmp_path, faults=[gone_for_good])
    assert estimates(finished)["odds"] == undisturbed["odds"]
    assert [(e.site, e.step) for e in finished.events if e.kind == "recovered"] == [("turin", 6)]
    last = records(tmp_path, "odds", "opened")[-1].body
    assert last is not None
    assert last["participants"] == sorted(SITES)
    assert last["recovered"] == ["turin"]


@pytest.mark.parametrize("phase", SUM_PHASES[:3])
def test_a_site_that_drops_before_its_masked_part_is_waited_for(
    phase: Any, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    # Keys and shares are asked for once: after that they ride along with the messages of the sum before.
    occurrence = 3 if phase == "mask" else 1
    finished = run(study("odds"), tmp_path, faults=[Fault("leiden", phase, occurrence=occurrence, seconds=0.1)])
    assert estimates(finished)["odds"] == undisturbed["odds"]
    kinds = [e.kind for e in finished.events if e.site == "leiden"]
    assert kinds == ["lost", "waiting", "returned"]
    (waited,) = records(tmp_path, "odds", "waited")
    assert waited.body is not None
    assert waited.body["sites"] == {"leiden": phase}
    assert len(records(tmp_path, "odds", "attempt")) == len(records(tmp_path, "odds", "opened")) + 1


@pytest.mark.parametrize("phase", SUM_PHASES)
def test_late_answers_change_nothing(phase: Any, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    occurrence = 2 if phase in ("mask", "unmask") else 1
    late = [Fault(site, phase, "delay", occurrence=occurrence, seconds=0.05 * k) for k, site in enumerate(SITES)]
    assert estimates(run(study("odds"), tmp_path, faults=late))["odds"] == undisturbed["odds"]


def test_of_three_sites_with_no_drop_out_to_spare_one_loses_its_memory_before_unmasking(tmp_path: Path) -> None:
    three = hospitals(SITES[:3])
    alone = estimates(run(study("odds"), tmp_path / "undisturbed", data=three))
    # Two sites gave their shares for the first attempt; the third has lost its masks, so the step needs a second attempt,
    # over exactly the same sites and the same stored parts.
    crash = Fault("turin", "unmask", "crash", "before", occurrence=3)
    assert estimates(run(study("odds"), tmp_path / "crash", data=three, faults=[crash])) == alone
    assert [r.body["attempt"] for r in records(tmp_path / "crash", "odds", "attempt") if r.step == 2 and r.body] == [
        1,
        2,
    ]
    opened_once(tmp_path / "crash", "odds")


def test_the_coordinator_and_a_site_lose_their_memory_while_unmasking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three = hospitals(SITES[:3])
    alone = estimates(run(study("odds"), tmp_path / "undisturbed", data=three))
    for k in (1, 2):  # twice stopped with some shares given and the sum not opened
        with monkeypatch.context() as patch:
            patch.setattr(AggregatorSession, "open", _full_disk)
            crash = [Fault("turin", "unmask", "crash", "before", occurrence=1)] if k == 1 else []
            stopped = run(study("odds"), tmp_path / "run", data=three, faults=crash)
            assert isinstance(stopped.outcomes["odds"].error, StorageError)
    assert estimates(run(study("odds"), tmp_path / "run", data=three)) == alone
    opened_once(tmp_path / "run", "odds")


def test_a_stored_masked_sum_is_opened_from_the_stored_shares_also_without_a_site_that_has_left(
    undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator died after everybody had unmasked; when it is back, one site is not. The step needs no new attempt."""
    patient = study("odds", participation={"on_dropout": "abort"})
    with monkeypatch.context() as patch:
        patch.setattr(AggregatorSession, "open", _full_disk)
        run(patient, tmp_path)
    run(patient, tmp_path, faults=[Fault("turin", "unmask", seconds=None)])
    (opened,) = records(tmp_path, "odds", "opened")
    assert opened.body is not None
    assert opened.body["recovered"] == ["turin"]
    assert len([r for r in records(tmp_path, "odds", "attempt") if r.step == 0]) == 1
    assert estimates(run(patient, tmp_path))["odds"] == undisturbed["odds"]


def _full_disk(_: AggregatorSession) -> None:
    raise StorageError("full", rule="durable-storage", remedy="free some")


@pytest.mark.parametrize("seed", range(6))
def test_many_random_faults_change_nothing(seed: int, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    draw = random.Random(seed)
    faults = [
        Fault(
            draw.choice(SITES),
            draw.choice(("advertise", "share", "mask", "mask", "unmask", "unmask", "close")),  # type: ignore[arg-type]
            draw.choice(("delay", "drop", "crash")),  # type: ignore[arg-type]
            draw.choice(("before", "after")),  # type: ignore[arg-type]
            occurrence=draw.randint(1, 8),
            seconds=draw.choice((0.0, 0.02)),
        )
        for _ in range(12)
    ]
    assert estimates(run(study("odds"), tmp_path, faults=faults))["odds"] == undisturbed["odds"], faults
    opened_once(tmp_path, "odds")


# -- a site that stays away -------------------------------------------------------------------------------------------


def waiting(on_dropout: str, deadline: str = "2 s") -> dict[str, str]:
    return {"on_dropout": on_dropout, "deadline": deadline}


def test_continue_gives_exactly_the_fit_of_those_who_stayed(tmp_path: Path) -> None:
    going_on = study("effect", participation=waiting("continue"))
    stayed = [s for s in SITES if s != "turin"]
    among_them = estimates(run(going_on, tmp_path / "three", data=hospitals(stayed)))
    left = Fault("turin", "mask", occurrence=5, seconds=None)
    finished = run(going_on, tmp_path / "four", faults=[left])
    assert estimates(finished) == among_them
    answer = finished.outcomes["effect"].answer
    assert answer is not None
    assert answer.sites == tuple(sorted(stayed))
    assert answer.cohort.facts.patients == sum(len(engine.frame(s)) for s in stayed)
    assert [e.site for e in finished.events if e.kind == "left"] == ["turin"]
    (epoch,) = records(tmp_path / "four", "effect", "epoch")
    assert epoch.body == {"stayed": sorted(stayed), "left": {"turin": "mask"}}
    opened_once(tmp_path / "four", "effect")


def test_continue_asked_again_gives_the_same_without_asking(tmp_path: Path) -> None:
    going_on = study("odds", participation=waiting("continue"))
    first = run(going_on, tmp_path, faults=[Fault("turin", "mask", occurrence=2, seconds=None)])
    events: list[Event] = []
    assert estimates(run(going_on, tmp_path, observer=events.append)) == estimates(first)
    assert {e.kind for e in events} == {"analysis", "replayed", "finished"}


def test_a_site_that_hangs_until_the_deadline_is_left_out_too(tmp_path: Path) -> None:
    going_on = study("odds", participation=waiting("continue"))
    finished = run(going_on, tmp_path, faults=[Fault("leiden", "mask", "delay", occurrence=2, seconds=5)])
    answer = finished.outcomes["odds"].answer
    assert answer is not None
    assert answer.sites == ("madrid", "padua", "turin")


def test_a_site_that_came_back_in_time_is_not_left_out_with_one_that_did_not(tmp_path: Path) -> None:
    going_on = study("odds", release={"min_sites": 3}, participation=waiting("continue", "3 s"))
    faults = [
        Fault("turin", "mask", occurrence=2, seconds=None),
        Fault("leiden", "mask", occurrence=2, seconds=0.05),
    ]
    answer = run(going_on, tmp_path, faults=faults).outcomes["odds"].answer
    assert answer is not None
    assert answer.sites == ("leiden", "madrid", "padua")


def test_continue_stops_when_too_few_stay_and_the_run_can_still_wait_for_them(
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    going_on = study("odds", participation=waiting("continue"))
    faults = [Fault(site, "mask", occurrence=3, seconds=None) for site in ("turin", "leiden")]
    error = run(going_on, tmp_path, faults=faults).outcomes["odds"].error
    assert isinstance(error, ParticipationError)
    assert error.rule == "min_sites"
    assert records(tmp_path, "odds", "epoch") == []
    assert estimates(run(going_on, tmp_path))["odds"] == undisturbed["odds"]


def test_abort_stops_at_once(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    stopping = study("odds", participation=waiting("abort", "10 min"))
    outcome = run(stopping, tmp_path, faults=[Fault("turin", "mask", occurrence=3, seconds=None)]).outcomes["odds"]
    assert isinstance(outcome.error, ParticipationError)
    assert outcome.error.rule == "on_dropout"
    assert "turin (at mask)" in outcome.error.what
    assert outcome.seconds < 5
    assert estimates(run(stopping, tmp_path))["odds"] == undisturbed["odds"]


def test_a_drop_out_after_masking_does_not_abort(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    stopping = study("odds", participation=waiting("abort"))
    found = run(stopping, tmp_path, faults=[Fault("turin", "unmask", occurrence=3)])
    assert estimates(found)["odds"] == undisturbed["odds"]


def test_a_deadline_that_passes_stops_the_run_and_the_same_command_finishes_it(
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    patient = study("odds", participation=waiting("wait", "3 s"))
    error = run(patient, tmp_path, faults=[Fault("turin", "mask", occurrence=4, seconds=None)]).outcomes["odds"].error
    assert isinstance(error, ParticipationError)
    assert error.rule == "on_dropout"
    assert "deadline of 3 s" in error.what
    assert "turin" in error.what
    kept = len(records(tmp_path, "odds", "opened"))
    assert kept == 3
    assert estimates(run(patient, tmp_path))["odds"] == undisturbed["odds"]
    assert len(records(tmp_path, "odds", "opened")) == 7


def test_a_sum_that_can_be_opened_at_the_deadline_is_opened_without_the_straggler(
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    patient = study("odds", participation=waiting("wait"))
    finished = run(patient, tmp_path, faults=[Fault("turin", "unmask", "delay", occurrence=3, seconds=4.0)])
    assert estimates(finished)["odds"] == undisturbed["odds"]
    assert [e.site for e in finished.events if e.kind == "recovered"] == ["turin"]


def test_a_link_that_is_up_and_always_fails_is_not_asked_in_a_hot_loop(tmp_path: Path) -> None:
    patient = study("odds", participation=waiting("wait", "3 s"))
    flapping = [Fault("turin", "mask", occurrence=k, seconds=0.0) for k in range(3, 400)]
    error = run(patient, tmp_path, faults=flapping).outcomes["odds"].error
    assert isinstance(error, ParticipationError)
    assert "turin" in error.what
    assert len(records(tmp_path, "odds", "attempt")) < 20


# -- folders ----------------------------------------------------------------------------------------------------------


def test_another_study_or_other_sites_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    run(study("odds"), tmp_path)
    for asked, data in (
        (study("odds", question="Another one?"), None),
        (study("odds"), hospitals(SITES[:3])),
    ):
        with pytest.raises(JournalError) as refused:
            run(asked, tmp_path, data=data)
        assert refused.value.rule == "one-run-a-folder"


def test_data_that_changed_since_a_finished_run_is_refused(tmp_path: Path) -> None:
    run(study("odds"), tmp_path)
    changed = hospitals()
    frame = engine.frame("turin")
    frame.loc[0, "age"] += 1
    changed["turin"] = type(changed["turin"])(frame)
    with pytest.raises(DataError) as refused:
        run(study("odds"), tmp_path, data=changed)
    assert refused.value.rule == "frozen-data"
    assert "turin" in str(refused.value.where)


def test_a_second_run_in_a_folder_that_is_in_use_is_told_and_touches_nothing(tmp_path: Path) -> None:
    said: list[str] = []

    def begin_another(event: Event) -> None:
        if event.kind == "opened" and event.step == 2:
            for fresh in (False, True):
                with pytest.raises(StorageError) as refused:
                    run(study("odds"), tmp_path, fresh=fresh)
                said.append(refused.value.rule)

    estimates(run(study("odds"), tmp_path, observer=begin_another))
    assert said == ["one-run-at-a-time"] * 2


def test_a_run_begun_in_another_environment_is_told_unless_it_is_finished(
    undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = study("odds", participation=waiting("wait"))
    run(patient, tmp_path / "half", faults=[Fault("turin", "mask", occurrence=4, seconds=None)])
    run(patient, tmp_path / "whole")
    monkeypatch.setattr("unisono.engines.embedded.run.environment", lambda: {"numpy": "another"})
    with pytest.raises(JournalError) as refused:
        run(patient, tmp_path / "half")
    assert refused.value.rule == "deterministic-replay"
    assert estimates(run(patient, tmp_path / "whole"))["odds"] == undisturbed["odds"]


def test_a_lost_journal_is_told_and_never_begun_anew_in_silence(tmp_path: Path) -> None:
    run(study("odds"), tmp_path)
    (tmp_path / "odds" / "journal.db").unlink()
    with pytest.raises(JournalError) as refused:
        run(study("odds"), tmp_path)
    assert refused.value.rule == "journal-integrity"
    assert estimates(run(study("odds"), tmp_path, fresh=True))


def test_a_journal_put_back_to_an_earlier_day_is_told_by_the_sites(tmp_path: Path) -> None:
    """Rolled back whole, a journal's chain is sound; but the sites know what they answered."""
    patient = study("odds", participation=waiting("wait"))
    run(patient, tmp_path, faults=[Fault("turin", "mask", occurrence=3, seconds=None)])
    earlier = (tmp_path / "odds" / "journal.db").read_bytes()
    estimates(run(patient, tmp_path))
    (tmp_path / "odds" / "journal.db").write_bytes(earlier)
    error = run(patient, tmp_path).outcomes["odds"].error
    assert error is not None
    assert error.rule == "one-opening-per-step"


def test_an_unknown_analysis_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no analysis 'nothing'"):
        run(study("odds"), tmp_path, analyses=["nothing"])


def test_the_journal_of_a_finished_run_can_be_read_while_nothing_runs(tmp_path: Path) -> None:
    run(study("odds"), tmp_path)
    journal = Journal(tmp_path / "odds" / "journal.db", read_only=True)
    with pytest.raises(JournalError) as refused:
        journal.write("opened", {})
    journal.close()
    assert refused.value.rule == "complete-journal"
