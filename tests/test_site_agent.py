"""What a site answers, and what it never does, whatever a coordinator sends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine
from tests.support.bench import Bench, audit, refused
from unisono.errors import (
    DataError,
    DisclosureRefusal,
    PermitError,
    PolicyRefusal,
    ProtocolError,
    StorageError,
    UnisonoError,
)
from unisono.federation.ask import Ask
from unisono.federation.contribution import Facts
from unisono.federation.exchange import Advertise, Close, Closes, Mask, NewSlot, Plain, Share, SlotLost, Tell
from unisono.protection.encoding import exact
from unisono.protection.secagg.messages import KeyRoster, Unmask
from unisono.site.policy import Policy

ME = "turin"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def open_bench(tmp_path: Path) -> Iterator[Bench]:
    """Without secure aggregation, at sites that accept it."""
    made = Bench(
        tmp_path,
        engine.study("odds", protection={"hide": "none"}),
        policy=Policy(hide=frozenset({"none"}), suppress_own_cells=True),
    )
    yield made
    made.close()


def keys_for(ask: Ask) -> Advertise:
    """Keys are wanted for sums among the sites of an ask."""
    return Advertise(ask.circle, NewSlot("a-slot", ask.to))


def without_leiden(request: Unmask) -> Unmask:
    return replace(request, survivors=("madrid", "padua", "turin"))


# -- one opening, one question ----------------------------------------------------------------------------------------


def test_an_honest_coordinator_opens_exactly_the_sum(bench: Bench) -> None:
    for ask in (bench.totals(), bench.gradient()):
        assert (bench.opened(ask) == bench.true_sum(ask)).all()


def test_a_closed_step_is_not_asked_again(bench: Bench) -> None:
    bench.opened(bench.totals())
    refused(bench, ME, bench.bare(bench.totals(attempt=2)), ProtocolError, "one-opening-per-step")
    with pytest.raises(ProtocolError) as raised:  # also where keys are made first, as for an honest ask
        bench.masked(bench.totals(attempt=3))
    assert raised.value.rule == "one-opening-per-step"


def test_a_closed_step_is_not_unmasked_again(bench: Bench) -> None:
    ask = bench.totals()
    session = bench.masked(ask)
    bench.opened(ask, session)
    refused(bench, ME, bench.reveal(ask, session.unmask_request()), ProtocolError, "one-opening-per-step")


def test_a_step_is_not_asked_with_another_question(bench: Bench) -> None:
    bench.masked(bench.gradient())
    other = bench.gradient(beta=(0.1, 0.2, -0.2), attempt=2)
    refused(bench, ME, bench.bare(other), ProtocolError, "one-question-per-step")
    bench.opened(bench.gradient(attempt=3))
    refused(bench, ME, bench.bare(replace(other, attempt=4)), ProtocolError, "one-question-per-step")
    first, second = audit(bench.sites[ME])[-1]["evidence"].values()
    assert {first, second} == {bench.gradient().question, other.question}


def test_a_step_is_not_retried_without_one_site(bench: Bench) -> None:
    bench.masked(bench.totals())
    fewer = bench.totals(attempt=2, sites=tuple(s for s in bench.names if s != "leiden"))
    refused(bench, ME, bench.bare(fewer), PermitError, "frozen-sites")
    refused(bench, ME, keys_for(fewer), PermitError, "frozen-sites")


def test_a_step_is_not_retried_without_one_site_in_a_study_that_may_go_on_without_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, engine.study("odds", participation={"on_dropout": "continue"}))
    bench.masked(bench.totals())
    without = tuple(s for s in bench.names if s != "leiden")
    refused(bench, ME, bench.bare(bench.totals(attempt=2, sites=without)), ProtocolError, "frozen-sites")
    refused(bench, ME, keys_for(bench.totals(sites=without)), ProtocolError, "frozen-sites")
    # Begun anew, and then there is no way back to those who left, nor to another set.
    fewer = bench.totals(epoch=1, sites=without)
    assert (bench.opened(fewer) == bench.true_sum(fewer)).all()
    others = tuple(s for s in bench.names if s != "padua")
    for back in (
        bench.totals(attempt=3),
        bench.totals(epoch=2),
        bench.totals(epoch=2, sites=without),
        bench.totals(epoch=2, sites=others),
    ):
        refused(bench, ME, bench.bare(back), ProtocolError, "frozen-sites")
        refused(bench, ME, keys_for(back), ProtocolError, "frozen-sites")
    # Nor in a run of its own: two sets that leave in turns would show both.
    again = bench.totals(run="run-2", epoch=1, sites=others)
    with pytest.raises(DisclosureRefusal) as twin:
        bench.masked(again)
    assert twin.value.rule == "near-twin"
    bench.close()


def test_a_step_is_unmasked_for_one_set_of_survivors(bench: Bench) -> None:
    ask = bench.totals()
    session = bench.masked(ask)
    request = session.unmask_request()
    given = bench.send(ME, bench.reveal(ask, request))
    refused(bench, ME, bench.reveal(ask, without_leiden(request)), ProtocolError, "one-opening-per-step")
    assert audit(bench.sites[ME])[-1]["evidence"] == {
        "first": "leiden, madrid, padua, turin",
        "second": "madrid, padua, turin",
    }
    assert bench.send(ME, bench.reveal(ask, request)) == given  # what was given once is repeated
    assert (bench.opened(ask, session) == bench.true_sum(ask)).all()


def test_the_one_set_of_survivors_is_remembered_over_a_restart_and_the_shares_too(bench: Bench) -> None:
    ask = bench.totals()
    request = bench.masked(ask).unmask_request()
    given = bench.send(ME, bench.reveal(ask, request))
    bench.start(ME)
    refused(bench, ME, bench.reveal(ask, without_leiden(request)), ProtocolError, "one-opening-per-step")
    assert bench.send(ME, bench.reveal(ask, request)) == given


def test_a_survivor_is_not_listed_as_dropped_in_a_later_attempt(bench: Bench) -> None:
    first = bench.totals()
    bench.send(ME, bench.reveal(first, bench.masked(first).unmask_request()))
    second = bench.totals(attempt=2)
    session = bench.masked(second)
    fewer = without_leiden(session.unmask_request())
    refused(bench, ME, bench.reveal(second, fewer), ProtocolError, "one-opening-per-step")
    assert (bench.opened(second, session) == bench.true_sum(second)).all()


def test_a_statistic_is_not_unmasked_for_fewer_than_all_its_sites(bench: Bench) -> None:
    ask = bench.totals()
    session = bench.masked(ask)
    fewer = without_leiden(session.unmask_request())
    error = refused(bench, ME, bench.reveal(ask, fewer), ProtocolError, "frozen-sites")
    assert "leiden" in error.what
    assert (bench.opened(ask, session) == bench.true_sum(ask)).all()  # the refusal used nothing up


def test_a_statistic_is_not_masked_among_fewer_than_all_its_sites(bench: Bench) -> None:
    ask = bench.totals()
    setup = bench.setup(ask)
    inbox = setup.inbox_for(ME, [s for s in bench.names if s != "leiden"])
    refused(bench, ME, Mask(ask, setup.slot, inbox), ProtocolError, "frozen-sites")
    assert bench.sites[ME].state.step(ask.key) is None


def test_one_step_is_not_unmasked_in_the_name_of_another(bench: Bench) -> None:
    first, second = bench.totals(), bench.gradient()
    bench.masked(first)
    session = bench.masked(second)
    crossed = replace(bench.reveal(second, session.unmask_request()), key=first.key)
    refused(bench, ME, crossed, ProtocolError, "other-slot")


def test_too_few_survivors_are_not_unmasked(bench: Bench) -> None:
    ask = bench.totals()
    request = replace(bench.masked(ask).unmask_request(), survivors=("padua", "turin"))
    refused(bench, ME, bench.reveal(ask, request), ProtocolError, "frozen-sites")


def test_one_vector_is_masked_in_a_slot(bench: Bench) -> None:
    ask = bench.totals()
    setup = bench.masked(ask).setup
    refused(bench, ME, bench.question(ask, setup, ME), ProtocolError, "message-order")
    refused(bench, ME, bench.question(bench.gradient(), setup, ME), ProtocolError, "message-order")


def test_two_runs_with_the_same_step_numbers_do_not_meet(bench: Bench) -> None:
    first, second = bench.totals(), bench.totals(run="run-2")
    one, other = bench.masked(first), bench.masked(second)
    assert (bench.opened(first, one) == bench.opened(second, other)).all()


def test_a_retry_sends_the_stored_part_and_computes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.masked(bench.totals())
    for site in bench.names:
        worker = bench.sites[site]._studies[bench.study.digest()].worker
        monkeypatch.setattr(worker, "contribution", lambda ask: pytest.fail("computed again"))
    ask = bench.totals(attempt=2)
    opened = bench.opened(ask)
    assert (opened == bench.true_sum(ask)).all()


def test_a_restarted_site_counts_as_dropped_for_the_attempt(bench: Bench) -> None:
    ask = bench.totals()
    session = bench.masked(ask)
    bench.start(ME)
    for message in (
        Share(ask.circle, session.setup.key_roster()),
        bench.question(ask, session.setup, ME),
        bench.reveal(ask, session.unmask_request()),
    ):
        with pytest.raises(SlotLost):
            bench.send(ME, message)
    again = bench.totals(attempt=2)
    assert (bench.opened(again) == bench.true_sum(again)).all()


def test_a_step_that_was_never_asked_is_not_unmasked(bench: Bench) -> None:
    ask = bench.totals()
    request = Unmask(ask.run, "slot", ask.digest, "binding", bench.names, {})
    refused(bench, ME, bench.reveal(ask, request), ProtocolError, "unknown-step")


# -- nothing around the checks ----------------------------------------------------------------------------------------


def test_what_the_study_hides_is_not_given_in_the_clear(bench: Bench) -> None:
    refused(bench, ME, Plain(bench.totals()), ProtocolError, "study-protection")
    refused(bench, ME, Plain(bench.totals(hide="none")), PolicyRefusal, "least-protection")


def test_a_sum_is_not_asked_for_in_the_name_of_a_tell(bench: Bench) -> None:
    extreme = bench.gradient(beta=(0.0, 1e9, 0.0), operation="tell")
    refused(bench, ME, bench.bare(extreme), ProtocolError, "message-operation")
    refused(bench, ME, Plain(extreme), ProtocolError, "message-operation")
    refused(bench, ME, Tell(extreme), ProtocolError, "message-operation")
    refused(bench, ME, Tell(bench.totals()), ProtocolError, "message-operation")


@pytest.mark.parametrize("operation", ["collect", "align"])
def test_operations_that_show_one_part_are_refused_by_default(bench: Bench, operation: Any) -> None:
    refused(bench, ME, Tell(bench.totals(operation=operation)), PolicyRefusal, "allowed-operations")


def test_a_tell_writes_no_file_outside_the_sites_folder(bench: Bench) -> None:
    before = sorted(bench.homes[ME].path.parent.rglob("*"))
    refused(bench, ME, Tell(bench.totals(operation="tell", analysis="../leiden/x")), PermitError, "permit-contribution")
    assert sorted(bench.homes[ME].path.parent.rglob("*")) == before


def test_another_sites_keys_under_this_roster_are_not_taken(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "strangers")
    ask = bench.totals()
    slot = NewSlot("slot")
    at = {site: other if site == "leiden" else bench for site in bench.names}  # the coordinator's own `leiden`
    theirs = replace(ask, run=other.run)
    keys = tuple(at[s].send(s, Advertise((theirs if s == "leiden" else ask).circle, slot)) for s in bench.names)
    refused(bench, ME, Share(ask.circle, KeyRoster(ask.run, slot.name, keys)), ProtocolError, "other-slot")
    keys = tuple(at[s].send(s, Advertise(ask.circle, slot)) for s in bench.names)
    error = refused(bench, ME, Share(ask.circle, KeyRoster(ask.run, slot.name, keys)), ProtocolError, "pinned-roster")
    assert "leiden" in error.what
    other.close()


def test_a_fault_inside_a_site_leaves_as_an_error_without_values(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(ask: Any) -> None:
        raise ZeroDivisionError("patient 17 has age 62.5")

    worker = bench.sites[ME]._studies[bench.study.digest()].worker
    monkeypatch.setattr(worker, "cohort", broken)
    ask = bench.totals()
    with pytest.raises(ProtocolError) as raised:
        bench.masked(ask)
    assert raised.value.rule == "site-fault"
    assert "62.5" not in str(raised.value)
    assert "62.5" not in (bench.sites["leiden"].home / "audit.jsonl").read_text()


def test_a_part_outside_its_declared_bound_is_not_sent(bench: Bench) -> None:
    """Bounds follow from the number of patients that the coordinator claims; a smaller claim wins no finer sum."""
    with pytest.raises(DataError) as raised:
        bench.masked(bench.totals(facts=Facts(20)))
    assert raised.value.rule == "declared-bound"


def test_a_site_with_too_few_patients_does_not_answer(tmp_path: Path) -> None:
    frames = {site: engine.frame(site) for site in engine.SITES}
    frames[ME] = frames[ME].head(9)
    bench = Bench(tmp_path, frames=frames)
    with pytest.raises(DisclosureRefusal) as raised:
        bench.masked(bench.totals())
    assert raised.value.rule == "enough-patients"
    assert str(raised.value.where) == f"site {ME}"
    assert not re.search(r"\b9\b", str(raised.value))
    bench.close()


def test_a_site_with_too_few_patients_for_the_parameters_does_not_answer(tmp_path: Path) -> None:
    frames = {site: engine.frame(site) for site in engine.SITES}
    frames[ME] = frames[ME].head(12)
    bench = Bench(tmp_path, frames=frames)
    with pytest.raises(DisclosureRefusal) as raised:
        bench.masked(bench.totals())
    assert raised.value.rule == "parameters-against-patients"
    bench.close()


# -- hide: none -------------------------------------------------------------------------------------------------------


def test_an_unprotected_study_is_below_the_default_policy(tmp_path: Path) -> None:
    with pytest.raises(PolicyRefusal) as raised:
        Bench(tmp_path, engine.study("odds", protection={"hide": "none"}))
    assert raised.value.rule == "least-protection"


def test_under_a_policy_that_accepts_it_the_sites_own_small_cells_are_suppressed(tmp_path: Path) -> None:
    study = engine.study("curves", protection={"hide": "none"})
    given = {}
    for suppress in (False, True):
        bench = Bench(
            tmp_path / str(suppress),
            study,
            policy=Policy(hide=frozenset({"none"}), suppress_own_cells=suppress),
        )
        ask = bench.totals(analysis="curves", method="kaplan-meier", contribution="counts", operation="sum")
        given[suppress] = bench.send(ME, Plain(ask)).view(np.int64)
        bench.close()
    whole, suppressed = given[False], given[True]
    assert ((whole > 0) & (whole < 10)).any()
    assert not ((suppressed > 0) & (suppressed < 10)).any()
    assert (suppressed == np.where(whole < 10, 0, whole)).all()


def test_what_is_given_in_the_clear_is_the_encoded_part_and_is_repeated(open_bench: Bench) -> None:
    ask = open_bench.gradient()
    first = open_bench.send(ME, Plain(ask))
    again = open_bench.send(ME, Plain(replace(ask, attempt=2)))
    assert first.dtype == exact.Word
    assert (first == again).all()
    open_bench.send(ME, Close(Closes(ask.key)))
    refused(open_bench, ME, Plain(replace(ask, attempt=3)), ProtocolError, "one-opening-per-step")
    refused(open_bench, ME, open_bench.bare(open_bench.totals()), ProtocolError, "study-protection")
    refused(open_bench, ME, keys_for(open_bench.totals()), ProtocolError, "study-protection")


# -- the audit log ----------------------------------------------------------------------------------------------------


def test_the_audit_log_tells_what_was_asked_answered_and_refused_without_a_value(bench: Bench) -> None:
    bench.opened(bench.totals())
    refused(bench, ME, bench.bare(bench.gradient(beta=(7e5, 0.0, 0.0))), PermitError, "argument-limits")
    site = bench.sites[ME]
    events = audit(site)
    assert [e["event"] for e in events] == ["admitted", "answered", "unmasked", "refused"]
    assert events[2]["survivors"] == sorted(engine.SITES)
    assert events[1]["name"] == "totals"
    assert site.audit.verify()
    text = json.dumps([{k: v for k, v in e.items() if k not in ("previous", "roster", "study")} for e in events])
    text = text.replace(events[1]["step"][0], "the run")  # a random name, whose digits could be anybody's
    assert "700000" not in text
    values = {f"{v:g}" for column in ("age", "time") for v in bench.frames[ME][column] if v > 100 or v % 1}
    assert not values & set(re.findall(r"[\d.]+", text))


def test_a_changed_or_removed_line_of_the_audit_log_is_seen(bench: Bench) -> None:
    bench.opened(bench.totals())
    bench.refusal(ME, bench.bare(bench.totals(attempt=2)))
    path = bench.sites[ME].home / "audit.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    for changed in (
        [lines[0].replace("admitted", "rejected"), *lines[1:]],
        [lines[0], *lines[2:]],
        [*lines[:1], "garbage\n", *lines[1:]],
    ):
        path.write_text("".join(changed))
        assert not bench.sites[ME].audit.verify()
    path.write_text("".join(lines))
    assert bench.sites[ME].audit.verify()


def test_a_line_that_was_cut_off_is_dropped_and_the_chain_goes_on(bench: Bench) -> None:
    path = bench.sites[ME].home / "audit.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "answ')
    site = bench.start(ME)
    assert [e["event"] for e in audit(site)] == ["admitted", "admitted"]
    assert site.audit.verify()


def test_without_room_for_the_audit_log_nothing_is_answered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = bench.totals()
    bench.masked(ask)
    log = bench.sites[ME].audit

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("full", rule="durable-storage", remedy="free some")

    again = bench.totals(attempt=2)
    monkeypatch.setattr(log, "write", full)
    with pytest.raises(StorageError):
        bench.masked(again)


# -- the site's memory ------------------------------------------------------------------------------------------------


def test_a_site_whose_memory_was_emptied_says_so_and_does_not_begin_anew(bench: Bench) -> None:
    bench.opened(bench.totals())
    bench.sites[ME].close()
    path = bench.homes[ME].path / "state.db"
    kept = path.read_bytes()
    for damage in (b"", b"no database" * 500, kept[:5000]):
        path.write_bytes(damage)
        with pytest.raises(UnisonoError) as raised:
            bench.start(ME).state.step(bench.totals().key)
        assert raised.value.rule == "journal-integrity", damage[:20]
    path.write_bytes(kept)
    bench.start(ME)
    refused(bench, ME, bench.bare(bench.totals(attempt=2)), ProtocolError, "one-opening-per-step")
