"""What became of one analysis, and what must be said beside it about the run as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from unisono.errors import UnisonoError
from unisono.methods.runner import Answer
from unisono.site.policy import Policy
from unisono.study.document import Study


@dataclass(frozen=True)
class Outcome:
    """One analysis: its answer, or the error that stopped it; and what its journal holds."""

    analysis: str
    answer: Answer | None
    error: UnisonoError | None
    journal: Path
    journal_digest: str
    seconds: float


def with_remarks(study: Study, outcomes: Mapping[str, Outcome], *, simulated: bool = True) -> dict[str, Outcome]:
    """The outcomes with notes on what only shows when analyses are seen together, or (simulated) beside a hospital's own
    rules, which no hospital has applied."""
    found: dict[str, Outcome] = {}
    earlier: dict[str, int] = {}
    for name, outcome in outcomes.items():
        if outcome.answer is None:
            found[name] = outcome
            continue
        patients = outcome.answer.cohort.facts.patients
        near = [other for other, n in earlier.items() if 0 < abs(n - patients) < study.release.min_count]
        refused = _refused_elsewhere(study, name) if simulated else []
        notes = [*outcome.answer.result.notes, *refused, *(_near(other, study) for other in near[:1])]
        result = replace(outcome.answer.result, notes=tuple(notes))
        found[name] = replace(outcome, answer=replace(outcome.answer, result=result))
        earlier[name] = patients
    return found


def _refused_elsewhere(study: Study, analysis: str) -> list[str]:
    """Every reason of the study, and of this analysis of it."""
    policy = Policy()
    reasons = dict.fromkeys(r.what for r in (*policy.refusals(study), *policy.refusals_of(study, analysis)))
    return [
        f"A hospital's default policy would refuse this study: {what} It ran because it was simulated."
        for what in reasons
    ]


def _near(other: str, study: Study) -> str:
    return (
        f"This analysis and {other!r} are over cohorts that differ by fewer than {study.release.min_count} patients: from the "
        "two together those few can be worked out. Study the same patients in every analysis, for example with "
        "`known(...)` of the variables with missing values under `cohort: include`."
    )
