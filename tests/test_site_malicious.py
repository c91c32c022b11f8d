"""Real hospitals and a coordinator that lies, under `threat: malicious`: what is refused, and what the audit log holds then."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine, lung
from tests.support.bench import Bench, audit, refused
from tests.support.methods import SIZE, installed
from unisono.errors import ProtocolError
from unisono.federation.ask import Ask
from unisono.federation.exchange import (
    Advertise,
    Agree,
    Close,
    Closes,
    Message,
    NewSlot,
    Reveal,
    Revealed,
    Share,
    SlotLost,
)
from unisono.methods.registry import check
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.messages import KeyRoster, Unmask, checksum_of
from unisono.protection.secagg.roster import Identity, Roster
from unisono.study.load import load

ME = "turin"
PROTECTION = {"hide": "secagg", "threat": "malicious"}


class Watched(Bench):
    """Writes down every share that a site gives, to look for it in the logs afterwards."""

    def send(self, site: str, message: Message) -> Any:
        answer = super().send(site, message)
        if isinstance(answer, Revealed):
            shares = (answer.shares.self_seeds, answer.shares.mask_keys)
            self.given.update(share.hex() for kind in shares for share in kind.values())
        return answer

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.given: set[str] = set()
        super().__init__(*args, **keywords)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Watched]:
    """Four sites, one of which may conspire: three must sign. At the end, no log holds a secret or a patient's value."""
    made = Watched(tmp_path, engine.study("odds", protection=PROTECTION))
    yield made
    check_logs(made)
    made.close()


@pytest.fixture
def school(tmp_path: Path) -> Iterator[Watched]:
    """The same four, training a model: only there a sum of fewer sites may be opened at all."""
    with installed():
        study = load(
            {
                **lung.DOCUMENT,
                "analyses": {"a": {"method": "test-training", "variable": "age"}},
                "protection": PROTECTION,
            },
            check,
        )
        made = Watched(tmp_path, study)
        yield made
        check_logs(made)
        made.close()


def check_logs(bench: Watched) -> None:
    """Whole, and without a secret: identities, row keys, shares; and without a patient's value."""
    for name, site in bench.sites.items():
        assert site.audit.verify()
        text = (site.home / "audit.jsonl").read_text("utf-8")
        home = bench.homes[name]
        secrets = {home.identity().to_bytes().hex(), home.secret().hex()} | bench.given
        assert not [secret for secret in secrets if secret in text]
        events = [{k: v for k, v in event.items() if k not in ("time", "bytes")} for event in audit(site)]
        numbers = set(re.findall(r"[\d.]+", re.sub(r"[0-9a-f]{16,}", "", str(events))))
        frame = bench.frames[name]
        assert not {f"{v:g}" for c in ("age", "time", "weight_loss") for v in frame[c] if v > 100 or v % 1} & numbers


def training(bench: Bench, step: int = 1, **changes: Any) -> Ask:
    """An honest ask for an update; a sum of those who stay is meant too."""
    asked = bench.totals(analysis="a", method="test-training", contribution="round", step=step)
    return replace(asked, encoding="fixed32", partial=True, arguments=[np.zeros(SIZE)], **changes)


def signed(bench: Bench, ask: Ask, request: Unmask, sites: Sequence[str]) -> Unmask:
    """The request with these sites' own agreements to it."""
    given = {site: bench.send(site, Agree(ask.key, request)).signature for site in sites}
    return replace(request, agreements={**request.agreements, **given})


def among(request: Unmask, *survivors: str) -> Unmask:
    return replace(request, survivors=survivors, agreements={})


def evidence(bench: Bench, site: str = ME) -> Mapping[str, str]:
    """Of the last refusal, from the site's audit log."""
    last = audit(bench.sites[site])[-1]
    assert last["event"] == "refused"
    found: Mapping[str, str] = last["evidence"]
    return found


def others(bench: Bench) -> list[str]:
    return [site for site in bench.names if site != ME]


# -- agreements -------------------------------------------------------------------------------------------------------


