"""Keys made before a question is known: for whom, how often, for which reader; and sums that one hospital reads alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine, lung
from tests.support.bench import Bench, audit, refused
from tests.support.methods import READER, SIZE, ToOne, Training, installed
from unisono.engines.embedded.exchange import EmbeddedExchange
from unisono.engines.embedded.run import Fault
from unisono.errors import PermitError, PolicyRefusal, ProtocolError, UnisonoError
from unisono.federation.ask import Ask, opened_tree
from unisono.federation.exchange import (
    Advertise,
    Close,
    Closes,
    Commit,
    Deliver,
    Masked,
    Message,
    NewSlot,
    Share,
    SlotLost,
)
from unisono.methods.registry import build, check
from unisono.protection.encoding.codec import codec
from unisono.protection.leaves import update_bound
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.messages import KeyRoster, Unmask
from unisono.protection.secagg.setup import SlotSetup
from unisono.protection.secagg.site import Stage
from unisono.site.permit import Permit
from unisono.study.document import Study
from unisono.study.load import load

ME = "turin"
REGULAR = tuple(f"s{k:02d}" for k in range(34))
"""Enough sites for a random graph."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _methods() -> Iterator[None]:
    with installed():
        yield


def study_of(method: str, **changes: Any) -> Study:
    return load({**lung.DOCUMENT, "analyses": {"a": {"method": method, "variable": "age"}}, **changes}, check)


@pytest.fixture
def school(tmp_path: Path) -> Iterator[Bench]:
    """Four sites that train a model."""
    made = Bench(tmp_path, study_of("test-training"))
    yield made
    made.close()


@pytest.fixture
def parish(tmp_path: Path) -> Iterator[Bench]:
    """Four sites, one of which reads sums."""
    made = Bench(tmp_path, study_of("test-to-one"))
    yield made
    made.close()


def training(bench: Bench, step: int = 1, **changes: Any) -> Ask:
    """An honest ask for an update; a sum of those who stay is meant too."""
    asked = bench.totals(analysis="a", method="test-training", contribution="round", step=step, operation="mean")
    asked = replace(asked, encoding="fixed32", partial=True, arguments=[np.zeros(SIZE)])
    return replace(asked, **changes)


def to_one(bench: Bench, **changes: Any) -> Ask:
    """An honest ask for a sum that one site reads."""
    asked = bench.totals(analysis="a", method="test-to-one", contribution="moments", to=READER, receipt="read")
    return replace(asked, **changes)


def wanted(ask: Ask, slot: str = "slot", **circle: Any) -> Advertise:
    """Keys for the circle of an ask."""
    return Advertise(replace(ask.circle, **circle), NewSlot(slot, ask.to))


# -- ahead of the question --------------------------------------------------------------------------------------------


def masked_with_next(bench: Bench, ask: Ask, setup: SlotSetup, following: SlotSetup) -> AggregatorSession:
    """Message C, with which the next slot's keys come."""
    session = bench.session(setup, ask)
    for site in ask.sites:
        message = replace(bench.question(ask, setup, site), next=NewSlot(following.slot, following.recipient))
        answer = bench.send(site, message)
        assert isinstance(answer, Masked)
        assert answer.next is not None
        session.collect_masked(answer.part)
        following.collect_advertise(answer.next)
    return session


def test_the_next_slots_keys_and_shares_ride_along_and_are_as_good_as_asked_for(bench: Bench) -> None:
    first, second = bench.totals(), bench.gradient()
    following = bench.new_setup(second)
    session = masked_with_next(bench, first, bench.setup(first), following)
    keys = following.key_roster()
    for site in first.sites:
        revealed = bench.send(site, replace(bench.reveal(first, session.unmask_request()), next=keys))
        session.collect_unmask(revealed.shares)
        following.collect_shares(revealed.next)
    assert (session.open() == bench.true_sum(first)).all()
    then = bench.session(following, second)
    for site in second.sites:
        message = replace(bench.question(second, following, site), closes=Closes(first.key))
        then.collect_masked(bench.send(site, message).part)
    assert (bench.opened(second, then) == bench.true_sum(second)).all()
    refused(bench, ME, bench.bare(replace(first, attempt=2)), ProtocolError, "one-opening-per-step")


