"""The line between a site and the coordinator: one exchange of a request and an answer, and all that can go wrong with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from unisono.errors import UnisonoError
from unisono.federation.tree import pack, unpack
from unisono.protection.secagg.messages import MaskedInput, Message
from unisono.simulation.plan import Dice
from unisono.simulation.world import Said, World

M = TypeVar("M", bound=Message)
Asking = Callable[[Any], Said]
"""Gives a request to the site, and says how it answered."""
Collect = Callable[[Any], None]
"""Gives an answer to the coordinator, which may refuse it."""

_BEFORE = frozenset({"request lost", "crash before answering"})
_WRITING = {"crash before writing": "before", "crash after writing": "after"}


class Line:
    """The faults of a schedule. `late` holds masked parts that will arrive when the sum is closed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.late: list[tuple[str, Message, Collect]] = []
        self._requests: dict[type[Message], list[Message]] = {}

    def exchange(self, site: str, request: Message | None, ask: Asking, collect: Collect, failed: set[str]) -> None:
        """Ask a site, and give its answer to the coordinator: with at most one fault. failed: receives the site if that, or
        an earlier crash, kept its answer from arriving; a refusal is no excuse."""
        world = self.world
        fault = self._drawn(site)
        asked = None if request is None else world.wired(request)
        if fault in _BEFORE:
            failed.add(site)
            if fault == "crash before answering":
                world.crash(site)
            return
        if fault == "request altered" and asked is not None:
            self._altered_request(site, asked, ask)
            failed.add(site)
            return
        if fault == "old request replayed" and asked is not None:
            self._old_request(asked, ask)
        if fault in _WRITING:
            world.nodes[site].disk.cut = _WRITING[fault]
        said = ask(asked)
        world.nodes[site].disk.cut = ""
        if fault == "asked twice":
            again = ask(asked)
            said = again if again.message is not None else said
        if asked is not None:
            self._requests.setdefault(type(asked), []).append(asked)
        if said.message is None:
            if said.refused is None:
                failed.add(site)
            return
        self._answered(site, world.wired(said.message), collect, fault, failed)

    def _answered(self, site: str, message: Message, collect: Collect, fault: str, failed: set[str]) -> None:
        world = self.world
        if fault in ("answer lost", "answer late"):
            failed.add(site)
            if fault == "answer late" and isinstance(message, MaskedInput):
                self.late.append((site, message, collect))
            return
        if fault == "answer altered":
            failed.add(site)
            self._altered_answer(site, message, collect)
            return
        if fault == "old answer replayed":
            old = self.world.dice.choice(world.heard[message.kind])
            world.say(f"an old message of {old[0]} is replayed as the answer of {site}")
            self.deliver(old[0], old[1], collect)
        if fault == "half upload" and isinstance(message, MaskedInput):
            half = replace(message, words=message.words[: message.words.size // 2])
            if self.deliver(site, half, collect):
                world.say("half an upload was taken")
        if not self.deliver(site, message, collect):
            failed.add(site)
        if fault == "answer doubled":
            self.deliver(site, message, collect)
        if fault == "crash after answering":
            world.crash(site)

    def deliver(self, site: str, message: Message, collect: Collect) -> bool:
        """Give a message to the coordinator. False if it refused it."""
        try:
            collect(message)
        except UnisonoError as error:
            self.world.errors.append(error)
            self.world.say(f"the coordinator refuses the {message.kind} of {site}, {error.rule}: {error.what}")
            return False
        return True

    def deliver_late(self) -> None:
        """What was on its way when the sum was closed arrives now."""
        for site, message, collect in self.late:
            self.deliver(site, message, collect)
        self.late.clear()

    def _drawn(self, site: str) -> str:
        world = self.world
        if not world.dice.happens(world.plan.rate):
            return ""
        fault = world.dice.choice(world.plan.faults)
        if world.colludes(site) and "crash" in fault:
            fault = "request lost"
        world.tally.faults[fault] += 1
        world.say(f"fault with {site}: {fault}")
        return fault

    def _altered_request(self, site: str, request: Message, ask: Asking) -> None:
        altered = alter(self.world.dice, request)
        if altered is None:
            self.world.say(f"{site} cannot read what arrives")
            return
        self.world.say(f"{site} is asked with an altered {request.kind}")
        ask(altered)

    def _altered_answer(self, site: str, message: Message, collect: Collect) -> None:
        altered = alter(self.world.dice, message)
        if altered is None:
            self.world.say(f"the coordinator cannot read the {message.kind} of {site}")
            return
        if self.deliver(site, altered, collect):
            self.world.say(f"the coordinator takes an altered {message.kind} of {site}")

    def _old_request(self, request: Message, ask: Asking) -> None:
        old = self._requests.get(type(request), [])
        if old:
            ask(self.world.dice.choice(old))


def alter(dice: Dice, message: M) -> M | None:
    """The message with one bit flipped on its way, or one field changed to another that could be one. None: unreadable."""
    if dice.happens(0.5):
        packed = bytearray(pack(message.to_tree()))
        at = dice.randrange(len(packed) * 8)
        packed[at // 8] ^= 1 << at % 8
        try:
            return type(message).from_tree(unpack(bytes(packed)))
        except UnisonoError:
            return None
    fields = dataclasses.fields(message)  # type: ignore[arg-type]  # every message is a dataclass
    field = dice.choice(fields)
    changed = _other(dice, getattr(message, field.name))
    return replace(message, **{field.name: changed})  # type: ignore[type-var]


def _other(dice: Dice, value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bytes):
        return bytes(value[:-1] + bytes([value[-1] ^ 1])) if value else value
    if isinstance(value, str):
        return "site01" if value.startswith("site") else value[:-1] + ("0" if value[-1:] != "0" else "1")
    if isinstance(value, tuple):
        out = dice.randrange(len(value)) if value else 0
        return value[:out] + value[out + 1 :]
    if isinstance(value, dict) and value:
        names = sorted(value)
        one, other = dice.choice(names), dice.choice(names)
        return {**value, one: value[other]} if one != other else {k: v for k, v in value.items() if k != one}
    if isinstance(value, np.ndarray):
        words = value.copy()
        words[dice.randrange(words.size)] += 1
        return words
    return value
