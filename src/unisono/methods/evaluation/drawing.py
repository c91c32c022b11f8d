"""Figures of metrics: the ROC curve, the reliability curve, the confusion matrix, Brier scores over time, intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unisono.methods.evaluation.intervals import Metric
from unisono.methods.figures import COLOURS, FAINT, INK
from unisono.methods.wording import say_interval, say_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_roc(ax: Axes, roc: dict[str, list[float]], area: Metric, confidence: float) -> None:
    """Between the marked points, which are exact, the curve is drawn straight."""
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    ax.plot(roc["false_positive_rate"], roc["true_positive_rate"], color=COLOURS[0], marker="o", markersize=3)
    ax.set_xlabel("False positive rate (1 − specificity)")
    ax.set_ylabel("True positive rate (sensitivity)")
    ax.text(0.98, 0.04, f"AUROC {said(area, confidence)}", transform=ax.transAxes, ha="right", fontsize=9, color=INK)
    ax.set_aspect("equal")
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)


def draw_reliability(ax: Axes, groups: list[dict[str, Any]], outcome: str) -> None:
    """Share with the outcome, with its interval, against the mean prediction of each group."""
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    x, y = [g["predicted"] for g in groups], [g["observed"]["value"] for g in groups]
    low = [g["observed"]["value"] - g["observed"]["low"] for g in groups]
    high = [g["observed"]["high"] - g["observed"]["value"] for g in groups]
    ax.errorbar(
        x, y, yerr=[np.maximum(low, 0), np.maximum(high, 0)], color=COLOURS[0], marker="o", markersize=4, capsize=2
    )
    most = min(1.02, 1.1 * max([*x, *(g["observed"]["high"] for g in groups)], default=1.0))
    ax.set_xlim(-0.02 * most, most)
    ax.set_ylim(-0.02 * most, most)
    ax.set_aspect("equal")
    ax.set_xlabel("Predicted probability")
    ax.set_ylabel(outcome)


def draw_matrix(ax: Axes, confusion: dict[str, Any]) -> None:
    """Patients by predicted (rows) and true class (columns), shaded by the share of the true class; hidden cells hatched."""
    cells = np.array([[np.nan if n is None else n for n in row] for row in confusion["matrix"]], np.float64)
    totals = np.array([np.nan if c["n"] is None else c["n"] for c in confusion["per_class"]], np.float64)
    ax.imshow(cells / np.where(totals > 0, totals, np.nan), cmap="Blues", vmin=0, vmax=1)
    k = len(cells)
    for i in range(k):
        for j in range(k):
            shade = cells[i, j] / totals[j] if totals[j] else 0.0
            text = "–" if np.isnan(cells[i, j]) else f"{int(cells[i, j])}"
            ax.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if shade > 0.6 else INK)
    ax.set_xticks(range(k), confusion["classes"])
    ax.set_yticks(range(k), confusion["classes"])
    ax.set_xlabel("True")
    ax.set_ylabel("Predicted")


def draw_over_time(ax: Axes, scores: list[dict[str, Any]], unit: str) -> None:
    """The Brier score at each time, with its interval."""
    known = [s for s in scores if s["value"] is not None]
    time, value = [s["time"] for s in known], [s["value"] for s in known]
    ax.plot(time, value, color=COLOURS[0], marker="o", markersize=4)
    low, high = ([s[key] if s[key] is not None else s["value"] for s in known] for key in ("low", "high"))
    ax.fill_between(time, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(f"Time ({unit})")
    ax.set_ylabel("Brier score")


def draw_intervals(ax: Axes, metrics: list[tuple[str, Metric]], null: float | None = None) -> None:
    """Values with their intervals, one below the other."""
    if null is not None:
        ax.axvline(null, color=FAINT, linewidth=1, linestyle="--")
    for y, (_, found) in enumerate(metrics):
        if found["low"] is not None and found["high"] is not None:
            ax.plot([found["low"], found["high"]], [y, y], color=COLOURS[0], linewidth=1.6)
        if found["value"] is not None:
            ax.plot([found["value"]], [y], color=COLOURS[0], marker="o")
    ax.set_yticks(range(len(metrics)), [name for name, _ in metrics])
    ax.set_ylim(len(metrics) - 0.5, -0.5)


def said(found: Metric, confidence: float) -> str:
    """``0.78 (95% CI 0.75 to 0.81)``."""
    if found["value"] is None:
        return "not shown"
    limits = "" if found["low"] is None else f" ({say_interval(found['low'], found['high'], confidence)})"
    return f"{say_number(found['value'])}{limits}"
