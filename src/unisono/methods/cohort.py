"""The cohort step, before every analysis: how many patients were read, are eligible and are used, and what fills gaps.

One sum counts patients along the inclusion rules; a second one, only if values are missing and the study says to fill
them, finds the mean or the mode that fills them. What comes out (`CohortResult.facts`) is part of every later ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unisono.errors import DisclosureRefusal, MethodError
from unisono.federation.contribution import Declaration, Facts, contribution, within
from unisono.methods.base import Method, PlannedAsk, Result, Spec
from unisono.methods.figures import COLOURS, INK, new_figure
from unisono.methods.registry import build, method
from unisono.protection.disclosure import blank_cells
from unisono.protection.leaves import Leaf, count, moment
from unisono.study.cohort import flow_labels, reads, select
from unisono.study.document import BooleanVariable, CategoryVariable, NumberVariable, Study
from unisono.study.expressions import Expression
from unisono.study.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unisono.federation.federation import Federation

Vector = NDArray[np.float64]

COHORT = "cohort"
"""The method's name; a study cannot name it."""
MOST = 2.0**31
"""Patients at one site, before anything is known about the number."""
MOST_LEVELS = 1000
"""Values that the mode of an integer is looked for among."""


class CohortSpec(Spec):
    """No parameters: the cohort is the study's."""


@dataclass(frozen=True)
class Flow:
    """Numbers of patients: read (); eligible (k,) after each of the k inclusion rules in turn; cohort (), those whom
    the analysis uses; missing (v,), eligible patients without a value, for each variable of the analysis."""

    read: NDArray[np.float64]
    eligible: Vector
    cohort: NDArray[np.float64]
    missing: Vector


