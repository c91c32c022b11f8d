"""Evaluation of a predicted number: errors and R2."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from unisono.methods.evaluation.base import Array, Evaluation, Rules, Total
from unisono.methods.evaluation.errors import Errors
from unisono.methods.evaluation.intervals import HIDDEN
from unisono.protection.disclosure import blank_cells
from unisono.protection.leaves import Leaf


class NumberEvaluation(Evaluation):
    """predicted, target: (n,) in the unit of `low` and `high`, the declared bounds of the target."""

    kind: ClassVar[str] = "number"

    def __init__(self, *, low: float, high: float, confidence: float = 0.95, min_count: int = 10) -> None:
        self.errors = Errors(low, high)
        self.rules = Rules(confidence, min_count)

    def leaves(self, patients: int) -> dict[str, Leaf]:
        """Sums of powers of errors and of true values."""
        return self.errors.leaves(float(max(patients, 1)))

    def part(self, predicted: Array, target: Array) -> dict[str, Array]:
        """predicted (n,), target (n,)."""
        return self.errors.part(predicted, target)

    def metrics(self, total: Total) -> dict[str, Any]:
        """n, outside, mse, rmse, mae, bias, r2."""
        n, outside = int(np.rint(total["n"])), int(np.rint(total["outside"]))
        if n < self.rules.min_count:
            names = ("mse", "rmse", "mae", "bias", "r2")
            return {"n": None, "outside": None, **{name: dict(HIDDEN) for name in names}}
        shown = blank_cells([outside, n - outside], self.rules.min_count)[0]
        return {"n": n, "outside": shown, **self.errors.metrics(total, self.rules)}
