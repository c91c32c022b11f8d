"""Who took part in which sum, read from the journal: counted, counted after its masks were recovered, waited for, gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from unisono.federation.history import OpenedSum, opened_sums
from unisono.federation.journal import Journal

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
    """One opened sum: who was in it, and how. words: that the coordinator opened."""

    epoch: int
    step: int
    method: str
    name: str
    words: int
    parts: dict[str, Part]


def participation(journal: Journal, sites: Iterable[str]) -> Participation:
    """The summary of an analysis whose answer is over `sites`."""
    recovered = [
        Recovered(step=one.step, name=one.name, site=site)
        for one in opened_sums(journal)
        for site in sorted(one.recovered)
    ]
    waited = [
        Waited(step=r.step, name=r.body["name"], sites=sorted(r.body["sites"]))
        for r in journal.all("waited")
        if r.body is not None
    ]
    left = {site for r in journal.all("epoch") if r.body is not None for site in r.body["left"]}
    return Participation(
        sites=sorted(sites), sums=journal.count("opened"), recovered=recovered, waited=waited, left=sorted(left)
    )


def sums_taken(journal: Journal, roster: Iterable[str]) -> list[SumTaken]:
    """Every opened sum in order, with the part of each site of `roster` in it."""
    names = sorted(roster)
    waited: dict[tuple[int, int], set[str]] = {}
    for record in journal.all("waited"):
        if record.body is not None:
            waited.setdefault((record.epoch, record.step), set()).update(record.body["sites"])
    return [_taken(one, names, waited.get((one.epoch, one.step), set())) for one in opened_sums(journal)]


def _taken(one: OpenedSum, names: list[str], waited: set[str]) -> SumTaken:
    counted, recovered = set(one.participants), set(one.recovered)
    parts: dict[str, Part] = {}
    for name in names:
        if name not in counted:
            parts[name] = "absent"
        elif name in recovered:
            parts[name] = "waited+recovered" if name in waited else "recovered"
        else:
            parts[name] = "waited" if name in waited else "counted"
    return SumTaken(one.epoch, one.step, one.method, one.name, one.words, parts)
