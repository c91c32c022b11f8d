"""Verify a finished run without any patient: the coordinator's half of every analysis is run again from the journalled
sums, and must reproduce every estimate."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.engines.environment import environment
from unisono.errors import JournalError
from unisono.federation.exchange import Message
from unisono.federation.federation import Federation, Question
from unisono.federation.journal import Journal
from unisono.methods.runner import answer
from unisono.protection.secagg.roster import Roster
from unisono.study.document import Study

TOLERANCE = 1e-9
"""Relative; for a replay on another machine or with other packages. On the same ones it is bit for bit."""


@dataclass(frozen=True)
class Verified:
    """One analysis: how many sums were replayed, whether its estimates came out, and the largest relative difference."""

    analysis: str
    sums: int
    journal_digest: str
    digest_matches: bool
    same_environment: bool
    largest_difference: float

    @property
    def reproduced(self) -> bool:
        """True if everything came out: bit for bit in the same environment, to `TOLERANCE` elsewhere."""
        allowed = 0.0 if self.same_environment else TOLERANCE
        return self.digest_matches and self.largest_difference <= allowed


class _NoSites:
    """The exchange of a verification: there is nobody to ask."""

    async def request(self, site: str, message: Message) -> object:
        raise JournalError(
            f"The journal does not hold the sum that {message.phase!r} would ask {site} for.",
            rule="complete-journal",
            remedy="The run is not finished, or was made with another version of the method; run it to its end first.",
        )

    def connected(self, site: str) -> bool:
        del site
        return False

    async def online(self, site: str) -> None:
        raise AssertionError(f"verification does not wait for {site}")


_COMPARED = ("estimates", "converged", "cohort", "sites")
"""What of a result.json comes from the sums."""


def verify(study: Study, analysis: str, journal_path: Path, stored: dict[str, Any]) -> Verified:
    """Replay one analysis. `stored` is its result.json (`estimates` and `journal_digest` at least). `JournalError` if the
    journal is damaged or incomplete, or `stored` is no result."""
    if not {"estimates", "journal_digest"} <= set(stored):
        raise JournalError(
            f"What is stored of {analysis!r} is not a result.",
            rule="result-file",
            remedy="Run the same command again: it writes the results anew from the journal.",
        )
    if not journal_path.exists():
        raise JournalError(
            f"{journal_path} is not there.",
            rule="complete-journal",
            remedy="Verify the whole folder that the run wrote.",
        )
    journal = Journal(journal_path, read_only=True)
    try:
        start = journal.last("start")
        if start is None or start.body is None or start.body["study"] != study.digest():
            raise JournalError(
                f"{journal_path} is not the journal of this study.",
                rule="journal-study",
                remedy="The study file or the journal was exchanged; verify the folder as the run wrote it.",
            )
        same = start.body["environment"] == environment()
        roster = Roster.from_tree(start.body["roster"])
        question = Question(study, start.body["run"], analysis)
        digest = journal.digest
        replayed = asyncio.run(
            answer(study, analysis, lambda: Federation(question, _NoSites(), roster, journal, strict=same))
        )
        again = {
            "estimates": replayed.result.estimates,
            "converged": replayed.result.converged,
            "cohort": replayed.cohort.estimates,
            "sites": sorted(replayed.sites),
        }
        difference = max(largest_difference(stored[k], again[k]) for k in _COMPARED if k in stored)
        return Verified(analysis, journal.count("opened"), digest, digest == stored["journal_digest"], same, difference)
    finally:
        journal.close()


def largest_difference(stored: Any, again: Any) -> float:
    """The largest relative difference between two trees of JSON values; infinite where their shape or words differ."""
    if isinstance(stored, dict) and isinstance(again, dict):
        if set(stored) != set(again):
            return math.inf
        return max((largest_difference(stored[k], again[k]) for k in stored), default=0.0)
    if isinstance(stored, list) and isinstance(again, list | tuple):
        if len(stored) != len(again):
            return math.inf
        return max((largest_difference(a, b) for a, b in zip(stored, again, strict=True)), default=0.0)
    if stored == again:
        return 0.0
    numbers = [x for x in (stored, again) if isinstance(x, int | float) and not isinstance(x, bool)]
    if stored is None and isinstance(again, float) and not math.isfinite(again):
        return 0.0  # JSON has no NaN
    if len(numbers) == 2 and math.isfinite(stored) and math.isfinite(again):
        return float(abs(stored - again) / max(abs(stored), abs(again)))
    return math.inf
