"""What goes wrong between a coordinator and its sites: links that flap, sites that restart, hang or send nonsense. A sum is
right, or there is none and the same command finishes; no step is unmasked for two sets of sites."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine, lung
from tests.support.bench import Bench, audit, refused
from tests.support.engine import SITES, estimates, hospitals, records, run
from tests.support.methods import READER, SIZE, Training, installed
from unisono.engines.embedded.exchange import EmbeddedExchange
from unisono.engines.embedded.run import Fault, Run
from unisono.errors import PermitError, ProtocolError, UnisonoError
from unisono.federation import attempts, waiting
from unisono.federation.ask import Ask
from unisono.federation.events import Event
from unisono.federation.exchange import Advertise, Closes, Deliver, Masked, Message, Phase, Revealed
from unisono.methods.base import PlannedAsk, Result
from unisono.methods.registry import build, check
from unisono.site.agent import Site
from unisono.site.permit import Permit
from unisono.study.document import Study
from unisono.study.load import load

THREATS = ("semi-honest", "malicious")
PHASES: tuple[Phase, ...] = ("advertise", "share", "mask", "agree", "unmask", "close")
ROUNDS = 5
HANGING_S = 30.0
ONE = "madrid"
"""The site that something happens to."""
QUICK_S = 12.0
"""Far below `HANGING_S`, and far above what a run takes on a busy machine."""


@pytest.fixture(autouse=True)
def _longer_training(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The method of partial sums, with rounds enough for a site to leave and return; and short pauses."""

    def plan(self: Training) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.round, (np.zeros(SIZE),), ROUNDS),)

    async def trained(self: Training, federation: Any) -> Result:
        weights = np.zeros(SIZE)
        for _ in range(ROUNDS):
            found = await federation.mean(self.round, weights)
            weights = weights + found["delta"]
        return self.result(self.study, self.analysis, {"weights": weights.tolist(), "loss": float(found["loss"])})

    monkeypatch.setattr(Training, "plan", plan)
    monkeypatch.setattr(Training, "run", trained)
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 0.005)
    with installed():
        yield


def hidden(threat: str) -> dict[str, str]:
    return {"hide": "secagg", "threat": threat}


def exact(threat: str = "semi-honest") -> Study:
    """A logistic model: seven sums, each over all sites."""
    return engine.study("odds", protection=hidden(threat))


def partial(threat: str = "semi-honest") -> Study:
    """A model trained by means of updates; each over those who are there, three at least of four."""
    return of_method("test-training", protection=hidden(threat))


def of_method(method: str, **changes: Any) -> Study:
    return load({**lung.DOCUMENT, "analyses": {"a": {"method": method, "variable": "age"}}, **changes}, check)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """The logistic model over three and over four sites, nothing going wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return {n: estimates(run(exact(), folder / str(n), data=hospitals(SITES[:n])))["odds"] for n in (3, 4)}


# -- what must hold after any run -------------------------------------------------------------------------------------


@cache
def ages(site: str) -> Any:
    return np.asarray(engine.frame(site)["age"], float)


def trained_by(participants: Sequence[Sequence[str]]) -> tuple[Any, float]:
    """Weights and last loss of a model whose rounds had these sites in, from the sites' true parts."""
    method = build(partial(), "a")
    assert isinstance(method, Training)
    weights, loss = np.zeros(SIZE), float("nan")
    for sites in participants:
        patients = sum(len(ages(site)) for site in sites)
        parts = [(len(ages(site)) / patients, method.round.compute(ages(site), weights)) for site in sites]
        loss = float(sum(share * part["loss"] for share, part in parts))
        weights = weights + sum(share * part["delta"] for share, part in parts)
    return weights, loss


def participants(out: Path, analysis: str) -> dict[int, tuple[str, ...]]:
    """By step, each of which is opened once."""
    found = records(out, analysis, "opened")
    assert len({r.step for r in found}) == len(found)
    return {r.step: tuple(r.body["participants"]) for r in found if r.body is not None}


