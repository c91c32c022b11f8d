"""Who answered: the hospitals that are in each analysis, and those that left on the way (`on_dropout: continue`)."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.methods.wording import say_list
from unisono.report import words
from unisono.report.load import LoadedAnalysis, LoadedRun


@dataclass(frozen=True)
class Who:
    """counted: how many hospitals and patients; names: of the hospitals; remarks: who left which analysis."""

    counted: str
    names: tuple[str, ...]
    remarks: tuple[str, ...]


def who_answered(run: LoadedRun, telling: LoadedAnalysis | None) -> Who:
    """Of the analysis that answers the question, with a remark on every analysis that a hospital left."""
    remarks = _remarks(run)
    if telling is None or telling.record is None:
        return Who(words.plural(len(run.run.sites), "hospital"), tuple(run.run.sites), remarks)
    sites = tuple(telling.record.sites)
    patients = telling.record.cohort["patients"]
    counted = f"{words.plural(len(sites), 'hospital')}, {words.plural(patients, 'patient')}"
    return Who(counted, sites, remarks)


def _remarks(run: LoadedRun) -> tuple[str, ...]:
    left = {a.name: a.record.participation.left for a in run.analyses if a.record is not None}
    if not any(left.values()):
        return ()
    said = [
        f"{say_list(names)} left before the end of “{name}” and {'is' if len(names) == 1 else 'are'} not in its numbers."
        for name, names in left.items()
        if names
    ]
    return (*said, f"Hospitals in each analysis: {sizes_said(run)}.")


def sizes(run: LoadedRun) -> dict[int, list[str]]:
    """How many hospitals are in the answers, the most first, and the analyses with so many."""
    found: dict[int, list[str]] = {}
    for analysis in run.analyses:
        if analysis.record is not None:
            found.setdefault(len(analysis.record.sites), []).append(analysis.name)
    return dict(sorted(found.items(), reverse=True))


def sizes_said(run: LoadedRun) -> str:
    """``4 in “curves” and “patients”; 3 in “effect”``."""
    return "; ".join(f"{n} in {say_list([f'“{name}”' for name in names])}" for n, names in sizes(run).items())
