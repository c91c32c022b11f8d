"""How well a score orders patients: AUROC and average precision from two histograms of the score, with and without the outcome.

DeLong, DeLong & Clarke-Pearson (1988), in the form of placement values (Sun & Xu 2014), which are one number a bin; average
precision as scikit-learn defines it, with the logit interval of Boyd, Eng & Page (2013).
"""

from __future__ import annotations

import math

import numpy as np

from unisono.methods.evaluation.base import Counts, Vector
from unisono.methods.evaluation.intervals import HIDDEN, Metric, metric, on_logit, wald


def auroc(positive: Counts, negative: Counts, confidence: float = 0.95) -> Metric:
    """The probability that a patient with the outcome has the higher score than one without; ties count half.

    positive, negative: (b,) patients with and without the outcome in each bin, from the lowest. The variance is DeLong's of
    the binned scores: of the placements V10 (of each patient with the outcome, among those without) and V01. No
    interval where it is estimated to be 0 (perfect order), or from one patient.
    """
    m, n = int(positive.sum()), int(negative.sum())
    if not m or not n:
        return dict(HIDDEN)
    v10, v01 = placements(positive, negative)
    area = float((positive * v10).sum() / m)
    if m < 2 or n < 2:
        return metric(area)
    s10 = float((positive * (v10 - area) ** 2).sum() / (m - 1))
    s01 = float((negative * (v01 - area) ** 2).sum() / (n - 1))
    return wald(area, math.sqrt(s10 / m + s01 / n), confidence, 0.0, 1.0)


def placements(positive: Counts, negative: Counts) -> tuple[Vector, Vector]:
    """V10 (b,): share of the patients without the outcome that are below a bin (half of those in it). V01 (b,): share of
    those with the outcome above it. Sun & Xu (2014), equation 4, by mid-ranks."""
    below = np.cumsum(negative) - negative
    above = positive.sum() - np.cumsum(positive)
    return (below + negative / 2) / negative.sum(), (above + positive / 2) / positive.sum()


def average_precision(positive: Counts, negative: Counts, confidence: float = 0.95) -> Metric:
    """Sum of (R_k - R_(k-1)) P_k over thresholds from the highest score, as scikit-learn's `average_precision_score`."""
    m = int(positive.sum())
    if not m:
        return dict(HIDDEN)
    hits = np.cumsum(positive[::-1])
    flagged = hits + np.cumsum(negative[::-1])
    precision = np.divide(hits, flagged, out=np.zeros(len(hits)), where=flagged > 0)
    area = float((positive[::-1] * precision).sum() / m)
    error = 1 / math.sqrt(m * area * (1 - area)) if 0 < area < 1 else math.inf
    return on_logit(area, error, confidence)


def roc(positive: Counts, negative: Counts, cuts: list[int]) -> dict[str, list[float]] | None:
    """The curve at the thresholds `cuts` (bin edges, increasing), from (0, 0) to (1, 1); None where all have one outcome."""
    m, n = int(positive.sum()), int(negative.sum())
    if not m or not n:
        return None
    hits = np.concatenate([[0], np.cumsum(positive)])
    alarms = np.concatenate([[0], np.cumsum(negative)])
    at = np.array(sorted({0, *cuts, len(positive)}, reverse=True))
    return {
        "false_positive_rate": [float(x) for x in 1 - alarms[at] / n],
        "true_positive_rate": [float(x) for x in 1 - hits[at] / m],
    }
