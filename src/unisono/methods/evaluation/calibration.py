"""Do predicted probabilities come true? Reliability groups, calibration in the large, slope, and expected calibration error.

All of it is read from the histograms of the score with and without the outcome; a patient's probability counts as the
middle of its bin, which is at most half a thousandth off with the usual bins. Cox (1958); Van Calster et al. (2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit

from unisono.methods.evaluation.base import Counts, Rules, Vector
from unisono.methods.evaluation.grouped import summed
from unisono.methods.evaluation.intervals import HIDDEN, Metric, metric, wald, wilson

_STEPS = 50
_TOLERANCE = 1e-12
_GROUPS = 10
"""Deciles of risk, as far as the cells allow (Hosmer & Lemeshow 1980)."""
_STEEPEST = 50.0
"""A slope beyond it: the scores separate the patients, and the estimate does not exist."""


@dataclass(frozen=True)
class Binned:
    """Opened histograms of a probability. middles, positive, negative: (b,). cuts: edges that may be shown."""

    middles: Vector
    positive: Counts
    negative: Counts
    cuts: list[int]

    @property
    def n(self) -> int:
        return int(self.positive.sum() + self.negative.sum())


def calibration(binned: Binned, rules: Rules) -> dict[str, Any]:
    """observed, expected: share with the outcome, and mean prediction. in_the_large: intercept at slope 1 (0 is perfect).
    slope, intercept: logit P(outcome) = intercept + slope * logit(prediction) (1 and 0 are perfect). ece: mean distance of
    prediction and share, over the groups shown in `reliability`."""
    everyone = binned.positive + binned.negative
    expected = float((everyone * binned.middles).sum() / binned.n) if binned.n else None
    groups = reliability(binned, rules)
    intercept, slope = recalibration(binned, rules.confidence)
    return {
        "observed": wilson(int(binned.positive.sum()), binned.n, rules.confidence),
        "expected": expected,
        "in_the_large": in_the_large(binned, rules.confidence),
        "slope": slope,
        "intercept": intercept,
        "ece": expected_error(groups),
        "reliability": groups,
    }


def in_the_large(binned: Binned, confidence: float) -> Metric:
    """The intercept a of logit P(outcome) = a + logit(prediction), by Newton-Raphson, with its Wald interval."""
    if not binned.positive.any() or not binned.negative.any():
        return dict(HIDDEN)
    x, everyone, a = logit(binned.middles), binned.positive + binned.negative, 0.0
    for _ in range(_STEPS):
        p = expit(a + x)
        information = float((everyone * p * (1 - p)).sum())
        step = float((binned.positive - everyone * p).sum()) / information
        a += float(np.clip(step, -1.0, 1.0))
        if abs(step) < _TOLERANCE:
            break
    p = expit(a + x)
    return wald(a, 1 / math.sqrt(float((everyone * p * (1 - p)).sum())), confidence)


def recalibration(binned: Binned, confidence: float) -> tuple[Metric, Metric]:
    """Intercept and slope of logistic recalibration (Cox 1958), by Newton-Raphson on the bins. Hidden where it does not exist:
    one outcome only, one bin only, or perfect separation."""
    x, everyone = logit(binned.middles), (binned.positive + binned.negative).astype(np.float64)
    beta, nothing = np.array([0.0, 1.0]), (dict(HIDDEN), dict(HIDDEN))
    design = np.stack([np.ones_like(x), x])
    if not binned.positive.any() or not binned.negative.any() or (everyone > 0).sum() < 2:
        return nothing
    for _ in range(_STEPS):
        p = expit(beta @ design)
        information = (design * (everyone * p * (1 - p))) @ design.T
        score = design @ (binned.positive - everyone * p)
        if not np.isfinite(information).all() or np.linalg.cond(information) > 1e12:
            return nothing
        step = np.linalg.solve(information, score)
        beta = beta + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        if abs(beta[1]) > _STEEPEST:
            return nothing
        if float(np.abs(step).max()) < _TOLERANCE * 100:
            errors = np.sqrt(np.diag(np.linalg.inv(information)))
            return wald(float(beta[0]), float(errors[0]), confidence), wald(
                float(beta[1]), float(errors[1]), confidence
            )
    return nothing


def reliability(binned: Binned, rules: Rules) -> list[dict[str, Any]]:
    """About ten groups of patients of neighbouring predictions, from the lowest: how many, how many had the outcome, mean
    prediction, and the share with the outcome with its interval. Empty where no cut may be shown and too few are there."""
    cuts = _deciles(binned)
    positive, negative = summed(binned.positive, cuts), summed(binned.negative, cuts)
    predicted = np.add.reduceat((binned.positive + binned.negative) * binned.middles, np.array([0, *cuts]))
    return [
        {
            "n": int(m + k),
            "outcomes": int(m),
            "predicted": float(total / (m + k)),
            "observed": wilson(int(m), int(m + k), rules.confidence),
        }
        for m, k, total in zip(positive, negative, predicted, strict=True)
        if m + k > 0
    ]


def _deciles(binned: Binned) -> list[int]:
    """Of the cuts that may be shown, those nearest above each tenth of the patients."""
    until = np.cumsum(binned.positive + binned.negative)
    chosen: list[int] = []
    reached = 0.0
    for cut in binned.cuts:
        if until[cut - 1] >= reached + binned.n / _GROUPS - 1e-9:
            chosen.append(cut)
            reached = float(until[cut - 1])
    return chosen


def expected_error(groups: list[dict[str, Any]]) -> Metric:
    """Expected calibration error (Naeini, Cooper & Hauskrecht 2015) over the groups of `reliability`."""
    n = sum(g["n"] for g in groups)
    if not n:
        return dict(HIDDEN)
    return metric(sum(g["n"] * abs(g["predicted"] - g["outcomes"] / g["n"]) for g in groups) / n)
