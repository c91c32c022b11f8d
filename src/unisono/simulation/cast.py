"""Who takes part in a schedule: sites with a disk that can be copied and set back, and colluders that do as they are told."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from unisono.errors import ProtocolError
from unisono.protection.prg import Entropy, Source, Words, add_streams
from unisono.protection.secagg.group import Group
from unisono.protection.secagg.messages import (
    Advertise,
    Agreement,
    Commitment,
    KeyRoster,
    MaskedInput,
    SealedInbox,
    Shares,
    Unmask,
    UnmaskShares,
)
from unisono.protection.secagg.party import Key, Party, SlotUnknown
from unisono.protection.secagg.roster import Identity, Roster
from unisono.protection.shamir import SHARE_BYTES

PartyFactory = Callable[[str, Identity, Group, "Disk", Entropy], Party["Ask"]]
"""How a site's software is made: `Party`, or in a test one that is broken on purpose."""


@dataclass(frozen=True)
class Ask:
    """The question of one attempt, as `unisono.protection.secagg.party.Question` wants it."""

    key: Key
    question: str
    digest: str
    sites: tuple[str, ...]
    to: str
    partial: bool


@dataclass(frozen=True)
class Record:
    """What a site's disk has of a step."""

    question: str
    vector: Words | None = None
    slot: str | None = None
    survivors: tuple[str, ...] | None = None
    answer: UnmaskShares | None = None
    closed: bool = False


class PowerCut(Exception):
    """The site's computer died while it was writing."""


class Disk:
    """A site's durable memory (`unisono.protection.secagg.party.Memory`), which can be copied, and set back to a copy.

    cut: the power fails at the next write, ``before`` or ``after`` it is on the disk.
    """

    def __init__(self) -> None:
        self.steps: dict[Key, Record] = {}
        self.drawings: dict[tuple[str, int], tuple[str, bytes | None]] = {}
        self.copies: list[tuple[dict[Key, Record], dict[tuple[str, int], tuple[str, bytes | None]]]] = []
        self.cut = ""

    def keep_copy(self) -> None:
        """A back-up, as it is now. Records are immutable: copying the tables is enough."""
        self.copies.append((dict(self.steps), dict(self.drawings)))

    def set_back(self, copy: int) -> None:
        """The roll-back: everything written since is forgotten."""
        steps, drawings = self.copies[copy]
        self.steps, self.drawings = dict(steps), dict(drawings)

    def step(self, key: Key) -> Record | None:
        """What is known of a step."""
        return self.steps.get(key)

    def remember_vector(self, ask: Ask, vector: Words) -> None:
        """Before the masked part goes out."""
        self._write(lambda: self._put(ask.key, Record(ask.question, vector.copy())))

    def remember_survivors(self, key: Key, slot: str, survivors: tuple[str, ...]) -> None:
        """Before anything is signed or given."""
        record = self.steps[key]
        if record.survivors not in (None, survivors):
            raise ProtocolError(
                "The disk has another set of survivors of this step.",
                rule="one-opening-per-step",
                remedy="Nothing was given.",
            )
        answer = record.answer if record.slot == slot else None
        self._write(lambda: self._put(key, replace(record, slot=slot, survivors=survivors, answer=answer)))

    def remember_answer(self, key: Key, slot: str, answer: UnmaskShares) -> None:
        """Before the shares go out."""
        self._write(lambda: self._put(key, replace(self.steps[key], slot=slot, answer=answer)))

    def close(self, key: Key) -> None:
        """The step is over; without writing fault."""
        if key in self.steps:
            self._put(key, replace(self.steps[key], closed=True))

    def drawing(self, run: str, epoch: int) -> tuple[str, bytes | None] | None:
        """The digest of the commitments of a run's graph, and its seed once known."""
        return self.drawings.get((run, epoch))

    def remember_drawing(self, run: str, epoch: int, commitments: str, seed: bytes | None) -> None:
        """Before the nonce is revealed, and when the graph is known."""
        self._write(lambda: self.drawings.__setitem__((run, epoch), (commitments, seed)))

    def _put(self, key: Key, record: Record) -> None:
        self.steps[key] = record

    def _write(self, write: Callable[[], None]) -> None:
        cut, self.cut = self.cut, ""
        if cut == "before":
            raise PowerCut
        write()
        if cut == "after":
            raise PowerCut


class Node:
    """One site: its identity, its disk, and its software while that runs (`party` is None while it is down)."""

    def __init__(self, name: str, group: Group, factory: PartyFactory, seed: str) -> None:
        self.name = name
        self.disk = Disk()
        self.party: Party[Ask] | None = None
        self.incarnation = 0
        self.rolled_back = False
        self._group = group
        self._factory = factory
        self._seed = seed
        self.start()

    def start(self) -> None:
        """Start the software, from the disk and with nothing else."""
        self.incarnation += 1
        entropy = seeded(f"{self._seed} {self.name} {self.incarnation}")
        self.party = self._factory(self.name, identity(self.name), self._group, self.disk, entropy)

    def crash(self) -> None:
        """Everything in memory is gone."""
        self.party = None
        self.disk.cut = ""


