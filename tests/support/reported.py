"""A run of the lung study over four sites in this process, with a fault of each kind and one analysis that must fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.lung import DOCUMENT, SITES, frame
from unisono.engines.embedded.run import Fault, Run, Settings, SiteData, run_study
from unisono.study.document import Study

VARIABLES: dict[str, Any] = {
    **DOCUMENT["variables"],  # type: ignore[dict-item]
    "age": {"type": "number", "unit": "a", "min": 18, "max": 100, "label": "age"},
    "age_again": {"type": "number", "unit": "a", "min": 36, "max": 200, "derive": "2 * age"},
}
GRID = {"step": 7, "unit": "d"}
ANALYSES: dict[str, Any] = {
    "patients": {"method": "describe", "variables": ["age", "weight_loss"], "by": "sex"},
    "curves": {"method": "kaplan-meier", "time": "time", "event": "died", "by": "sex", "grid": GRID, "at": [182, 364]},
    "effect": {"method": "cox", "time": "time", "event": "died", "covariates": ["sex", "age", "ecog"], "at": [364]},
    "odds": {"method": "glm", "outcome": "died", "family": "binomial", "covariates": ["sex", "age"]},
    "twice": {"method": "cox", "time": "time", "event": "died", "covariates": ["age", "age_again"]},
}
FAULTS = (
    Fault("turin", "unmask", analysis="effect", occurrence=2, seconds=0.0),
    Fault("leiden", "mask", analysis="effect", occurrence=3, seconds=0.05),
)


def study(**changes: Any) -> Study:
    """The study, with top-level keys replaced."""
    return Study.model_validate({**DOCUMENT, "variables": VARIABLES, "analyses": ANALYSES, **changes})


def run(out: Path, asked: Study | None = None, **settings: Any) -> Run:
    """Answer it into `out`."""
    patients = frame()
    patients["sex"] = patients["sex"].map({0.0: "male", 1.0: "female"})
    sites = {s: SiteData(patients[patients["site"] == s].drop(columns="site")) for s in SITES}
    return run_study(asked or study(), sites, out, Settings(**settings))
