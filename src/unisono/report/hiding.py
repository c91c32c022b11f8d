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
    "continue": "after the deadline everything is computed again without it. The sums with it and without it then show that "
    "hospital's part. The coordinator alone says which hospital was lost: it can say so of one that was not, and "
    "threat: malicious does not prevent that",
}
"""What happens to a hospital that is lost before its masked part is in."""

SIZES = (5, 10, 20, 40)
"""Hospitals in a federation, as examples: beside the two smallest that a study allows."""
MOST_EXAMPLES = 5


@dataclass(frozen=True)
class Outlook:
    """One size of federation. sites: hospitals. graph: who masks with whom. threshold: t, the pieces that rebuild a secret.
    must_stay: hospitals without which no sum opens. must_sign: signatures over who is in a sum, before it is opened; None
    where the coordinator is trusted to tell all the same. may_be_lost: after their masked part is in. sentence: all of
    it, but for t and the signatures (`pieces`)."""

    sites: int
    graph: str
    threshold: int
    must_stay: int
    must_sign: int | None
    may_be_lost: int
    sentence: str

    @property
    def pieces(self) -> str:
        """``t = 4 pieces rebuild a hospital's secrets; 4 hospitals must sign who is in a sum before it is opened``."""
        told = f"t = {self.threshold} pieces rebuild a hospital's secrets"
        if self.must_sign is None:
            return told
        return f"{told}; {self.must_sign} hospitals must sign who is in a sum before it is opened"


def outlook(study: Study, sites: int) -> Outlook:
    """For `sites` hospitals. `ProtocolError` if no sum over so few may be opened, or they make no federation; the study
    hides its sums (`hides`)."""
    found = _derived(study, sites)
    return Outlook(
        sites=sites,
        graph=found.graph,
        threshold=found.t,
        must_stay=found.least_survivors,
        must_sign=found.quorum if found.threat == "malicious" else None,
        may_be_lost=found.tolerated_drops,
        sentence=found.sentence(),
    )


def examples(study: Study) -> list[Outlook]:
    """The smallest federation that the study allows, the next one, and a few larger ones, in order."""
    rules = study.protection
    least = max(study.release.min_sites, rules.colluding + 2)
    sizes = sorted({least, least + 1, *(n for n in SIZES if n > least)})
    return [outlook(study, n) for n in sizes[:MOST_EXAMPLES] + sizes[MOST_EXAMPLES:][-1:]]


def warns(study: Study) -> bool:
    """Whether what happens to a hospital that is lost shows that hospital's part: `ON_DROPOUT` says how."""
    return hides(study) and study.participation.on_dropout == "continue"


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
    """The rows for a terminal; who must sign only where hospitals sign at all."""
    signed = _signed(rows)
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    found.add_column("hospitals", justify="right")
    found.add_column("who masks with whom")
    found.add_column("t", justify="right")
    found.add_column("must stay", justify="right")
    if signed:
        found.add_column("must sign", justify="right")
    found.add_column("may be lost after masking", justify="right")
    for row in rows:
        signs = [str(row.must_sign)] if signed else []
        lost = str(row.may_be_lost or "none")
        found.add_row(str(row.sites), row.graph, str(row.threshold), str(row.must_stay), *signs, lost)
    return found


def legend(rows: Sequence[Outlook]) -> str:
    """What the table's shortest headings mean."""
    t = "t: pieces that rebuild a hospital's secrets"
    return f"{t}; must sign: who is in a sum, before it is opened" if _signed(rows) else t


def _signed(rows: Sequence[Outlook]) -> bool:
    return any(row.must_sign is not None for row in rows)


def _derived(study: Study, sites: int) -> Parameters:
    rules = study.protection
    return derive(sites, rules.colluding, study.release.min_sites, hide=rules.hide, threat=rules.threat)
