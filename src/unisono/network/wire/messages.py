"""The exchange's messages and their answers as trees (`unisono.federation.tree`), and back with every field checked.

What is not exactly a message is a `ProtocolError` (rule ``message-format``): nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import ProtocolError
from unisono.federation import exchange as x
from unisono.federation.ask import Ask, Circle
from unisono.protection.prg import Words
from unisono.protection.secagg import messages as s

Tree = dict[str, Any]

_RING = (np.dtype("<u4"), np.dtype("<u8"))


def request_tree(message: x.Message) -> Tree:
    """A message to a site."""
    return {"kind": message.phase, **_REQUESTS[message.phase][0](message)}


def request_from(tree: Any) -> x.Message:
    """The message in a tree."""
    message: x.Message = _read(tree, {phase: read for phase, (_, read) in _REQUESTS.items()})
    return message


def answer_tree(answer: object) -> Tree:
    """A site's answer."""
    match answer:
        case None:
            return {"kind": "nothing"}
        case np.ndarray():
            return {"kind": "words", "words": answer}
        case x.Collected(packed=packed):
            return {"kind": "collected", "packed": packed}
        case x.Masked(part=part, next=following):
            return {"kind": "masked", "part": part.to_tree(), "next": _optional(following)}
        case x.Revealed(shares=shares, next=following):
            return {"kind": "revealed", "shares": shares.to_tree(), "next": _optional(following)}
        case s.Message():
            return {"kind": answer.kind, "message": answer.to_tree()}
    raise TypeError(f"a {type(answer).__name__} is no answer")


def answer_from(tree: Any) -> object:
    """The answer in a tree."""
    return _read(tree, _ANSWERS)


def answer_to(message: x.Message, tree: Any) -> object:
    """The answer in a tree, to this message: `ProtocolError` for one that answers another."""
    answer = answer_from(tree)
    if tree["kind"] != _ANSWERED_BY.get(message.phase, "nothing"):
        raise ProtocolError(
            f"The message {message.phase!r} was answered with {tree['kind']!r}.",
            rule="message-format",
            remedy="The other end runs another version of Unisono, or altered software; nothing was used of it.",
        )
    return answer


def _read(tree: Any, readers: Mapping[str, Callable[[Tree], Any]]) -> Any:
    try:
        if not isinstance(tree, dict):
            raise TypeError("not a mapping")
        return readers[tree["kind"]](tree)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(
            f"A message cannot be read ({type(error).__name__}).",
            rule="message-format",
            remedy="It was altered, or the other end runs another version of Unisono; nothing was used of it.",
        ) from error


def _optional(message: s.Message | None) -> Tree | None:
    return None if message is None else message.to_tree()


def _maybe(kind: type[s.Message], tree: Any) -> Any:
    return None if tree is None else kind.from_tree(tree)


def _circle_tree(circle: Circle) -> Tree:
    return {
        "run": circle.run,
        "study": circle.study,
        "analysis": circle.analysis,
        "epoch": circle.epoch,
        "sites": list(circle.sites),
        "hide": circle.hide,
    }


def _circle(tree: Any) -> Circle:
    circle = Circle(**{**tree, "sites": tuple(tree["sites"])})
    circle.check_types()
    return circle


def _key_tree(key: x.Key) -> list[Any]:
    return list(key)


def _key(tree: Any) -> x.Key:
    run, analysis, epoch, step = tree
    if not (type(run) is type(analysis) is str and type(epoch) is type(step) is int):
        raise TypeError("not a key")
    return run, analysis, epoch, step


def _closes_tree(closes: x.Closes | None) -> Tree:
    return {} if closes is None else {"closes": list(closes.key), **_counted_tree(closes)}


def _counted_tree(closes: x.Closes) -> Tree:
    """Beside the key, where a version that knows no memories does not look; nothing where there is nothing to say."""
    return {"counted": closes.counted} if closes.counted >= 0 else {}


def _closes(tree: Tree) -> x.Closes | None:
    return None if tree.get("closes") is None else _closed(tree["closes"], tree)


def _closed(key: Any, tree: Tree) -> x.Closes:
    counted = tree.get("counted", -1)
    if type(counted) is not int:
        raise TypeError("not a step")
    return x.Closes(_key(key), counted)


def _slot_tree(slot: x.NewSlot | None) -> list[str] | None:
    return None if slot is None else [slot.name, slot.recipient]


def _slot(tree: Any) -> x.NewSlot:
    name, recipient = tree
    if type(name) is not str or type(recipient) is not str or not 0 < len(name) <= 200:
        raise TypeError("not a slot")
    return x.NewSlot(name, recipient)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("not a text")
    return value


