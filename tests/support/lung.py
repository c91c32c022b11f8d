"""The NCCTG lung trial (lifelines wheel, MIT) as a study and as tables in study variables: the data most tests use."""

from __future__ import annotations

import numpy as np
import pandas as pd
from lifelines.datasets import load_lung

from unisono.study.document import Study
from unisono.study.table import Table

SITES = ("padua", "turin", "leiden", "madrid")

DOCUMENT = {
    "unisono": 1,
    "id": "lung",
    "question": "Do women with advanced lung cancer live longer?",
    "variables": {
        "time": {"type": "number", "unit": "d", "min": 0, "max": 1100},
        "died": {"type": "boolean"},
        "age": {"type": "number", "unit": "a", "min": 18, "max": 100},
        "sex": {"type": "category", "levels": ["male", "female"], "reference": "male"},
        "ecog": {"type": "integer", "min": 0, "max": 4},
        "weight_loss": {"type": "number", "unit": "kg", "min": -30, "max": 60},
    },
    "analyses": {
        "curves": {
            "method": "kaplan-meier",
            "time": "time",
            "event": "died",
            "by": "sex",
            "grid": {"step": 7, "unit": "d"},
        },
        "effect": {"method": "cox", "time": "time", "event": "died", "covariates": ["age", "sex", "ecog"]},
    },
}


def study(**changes: object) -> Study:
    """The study, with top-level keys replaced."""
    return Study.model_validate({**DOCUMENT, **changes})


def frame(step: float | None = 7.0) -> pd.DataFrame:
    """All patients in study variables (complete cases of `ecog`), times rounded up to the grid of `step` days."""
    raw = load_lung().dropna(subset=["ph.ecog", "inst"])
    time = raw["time"].to_numpy(float)
    return pd.DataFrame(
        {
            "site": np.array(SITES)[(raw["inst"].to_numpy(int) % 4)],
            "time": np.ceil(time / step) * step if step else time,
            "died": (raw["status"] == 1).astype(float)
            if set(raw["status"]) <= {0, 1}
            else (raw["status"] == 2).astype(float),
            "age": raw["age"].astype(float),
            "sex": (raw["sex"] == 2).astype(float),
            "ecog": raw["ph.ecog"].astype(float),
            "weight_loss": raw["wt.loss"].astype(float) * 0.45359237,
        }
    ).reset_index(drop=True)


def table(data: pd.DataFrame) -> Table:
    """A frame's columns (without `site`) as a table."""
    columns = [c for c in data.columns if c != "site"]
    return Table({c: np.ascontiguousarray(data[c].to_numpy(float)) for c in columns}, len(data))


def tables(data: pd.DataFrame) -> list[Table]:
    """One table a site, in the order of SITES."""
    return [table(data[data["site"] == s]) for s in SITES if (data["site"] == s).any()]
