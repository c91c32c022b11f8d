"""The coordinator of one schedule: sums, step by step, with retries, crashes and slots set up ahead; and the moments at
which it may lie.

What it does between its lies is what `unisono.protection.secagg` is for: it uses `SlotSetup` and `AggregatorSession` as
they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from unisono.errors import ProtocolError, UnisonoError
from unisono.federation.tree import pack, unpack
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.messages import Advertise, MaskedInput, Unmask, checksum_of
from unisono.protection.secagg.setup import SlotSetup
from unisono.simulation.cast import Ask, Colluder
from unisono.simulation.culprits import note_culprits
from unisono.simulation.ledger import BrokenInvariant
from unisono.simulation.line import Line
from unisono.simulation.world import Said, World

ATTEMPTS = 3
"""At a step, at most."""


class PutAside(Exception):
    """The attempt goes no further now: the coordinator died before it stored anything, or keeps it for a later lie."""


@dataclass
class Prepared:
    """A slot on its way to being ready. failed: the sites whose keys or shares a fault kept away. whole: whether the graph
    was known, so that not every site must be there."""

    setup: SlotSetup
    failed: set[str] = field(default_factory=set)


@dataclass
class Attempt:
    """One try at a step. withheld: whose parts a lying coordinator says never came. singled_out, shown: the site that it wants
    to read, and the few sites that this one was told of."""

    ask: Ask
    prepared: Prepared
    withheld: frozenset[str] = frozenset()
    session: AggregatorSession | None = None
    request: Unmask | None = None
    singled_out: str = ""
    shown: tuple[str, ...] = ()

    @property
    def setup(self) -> SlotSetup:
        """The slot's keys and shares."""
        return self.prepared.setup

    @property
    def slot(self) -> str:
        """The slot's name."""
        return self.setup.slot


Lie = Callable[["Coordinator", str, Attempt], None]
"""What a lying coordinator does at a moment (``keys``, ``shares``, ``masks``, ``masked``, ``unmask``, ``after``)."""


def no_lie(coordinator: Coordinator, moment: str, at: Attempt) -> None:
    """An honest coordinator."""


