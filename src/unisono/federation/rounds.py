"""One attempt at one sum, under each way of hiding it: which messages go out, in which order, and what may be lost.

`secagg` is the protocol of Bonawitz et al. (CCS 2017) with what Bell et al. (CCS 2020) add; the accumulated sum and the
survivor set are on disk before anyone is asked to agree or to unmask, so that a coordinator that dies asks for the same
unmasking and finishes. `none` is one message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import Abstention, ProtocolError
from unisono.federation.ask import Ask
from unisono.federation.events import Event, Kind, Observer
from unisono.federation.exchange import (
    Advertise,
    Agree,
    Closes,
    Collect,
    Collected,
    Deliver,
    Exchange,
    Key,
    LinkLost,
    Mask,
    Masked,
    Message,
    NewSlot,
    Plain,
    Reveal,
    Revealed,
    SlotLost,
)
from unisono.federation.journal import Journal
from unisono.federation.slots import Incomplete, Lost, Slots
from unisono.federation.waiting import Patience, until_enough
from unisono.protection.encoding.codec import Codec
from unisono.protection.prg import Words
from unisono.protection.secagg.aggregate import AggregatorSession

FIRST_BYTES = 16


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

    slots: key material; None where nothing is hidden. least: sites in an opened sum, at least. closed: the step before, whose end
    rides along with the next question. counted: the last step of which each site's part was in the opened sum.
    stragglers_after: seconds after which a sum that may do without a site goes on without those that have not answered.
    waiting: sites whose answer has not come: who is late, when the deadline passes. unmasking: the sum that sites were
    asked to unmask, and the first bytes of its parts.
    """

    exchange: Exchange
    slots: Slots | None
    journal: Journal
    observer: Observer
    least: int = 1
    closed: Key | None = None
    counted: dict[str, int] = field(default_factory=dict)
    stragglers_after: float | None = None
    waiting: set[str] = field(default_factory=set)
    unmasking: tuple[AggregatorSession, Mapping[str, str]] | None = None
    _missed: set[str] = field(default_factory=set)
    """Sites of which observers were told, in this try, that they have no part in it."""

    def closes(self, site: str) -> Closes | None:
        """The end of the step before, as it is told to one site."""
        return None if self.closed is None else Closes(self.closed, self.counted.get(site, -1))

    async def secagg(self, ask: Ask, codec: Codec, length: int) -> Opened:
        """Messages A to D, as far as they have not gone out before. Raises `Incomplete` if a site that must be in the sum is
        lost before its masked input."""
        assert self.slots is not None
        slots = self.slots
        self.unmasking = None
        self._missed.clear()

        async def gather(
            sites: Iterable[str],
            message: Callable[[str], Message],
            collect: Callable[[str, Any], None],
            enough: Callable[[], bool] | None,
        ) -> Lost:
            return await self._gather(ask, sites, message, collect, **self._patience(enough))

        setup = await slots.ready(ask, gather)
        closed = self._closed_over(ask)
        if closed is not None and not set(closed) <= set(setup.dealt):
            raise Incomplete(Lost(dict.fromkeys(sorted(set(closed) - set(setup.dealt)), "share")))
        session = AggregatorSession(setup, ask.digest, length, codec.dtype)
        following = slots.begin_next(ask.circle, ask.to)
        first: dict[str, str] = {}

        def collect(site: str, masked: Masked) -> None:
            # Each part is added as it comes and then let go: memory does not grow with the number of sites.
            first[site] = first_bytes(masked.part.words)
            session.collect_masked(masked.part)
            self._riding(ask, site, lambda: slots.collect_keys(masked.next))

        def question(site: str) -> Message:
            return Mask(ask, session.slot, setup.inbox_for(site, session.dealt), following, self.closes(site))

        patience = self._patience((lambda: session.can_close) if ask.partial and closed is None else None)
        lost = await self._parts(ask, closed or session.dealt, question, collect, following, patience)
        if lost and not (ask.partial and closed is None and session.can_close):
            raise Incomplete(lost)
        self.journal.write(
            "pending",
            {"slot": session.slot, "session": session.state_tree(), "first_bytes": first, "key": list(ask.key)},
            epoch=ask.epoch,
            step=ask.step,
        )
        return await self.unmask(ask, session, first)

    async def _parts(
        self,
        ask: Ask,
        sites: Iterable[str],
        question: Callable[[str], Message],
        collect: Callable[[str, Any], None],
        following: NewSlot,
        patience: Patience,
    ) -> Lost:
        """Message C; beside it, keys for the next slot of those who have no part in this sum (or abstain from it), or a site that
        missed one would miss them all. They are waited for only a little longer than the parts; one that is away now is not."""
        assert self.slots is not None
        slots, sites, ended = self.slots, tuple(sites), False
        lost = Lost()
        keys = Advertise(ask.circle, following, slots.drawing.all_commitments())

        async def parts() -> None:
            nonlocal lost, ended
            try:
                lost = await self._gather(ask, sites, question, collect, **patience, abstained=back)
            finally:
                ended = True

        async def back(site: str) -> None:
            try:
                answer: Any = await self.exchange.request(site, keys)
            except LinkLost:
                return  # still away: that was told when it was lost

            def take() -> None:
                _check_sender(site, answer)
                slots.collect_keys(answer)

            self._riding(ask, site, take)

        for site in sorted(set(ask.sites) - set(sites) - self._missed):  # its keys did not come in time
            here = self.exchange.connected(site)
            self._without("late" if here else "lost", ask, ask.contribution if here else "share", site)
        absent = [site for site in ask.sites if site not in sites and self.exchange.connected(site)]
        await until_enough({"": parts(), **{site: back(site) for site in absent}}, lambda: ended, briefly=True)
        return lost

    async def unmask(self, ask: Ask, session: AggregatorSession, first: Mapping[str, str]) -> Opened:
        """Agreement and message D, for the one survivor set that is written down; enough answers open the sum."""
        assert self.slots is not None
        slots = self.slots
        request = session.unmask_request()
        if session.group.malicious:
            lost = await self._gather(
                ask,
                session.survivors,
                lambda _: Agree(ask.key, request),
                lambda _, agreement: session.collect_agreement(agreement),
                enough=lambda: session.agreed,
            )
            if not session.agreed:
                raise Incomplete(lost)
        self.unmasking = session, first
        request, keys = session.agreed_request(), slots.keys_to_share(ask)

        def collect(site: str, revealed: Revealed) -> None:
            session.collect_unmask(revealed.shares)
            self._riding(ask, site, lambda: slots.collect_shares(revealed.next))

        lost = await self._gather(
            ask,
            session.survivors,
            lambda _: Reveal(ask.key, request, keys),
            collect,
            enough=lambda: session.can_open,
        )
        try:
            opened = self.unmasked(ask, lost.sites)
        except ProtocolError as error:
            if error.rule != "wrong-share" or not lost:
                raise
            opened = None  # with the answers that have not come the wrong share can be found, and done without
        if opened is None:
            raise Incomplete(lost)
        return opened if not ask.to else await self.deliver(ask, session.slot, opened)

    def unmasked(self, ask: Ask, lost: Iterable[str]) -> Opened | None:
        """The sum, if enough sites have answered D; `lost` are those that have not. Also asked when the deadline passes:
        a sum that can be opened is never given up for a straggler."""
        if self.unmasking is None or not self.unmasking[0].can_open:
            return None
        session, first = self.unmasking
        self.unmasking = None
        recovered = tuple(sorted(set(lost) & set(session.survivors)))
        words = session.open()
        for site in session.wrong_sharers:
            self._misbehaved(ask, site, "wrong-share", "It gave a wrong share, or was dealt one.", {})
        for site in recovered:
            self.observer(Event("recovered", ask.analysis, ask.step, ask.contribution, site))
        return Opened(words, session.survivors, recovered, dict(first))

    async def deliver(self, ask: Ask, slot: str, opened: Opened) -> Opened:
        """A sum to a site: what is still under the recipient's own mask goes there, and is not kept here. Raises
        `Incomplete` if the recipient is lost."""
        message = Deliver(ask.key, slot, opened.words, opened.participants)
        lost = await self._gather(ask, (ask.to,), lambda _: message, lambda *_: None)
        if lost:
            raise Incomplete(lost)
        return replace(opened, words=opened.words[:0])

    async def plain(self, ask: Ask, codec: Codec, length: int) -> Opened:
        """One message; the coordinator sees every site's part."""
        total: Words = np.zeros(length, codec.dtype)
        first: dict[str, str] = {}
        patience = self._patience((lambda: len(first) >= self.least) if ask.partial else None)

        def collect(site: str, words: Words) -> None:
            if words.shape != (length,) or words.dtype != codec.dtype:
                raise ProtocolError(
                    f"{site} sent {words.size} words, expected {length}.",
                    rule="encoding-length",
                    remedy="Coordinator and site run different versions of the method; install the same one.",
                )
            first[site] = first_bytes(words)
            np.add(total, words, out=total)  # in a ring: the order does not matter

        lost = await self._gather(ask, ask.sites, lambda site: Plain(ask, self.closes(site)), collect, **patience)
        if lost and (not ask.partial or len(first) < self.least):
            raise Incomplete(lost)
        return Opened(total, tuple(sorted(first)), (), dict(sorted(first.items())))

    async def collect(self, ask: Ask, of: Iterable[str]) -> dict[str, NDArray[np.uint8]]:
        """Each of these sites' part as it is, a packed tree: what permit and policy allow by name. One message."""
        parts: dict[str, NDArray[np.uint8]] = {}

        def collect(site: str, collected: Collected) -> None:
            parts[site] = collected.packed

        lost = await self._gather(ask, of, lambda site: Collect(ask, self.closes(site)), collect)
        if lost:
            raise Incomplete(lost)
        return parts

    def _patience(self, enough: Callable[[], bool] | None) -> Patience:
        """How long a sum that may do without some sites waits for them."""
        if enough is None or self.stragglers_after is None:
            return {"enough": None, "after": None}
        return {"enough": enough, "after": self.stragglers_after}

    def _closed_over(self, ask: Ask) -> tuple[str, ...] | None:
        """The set of an earlier attempt that sites may have signed or unmasked for: another is refused, so it stays this one."""
        record = self.journal.last("pending", epoch=ask.epoch, step=ask.step)
        if record is None or record.body is None:
            return None
        return tuple(record.body["session"]["unmask"]["survivors"])

    async def _gather(
        self,
        ask: Ask,
        sites: Iterable[str],
        message: Callable[[str], Message],
        collect: Callable[[str, Any], None],
        *,
        enough: Callable[[], bool] | None = None,
        after: float | None = None,
        abstained: Callable[[str], Awaitable[None]] | None = None,
    ) -> Lost:
        """Ask all at once. Lost links are counted; a refusal of any site ends the run with the site's own words, but for a site
        that abstains from a sum which may do without it.

        enough: says when the answers that are there will do. The others are then waited for only a little longer, or until
        `after` seconds have passed since they were asked, and an answer that cannot be used is as good as none; both count as
        lost. abstained: what else is asked of a site that abstains.
        """
        lost = Lost()
        sites = tuple(sites)
        self.waiting.clear()
        self.waiting.update(sites)

        async def one(site: str) -> None:
            sent = message(site)
            try:
                if ask.partial and not self.exchange.connected(site):
                    raise LinkLost(site, sent.phase)
                answer = await self.exchange.request(site, sent)
            except LinkLost as lost_link:
                self.waiting.discard(site)
                lost.sites[site] = lost_link.phase
                if isinstance(lost_link, SlotLost):
                    lost.restarted.add(site)
                self._without("lost", ask, sent.phase, site)
                return
            except Abstention as abstention:
                self.waiting.discard(site)
                if not ask.partial:
                    raise
                self._abstained(ask, site, abstention)
                lost.sites[site] = "abstained"
                if abstained is not None:
                    await abstained(site)
                return
            self.waiting.discard(site)
            try:
                _check_sender(site, answer)
                collect(site, answer)
            except ProtocolError as error:
                self._misbehaved(ask, site, error.rule, error.what, error.evidence)
                if enough is None:
                    raise
                lost.sites[site] = sent.phase

        for site in await until_enough({site: one(site) for site in sites}, enough, after=after):
            lost.sites[site] = "late"
            self.waiting.discard(site)
            self._without("late", ask, ask.contribution, site)
        return lost

    def _abstained(self, ask: Ask, site: str, why: Abstention) -> None:
        """Write down that a site has no part in a sum, and by which rule of its own."""
        body = {"site": site, "rule": why.rule, "what": why.what, "name": ask.contribution}
        self.journal.write("abstained", body, epoch=ask.epoch, step=ask.step, soon=True)
        self._without("abstained", ask, why.rule, site)

    def _without(self, kind: Kind, ask: Ask, name: str, site: str) -> None:
        """Tell observers that a site has no part in this try, and why."""
        self._missed.add(site)
        self.observer(Event(kind, ask.analysis, ask.step, name, site))

    def _riding(self, ask: Ask, site: str, collect: Callable[[], None]) -> None:
        """What rode along never spoils the sum that it rode on: it is asked for again by itself, and refused then."""
        try:
            collect()
        except ProtocolError as error:
            self._misbehaved(ask, site, error.rule, error.what, error.evidence)

    def _misbehaved(self, ask: Ask, site: str, rule: str, what: str, evidence: Mapping[str, str]) -> None:
        """Write down that a site sent what no site of ours sends."""
        body = {"site": site, "rule": rule, "what": what, "evidence": dict(evidence)}
        self.journal.write("misbehaved", body, epoch=ask.epoch, step=ask.step)
        self.observer(Event("misbehaved", ask.analysis, ask.step, rule, site))


def _check_sender(site: str, answer: Any) -> None:
    """What comes over a site's link is that site's: it does not speak in another's name."""
    for part in (answer, *(getattr(answer, name, None) for name in ("part", "shares", "next"))):
        if getattr(part, "site", site) != site:
            raise ProtocolError(
                f"{site} sent a message in the name of {part.site}.",
                rule="sender",
                remedy="The site runs altered software; leave it out until that is explained.",
                evidence={"link": site, "named": str(part.site)},
            )


def first_bytes(words: NDArray[Any]) -> str:
    """The first bytes of what was received, hexadecimal."""
    return words[: FIRST_BYTES // 8].tobytes().hex()