def test_an_honest_coordinator_opens_exactly_the_sum_and_each_agreement_is_logged(bench: Watched) -> None:
    for ask in (bench.totals(), bench.gradient()):
        assert (bench.opened(ask, close=False) == bench.true_sum(ask)).all()
    assert [e["survivors"] for e in audit(bench.sites[ME]) if e["event"] == "agreed"] == [list(bench.names)] * 2


def test_a_site_that_was_away_at_the_agreement_unmasks_what_a_quorum_signed_and_nothing_else(bench: Watched) -> None:
    ask = bench.totals()
    request = bench.masked(ask).unmask_request()
    refused(bench, ME, bench.reveal(ask, request), ProtocolError, "consistency")
    assert bench.sites[ME].state.step(ask.key).survivors is None  # type: ignore[union-attr]
    by_the_others = signed(bench, ask, request, others(bench))
    assert set(bench.send(ME, bench.reveal(ask, by_the_others)).shares.self_seeds) == set(ask.sites)
    assert bench.sites[ME].state.step(ask.key).survivors == ask.sites  # type: ignore[union-attr]


@pytest.mark.parametrize("signers", [(), ("turin",), ("padua", "turin")])
def test_without_a_quorum_of_agreements_nothing_is_unmasked(bench: Watched, signers: tuple[str, ...]) -> None:
    ask = bench.totals()
    session = bench.masked(ask)
    request = signed(bench, ask, session.unmask_request(), bench.names)
    few = replace(request, agreements={site: request.agreements[site] for site in signers})
    refused(bench, ME, bench.reveal(ask, few), ProtocolError, "consistency")
    assert evidence(bench) == {
        "survivors": "leiden, madrid, padua, turin",
        "binding": session.binding,
        **{f"signature of {site}": request.agreements[site].hex() for site in signers},
    }
    assert bench.sites[ME].state.step(ask.key).answer is None  # type: ignore[union-attr]
    assert (bench.opened(ask, session) == bench.true_sum(ask)).all()  # nothing was used up by asking


def test_a_quorum_is_enough_where_a_site_does_not_sign(bench: Watched) -> None:
    ask = bench.totals()
    session = bench.masked(ask)
    request = signed(bench, ask, session.unmask_request(), [s for s in bench.names if s != "leiden"])
    for site in ("madrid", "padua", "turin"):
        session.collect_unmask(bench.send(site, bench.reveal(ask, request)).shares)
    assert (session.open() == bench.true_sum(ask)).all()


@pytest.mark.parametrize("forgery", ["nothing", "another's", "the coordinator's own", "one bit"])
def test_forged_agreements_do_not_count_and_are_kept_as_evidence(bench: Watched, forgery: str) -> None:
    ask = bench.totals()
    request = signed(bench, ask, bench.masked(ask).unmask_request(), bench.names)
    real = request.agreements["leiden"]
    forged = {
        "nothing": bytes(64),
        "another's": request.agreements["padua"],
        "the coordinator's own": Identity.generate().sign(request.agreed("leiden")),
        "one bit": bytes([real[0] ^ 1]) + real[1:],
    }[forgery]
    agreements = {"leiden": forged, "madrid": forged, **{s: request.agreements[s] for s in ("padua", ME)}}
    error = refused(bench, ME, bench.reveal(ask, replace(request, agreements=agreements)), ProtocolError, "consistency")
    assert "leiden" in error.what
    assert evidence(bench)["signature of leiden"] == forged.hex()


def test_agreements_of_another_attempt_or_step_do_not_count(bench: Watched) -> None:
    ask, later = bench.totals(), bench.gradient()
    yesterday = bench.agreed(ask, bench.masked(ask))
    second = bench.totals(attempt=2)
    for asked in (second, later):
        request = signed(bench, asked, bench.masked(asked).unmask_request(), [ME])
        replayed = replace(request, agreements={**yesterday.agreements, ME: request.agreements[ME]})
        refused(bench, ME, bench.reveal(asked, replayed), ProtocolError, "consistency")


