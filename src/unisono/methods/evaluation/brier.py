"""How far probabilities are from what happened: Brier score and log-loss, as means over patients of bounded losses.

Brier (1950). A loss and its square are summed, so that the mean has an interval.
"""

from __future__ import annotations

import numpy as np

from unisono.methods.evaluation.base import Array, Counts, Rules, Total, Vector
from unisono.methods.evaluation.intervals import Metric, mean_of
from unisono.protection.leaves import Leaf, moment

SURE = 1e-7
"""The log-loss counts no prediction as surer than this, so that one patient's loss is at most 16.2."""
_WORST = float(-np.log(SURE))


def leaves(n: float, outcomes: int) -> dict[str, Leaf]:
    """outcomes: 2 for a binary outcome (the loss is that of its one probability), or the number of classes."""
    most = 1.0 if outcomes == 2 else 2.0
    return {
        "brier": moment((), most * n, "Sum of the squared distances of prediction and outcome."),
        "brier_squares": moment((), most**2 * n, "Sum of the squares of these, for the interval."),
        "log_loss": moment((), _WORST * n, "Sum of the negative log-probabilities of what happened."),
        "log_loss_squares": moment((), _WORST**2 * n, "Sum of the squares of these, for the interval."),
    }


def binary_part(p: Vector, outcome: Array) -> dict[str, Array]:
    """p: (n,) probabilities of the outcome. outcome: (n,) 0/1."""
    happened = outcome > 0.5
    return _sums((p - happened) ** 2, np.where(happened, p, 1 - p))


def classes_part(p: Vector, classes: Counts) -> dict[str, Array]:
    """p: (n, k) probabilities. classes: (n,) of 0 .. k - 1."""
    happened = np.zeros_like(p)
    happened[np.arange(len(p)), classes] = 1.0
    return _sums(((p - happened) ** 2).sum(axis=1), p[np.arange(len(p)), classes])


def _sums(squared: Vector, chance: Vector) -> dict[str, Array]:
    lost = -np.log(np.clip(chance, SURE, 1.0))
    return {
        "brier": np.asarray(squared.sum()),
        "brier_squares": np.asarray((squared**2).sum()),
        "log_loss": np.asarray(lost.sum()),
        "log_loss_squares": np.asarray((lost**2).sum()),
    }


def metrics(total: Total, n: int, rules: Rules) -> dict[str, Metric]:
    """brier and log_loss: means over n patients."""
    return {
        name: mean_of(float(total[name]), float(total[f"{name}_squares"]), n, rules.confidence, 0.0)
        for name in ("brier", "log_loss")
    }
