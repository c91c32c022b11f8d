"""What a Kaplan-Meier analysis found: curves by group, medians, survival at chosen times, the log-rank test, the figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from unisono.methods.base import Result
from unisono.methods.figures import COLOURS, INK, new_figure
from unisono.methods.wording import say_p, say_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class KaplanMeierResult(Result):
    """`estimates`: n, events, by, time, confidence, groups, at_risk_times, logrank (see docs/methods/kaplan-meier.md)."""

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The groups that have a curve."""
        return [g for g in self.estimates["groups"] if g["curve"]["time"]]

    @property
    def curve(self) -> pd.DataFrame:
        """Tidy: one row for each group and shown time, with survival, its limits and the number at risk."""
        parts = [pd.DataFrame({"group": g["name"], **g["curve"]}) for g in self.shown]
        columns = ["group", "time", "survival", "low", "high", "at_risk"]
        return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)

    def at(self) -> pd.DataFrame:
        """One row for each group and each time of `at`."""
        rows = [{"group": g["name"], **row} for g in self.estimates["groups"] for row in g["at"]]
        columns = ["group", "time", "survival", "low", "high", "at_risk"]
        return pd.DataFrame(rows, columns=columns).astype({"at_risk": "Int64"})

    def summary(self) -> pd.DataFrame:
        """One row a group: patients, events, median survival with its limits, median follow-up."""
        keys = ["n", "events", "median", "median_low", "median_high", "follow_up_median"]
        rows = [[g[key] for key in keys] for g in self.estimates["groups"]]
        names = [g["name"] for g in self.estimates["groups"]]
        return pd.DataFrame(rows, index=pd.Index(names, name=self.estimates["by"] or "group"), columns=keys)

    def headline(self) -> str:
        """Median survival of each group with its interval, and the log-rank test."""
        by = self.estimates["by"]
        parts = [self._median(g, f" for {by} {g['name']}" if by else "") for g in self.estimates["groups"] if g["n"]]
        text = "; ".join(parts)
        test = self.estimates["logrank"]
        return f"Median {self._label}: {text}" + (f"; log-rank {say_p(test['p'])}." if test else ".")

    @property
    def _label(self) -> str:
        name = self.estimates["time"]["variable"]
        return self.study.variables[name].label or name

    def _median(self, group: dict[str, Any], who: str) -> str:
        if group["median"] is None:
            return f"not reached in what may be shown{who}"
        unit = self.estimates["time"]["unit"]
        value = f"{group['median']:.6g} {say_unit(unit)}{who}"
        low, high = group["median_low"], group["median_high"]
        if low is None:
            return value
        percent = f"{100 * self.estimates['confidence']:.10g}"
        upper = "not reached" if high is None else f"{high:.6g}"
        return f"{value} ({percent}% CI {low:.6g} to {upper})"

    def plot(self) -> Figure:
        """Curves with pointwise bands, and the numbers at risk below the axis."""
        groups = self.shown
        height = 0.5 + 0.28 * max(len(groups), 1)
        figure, (main, below) = new_figure(7.0, 3.8 + height, 2, (3.8, height))
        for group, colour in zip(groups, COLOURS * (1 + len(groups) // len(COLOURS)), strict=False):
            _draw(main, group, colour)
        unit = self.estimates["time"]["unit"]
        main.set_ylim(0, 1.02)
        last = max([g["curve"]["time"][-1] for g in groups] + self.estimates["at_risk_times"], default=0.0)
        last = last or self.estimates["time"]["step"]  # all times are 0
        main.set_xlim(-0.03 * last, 1.03 * last)  # room for the first and the last number at risk
        main.set_ylabel("Probability of no event")
        main.set_xlabel(f"{self._label} ({say_unit(unit)})")
        if len(groups) > 1:
            main.legend(frameon=False, title=self.estimates["by"])
        test = self.estimates["logrank"]
        if test:
            main.text(0.02, 0.04, f"Log-rank {say_p(test['p'])}", transform=main.transAxes, color=INK, fontsize=9)
        self._numbers(below, main, groups)
        return figure

    def _numbers(self, below: Axes, main: Axes, groups: list[dict[str, Any]]) -> None:
        times = self.estimates["at_risk_times"]
        main.set_xticks(times)
        below.set_xlim(main.get_xlim())
        below.set_ylim(len(groups) - 0.5, -0.5)
        below.set_yticks(range(len(groups)), [g["name"] for g in groups])
        below.set_xticks([])
        below.set_title("Number at risk", loc="left", fontsize=9, color=INK)
        below.spines[["left", "bottom"]].set_visible(False)
        below.tick_params(length=0)
        for y, group in enumerate(groups):
            for time, n, few in zip(times, group["at_risk"], group["few_at_risk"], strict=True):
                said = f"<{self.study.release.min_count}" if few else "–" if n is None else str(n)
                below.text(time, y, said, ha="center", va="center", fontsize=9, color=INK)


def _draw(ax: Axes, group: dict[str, Any], colour: str) -> None:
    """Points where the curve is known, joined by straight lines: steps between them would show fewer patients than the rule
    allows, and drawing them flat would show survival as better than it was."""
    curve = group["curve"]
    start = ([], []) if curve["time"][0] == 0 else ([0.0], [1.0])
    time = [*start[0], *curve["time"]]
    survival = [*start[1], *curve["survival"]]
    ax.plot(time, survival, color=colour, label=group["name"], linewidth=1.6, marker="o", markersize=3.5)
    low = [*start[1], *(s if x is None else x for x, s in zip(curve["low"], curve["survival"], strict=True))]
    high = [*start[1], *(s if x is None else x for x, s in zip(curve["high"], curve["survival"], strict=True))]
    ax.fill_between(time, low, high, color=colour, alpha=0.15, linewidth=0)
