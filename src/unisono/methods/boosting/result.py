"""The answer of boosting: which features the trees use, how good they are, and the model's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from unisono.methods.base import Result
from unisono.methods.boosting.measures import first_metric
from unisono.methods.design import label_of
from unisono.methods.figures import COLOURS, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 20
"""Features in the figure."""


@dataclass(frozen=True)
class BoostingResult(Result):
    """Boosted trees. `estimates`: see docs/methods/boosting.md. model: the files by name; none in a result rebuilt from estimates."""

    model: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def files(self) -> Mapping[str, bytes]:
        return self.model

    def summary(self) -> pd.DataFrame:
        """The features by total gain: their share of it, and number of splits, mean gain and mean cover (sum of hessians)."""
        table = pd.DataFrame(self.estimates["importance"]).set_index("feature")
        total = table["splits"] * table["gain"]
        table.insert(0, "share", total / total.sum() if total.sum() else total)
        return table.sort_values("share", ascending=False, kind="stable")

    def headline(self) -> str:
        """How good the model is, on whom, and what it leans on most."""
        found = self.estimates
        name, metric = first_metric(found["objective"], found["performance"])
        on = "held-out patients" if found["performance_of"] == "held-out" else "the patients it was trained on"
        value = "not shown" if metric["value"] is None else f"{metric['value']:.3f}"
        if metric["value"] is not None and metric["low"] is not None:
            value += f" (95% CI {metric['low']:.3f} to {metric['high']:.3f})"
        size = f"{found['trees']} trees grown on {found['n']} patients predict {self._outcome()}"
        return f"{size} with {name} {value} on {on}; most of the gain is from {self.summary().index[0]}."

    def plot(self) -> Figure:
        """The features' shares of the gain; with held-out patients the losses, tree by tree."""
        curve, table = self.estimates["curve"], self.summary()["share"].head(_SHOWN)
        height = 1.2 + 0.28 * max(len(table), 3)
        ratios = (height, 2.6) if curve else (height,)
        figure, axes = new_figure(height=sum(ratios), rows=len(ratios), ratios=ratios)
        axes[0].barh(range(len(table)), table, color=COLOURS[0], height=0.6)
        axes[0].set_yticks(range(len(table)), list(table.index))
        axes[0].invert_yaxis()
        axes[0].set_xlabel("share of the gain", color=INK, fontsize=9)
        if curve:
            trees = [row["trees"] for row in curve]
            for key, label, colour in (("trained", "trained on", COLOURS[5]), ("held_out", "held out", COLOURS[1])):
                axes[1].plot(trees, [row[key] for row in curve], color=colour, label=label)
            axes[1].set_xlabel("trees", color=INK, fontsize=9)
            axes[1].set_ylabel("loss", color=INK, fontsize=9)
            axes[1].legend(frameon=False, fontsize=9)
        return figure

    def _outcome(self) -> str:
        parameters = self.study.analyses[self.analysis].parameters
        return label_of(self.study, parameters.get("outcome") or parameters["event"])
