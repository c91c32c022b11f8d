"""Sites that are broken on purpose, one rule each: the simulator must find every one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from unisono.protection.prg import Entropy, Source, Words
from unisono.protection.secagg.group import Group
from unisono.protection.secagg.keys import SlotKeys
from unisono.protection.secagg.messages import KeyRoster, MaskedInput, SealedInbox, Shares, Unmask, UnmaskShares
from unisono.protection.secagg.party import Key, Party
from unisono.protection.secagg.roster import Identity
from unisono.protection.secagg.site import Stage
from unisono.simulation.cast import Ask, Disk, Record


class GivesBothShares(Party[Ask]):
    """In D it gives every share that it holds, whoever survived."""

    def unmask(self, key: Key, request: Unmask) -> UnmaskShares:
        session = self._slots.get(request.slot)
        held = ({}, {}) if session is None else (dict(session._seed_shares), dict(session._mask_shares))
        answer = super().unmask(key, request)
        return replace(answer, self_seeds={**held[0], **answer.self_seeds}, mask_keys={**held[1], **answer.mask_keys})


class ForgetsOpenings:
    """A disk that keeps vectors, and forgets what was signed and given."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def step(self, key: Key) -> Record | None:
        record = self._disk.step(key)
        return None if record is None else replace(record, survivors=None, answer=None, closed=False)

    def remember_survivors(self, key: Key, slot: str, survivors: tuple[str, ...]) -> None:
        """Nothing is written, and nothing compared."""

    def remember_answer(self, key: Key, slot: str, answer: UnmaskShares) -> None:
        """Nothing is written."""


def opens_twice(me: str, identity: Identity, group: Group, disk: Disk, entropy: Entropy) -> Party[Ask]:
    """A site that unmasks a step again, for another set."""
    return Party(me, identity, group, ForgetsOpenings(disk), entropy)


class MasksTwice(Party[Ask]):
    """It masks again in a slot in which it has masked, with the same keys."""

    def mask(
        self,
        ask: Ask,
        slot: str,
        inbox: SealedInbox,
        compute: Callable[[], Source | Words],
        *,
        threads: int | None = None,
    ) -> MaskedInput:
        session = self._session(slot)
        if session.stage is Stage.MASKED:
            session.stage = Stage.SHARED
        kept = (session._keys.mask, session._keys.self_seed)
        message = super().mask(ask, slot, inbox, compute, threads=threads)
        session._keys = SlotKeys(*kept)
        return message


class ComputesAgain(Party[Ask]):
    """It computes a step's vector anew in every attempt."""

    def mask(
        self,
        ask: Ask,
        slot: str,
        inbox: SealedInbox,
        compute: Callable[[], Source | Words],
        *,
        threads: int | None = None,
    ) -> MaskedInput:
        disk: Any = self._memory
        record = disk.steps.get(ask.key)
        if record is not None and record.survivors is None:
            del disk.steps[ask.key]
        return super().mask(ask, slot, inbox, compute, threads=threads)


class TrustsTheCoordinator(Party[Ask]):
    """It unmasks without looking at the others' signatures."""

    def unmask(self, key: Key, request: Unmask) -> UnmaskShares:
        session = self._slots.get(request.slot)
        if session is not None and self.group.malicious:
            session.group = replace(self.group, parameters=replace(self.group.parameters, threat="semi-honest"))
            if session.stage is Stage.AGREED:
                session.stage = Stage.MASKED
        return super().unmask(key, request)


class UnmasksAFew(Party[Ask]):
    """It unmasks a sum of any two sites."""

    def unmask(self, key: Key, request: Unmask) -> UnmaskShares:
        session = self._slots.get(request.slot)
        if session is not None and not self.group.malicious:
            weak = replace(self.group.parameters, t=2, min_sites=2, colluding=0)
            session.group = replace(self.group, parameters=weak)
        return super().unmask(key, request)


class ForgetsTheRecipient(Party[Ask]):
    """It unmasks although the recipient is said to have dropped."""

    def unmask(self, key: Key, request: Unmask) -> UnmaskShares:
        session = self._slots.get(request.slot)
        if session is not None:
            session.recipient = ""
        return super().unmask(key, request)


class DealsAsRecipient(Party[Ask]):
    """As the recipient of a sum it deals out shares like anybody else."""

    def share(self, keys: KeyRoster) -> Shares:
        session = self._slots.get(keys.slot)
        if session is not None and session.recipient == self.me:
            advertised = list(keys.advertised)
            session.recipient = ""
            session._checked = lambda _: {item.site: item for item in advertised}  # type: ignore[method-assign]
        return super().share(keys)


class CrashesBadly(Party[Ask]):
    """Its software fails with an error that is no refusal."""

    def unmask(self, key: Key, request: Unmask) -> UnmaskShares:
        raise KeyError("site02")