def _words(value: Any) -> Words:
    if not isinstance(value, np.ndarray) or value.dtype not in _RING or value.ndim != 1:
        raise TypeError("not words of a ring")
    return value


def _bytes(value: Any) -> NDArray[np.uint8]:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 1:
        raise TypeError("not bytes")
    return value


_REQUESTS: dict[str, tuple[Callable[[Any], Tree], Callable[[Tree], x.Message]]] = {
    "commit": (lambda m: {"circle": _circle_tree(m.circle)}, lambda t: x.Commit(_circle(t["circle"]))),
    "advertise": (
        lambda m: {
            "circle": _circle_tree(m.circle),
            "slot": _slot_tree(m.slot),
            "commitments": [c.to_tree() for c in m.commitments],
        },
        lambda t: x.Advertise(
            _circle(t["circle"]), _slot(t["slot"]), tuple(s.Commitment.from_tree(c) for c in t["commitments"])
        ),
    ),
    "share": (
        lambda m: {"circle": _circle_tree(m.circle), "keys": m.keys.to_tree()},
        lambda t: x.Share(_circle(t["circle"]), s.KeyRoster.from_tree(t["keys"])),
    ),
    "mask": (
        lambda m: {
            "ask": m.ask.to_tree(),
            "slot": m.slot,
            "inbox": m.inbox.to_tree(),
            "next": _slot_tree(m.next),
            "closes": None,
            **_closes_tree(m.closes),
        },
        lambda t: x.Mask(
            Ask.from_tree(t["ask"]),
            _text(t["slot"]),
            s.SealedInbox.from_tree(t["inbox"]),
            None if t["next"] is None else _slot(t["next"]),
            _closes(t),
        ),
    ),
    "agree": (
        lambda m: {"key": _key_tree(m.key), "unmask": m.unmask.to_tree()},
        lambda t: x.Agree(_key(t["key"]), s.Unmask.from_tree(t["unmask"])),
    ),
    "unmask": (
        lambda m: {"key": _key_tree(m.key), "unmask": m.unmask.to_tree(), "next": _optional(m.next)},
        lambda t: x.Reveal(_key(t["key"]), s.Unmask.from_tree(t["unmask"]), _maybe(s.KeyRoster, t["next"])),
    ),
    "deliver": (
        lambda m: {
            "key": _key_tree(m.key),
            "slot": m.slot,
            "words": m.words,
            "participants": list(m.participants),
        },
        lambda t: x.Deliver(
            _key(t["key"]), _text(t["slot"]), _words(t["words"]), tuple(_text(p) for p in t["participants"])
        ),
    ),
    "plain": (
        lambda m: {"ask": m.ask.to_tree(), "closes": None, **_closes_tree(m.closes)},
        lambda t: x.Plain(Ask.from_tree(t["ask"]), _closes(t)),
    ),
    "collect": (
        lambda m: {"ask": m.ask.to_tree(), **_closes_tree(m.closes)},
        lambda t: x.Collect(Ask.from_tree(t["ask"]), _closes(t)),
    ),
    "tell": (
        lambda m: {"ask": m.ask.to_tree(), **_closes_tree(m.closes)},
        lambda t: x.Tell(Ask.from_tree(t["ask"]), _closes(t)),
    ),
    "close": (
        lambda m: {"key": list(m.key), **_counted_tree(m.closes)},
        lambda t: x.Close(_closed(t["key"], t)),
    ),
}

_ANSWERED_BY = {
    "commit": s.Commitment.kind,
    "advertise": s.Advertise.kind,
    "share": s.Shares.kind,
    "mask": "masked",
    "agree": s.Agreement.kind,
    "unmask": "revealed",
    "plain": "words",
    "collect": "collected",
}
"""By phase; the others are answered with nothing."""

_SECAGG: tuple[type[s.Message], ...] = (s.Commitment, s.Advertise, s.Shares, s.Agreement)


def _secagg_reader(kind: type[s.Message]) -> Callable[[Tree], object]:
    return lambda tree: kind.from_tree(tree["message"])


_ANSWERS: dict[str, Callable[[Tree], object]] = {
    "nothing": lambda _: None,
    "words": lambda t: _words(t["words"]),
    "collected": lambda t: x.Collected(_bytes(t["packed"])),
    "masked": lambda t: x.Masked(s.MaskedInput.from_tree(t["part"]), _maybe(s.Advertise, t["next"])),
    "revealed": lambda t: x.Revealed(s.UnmaskShares.from_tree(t["shares"]), _maybe(s.Shares, t["next"])),
    **{kind.kind: _secagg_reader(kind) for kind in _SECAGG},
}
