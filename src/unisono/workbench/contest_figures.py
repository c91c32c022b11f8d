"""Figures of a comparison: learning curves, and each site's gain over learning alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unisono.methods.figures import FAINT, INK, new_figure
from unisono.workbench.drawings import palette
from unisono.workbench.standings import Aim, gains, standings, targets
from unisono.workbench.trial import ALONE, POOLED, REFERENCES, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = {POOLED: (INK, "--"), ALONE: (INK, ":")}


def curves(trials: Sequence[Trial], aim: Aim) -> Figure:
    """Validation loss, and metric where it was measured, against rounds: each method's mean over seeds."""
    done = [t for t in trials if not t.failed and t.curve]
    measured = any(point.metric is not None for t in done for point in t.curve)
    figure, axes = new_figure(7.0, 6.0 if measured else 3.6, 2 if measured else 1)
    methods = [m for m in dict.fromkeys(t.method for t in done) if m not in REFERENCES]
    colours = dict(zip(methods, palette(len(methods)), strict=True))
    for method in dict.fromkeys(t.method for t in done):
        colour, line = _STYLE.get(method, (colours.get(method, INK), "-"))
        mine = [t for t in done if t.method == method]
        for ax, kind in zip(axes, ("loss", "metric"), strict=False):
            rounds, values = _mean(mine, kind)
            ax.plot(rounds, values, line, color=colour, linewidth=1.5, label=method)
    axes[0].set_ylabel("validation loss")
    if measured:
        axes[1].set_ylabel("validation accuracy")
        _target(axes[1], trials, aim)
    elif not aim.by_metric:
        _target(axes[0], trials, aim)
    axes[-1].set_xlabel("rounds")
    axes[0].legend(frameon=False, fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def site_gains(trials: Sequence[Trial], aim: Aim) -> Figure | None:
    """Each site's gain over learning alone, mean over seeds, by method; None where nothing can be compared."""
    methods = [s.method for s in standings(trials, aim) if s.method != ALONE and s.gain is not None]
    if not methods:
        return None
    figure, (ax,) = new_figure(7.0, 1.2 + 0.34 * len(methods))
    sites: list[str] = []
    for place, method in enumerate(methods):
        found = [gains(t, trials, aim) for t in trials if t.method == method and not t.failed]
        sites = sorted({site for gain in found for site in gain})
        means = [float(np.mean([gain[site] for gain in found if site in gain])) for site in sites]
        beside = np.linspace(-0.25, 0.25, len(sites)) if len(sites) > 1 else [0.0]  # equal gains do not hide each other
        for mean, colour, shift in zip(means, palette(len(sites)), beside, strict=True):
            ax.plot(mean, place + shift, "o", color=colour, markersize=5)
    for site, colour in zip(sites, palette(len(sites)), strict=True):
        ax.plot([], [], "o", color=colour, label=site)
    ax.axvline(0, color=FAINT, linewidth=1)
    ax.set_yticks(range(len(methods)), methods)
    ax.invert_yaxis()
    ax.set_xlabel(
        f"gain in {aim.metric.replace('_', '-')} over learning alone (right of the line: the federation helps)"
    )
    ax.legend(frameon=False, fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def _mean(trials: Sequence[Trial], kind: str) -> tuple[list[int], list[float]]:
    """The mean over seeds by round; a run that stopped early keeps its last value."""
    known = [[(p.round, getattr(p, kind)) for p in t.curve if getattr(p, kind) is not None] for t in trials]
    rounds = sorted({round_ for curve in known for round_, _ in curve})
    means = []
    for round_ in rounds:
        values = [[value for at, value in curve if at <= round_] for curve in known]
        means.append(float(np.mean([value[-1] for value in values if value])))
    return rounds, means


def _target(ax: Axes, trials: Sequence[Trial], aim: Aim) -> None:
    goals = list(targets(trials, aim).values())
    if goals:
        ax.axhline(float(np.mean(goals)), color=FAINT, linewidth=1)
        ax.annotate(
            f"target: {aim.share:.0%} of pooled", (0, float(np.mean(goals))), fontsize=7, color=INK, va="bottom"
        )
