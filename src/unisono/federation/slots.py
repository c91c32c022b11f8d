"""Key material for the sums to come, made ahead: so that in steady state a sum costs two round trips.

While a sum is masked and unmasked, the keys and shares of the next slot ride along. What did not come that way, because a
site was away, is asked for when the next sum begins, of that site alone. A slot whose secrets a restarted site has lost is
given up for a new one.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from unisono.federation.ask import Ask, Circle
from unisono.federation.exchange import Advertise, Commit, Message, NewSlot, Share
from unisono.federation.journal import Journal
from unisono.protection.secagg.group import Group
from unisono.protection.secagg.messages import Advertise as Keys
from unisono.protection.secagg.messages import Commitment, KeyRoster, Shares
from unisono.protection.secagg.setup import Drawing, SlotSetup


@dataclass
class Lost:
    """Who did not answer: the site, and at which message. restarted: those that are there, but lost their slot's secrets."""

    sites: dict[str, str] = field(default_factory=dict)
    restarted: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.sites)


Gather = Callable[
    [Iterable[str], Callable[[str], Message], Callable[[str, Any], None], Callable[[], bool] | None], Awaitable[Lost]
]
"""Sends a message to some sites and collects the answers; gives back who was lost. The last argument says when the answers that
are there would do, where a sum of fewer is meant: stragglers are then not waited for longer than their time."""


class Incomplete(Exception):
    """The attempt ended without a sum: these sites were lost before their part was in, or too few could unmask."""

    def __init__(self, lost: Lost) -> None:
        super().__init__(f"lost: {lost.sites}")
        self.lost = lost.sites
        self.only_restarted = set(lost.sites) == lost.restarted


class Slots:
    """The slots of one circle: the drawing of its graph, and the next slot as far as it is set up."""

    def __init__(self, group: Group, journal: Journal) -> None:
        self.drawing = Drawing(group)
        self.group = group
        self.journal = journal
        self.next: SlotSetup | None = None
        drawn = journal.last("graph", epoch=group.epoch)
        if drawn is not None and drawn.body is not None and self.drawing.graph is None:
            self.drawing.restore(bytes.fromhex(drawn.body["seed"]))
            for tree in drawn.body["commitments"]:
                self.drawing.collect_commitment(Commitment.from_tree(tree))

    async def ready(self, ask: Ask, gather: Gather) -> SlotSetup:
        """A slot with keys and shares of all who can take part. `Incomplete` if one that must is lost."""
        if self.next is None or self.next.recipient != ask.to or self._short(ask, self.next):
            self.next = self._new(ask.analysis, ask.to)
        try:
            await self._made(ask, self.next, gather)
        except Incomplete as incomplete:
            if not incomplete.only_restarted:
                raise
            # Made ahead, and a site was restarted since: it is there, so all begin a new slot.
            self.next = self._new(ask.analysis, ask.to)
            await self._made(ask, self.next, gather)
        setup, self.next = self.next, None
        return setup

    @staticmethod
    def _short(ask: Ask, setup: SlotSetup) -> bool:
        """Whether a slot that was made ahead, beside a sum that may do without some, lacks a site that this sum needs."""
        return not ask.partial and setup.keys_final and bool(setup.missing_keys(ask.sites))

    async def _made(self, ask: Ask, setup: SlotSetup, gather: Gather) -> None:
        if not self.drawing.committed and self.drawing.graph is None:
            drawing = self.drawing
            lost = await gather(
                ask.sites, lambda _: Commit(ask.circle), lambda _, answer: drawing.collect_commitment(answer), None
            )
            if lost:
                raise Incomplete(lost)  # the graph is everybody's
        await self._keys(ask, setup, gather)
        roster = setup.key_roster()
        self._keep_graph()
        await self._shares(ask, setup, roster, gather)

    async def _keys(self, ask: Ask, setup: SlotSetup, gather: Gather) -> None:
        missing = setup.missing_keys(ask.sites)
        if missing and not setup.keys_final:
            slot, commitments = NewSlot(setup.slot, setup.recipient), self.drawing.all_commitments()
            lost = await gather(
                missing,
                lambda _: Advertise(ask.circle, slot, commitments),
                lambda _, answer: setup.collect_advertise(answer),
                (lambda: setup.enough_keys) if ask.partial else None,
            )
            if lost and not (ask.partial and setup.enough_keys):
                raise Incomplete(lost)

    async def _shares(self, ask: Ask, setup: SlotSetup, roster: KeyRoster, gather: Gather) -> None:
        missing = setup.missing_shares(setup.advertised)
        if missing:
            lost = await gather(
                missing,
                lambda _: Share(ask.circle, roster),
                lambda _, answer: setup.collect_shares(answer),
                (lambda: setup.enough_shares) if ask.partial else None,
            )
            if lost and not (ask.partial and setup.enough_shares):
                raise Incomplete(lost)

    def begin_next(self, circle: Circle, recipient: str) -> NewSlot:
        """The slot whose keys ride along with the masked parts of this sum."""
        self.next = self._new(circle.analysis, recipient)
        return NewSlot(self.next.slot, recipient)

    def collect_keys(self, keys: Keys | None) -> None:
        """Keys that rode along."""
        if keys is not None and self.next is not None:
            self.next.collect_advertise(keys)

    def keys_to_share(self, ask: Ask) -> KeyRoster | None:
        """The keys of the next slot, to ride along with the unmasking: if all have sent theirs, or for a sum that may be made
        over fewer, if enough have. Who is missing then is back in the slot after."""
        if self.next is None or not self.next.enough_keys:
            return None
        if self.next.missing_keys(ask.sites) and not ask.partial:
            return None
        return self.next.key_roster()

    def collect_shares(self, shares: Shares | None) -> None:
        """Shares that rode along; the same ones again if the sites were asked to unmask again."""
        if shares is not None and self.next is not None and self.next.missing_shares([shares.site]):
            self.next.collect_shares(shares)

    def _new(self, analysis: str, recipient: str) -> SlotSetup:
        return SlotSetup(self.drawing, f"{analysis}/{self.group.epoch}/{secrets.token_hex(8)}", recipient)

    def _keep_graph(self) -> None:
        seed = self.drawing.seed
        if seed is not None and self.journal.last("graph", epoch=self.group.epoch) is None:
            commitments = [item.to_tree() for item in self.drawing.all_commitments()]
            body = {"seed": seed.hex(), "commitments": commitments}
            self.journal.write("graph", body, epoch=self.group.epoch)