def test_an_agreement_of_a_site_outside_the_set_does_not_count(school: Watched) -> None:
    ask = training(school)
    three = among(school.masked(ask).unmask_request(), "leiden", "padua", ME)
    request = signed(school, ask, three, ["padua", ME])
    outsider = school.homes["madrid"].identity().sign(three.agreed("madrid"))  # it conspires
    padded = replace(request, agreements={**request.agreements, "madrid": outsider})
    error = refused(school, ME, school.reveal(ask, padded), ProtocolError, "consistency")
    assert "madrid" in error.what


# -- two stories ------------------------------------------------------------------------------------------------------


def test_a_site_agrees_to_one_set_of_survivors_only(school: Watched) -> None:
    ask = training(school)
    request = school.masked(ask).unmask_request()
    signed(school, ask, among(request, "leiden", "padua", ME), [ME])
    for second in (request, among(request, "madrid", "padua", ME)):
        refused(school, ME, Agree(ask.key, second), ProtocolError, "one-opening-per-step")
        refused(school, ME, Reveal(ask.key, second), ProtocolError, "one-opening-per-step")
        assert evidence(school) == {"first": "leiden, padua, turin", "second": ", ".join(second.survivors)}


def test_two_stories_about_who_survived_cannot_both_be_signed(school: Watched) -> None:
    """With a conspirator who signs everything: three of four for one set leave two for any other."""
    ask = training(school)
    session = school.masked(ask)
    everybody = session.unmask_request()
    without = among(everybody, "madrid", "padua", ME)
    conspirator = school.homes["madrid"].identity()
    first = signed(school, ask, everybody, ["leiden", "padua"])
    second = signed(school, ask, without, [ME])
    first = replace(first, agreements={**first.agreements, "madrid": conspirator.sign(everybody.agreed("madrid"))})
    second = replace(second, agreements={**second.agreements, "madrid": conspirator.sign(without.agreed("madrid"))})
    refused(school, "padua", Agree(ask.key, without), ProtocolError, "one-opening-per-step")
    refused(school, ME, Reveal(ask.key, second), ProtocolError, "consistency")
    for site in ("leiden", "padua"):  # the one that has its quorum
        session.collect_unmask(school.send(site, Reveal(ask.key, first)).shares)
    assert not session.can_open  # two of three: the third would have to be honest as well


def test_what_is_not_asked_for_at_all_is_not_agreed_to(bench: Watched) -> None:
    ask = bench.totals()
    request = bench.masked(ask).unmask_request()
    for wrong, rule in (
        (among(request, "madrid", "padua", ME), "frozen-sites"),
        (among(request, "leiden", "madrid", "padua"), "frozen-sites"),
        (replace(request, ask_digest="0" * 64), "different-questions"),
        (replace(request, binding="0" * 64), "different-questions"),
        (replace(request, run="another"), "other-slot"),
    ):
        refused(bench, ME, Agree(ask.key, wrong), ProtocolError, rule)
    assert bench.sites[ME].state.step(ask.key).survivors is None  # type: ignore[union-attr]
    refused(bench, ME, Agree((ask.run, ask.analysis, 0, 7), request), ProtocolError, "unknown-step")


def test_too_few_and_a_set_without_oneself_are_not_agreed_to(school: Watched) -> None:
    ask = training(school)
    request = school.masked(ask).unmask_request()
    refused(school, ME, Agree(ask.key, among(request, "padua", ME)), ProtocolError, "enough-survivors")
    refused(school, ME, Agree(ask.key, among(request, "leiden", "madrid", "padua")), ProtocolError, "survivor-set")


# -- different questions ----------------------------------------------------------------------------------------------


def two_faced(bench: Bench) -> tuple[Ask, Ask, AggregatorSession, Unmask]:
    """One site is asked about other coefficients; its part is relabelled. What it was asked, and its own binding."""
    asked, other = bench.gradient(), bench.gradient(beta=(0.6, 0.2, -0.1))
    setup = bench.setup(asked)
    session = bench.session(setup, asked)
    for site in others(bench):
        session.collect_masked(bench.send(site, bench.question(asked, setup, site)).part)
    part = bench.send(ME, bench.question(other, setup, ME)).part
    checksum = checksum_of(part.words, session.binding, ME)
    session.collect_masked(replace(part, ask_digest=asked.digest, binding=session.binding, checksum=checksum))
    return asked, other, session, replace(session.unmask_request(), ask_digest=other.digest, binding=part.binding)