class Counting(EmbeddedExchange):
    """Counts the messages to one site."""

    seen: Counter[str]

    async def request(self, site: str, message: Message) -> object:
        if site == ME:
            Counting.seen[message.phase] += 1
        return await super().request(site, message)


@pytest.mark.parametrize("threat", ["semi-honest", "malicious"])
def test_in_steady_state_a_sum_takes_two_round_trips_and_three_with_signed_survivors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threat: str
) -> None:
    monkeypatch.setattr("unisono.engines.embedded.run.EmbeddedExchange", Counting)
    monkeypatch.setattr(Counting, "seen", Counter(), raising=False)
    engine.estimates(engine.run(engine.study("odds", protection={"hide": "secagg", "threat": threat}), tmp_path))
    sums = len(engine.records(tmp_path, "odds", "opened"))
    assert sums > 3
    agreed = {"agree": sums} if threat == "malicious" else {}
    assert Counting.seen == {"advertise": 1, "share": 1, "mask": sums, "unmask": sums, "close": 1, **agreed}


def test_keys_that_ride_along_are_not_given_when_the_question_is_refused(bench: Bench) -> None:
    extreme = bench.bare(bench.gradient(beta=(7e5, 0.0, 0.0)))
    refused(bench, ME, replace(extreme, next=NewSlot("next")), PermitError, "argument-limits")
    with pytest.raises(SlotLost):
        bench.send(ME, Share(bench.gradient().circle, KeyRoster(bench.run, "next", ())))


def test_a_site_holds_three_slots_at_a_time_and_forgets_the_oldest(bench: Bench) -> None:
    ask = bench.totals()
    setups = [bench.setup(ask) for _ in range(4)]
    with pytest.raises(SlotLost):
        bench.send(ME, bench.question(ask, setups[0], ME))
    assert bench.send(ME, bench.question(ask, setups[1], ME)).part.site == ME


def test_closing_a_step_closes_all_before_it(bench: Bench) -> None:
    first, second, third = bench.totals(), bench.gradient(), bench.gradient(step=3)
    for ask in (first, second):
        bench.opened(ask, close=False)
    state = bench.sites[ME].state
    steps = [state.step(ask.key) for ask in (first, second)]
    assert all(step is not None and step.vector is not None and step.answer is not None for step in steps)
    bench.send(ME, replace(bench.question(third, bench.setup(third), ME), closes=Closes(second.key)))
    steps = [state.step(ask.key) for ask in (first, second)]
    assert all(step is not None and step.closed and step.vector is None and step.answer is None for step in steps)
    last = state.step(third.key)
    assert last is not None
    assert not last.closed
    refused(bench, ME, bench.bare(replace(first, attempt=2)), ProtocolError, "one-opening-per-step")


def test_withdrawing_a_study_forgets_the_slots_that_were_made_ahead(bench: Bench) -> None:
    ask = bench.totals()
    setup = bench.setup(ask)
    (_, party), *_ = bench.sites[ME]._parties.values()
    session = party._slots[setup.slot]
    bench.sites[ME].withdraw(bench.study.digest())
    assert session.stage is Stage.FORGOTTEN
    assert not any(session._keys.mask) and not any(session._keys.self_seed)
    refused(bench, ME, wanted(ask), PermitError, "permit-study")
    bench.admit(ME, bench.roster)
    with pytest.raises(SlotLost):
        bench.send(ME, bench.question(ask, setup, ME))
    assert (bench.opened(ask) == bench.true_sum(ask)).all()


