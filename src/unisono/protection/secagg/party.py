"""One site's half of all sums of a run: its slots, and what it must remember across attempts and crashes.

Rule 1: one set of sites is unmasked for a step, ever, and it is written down before anything is signed or given. Rule 5: a
slot's secrets are in memory only; after a restart the slot is unknown. Rule 6: the vector of a step is written down before it
goes out, and re-sent in a retry. Rule 8: one drawing of the graph for a run and its frozen set. What is written down is
behind `Memory`, so that the same code runs on a hospital's disk and in the simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from unisono.errors import ProtocolError
from unisono.protection.prg import Entropy, Held, Source, Words, fresh, system_entropy
from unisono.protection.secagg import refusals
from unisono.protection.secagg.checks import check_commitments, graph_of
from unisono.protection.secagg.graph import Graph, commitment, complete, draw
from unisono.protection.secagg.group import Group
from unisono.protection.secagg.keys import RunKeys, nonce_of
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
    commitments_digest,
)
from unisono.protection.secagg.roster import Identity
from unisono.protection.secagg.site import SiteSession

Key = tuple[str, str, int, int]
"""What one opening is counted by: (run, name, epoch, step)."""

LIVE_SLOTS = 3
"""Slots held at a time: the one in use, the next one, and one of an attempt that was given up."""


class SlotUnknown(Exception):
    """The slot's secrets are not here: the site was restarted, or gave the slot up. It counts as dropped in this attempt."""


