"""How good predictions are, by objective: the evaluation (`methods/evaluation/`) that fits it, and what that reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.methods.boosting.objectives import Cox, Objective, Outcome
from unisono.methods.boosting.spec import BoostingSpec
from unisono.methods.evaluation.base import Evaluation
from unisono.methods.evaluation.kinds import evaluation
from unisono.methods.evaluation.survival import MOST_CELLS
from unisono.methods.survival.follow_up import Axis
from unisono.study.document import NumberVariable, Study

Vector = NDArray[np.float64]

_BINS = 100
"""Of the risk, for the concordance; fewer on a very fine grid of times."""
_FIRST = {"logistic": ("auroc", "AUROC"), "cox": ("concordance", "concordance")}
"""The metric to say first; of numbers R2."""


def measure(study: Study, spec: BoostingSpec, axis: Axis | None, min_count: int) -> Evaluation:
    """AUROC and calibration of a boolean, errors of a number, concordance of a time."""
    if axis is not None:
        bins = max(2, min(_BINS, MOST_CELLS // (2 * axis.length)))
        return evaluation("survival", points=axis.length, step=axis.step, bins=bins, min_count=min_count)
    variable = study.variables[str(spec.outcome)]
    if isinstance(variable, NumberVariable):
        return evaluation("number", low=variable.min, high=variable.max, min_count=min_count)
    return evaluation("binary", min_count=min_count)


def target_of(
    objective: Objective, score: Vector, outcome: Outcome, group: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Predictions and outcomes of a group, as the evaluation wants them. score: of that group alone."""
    if isinstance(objective, Cox):
        assert outcome.exit is not None
        return score, np.stack([outcome.exit[group], outcome.y[group]], axis=1)
    return objective.predict(score), outcome.y[group]


def first_metric(objective: str, performance: dict[str, Any]) -> tuple[str, dict[str, float | None]]:
    """Its name, and ``{value, low, high}``."""
    key, name = _FIRST.get(objective, ("r2", "R2"))
    return name, performance[key]
