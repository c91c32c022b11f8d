"""A coordinator that asks two hospitals different questions gets a named error or noise, and never a sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine
from tests.support.bench import Bench, audit, refused
from tests.support.engine import run, study
from unisono.engines.embedded.exchange import EmbeddedExchange
from unisono.errors import PermitError, ProtocolError
from unisono.federation.exchange import Advertise, Agree, Mask, Masked, Message, NewSlot, Reveal, Share
from unisono.protection.secagg.keys import Slot
from unisono.protection.secagg.messages import KeyRoster, MaskedInput, checksum_of

VICTIM = "turin"
TOLD_APART = "different-questions"
SHARED_RULE = {"padua": "pinned-roster", VICTIM: "key-roster"}
"""Padua sees another group's key; the victim a key too many."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


class TwoFaced(EmbeddedExchange):
    """Asks the victim about other coefficients than everybody else. lies: also about the digest of what was asked."""

    lies = False

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.transcripts: dict[str, str] = {}
        self.answered: dict[str, MaskedInput] = {}

    async def request(self, site: str, message: Message) -> object:
        if site != VICTIM:
            return await super().request(site, message)
        keys = message.keys if isinstance(message, Share) else message.next if isinstance(message, Reveal) else None
        if keys is not None:
            self.transcripts[keys.slot] = keys.transcript()
        if isinstance(message, Mask) and message.ask.contribution == "normal_equations":
            beta, *rest = message.ask.arguments
            other = replace(message.ask, arguments=[np.asarray(beta) + 0.5, *rest])
            masked = await super().request(site, replace(message, ask=other))
            assert isinstance(masked, Masked)
            self.answered[message.slot] = masked.part
            return replace(masked, part=self._relabelled(message, masked.part)) if self.lies else masked
        if self.lies and isinstance(message, (Agree, Reveal)) and message.unmask.slot in self.answered:
            mine = self.answered[message.unmask.slot]
            request = replace(message.unmask, ask_digest=mine.ask_digest, binding=mine.binding)
            return await super().request(site, replace(message, unmask=request))
        return await super().request(site, message)

    def _relabelled(self, message: Mask, part: MaskedInput) -> MaskedInput:
        """As if it were the answer to what everybody else was asked."""
        transcript, digest = self.transcripts[message.slot], message.ask.digest
        binding = Slot(message.ask.run, message.slot).binding(transcript, message.inbox.dealt, digest)
        return relabelled(part, digest, binding)


class Liar(TwoFaced):
    lies = True


def relabelled(part: MaskedInput, ask_digest: str, binding: str) -> MaskedInput:
    """A masked part with another question's name on it."""
    checksum = checksum_of(part.words, binding, part.site)
    return replace(part, ask_digest=ask_digest, binding=binding, checksum=checksum)


def test_an_altered_question_to_one_site_is_named_and_nothing_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.engines.embedded.run.EmbeddedExchange", TwoFaced)
    outcome = run(study("odds"), tmp_path).outcomes["odds"]
    assert isinstance(outcome.error, ProtocolError)
    assert outcome.error.rule == TOLD_APART
    assert [r.body["name"] for r in engine.records(tmp_path, "odds", "opened") if r.body] == ["flow", "totals"]


def test_a_coordinator_that_lies_about_the_question_too_opens_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = run(study("odds"), tmp_path / "honest")
    monkeypatch.setattr("unisono.engines.embedded.run.EmbeddedExchange", Liar)
    outcome = run(study("odds"), tmp_path / "liar").outcomes["odds"]
    assert outcome.answer is None
    sums = [engine.records(tmp_path / name, "odds", "opened") for name in ("honest", "liar")]
    true, noise = (np.asarray(found[2].body["words"]) for found in sums if found[2].body)
    assert honest.outcomes["odds"].answer is not None
    assert not (true == noise).any()
    # Uniform over the ring: a sum of parts of 48 bits never has its top bits mixed.
    assert len(set((noise >> np.uint64(56)).tolist())) > 4