def test_a_site_that_was_asked_something_else_says_so_before_anything_is_unmasked(bench: Watched) -> None:
    asked, other, session, own = two_faced(bench)
    request = session.unmask_request()
    refused(bench, ME, Agree(asked.key, request), ProtocolError, "different-questions")
    assert evidence(bench) == {"answered": own.binding, "asked to unmask": session.binding}
    assert other.key == asked.key


def test_agreements_to_different_questions_do_not_meet_and_the_sum_stays_noise(bench: Watched) -> None:
    asked, _, session, own = two_faced(bench)
    mine = bench.send(ME, Agree(asked.key, own))  # it is asked to sign its own question
    with pytest.raises(ProtocolError) as named:
        session.collect_agreement(mine)
    assert named.value.rule == "signed-keys"
    assert ME in named.value.what
    request = signed(bench, asked, session.unmask_request(), others(bench))
    mixed = replace(own, agreements={**request.agreements, ME: mine.signature})
    refused(bench, ME, Reveal(asked.key, mixed), ProtocolError, "consistency")
    for site in others(bench):  # three are a quorum, and give what they have: the masks do not cancel
        session.collect_unmask(bench.send(site, Reveal(asked.key, request)).shares)
    opened = session.open()
    assert not (opened == bench.true_sum(asked)).any()
    assert (np.abs(opened.view(np.int64).astype(float)) > 2.0**50).mean() > 0.9  # a sum of four parts is below 2^50


# -- after the end, after a restart, after a roll-back ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["message", "rides along"])
def test_a_closed_step_is_neither_agreed_to_nor_unmasked(bench: Watched, how: str) -> None:
    ask = bench.totals()
    session = bench.masked(ask)
    request = bench.agreed(ask, session)
    given = bench.send(ME, Reveal(ask.key, request))
    assert bench.send(ME, Reveal(ask.key, request)) == given  # until then it is repeated
    if how == "message":
        bench.send(ME, Close(Closes(ask.key)))
    else:
        later = bench.gradient()
        bench.send(ME, replace(bench.question(later, bench.setup(later), ME), closes=Closes(ask.key)))
    for message in (Agree(ask.key, request), Reveal(ask.key, request)):
        refused(bench, ME, message, ProtocolError, "one-opening-per-step")
        assert evidence(bench)["second"] == "leiden, madrid, padua, turin"


def test_the_set_that_was_agreed_to_is_remembered_over_a_restart(school: Watched) -> None:
    ask = training(school)
    session = school.masked(ask)
    request = session.unmask_request()
    school.send(ME, Agree(ask.key, request))
    school.start(ME)
    for message in (Agree(ask.key, request), Reveal(ask.key, request)):
        with pytest.raises(SlotLost):  # the secrets are gone, and with them the attempt
            school.send(ME, message)
    fewer = among(request, "madrid", "padua", ME)
    for refusable in (Agree(ask.key, fewer), Reveal(ask.key, fewer)):
        refused(school, ME, refusable, ProtocolError, "one-opening-per-step")
    again = replace(ask, attempt=2)
    second = school.masked(again)
    fewer = among(second.unmask_request(), "madrid", "padua", ME)
    refused(school, ME, Agree(ask.key, fewer), ProtocolError, "one-opening-per-step")
    school.opened(again, second)


def test_what_was_given_is_repeated_after_a_restart_and_nothing_else(bench: Watched) -> None:
    ask = bench.totals()
    session = bench.masked(ask)
    request = bench.agreed(ask, session)
    given = bench.send(ME, Reveal(ask.key, request))
    bench.start(ME)
    assert bench.send(ME, Reveal(ask.key, request)) == given
    fewer = among(request, "madrid", "padua", ME)
    refused(bench, ME, Reveal(ask.key, fewer), ProtocolError, "one-opening-per-step")