# -- for whom keys are made -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "rule"),
    [
        ({"analysis": "curves"}, ProtocolError, "study-protection"),
        ({"analysis": "../../etc"}, ProtocolError, "study-protection"),
        ({"study": "0" * 64}, PermitError, "permit-study"),
        ({"sites": ("leiden", "madrid", "turin")}, PermitError, "frozen-sites"),
        ({"sites": ("leiden", "madrid", "padua")}, PermitError, "permit-roster"),
        ({"sites": ("leiden", "madrid", "nowhere", "padua", "turin")}, PermitError, "permit-roster"),
        ({"sites": ("leiden", "leiden", "turin")}, ProtocolError, "ask-format"),
        ({"sites": ("padua", "turin")}, PolicyRefusal, "min_sites"),
        ({"sites": ("turin",)}, PolicyRefusal, "min_sites"),
        ({"hide": "none"}, PolicyRefusal, "least-protection"),
        ({"hide": "secagg+"}, ProtocolError, "study-protection"),
        ({"epoch": -1}, ProtocolError, "ask-format"),
        ({"epoch": True}, ProtocolError, "ask-format"),
        ({"epoch": 0.0}, ProtocolError, "ask-format"),
        ({"run": 7}, ProtocolError, "ask-format"),
    ],
)
@pytest.mark.parametrize("first", ["advertise", "commit"])
def test_no_keys_are_made_for_what_is_not_permitted(
    bench: Bench, first: str, changes: dict[str, Any], kind: type[UnisonoError], rule: str
) -> None:
    message = wanted(bench.totals(), **changes)
    refused(bench, ME, message if first == "advertise" else Commit(message.circle), kind, rule)
    assert not bench.sites[ME]._parties


def test_no_keys_are_made_for_a_reader_who_is_not_in_the_circle(bench: Bench) -> None:
    refused(bench, ME, Advertise(bench.totals().circle, NewSlot("slot", "nowhere")), ProtocolError, "recipient")


def test_no_keys_are_made_under_an_expired_permit(bench: Bench) -> None:
    bench.send(ME, wanted(bench.totals()))
    bench.later(days=91)
    for message in (wanted(bench.totals()), wanted(bench.totals(), "slot-2"), Commit(bench.totals().circle)):
        refused(bench, ME, message, PermitError, "permit-expired")


def two_runs(permit: Permit) -> Permit:
    return permit.model_copy(update={"runs": 2})


@pytest.mark.parametrize("restarted", [False, True])
def test_a_run_that_made_keys_and_never_asked_counts_as_a_beginning(tmp_path: Path, restarted: bool) -> None:
    bench = Bench(tmp_path, alter=two_runs, started=[ME])
    for run in ("a", "b", "a", "b"):
        bench.send(ME, wanted(bench.totals(run=run)))
    if restarted:
        bench.start(ME)
    refused(bench, ME, wanted(bench.totals(run="c")), PermitError, "permit-runs")
    bench.send(ME, wanted(bench.totals(run="b"), "another"))
    bench.close()


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Bench]:
    """One of many sites, under a random graph; sites may leave."""
    study = engine.study("odds", protection={"hide": "secagg+"}, participation={"on_dropout": "continue"})
    frames = dict.fromkeys(REGULAR, engine.frame(ME))
    made = Bench(tmp_path, study, REGULAR, alter=two_runs, frames=frames, started=["s00"])
    yield made
    made.close()


