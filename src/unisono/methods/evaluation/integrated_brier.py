"""The Brier score of predicted survival under censoring, and its integral over time; in one sum.

Graf, Schmoor, Sauerbrei & Schumacher (1999): at a time t a patient who had the event by then is weighed by 1 / G(T-), one
who is still without it by 1 / G(t), and one censored by then by 0. G, the chance of not being censored, is the Kaplan-Meier
curve of censoring of all patients: nobody knows it before the sum is opened. But the weight depends on a patient only
through the grid time T, so hospitals sum squared survival by T, and the coordinator, which opens the counts that make G in
the same sum, applies the weights. At ties events come before censorings, hence G just before T (Gerds & Schumacher 2006).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unisono.methods.evaluation.base import Array, Counts, Total, Vector
from unisono.methods.evaluation.intervals import HIDDEN, Metric, metric, wald
from unisono.methods.survival.product_limit import number_at_risk
from unisono.protection.leaves import Leaf, moment


@dataclass(frozen=True)
class SurvivalBrier:
    """times: grid positions (m,), increasing, at which survival is predicted. points: of the grid."""

    times: tuple[int, ...]
    points: int

    def leaves(self, n: float) -> dict[str, Leaf]:
        """Sums of squares and fourth powers: the latter for intervals."""
        m, k = len(self.times), self.points
        told = "at each evaluation time"
        return {
            "early": moment((m, k), n, f"Sum of squared predicted survival {told}, by earlier grid time of the event."),
            "early_fourth": moment((m, k), n, f"Sum of its fourth power {told}, by earlier grid time of the event."),
            "late": moment((m,), n, f"Sum of squared predicted mortality {told}, of those still without the event."),
            "late_fourth": moment((m,), n, f"Sum of its fourth power {told}, of those still without the event."),
        }

    def part(self, survival: Vector, position: Counts, event: Array) -> dict[str, Array]:
        """survival: (n, m) predicted. position: (n,) grid time of the exit. event: (n,) 0/1."""
        happened = np.asarray(event) > 0.5
        early, early4 = np.zeros((len(self.times), self.points)), np.zeros((len(self.times), self.points))
        late, late4 = np.zeros(len(self.times)), np.zeros(len(self.times))
        for j, t in enumerate(self.times):
            by_then, without = happened & (position <= t), position > t
            s, left = survival[by_then, j] ** 2, (1 - survival[without, j]) ** 2
            early[j] = np.bincount(position[by_then], weights=s, minlength=self.points)
            early4[j] = np.bincount(position[by_then], weights=s * s, minlength=self.points)
            late[j], late4[j] = left.sum(), (left**2).sum()
        return {"early": early, "early_fourth": early4, "late": late, "late_fourth": late4}

    def scores(self, total: Total, cells: Counts, min_count: int, confidence: float) -> list[Metric]:
        """(m,) the Brier score at each time. cells: (2, points) patients censored and with the event, by grid time.
        Hidden where fewer than `min_count` are beyond the time without the event, or nobody is.
        The intervals take G as known, which makes them a little too wide (Gerds & Schumacher 2006)."""
        g, n = uncensored(cells), int(cells.sum())
        before = np.concatenate([[1.0], g[:-1]])
        beyond = n - np.cumsum(cells.sum(axis=0))
        found: list[Metric] = []
        for j, t in enumerate(self.times):
            if beyond[t] < max(min_count, 1) or g[t] <= 0:
                found.append(dict(HIDDEN))
                continue
            weight = 1 / np.where(before > 0, before, 1.0)
            mean = float((total["early"][j] * weight).sum() + total["late"][j] / g[t]) / n
            square = float((total["early_fourth"][j] * weight**2).sum() + total["late_fourth"][j] / g[t] ** 2) / n
            found.append(wald(mean, math.sqrt(max(square - mean**2, 0.0) / n), confidence, 0.0))
        return found

    def integrated(self, scores: list[Metric], times: Vector) -> Metric:
        """The mean over time of the Brier score, by trapezoids between the times that have one. times: (m,) in a unit."""
        known = [(float(t), s["value"]) for t, s in zip(times, scores, strict=True) if s["value"] is not None]
        if len(known) < 2:
            return dict(HIDDEN)
        t, value = (np.array(column, np.float64) for column in zip(*known, strict=True))
        return metric(float((np.diff(t) * (value[1:] + value[:-1]) / 2).sum() / (t[-1] - t[0])))


def uncensored(cells: Counts) -> Vector:
    """G (points,): the Kaplan-Meier probability of not being censored by each grid time; those with an event at a time are
    not at risk of being censored at it."""
    censored, events = cells[0].astype(np.float64), cells[1].astype(np.float64)
    at_risk = number_at_risk(censored + events) - events
    factor = 1 - np.divide(censored, at_risk, out=np.zeros_like(censored), where=at_risk > 0)
    return np.asarray(np.cumprod(factor), np.float64)