def roll_back(bench: Bench, name: str, kept: Path) -> None:
    """Put back a site's memory as it was copied, and start it again."""
    bench.sites[name].close()
    state = bench.homes[name].path / "state.db"
    for tail in ("-wal", "-shm"):
        state.with_name(state.name + tail).unlink(missing_ok=True)
    shutil.copyfile(kept, state)
    bench.start(name)


def copied(bench: Bench, name: str, to: Path) -> Path:
    """A copy of a site's memory, as a back-up has it."""
    bench.sites[name].close()
    shutil.copyfile(bench.homes[name].path / "state.db", to)
    bench.start(name)
    return to


def test_a_rolled_back_site_cannot_be_led_to_a_second_opening_while_the_others_remember(
    school: Watched, tmp_path: Path
) -> None:
    kept = copied(school, ME, tmp_path / "back-up.db")
    ask = training(school)
    school.opened(ask, close=False)
    roll_back(school, ME, kept)
    assert school.sites[ME].state.step(ask.key) is None
    again = replace(ask, attempt=2)
    session = school.masked(again)  # it has forgotten, and the others may repeat their vectors
    without = among(session.unmask_request(), "madrid", "padua", ME)
    alone = signed(school, again, without, [ME])
    for site in ("madrid", "padua"):
        refused(school, site, Agree(again.key, without), ProtocolError, "one-opening-per-step")
        assert evidence(school, site) == {"first": "leiden, madrid, padua, turin", "second": "madrid, padua, turin"}
    refused(school, ME, Reveal(again.key, alone), ProtocolError, "consistency")


def test_a_rolled_back_site_finds_nobody_to_ask_a_closed_step_again(bench: Watched, tmp_path: Path) -> None:
    kept = copied(bench, ME, tmp_path / "back-up.db")
    bench.opened(bench.gradient())
    roll_back(bench, ME, kept)
    other = bench.gradient(beta=(0.6, 0.2, -0.1), attempt=2)
    setup = bench.setup(other)
    bench.send(ME, bench.question(other, setup, ME))
    for site in others(bench):
        refused(bench, site, bench.question(other, setup, site), ProtocolError, "one-question-per-step")
        assert set(evidence(bench, site).values()) == {bench.gradient().question, other.question}


# -- replays ----------------------------------------------------------------------------------------------------------


def test_yesterdays_request_opens_nothing_today(bench: Watched) -> None:
    yesterday, today = bench.totals(), bench.gradient()
    old = bench.agreed(yesterday, bench.masked(yesterday))
    bench.send(ME, Reveal(yesterday.key, old))
    session = bench.masked(today)
    refused(bench, ME, Reveal(today.key, old), ProtocolError, "other-slot")
    refused(bench, ME, Agree(today.key, old), ProtocolError, "other-slot")
    bench.agreed(today, session)
    refused(bench, ME, Reveal(today.key, old), ProtocolError, "other-slot")
    bench.send(ME, Close(Closes(today.key)))
    refused(bench, ME, Reveal(yesterday.key, old), ProtocolError, "one-opening-per-step")


def test_a_request_of_another_run_opens_nothing_in_this_one(bench: Watched) -> None:
    other, ask = bench.totals(run="run-2"), bench.totals()
    old = bench.agreed(other, bench.masked(other))
    session = bench.masked(ask)
    with pytest.raises(SlotLost):
        bench.send(ME, Reveal(ask.key, old))
    renamed = replace(old, run=ask.run, slot=session.slot)
    refused(bench, ME, Agree(ask.key, renamed), ProtocolError, "different-questions")


# -- rosters and keys -------------------------------------------------------------------------------------------------