def is_the_mean_of_those_who_were_in(out: Path, found: dict[str, Any]) -> None:
    sets = participants(out, "a")
    assert sorted(sets) == list(range(ROUNDS + 1))
    assert all(len(sites) >= 3 for sites in sets.values())
    weights, loss = trained_by([sets[step] for step in range(1, ROUNDS + 1)])
    assert np.isfinite(found["weights"]).all()
    assert np.allclose(found["weights"], weights, rtol=0, atol=1e-5)
    assert found["loss"] == pytest.approx(loss, rel=1e-4)


def every_site_unmasked_that_set_only(out: Path, analysis: str) -> None:
    """What the sites wrote down that they signed or unmasked is what the coordinator opened."""
    sets = participants(out, analysis)
    states = sorted((out / "sites").glob("*/state.db"))
    assert len(states) >= 3
    for path in states:
        database = sqlite3.connect(path)
        rows = database.execute("SELECT step, survivors FROM steps WHERE survivors IS NOT NULL").fetchall()
        database.close()
        assert {step: tuple(json.loads(survivors)) for step, survivors in rows}.items() <= sets.items(), path


def events_of(found: Run, kind: str) -> list[Event]:
    return [event for event in found.events if event.kind == kind]


def sums_needed_one_attempt(out: Path, analysis: str) -> bool:
    return len(records(out, analysis, "attempt")) == len(records(out, analysis, "opened"))


# -- random faults ----------------------------------------------------------------------------------------------------


def schedule(seed: str, sites: Sequence[str]) -> list[Fault]:
    draw = random.Random(seed)
    return [
        Fault(
            draw.choice(list(sites)),
            draw.choice(PHASES),
            draw.choice(("drop", "crash", "delay")),
            draw.choice(("before", "after")),
            occurrence=draw.randint(1, 6),
            seconds=draw.choice((0.0, 0.01, 0.05)),
        )
        for _ in range(10)
    ]


def finished(study: Study, out: Path, sites: Sequence[str], faults: Sequence[Fault]) -> dict[str, Any]:
    """The only analysis's estimates. A run may end with an error that says what to do: then the same command finishes."""
    name = next(iter(study.analyses))
    first = run(study, out, data=hospitals(sites), faults=faults)
    error = first.outcomes[name].error
    if error is None:
        return estimates(first)[name]
    assert isinstance(error, UnisonoError)
    assert error.rule
    assert error.remedy
    return estimates(run(study, out, data=hospitals(sites)))[name]


