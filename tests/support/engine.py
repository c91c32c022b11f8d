"""Runs of the lung trial in this process, for tests of the engine: the study, the hospitals' frames, and what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from tests.support import lung
from unisono.engines.embedded.run import Fault, Run, Settings, SiteData, run_study
from unisono.federation.journal import Journal, Record
from unisono.methods.registry import check
from unisono.study.document import Study
from unisono.study.load import load

SITES = lung.SITES

ANALYSES: dict[str, dict[str, Any]] = {
    "table": {"method": "describe", "variables": ["age", "ecog"], "by": "sex"},
    "curves": lung.DOCUMENT["analyses"]["curves"],  # type: ignore[index]
    "effect": {
        "method": "cox",
        "time": "time",
        "event": "died",
        "covariates": ["age", "sex"],
        "grid": {"step": 7, "unit": "d"},
    },
    "odds": {"method": "glm", "family": "binomial", "outcome": "died", "covariates": ["age", "sex"]},
}


def study(*analyses: str, **changes: Any) -> Study:
    """The lung study with these of `ANALYSES` (all four if none is named), and top-level keys replaced."""
    chosen = {name: ANALYSES[name] for name in analyses or ANALYSES}
    return load({**lung.DOCUMENT, "analyses": chosen, **changes}, check)


@cache
def _frame() -> pd.DataFrame:
    frame = lung.frame()
    frame["sex"] = frame["sex"].map({0.0: "male", 1.0: "female"})
    return frame


def frame(site: str) -> pd.DataFrame:
    """One hospital's patients in the study's words."""
    whole = _frame()
    return whole[whole["site"] == site].drop(columns="site").reset_index(drop=True)


def hospitals(sites: Sequence[str] = SITES) -> dict[str, SiteData]:
    """Hospitals in the given order."""
    return {site: SiteData(frame(site)) for site in sites}


def files(folder: Path, sites: Sequence[str] = SITES) -> dict[str, SiteData]:
    """The same as CSV files."""
    folder.mkdir(parents=True, exist_ok=True)
    for site in sites:
        frame(site).to_csv(folder / f"{site}.csv", index=False)
    return {site: SiteData(folder / f"{site}.csv") for site in sites}


def run(
    asked: Study,
    out: Path,
    *,
    data: Mapping[str, SiteData] | None = None,
    faults: Sequence[Fault] = (),
    **settings: Any,
) -> Run:
    """Run it. settings: those of `Settings`."""
    return run_study(asked, hospitals() if data is None else data, out, Settings(faults=faults, **settings))


def estimates(finished: Run) -> dict[str, dict[str, Any]]:
    """By analysis; raises the error of one that was not answered."""
    found = {}
    for name, outcome in finished.outcomes.items():
        if outcome.error is not None:
            raise outcome.error
        assert outcome.answer is not None
        found[name] = outcome.answer.result.estimates
    return found


def records(out: Path, analysis: str, kind: str) -> list[Record]:
    """Of the journal of an analysis."""
    journal = Journal(out / analysis / "journal.db", read_only=True)
    try:
        return journal.all(kind)
    finally:
        journal.close()
