"""Evaluation of predicted survival: Harrell's concordance over all pairs, the Brier score under censoring and its integral."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from unisono.errors import MethodError
from unisono.methods.evaluation.base import Array, Evaluation, Rules, Total, probabilities, whole
from unisono.methods.evaluation.concordance import comparable_pairs, concordance, table
from unisono.methods.evaluation.grouped import fits
from unisono.methods.evaluation.integrated_brier import SurvivalBrier
from unisono.methods.evaluation.intervals import HIDDEN
from unisono.methods.evaluation.scale import Scale
from unisono.protection.leaves import Leaf, count

MOST_CELLS = 1_000_000
"""Of the histogram of time by risk by event: 8 MB from each site."""


class SurvivalEvaluation(Evaluation):
    """predicted: (n, 1 + m): the risk (higher: earlier), then the predicted survival at each of `times`.
    target: (n, 2): the position on the grid at which follow-up ended (0 .. points - 1), and whether with the event, 0/1."""

    kind: ClassVar[str] = "survival"

    def __init__(
        self,
        *,
        points: int,
        times: Sequence[int] = (),
        step: float = 1.0,
        bounds: tuple[float, float] | None = None,
        bins: int | None = None,
        confidence: float = 0.95,
        min_count: int = 10,
    ) -> None:
        """points: of the grid. times: grid positions at which survival is predicted, increasing. step: of the grid, in its
        unit. bounds: of the risk; without them it may be of any size. bins: of the risk; 100, or fewer on a long grid."""
        bins = max(min(100, MOST_CELLS // (2 * points)), 2) if bins is None else bins
        if 2 * points * bins > MOST_CELLS:
            raise MethodError(
                f"A grid of {points} times and {bins} bins of the risk make a histogram of more than {MOST_CELLS} cells.",
                rule="histogram-size",
                remedy="Declare a coarser grid, or ask for fewer bins.",
            )
        if list(times) != sorted(set(times)) or any(not 0 <= t < points for t in times):
            raise MethodError(
                "The evaluation times are not increasing positions of the grid.",
                rule="times-in-follow-up",
                remedy=f"Give positions from 0 to {points - 1}, each once, in order.",
            )
        self.points, self.step = points, step
        self.scale = Scale.unbounded(bins) if bounds is None else Scale.between(*bounds, bins)
        self.rules = Rules(confidence, min_count)
        self.brier = SurvivalBrier(tuple(int(t) for t in times), points)

    def leaves(self, patients: int) -> dict[str, Leaf]:
        """The histogram of time by risk by event; where survival is predicted, its squares by time."""
        n, shape = float(max(patients, 1)), (2, self.points, self.scale.bins)
        told = "Number of patients censored and with the event, by grid time and bin of the predicted risk."
        return {"patients": count(shape, n, told), **(self.brier.leaves(n) if self.brier.times else {})}

    def part(self, predicted: Array, target: Array) -> dict[str, Array]:
        """predicted (n, 1 + m), target (n, 2); (n,) is read as (n, 1)."""
        columns = np.asarray(predicted, np.float64)
        columns = columns[:, None] if columns.ndim == 1 else columns
        position, event = np.asarray(target[:, 0]).astype(np.int64), target[:, 1]
        cells = table(position, event, self.scale.index(columns[:, 0]), self.points, self.scale.bins)
        if not self.brier.times:
            return {"patients": cells}
        return {"patients": cells, **self.brier.part(probabilities(columns[:, 1:]), position, event)}

    def metrics(self, total: Total) -> dict[str, Any]:
        """n, events, pairs (comparable ones), concordance; where survival is predicted brier (at each time) and
        integrated_brier. All hidden where fewer than `min_count` patients had the event."""
        cells = whole(total["patients"])
        n, events = int(cells.sum()), int(cells[1].sum())
        rules, times = self.rules, self.brier.times
        scores = [dict(HIDDEN) for _ in times]
        found: dict[str, Any] = {"n": None, "events": None, "pairs": None, "concordance": dict(HIDDEN)}
        if n >= rules.min_count:
            found["n"] = n
        if n >= rules.min_count and fits(np.array([events, n - events]), rules.min_count):
            found |= {"events": events, "pairs": comparable_pairs(cells)}
        if events >= rules.min_count:
            found["concordance"] = concordance(cells, rules.confidence)
            scores = self.brier.scores(total, cells.sum(axis=2), rules.min_count, rules.confidence)
        if times:
            at = np.array(times) * self.step
            found["brier"] = [{"time": float(t), **s} for t, s in zip(at, scores, strict=True)]
            found["integrated_brier"] = self.brier.integrated(scores, at)
        return found
