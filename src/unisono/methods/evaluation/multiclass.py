"""Evaluation of an outcome of several classes: the confusion matrix, one-versus-rest AUROC, Brier, log-loss and calibration.

The class with the largest probability is predicted (the first of equals). Predictions that are classes have the matrix only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from unisono.methods.evaluation import brier, confusion, grouped, ranking
from unisono.methods.evaluation.base import Array, Counts, Evaluation, Rules, Total, Vector, probabilities, whole
from unisono.methods.evaluation.calibration import Binned, expected_error, reliability
from unisono.methods.evaluation.intervals import HIDDEN, Metric, metric
from unisono.methods.evaluation.scale import Scale, histogram
from unisono.protection.leaves import Leaf, count


class MulticlassEvaluation(Evaluation):
    """predicted: (n, k) probabilities, or (n,) classes. target: (n,) classes, of 0 .. k - 1."""

    kind: ClassVar[str] = "multiclass"

    def __init__(
        self,
        *,
        classes: Sequence[str],
        probability: bool = True,
        bins: int = 200,
        confidence: float = 0.95,
        min_count: int = 10,
    ) -> None:
        self.classes = tuple(classes)
        self.probability = probability
        self.rules = Rules(confidence, min_count)
        self.scale = Scale.probabilities(bins)

    def leaves(self, patients: int) -> dict[str, Leaf]:
        """The matrix; for probabilities histograms of each class's, and of the predicted class's, and two losses."""
        n, k, b = float(max(patients, 1)), len(self.classes), self.scale.bins
        found = {"matrix": count((k, k), n, "Number of patients by predicted class (rows) and true class (columns).")}
        if not self.probability:
            return found
        return {
            **found,
            "of_class": count((k, b), n, "For each class: number of patients of it, by bin of its probability."),
            "of_others": count((k, b), n, "For each class: number of other patients, by bin of its probability."),
            "right": count((b,), n, "Number of patients classed rightly, by bin of the largest probability."),
            "wrong": count((b,), n, "Number of patients classed wrongly, by bin of the largest probability."),
            **brier.leaves(n, max(k, 3)),
        }

    def part(self, predicted: Array, target: Array) -> dict[str, Array]:
        """predicted (n, k) or (n,), target (n,)."""
        truly = np.asarray(target).astype(np.int64)
        if not self.probability:
            return {"matrix": self._cross(np.asarray(predicted).astype(np.int64), truly)}
        p = probabilities(predicted)
        chosen = p.argmax(axis=1)
        index = self.scale.index(p)  # (n, k)
        surest = index[np.arange(len(p)), chosen]
        return {
            "matrix": self._cross(chosen, truly),
            "of_class": self._histograms(index, truly, own=True),
            "of_others": self._histograms(index, truly, own=False),
            "right": histogram(surest[chosen == truly], self.scale.bins),
            "wrong": histogram(surest[chosen != truly], self.scale.bins),
            **brier.classes_part(p, truly),
        }

    def metrics(self, total: Total) -> dict[str, Any]:
        """n, confusion, accuracy; for probabilities auroc (mean over classes, and of each), brier, log_loss and calibration
        of the largest probability."""
        matrix = whole(total["matrix"])
        n = int(matrix.sum())
        if n < self.rules.min_count:
            return {"n": None, "confusion": None, "accuracy": dict(HIDDEN), **self._hidden()}
        found = confusion.multiclass(matrix, self.classes, self.rules)
        summary: dict[str, Any] = {"n": n, "confusion": found, "accuracy": found["accuracy"]}
        if not self.probability:
            return summary
        own, others = whole(total["of_class"]), whole(total["of_others"])
        areas = [self._auroc(own[k], others[k]) for k in range(len(self.classes))]
        known = [area["value"] for area in areas if area["value"] is not None]
        return {
            **summary,
            "auroc": metric(float(np.mean(known)) if known else None),
            "auroc_per_class": dict(zip(self.classes, areas, strict=True)),
            **brier.metrics(total, n, self.rules),
            "calibration": self._calibration(whole(total["right"]), whole(total["wrong"])),
        }

    def _auroc(self, own: Counts, others: Counts) -> Metric:
        if not grouped.fits(np.array([own.sum(), others.sum()]), self.rules.min_count):
            return dict(HIDDEN)
        return ranking.auroc(own, others, self.rules.confidence)

    def _calibration(self, right: Counts, wrong: Counts) -> dict[str, Any]:
        """Of the largest probability as that of being right (Guo, Pleiss, Sun & Weinberger 2017)."""
        cuts = grouped.cuts(right, wrong, self.rules.min_count)
        binned = Binned(self.scale.middles, right, wrong, cuts)
        if not grouped.fits(np.array([right.sum(), wrong.sum()]), self.rules.min_count):
            return {"ece": dict(HIDDEN), "reliability": []}
        groups = reliability(binned, self.rules)
        return {"ece": expected_error(groups), "reliability": groups}

    def _hidden(self) -> dict[str, Any]:
        if not self.probability:
            return {}
        names = ("auroc", "brier", "log_loss")
        return {**{name: dict(HIDDEN) for name in names}, "auroc_per_class": None, "calibration": None}

    def _cross(self, predicted: Counts, truly: Counts) -> Counts:
        k = len(self.classes)
        return histogram(predicted * k + truly, k * k).reshape(k, k)

    def _histograms(self, index: Counts, truly: Counts, *, own: bool) -> Vector:
        rows = [histogram(index[(truly == c) == own, c], self.scale.bins) for c in range(len(self.classes))]
        return np.stack(rows).astype(np.float64)
