"""Evaluation of a yes-or-no outcome: ranking, calibration, Brier and log-loss, and the confusion matrix at a threshold.

A score that is no probability is ranked only, and has a confusion matrix where a threshold is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from unisono.methods.evaluation import brier, confusion, grouped, ranking
from unisono.methods.evaluation.base import Array, Counts, Evaluation, Rules, Total, probabilities, whole
from unisono.methods.evaluation.calibration import Binned, calibration
from unisono.methods.evaluation.intervals import HIDDEN
from unisono.methods.evaluation.scale import Scale, histogram
from unisono.protection.leaves import Leaf, count


class BinaryEvaluation(Evaluation):
    """predicted: (n,) probability of the outcome (or a score between `bounds`). target: (n,) 0/1."""

    kind: ClassVar[str] = "binary"

    def __init__(
        self,
        *,
        bounds: tuple[float, float] | None = None,
        threshold: float | None = 0.5,
        bins: int = 1000,
        confidence: float = 0.95,
        min_count: int = 10,
    ) -> None:
        """bounds: of a score that is no probability. threshold: at or above it the outcome is predicted; None for no matrix."""
        self.probability = bounds is None
        self.threshold = threshold
        self.rules = Rules(confidence, min_count)
        also = () if threshold is None else (threshold,)
        self.scale = Scale.probabilities(bins, also) if bounds is None else Scale.between(*bounds, bins, also)

    def leaves(self, patients: int) -> dict[str, Leaf]:
        """Two histograms of the score; for probabilities two losses and their squares."""
        n, shape = float(max(patients, 1)), (self.scale.bins,)
        return {
            "with_outcome": count(shape, n, "Number of patients with the outcome, by bin of the score."),
            "without_outcome": count(shape, n, "Number of patients without the outcome, by bin of the score."),
            **(brier.leaves(n, 2) if self.probability else {}),
        }

    def part(self, predicted: Array, target: Array) -> dict[str, Array]:
        """predicted (n,), target (n,) 0/1."""
        happened, index = np.asarray(target) > 0.5, self.scale.index(predicted)
        return {
            "with_outcome": histogram(index[happened], self.scale.bins),
            "without_outcome": histogram(index[~happened], self.scale.bins),
            **(brier.binary_part(probabilities(predicted), happened) if self.probability else {}),
        }

    def metrics(self, total: Total) -> dict[str, Any]:
        """n, events, auroc, average_precision, roc; confusion where there is a threshold; for probabilities brier, log_loss
        and calibration. Where fewer than `min_count` patients have the outcome, or have it not, only the losses."""
        positive, negative = whole(total["with_outcome"]), whole(total["without_outcome"])
        rules, edge = self.rules, self._edge()
        m, n = int(positive.sum()), int(positive.sum() + negative.sum())
        if n < rules.min_count:
            return {"n": None, "events": None, **self._hidden()}
        losses = brier.metrics(total, n, rules) if self.probability else {}
        if not grouped.fits(np.array([m, n - m]), rules.min_count):
            return {"n": n, "events": None, **self._hidden(), **losses}
        split = None if edge is None else self._matrix(positive, negative, edge)
        shown = split is not None and split["true_positive"] is not None
        cuts = grouped.cuts(positive, negative, rules.min_count, (edge,) if shown and edge is not None else ())
        found: dict[str, Any] = {
            "n": n,
            "events": m,
            "auroc": ranking.auroc(positive, negative, rules.confidence),
            "average_precision": ranking.average_precision(positive, negative, rules.confidence),
            "roc": ranking.roc(positive, negative, cuts),
            **({} if split is None else {"confusion": split}),
            **losses,
        }
        if self.probability:
            found["calibration"] = calibration(Binned(self.scale.middles, positive, negative, cuts), rules)
        return found

    def _edge(self) -> int | None:
        """The first bin at or above the threshold."""
        if self.threshold is None:
            return None
        return int(self.scale.index(np.array([self.threshold]))[0])

    def _matrix(self, positive: Counts, negative: Counts, edge: int) -> dict[str, Any]:
        assert self.threshold is not None
        above, below = int(positive[edge:].sum()), int(positive[:edge].sum())
        alarms, rest = int(negative[edge:].sum()), int(negative[:edge].sum())
        return confusion.binary((above, below), (alarms, rest), self.threshold, self.rules)

    def _hidden(self) -> dict[str, Any]:
        names = ["auroc", "average_precision", *(("brier", "log_loss") if self.probability else ())]
        rest: Mapping[str, Any] = {
            "roc": None,
            **({} if self.threshold is None else {"confusion": None}),
            **({"calibration": None} if self.probability else {}),
        }
        return {**{name: dict(HIDDEN) for name in names}, **rest}