def test_the_masks_of_two_questions_do_not_cancel(bench: Bench) -> None:
    """Everything a coordinator can forge is forged; each site sees a perfect protocol, for the question it was asked."""
    asked = bench.gradient()
    other = bench.gradient(beta=(0.6, 0.2, -0.1))
    asks = {name: other if name == VICTIM else asked for name in bench.names}
    setup = bench.setup(asked)
    session = bench.session(setup, asked)
    parts = {site: bench.send(site, bench.question(ask, setup, site)).part for site, ask in asks.items()}
    assert [site for site, part in parts.items() if part.binding != session.binding] == [VICTIM]
    for part in parts.values():
        session.collect_masked(relabelled(part, asked.digest, session.binding))
    request = session.unmask_request()
    refused(bench, VICTIM, bench.reveal(other, request), ProtocolError, TOLD_APART)
    assert audit(bench.sites[VICTIM])[-1]["evidence"] == {
        "answered": parts[VICTIM].binding,
        "asked to unmask": session.binding,
    }
    for site, ask in asks.items():
        named = replace(request, ask_digest=ask.digest, binding=parts[site].binding)
        session.collect_unmask(bench.send(site, bench.reveal(ask, named)).shares)
    opened = session.open()
    assert not (opened == bench.true_sum(asked)).any()
    signed = opened.view(np.int64).astype(float)
    assert (np.abs(signed) > 2.0**50).mean() > 0.9  # a sum of four parts is below 2^50


def test_an_honest_aggregator_names_the_question_that_differs(bench: Bench) -> None:
    asks = dict.fromkeys(bench.names, bench.gradient())
    asks[VICTIM] = bench.gradient(beta=(0.6, 0.2, -0.1))
    with pytest.raises(ProtocolError) as raised:
        bench.masked(asks)
    assert raised.value.rule == TOLD_APART
    assert VICTIM in raised.value.what
    assert raised.value.evidence["site"] == VICTIM


def test_one_who_says_another_set_of_sites_to_one_site_gets_no_sum(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study("odds", participation={"on_dropout": "continue"}))
    fewer = bench.totals(sites=tuple(s for s in bench.names if s != "leiden"))
    setup = bench.setup(bench.totals())
    refused(bench, VICTIM, bench.question(fewer, setup, VICTIM), ProtocolError, "frozen-sites")
    bench.close()


def test_keys_made_among_fewer_sites_are_no_keys_among_all(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study("odds", participation={"on_dropout": "continue"}))
    ask = bench.totals()
    fewer = bench.totals(sites=tuple(s for s in bench.names if s != "leiden"))
    keys = tuple(
        bench.send(site, Advertise((fewer if site == VICTIM else ask).circle, NewSlot("slot"))) for site in bench.names
    )
    for site, circle in (("padua", ask.circle), (VICTIM, fewer.circle)):
        refused(bench, site, Share(circle, KeyRoster(ask.run, "slot", keys)), ProtocolError, SHARED_RULE[site])
    bench.close()


@pytest.mark.parametrize("swap", ["roster", "key"])
def test_a_roster_or_a_key_that_is_not_the_permits_is_refused(bench: Bench, tmp_path: Path, swap: str) -> None:
    other = Bench(tmp_path / "other")
    roster = (
        other.roster if swap == "roster" else type(bench.roster)({**bench.roster, "leiden": other.roster["leiden"]})
    )
    site, admitted = bench.sites[VICTIM], bench.sites[VICTIM]._studies[bench.study.digest()]
    with pytest.raises(PermitError) as raised:
        site.admit(bench.study, admitted.permit, roster, admitted.worker)
    assert raised.value.rule == "permit-roster"
    site._studies[bench.study.digest()] = replace(
        admitted, roster=roster
    )  # and if it got past that, each ask is checked
    refused(bench, VICTIM, bench.bare(bench.totals()), PermitError, "permit-roster")
    refused(bench, VICTIM, Advertise(bench.totals().circle, NewSlot("slot")), PermitError, "permit-roster")
    other.close()
