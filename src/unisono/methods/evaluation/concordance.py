"""Harrell's concordance over all pairs of patients, those of two hospitals too, from one histogram: time by risk by event.

Harrell, Califf, Pryor, Lee & Rosati (1982). Of two patients whose order is known, is the one with the earlier event the one
with the higher risk? The histogram has a cell for each grid time and each bin of the risk; sums of it over hospitals are the
pool's, and the index is exact for the times on the grid and the binned risks (ties in risk count half).
"""

from __future__ import annotations

import math

import numpy as np

from unisono.methods.evaluation.base import Array, Counts, Vector
from unisono.methods.evaluation.intervals import HIDDEN, Metric, wald


def table(position: Counts, event: Array, risk_bin: Counts, points: int, bins: int) -> Counts:
    """(2, points, bins) of (n,): patients censored (0) and with the event (1), by grid time and bin of the risk."""
    flat = ((np.asarray(event) > 0.5) * points + position) * bins + risk_bin
    return np.bincount(flat, minlength=2 * points * bins).reshape(2, points, bins).astype(np.int64)


def concordance(cells: Counts, confidence: float = 0.95) -> Metric:
    """(concordant + tied / 2) / comparable, with the interval of a ratio of U-statistics: for each patient the pairs it is
    in, a_i ordered rightly of b_i comparable; variance 4 sum (a_i - C b_i)^2 / (sum b_i)^2 (Pencina & D'Agostino 2004).

    A pair is comparable if one had the event while the other stayed without it beyond that time; a censoring at the same
    time counts as beyond, an event at the same time does not.
    """
    right, comparable = pairs_of_each(cells)
    total = float((cells * comparable).sum())
    if total == 0:
        return dict(HIDDEN)
    index = float((cells * right).sum()) / total
    error = 2 * math.sqrt(float((cells * (right - index * comparable) ** 2).sum())) / total
    return wald(index, error, confidence, 0.0, 1.0)


def comparable_pairs(cells: Counts) -> int:
    """How many pairs of patients have a known order."""
    return round(float((cells * pairs_of_each(cells)[1]).sum()) / 2)


def pairs_of_each(cells: Counts) -> tuple[Vector, Vector]:
    """(2, points, bins) for a patient of each cell: pairs it is in that are ordered rightly (ties half), and comparable."""
    censored, events = cells[0].astype(np.float64), cells[1].astype(np.float64)
    everyone = censored + events
    beyond = _after(everyone) + censored  # per risk bin: partners of an event at each time
    earlier = np.cumsum(events, axis=0) - events  # events strictly before
    until = earlier + events  # and at the same time, for a censoring
    right_as_first = _below(beyond)
    right = np.stack([_above(until), right_as_first + _above(earlier)])
    comparable = np.stack([_all(until), _all(beyond) + _all(earlier)])
    return right, comparable


def _after(counts: Vector) -> Vector:
    """At strictly later grid times."""
    return np.asarray(np.cumsum(counts[::-1], axis=0)[::-1] - counts, np.float64)


def _below(counts: Vector) -> Vector:
    """With a lower risk; of the same, half."""
    return np.asarray(np.cumsum(counts, axis=1) - counts / 2, np.float64)


def _above(counts: Vector) -> Vector:
    """With a higher risk; of the same, half."""
    return np.asarray(counts.sum(axis=1, keepdims=True) - _below(counts), np.float64)


def _all(counts: Vector) -> Vector:
    return np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)