class Colluder(Party[Ask]):
    """A site that answers whatever the coordinator wants, any number of times, and deals badly if it is told to.

    misdeeds: of `unisono.simulation.plan.MISDEEDS`; `done` says which it really did.
    """

    misdeeds: tuple[str, ...] = ()
    done: set[str]

    def __init__(self, me: str, own: Identity, group: Group, memory: Disk, entropy: Entropy) -> None:
        super().__init__(me, own, group, memory, entropy)
        self.done = set()
        self._own_run_key = self._run_keys
        self._held: dict[str, tuple[dict[str, bytes], dict[str, bytes]]] = {}

    def advertise(self, slot: str, recipient: str = "", commitments: object = ()) -> Advertise:
        """A; with another nonce than the committed one, if told so."""
        message = super().advertise(slot, recipient, commitments)  # type: ignore[arg-type]  # it passes them on
        if "another nonce revealed" in self.misdeeds and message.nonce:
            self.done.add("another nonce revealed")
            return self.signed(replace(message, nonce=hashlib.sha256(message.nonce).digest()))
        return message

    def signed(self, message: Advertise) -> Advertise:
        """The keys under this site's own, good signature: it may sign what it likes."""
        return replace(message, signature=self._identity.sign(message.signed()))

    def recommitted(self) -> Commitment:
        """A second commitment, to another nonce, with a good signature."""
        other = replace(self.commit(), commitment=hashlib.sha256(self._nonce).digest())
        return replace(other, signature=self._identity.sign(other.signed()))

    def share(self, keys: KeyRoster) -> Shares:
        """B; with shares or a commitment that are none, if told so."""
        message = super().share(keys)
        if "wrong commitment dealt" in self.misdeeds:
            self.done.add("wrong commitment dealt")
            message = replace(message, commitment=hashlib.sha256(message.commitment).digest())
        if "wrong share dealt" in self.misdeeds and message.boxes:
            self.done.add("wrong share dealt")
            session = self._slots[keys.slot]
            channel = {item.site: item.channel_key for item in keys.advertised}
            victim = min(message.boxes)
            key = self._own_run_key.box_key(channel[victim], self.me, victim)
            box = session._derive.seal(key, self._entropy(12), self._entropy(2 * SHARE_BYTES), self.me, victim)
            message = replace(message, boxes={**message.boxes, victim: box})
        return message

    def mask(
        self,
        ask: Ask,
        slot: str,
        inbox: SealedInbox,
        compute: Callable[[], Source | Words],
        *,
        threads: int | None = None,
    ) -> MaskedInput:
        """C; it keeps the shares that it was dealt."""
        message = super().mask(ask, slot, inbox, compute, threads=threads)
        session = self._slots[slot]
        self._held[slot] = (dict(session._seed_shares), dict(session._mask_shares))
        return message

    def agree(self, key: Key, request: Unmask) -> Agreement:
        """It signs every set, of any step."""
        del key
        return Agreement(self.me, self.group.run, request.slot, self._identity.sign(request.agreed(self.me)))

    def unmask(self, key: Key, request: Unmask) -> UnmaskShares:
        """It gives the shares for every set, of any step."""
        del key
        if request.slot not in self._held:
            raise SlotUnknown(request.slot)
        seeds, masks = self._held[request.slot]
        inside = set(request.survivors)
        given = {site: share for site, share in sorted(seeds.items()) if site in inside}
        if "wrong share given" in self.misdeeds and given:
            self.done.add("wrong share given")
            given = {site: self._entropy(SHARE_BYTES) for site in given}
        others = {site: share for site, share in sorted(masks.items()) if site not in inside}
        return UnmaskShares(self.me, self.group.run, request.slot, given, others)

    def receive(self, key: Key, slot: str, words: Words) -> Words:
        """The sum, if it is for this site: it reads it at any time."""
        del key
        if slot not in self._slots:
            raise SlotUnknown(slot)
        total = words.copy()
        add_streams(total, [(self._slots[slot]._own_mask, -1)])
        return total


class Amnesia(Disk):
    """A colluder's disk: it remembers no step, and so refuses none."""

    def step(self, key: Key) -> Record | None:
        """Nothing."""
        del key
        return None


class KnownSignatures(Roster):
    """A roster that verifies a signature once and then knows it: the same verdict, a site less often asked for it."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        super().__init__(keys)
        self._good: set[tuple[str, bytes, bytes]] = set()

    def verify(self, site: str, message: bytes, signature: bytes) -> None:
        """`ProtocolError` unless the signature is the site's own. Only good ones are kept."""
        if (site, message, signature) not in self._good:
            super().verify(site, message, signature)
            self._good.add((site, message, signature))


def seeded(seed: str) -> Entropy:
    """Entropy that is the same whenever a schedule is replayed."""
    start = hashlib.shake_256(seed.encode())
    calls = 0

    def draw(size: int) -> bytes:
        nonlocal calls
        calls += 1
        state = start.copy()
        state.update(calls.to_bytes(8, "big"))
        return state.digest(size)

    return draw


@lru_cache(maxsize=256)
def identity(site: str) -> Identity:
    """The same identity for the same name: making one costs, and nothing here hangs on it being new."""
    return Identity.generate(seeded(f"identity {site}"))