@method(COHORT, version=1, spec=CohortSpec)
class CohortFlow(Method[CohortSpec]):
    """Patient flow and imputation values for one analysis (`target`) of a study."""

    pooled = "exact"
    rows: ClassVar[Literal["all", "eligible", "cohort"]] = "all"

    def __init__(self, study: Study, analysis: str, spec: CohortSpec) -> None:
        super().__init__(study, analysis, spec)
        self.target = build(study, analysis)
        self.asked = self.target.variables()
        filled = self.asked if self.target.rows == "cohort" else ()
        rules = {name: study.cohort.missing_rule(name) for name in filled}
        self.means = tuple(name for name, rule in rules.items() if rule == "mean")
        self.modes = tuple(name for name, rule in rules.items() if rule == "mode")

    def variables(self) -> tuple[str, ...]:
        known = self.study.variables
        wanted = [n for text in self.study.cohort.include for n in Expression.parse(text, known).variables]
        found = list(dict.fromkeys([*self.asked, *wanted]))
        for name in found:  # grows while it is walked: sources of derived variables, and theirs
            found += [source for source in reads(known[name], known) if source not in found]
        return tuple(found)

    def prepare(self, table: Table) -> Table:
        return table.without_images()

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution
    def flow(self, data: Table) -> Flow:
        """How many patients this site read, how many each inclusion rule leaves, and how many have no value."""
        chosen = select(data, self.study, self.asked, "eligible")
        complete = np.ones(chosen.table.n, np.bool_)
        if self.target.rows == "cohort":
            for name in self.asked:
                if self.study.cohort.missing_rule(name) == "complete-cases":
                    complete &= ~np.isnan(chosen.table[name])
        return Flow(
            read=np.asarray(data.n),
            eligible=np.array(chosen.flow[1:], np.float64),
            cohort=np.asarray(data.n if self.target.rows == "all" else int(complete.sum())),
            missing=np.array([chosen.missing[name] for name in self.asked], np.float64),
        )

    @flow.declares
    def _(self, _facts: Facts) -> Declaration:
        rules = len(self.study.cohort.include)
        return Declaration(
            {
                "read": count((), MOST, "Number of patients in the data."),
                "eligible": count((rules,), MOST, "Number of patients left after each inclusion rule in turn."),
                "cohort": count((), MOST, "Number of patients that the analysis uses."),
                "missing": count((len(self.asked),), MOST, "Number of eligible patients without a value, by variable."),
            }
        )

    @contribution
    def observed(self, data: Table, eligible: float) -> dict[str, NDArray[np.float64]]:
        """Of the eligible patients with a value: the sum of each number to average, and how many have each level."""
        del eligible  # it bounds the sums, in the declaration
        chosen = select(data, self.study, self.asked, "eligible").table
        tree: dict[str, NDArray[np.float64]] = {}
        if self.means:
            values = [chosen[name][~np.isnan(chosen[name])] for name in self.means]
            scaled = [
                (v - centre) / half for v, (centre, half) in zip(values, map(self._scale, self.means), strict=True)
            ]
            tree["number"] = np.array([len(v) for v in values], np.float64)
            tree["total"] = np.array([v.sum() for v in scaled])
        for name in self.modes:
            first, levels = self._levels(name)
            codes = chosen[name][~np.isnan(chosen[name])].astype(np.int64) - first
            tree[f"levels_{name}"] = np.bincount(codes, minlength=levels).astype(np.float64)
        return tree

    @observed.declares
    def _(self, _facts: Facts, eligible: float) -> Declaration:
        leaves: dict[str, Leaf] = {}
        if self.means:
            k, names = len(self.means), ", ".join(self.means)
            leaves["number"] = count((k,), eligible, f"Number of patients with a value of {names}.")
            leaves["total"] = moment((k,), eligible, f"Sum of {names}, scaled to [-1, 1] by the declared bounds.")
        for name in self.modes:
            shape = (self._levels(name)[1],)
            leaves[f"levels_{name}"] = count(shape, eligible, f"Number of patients with each value of {name}.")
        return Declaration(leaves, {"eligible": within((), MOST)})

    def plan(self) -> tuple[PlannedAsk, ...]:
        asks = [PlannedAsk(self.flow, (), 1)]
        if self.means or self.modes:
            asks.append(PlannedAsk(self.observed, (MOST,), 1))
        return tuple(asks)

    # -- what the coordinator does with the sums ----------------------------------------------------------------------

    async def run(self, federation: Federation) -> CohortResult:
        flow = await federation.sum(self.flow)
        eligible = int(flow.eligible[-1]) if len(flow.eligible) else int(flow.read)
        steps = [int(flow.read), *(int(n) for n in flow.eligible)]
        if self.target.rows == "cohort":
            steps.append(int(flow.cohort))
        self._enough(steps)
        gaps = dict(zip(self.asked, (int(n) for n in flow.missing), strict=True))
        imputed: dict[str, Any] = {}
        if any(gaps[name] for name in (*self.means, *self.modes)):
            imputed = self._imputed(await federation.sum(self.observed, float(eligible)))
        return CohortResult(
            self.study, self.analysis, self._estimates(steps, int(flow.cohort), eligible, gaps, imputed)
        )

    def _enough(self, steps: Sequence[int]) -> None:
        labels, least = flow_labels(self.study), self.study.release.min_count
        if 0 in steps:
            step = steps.index(0)
            where = (
                f"after `{labels[step]}`" if 0 < step <= len(self.study.cohort.include) else "among those who were read"
            )
            if step > len(self.study.cohort.include):
                where = f"with a value of every one of {', '.join(self.asked)}"
            raise MethodError(
                f"No patient is left for {self.analysis!r}: there is none {where}.",
                rule="empty-cohort",
                remedy="Check the mapping of the variables it reads, or widen `cohort: include` or `cohort: missing`.",
            )
        if steps[-1] < least:
            raise DisclosureRefusal(
                f"Fewer than {least} patients, over all sites, are left for {self.analysis!r}.",
                rule="enough-patients",
                remedy="Widen the cohort (inclusion rules, missing-data rule), or ask more sites to take part.",
            )

    def _imputed(self, sums: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
        """What fills each variable's gaps: its mean in the study's unit, or its commonest value (ties: the first)."""
        found: dict[str, Any] = {}
        for k, name in enumerate(self.means):
            centre, half = self._scale(name)
            number = float(sums["number"][k])
            self._enough_values(name, number)
            found[name] = {"rule": "mean", "value": centre + half * float(sums["total"][k]) / number}
        for name in self.modes:
            counts = sums[f"levels_{name}"]
            self._enough_values(name, float(counts.max()))
            code = int(np.argmax(counts))
            found[name] = {"rule": "mode", "value": float(self._levels(name)[0] + code)}
            variable = self.study.variables[name]
            if isinstance(variable, CategoryVariable):
                found[name]["level"] = variable.levels[code]
        return found

    def _enough_values(self, name: str, number: float) -> None:
        least = self.study.release.min_count
        if number < least:
            raise DisclosureRefusal(
                f"The value that fills the gaps of {name!r} would come from fewer than {least} patients.",
                rule="small-cells",
                remedy=f"Use `complete-cases` for {name!r}, or leave it out of the analysis.",
            )

    def _estimates(
        self, steps: list[int], patients: int, eligible: int, gaps: dict[str, int], imputed: dict[str, Any]
    ) -> dict[str, Any]:
        least = self.study.release.min_count
        shown = released_flow([*steps, patients], least)[: len(steps)]
        labels = flow_labels(self.study)[: len(steps)]
        missing = blank_cells(list(gaps.values()), least)
        known = [eligible - n for n in gaps.values()]
        return {
            "read": shown[0],
            "flow": [{"rule": rule, "n": n} for rule, n in zip(labels[1:], shown[1:], strict=True)],
            "missing": {
                name: None if 0 < rest < least else n for name, n, rest in zip(gaps, missing, known, strict=True)
            },
            "patients": patients,
            "imputed": imputed,
        }

    def _scale(self, name: str) -> tuple[float, float]:
        """Centre and half of the declared range."""
        variable = self.study.variables[name]
        if not isinstance(variable, NumberVariable):
            raise MethodError(
                f"{name!r} is not a number, so it has no mean to fill its gaps with.",
                rule="imputation",
                remedy=f"Use `mode` or `complete-cases` for {name!r}.",
            )
        return (variable.min + variable.max) / 2, (variable.max - variable.min) / 2

    def _levels(self, name: str) -> tuple[int, int]:
        """The first code and the number of codes of a variable with few values."""
        variable = self.study.variables[name]
        if isinstance(variable, CategoryVariable):
            return 0, len(variable.levels)
        if isinstance(variable, BooleanVariable):
            return 0, 2
        if isinstance(variable, NumberVariable) and variable.type == "integer":
            levels = int(np.floor(variable.max) - np.ceil(variable.min)) + 1
            if levels <= MOST_LEVELS:
                return int(np.ceil(variable.min)), levels
        raise MethodError(
            f"{name!r} may have too many different values to fill its gaps with the commonest.",
            rule="imputation",
            remedy=f"Use `mean` or `complete-cases` for {name!r}.",
        )

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> CohortResult:
        return CohortResult(study, analysis, estimates, **rest)


def released_flow(steps: Sequence[int], min_count: int) -> list[int | None]:
    """Numbers of patients along a flow, (k,) not increasing, with `None` for each that may not be shown.

    The last one is always shown (it is the size of the cohort). Two shown numbers are equal or differ by `min_count` at
    least: otherwise a subtraction would give a group of fewer patients, those whom one rule excluded.
    """
    last = steps[-1]
    shown: list[int | None] = []
    before: int | None = None
    for n in steps:
        apart = [abs(n - last)] if before is None else [before - n, abs(n - last)]
        small = any(0 < gap < min_count for gap in apart)
        shown.append(None if small else n)
        before = before if small else n
    return shown


@dataclass(frozen=True)
class CohortResult(Result):
    """Who was studied. `estimates`: read, flow, missing (numbers that would show a small group are None), patients, and
    imputed (rule and value; a category's value is the index of its level)."""

    @property
    def facts(self) -> Facts:
        """What every later ask of the analysis is given."""
        filled = {name: float(item["value"]) for name, item in self.estimates["imputed"].items()}
        return Facts(int(self.estimates["patients"]), filled)

    def summary(self) -> pd.DataFrame:
        """Patients after each rule."""
        rows = [("read", self.estimates["read"])]
        rows += [(step["rule"], step["n"]) for step in self.estimates["flow"]]
        return pd.DataFrame({"patients": [self._say(n) for _, n in rows]}, index=[rule for rule, _ in rows])

    def headline(self) -> str:
        """How many of how many patients are studied."""
        read = self.estimates["read"]
        of = f" of the {read} read" if read is not None else ""
        return f"{self.estimates['patients']} patients{of} are in the cohort of {self.analysis!r}."

    def plot(self) -> Figure:
        """The flow as bars, one rule below the other; what is not shown has no bar."""
        table = [("read", self.estimates["read"]), *((s["rule"], s["n"]) for s in self.estimates["flow"])]
        figure, (ax,) = new_figure(height=1.2 + 0.4 * len(table))
        for place, (_, n) in enumerate(table):
            ax.barh(place, n or 0, color=COLOURS[0], height=0.6)
            ax.annotate(
                self._say(n), (n or 0, place), (4, 0), textcoords="offset points", va="center", color=INK, fontsize=9
            )
        ax.set_yticks(range(len(table)), [rule for rule, _ in table])
        ax.invert_yaxis()
        ax.set_xlabel("patients", color=INK, fontsize=9)
        return figure

    def _say(self, n: int | None) -> str:
        return "not shown" if n is None else str(n)


async def establish(federation: Federation, study: Study, analysis: str) -> CohortResult:
    """Open the cohort of one analysis; the caller gives `.facts` to the federation before the analysis runs.

    `MethodError` (``empty-cohort``) naming the rule after which nobody is left; `DisclosureRefusal` if fewer than
    `min_count` patients are.
    """
    return await CohortFlow(study, analysis, CohortSpec()).run(federation)
