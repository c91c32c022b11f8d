"""What an `evaluate` analysis found: a table of metrics with intervals, a sentence, and the figure of its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from unisono.methods.base import Result
from unisono.methods.design import label_of
from unisono.methods.evaluation import drawing
from unisono.methods.evaluation.intervals import Metric
from unisono.methods.figures import new_figure
from unisono.methods.wording import say_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class EvaluateResult(Result):
    """`estimates`: kind, outcome, predicted, confidence, and the metrics of the kind (see docs/methods/evaluation.md)."""

    def summary(self) -> pd.DataFrame:
        """A row a metric: value, and the limits of its interval."""
        rows = metric_rows(self.estimates)
        table = pd.DataFrame([found for _, found in rows], index=pd.Index([name for name, _ in rows], name="metric"))
        return table.reindex(columns=["value", "low", "high"]).astype(float)

    def headline(self) -> str:
        """The metric that answers the question, its interval, and over how many patients."""
        found, sure = self.estimates, self.estimates["confidence"]
        score = label_of(self.study, found["predicted"])
        outcome = label_of(self.study, found["outcome"])
        if found["kind"] == "binary":
            text = f"{score} against {outcome}: AUROC {drawing.said(found['auroc'], sure)}"
            calibration = found.get("calibration")
            if calibration and calibration["slope"]["value"] is not None:
                text += f"; calibration slope {drawing.said(calibration['slope'], sure)}"
        elif found["kind"] == "survival":
            text = f"{score} against the time to {outcome}: C-index {drawing.said(found['concordance'], sure)}"
            if found.get("integrated_brier", {}).get("value") is not None:
                text += f"; integrated Brier score {drawing.said(found['integrated_brier'], sure)}"
        elif found["kind"] == "number":
            text = f"{score} against {outcome}: R² {drawing.said(found['r2'], sure)}"
            text += f"; mean absolute error {drawing.said(found['mae'], sure)}{self._unit()}"
        else:
            text = f"{score} against {outcome}: accuracy {drawing.said(found['accuracy'], sure)}"
        return f"{text}; {self._patients()}."

    def _unit(self) -> str:
        unit = getattr(self.study.variables[self.estimates["outcome"]], "unit", "1")
        return "" if unit == "1" else f" {say_unit(unit)}"

    def _patients(self) -> str:
        n, events = self.estimates["n"], self.estimates.get("events")
        if n is None:
            return f"fewer than {self.estimates['min_count']} patients"
        return f"{n} patients" + ("" if events is None else f", {events} with the outcome")

    def plot(self) -> Figure:
        """ROC and reliability curve; the confusion matrix; the Brier score over time; or metrics with their intervals."""
        found, sure = self.estimates, self.estimates["confidence"]
        if found["kind"] == "binary" and found["roc"] is not None:
            both = bool(found.get("calibration"))
            figure, axes = new_figure(4.6, 8.6 if both else 4.4, 2 if both else 1)
            drawing.draw_roc(axes[0], found["roc"], found["auroc"], sure)
            if both:
                told = f"Share with {label_of(self.study, found['outcome'])}"
                drawing.draw_reliability(axes[1], found["calibration"]["reliability"], told)
            return figure
        if found["kind"] == "multiclass" and found["confusion"] is not None:
            size = 2.2 + 0.6 * len(found["confusion"]["classes"])
            figure, axes = new_figure(size + 0.6, size)
            drawing.draw_matrix(axes[0], found["confusion"])
            return figure
        if found["kind"] == "survival" and found.get("brier"):
            figure, axes = new_figure()
            drawing.draw_over_time(axes[0], found["brier"], say_unit(found["time"]["unit"]))
            return figure
        rows = metric_rows(found)
        figure, axes = new_figure(height=0.9 + 0.35 * len(rows))
        drawing.draw_intervals(axes[0], rows, 0.5 if found["kind"] == "survival" else None)
        return figure


_WORDS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "log_loss": "log-loss",
    "brier": "Brier score",
    "concordance": "C-index",
    "integrated_brier": "integrated Brier score",
    "mse": "mean squared error",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "bias": "mean error",
    "r2": "R²",
    "in_the_large": "calibration in the large",
    "slope": "calibration slope",
    "intercept": "calibration intercept",
    "ece": "expected calibration error",
    "f1": "F1",
    "macro_f1": "mean F1 of the classes",
    "weighted_f1": "mean F1, weighted by class",
}


def metric_rows(metrics: dict[str, Any]) -> list[tuple[str, Metric]]:
    """Every ``{value, low, high}`` in a kind's metrics, in order, with its name in words: what a summary table lists."""
    rows: list[tuple[str, Metric]] = []
    for name, found in metrics.items():
        word = _WORDS.get(name, name.replace("_", " "))
        if name == "per_class":
            rows += [
                (f"{_WORDS.get(k, k)}, {row['class']}", row[k]) for row in found for k in ("recall", "precision", "f1")
            ]
        elif name == "auroc_per_class":
            rows += [(f"AUROC, {level}", area) for level, area in (found or {}).items()]
        elif name == "brier" and isinstance(found, list):
            rows += [(f"Brier score at {s['time']:g}", {k: s[k] for k in ("value", "low", "high")}) for s in found]
        elif isinstance(found, dict) and set(found) == {"value", "low", "high"}:
            if word not in [known for known, _ in rows]:
                rows.append((word, found))
        elif isinstance(found, dict) and name in ("confusion", "calibration"):
            rows += [row for row in metric_rows(found) if row[0] not in [known for known, _ in rows]]
    return rows
