"""Errors of a predicted number: MSE, RMSE, MAE, mean error and R2, with intervals by the central limit theorem.

Values are scaled to [-1, 1] by the declared bounds of what is predicted; a prediction beyond them counts as the nearer
bound, and how many did is told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisono.methods.evaluation.base import Array, Rules, Total, finite
from unisono.methods.evaluation.intervals import HIDDEN, Metric, mean_of, wald
from unisono.protection.leaves import Leaf, count, moment

_ALIKE = 1e-9
"""Variance of the scaled values below which they are the same within what the encoding carries: R2 is not defined."""


@dataclass(frozen=True)
class Errors:
    """Of numbers declared from `low` to `high`."""

    low: float
    high: float

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2

    def leaves(self, n: float) -> dict[str, Leaf]:
        """Sums of powers of the error d (within [-2, 2]) and of the true value z (within [-1, 1])."""
        return {
            "n": count((), n, "Number of patients."),
            "outside": count((), n, "Number of predictions outside the declared bounds."),
            "error": moment(
                (4,), n * np.array([2.0, 4.0, 8.0, 16.0]), "Sums of the error and of its powers to the 4th."
            ),
            "absolute": moment((), 2 * n, "Sum of the absolute errors."),
            "value": moment((4,), n, "Sums of the true value and of its powers to the 4th."),
            "product": moment((2,), 4 * n, "Sums of the squared error times the true value, and times its square."),
        }

    def part(self, predicted: Array, target: Array) -> dict[str, Array]:
        """predicted, target: (n,) in the unit of the bounds."""
        centre = (self.low + self.high) / 2
        raw = (finite(predicted) - centre) / self.half
        guess, z = np.clip(raw, -1.0, 1.0), (np.asarray(target, np.float64) - centre) / self.half
        d = guess - z
        return {
            "n": np.asarray(len(d)),
            "outside": np.asarray(int((np.abs(raw) > 1).sum())),
            "error": np.array([(d**k).sum() for k in range(1, 5)]),
            "absolute": np.asarray(np.abs(d).sum()),
            "value": np.array([(z**k).sum() for k in range(1, 5)]),
            "product": np.array([(d * d * z).sum(), (d * d * z * z).sum()]),
        }

    def metrics(self, total: Total, rules: Rules) -> dict[str, Any]:
        """mse and rmse, mae, bias (mean of prediction less truth) in the variable's unit (squared); r2."""
        n, half, sure = round(float(total["n"])), self.half, rules.confidence
        first, second, _, fourth = (float(x) for x in total["error"])
        mse = _scaled(mean_of(second, fourth, n, sure, 0.0), half**2)
        return {
            "mse": mse,
            "rmse": {k: None if v is None else math.sqrt(v) for k, v in mse.items()},
            "mae": _scaled(mean_of(float(total["absolute"]), second, n, sure, 0.0), half),
            "bias": _scaled(mean_of(first, second, n, sure), half),
            "r2": r2(total, n, sure),
        }


def r2(total: Total, n: int, confidence: float) -> Metric:
    """1 - A / B with A the mean squared error and B the variance of the true value; its interval by the delta method, from
    the influence -(d^2 - A) / B + A ((z - mean)^2 - B) / B^2 of each patient."""
    if n < 2:
        return dict(HIDDEN)
    e2, e4 = float(total["error"][1]) / n, float(total["error"][3]) / n
    m1, m2, m3, m4 = (float(x) / n for x in total["value"])
    p1, p2 = (float(x) / n for x in total["product"])
    b = m2 - m1**2
    if b < _ALIKE:
        return dict(HIDDEN)
    central4 = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    crossed = p2 - 2 * m1 * p1 + m1**2 * e2
    ratio = e2 / b
    variance = (e4 - e2**2 - 2 * ratio * (crossed - e2 * b) + ratio**2 * (central4 - b**2)) / b**2
    return wald(1 - ratio, math.sqrt(max(variance, 0.0) / n), confidence, -math.inf, 1.0)


def _scaled(found: Metric, factor: float) -> Metric:
    return {name: None if value is None else value * factor for name, value in found.items()}
