"""Every opened sum as the journal knows it: what was asked, who was in it, who alone read it. Its words are not needed for that.

A snapshot drops the bodies of earlier sums, because their words are many. What else they say is written down before, once a
description (record ``sums``): so what left a hospital, and who took part, is known of every sum, however long the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisono.errors import JournalError
from unisono.federation.ask import Ask
from unisono.federation.journal import Journal, Record
from unisono.federation.rounds import Opened
from unisono.federation.tree import Tree, pack
from unisono.protection.leaves import Leaf

_SAID = ("method", "name", "encoding", "to", "leaves", "words", "bytes")
"""The same for many sums: written once. `words` and `bytes` are how many were opened."""


@dataclass(frozen=True)
class OpenedSum:
    """One opened sum, without its words. words, bytes: how many the coordinator opened (none if `to` a site alone)."""

    epoch: int
    step: int
    method: str
    name: str
    encoding: str
    to: str
    leaves: Mapping[str, Mapping[str, Any]]
    words: int
    bytes: int
    participants: tuple[str, ...]
    recovered: tuple[str, ...]


def opened_sums(journal: Journal) -> list[OpenedSum]:
    """Every opened sum, oldest first. Left out are those that a snapshot of an older Unisono dropped without a description."""
    described = {(s.epoch, s.step): s for record in journal.each("sums") for s in _read(record)}
    found = (
        described.get((record.epoch, record.step)) if record.body is None else opened_sum(record)
        for record in journal.each("opened")
    )
    return [one for one in found if one is not None]


def opened_sum(record: Record) -> OpenedSum:
    """What an ``opened`` record says, whose body is there."""
    assert record.body is not None
    body = record.body
    return OpenedSum(
        record.epoch,
        record.step,
        str(body["method"]),
        str(body["name"]),
        str(body.get("encoding", "exact")),
        str(body.get("to", "")),
        body["leaves"],
        int(body["words"].size),
        int(body["words"].nbytes),
        tuple(body["participants"]),
        tuple(body["recovered"]),
    )


def opened_body(ask: Ask, opened: Opened, leaves: Mapping[str, Leaf]) -> dict[str, Tree]:
    """What is written down of a sum that was opened."""
    return {
        "question": ask.question,
        "name": ask.contribution,
        "method": ask.method,
        "encoding": ask.encoding,
        "to": ask.to,
        "words": opened.words,
        "participants": list(opened.participants),
        "recovered": list(opened.recovered),
        "first_bytes": dict(opened.first_bytes),
        "leaves": leaves_said(leaves),
    }


def leaves_said(leaves: Mapping[str, Leaf]) -> Tree:
    """For the disclosure sheet of what left."""
    return {name: {"rule": x.rule, "shape": list(x.shape), "meaning": x.meaning} for name, x in leaves.items()}


def sums_body(sums: Iterable[OpenedSum]) -> dict[str, Tree]:
    """The body of a ``sums`` record: each description once, with the steps that it holds for, by who was in them."""
    said: dict[bytes, dict[str, Any]] = {}
    took: dict[tuple[bytes, tuple[str, ...], tuple[str, ...]], list[int]] = {}
    for one in sums:
        description = {key: getattr(one, key) for key in _SAID}
        packed = pack(description)
        said.setdefault(packed, {**description, "taken": []})
        took.setdefault((packed, one.participants, one.recovered), []).append(one.step)
    for (packed, participants, recovered), steps in took.items():
        parts = {"participants": list(participants), "recovered": list(recovered)}
        said[packed]["taken"].append({**parts, "steps": np.array(steps, np.int64)})
    return {"sums": list(said.values())}


def _read(record: Record) -> Iterator[OpenedSum]:
    assert record.body is not None  # never dropped
    for said in record.body["sums"]:
        for taken in said["taken"]:
            participants, recovered = tuple(taken["participants"]), tuple(taken["recovered"])
            for step in taken["steps"]:
                described = {key: said[key] for key in _SAID}
                yield OpenedSum(record.epoch, int(step), **described, participants=participants, recovered=recovered)


def counted_before(journal: Journal, epoch: int) -> dict[str, int]:
    """Of each site, the last step of which its part was in the opened sum."""
    snapshot = journal.last("snapshot", epoch=epoch)
    known = {} if snapshot is None or snapshot.body is None else dict(snapshot.body.get("counted", {}))
    for record in journal.each("opened", epoch=epoch):
        for site in () if record.body is None else record.body["participants"]:
            known[site] = max(record.step, known.get(site, -1))
    return known


def replayed(journal: Journal, kind: str, ask: Ask, *, strict: bool) -> Record | None:
    """The record of this step; a replay that asks something else has diverged and must not go on. strict: to the last bit of the
    arguments."""
    found: Sequence[Record | None] = [
        journal.last(k, epoch=ask.epoch, step=ask.step) for k in ("opened", "told", "collected")
    ]
    record = next((r for r in found if r is not None), None)
    if record is None:
        return None
    asked = record.body if record.kind == kind else None
    same = asked is not None and (
        asked["question"] == ask.question or (not strict and asked["name"] == ask.contribution)
    )
    if not same:
        recorded = record.body["name"] if record.body else "a pruned step"
        raise JournalError(
            f"Step {ask.step} of {ask.analysis!r} asked for {recorded!r} when it was opened, and now asks something "
            f"else ({ask.contribution!r}): the replay has diverged.",
            rule="deterministic-replay",
            remedy="Run it in the environment in which it was begun (same packages, same processor), or begin anew with --fresh.",
        )
    return record
