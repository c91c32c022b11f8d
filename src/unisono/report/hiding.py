"""How a study's sums are hidden among so many hospitals, in words: for `unisono study check`, before anyone is invited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from unisono.protection.secagg.parameters import Parameters, derive
from unisono.report import words
from unisono.report.record import protection_of
from unisono.study.document import Study

ON_DROPOUT = {
    "wait": "the sum waits for it until the deadline, then stops (it can be resumed)",
    "abort": "the analysis stops",
    "continue": "after the deadline everything is computed again without it",
}
"""What happens to a hospital that is lost before its masked part is in."""

SIZES = (5, 10, 20, 40)
"""Hospitals in a federation, as examples: beside the two smallest that a study allows."""
MOST_EXAMPLES = 5


@dataclass(frozen=True)
class Outlook:
    """One size of federation. sites: hospitals. graph: who masks with whom. must_stay: hospitals without which no sum
    opens. may_be_lost: after their masked part is in. sentence: all of it."""

    sites: int
    graph: str
    must_stay: int
    may_be_lost: int
    sentence: str


def outlook(study: Study, sites: int) -> Outlook:
    """For `sites` hospitals. `ProtocolError` if no sum over so few may be opened, or they make no federation; the study
    hides its sums (`hides`)."""
    found = _derived(study, sites)
    return Outlook(sites, found.graph, found.least_survivors, found.tolerated_drops, found.sentence())


def examples(study: Study) -> list[Outlook]:
    """The smallest federation that the study allows, the next one, and a few larger ones, in order."""
    rules = study.protection
    least = max(study.release.min_sites, rules.colluding + 2)
    sizes = sorted({least, least + 1, *(n for n in SIZES if n > least)})
    return [outlook(study, n) for n in sizes[:MOST_EXAMPLES] + sizes[MOST_EXAMPLES:][-1:]]


def hides(study: Study) -> bool:
    """Whether anything hides the hospitals' parts."""
    return study.protection.hide != "none"


def how(study: Study) -> str:
    """By what, against whom: ``secagg, against a semi-honest coordinator and 1 colluding hospital``."""
    rules = study.protection
    if not hides(study):
        return protection_of(study, study.release.min_sites).sentence
    return (
        f"{rules.hide}, against a {rules.threat} coordinator and {words.plural(rules.colluding, 'colluding hospital')}"
    )


def table(rows: Sequence[Outlook]) -> Table:
    """The rows for a terminal."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("hospitals", justify="right")
    found.add_column("who masks with whom")
    found.add_column("must stay", justify="right")
    found.add_column("may be lost after masking", justify="right")
    for row in rows:
        found.add_row(str(row.sites), row.graph, str(row.must_stay), str(row.may_be_lost or "none"))
    return found


def _derived(study: Study, sites: int) -> Parameters:
    rules = study.protection
    return derive(sites, rules.colluding, study.release.min_sites, hide=rules.hide, threat=rules.threat)