class Question(Protocol):
    """What secure aggregation needs to know of an ask. question: digest of what is asked, however often it is tried; digest:
    of this attempt. sites: over whom. to: the one reader, or "". partial: whether a sum of fewer survivors is meant."""

    @property
    def key(self) -> Key: ...
    @property
    def question(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def sites(self) -> tuple[str, ...]: ...
    @property
    def to(self) -> str: ...
    @property
    def partial(self) -> bool: ...


class Remembered(Protocol):
    """What is written down of a step: what was asked; the vector; for whom it was signed or unmasked, in which slot, and the
    answer; whether it is over."""

    @property
    def question(self) -> str: ...
    @property
    def vector(self) -> Words | None: ...
    @property
    def slot(self) -> str | None: ...
    @property
    def survivors(self) -> tuple[str, ...] | None: ...
    @property
    def answer(self) -> UnmaskShares | None: ...
    @property
    def closed(self) -> bool: ...


Q = TypeVar("Q", bound=Question)
Q_contra = TypeVar("Q_contra", bound=Question, contravariant=True)


class Memory(Protocol[Q_contra]):
    """A site's durable memory: what was written is there after a crash. Each call is on disk when it returns, or raises."""

    def step(self, key: Key) -> Remembered | None:
        """What is known of a step."""

    def remember_vector(self, ask: Q_contra, vector: Words) -> None:
        """Before the masked part goes out."""

    def remember_survivors(self, key: Key, slot: str, survivors: tuple[str, ...]) -> None:
        """Before anything is signed or given. `ProtocolError` if another set was remembered."""

    def remember_answer(self, key: Key, slot: str, answer: UnmaskShares) -> None:
        """Before the shares go out."""

    def drawing(self, run: str, epoch: int) -> tuple[str, bytes | None] | None:
        """The digest of the commitments of a graph, and its seed once known. run: of which run, and for which group."""

    def remember_drawing(self, run: str, epoch: int, commitments: str, seed: bytes | None) -> None:
        """Before the nonce is revealed, and when the graph is known."""


class Party(Generic[Q]):
    """A site in a group. entropy: of the operating system, but in a simulation."""

    def __init__(
        self, me: str, identity: Identity, group: Group, memory: Memory[Q], entropy: Entropy = system_entropy
    ) -> None:
        if me not in group.sites or group.roster[me] != identity.public:
            raise refusals.own_identity(me)
        self.me = me
        self.group = group
        self._identity = identity
        self._memory = memory
        self._entropy = entropy
        # A seed serves the group it was drawn for: who knows it could choose another set of sites to surround a victim.
        self._drawing = f"{group.run} {group.digest}"
        self._run_keys = RunKeys(group.run, entropy)
        self._nonce = b"" if group.parameters.complete else nonce_of(identity.to_bytes(), group.run, group.digest)
        self._graph: Graph | None = complete(group.sites) if group.parameters.complete else None
        self._committed: dict[str, bytes] = {}
        self._slots: dict[str, SiteSession] = {}
        self._asked: dict[str, Q] = {}

    # Once: the graph

    def commit(self) -> Commitment:
        """A signed commitment to this site's nonce. The nonce is the same for the same run and group, so that nothing can be
        drawn again by asking again."""
        value = commitment(self.group.run, self.group.digest, self.me, self._nonce)
        named = (self.me, self.group.run, self.group.digest, value)
        signature = self._identity.sign(Commitment(*named, b"").signed())
        return Commitment(*named, signature)

    def _check_drawing(self, commitments: Sequence[Commitment]) -> None:
        if self.group.parameters.complete or self._graph is not None:
            return
        known = self._memory.drawing(self._drawing, self.group.epoch)
        if known is not None and known[1] is not None:
            self._graph = draw(self.group.sites, self.group.parameters, known[1])
            return
        self._committed = check_commitments(commitments, self.group)
        digest = commitments_digest(commitments)
        if known is not None and known[0] != digest:
            raise ProtocolError(
                "The graph of this run was begun with other commitments.",
                rule="graph-nonces",
                remedy="A site changed its commitment, or the coordinator draws again until the graph suits it. Refused "
                "and logged.",
                evidence={"first": known[0], "second": digest},
            )
        self._memory.remember_drawing(self._drawing, self.group.epoch, digest, None)

    def _know_graph(self, session: SiteSession, keys: KeyRoster) -> None:
        if self._graph is None:
            self._graph, seed = graph_of(self.group, session.accept(keys), self._committed)
            digest = (self._memory.drawing(self._drawing, self.group.epoch) or ("", None))[0]
            self._memory.remember_drawing(self._drawing, self.group.epoch, digest, seed)

    # A and B: a slot's keys and shares

    def advertise(self, slot: str, recipient: str = "", commitments: Sequence[Commitment] = ()) -> Advertise:
        """A: keys for a slot, new or asked for again before its shares were out. commitments: every site's, until the graph
        of the run is known."""
        if slot in self._slots:
            session = self._slots[slot]
            if session.recipient != recipient:
                raise refusals.no_such_recipient(recipient or "the coordinator")
            return session.advertise()
        self._check_drawing(commitments)
        while len(self._slots) >= LIVE_SLOTS:
            self._forget(next(iter(self._slots)))
        session = SiteSession(
            self.me,
            self._identity,
            self.group,
            slot,
            self._run_keys,
            recipient=recipient,
            nonce=self._nonce,
            graph=self._graph,
            entropy=self._entropy,
        )
        self._slots[slot] = session
        return session.advertise()

    def share(self, keys: KeyRoster) -> Shares:
        """B: sealed shares of the slot's secrets."""
        session = self._session(keys.slot)
        self._know_graph(session, keys)
        session.graph = self._graph
        return session.share(keys)

    # C: the masked input

    def mask(
        self,
        ask: Q,
        slot: str,
        inbox: SealedInbox,
        compute: Callable[[], Source | Words],
        *,
        threads: int | None = None,
    ) -> MaskedInput:
        """C: this site's part of the answer to `ask`. compute: gives the encoded vector, if the step was not answered before;
        what was answered before is re-sent under the new masks."""
        step = self._memory.step(ask.key)
        check_retry(step, ask, may_join=self.group.one_set_for_ever)
        session = self._session(slot)
        if (ask.key[0], ask.key[2]) != (self.group.run, self.group.epoch):
            raise _other_step()
        if ask.to != session.recipient:
            raise refusals.no_such_recipient(ask.to or "the coordinator")
        if not ask.partial and inbox.dealt != ask.sites:
            raise refusals.not_everyone(set(ask.sites) - set(inbox.dealt))
        if step is not None and step.vector is not None:
            message = session.mask(Held(step.vector), ask.digest, inbox, threads=threads)
            self._masked_for(ask, slot)
            return message
        found = compute()
        source = Held(found) if isinstance(found, np.ndarray) else found
        keep = fresh(source.size, source.dtype)
        message = session.mask(source, ask.digest, inbox, keep=keep, threads=threads)
        self._memory.remember_vector(ask, keep)
        self._masked_for(ask, slot)
        return message

    def _masked_for(self, ask: Q, slot: str) -> None:
        """Which step a slot's unmasking counts for: only ever the one that its masked part was an answer to."""
        if not self.group.one_set_for_ever:  # two attempts could both be opened: joining one gives up the other
            self.close(ask.key)
        self._asked[slot] = ask

    # Agreement and D: unmasking

    def agree(self, key: Key, request: Unmask) -> Agreement:
        """The consistency message; the set of survivors is written down before it is signed."""
        session = self._allowed(key, request)
        session.check_request(request)
        self._memory.remember_survivors(key, request.slot, request.survivors)
        return session.agree(request)

    def unmask(self, key: Key, request: Unmask) -> UnmaskShares:
        """D: shares for one set of survivors of a step, ever: written down before they go out, and then repeated."""
        step = self._memory.step(key)
        if step is not None and step.answer is not None and not step.closed:
            given = (step.slot, step.survivors)
            if given == (request.slot, request.survivors):
                return step.answer
        session = self._allowed(key, request)
        session.check_unmask(request)
        self._memory.remember_survivors(key, request.slot, request.survivors)
        answer = session.unmask(request)
        self._memory.remember_answer(key, request.slot, answer)
        return answer

    def receive(self, key: Key, slot: str, words: Words) -> Words:
        """The sum, at its recipient."""
        self.asked(key, slot)
        return self._session(slot).receive(words)

    def asked(self, key: Key, slot: str) -> Q:
        """The question that was answered in a slot. `ProtocolError` if it was not of this step."""
        self._session(slot)
        if slot not in self._asked or self._asked[slot].key != key:
            raise _other_step()
        return self._asked[slot]

    def _allowed(self, key: Key, request: Unmask) -> SiteSession:
        step = self._memory.step(key)
        if step is None:
            raise ProtocolError(
                "There is no such step to unmask.", rule="unknown-step", remedy="Ask for the step first."
            )
        if step.closed or step.survivors not in (None, request.survivors):
            raise refusals.another_opening(key[3], key[1], step.survivors or (), request.survivors)
        session = self._session(request.slot)
        ask = self.asked(key, request.slot)
        if not ask.partial and request.survivors != ask.sites:
            raise refusals.not_everyone(set(ask.sites) - set(request.survivors))
        return session

    # The end

    def close(self, key: Key) -> None:
        """The step is over: its slots are of no more use."""
        for slot in [slot for slot, ask in self._asked.items() if ask.key == key]:
            self._forget(slot)

    def forget(self) -> None:
        """Overwrite everything: the study was withdrawn, or the site closes."""
        for slot in list(self._slots):
            self._forget(slot)
        self._run_keys.forget()

    def _session(self, slot: str) -> SiteSession:
        if slot not in self._slots:
            raise SlotUnknown(slot)
        return self._slots[slot]

    def _forget(self, slot: str) -> None:
        self._asked.pop(slot, None)
        self._slots.pop(slot).forget()


def check_retry(step: Remembered | None, ask: Question, *, may_join: bool = True) -> None:
    """One question and one opening a step, ever. `ProtocolError` if this attempt may not be joined.

    may_join: whether a site that has signed or unmasked may join a further attempt of the step. It may where two sets that
    could be opened share an honest site (then it gives shares for its one set only, and the same stored vectors open the
    same sum); elsewhere never (docs/secure-aggregation.md, *One opening a step*).
    """
    if step is None:
        return
    _, name, _, number = ask.key
    if step.question != ask.question:
        raise refusals.another_question(number, name, step.question, ask.question)
    if step.closed or step.vector is None or (step.survivors is not None and not may_join):
        raise refusals.another_opening(number, name, step.survivors or ())
    if step.survivors is not None and not ask.partial and step.survivors != ask.sites:
        raise refusals.another_opening(number, name, step.survivors, ask.sites)


def _other_step() -> ProtocolError:
    return ProtocolError(
        "The slot to unmask belongs to another step.",
        rule="other-slot",
        remedy="Name the slot of the step's attempt.",
    )


__all__ = ["Key", "Memory", "Party", "Question", "Remembered", "SlotUnknown", "check_retry"]
