"""What a training found: learning curves, the federated evaluation, the preprocessing, and the model's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unisono.methods.base import Result
from unisono.methods.figures import COLOURS, FAINT, INK, new_figure
from unisono.methods.training.progress import Progress
from unisono.methods.wording import say_interval, say_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unisono.methods.training.training import Training

_STOPPED = {
    "rounds": "all rounds were trained",
    "early": "stopped early: the validation did not improve any more",
    "diverged": "stopped: the training diverged",
}
_METRICS = {
    "auroc": "AUROC",
    "concordance": "concordance",
    "r2": "R²",
    "macro_auroc": "AUROC, mean over classes",
    "accuracy": "accuracy",
    "average_precision": "average precision",
    "brier": "Brier score",
    "integrated_brier": "integrated Brier score",
    "log_loss": "log-loss",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "loss": "validation loss",
}


@dataclass(frozen=True)
class Ending:
    """Why a training ended (`stopped`: rounds, early, diverged; `why` in words), and the metrics of its evaluation."""

    stopped: str
    why: str
    metrics: dict[str, Any] | None


@dataclass(frozen=True)
class TrainingResult(Result):
    """estimates: method, task, model, parameters, rounds (one entry each, from round 0), best_round, stopped, evaluation,
    preprocessing, files (SHA-256 of each)."""

    made: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(method: Training[Any], progress: Progress, ending: Ending, sites: tuple[str, ...]) -> TrainingResult:
        """From where the training ended."""
        prepared = method.columns.read(progress.prepared)
        task = method.network.fitted(prepared).task
        estimates: dict[str, Any] = {
            "method": method.name,
            "task": task.kind,
            "model": dict(method.spec.model),
            "parameters": method.p,
            "rounds": [dict(entry) for entry in progress.history],
            "best_round": progress.best_round,
            "stopped": ending.stopped,
            "evaluation": ending.metrics,
            "preprocessing": prepared.to_json(),
            "files": {},
        }
        notes = _notes(method, progress, ending)
        return TrainingResult(
            method.study, method.analysis, estimates, ending.stopped != "diverged", notes
        )

    def files(self) -> Mapping[str, bytes]:
        """The model, for PyTorch and for `unisono predict`; empty for a result that was rebuilt from its estimates."""
        return self.made

    def summary(self) -> pd.DataFrame:
        """The metrics on validation patients, with their intervals."""
        rows = {}
        for name, label in _METRICS.items():
            value, low, high = _metric((self.estimates["evaluation"] or {}).get(name))
            if value is not None:
                rows[label] = [value, low, high]
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
        frame.index.name = "on validation patients"
        return frame

    def headline(self) -> str:
        """How good the model is, of which round."""
        found = self.estimates
        which = f"the model of round {found['best_round']} of {found['rounds'][-1]['round']} ({found['method']})"
        for name, label in _METRICS.items():
            value, low, high = _metric((found["evaluation"] or {}).get(name))
            if value is not None:
                interval = "" if low is None or high is None else f" ({say_interval(low, high)})"
                return f"{which[:1].upper()}{which[1:]} has {label} {say_number(value)}{interval} on validation patients."
        return f"{which[:1].upper()}{which[1:]} was not validated."

    def plot(self) -> Figure:
        """Learning curves: the loss in training and on validation patients, by round; the best round is marked."""
        figure, (ax,) = new_figure()
        for key, label, colour in (("loss", "training", COLOURS[5]), ("validation", "validation", COLOURS[0])):
            points = [(entry["round"], entry[key]) for entry in self.estimates["rounds"] if entry.get(key) is not None]
            if points:
                ax.plot(*np.array(points).T, color=colour, label=label, marker="o", markersize=3)
        ax.axvline(self.estimates["best_round"], color=FAINT, linestyle="--", label="best round")
        ax.set_xlabel("round", color=INK, fontsize=9)
        ax.set_ylabel("loss", color=INK, fontsize=9)
        ax.legend(frameon=False, fontsize=9)
        return figure


def _metric(found: Any) -> tuple[float | None, float | None, float | None]:
    """Value and interval of a metric: a number, ``{value, low, high}``, or what may not be shown."""
    if isinstance(found, Mapping):
        return found.get("value"), found.get("low"), found.get("high")
    return (float(found), None, None) if isinstance(found, int | float) else (None, None, None)


def _notes(method: Training[Any], progress: Progress, ending: Ending) -> tuple[str, ...]:
    notes = []
    if ending.stopped == "diverged":
        notes.append(
            f"The training diverged in round {progress.round + 1}: {ending.why}. The model is that of round "
            f"{progress.best_round}, the best before it. A smaller `local: rate` or `local: {{clip: 1.0}}` may help."
        )
    if ending.stopped == "early":
        notes.append(f"Training stopped early after round {progress.round}: the validation did not improve any more.")
    left_out = {
        site
        for entry in progress.history[1:]
        for site in set(method_sites(progress)) - set(entry["counted"])
    }
    if left_out:
        notes.append(f"Not in every round: {', '.join(sorted(left_out))} (late, away, or abstained).")
    return tuple(notes)


def method_sites(progress: Progress) -> tuple[str, ...]:
    """Every site that was in a round."""
    return tuple(sorted({site for entry in progress.history[1:] for site in entry["counted"]}))
