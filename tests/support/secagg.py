"""A small federation of masked sums in one process, with seeded randomness, for the tests of the protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from unisono.errors import ProtocolError, UnisonoError
from unisono.federation.tree import pack, unpack
from unisono.protection.prg import Entropy, Words
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.graph import draw
from unisono.protection.secagg.group import group_of
from unisono.protection.secagg.keys import RunKeys
from unisono.protection.secagg.messages import (
    KeyRoster,
    MaskedInput,
    Message,
    SealedInbox,
    Unmask,
    UnmaskShares,
)
from unisono.protection.secagg.parameters import Parameters, Threat, derive
from unisono.protection.secagg.party import Key, Party
from unisono.protection.secagg.refusals import another_opening
from unisono.protection.secagg.roster import Identity, Roster
from unisono.protection.secagg.setup import Drawing, SlotSetup
from unisono.protection.secagg.site import SiteSession

ASK = "a" * 64
OTHER_ASK = "b" * 64
NAMES = tuple(f"site{k:02d}" for k in range(40))


def seeded(seed: str) -> Entropy:
    """Entropy that is the same in every run of a test."""
    calls = 0

    def draw(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(size)

    return draw


def identities(sites: Collection[str]) -> dict[str, Identity]:
    """The same identity for the same name, always."""
    return {site: Identity.generate(seeded(f"identity {site}")) for site in sites}


def roster_of(keys: Mapping[str, Identity]) -> Roster:
    return Roster({site: key.public for site, key in keys.items()})


class Hall:
    """n sites and a coordinator, in one slot. Every message goes through its packed tree, as it does on the wire."""

    def __init__(
        self,
        n: int,
        colluding: int = 1,
        *,
        min_sites: int = 3,
        length: int = 5,
        slot: str = "slot 1",
        run: str = "run 1",
        hide: str = "secagg",
        threat: Threat = "semi-honest",
        recipient: str = "",
        dtype: DTypeLike = np.uint64,
    ) -> None:
        self.sites = NAMES[:n]
        self.keys = identities(self.sites)
        self.roster = roster_of(self.keys)
        self.parameters: Parameters = derive(n, colluding, min_sites, hide=hide, threat=threat)
        self.group = group_of(run, 0, self.sites, self.roster, self.parameters)
        self.run, self.slot, self.length, self.recipient, self.dtype = run, slot, length, recipient, np.dtype(dtype)
        self.seed = hashlib.sha256(f"{run} graph".encode()).digest()
        self.at = {site: self.session(site) for site in self.sites}
        drawing = Drawing(self.group)
        if drawing.graph is None:
            drawing.restore(self.seed)
        self.setup = SlotSetup(drawing, slot, recipient)
        self._coordinator: AggregatorSession | None = None
        rng = np.random.default_rng(n)
        top = 2**48 if self.dtype == np.uint64 else 2**24
        self.vectors: dict[str, Words] = {site: rng.integers(0, top, length, self.dtype) for site in self.sites}

    def session(self, site: str, roster: Roster | None = None, recipient: str | None = None) -> SiteSession:
        entropy = seeded(f"{self.run} {self.slot} {site}")
        group = self.group if roster is None else replace(self.group, roster=roster)
        return SiteSession(
            site,
            self.keys[site],
            group,
            self.slot,
            RunKeys(self.run, entropy),
            recipient=self.recipient if recipient is None else recipient,
            graph=draw(self.sites, self.parameters, self.seed),
            entropy=entropy,
        )

    @property
    def coordinator(self) -> AggregatorSession:
        """The sum: begun when it is first looked at, over those whose shares are out then."""
        if self._coordinator is None:
            self._coordinator = AggregatorSession(self.setup, ASK, self.length, self.dtype)
        return self._coordinator

    def advertise(self) -> KeyRoster:
        for site in self.sites:
            self.setup.collect_advertise(wired(self.at[site].advertise()))
        return wired(self.setup.key_roster())

    def share(self) -> None:
        keys = self.advertise()
        for site in self.sites:
            self.setup.collect_shares(wired(self.at[site].share(keys)))

    def inbox(self, site: str) -> SealedInbox:
        return wired(self.setup.inbox_for(site))

    def masked(self, site: str, ask: str = ASK) -> MaskedInput:
        return wired(self.at[site].mask(self.vectors[site], ask, self.inbox(site)))

    def mask(self, dropped: Collection[str] = ()) -> None:
        self.share()
        for site in self.sites:
            if site not in dropped:
                self.coordinator.collect_masked(self.masked(site))

    def request(self, silent: Collection[str] = ()) -> Unmask:
        """What the survivors are asked to unmask, agreed on by all but the silent ones where the threat is malicious."""
        request = wired(self.coordinator.unmask_request())
        if self.group.malicious:
            for site in self.coordinator.survivors:
                if site not in silent:
                    self.coordinator.collect_agreement(wired(self.at[site].agree(request)))
        return wired(self.coordinator.agreed_request())

    def unmask(self, silent: Collection[str] = ()) -> None:
        request = self.request(silent)
        for site in self.coordinator.survivors:
            if site not in silent:
                self.coordinator.collect_unmask(wired(self.at[site].unmask(request)))

    def total(self, sites: Collection[str]) -> Words:
        vectors = [self.vectors[site] for site in sites]
        total: Words = np.add.reduce(vectors, dtype=vectors[0].dtype)  # numpy would widen 32 bits to 64
        return total


@dataclass(frozen=True)
class Asking:
    """One attempt at a step. content: what is asked. to, partial: as `party.Question` has them."""

    sites: tuple[str, ...]
    step: int = 1
    content: str = "how many?"
    attempt: int = 1
    to: str = ""
    partial: bool = True
    run: str = "run 1"
    epoch: int = 0

    @property
    def key(self) -> Key:
        return self.run, "analysis", self.epoch, self.step

    @property
    def question(self) -> str:
        return hashlib.sha256(f"{self.content} {self.to} {self.partial}".encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()


@dataclass(frozen=True)
class Written:
    """What a `DictMemory` has of a step."""

    question: str
    vector: Words | None
    slot: str | None = None
    survivors: tuple[str, ...] | None = None
    answer: UnmaskShares | None = None
    closed: bool = False


@dataclass
class DictMemory:
    """A site's durable memory, in two dicts. `written` lists the calls, in order. full: the disk is, nothing can be written."""

    steps: dict[Key, Written] = field(default_factory=dict)
    drawings: dict[tuple[str, int], tuple[str, bytes | None]] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    full: bool = False

    def step(self, key: Key) -> Written | None:
        return self.steps.get(key)

    def remember_vector(self, ask: Asking, vector: Words) -> None:
        self._write("vector")
        assert ask.key not in self.steps
        self.steps[ask.key] = Written(ask.question, vector.copy())

    def remember_survivors(self, key: Key, slot: str, survivors: tuple[str, ...]) -> None:
        self._write("survivors")
        known = self.steps[key]
        if known.closed or known.survivors not in (None, survivors):
            raise another_opening(key[3], key[1], known.survivors or (), survivors)
        answer = known.answer if known.slot == slot else None
        self.steps[key] = replace(known, survivors=survivors, slot=slot, answer=answer)

    def remember_answer(self, key: Key, slot: str, answer: UnmaskShares) -> None:
        self._write("answer")
        assert self.steps[key].slot == slot
        self.steps[key] = replace(self.steps[key], answer=wired(answer))

    def close_step(self, key: Key) -> None:
        self._write("closed")
        self.steps[key] = replace(self.steps[key], closed=True, vector=None, answer=None)

    def drawing(self, run: str, epoch: int) -> tuple[str, bytes | None] | None:
        return self.drawings.get((run, epoch))

    def remember_drawing(self, run: str, epoch: int, commitments: str, seed: bytes | None) -> None:
        self._write("drawing" if seed is None else "graph")
        first, known = self.drawings.get((run, epoch), (commitments, None))
        self.drawings[run, epoch] = (first, seed if known is None else known)

    def _write(self, what: str) -> None:
        if self.full:
            raise UnisonoError("The disk is full.", rule="storage", remedy="Make room.")
        self.written.append(what)