def test_a_run_that_only_committed_to_a_nonce_counts_as_a_beginning(town: Bench) -> None:
    """Otherwise a coordinator could draw graphs until one surrounds a hospital with its friends."""
    assert not town.group(town.totals()).parameters.complete
    given = [town.send("s00", Commit(town.totals(run=run).circle)) for run in ("a", "b", "a")]
    assert given[0] == given[2] != given[1]  # asking again draws nothing again
    town.start("s00")
    assert town.send("s00", Commit(town.totals(run="a").circle)) == given[0]
    refused(town, "s00", Commit(town.totals(run="c").circle), PermitError, "permit-runs")
    assert [e["run"] for e in audit(town.sites["s00"]) if e["event"] == "committed"] == ["a", "b", "a", "a"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_graph_is_not_drawn_again_by_counting_up_the_epoch(town: Bench, restarted: bool) -> None:
    town.send("s00", Commit(town.totals().circle))
    if restarted:
        town.start("s00")
    refused(town, "s00", Commit(town.totals(epoch=1).circle), ProtocolError, "frozen-sites")
    without = REGULAR[:-1]  # a site left: a new graph, once
    town.send("s00", Commit(town.totals(epoch=1, sites=without).circle))
    for back in ({"epoch": 2, "sites": without}, {"epoch": 2}, {"epoch": 0}, {"epoch": 0, "sites": without}):
        refused(town, "s00", Commit(town.totals(**back).circle), ProtocolError, "frozen-sites")


@pytest.mark.parametrize("restarted", [False, True])
def test_two_circles_under_one_name_are_refused(tmp_path: Path, restarted: bool) -> None:
    bench = Bench(tmp_path, engine.study("odds", participation={"on_dropout": "continue"}), started=[ME])
    ask = bench.totals()
    bench.send(ME, wanted(ask))
    if restarted:
        bench.start(ME)
    fewer = bench.totals(sites=("leiden", "madrid", "turin"))
    refused(bench, ME, wanted(fewer, "slot-2"), ProtocolError, "frozen-sites")
    refused(bench, ME, Commit(fewer.circle), ProtocolError, "frozen-sites")
    refused(bench, ME, bench.bare(fewer), ProtocolError, "frozen-sites")
    bench.close()


def test_one_run_under_two_studies_is_two_circles_under_one_name(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other", engine.study("odds", question="Another?"))
    site = bench.sites[ME]
    permit = other.sites[ME]._studies[other.study.digest()].permit
    permit = permit.model_copy(update={"roster": dict(bench.roster.to_tree())}).signed(bench.homes[ME].identity())
    site.admit(other.study, permit, bench.roster, other.worker(ME))
    setup = bench.setup(bench.totals())
    elsewhere = bench.totals(study=other.study.digest())
    refused(bench, ME, wanted(elsewhere, "slot-2"), ProtocolError, "frozen-sites")
    refused(bench, ME, bench.question(elsewhere, setup, ME), ProtocolError, "frozen-sites")
    other.close()


# -- a slot is used once ----------------------------------------------------------------------------------------------


def test_keys_and_shares_that_were_lost_on_the_way_are_repeated_and_no_others_given(bench: Bench) -> None:
    ask = bench.totals()
    setup = bench.advertised(ask)
    message = Advertise(ask.circle, NewSlot(setup.slot))
    assert bench.send(ME, message) == setup.advertised[ME]
    keys = setup.key_roster()
    shares = bench.send(ME, Share(ask.circle, keys))
    assert bench.send(ME, Share(ask.circle, keys)) == shares
    refused(bench, ME, message, ProtocolError, "message-order")
    fewer = KeyRoster(ask.run, setup.slot, keys.advertised[1:])
    refused(bench, ME, Share(ask.circle, fewer), ProtocolError, "message-order")


def test_a_used_slot_is_not_used_again(bench: Bench) -> None:
    ask = bench.totals()
    setup = bench.masked(ask).setup
    for message in (
        Advertise(ask.circle, NewSlot(setup.slot)),
        Share(ask.circle, setup.key_roster()),
        bench.question(bench.gradient(), setup, ME),
    ):
        refused(bench, ME, message, ProtocolError, "message-order")
    # What rides along with an answer never holds it up: no keys ride, and asked for by itself it is refused.
    riding = replace(bench.question(bench.gradient(), bench.setup(ask), ME), next=NewSlot(setup.slot))
    assert bench.send(ME, riding).next is None


def test_a_name_that_was_used_before_gets_other_keys(bench: Bench) -> None:
    ask = bench.totals()
    setup = bench.setup(ask)
    bench.send(ME, bench.question(ask, setup, ME))
    bench.send(ME, Close(Closes(ask.key)))
    again = bench.send(ME, Advertise(ask.circle, NewSlot(setup.slot)))
    assert again.mask_key != setup.advertised[ME].mask_key
    # Boxes that were sealed for the old keys are of no use under the new ones.
    for site in ask.sites:
        if site != ME:
            bench.start(site)
    advertised = [again if s == ME else bench.send(s, Advertise(ask.circle, NewSlot(setup.slot))) for s in ask.sites]
    bench.send(ME, Share(ask.circle, KeyRoster(ask.run, setup.slot, tuple(advertised))))
    later = bench.gradient()
    refused(bench, ME, bench.question(later, setup, ME), ProtocolError, "sealed-box")


def test_a_question_of_another_circle_finds_no_slot_here(bench: Bench) -> None:
    setup = bench.setup(bench.totals())
    with pytest.raises(SlotLost):
        bench.send(ME, bench.question(bench.totals(run="run-2"), setup, ME))


# -- the reader is fixed when keys are made ---------------------------------------------------------------------------


def test_the_reader_of_a_sum_is_fixed_when_its_keys_are_made(parish: Bench) -> None:
    to_me, to_all = to_one(parish), to_one(parish, to="", receipt="")
    to_padua = to_one(parish, to="padua")
    setup = parish.setup(to_me)
    for other in (to_all, to_padua):
        refused(parish, ME, wanted(other, setup.slot), ProtocolError, "recipient")
        for site in ("leiden", "padua", ME):
            refused(parish, site, parish.question(other, setup, site), ProtocolError, "recipient")
    plain = parish.setup(to_all)
    refused(parish, "leiden", parish.question(to_me, plain, "leiden"), ProtocolError, "recipient")
    assert parish.sites["leiden"].state.step(to_me.key) is None


def test_keys_for_another_reader_are_refused_with_what_was_signed(parish: Bench) -> None:
    ask = to_one(parish)
    told = dict.fromkeys(parish.names, ask) | {"leiden": to_one(parish, to="padua")}
    keys = KeyRoster(ask.run, "slot", tuple(parish.send(site, wanted(told[site])) for site in parish.names))
    refused(parish, ME, Share(ask.circle, keys), ProtocolError, "recipient")
    evidence = audit(parish.sites[ME])[-1]["evidence"]
    assert '"padua"' in evidence["signed"]
    assert evidence["signature"] == keys.advertised[0].signature.hex()


def test_a_step_has_one_reader_for_ever(parish: Bench) -> None:
    parish.masked(to_one(parish))
    for other in (to_one(parish, to="", receipt=""), to_one(parish, to="padua"), to_one(parish, receipt="learned")):
        message = parish.bare(replace(other, attempt=2))
        refused(parish, ME, message, ProtocolError, "one-question-per-step")


# -- a sum to a site --------------------------------------------------------------------------------------------------


def sheet(bench: Bench, site: str) -> dict[str, Any] | None:
    found = list(bench.homes[site].path.glob("kept/*/a.json"))
    return json.loads(found[0].read_text("utf-8")) if found else None


def delivered(bench: Bench, ask: Ask, session: AggregatorSession) -> Deliver:
    """Everything up to the last message, which goes to the reader."""
    return Deliver(ask.key, session.slot, bench.opened(ask, session, close=False), session.survivors)


def test_a_sum_to_a_site_makes_a_sheet_there_and_is_noise_to_everybody_else(parish: Bench) -> None:
    ask = to_one(parish)
    message = delivered(parish, ask, parish.masked(ask))
    true = parish.true_sum(ask)
    assert not (message.words == true).any()
    assert sheet(parish, READER) is None
    parish.send(READER, message)
    found = sheet(parish, READER)
    total = codec("exact").decode(true, parish.leaves(ask), 4).tree
    assert found is not None
    assert found["n"] == parish.patients
    assert found["average"] == float(total["total"] / total["n"])
    assert found["own"] == pytest.approx(parish.frames[READER]["age"].mean(), abs=1e-12)
    assert [sheet(parish, site) for site in parish.names if site != READER] == [None] * 3
    assert audit(parish.sites[READER])[-1]["event"] == "received"
    parish.send(READER, message)  # lost on the way back: the same again
    assert sheet(parish, READER) == found


def test_a_sum_is_delivered_to_its_reader_whole_and_after_unmasking(parish: Bench) -> None:
    ask = to_one(parish)
    session = parish.masked(ask)
    noise = Deliver(ask.key, session.slot, session.accumulated, session.survivors)
    refused(parish, READER, noise, ProtocolError, "message-order")
    message = delivered(parish, ask, session)
    refused(parish, "padua", message, ProtocolError, "recipient")
    longer = np.zeros(message.words.size + 1, np.uint64)
    for words in (message.words[:-1], longer, message.words.astype(np.uint32)):
        refused(parish, READER, replace(message, words=words), ProtocolError, "encoding-length")
    refused(parish, READER, replace(message, key=(*ask.key[:3], 9)), ProtocolError, "other-slot")
    with pytest.raises(SlotLost):
        parish.send(READER, replace(message, slot="another"))
    assert sheet(parish, READER) is None


def test_a_sum_that_the_coordinator_reads_is_delivered_to_nobody(parish: Bench) -> None:
    ask = to_one(parish, to="", receipt="")
    session = parish.masked(ask)
    message = delivered(parish, ask, session)
    assert (message.words == parish.true_sum(ask)).all()
    for site in parish.names:
        error = parish.refusal(site, message)
        assert isinstance(error, ProtocolError)
    assert not any(sheet(parish, site) for site in parish.names)


def test_without_its_reader_a_sum_is_not_unmasked(parish: Bench) -> None:
    ask = to_one(parish, contribution="round", receipt="learned", arguments=[np.zeros(SIZE)])
    ask = replace(ask, encoding="fixed32", partial=True)
    request = parish.masked(ask).unmask_request()
    without = replace(request, survivors=("leiden", "madrid", "padua"))
    for site in without.survivors:
        refused(parish, site, parish.reveal(ask, without), ProtocolError, "recipient-survives")
        step = parish.sites[site].state.step(ask.key)
        assert step is not None
        assert step.survivors is None


def test_a_reader_that_was_restarted_gets_the_sum_in_another_attempt(parish: Bench) -> None:
    ask = to_one(parish)
    message = delivered(parish, ask, parish.masked(ask))
    parish.start(READER)
    with pytest.raises(SlotLost):
        parish.send(READER, message)
    again = replace(ask, attempt=2)
    parish.send(READER, delivered(parish, again, parish.masked(again)))
    found = sheet(parish, READER)
    assert found is not None
    assert found["n"] == parish.patients


@pytest.mark.parametrize(
    "faults",
    [
        (),
        (Fault(READER, "deliver", "crash", "before"),),
        (Fault(READER, "deliver", "drop", "after"),),
        (Fault(READER, "unmask", "crash", "after"),),
        (Fault("padua", "unmask", "crash", "before"),),
    ],
    ids=["nothing", "reader-restarts-before-the-sum", "answer-lost", "reader-restarts-after-unmasking", "another"],
)
def test_a_run_whose_sum_is_for_one_site_ends_with_its_sheet(tmp_path: Path, faults: tuple[Fault, ...]) -> None:
    run = engine.run(study_of("test-to-one"), tmp_path, faults=faults)
    assert engine.estimates(run) == {"a": {}}
    (sheet,) = tmp_path.glob("sites/*/kept/*/a.json")
    assert sheet.parents[2].name == READER
    pooled = np.concatenate([engine.frame(site)["age"] for site in engine.SITES])
    found = json.loads(sheet.read_text("utf-8"))
    assert found["n"] == len(pooled)
    assert found["average"] == pytest.approx(pooled.mean(), rel=1e-12)
    opened = engine.records(tmp_path, "a", "opened")[-1].body
    assert opened is not None
    assert opened["to"] == READER
    assert opened["words"].size == 0  # not even masked words are kept


def test_updates_can_be_summed_to_a_site_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToOne, "updates", True)
    engine.estimates(engine.run(study_of("test-to-one"), tmp_path))
    found = json.loads(next((tmp_path / "sites" / READER).glob("kept/*/a.json")).read_text("utf-8"))
    true = sum(update_of(site)["delta"] for site in engine.SITES)
    assert np.allclose(found["delta"], true, rtol=0, atol=1e-7)


# -- model updates ----------------------------------------------------------------------------------------------------


def update_of(site: str, weights: Any = 0.0) -> dict[str, Any]:
    """What a site's part of a round is, from its data."""
    method = build(study_of("test-training"), "a")
    assert isinstance(method, Training)
    data = np.asarray(engine.frame(site)["age"], float)
    found: dict[str, Any] = method.round.compute(data, np.zeros(SIZE) + weights)
    return found


def average(bench: Bench, ask: Ask, words: Any) -> dict[str, Any]:
    leaves = bench.leaves(ask)
    return opened_tree(ask.operation, leaves, ask.facts, codec(ask.encoding).decode(words, leaves, 4).tree)


def pooled_update(sites: tuple[str, ...], weights: Any = 0.0) -> Any:
    patients = {site: len(engine.frame(site)) for site in sites}
    total = sum(n * update_of(site, weights)["delta"] for site, n in patients.items())
    return total / sum(patients.values())


def test_a_mean_of_updates_is_weighted_by_patients(school: Bench) -> None:
    ask = training(school)
    found = average(school, ask, school.opened(ask))
    assert np.allclose(found["delta"], pooled_update(school.names), rtol=0, atol=1e-7)
    losses = [len(school.frames[s]) * update_of(s)["loss"] for s in school.names]
    assert found["loss"] == pytest.approx(sum(losses) / school.patients, rel=1e-9)


def test_a_mean_of_fewer_sites_is_weighted_by_their_patients(school: Bench) -> None:
    ask = training(school)
    setup = school.setup(ask)
    session = school.session(setup, ask)
    stayed = tuple(site for site in school.names if site != "leiden")
    for site in stayed:
        session.collect_masked(school.send(site, school.question(ask, setup, site)).part)
    assert session.dropped == ("leiden",)
    found = average(school, ask, school.opened(ask, session))
    assert np.allclose(found["delta"], pooled_update(stayed), rtol=0, atol=1e-6)
    losses = [len(school.frames[s]) * update_of(s)["loss"] for s in stayed]
    assert found["loss"] == pytest.approx(sum(losses) / sum(len(school.frames[s]) for s in stayed), rel=1e-9)


def test_a_model_is_trained_as_on_the_pooled_updates(tmp_path: Path) -> None:
    found = engine.estimates(engine.run(study_of("test-training"), tmp_path))["a"]
    weights: Any = np.zeros(SIZE)
    for _ in range(2):
        weights = weights + pooled_update(engine.SITES, weights)
    assert np.allclose(found["weights"], weights, rtol=0, atol=1e-6)


def test_updates_beyond_their_bound_are_clipped_and_the_number_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "clip", 0.01)
    run = engine.run(study_of("test-training"), tmp_path)
    clipped = [event.words for event in run.events if event.kind == "clipped"]
    patients = {site: len(engine.frame(site)) for site in engine.SITES}
    shares = {site: n / sum(patients.values()) for site, n in patients.items()}
    assert clipped[0] == sum(int((np.abs(update_of(s)["delta"] * w) > 0.01).sum()) for s, w in shares.items())
    assert np.abs(engine.estimates(run)["a"]["weights"]).max() <= 2 * len(engine.SITES) * 0.01 + 1e-9


