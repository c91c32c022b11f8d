"""The adversary's ledger, on small federations played by hand: it sees exactly what can be read, and no more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.messages import KeyRoster, Unmask
from unisono.protection.secagg.parameters import Threat, derive
from unisono.protection.secagg.setup import SlotSetup
from unisono.simulation.attack_tools import tell
from unisono.simulation.coordinator import Attempt, Coordinator, Prepared
from unisono.simulation.ledger import BrokenInvariant
from unisono.simulation.plan import Dice, draw_plan
from unisono.simulation.tally import Tally
from unisono.simulation.world import World


class Table:
    """A federation in which every message is sent by hand."""

    def __init__(
        self,
        n: int,
        *,
        colluders: Collection[int] = (),
        threat: Threat = "semi-honest",
        recipient: int = 0,
    ) -> None:
        self.names = tuple(f"site{k:02d}" for k in range(1, n + 1))
        plan, _ = draw_plan(1, 0, 3)
        plan = replace(
            plan,
            sites=self.names,
            colluders=frozenset(self.names[k - 1] for k in colluders),
            rollbacks=0,
            parameters=derive(n, len(colluders), 3, threat=threat),
            forced=False,
            partial=True,
            recipient=self.names[recipient - 1] if recipient else "",
            wired=True,
            mood="lying",
            misdeeds=(),
        )
        self.world = World(plan, Dice("by hand"), Tally())
        self.coordinator = Coordinator(self.world)
        self.ask = self.coordinator.ask(1, 1)
        self.setup = SlotSetup(self.world.drawing, "slot", plan.recipient)
        for site in self.names:
            self.setup.collect_advertise(self.world.advertise(site, "slot", plan.recipient, ()).message)
        keys: KeyRoster = self.setup.key_roster()
        for site in self.names:
            self.setup.collect_shares(self.world.share(site, keys).message)
        dtype = np.uint32 if plan.bits == 32 else np.uint64
        self.session = AggregatorSession(self.setup, self.ask.digest, plan.length, dtype)

    def sites(self, *numbers: int) -> tuple[str, ...]:
        return tuple(self.names[k - 1] for k in numbers)

    def mask(self, *numbers: int, dealt: tuple[str, ...] | None = None) -> str:
        """These sites mask, over those who dealt; what their masks are bound to."""
        binding = ""
        for site in self.sites(*numbers):
            said = self.world.mask(site, self.ask, "slot", self.setup.inbox_for(site, dealt))
            if dealt is None:
                self.session.collect_masked(said.message)
            binding = said.message.binding
        return binding

    def unmask(self, number: int, survivors: tuple[str, ...], binding: str) -> str:
        request = Unmask(self.world.plan.run, "slot", self.ask.digest, binding, survivors, {})
        return self.world.unmask(self.names[number - 1], self.ask.key, request).how

    @property
    def readable(self) -> set[frozenset[str]]:
        return self.world.ledger.readable[self.ask.key]


def test_the_sum_can_be_read_exactly_when_it_can_be_opened_and_only_whole() -> None:
    table = Table(5)
    binding = table.mask(1, 2, 3, 4)
    request = table.session.unmask_request()
    assert request.binding == binding
    for site in request.survivors:
        assert bool(table.readable) == table.session.can_open
        table.session.collect_unmask(table.world.unmask(site, table.ask.key, request).message)
    assert table.readable == {frozenset(table.sites(1, 2, 3, 4))}
    assert (table.session.open() == table.world.total("slot", request.survivors)).all()


def test_colluders_count_as_answers_before_they_give_any() -> None:
    table = Table(4, colluders=(4,))
    binding = table.mask(1, 2, 3, 4)
    assert table.unmask(1, table.names, binding) == "answered"
    assert not table.readable
    assert table.unmask(2, table.names, binding) == "answered"
    assert table.readable == {frozenset(table.sites(1, 2, 3))}


def test_the_sum_for_a_site_is_never_readable_by_the_coordinator() -> None:
    table = Table(5, colluders=(5,), recipient=2)
    binding = table.mask(1, 2, 3, 4, 5)
    for number in (1, 2, 3, 4):
        assert table.unmask(number, table.names, binding) == "answered"
    assert not table.readable and not table.world.ledger.beyond


def test_two_stories_on_the_complete_graph_open_no_second_set() -> None:
    table = Table(6, colluders=(6,))
    binding = table.mask(1, 2, 3, 4, 5, 6)
    everyone, without = table.names, table.sites(1, 2, 3, 4, 6)
    for number, told in ((1, everyone), (2, without), (3, everyone), (4, without), (5, everyone)):
        assert table.unmask(number, told, binding) == "answered"
    assert table.world.ledger.equivocated
    assert table.readable == {frozenset(table.sites(1, 2, 3, 4, 5))}


def singled_out(threat: Threat) -> Table:
    """Site 1 is told that only 2, 3 and 4 dealt with it. The others are told of all, and by turns that 2, 3 and 4 dropped;
    each gets every signature that there is for what it is told."""
    table = Table(7, threat=threat)
    table.mask(1, dealt=table.sites(1, 2, 3, 4))
    table.mask(2, 3, 4, 5, 6, 7)
    told = {table.names[k - 1]: table.sites(*sorted({1, k, 5, 6, 7} - ({7} if k < 5 else set()))) for k in range(2, 8)}
    answers = tell(table.coordinator, Attempt(table.ask, Prepared(table.setup)), told)
    assert {said.how for said in answers} == {"answered" if threat == "semi-honest" else "refused: consistency"}
    return table


def test_a_lying_coordinator_reads_one_site_where_the_threat_is_said_to_be_semi_honest() -> None:
    """Why `threat: malicious` exists. The ledger sees it, and calls it outside what is promised."""
    table = singled_out("semi-honest")
    assert frozenset(table.sites(1)) in table.readable
    assert "can be read" in table.world.ledger.beyond


def test_the_same_lie_gets_no_answer_where_the_threat_is_malicious() -> None:
    table = singled_out("malicious")
    assert not table.readable and not table.world.ledger.beyond


def test_what_is_promised_may_not_be_read_and_breaks_the_schedule() -> None:
    table = Table(5)
    table.world.ledger.rolled_back.update(table.names)
    binding = table.mask(1, 2, 3, 4, 5)
    for number in (1, 2, 3):
        table.unmask(number, table.names, binding)
    table.world.ledger.readable[table.ask.key].add(frozenset(table.sites(1, 2)))
    with pytest.raises(BrokenInvariant, match=r"over two sets.*rule 1"):
        table.unmask(4, table.names, binding)
        table.unmask(5, table.names, binding)
