"""What a training found: learning curves, the federated evaluation, the preprocessing, and the model's files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unisono.federation.contribution import Facts
from unisono.methods.base import Result
from unisono.methods.figures import COLOURS, FAINT, INK, new_figure
from unisono.methods.training.progress import Progress
from unisono.methods.wording import say_interval, say_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unisono.methods.training.training import Training

FAILED = {"diverged": "The training diverged", "abstained": "Too few sites had a part"}
"""Endings after which the model is the best before them, and no answer to rely on."""
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
    """Why a training ended (`stopped`: empty, early, diverged, abstained; `why` in words), the metrics of its evaluation, the
    sites, what was opened of the cohort, and whether the evaluation held all validation patients (`complete`)."""

    stopped: str
    why: str
    metrics: dict[str, Any] | None
    sites: tuple[str, ...]
    facts: Facts
    complete: bool = True


@dataclass(frozen=True)
class TrainingResult(Result):
    """estimates: method, task, model, parameters, rounds (one entry each, from round 0), best_round, stopped, evaluation,
    preprocessing, files (SHA-256 of each)."""

    made: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(method: Training[Any], progress: Progress, ending: Ending) -> TrainingResult:
        """From where the training ended."""
        from unisono.methods.training.network import model_files, shared_files

        prepared = method.columns.read(progress.prepared)
        network = method.network.fitted(prepared)
        if method.whole:
            rounds, sites = progress.best_round, ending.sites
            made = model_files(method, network, progress.best, prepared, ending.facts, rounds, sites)
        else:
            made = shared_files(method, progress.best)
        estimates: dict[str, Any] = {
            "method": method.name,
            "task": network.task.kind,
            "personal": method.personal,
            "model": dict(method.spec.model),
            "parameters": method.p,
            "rounds": [_told(entry) for entry in progress.history],
            "best_round": progress.best_round,
            "stopped": ending.stopped or "rounds",
            "evaluation": ending.metrics,
            "preprocessing": prepared.to_json(),
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in made.items()},
        }
        converged = ending.stopped not in FAILED
        return TrainingResult(
            method.study, method.analysis, estimates, converged, _notes(method, progress, ending), made
        )

    def files(self) -> Mapping[str, bytes]:
        """The model, for PyTorch and for `unisono predict`; empty for a result that was rebuilt from its estimates."""
        return self.made

    def summary(self) -> pd.DataFrame:
        """The metrics on validation patients, with their intervals."""
        rows = {}
        for name, label in _METRICS.items():
            found = self.estimates["evaluation"] or {}
            value, low, high = _metric(found.get(name))
            if value is not None and not (name == "loss" and "log_loss" in found):  # the same, with an interval
                rows[label] = [value, low, high]
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
        frame.index.name = "on validation patients"
        return frame

    def headline(self) -> str:
        """How good the model is, of which round."""
        found = self.estimates
        whose = "the hospitals' own models" if found["personal"] else "the model"
        which = f"{whose} of round {found['best_round']} of {found['rounds'][-1]['round']} ({found['method']})"
        for name, label in _METRICS.items():
            value, low, high = _metric((found["evaluation"] or {}).get(name))
            if value is not None:
                interval = "" if low is None or high is None else f" ({say_interval(low, high)})"
                verb = "have" if found["personal"] else "has"
                said = f"{value:.2f}" if name == "accuracy" else say_number(value)
                return f"{which[:1].upper()}{which[1:]} {verb} {label} {said}{interval} on validation patients."
        return f"{which[:1].upper()}{which[1:]}: not validated."

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


def _told(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A round's entry as it is published: an accuracy to two decimals, other means to three significant digits. Beside who was
    `counted`, all their digits would tell one hospital's part in them where hospitals come and go."""
    digits = {"accuracy": ".2f", **dict.fromkeys(("loss", "validation", "steps", "clipped"), ".3g")}
    return {key: float(format(value, digits[key])) if key in digits else value for key, value in entry.items()}


def _metric(found: Any) -> tuple[float | None, float | None, float | None]:
    """Value and interval of a metric: a number, ``{value, low, high}``, or what may not be shown."""
    if isinstance(found, Mapping):
        return found.get("value"), found.get("low"), found.get("high")
    return (float(found), None, None) if isinstance(found, int | float) else (None, None, None)


def _notes(method: Training[Any], progress: Progress, ending: Ending) -> tuple[str, ...]:
    notes = []
    if ending.stopped in FAILED:
        notes.append(
            f"{FAILED[ending.stopped]} in round {progress.round + 1}: {ending.why.rstrip('.')}. The model is that of round "
            f"{progress.best_round}, the best before it. A smaller `local: rate` or `local: {{clip: 1.0}}` may help."
        )
    if not ending.complete:
        notes.append(
            "There are no metrics: the sums of the evaluation do not hold all validation patients, because nothing hid them and "
            "hospitals left out their small cells. With `protection: {hide: secagg}` they enter whole."
        )
    if ending.stopped == "early":
        notes.append(f"Training stopped early after round {progress.round}: the validation did not improve any more.")
    rounds = progress.history[1:]
    out = {site: sum(site not in entry["counted"] for entry in rounds) for site in ending.sites}
    if any(out.values()):
        told = ", ".join(f"{site} ({k})" for site, k in sorted(out.items()) if k)
        notes.append(f"Late, away or abstaining in some of the {len(rounds)} rounds: {told}.")
    clipped = max((entry.get("clipped", 0.0) for entry in rounds), default=0.0)
    if clipped:
        notes.append(
            f"Changes of weights beyond `update_bound: {method.spec.update_bound:g}` were clipped, in one round {clipped:.2%} of "
            "them. Where it is more than a few, raise the bound or lower the local rate."
        )
    if not method.whole:
        notes.append(
            "Each hospital has a part of the model for itself, and its whole model in its own folder. The file here holds the shared "
            "part, which predicts nothing alone; the metrics are of the hospitals' own models on their own patients."
        )
    return tuple(notes)