@pytest.mark.parametrize(
    "changes",
    [{"encoding": "exact"}, {"encoding": "exact", "partial": False}, {"encoding": "none"}],
)
def test_updates_are_asked_for_in_their_own_encoding(school: Bench, changes: dict[str, Any]) -> None:
    refused(school, ME, school.bare(training(school, **changes)), ProtocolError, "encoding")


def test_a_round_may_ask_for_all_its_sites_and_is_then_not_opened_over_fewer(school: Bench) -> None:
    ask = training(school, partial=False)
    session = school.masked(ask)
    fewer = replace(session.unmask_request(), survivors=("madrid", "padua", "turin"))
    refused(school, ME, school.reveal(ask, fewer), ProtocolError, "frozen-sites")
    refused(school, ME, school.bare(training(school, attempt=2)), ProtocolError, "one-question-per-step")


@pytest.mark.parametrize("operation", ["sum", "mean"])
def test_a_statistic_is_not_asked_for_as_an_update(bench: Bench, operation: Any) -> None:
    for changes in ({"encoding": "fixed32"}, {"encoding": "fixed32", "partial": True}, {"partial": True}):
        ask = bench.totals(operation=operation, **changes)
        refused(bench, ME, bench.bare(ask), ProtocolError, "encoding")


def fewer_than_all(request: Unmask) -> Unmask:
    return replace(request, survivors=("madrid", "padua", "turin"))