def test_a_site_whose_permit_pins_another_key_for_one_shares_no_sum_with_the_others(bench: Watched) -> None:
    """The coordinator had one hospital approve a key of its own for `leiden`."""
    own = Identity.generate()
    bench.admit("padua", Roster({**bench.roster, "leiden": own.public}))
    ask, slot = bench.totals(), NewSlot("slot")
    keys = KeyRoster(ask.run, slot.name, tuple(bench.send(s, Advertise(ask.circle, slot)) for s in bench.names))
    for site, named in ((ME, "padua"), ("padua", "leiden")):
        error = refused(bench, site, Share(ask.circle, keys), ProtocolError, "pinned-roster")
        assert named in error.what
        assert evidence(bench, site)["site"] == named
        assert evidence(bench, site)["group"] != evidence(bench, site)["ours"]
    # It speaks as `leiden` to padua, and as everybody in padua's group: their signatures are not to be had.
    theirs = {item.site: replace(item, group=keys.advertised[2].group, signature=b"") for item in keys.advertised}
    forged = [replace(theirs[s], signature=own.sign(theirs[s].signed())) for s in ("leiden", "madrid", ME)]
    relayed = sorted([*forged, keys.advertised[2]], key=lambda item: item.site)
    error = refused(
        bench, "padua", Share(ask.circle, replace(keys, advertised=tuple(relayed))), ProtocolError, "signed-keys"
    )
    assert "madrid" in error.what  # `leiden` passes: that key was approved


def test_a_key_that_was_changed_on_its_way_is_refused_with_what_was_signed(bench: Watched) -> None:
    ask, slot = bench.totals(), NewSlot("slot")
    honest = {s: bench.send(s, Advertise(ask.circle, slot)) for s in bench.names}
    changed = replace(honest["leiden"], mask_key=bytes(range(32)))
    keys = KeyRoster(ask.run, slot.name, tuple({**honest, "leiden": changed}.values()))
    refused(bench, ME, Share(ask.circle, keys), ProtocolError, "signed-keys")
    assert evidence(bench)["site"] == "leiden"
    assert evidence(bench)["signature"] == changed.signature.hex()
    assert changed.mask_key.hex() in evidence(bench)["signed"]
    bench.send(
        ME, Share(ask.circle, KeyRoster(ask.run, slot.name, tuple(honest.values())))
    )  # and goes on with the real one


@pytest.mark.parametrize(
    ("changes", "rule"),
    [({"run": "run-2"}, "other-slot"), ({"epoch": 1}, "pinned-roster"), ({"slot": "slot-2"}, "other-slot")],
)
def test_keys_signed_for_another_circle_or_slot_are_refused(tmp_path: Path, changes: dict[str, Any], rule: str) -> None:
    """Leiden's own signature, under keys that it made for something else."""
    bench = Watched(tmp_path, engine.study("odds", protection=PROTECTION, participation={"on_dropout": "continue"}))
    ask = bench.totals()
    other = replace(ask.circle, **{k: v for k, v in changes.items() if k != "slot"})
    if "epoch" in changes:
        other = replace(other, sites=tuple(s for s in bench.names if s != "padua"))
    foreign = bench.send("leiden", Advertise(other, NewSlot(changes.get("slot", "slot"))))
    keys = tuple(bench.send(s, Advertise(ask.circle, NewSlot("slot"))) for s in bench.names if s != "leiden")
    refused(bench, ME, Share(ask.circle, KeyRoster(ask.run, "slot", (foreign, *keys))), ProtocolError, rule)
    check_logs(bench)
    bench.close()


def test_a_key_of_an_earlier_life_of_a_site_is_refused_by_that_site(bench: Watched) -> None:
    """Restarted since: leiden has no secrets of the key that is relayed in its name, though it did sign it."""
    ask, slot = bench.totals(), NewSlot("slot")
    old = bench.send("leiden", Advertise(ask.circle, slot))
    bench.start("leiden")
    bench.send("leiden", Advertise(ask.circle, slot))
    rest = tuple(bench.send(s, Advertise(ask.circle, slot)) for s in bench.names if s != "leiden")
    keys = KeyRoster(ask.run, slot.name, (old, *rest))
    refused(bench, "leiden", Share(ask.circle, keys), ProtocolError, "own-keys")
