"""The world of one schedule: the sites, every call to them, and what is known to have left them.

Whoever asks (the honest coordinator's driver, a fault on the line, an attack) asks through here, so that the ledger hears of
everything that leaves an honest site, the schedule is written down, and an error that is no clean refusal is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from unisono.errors import UnisonoError
from unisono.federation.tree import pack, unpack
from unisono.protection.prg import Words
from unisono.protection.secagg.group import group_of
from unisono.protection.secagg.messages import (
    Advertise,
    Agreement,
    Commitment,
    KeyRoster,
    MaskedInput,
    Message,
    SealedInbox,
    Shares,
    Unmask,
    UnmaskShares,
)
from unisono.protection.secagg.party import Key, Party, SlotUnknown
from unisono.protection.secagg.setup import Drawing
from unisono.simulation.cast import (
    Amnesia,
    Ask,
    Colluder,
    KnownSignatures,
    Node,
    PartyFactory,
    PowerCut,
    identity,
    seeded,
)
from unisono.simulation.ledger import BrokenInvariant, Ledger
from unisono.simulation.plan import Dice, Plan
from unisono.simulation.tally import KINDS, Tally

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class Said:
    """How a site answered: with a message, with a refusal (`refused`: its rule), or not at all (both None)."""

    message: Any = None
    refused: str | None = None

    @property
    def how(self) -> str:
        """In words, for the tables."""
        if self.message is not None:
            return "answered"
        return f"refused: {self.refused}" if self.refused else "nobody there"


class World:
    """Everything of one schedule that is not the coordinator."""

    def __init__(self, plan: Plan, dice: Dice, tally: Tally, parties: PartyFactory = Party) -> None:
        self.plan = plan
        self.dice = dice
        self.tally = tally
        self.trace: list[str] = []
        self.roster = KnownSignatures({site: identity(site).public for site in plan.sites})
        self.group = group_of(plan.run, 0, plan.sites, self.roster, plan.parameters)
        self.ledger = Ledger(plan)
        self.drawing = Drawing(self.group)
        self.nodes: dict[str, Node] = {}
        self.rollbacks = 0
        self.sent: dict[tuple[str, str], Words] = {}
        """What is in a site's masked part of a slot: (site, slot) -> its vector."""
        self.errors: list[UnisonoError] = []
        """Every refusal since the attempt began."""
        self.heard: dict[str, list[tuple[str, Message]]] = {}
        """Every message that left a site, by its kind, for replays: (site, message)."""
        self._first: dict[tuple[str, Key], Words] = {}
        self._computed: dict[tuple[str, Key], Words] = {}
        self._masked_before: dict[str, list[tuple[Key, Words]]] = {}
        for site in plan.sites:
            seed = f"{plan.seed} {plan.index}"
            node = Node(site, self.group, Colluder if self.colludes(site) else parties, seed)
            if self.colludes(site):
                node.disk = Amnesia()
                node.start()
                assert isinstance(node.party, Colluder)
                node.party.misdeeds = plan.misdeeds
            self.nodes[site] = node
        self.say(plan.sentence())

    # The schedule, written down

    def say(self, what: str) -> None:
        """One line of the schedule."""
        self.trace.append(what)

    def colludes(self, site: str) -> bool:
        """Whether a site is one of the coordinator's."""
        return site in self.plan.colluders

    @property
    def honest(self) -> list[str]:
        """The others, sorted."""
        return [site for site in self.plan.sites if not self.colludes(site)]

    # Calls to sites

    def commit(self, site: str) -> Said:
        """A commitment to the nonce of the graph."""
        return self._call(site, "commit", lambda party: party.commit())

    def advertise(self, site: str, slot: str, recipient: str, commitments: Sequence[Commitment]) -> Said:
        """A."""
        said = self._call(site, f"A advertise {slot}", lambda party: party.advertise(slot, recipient, commitments))
        if isinstance(said.message, Advertise) and not self.colludes(site):
            self.ledger.advertised(said.message)
        return said

    def share(self, site: str, keys: KeyRoster) -> Said:
        """B."""
        said = self._call(site, f"B share {keys.slot}", lambda party: party.share(keys))
        if isinstance(said.message, Shares) and not self.colludes(site):
            self.ledger.shared(keys, said.message)
        return said

    def mask(self, site: str, ask: Ask, slot: str, inbox: SealedInbox) -> Said:
        """C. The vector is new each time it is computed: to compute it twice for a step would be seen in the sum."""

        def compute() -> Words:
            found = self._vector(site, ask.key)
            self._computed[site, ask.key] = found
            return found

        what = f"C mask step {ask.key[3]} in {slot}, ask {ask.digest[:6]}, dealt {_short(inbox.dealt)}"
        said = self._call(site, what, lambda party: party.mask(ask, slot, inbox, compute))
        if isinstance(said.message, MaskedInput):
            computed = self._computed[site, ask.key]
            first = self._first.setdefault((site, ask.key), computed)
            self.sent[site, slot] = computed if self.colludes(site) else first  # a colluder's disk remembers nothing
            if not self.colludes(site):
                self._left_masked(site, ask.key, inbox, said.message)
        return said

    def agree(self, site: str, key: Key, request: Unmask) -> Said:
        """The consistency message."""
        what = f"agree step {key[3]} in {request.slot} on {_short(request.survivors)}"
        said = self._call(site, what, lambda party: party.agree(key, request))
        if isinstance(said.message, Agreement) and not self.colludes(site):
            self.ledger.agreed(key, request, said.message)
        return said

    def unmask(self, site: str, key: Key, request: Unmask) -> Said:
        """D."""
        what = f"D unmask step {key[3]} in {request.slot} for {_short(request.survivors)}"
        said = self._call(site, what, lambda party: party.unmask(key, request))
        if isinstance(said.message, UnmaskShares) and not self.colludes(site):
            self.ledger.unmasked(key, request, said.message)
        return said

    def receive(self, site: str, key: Key, slot: str, words: Words) -> Said:
        """The recipient takes off its own mask."""
        return self._call(site, f"receive step {key[3]}", lambda party: party.receive(key, slot, words))

    def _call(self, site: str, what: str, call: Callable[[Party[Ask]], Any]) -> Said:
        self.tally.operations += 1
        node = self.nodes[site]
        if node.party is None:
            self.say(f"{site} <- {what}: it is down")
            return Said()
        try:
            message = call(node.party)
        except UnisonoError as error:
            self.errors.append(error)
            self.say(f"{site} <- {what}: refuses, {error.rule}: {error.what}")
            return Said(refused=error.rule)
        except SlotUnknown:
            self.say(f"{site} <- {what}: does not know the slot")
            return Said()
        except PowerCut:
            node.crash()
            self.say(f"{site} <- {what}: its power fails while it writes")
            return Said()
        self.say(f"{site} <- {what}: answers")
        if isinstance(message, Message):
            self.heard.setdefault(message.kind, []).append((site, message))
        return Said(message)

    # Crashes

    def crash(self, site: str) -> None:
        """A site loses its memory, and stays down until `revive`."""
        self.say(f"{site} crashes")
        self.nodes[site].crash()

    def revive(self, site: str) -> None:
        """A site that is down starts from its disk."""
        if self.nodes[site].party is None:
            self.say(f"{site} starts again, from its disk")
            self.nodes[site].start()

    def may_roll_back(self, site: str) -> bool:
        """At most C sites may be colluders or set back; beyond that nothing is promised."""
        node = self.nodes[site]
        within = node.rolled_back or self.rollbacks < self.plan.rollbacks
        return within and bool(node.disk.copies) and not self.colludes(site)

    def roll_back(self, site: str) -> None:
        """A site crashes and starts from an older copy of its disk: what it has given since, it has forgotten."""
        node = self.nodes[site]
        self.rollbacks += 0 if node.rolled_back else 1
        node.rolled_back = True
        self.ledger.rolled_back.add(site)
        node.crash()
        copy = self.dice.randrange(len(node.disk.copies))
        node.disk.set_back(copy)
        self._first = {k: v for k, v in self._first.items() if k[0] != site or k[1] in node.disk.steps}
        self.tally.faults["rolled back"] += 1
        self.say(f"{site} is set back to copy {copy} of its disk, and starts")
        node.start()

    # On the wire

    def wired(self, message: M) -> M:
        """As it arrives at the other end; packed and read again only in some schedules, for speed."""
        return type(message).from_tree(unpack(pack(message.to_tree()))) if self.plan.wired else message

    # Vectors

    def total(self, slot: str, survivors: Sequence[str]) -> Words:
        """What the sum of a slot must be."""
        total: Words = np.add.reduce([self.sent[site, slot] for site in survivors])
        return total

    def _vector(self, site: str, key: Key) -> Words:
        self.tally.operations += 1
        raw = seeded(f"{self.plan.seed} {self.plan.index} {site} {key[3]} {self.tally.operations}")
        dtype = np.dtype(np.uint32 if self.plan.bits == 32 else np.uint64)
        top = dtype.type(2 ** (self.plan.bits * 3 // 4) - 1)
        words: Words = (
            np.frombuffer(raw(self.plan.length * dtype.itemsize), dtype.newbyteorder("<")).astype(dtype) & top
        )
        return words

    def _left_masked(self, site: str, key: Key, inbox: SealedInbox, message: MaskedInput) -> None:
        party = self.nodes[site].party
        assert party is not None
        graph = party._slots[message.slot].graph
        if graph is None:
            raise BrokenInvariant(f"{site} masked without a graph")
        self.ledger.masked(key, [s for s in graph.neighbours(site) if s in inbox.dealt], inbox, message)
        self.tally.see(KINDS[0], message.words)
        for step, words in self._masked_before.setdefault(site, []):
            self.tally.see(KINDS[1] if step == key else KINDS[2], message.words - words)
        self._masked_before[site].append((key, message.words))


def _short(sites: Sequence[str]) -> str:
    return "{" + " ".join(site.removeprefix("site") for site in sites) + "}"
