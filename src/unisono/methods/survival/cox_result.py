"""What a Cox regression found: hazard ratios, tests, the check of proportional hazards, absolute survival, the forest plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from unisono.methods.base import Result
from unisono.methods.design import Column, Design, column_labels, label_of, say_adjusted
from unisono.methods.figures import COLOURS, FAINT, INK, new_figure, ratio_axis
from unisono.methods.wording import direction, say_interval, say_number, say_one, say_p
from unisono.study.document import BooleanVariable, CategoryVariable, NumberVariable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_IN_HEADLINE = 4
_COLUMNS = ["coef", "se", "hr", "ci_low", "ci_high", "z", "p"]


@dataclass(frozen=True)
class CoxResult(Result):
    """`estimates`: see docs/methods/cox.md."""

    @property
    def coefficients(self) -> pd.DataFrame:
        """One row a coefficient: log hazard ratio `coef` for one unit, `se`, hazard ratio `hr` with its limits, z and p."""
        rows = self.estimates["coefficients"]
        index = pd.Index([row["name"] for row in rows], name="covariate")
        return pd.DataFrame(rows, index=index)[_COLUMNS]

    @property
    def ph_check(self) -> pd.DataFrame:
        """One row a covariate, and ``global``: chi2, df and p of the score test of proportional hazards."""
        check = self.estimates["ph_check"]
        rows = check["tests"] if check else []
        return pd.DataFrame(rows, columns=["name", "chi2", "df", "p"]).set_index("name")

    @property
    def baseline(self) -> pd.DataFrame:
        """The reference patient's cumulative hazard and survival, at the times that may be shown."""
        columns = ["time", "cumulative_hazard", "survival", "at_risk"]
        found = self.estimates["baseline"]
        return pd.DataFrame({c: found[c] if found else [] for c in columns})

    @property
    def survival_at(self) -> pd.DataFrame:
        """Absolute survival of reference patients, one row for each and each time of `at`."""
        columns = ["profile", "time", "survival", "low", "high", "at_risk"]
        return pd.DataFrame(self.estimates["survival_at"], columns=columns).astype({"at_risk": "Int64"})

    def summary(self) -> pd.DataFrame:
        """Hazard ratios with their limits and p-values."""
        return self.coefficients[["hr", "ci_low", "ci_high", "p", "coef", "se"]]

    def headline(self) -> str:
        """The first covariate's effect in one sentence, with direction and reference; the others are what it is adjusted
        for."""
        rows = self.estimates["coefficients"]
        first = Design(self.study, self._covariates[:1]).columns[:_IN_HEADLINE]
        text = "; ".join(self._say(row, column) for row, column in zip(rows, first, strict=False))
        adjusted = say_adjusted(self.study, self._covariates)
        return f"{text[:1].upper()}{text[1:]}{adjusted}, in {self.estimates['n']} patients."

    @property
    def _covariates(self) -> list[str]:
        return [str(c) for c in self.study.analyses[self.analysis].parameters["covariates"]]

    def _say(self, row: dict[str, Any], column: Column) -> str:
        digits = _digits(row)
        interval = say_interval(row["ci_low"], row["ci_high"], self.estimates["confidence"], digits)
        ratio = say_number(row["hr"], digits)
        event = label_of(self.study, str(self.study.analyses[self.analysis].parameters["event"]))
        if ratio == say_number(1.0, digits):
            found = f"the hazard ({event}) was about the same: {ratio} times as high"
        else:
            found = f"the hazard ({event}) was {direction(row['hr'], 1.0)}: {ratio} times as high"
        open_question = "" if not row["ci_low"] <= 1 <= row["ci_high"] else "; compatible with no difference"
        return f"{self._who(column)} {found} ({interval}, {say_p(row['p'])}{open_question})"

    def _who(self, column: Column) -> str:
        """``for sex female (against male)``, ``for each year more of age``; an interaction is named as it is."""
        if len(column.factors) > 1:
            return f"for {column.name} (interaction)"
        (factor,) = column.factors
        variable, label = self.study.variables[factor.variable], label_of(self.study, factor.variable)
        if isinstance(variable, CategoryVariable):
            assert factor.level is not None
            return f"for {label} {variable.levels[factor.level]} (against {variable.reference})"
        if isinstance(variable, BooleanVariable):
            return f"for {label} yes (against no)"
        assert isinstance(variable, NumberVariable)
        return f"for each {say_one(variable.unit)} more of {label}"

    def plot(self) -> Figure:
        """A forest plot: hazard ratios with their limits on a logarithmic axis."""
        rows, labels = self.estimates["coefficients"], column_labels(self.study, self._covariates)
        figure, (ax,) = new_figure(7.0, 1.3 + 0.42 * len(rows))
        ax.axvline(1.0, color=FAINT, linewidth=1, zorder=0)
        for y, row in enumerate(rows):
            ax.plot([row["ci_low"], row["ci_high"]], [y, y], color=COLOURS[0], linewidth=1.6)
            ax.plot([row["hr"]], [y], "s", color=COLOURS[0], markersize=6)
            digits = _digits(row)
            numbers = f"{say_number(row['hr'], digits)} ({say_number(row['ci_low'], digits)} to {say_number(row['ci_high'], digits)})"
            ax.annotate(
                f"{numbers}  {say_p(row['p'])}",
                (1.02, y),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=9,
                color=INK,
            )
        ratio_axis(ax)
        ax.set_yticks(range(len(rows)), [labels[row["name"]] for row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        percent = f"{100 * self.estimates['confidence']:.10g}"
        ax.set_xlabel(f"Hazard ratio ({percent}% CI)")
        return figure


def _digits(row: dict[str, Any]) -> int:
    """More digits for ratios close to 1, as those for one year of age are."""
    away = min(abs(row["ci_low"] - 1), abs(row["ci_high"] - 1), abs(row["hr"] - 1))
    return 4 if away < 0.005 else 3
