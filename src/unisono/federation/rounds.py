"""One attempt at one sum, under each way of hiding it: which messages go out, in which order, and what may be lost.

`secagg` is the four messages of Bonawitz et al. (CCS 2017); the accumulated sum and the survivor set are on disk before
anyone is asked to unmask, so that a coordinator that dies asks for the same unmasking and finishes. `none` is one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from unisono.errors import ProtocolError
from unisono.federation.ask import Ask
from unisono.federation.events import Event, Observer
from unisono.federation.exchange import Advertise, Exchange, LinkLost, Mask, Message, Plain, Reveal, Share
from unisono.federation.journal import Journal
from unisono.protection.encoding.exact import Words
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.parameters import Parameters
from unisono.protection.secagg.roster import Roster

FIRST_BYTES = 16


class Incomplete(Exception):
    """The attempt ended without a sum: these sites were lost before their part was in, or too few could unmask."""

    def __init__(self, lost: Mapping[str, str]) -> None:
        super().__init__(f"lost: {dict(lost)}")
        self.lost = dict(lost)


@dataclass(frozen=True)
class Opened:
    """A sum that was opened. `recovered`: sites lost after masking, whose part counts. `first_bytes`: of what the
    coordinator received from each site (hex), to be shown beside the sum."""

    words: Words
    participants: tuple[str, ...]
    recovered: tuple[str, ...] = ()
    first_bytes: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Round:
    """Everything an attempt needs: who carries, who listens, where it is written down.

    waiting: sites whose answer has not come: who is late, when the deadline passes. unmasking: the sum that sites were
    asked to unmask, and the first bytes of its parts.
    """

    exchange: Exchange
    roster: Roster
    parameters: Parameters | None
    journal: Journal
    observer: Observer
    waiting: set[str] = field(default_factory=set)
    unmasking: tuple[AggregatorSession, Mapping[str, str]] | None = None

    async def secagg(self, ask: Ask, length: int) -> Opened:
        """Messages A to D. Raises `Incomplete` if a site is lost before its masked input."""
        assert self.parameters is not None
        self.unmasking = None
        session = AggregatorSession(ask.sites, self.roster, self.parameters, ask.run, ask.slot, length, ask.digest)
        for advertised in (await self._all(ask, lambda _: Advertise(ask))).values():
            session.collect_advertise(advertised)
        keys = session.key_roster()
        for shares in (await self._all(ask, lambda _: Share(ask.slot, keys))).values():
            session.collect_shares(shares)
        first: dict[str, str] = {}

        def collect(masked: Any) -> None:
            # Each part is added as it comes and then let go: memory does not grow with the number of sites.
            first[masked.site] = first_bytes(masked.words)
            session.collect_masked(masked)

        await self._all(ask, lambda site: Mask(ask.slot, session.inbox_for(site)), collect)
        self.journal.write(
            "pending",
            {"slot": ask.slot, "session": session.state_tree(), "first_bytes": first, "key": list(ask.key)},
            epoch=ask.epoch,
            step=ask.step,
        )
        return await self.unmask(ask, session, first)

    async def unmask(self, ask: Ask, session: AggregatorSession, first: Mapping[str, str]) -> Opened:
        """Message D, for the one survivor set that is written down; enough answers open the sum."""
        request = session.unmask_request()
        self.unmasking = session, first
        _, lost = await self._gather(
            ask, session.survivors, lambda _: Reveal(ask.key, session.slot, request), session.collect_unmask
        )
        opened = self.unmasked(ask, lost)
        if opened is None:
            raise Incomplete(lost)
        return opened

    def unmasked(self, ask: Ask, lost: Iterable[str]) -> Opened | None:
        """The sum, if enough sites have answered D; `lost` are those that have not. Also asked when the deadline passes:
        a sum that can be opened is never given up for a straggler."""
        if self.unmasking is None or not self.unmasking[0].can_open:
            return None
        session, first = self.unmasking
        self.unmasking = None
        recovered = tuple(sorted({*lost, *session.dropped}))
        words = session.open()
        for site in recovered:
            self.observer(Event("recovered", ask.analysis, ask.step, ask.contribution, site))
        return Opened(words, session.survivors, recovered, dict(first))

    async def plain(self, ask: Ask, length: int) -> Opened:
        """One message; the coordinator sees every site's part."""
        parts = await self._all(ask, lambda _: Plain(ask))
        total: Words | None = None
        first: dict[str, str] = {}
        for site in ask.sites:
            words: Words = parts[site]
            if words.shape != (length,) or words.dtype.str != "<u8":
                raise ProtocolError(
                    f"{site} sent {words.size} words, expected {length}.",
                    rule="encoding-length",
                    remedy="Coordinator and site run different versions of the method; install the same one.",
                )
            first[site] = first_bytes(words)
            total = words.copy() if total is None else total.__iadd__(words)
        assert total is not None
        return Opened(total, ask.sites, (), first)

    async def _all(
        self, ask: Ask, message: Callable[[str], Message], collect: Callable[[Any], None] | None = None
    ) -> dict[str, Any]:
        """Answers of all sites, or `Incomplete`."""
        answers, lost = await self._gather(ask, ask.sites, message, collect)
        if lost:
            raise Incomplete(lost)
        return answers

    async def _gather(
        self,
        ask: Ask,
        sites: tuple[str, ...],
        message: Callable[[str], Message],
        collect: Callable[[Any], None] | None = None,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Ask all at once. Lost links are counted; a refusal of any site ends the run with the site's own words."""
        lost: dict[str, str] = {}
        answers: dict[str, Any] = {}
        self.waiting.clear()
        self.waiting.update(sites)

        async def one(site: str) -> None:
            sent = message(site)
            try:
                answer = await self.exchange.request(site, sent)
            except LinkLost as lost_link:
                self.waiting.discard(site)
                lost[site] = lost_link.phase
                self.observer(Event("lost", ask.analysis, ask.step, sent.phase, site))
                return
            self.waiting.discard(site)
            if collect is not None:
                collect(answer)
            answers[site] = answer if collect is None else None

        await together(one(site) for site in sites)
        return answers, lost


async def together(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all; if one fails, let the others end and raise the first failure (by order), not a group of them."""
    for outcome in await asyncio.gather(*coroutines, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def first_bytes(words: NDArray[Any]) -> str:
    """The first bytes of what was received, hexadecimal."""
    return words[: FIRST_BYTES // 8].tobytes().hex()
