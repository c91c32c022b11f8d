"""A coordinator that asks two hospitals different questions gets a named error or noise, and never a sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine
from tests.support.bench import Bench
from tests.support.engine import run, study
from unisono.engines.embedded.exchange import EmbeddedExchange
from unisono.errors import PermitError, ProtocolError
from unisono.federation.exchange import Advertise, Mask, Message, Reveal, Share

VICTIM = "turin"
TOLD_APART = "different-questions"


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
        self.honest: dict[str, str] = {}

    async def request(self, site: str, message: Message) -> object:
        if site != VICTIM:
            return await super().request(site, message)
        other: Message = message
        if isinstance(message, Advertise) and message.ask.contribution == "normal_equations":
            beta, *rest = message.ask.arguments
            other = Advertise(replace(message.ask, arguments=[np.asarray(beta) + 0.5, *rest]))
            self.honest[message.ask.slot] = message.ask.digest
            self.asked = other.ask
        if self.lies and isinstance(message, Reveal) and message.slot in self.honest:
            other = replace(message, unmask=replace(message.unmask, ask_digest=self.asked.digest))
        answer = await super().request(site, other)
        if self.lies and isinstance(message, Mask) and message.slot in self.honest:
            answer = replace(answer, ask_digest=self.honest[message.slot])  # type: ignore[type-var]
        return answer


class Liar(TwoFaced):
    lies = True


def test_an_altered_question_to_one_site_is_named_and_nothing_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.engines.embedded.run.EmbeddedExchange", TwoFaced)
    outcome = run(study("odds"), tmp_path).outcomes["odds"]
    assert isinstance(outcome.error, ProtocolError)
    assert outcome.error.rule == TOLD_APART
    assert [r.body["name"] for r in engine.records(tmp_path, "odds", "opened") if r.body] == ["flow", "totals"]


def test_a_coordinator_that_lies_about_the_digest_too_opens_noise(
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
    session = bench.session(asked)
    for site, ask in asks.items():
        session.collect_advertise(bench.send(site, Advertise(ask)))
    keys = session.key_roster()
    for site, ask in asks.items():
        session.collect_shares(bench.send(site, Share(ask.slot, keys)))
    for site, ask in asks.items():
        part = bench.send(site, Mask(ask.slot, session.inbox_for(site)))
        session.collect_masked(replace(part, ask_digest=asked.digest))
    request = session.unmask_request()
    with pytest.raises(ProtocolError) as refused:
        bench.send(VICTIM, bench.reveal(other, request))
    assert refused.value.rule == TOLD_APART
    for site, ask in asks.items():
        session.collect_unmask(bench.send(site, bench.reveal(ask, replace(request, ask_digest=ask.digest))))
    opened = session.open()
    assert not (opened == bench.true_sum(asked)).any()
    signed = opened.view(np.int64).astype(float)
    assert (np.abs(signed) > 2.0**50).mean() > 0.9  # a sum of four parts is below 2^50


def test_an_honest_aggregator_names_the_question_that_differs(bench: Bench) -> None:
    asks = dict.fromkeys(bench.names, bench.gradient())
    asks[VICTIM] = bench.gradient(beta=(0.6, 0.2, -0.1))
    with pytest.raises(ProtocolError) as refused:
        bench.masked(asks)
    assert refused.value.rule == TOLD_APART
    assert VICTIM in refused.value.what


def test_one_who_says_another_set_of_sites_to_one_site_gets_no_sum(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study("odds", participation={"on_dropout": "continue"}))
    asks = dict.fromkeys(bench.names, bench.totals())
    asks[VICTIM] = bench.totals(sites=tuple(s for s in bench.names if s != "leiden"))
    with pytest.raises(ProtocolError) as refused:
        bench.masked(asks)
    assert refused.value.rule == "key-roster"
    bench.close()


@pytest.mark.parametrize("swap", ["roster", "key"])
def test_a_roster_or_a_key_that_is_not_the_permits_is_refused(bench: Bench, tmp_path: Path, swap: str) -> None:
    other = Bench(tmp_path / "other")
    roster = (
        other.roster if swap == "roster" else type(bench.roster)({**bench.roster, "leiden": other.roster["leiden"]})
    )
    site, admitted = bench.sites[VICTIM], bench.sites[VICTIM]._studies[bench.study.digest()]
    with pytest.raises(PermitError) as refused:
        site.admit(bench.study, admitted.permit, roster, admitted.worker)
    assert refused.value.rule == "permit-roster"
    site._studies[bench.study.digest()] = replace(
        admitted, roster=roster
    )  # and if it got past that, each ask is checked
    assert bench.refusal(VICTIM, Advertise(bench.totals())).rule == "permit-roster"
    other.close()