class Coordinator:
    """Runs a schedule to its end. `BrokenInvariant` if something happened that must never happen."""

    def __init__(self, world: World, lie: Lie = no_lie) -> None:
        self.world = world
        self.plan = world.plan
        self.dice = world.dice
        self.line = Line(world)
        self.lie = lie
        self.past: list[Attempt] = []
        """Every attempt so far, in which lies find their material."""
        self._next: Prepared | None = None
        self._slots = 0

    def run(self) -> None:
        """All sums."""
        for number in range(1, self.plan.steps + 1):
            opened = False
            for attempt in range(1, ATTEMPTS + 1):
                if opened and not (self.plan.lying and self.dice.happens(0.4)):
                    break
                self._between()
                opened |= self._attempt(number, attempt)
            if opened and self.dice.happens(0.3):
                self._close(number)

    # Between attempts

    def _between(self) -> None:
        world = self.world
        world.errors.clear()
        self.line.late.clear()
        for site in world.honest:
            if world.nodes[site].party is None and self.dice.happens(0.8):
                world.revive(site)
            if world.may_roll_back(site) and self.dice.happens(0.4):
                world.roll_back(site)
            if self.plan.rollbacks and self.dice.happens(0.6):
                world.nodes[site].disk.keep_copy()

    def _close(self, number: int) -> None:
        for site in self.world.honest:
            node = self.world.nodes[site]
            if node.party is not None:
                node.party.close(self._key(number))
                node.disk.close(self._key(number))
        self.world.say(f"step {number} is over, and the sites are told")

    # One attempt

    def _attempt(self, number: int, attempt: int) -> bool:
        world, tally = self.world, self.world.tally
        world.say(f"-- step {number}, attempt {attempt}")
        drawn = self.plan.parameters.complete or world.drawing.graph is not None
        prepared = self._take_next() or Prepared(SlotSetup(world.drawing, self._slot_name(), self.plan.recipient))
        at = Attempt(self.ask(number, attempt), prepared, self._withheld())
        given = self._given_before(at.ask)
        self.past.append(at)
        error: UnisonoError | None = None
        try:
            self._sum(at, attempt)
            tally.sums["opened"] += 1
        except PutAside as why:
            tally.sums[str(why)] += 1
            world.say(f"the attempt ends: {why}")
            return False
        except UnisonoError as aborted:
            error = aborted
            world.errors.append(aborted)
            tally.sums["clean aborts"] += 1
            tally.aborts[aborted.rule] += 1
            world.say(f"the attempt is over, {aborted.rule}: {aborted.what}")
        finally:
            note_culprits(world, () if at.session is None else at.session.wrong_sharers)
        if error is not None:
            self._must_have_opened(at, error, given, drawn)
        self.lie(self, "after", at)
        return error is None

    def _sum(self, at: Attempt, attempt: int) -> None:
        self._prepare(at)
        self.lie(self, "masks", at)
        session = self._collect_masked(at)
        if self.dice.happens(0.02):
            raise PutAside("coordinator lost before closing")
        stored = pack(session.state_tree())
        self.line.deliver_late()
        at.request = session.unmask_request()
        self.lie(self, "masked", at)
        if self.plan.lying and attempt < ATTEMPTS and self.dice.happens(0.15):
            raise PutAside("put aside by a lying coordinator")
        session = at.session = self._maybe_restored(stored, session)
        self._agree(at, session)
        self.lie(self, "unmask", at)
        self._unmask(at, session, stored)
        self._open(at)

    # A and B

    def _prepare(self, at: Attempt) -> None:
        setup, failed = at.setup, at.prepared.failed
        if not setup.advertised:
            self._commit(failed)
            self.lie(self, "keys", at)
            for site in self._shuffled(self.plan.sites):
                self._advertise(at.prepared, site)
        self.lie(self, "shares", at)
        for site in self._shuffled(setup.missing_shares([item.site for item in setup.key_roster().advertised])):
            self._share(at.prepared, site)

    def _commit(self, failed: set[str]) -> None:
        drawing = self.world.drawing
        if drawing.committed:
            return
        for site in self._shuffled(self.plan.sites):
            self.line.exchange(site, None, lambda _: self.world.commit(site), drawing.collect_commitment, failed)  # noqa: B023  (called at once)

    def _advertise(self, prepared: Prepared, site: str) -> None:
        setup = prepared.setup
        commitments = self.world.drawing.all_commitments()

        def ask(_: Any) -> Said:
            said = self.world.advertise(site, setup.slot, setup.recipient, commitments)
            return self._copied(setup, site, said)

        self.line.exchange(site, None, ask, setup.collect_advertise, prepared.failed)

    def _copied(self, setup: SlotSetup, site: str, said: Said) -> Said:
        """A colluder puts another's key under its own name."""
        party = self.world.nodes[site].party
        if not isinstance(party, Colluder) or "another's key copied" not in party.misdeeds or not setup.advertised:
            return said
        if not isinstance(said.message, Advertise):
            return said
        party.done.add("another's key copied")
        other = setup.advertised[min(setup.advertised)]
        return Said(party.signed(replace(said.message, mask_key=other.mask_key)))

    def _share(self, prepared: Prepared, site: str) -> None:
        setup = prepared.setup
        keys = setup.key_roster()
        self.line.exchange(site, keys, lambda k: self.world.share(site, k), setup.collect_shares, prepared.failed)

    def _begin_next(self) -> None:
        if self.plan.ahead and self.world.drawing.graph is not None:
            self._next = Prepared(SlotSetup(self.world.drawing, self._slot_name(), self.plan.recipient))

    def _take_next(self) -> Prepared | None:
        found, self._next = self._next, None
        if found is None or len(found.setup.shares) < self.plan.parameters.least_survivors:
            return None
        found.failed |= set(self.plan.sites) - set(found.setup.shares)
        return found

    # C

    def _collect_masked(self, at: Attempt) -> AggregatorSession:
        dtype = np.uint32 if self.plan.bits == 32 else np.uint64
        session = AggregatorSession(at.setup, at.ask.digest, self.plan.length, dtype)
        at.session = session
        self._begin_next()
        for site in self._shuffled(at.setup.dealt):
            inbox = at.setup.inbox_for(site)

            def ask(request: Any, site: str = site) -> Said:
                return self._falsified(at, site, self.world.mask(site, at.ask, at.slot, request))

            def collect(message: Any, site: str = site) -> None:
                if site not in at.withheld:
                    session.collect_masked(message)

            self.line.exchange(site, inbox, ask, collect, at.prepared.failed)
            if self._next is not None:
                self._advertise(self._next, site)
        return session

    def _falsified(self, at: Attempt, site: str, said: Said) -> Said:
        """A colluder sends another vector than its data give. Nobody can tell; the sum is exactly that of what was sent."""
        party = self.world.nodes[site].party
        if not isinstance(party, Colluder) or "false vector" not in party.misdeeds:
            return said
        message = said.message
        if not isinstance(message, MaskedInput):
            return said
        party.done.add("false vector")
        words = message.words + message.words.dtype.type(1)
        self.world.sent[site, at.slot] = self.world.sent[site, at.slot] + message.words.dtype.type(1)
        return Said(replace(message, words=words, checksum=checksum_of(words, message.binding, site)))

    # Agreement and D

    def _maybe_restored(self, stored: bytes, session: AggregatorSession) -> AggregatorSession:
        """The coordinator dies and goes on from what it stored (parameters that no search gives are refused there)."""
        if self.plan.forced or not self.dice.happens(0.1):
            return session
        self.world.say("the coordinator crashes, and goes on from its journal")
        self.world.tally.faults["coordinator restored"] += 1
        return AggregatorSession.restore(unpack(stored), self.world.roster)

    def _agree(self, at: Attempt, session: AggregatorSession) -> None:
        if not self.world.group.malicious:
            return
        request = session.unmask_request()
        for site in self._shuffled(session.survivors):
            self.line.exchange(
                site,
                request,
                lambda r: self.world.agree(site, at.ask.key, r),  # noqa: B023  (called at once)
                session.collect_agreement,
                at.prepared.failed,
            )
        at.request = session.agreed_request()
        if not session.agreed:
            raise ProtocolError(
                "Too few sites signed the set of survivors.", rule="no-agreement", remedy="A new attempt is made."
            )

    def _unmask(self, at: Attempt, session: AggregatorSession, stored: bytes) -> None:
        assert at.request is not None
        self._next_keys()
        order = self._shuffled(session.survivors)
        dies_at = self.dice.randrange(len(order)) if not self.plan.forced and self.dice.happens(0.05) else -1
        for place, site in enumerate(order):
            if place == dies_at:
                self.world.say("the coordinator crashes while it collects, and asks everyone again")
                session = at.session = AggregatorSession.restore(unpack(stored), self.world.roster)
                self._ask_to_unmask(at, session, order[:place])
            self._ask_to_unmask(at, session, [site])
            if self._next is not None and site in self._next.setup.advertised:
                self._share(self._next, site)

    def _ask_to_unmask(self, at: Attempt, session: AggregatorSession, sites: list[str]) -> None:
        for site in sites:
            self.line.exchange(
                site,
                at.request,
                lambda r: self.world.unmask(site, at.ask.key, r),  # noqa: B023  (called at once)
                session.collect_unmask,
                at.prepared.failed,
            )

    def _next_keys(self) -> None:
        if self._next is None:
            return
        try:
            self._next.setup.key_roster()
        except UnisonoError as error:
            self.world.say(f"the next slot is not ready, {error.rule}")
            self._next = None

    def _open(self, at: Attempt) -> None:
        session, world = at.session, self.world
        assert session is not None
        total = session.open()
        expected = world.total(at.slot, session.survivors)
        if self.plan.recipient:
            if bool((total == expected).all()):
                raise BrokenInvariant(f"the coordinator reads the sum for {self.plan.recipient} (rule 7)")
            said = world.receive(self.plan.recipient, at.ask.key, at.slot, total)
            if said.message is None:
                if said.refused is None:
                    at.prepared.failed.add(self.plan.recipient)
                raise ProtocolError("The recipient is gone.", rule=said.refused or "recipient-gone", remedy="Retry.")
            total = said.message
        if not bool((total == expected).all()):
            raise BrokenInvariant(f"the opened sum is not that of {', '.join(session.survivors)}")
        world.say(f"OPENED over {', '.join(session.survivors)}")

    # What must be so

    def _must_have_opened(self, at: Attempt, error: UnisonoError, given: set[tuple[str, ...]], drawn: bool) -> None:
        """Liveness: with an honest coordinator, nobody on the line, and no more failures than the federation can bear, the
        sum opens."""
        p, failed = self.plan.parameters, at.prepared.failed | self._without_graph()
        if self.plan.mood != "calm" or (given and (not self.world.group.one_set_for_ever or at.session is None)):
            return
        survivors = () if at.session is None else at.session.survivors
        there = set(self.plan.sites) - failed
        if given - {survivors} or self.plan.recipient in failed or len(there) < p.least_survivors:
            return
        if failed and not (drawn and (self.plan.partial or survivors == self.plan.sites)):
            return
        graph = self.world.drawing.graph
        if graph is None or any(sum(s in there for s in graph.holders(o)) < p.t for o in self.plan.sites):
            return
        raise BrokenInvariant(
            f"{len(failed)} sites failed, the federation bears it, and yet the sum was not opened: {error.rule}"
        )

    def _without_graph(self) -> set[str]:
        """Honest sites that do not know the graph: they died before it was on their disk. They learn it from the next slot for
        which every site is there."""
        known = {site: self.world.nodes[site].disk.drawing(self.plan.run, 0) for site in self.world.honest}
        regular = not self.plan.parameters.complete
        return {site for site, drawing in known.items() if regular and (drawing is None or drawing[1] is None)}

    def _given_before(self, ask: Ask) -> set[tuple[str, ...]]:
        records = [self.world.nodes[site].disk.step(ask.key) for site in self.world.honest]
        return {record.survivors for record in records if record is not None and record.survivors is not None}

    # Names

    def ask(self, number: int, attempt: int, question: str = "") -> Ask:
        """The question of a step's attempt; another `question` under the same step is a lie."""
        text = f"{self.plan.run} step {number}{question}"
        asked = hashlib.sha256(text.encode()).hexdigest()
        tried = hashlib.sha256(f"{asked} attempt {attempt}".encode()).hexdigest()
        return Ask(self._key(number), asked, tried, self.plan.sites, self.plan.recipient, self.plan.partial)

    def _key(self, number: int) -> tuple[str, str, int, int]:
        return (self.plan.run, "analysis", 0, number)

    def _slot_name(self) -> str:
        self._slots += 1
        return f"slot-{self._slots}"

    def _withheld(self) -> frozenset[str]:
        """A lying coordinator says that these dropped, although their parts came."""
        if not self.plan.lying or not self.dice.happens(0.6):
            return frozenset()
        room = self.plan.parameters.n - self.plan.parameters.least_survivors
        return frozenset(
            self.dice.sample(self.world.honest, min(room, len(self.world.honest), self.dice.randint(1, 2)))
        )

    def _shuffled(self, sites: Any) -> list[str]:
        order = sorted(sites)
        self.dice.shuffle(order)
        return order
