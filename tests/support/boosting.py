"""Patients, studies and a plain federation for the tests of boosting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tests.support.plain import PlainFederation
from unisono.engines.embedded.run import SiteData
from unisono.methods.base import Method
from unisono.methods.boosting.model import Limits, Model, read_model
from unisono.methods.boosting.result import BoostingResult
from unisono.methods.registry import build, check
from unisono.protection.encoding import exact
from unisono.study.document import Study
from unisono.study.table import Table

SITES = ("leiden", "padua", "turin", "utrecht")

VARIABLES: dict[str, Any] = {
    "crp": {"type": "number", "unit": "mg/L", "min": -5, "max": 5},
    "falls": {"type": "integer", "min": 0, "max": 30},
    "smokes": {"type": "boolean"},
    "stage": {"type": "category", "levels": ["<2", "2", "3+"]},
    "sex": {"type": "category", "levels": ["male", "female"]},
    "ill": {"type": "boolean"},
    "score": {"type": "number", "min": -40, "max": 40},
    "visits": {"type": "integer", "min": 0, "max": 40},
    "start": {"type": "number", "unit": "mo", "min": 0, "max": 60},
    "months": {"type": "number", "unit": "mo", "min": 0, "max": 60},
    "died": {"type": "boolean"},
}
OUTCOMES: dict[str, dict[str, Any]] = {
    "logistic": {"outcome": "ill"},
    "squared-error": {"outcome": "score"},
    "poisson": {"outcome": "visits"},
    "cox": {"time": "months", "event": "died", "grid": {"step": 1, "unit": "mo"}},
}
FEATURES = ["crp", "falls", "smokes", "stage", "sex"]
RISK = "risk"
ANY = Limits(size=1 << 24, trees=10_000, depth=12, leaf=1e6)


def study(
    objective: str = "logistic", *, method: str = "hist-boosting", top: dict[str, Any] | None = None, **analysis: Any
) -> Study:
    """An analysis `risk` of few, small trees. top: keys of the study; analysis: of the analysis."""
    written = {"method": method, "objective": objective, "features": FEATURES, "trees": 6, "depth": 3, "rate": 0.3}
    document = {
        "unisono": 1,
        "id": "boosted",
        "question": "Who is at risk?",
        "variables": VARIABLES,
        "analyses": {RISK: {**written, **OUTCOMES[objective], **analysis}},
        **(top or {}),
    }
    return Study.model_validate(document)


@cache
def _columns(n: int, gaps: float) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(5)
    crp, falls = rng.normal(size=n).clip(-5, 5), rng.integers(0, 31, n).astype(float)
    smokes, stage, sex = (rng.random(n) < 0.4) * 1.0, rng.integers(0, 3, n) * 1.0, rng.integers(0, 2, n) * 1.0
    risk = crp + np.sin(falls / 4) + smokes * (stage == 1) - 0.5 * sex
    event, censored = rng.exponential(20 * np.exp(-risk)), rng.uniform(5, 60, n)
    start = np.floor(rng.uniform(0, 4, n))
    columns = {
        "crp": crp,
        "falls": falls,
        "smokes": smokes,
        "stage": stage,
        "sex": sex,
        "ill": (rng.random(n) < 1 / (1 + np.exp(-risk))) * 1.0,
        "score": (3 * risk + rng.normal(size=n)).clip(-40, 40),
        "visits": rng.poisson(np.exp(risk / 2)).clip(0, 40) * 1.0,
        "start": start,
        "months": np.ceil(np.minimum(event, censored)).clip(start + 1, 60),
        "died": (event <= censored) * 1.0,
    }
    for name in FEATURES:
        columns[name][rng.random(n) < gaps] = np.nan
    return columns


def tables(n: int = 900, gaps: float = 0.15, sites: int = 4) -> list[Table]:
    """Patients of some sites of different size, with gaps in every feature."""
    columns = _columns(n, gaps)
    where = np.minimum(np.random.default_rng(6).geometric(0.4, n) - 1, sites - 1)
    return [Table({k: v[where == s] for k, v in columns.items()}, int((where == s).sum())) for s in range(sites)]


@dataclass
class Plain(PlainFederation):
    """The part of `Federation` that boosting uses."""

    def __init__(self, method: Method[Any], sites: Sequence[Table]) -> None:
        super().__init__(method, sites)
        self.sites = SITES[: len(sites)]
        self.snapshots: list[Any] = []
        self.state: Any = None

    def restored(self) -> Any:
        return self.state

    def snapshot(self, state: Any) -> None:
        self.snapshots.append(state)

    async def sum(self, contribution: Any, *arguments: Any) -> Any:
        """As the real one: and whatever is summed must be exact, or nearly so, in the encoding."""
        declaration = contribution.declaration(self.facts, *arguments)
        for name, value in zip(contribution.contribution.parameters, arguments, strict=True):
            limit, array = declaration.arguments[name], np.asarray(value)
            assert array.shape == limit.shape, name
            assert not array.size or np.abs(array).max() <= limit.limit, name
        if contribution.name in ("totals", "histograms", "risk_sets", "losses"):
            assert all((exact.exponent(leaf) <= 0).all() for leaf in declaration.leaves.values()), (
                "whole numbers are exact"
            )
        return await super().sum(contribution, *arguments)

    async def collect(self, contribution: Any, *arguments: Any) -> list[Any]:
        self.steps.append(contribution.name)
        return [contribution.rebuild(contribution.compute(data, *arguments)) for data in self.data]

    async def collect_from(self, site: str, contribution: Any, *arguments: Any) -> Any:
        self.steps.append(f"{contribution.name}@{site}")
        return contribution.rebuild(contribution.compute(self.data[self.sites.index(site)], *arguments))


def fit(document: Study, sites: Sequence[Table], state: Any = None) -> tuple[BoostingResult, Plain]:
    """The answer over these tables."""
    assert check(document) == []
    method = build(document, RISK)
    federation = Plain(method, sites)
    federation.state = state
    result = asyncio.run(method.run(federation))  # type: ignore[arg-type]
    assert isinstance(result, BoostingResult)
    return result, federation


def model_of(result: BoostingResult, document: Study) -> Model:
    """The model file, read strictly."""
    method: Any = build(document, RISK)
    names = [feature.name for feature in method.features]
    return read_model(result.files()["model.xgboost.json"], names, method.objective.xgboost, ANY)


def frames(n: int = 900, sites: int = 4) -> dict[str, SiteData]:
    """The same patients as hospitals of the embedded engine."""
    found = {}
    for name, table in zip(SITES, tables(n, sites=sites), strict=False):
        frame = pd.DataFrame(dict(table.columns))
        for variable, written in VARIABLES.items():
            if written["type"] == "category":
                frame[variable] = frame[variable].map(dict(enumerate(written["levels"])))
        found[name] = SiteData(frame)
    return found


def pooled() -> dict[str, SiteData]:
    """All of them in one hospital."""
    return {"pooled": SiteData(pd.concat([data.source for data in frames().values()], ignore_index=True))}