def test_a_round_unmasked_for_fewer_sites_is_retried_for_exactly_those(school: Bench) -> None:
    ask = training(school)
    school.send(ME, school.reveal(ask, fewer_than_all(school.masked(ask).unmask_request())))
    again = replace(ask, attempt=2)
    session = school.masked(again)
    everybody = session.unmask_request()
    refused(school, ME, school.reveal(again, everybody), ProtocolError, "one-opening-per-step")
    assert audit(school.sites[ME])[-1]["evidence"]["first"] == "madrid, padua, turin"
    school.send(ME, school.reveal(again, fewer_than_all(everybody)))


def test_too_few_sites_are_not_unmasked(school: Bench) -> None:
    ask = training(school)
    request = school.masked(ask).unmask_request()
    for survivors, rule in ((("padua", "turin"), "enough-survivors"), (("leiden", "madrid", "padua"), "survivor-set")):
        message = school.reveal(ask, replace(request, survivors=survivors))
        refused(school, ME, message, ProtocolError, rule)


def test_a_randomly_rounded_part_is_sent_again_bit_for_bit_after_a_restart(school: Bench) -> None:
    ask = training(school)
    setup = school.setup(ask)
    session = school.session(setup, ask)
    for site in school.names:
        session.collect_masked(school.send(site, school.question(ask, setup, site)).part)
    first = school.opened(ask, session, close=False)
    kept = {site: stored(school, site, ask) for site in school.names}
    for site in school.names:
        school.start(site)
    again = replace(ask, attempt=2)
    second = school.opened(again, close=False)
    assert first.dtype == second.dtype == np.uint32
    assert (first == second).all()
    assert all((stored(school, site, ask) == kept[site]).all() for site in school.names)
    # Had it been rounded anew, it would not be the same: another step with the same question but for its number is not.
    assert not (school.opened(training(school, step=2)) == first).all()


def stored(bench: Bench, site: str, ask: Ask) -> Any:
    step = bench.sites[site].state.step(ask.key)
    assert step is not None
    return step.vector


def test_a_part_leaves_within_its_quantum_of_what_was_computed(school: Bench) -> None:
    """The stored vector is what the site's part is, weighted by its share of the patients."""
    ask = training(school)
    school.masked(ask)
    leaves = school.leaves(ask)
    share = len(school.frames[ME]) / school.patients
    found = codec("fixed32").decode(stored(school, ME, ask), leaves, 4).tree["delta"]
    assert np.abs(found - share * update_of(ME)["delta"]).max() <= update_bound(leaves["delta"]) * 2.0**-28
