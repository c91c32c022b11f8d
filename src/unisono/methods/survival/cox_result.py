"""What a Cox regression found: hazard ratios, tests, the check of proportional hazards, absolute survival, the forest plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from unisono.methods.base import Result
from unisono.methods.design import variables_of
from unisono.methods.figures import COLOURS, FAINT, INK, new_figure, ratio_axis
from unisono.methods.wording import direction, say_interval, say_list, say_number, say_one, say_p
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
        covariates = [str(c) for c in self.study.analyses[self.analysis].parameters["covariates"]]
        first = [row for row in rows if _term(row["name"]) == covariates[0].replace(" ", "")] or rows[:1]
        text = "; ".join(self._say(row) for row in first[:_IN_HEADLINE])
        others = [self._label(name) for name in variables_of(covariates[1:]) if name != covariates[0]]
        adjusted = f", adjusted for {say_list(others)}" if others else ""
        return f"{text[:1].upper()}{text[1:]}{adjusted}, in {self.estimates['n']} patients."

    def _say(self, row: dict[str, Any]) -> str:
        digits = _digits(row)
        interval = say_interval(row["ci_low"], row["ci_high"], self.estimates["confidence"], digits)
        ratio = say_number(row["hr"], digits)
        event = self._label(str(self.study.analyses[self.analysis].parameters["event"]))
        if ratio == say_number(1.0, digits):
            found = f"the hazard ({event}) was about the same: {ratio} times as high"
        else:
            found = f"the hazard ({event}) was {direction(row['hr'], 1.0)}: {ratio} times as high"
        open_question = "" if not row["ci_low"] <= 1 <= row["ci_high"] else "; compatible with no difference"
        return f"{self._who(row['name'])} {found} ({interval}, {say_p(row['p'])}{open_question})"

    def _label(self, name: str) -> str:
        return self.study.variables[name].label or name

    def _who(self, column: str) -> str:
        """``for sex female (against male)``, ``for each year more of age``; an interaction is named as it is."""
        if ":" in column:
            return f"for {column} (interaction)"
        name, _, level = column.rstrip("]").partition("[")
        variable = self.study.variables[name]
        label = variable.label or name
        if isinstance(variable, CategoryVariable):
            return f"for {label} {level} (against {variable.reference})"
        if isinstance(variable, BooleanVariable):
            return f"for {label} yes (against no)"
        assert isinstance(variable, NumberVariable)
        return f"for each {say_one(variable.unit)} more of {label}"

    def plot(self) -> Figure:
        """A forest plot: hazard ratios with their limits on a logarithmic axis."""
        rows = self.estimates["coefficients"]
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
        ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        percent = f"{100 * self.estimates['confidence']:.10g}"
        ax.set_xlabel(f"Hazard ratio ({percent}% CI)")
        return figure


def _term(column: str) -> str:
    """The covariate of a coefficient: ``sex[female]`` is of ``sex``, ``age:sex[female]`` of ``age:sex``."""
    return ":".join(part.partition("[")[0] for part in column.split(":"))


def _digits(row: dict[str, Any]) -> int:
    """More digits for ratios close to 1, as those for one year of age are."""
    away = min(abs(row["ci_low"] - 1), abs(row["ci_high"] - 1), abs(row["hr"] - 1))
    return 4 if away < 0.005 else 3