class Town:
    """n sites with memories, each a `Party`, over as many slots, steps and crashes as a test wants."""

    def __init__(
        self,
        n: int,
        colluding: int = 1,
        *,
        min_sites: int = 3,
        hide: str = "secagg",
        threat: Threat = "semi-honest",
        epoch: int = 0,
        dtype: DTypeLike = np.uint64,
        parameters: Parameters | None = None,
    ) -> None:
        self.sites = NAMES[:n]
        self.keys = identities(self.sites)
        self.roster = roster_of(self.keys)
        derived = derive(n, colluding, min_sites, hide=hide, threat=threat) if parameters is None else parameters
        self.group = group_of("run 1", epoch, self.sites, self.roster, derived)
        self.memory = {site: DictMemory() for site in self.sites}
        self._started = 0
        self.party = {site: self.started(site) for site in self.sites}
        self.drawing = Drawing(self.group)
        rng = np.random.default_rng(n)
        self.vectors: dict[str, Words] = {site: rng.integers(0, 2**20, 5, np.dtype(dtype)) for site in self.sites}

    def started(self, site: str, memory: DictMemory | None = None) -> Party[Asking]:
        """A party as it is after a start: it knows what is on its disk, and nothing else."""
        self._started += 1
        kept = self.memory[site] if memory is None else memory
        return Party(site, self.keys[site], self.group, kept, seeded(f"{site} {self._started}"))

    def restart(self, *sites: str) -> None:
        for site in sites:
            self.party[site] = self.started(site)

    def roll_back(self, site: str, memory: DictMemory) -> None:
        """The site comes up from an older back-up of its disk."""
        self.memory[site] = deepcopy(memory)
        self.restart(site)

    def commit(self) -> None:
        for site in self.sites:
            self.drawing.collect_commitment(wired(self.party[site].commit()))

    def advertised(self, slot: str, recipient: str = "", away: Collection[str] = ()) -> SlotSetup:
        if not self.drawing.committed:
            self.commit()
        setup = SlotSetup(self.drawing, slot, recipient)
        for site in self.sites:
            if site not in away:
                advertise = self.party[site].advertise(slot, recipient, self.drawing.all_commitments())
                setup.collect_advertise(wired(advertise))
        return setup

    def dealt(self, slot: str, recipient: str = "", away: Collection[str] = ()) -> SlotSetup:
        """A slot with everybody's keys and shares, but those who are away."""
        setup = self.advertised(slot, recipient, away)
        keys = wired(setup.key_roster())
        for site in setup.advertised:
            setup.collect_shares(wired(self.party[site].share(keys)))
        return setup

    def begun(self, setup: SlotSetup, ask: Asking) -> AggregatorSession:
        return AggregatorSession(setup, ask.digest, 5, next(iter(self.vectors.values())).dtype)

    def mask(self, session: AggregatorSession, ask: Asking, site: str) -> MaskedInput:
        inbox = wired(session.setup.inbox_for(site, session.dealt))
        return wired(self.party[site].mask(ask, session.slot, inbox, self.vectors[site].copy))

    def masked(
        self, ask: Asking, slot: str, *, dropped: Collection[str] = (), away: Collection[str] = ()
    ) -> AggregatorSession:
        """A to C: a sum in which everybody's part is, but of those dropped (shares are out) or away (not even these)."""
        session = self.begun(self.dealt(slot, ask.to, away), ask)
        for site in session.dealt:
            if site not in dropped:
                session.collect_masked(self.mask(session, ask, site))
        return session

    def agree(self, session: AggregatorSession, ask: Asking, silent: Collection[str] = ()) -> Unmask:
        request = wired(session.unmask_request())
        if self.group.malicious:
            for site in session.survivors:
                if site not in silent:
                    session.collect_agreement(wired(self.party[site].agree(ask.key, request)))
        return wired(session.agreed_request())

    def unmask(self, session: AggregatorSession, ask: Asking, silent: Collection[str] = ()) -> None:
        request = self.agree(session, ask)
        for site in session.survivors:
            if site not in silent:
                session.collect_unmask(wired(self.party[site].unmask(ask.key, request)))

    def opened(self, ask: Asking, slot: str, *, dropped: Collection[str] = (), away: Collection[str] = ()) -> Words:
        session = self.masked(ask, slot, dropped=dropped, away=away)
        self.unmask(session, ask)
        return session.open()

    def total(self, sites: Collection[str]) -> Words:
        vectors = [self.vectors[site] for site in sites]
        total: Words = np.add.reduce(vectors, dtype=vectors[0].dtype)  # numpy would widen 32 bits to 64
        return total


def small_regular(threat: Threat, n: int = 9) -> Parameters:
    """A 4-regular graph of fewer sites than are ever given one: the protocol on it is the same, and a test is fast."""
    quorum = (n + 1) // 2 + 1
    return Parameters(n, 1, 3, 3 if threat == "malicious" else 2, 2, 4, threat, quorum)


M = TypeVar("M", bound=Message)


def wired(message: M) -> M:
    """The message as it arrives at the other end."""
    return type(message).from_tree(unpack(pack(message.to_tree())))


def chi_square_of_bytes(words: NDArray[np.uint64]) -> float:
    """Of the 256 byte values against uniform; 255 degrees of freedom: above 340 in 3 of 10,000 uniform samples."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


def refused(call: Callable[..., object], *arguments: object) -> ProtocolError:
    """The error by which the call is refused: with a remedy; its evidence stays where it is."""
    with pytest.raises(ProtocolError) as error:
        call(*arguments)
    assert error.value.remedy
    assert "evidence" not in error.value.to_dict()
    return error.value


def refusal(call: Callable[..., object], *arguments: object) -> str:
    """The rule by which the call is refused."""
    return refused(call, *arguments).rule