@pytest.mark.parametrize("seed", range(12))
def test_random_faults_leave_a_fit_as_it_is(
    seed: int, undisturbed: dict[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threat, n = THREATS[seed % 2], 3 + seed // 2 % 2
    monkeypatch.setattr(waiting, "STRAGGLERS_S", (0.0, 0.02)[seed // 4 % 2])
    faults = schedule(f"exact {threat} {seed}", SITES[:n])
    assert finished(exact(threat), tmp_path, SITES[:n], faults) == undisturbed[n], faults
    every_site_unmasked_that_set_only(tmp_path, "odds")


@pytest.mark.parametrize("seed", range(12))
def test_random_faults_leave_training_a_mean_of_those_who_were_in(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threat = THREATS[seed % 2]
    monkeypatch.setattr(waiting, "STRAGGLERS_S", (0.0, 0.02)[seed // 2 % 2])
    faults = schedule(f"partial {threat} {seed}", SITES)
    is_the_mean_of_those_who_were_in(tmp_path, finished(partial(threat), tmp_path, SITES, faults))
    every_site_unmasked_that_set_only(tmp_path, "a")


# -- lost links and restarts, one by one ------------------------------------------------------------------------------


def test_a_signature_lost_with_its_link_ends_nothing_where_enough_signed(
    undisturbed: dict[int, Any], tmp_path: Path
) -> None:
    lost = Fault("padua", "agree", "drop", "before", occurrence=2, seconds=0.0)
    found = run(exact("malicious"), tmp_path, faults=[lost])
    assert estimates(found)["odds"] == undisturbed[4]
    assert [(e.site, e.name) for e in events_of(found, "lost")] == [("padua", "agree")]
    assert sums_needed_one_attempt(tmp_path, "odds")
    assert records(tmp_path, "odds", "waited") == []


def test_a_set_that_was_signed_stays_the_only_one_through_a_restart(tmp_path: Path) -> None:
    """One is lost at its part, so that three are in; one of the three restarts, and two signatures are too few."""
    faults = [
        Fault("leiden", "mask", "drop", occurrence=2, seconds=0.0),
        Fault("padua", "agree", "crash", occurrence=2, seconds=0.0),
    ]
    found = run(partial("malicious"), tmp_path, faults=faults)
    is_the_mean_of_those_who_were_in(tmp_path, estimates(found)["a"])
    assert participants(tmp_path, "a")[1] == ("madrid", "padua", "turin")
    # The one that was lost is there again, and is not let in.
    tries = Counter(r.step for r in records(tmp_path, "a", "attempt"))
    assert tries.pop(1) > 1
    assert set(tries.values()) == {1}
    every_site_unmasked_that_set_only(tmp_path, "a")


def test_a_site_that_missed_a_round_is_back_two_sums_later(tmp_path: Path) -> None:
    found = run(partial(), tmp_path, faults=[Fault(ONE, "mask", "drop", occurrence=3, seconds=0.0)])
    is_the_mean_of_those_who_were_in(tmp_path, estimates(found)["a"])
    without = [step for step, sites in participants(tmp_path, "a").items() if ONE not in sites]
    assert without == [2, 3]
    assert sums_needed_one_attempt(tmp_path, "a")


def test_a_site_that_is_there_again_and_hangs_holds_no_sum_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STRAGGLERS_S", 0.05)
    faults = [
        Fault(ONE, "mask", "drop", occurrence=2, seconds=0.0),
        Fault(ONE, "advertise", "delay", occurrence=2, seconds=HANGING_S),
    ]
    began = time.monotonic()
    found = run(partial(), tmp_path, faults=faults)
    assert time.monotonic() - began < QUICK_S
    is_the_mean_of_those_who_were_in(tmp_path, estimates(found)["a"])
    assert ONE in participants(tmp_path, "a")[ROUNDS]  # asked again with the next sum, it answers


def test_two_links_that_flap_at_their_parts_and_then_at_their_keys_are_waited_for(tmp_path: Path) -> None:
    flapping = ("leiden", "turin")
    faults = [Fault(site, phase, occurrence=2, seconds=0.02) for site in flapping for phase in ("mask", "advertise")]
    found = run(partial(), tmp_path, faults=faults)
    is_the_mean_of_those_who_were_in(tmp_path, estimates(found)["a"])
    lost = [(e.site, e.name) for e in events_of(found, "lost")]
    assert sorted(lost) == sorted((site, phase) for site in flapping for phase in ("mask", "advertise"))
    waited = [r.body["sites"] for r in records(tmp_path, "a", "waited") if r.body is not None]
    assert waited == [dict.fromkeys(flapping, "mask"), dict.fromkeys(flapping, "advertise")]
    assert participants(tmp_path, "a")[1] == tuple(sorted(SITES))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("phase", "threat"), [("agree", "malicious"), ("unmask", "malicious"), ("unmask", "semi-honest")]
)
def test_a_site_that_hangs_is_not_waited_for_once_there_are_enough(
    phase: Any, threat: str, when: Any, undisturbed: dict[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "STRAGGLERS_S", 0.2)
    began = time.monotonic()
    hanging = Fault(ONE, phase, "delay", when, occurrence=3, seconds=HANGING_S)
    found = run(exact(threat), tmp_path, faults=[hanging])
    assert time.monotonic() - began < QUICK_S
    assert estimates(found)["odds"] == undisturbed[4]
    assert sums_needed_one_attempt(tmp_path, "odds")
    recovered = [(e.site, e.step) for e in events_of(found, "recovered")]
    assert ((ONE, 2) in recovered) == (phase == "unmask")  # on a busy machine others can be late too


class Counting(EmbeddedExchange):
    """Counts the messages to each site, sum by sum."""

    sums: list[Counter[tuple[str, str]]]

    async def request(self, site: str, message: Message) -> object:
        if message.phase in PHASES:
            Counting.sums[-1][site, message.phase] += 1
        return await super().request(site, message)


@pytest.mark.parametrize("threat", THREATS)
def test_a_sum_takes_no_more_round_trips_of_the_others_while_one_site_is_away(
    threat: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.engines.embedded.run.EmbeddedExchange", Counting)
    monkeypatch.setattr(Counting, "sums", [Counter()], raising=False)

    def opened(event: Event) -> None:
        if event.kind == "opened":
            Counting.sums.append(Counter())

    away = Fault(ONE, "mask", occurrence=3, seconds=None)
    found = run(partial(threat), tmp_path, faults=[away], observer=opened)
    is_the_mean_of_those_who_were_in(tmp_path, estimates(found)["a"])
    others = [site for site in SITES if site != ONE]
    once = ("mask", "agree", "unmask") if threat == "malicious" else ("mask", "unmask")
    for step in range(1, ROUNDS + 1):
        sent = {key: times for key, times in Counting.sums[step].items() if key[0] in others}
        assert sent == {(site, phase): 1 for site in others for phase in once}, step


# -- sites that send nonsense -----------------------------------------------------------------------------------------

Alter = Callable[[Any, Any], Any]


def sending(monkeypatch: pytest.MonkeyPatch, alter: Alter, at: str = ONE) -> None:
    """One site's answers are altered on their way."""
    true = Site.answer

    def answer(self: Site, message: Message) -> object:
        found = true(self, message)
        return alter(message, found) if self.name == at else found

    monkeypatch.setattr(Site, "answer", answer)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def misbehaved(out: Path, analysis: str = "odds") -> list[tuple[str, str, int]]:
    """(site, rule, step) of what the coordinator wrote down."""
    return [
        (r.body["site"], r.body["rule"], r.step) for r in records(out, analysis, "misbehaved") if r.body is not None
    ]


def is_told(found: Run, rule: str) -> None:
    """By an event, and beside the result."""
    assert (ONE, rule) in {(e.site, e.name) for e in events_of(found, "misbehaved")}
    answer = found.outcomes["odds"].answer
    assert answer is not None
    said = "wrong share" if rule == "wrong-share" else f"({rule})"
    assert [note for note in answer.result.notes if ONE in note and said in note]


def test_a_wrong_share_is_found_and_its_sender_named_beside_the_right_result(
    undisturbed: dict[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alter(message: Any, found: Any) -> Any:
        if message.phase != "unmask" or message.key[3] != 3:
            return found
        seeds = found.shares.self_seeds
        wrong = {**seeds, "turin": flipped(seeds["turin"])}
        return replace(found, shares=replace(found.shares, self_seeds=wrong))

    sending(monkeypatch, alter)
    found = run(exact(), tmp_path)
    assert estimates(found)["odds"] == undisturbed[4]
    assert misbehaved(tmp_path) == [(ONE, "wrong-share", 3)]
    is_told(found, "wrong-share")
    again = run(exact(), tmp_path)  # also when the stored answer is read again
    assert again.outcomes["odds"].answer is not None
    assert [note for note in again.outcomes["odds"].answer.result.notes if "wrong share" in note]


def test_a_wrong_share_among_just_enough_answers_waits_for_the_one_that_is_late(
    undisturbed: dict[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three answers would do, but for the wrong one among them: the fourth, which was not waited for, is asked again."""

    def alter(message: Any, found: Any) -> Any:
        if message.phase != "unmask" or message.key[3] != 3:
            return found
        seeds = found.shares.self_seeds
        return replace(found, shares=replace(found.shares, self_seeds={**seeds, "turin": flipped(seeds["turin"])}))

    sending(monkeypatch, alter)
    monkeypatch.setattr(waiting, "STRAGGLERS_S", 0.05)
    late = Fault("turin", "unmask", "delay", occurrence=4, seconds=2.0)
    found = run(exact(), tmp_path, faults=[late])
    assert estimates(found)["odds"] == undisturbed[4]
    assert misbehaved(tmp_path) == [(ONE, "wrong-share", 3)]
    assert len(records(tmp_path, "odds", "waited")) == 1
    assert sums_needed_one_attempt(tmp_path, "odds")


def for_fewer(found: Revealed) -> Revealed:
    fewer = {site: share for site, share in found.shares.self_seeds.items() if site != "turin"}
    return replace(found, shares=replace(found.shares, self_seeds=fewer))


@pytest.mark.parametrize(
    ("phase", "threat", "rule", "spoil"),
    [
        ("unmask", "semi-honest", "survivor-set", for_fewer),
        ("unmask", "malicious", "survivor-set", for_fewer),
        ("unmask", "semi-honest", "sender", lambda f: replace(f, shares=replace(f.shares, site="turin"))),
        ("unmask", "semi-honest", "other-slot", lambda f: replace(f, shares=replace(f.shares, slot="another"))),
        ("agree", "malicious", "signed-keys", lambda f: replace(f, signature=flipped(f.signature))),
        ("agree", "malicious", "other-slot", lambda f: replace(f, slot="another")),
    ],
)
def test_an_answer_that_cannot_be_used_is_as_good_as_none(
    phase: str,
    threat: str,
    rule: str,
    spoil: Callable[[Any], Any],
    undisturbed: dict[int, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def alter(message: Any, found: Any) -> Any:
        return spoil(found) if message.phase == phase and message.key[3] == 3 else found

    sending(monkeypatch, alter)
    found = run(exact(threat), tmp_path)
    assert estimates(found)["odds"] == undisturbed[4]
    assert misbehaved(tmp_path) == [(ONE, rule, 3)]
    assert sums_needed_one_attempt(tmp_path, "odds")
    is_told(found, rule)


def with_bad_keys(message: Any, found: Any) -> Any:
    """The keys that ride along with a part are signed by nobody."""
    if message.phase != "mask" or message.ask.step != 2 or found.next is None:
        return found
    return replace(found, next=replace(found.next, signature=flipped(found.next.signature)))


def with_bad_shares(message: Any, found: Any) -> Any:
    """In the shares that ride along with an unmasking, a box is missing."""
    if message.phase != "unmask" or message.key[3] != 2 or found.next is None:
        return found
    boxes = dict(list(found.next.boxes.items())[1:])
    return replace(found, next=replace(found.next, boxes=boxes))


@pytest.mark.parametrize(
    ("alter", "rule", "again"),
    [(with_bad_keys, "signed-keys", "advertise"), (with_bad_shares, "sealed-inbox", "share")],
)
def test_what_rides_along_spoils_no_sum_and_is_asked_for_again(
    alter: Alter, rule: str, again: str, undisturbed: dict[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def noted(message: Message, found: Any) -> Any:
        asked.append(message.phase)
        return alter(message, found)

    sending(monkeypatch, noted)
    found = run(exact(), tmp_path)
    assert estimates(found)["odds"] == undisturbed[4]
    assert misbehaved(tmp_path) == [(ONE, rule, 2)]
    assert asked.count(again) == 2  # for the first sum of all, and now
    assert sums_needed_one_attempt(tmp_path, "odds")
    is_told(found, rule)


def test_a_site_that_always_signs_badly_ends_the_run_by_name_at_the_next_sum_and_the_same_command_finishes(
    undisturbed: dict[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def alter(message: Any, found: Any) -> Any:
        seen.append(message.phase)
        if isinstance(found, Masked):
            return with_bad_keys(message, found)
        if isinstance(message, Advertise) and "mask" in seen:
            return replace(found, signature=flipped(found.signature))
        return found

    with monkeypatch.context() as patch:
        sending(patch, alter)
        error = run(exact(), tmp_path).outcomes["odds"].error
    assert isinstance(error, ProtocolError)
    assert error.rule == "signed-keys"
    assert ONE in error.what
    assert sorted(participants(tmp_path, "odds")) == [0, 1, 2]  # the sum that the bad keys rode on was opened
    assert misbehaved(tmp_path) == [(ONE, "signed-keys", 2), (ONE, "signed-keys", 3)]
    assert estimates(run(exact(), tmp_path))["odds"] == undisturbed[4]


# -- coordinators that send nonsense ----------------------------------------------------------------------------------


def two_runs(permit: Permit) -> Permit:
    return permit.model_copy(update={"runs": 2})


def test_a_refused_question_closes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, alter=two_runs)
    first, other = bench.totals(), bench.totals(run="another-run")
    for ask in (first, other):
        bench.opened(ask, close=False)
    second = bench.gradient()
    honest = bench.question(second, bench.setup(second), ONE)
    refused(bench, ONE, replace(honest, closes=Closes(other.key)), ProtocolError, "other-slot")
    extreme = bench.bare(bench.gradient(beta=(7e5, 0.0, 0.0)), ONE)
    refused(bench, ONE, replace(extreme, closes=Closes(first.key)), PermitError, "argument-limits")
    state = bench.sites[ONE].state
    for ask in (first, other):
        step = state.step(ask.key)
        assert step is not None
        assert not step.closed
        assert step.vector is not None
    bench.send(ONE, replace(honest, closes=Closes(first.key)))
    closed = [step is not None and step.closed for step in (state.step(first.key), state.step(other.key))]
    assert closed == [True, False]
    bench.close()


@pytest.fixture
def parish(tmp_path: Path) -> Iterator[Bench]:
    """Four sites, one of which reads sums."""
    made = Bench(tmp_path, of_method("test-to-one"))
    yield made
    made.close()


def to_be_delivered(parish: Bench) -> tuple[Ask, Deliver]:
    ask = parish.totals(analysis="a", method="test-to-one", contribution="moments", to=READER, receipt="read")
    session = parish.masked(ask)
    return ask, Deliver(ask.key, session.slot, parish.opened(ask, session, close=False), session.survivors)


def test_a_sum_is_delivered_once_and_another_in_its_place_refused(parish: Bench) -> None:
    _, message = to_be_delivered(parish)
    assert parish.send(READER, message) is None
    (sheet,) = parish.homes[READER].path.glob("kept/*/a.json")
    kept = sheet.read_bytes()
    other = replace(message, words=message.words + np.uint64(1))
    refused(parish, READER, other, ProtocolError, "one-delivery")
    assert parish.send(READER, message) is None  # the answer was lost on its way: the same again
    assert sheet.read_bytes() == kept


def test_a_delivery_that_is_no_sum_is_answered_like_a_good_one(parish: Bench) -> None:
    """What a reader says of words that it cannot read would tell the coordinator about those that it can."""
    ask, message = to_be_delivered(parish)
    noise = np.random.default_rng(7).integers(0, 2**64, message.words.size, np.uint64)
    assert parish.send(READER, replace(message, words=noise)) is None
    last = audit(parish.sites[READER])[-1]
    assert (last["event"], last["step"], last["rule"]) == ("not-received", list(ask.key), "encoding-range")
    assert not list(parish.homes[READER].path.glob("kept/*/a.json"))
    refused(parish, READER, message, ProtocolError, "one-delivery")


# -- waiting for enough -----------------------------------------------------------------------------------------------


def test_the_first_of_several_failures_is_raised_and_no_other_is_printed(caplog: pytest.LogCaptureFixture) -> None:
    async def ends(after: float, error: str) -> None:
        await asyncio.sleep(after)
        raise ValueError(error)

    with pytest.raises(ValueError, match="first"):
        asyncio.run(waiting.until_enough({"a": ends(0.01, "first"), "b": ends(0.0, "second")}, None))
    gc.collect()
    assert caplog.records == []


def test_who_is_late_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STRAGGLERS_S", 0.02)
    asked = {"a": asyncio.sleep(0.0), "b": asyncio.sleep(HANGING_S)}
    assert asyncio.run(waiting.until_enough(asked, lambda: True)) == ("b",)
