"""Who took part in which sum, read from the journal: counted, counted after its masks were recovered, waited for, gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from unisono.federation.journal import Journal, Record

Part = Literal["counted", "recovered", "waited", "waited+recovered", "absent"]
"""What became of one site in one sum. ``absent``: it had left for good (`on_dropout: continue`)."""


class Frozen(BaseModel):
    """What the report's files hold: immutable, without unknown keys, nothing converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Recovered(Frozen):
    """A site that was lost after masking: its part was counted, and its masks were recovered by the others."""

    step: int
    name: str
    site: str


class Waited(Frozen):
    """Sites that were lost before their masked part: the fit waited for them and asked again, with fresh masks."""

    step: int
    name: str
    sites: list[str]


class Participation(Frozen):
    """sites: in the answer. sums: opened in all, those of sets of sites that were later left included. left: for good."""

    sites: list[str]
    sums: int
    recovered: list[Recovered]
    waited: list[Waited]
    left: list[str]


@dataclass(frozen=True)
class SumTaken:
    """One opened sum: who was in it, and how. A `name` is None where a snapshot pruned the record."""

    epoch: int
    step: int
    method: str
    name: str
    words: int
    parts: dict[str, Part]


def participation(journal: Journal, sites: Iterable[str]) -> Participation:
    """The summary of an analysis whose answer is over `sites`."""
    opened = journal.all("opened")
    recovered = [
        Recovered(step=r.step, name=r.body["name"], site=site)
        for r in opened
        if r.body is not None
        for site in sorted(r.body["recovered"])
    ]
    waited = [
        Waited(step=r.step, name=r.body["name"], sites=sorted(r.body["sites"]))
        for r in journal.all("waited")
        if r.body is not None
    ]
    left = {site for r in journal.all("epoch") if r.body is not None for site in r.body["left"]}
    return Participation(sites=sorted(sites), sums=len(opened), recovered=recovered, waited=waited, left=sorted(left))


def sums_taken(journal: Journal, roster: Iterable[str]) -> list[SumTaken]:
    """Every opened sum in order, with the part of each site of `roster` in it."""
    names = sorted(roster)
    waited: dict[tuple[int, int], set[str]] = {}
    for record in journal.all("waited"):
        if record.body is not None:
            waited.setdefault((record.epoch, record.step), set()).update(record.body["sites"])
    return [_taken(r, names, waited.get((r.epoch, r.step), set())) for r in journal.all("opened") if r.body is not None]


def _taken(record: Record, names: list[str], waited: set[str]) -> SumTaken:
    assert record.body is not None
    counted, recovered = set(record.body["participants"]), set(record.body["recovered"])
    parts: dict[str, Part] = {}
    for name in names:
        if name not in counted:
            parts[name] = "absent"
        elif name in recovered:
            parts[name] = "waited+recovered" if name in waited else "recovered"
        else:
            parts[name] = "waited" if name in waited else "counted"
    body = record.body
    return SumTaken(record.epoch, record.step, str(body["method"]), str(body["name"]), len(body["words"]), parts)
