"""Kaplan-Meier curves and the log-rank test: hospitals sum their counts of events and exits along a declared grid.

Kaplan & Meier (1958), Greenwood's variance with log-log limits, the k-sample log-rank test, and median follow-up by the
reverse estimator (Schemper & Smith 1996). With counts on one grid, the federated curve *is* the pooled one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError
from unisono.federation.contribution import Declaration, Facts, contribution
from unisono.methods.base import Method, PlannedAsk
from unisono.methods.design import image_problem, unknown_variable
from unisono.methods.registry import method
from unisono.methods.survival.follow_up import Axis, Flags, Index, SurvivalSpec
from unisono.methods.survival.kaplan_meier_result import KaplanMeierResult
from unisono.methods.survival.product_limit import first_at_or_below, logrank, number_at_risk, product_limit
from unisono.methods.survival.released import Counts, round_positions, shown
from unisono.methods.wording import say_list
from unisono.protection.disclosure import blank_cells
from unisono.protection.leaves import curve
from unisono.study.document import BooleanVariable, CategoryVariable, ImageVariable, Name, Study
from unisono.study.problems import Problem
from unisono.study.table import Table

if TYPE_CHECKING:
    from unisono.federation.federation import Federation

Float = NDArray[np.float64]


class KaplanMeierSpec(SurvivalSpec):
    """``{method: kaplan-meier, time: months, event: died, by: onset, at: [12, 24], grid: {step: 1, unit: mo}}``"""

    by: Name | None = None

    def problems(self, study: Study) -> list[Problem]:
        """As for every survival analysis; `by` must be a category or a boolean."""
        found = super().problems(study)
        if self.by is not None and self.by not in study.variables:
            found.append(unknown_variable(("by",), self.by, study))
        elif self.by is not None and isinstance(study.variables[self.by], ImageVariable):
            found.append(image_problem(("by",), self.by, "groups"))
        elif self.by is not None and not isinstance(study.variables[self.by], CategoryVariable | BooleanVariable):
            found.append(
                Problem(
                    ("by",),
                    f"Curves by {self.by!r} need groups, and it is a number.",
                    "variable-type",
                    f"Derive a category from it: '{{type: category, derive: {{variable: {self.by}, at: [...]}}, levels: [...]}}'.",
                )
            )
        return found


@dataclass(frozen=True)
class Patients:
    """A site's patients as positions on the grid. group: (n,). exit: (n,). entry: (n,) or None. event: (n,)."""

    group: Index
    exit: Index
    entry: Index | None
    event: Flags


@dataclass(frozen=True)
class Curves:
    """Counts along the grid, one row a group. `entries` has no columns where everybody is at risk from the start."""

    events: Float
    exits: Float
    entries: Float

    @property
    def at_risk(self) -> Float:
        """(g, k) just before each grid time."""
        return number_at_risk(self.exits, self.entries if self.entries.size else None)


@method("kaplan-meier", version=1, spec=KaplanMeierSpec)
class KaplanMeier(Method[KaplanMeierSpec]):
    """Survival curves, overall or by group, on the declared grid of times."""

    pooled = "exact"

    def __init__(self, study: Study, analysis: str, spec: KaplanMeierSpec) -> None:
        super().__init__(study, analysis, spec)
        self.axis = Axis.of(study, analysis, spec)
        self.groups = group_names(study, spec.by)
        self.shape = (len(self.groups), self.axis.length)

    def variables(self) -> tuple[str, ...]:
        """Time, event, entry and the grouping variable."""
        return tuple(dict.fromkeys((*self.spec.time_variables(), *((self.spec.by,) if self.spec.by else ()))))

    def prepare(self, table: Table) -> Patients:
        """Patients as positions on the grid."""
        by = self.spec.by
        group = np.zeros(table.n, np.int32) if by is None else table[by].astype(np.int32)
        return Patients(group, self.axis.exits(table), self.axis.entries(table), self.axis.events(table))

    @contribution
    def counts(self, data: Patients) -> Curves:
        """How many patients had the event, left observation, and (with delayed entry) came under observation, at each
        time of the grid, in each group."""
        entries = np.zeros((self.shape[0], 0)) if data.entry is None else self._tally(data.group, data.entry)
        return Curves(
            self._tally(data.group[data.event], data.exit[data.event]), self._tally(data.group, data.exit), entries
        )

    @counts.declares
    def _(self, facts: Facts) -> Declaration:
        n = float(max(facts.patients, 1))
        late = self.shape if self.spec.entry else (self.shape[0], 0)
        return Declaration(
            {
                "events": curve(self.shape, n, "Number of events at each time of the grid, by group."),
                "exits": curve(
                    self.shape, n, "Number of patients whose follow-up ends at each time of the grid, by group."
                ),
                "entries": curve(
                    late, n, "Number of patients who come under observation at each time of the grid, by group."
                ),
            }
        )

    def _tally(self, group: Index, position: Index) -> Float:
        flat = group.astype(np.int64) * self.axis.length + position
        return np.bincount(flat, minlength=self.shape[0] * self.shape[1]).reshape(self.shape).astype(np.float64)

    def plan(self) -> tuple[PlannedAsk, ...]:
        """One sum."""
        return (PlannedAsk(self.counts, (), 1),)

    async def run(self, federation: Federation) -> KaplanMeierResult:
        """One sum of counts; everything else is computed from it. `MethodError` if no group may be shown."""
        curves = await federation.sum(self.counts)
        return estimate(self, curves)

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> KaplanMeierResult:
        """Rebuilt from stored estimates."""
        return KaplanMeierResult(study, analysis, estimates, **rest)


def group_names(study: Study, by: str | None) -> tuple[str, ...]:
    """The groups that a grouping variable makes; one group, ``all``, without it."""
    if by is None:
        return ("all",)
    variable = study.variables[by]
    return tuple(variable.levels) if isinstance(variable, CategoryVariable) else ("no", "yes")


def estimate(method: KaplanMeier, curves: Curves) -> KaplanMeierResult:
    """Curves, medians and test on the full grid, and of these what may be written."""
    axis, min_count = method.axis, method.study.release.min_count
    at_risk = curves.at_risk
    sizes, deaths = curves.exits.sum(axis=1), curves.events.sum(axis=1)
    visible = blank_cells(sizes, min_count)
    empty = [name for name, n in zip(method.groups, sizes, strict=True) if n == 0]
    if not any(visible):
        raise MethodError(
            "No group is large enough to be shown: a curve of one would give the other away.",
            rule="min-count",
            remedy=f"Every group needs at least {min_count} patients: merge levels of {method.spec.by!r}, or leave out `by`."
            if method.spec.by
            else f"The cohort needs at least {min_count} patients.",
        )
    longest = max(Counts(curves.exits[g], at_risk[g], min_count).span[1] for g, n in enumerate(visible) if n)
    ticks = round_positions(longest - 1, axis.step, axis.unit)
    if len(ticks) > 1 and 2 * ticks[-1] - ticks[-2] < axis.length:
        ticks.append(2 * ticks[-1] - ticks[-2])  # where a reader sees that few are left
    events = blank_cells(deaths, min_count, total_known=False)
    notes = [f"Nobody is in the group {name!r}." for name in empty]
    hidden = [name for name, n in zip(method.groups, visible, strict=True) if n is None]
    if hidden:
        notes.append(
            f"Not shown, because fewer than {min_count} patients are in a group or could be told from it: {say_list(hidden)}."
        )
    if not curves.exits[[n is not None for n in visible], 1:].any():
        notes.append("All times are 0 on this grid: check the mapping of the time, and the step of the grid.")
    groups = [
        {
            "name": name,
            **_group(method, curves, g, ticks, notes),
            "n": visible[g],
            "events": events[g] if visible[g] else visible[g],
        }
        if visible[g]
        else {"name": name, "n": visible[g], "events": 0 if visible[g] == 0 else None, **_NOTHING}
        for g, name in enumerate(method.groups)
    ]
    test = logrank(curves.events, at_risk) if method.spec.by else None
    estimates = {
        "n": int(sizes.sum()),
        "events": None if any(e is None for e in events) else int(deaths.sum()),
        "by": method.spec.by,
        "time": {"variable": axis.time, "unit": axis.unit, "step": axis.step},
        "confidence": method.spec.confidence,
        "groups": groups,
        "at_risk_times": [float(axis.times[k]) for k in ticks],
        "logrank": None if test is None else {"statistic": test.statistic, "df": test.df, "p": test.p},
    }
    return KaplanMeierResult(method.study, method.analysis, estimates, notes=tuple(notes))


_NOTHING: dict[str, Any] = {
    "median": None,
    "median_low": None,
    "median_high": None,
    "follow_up_median": None,
    "curve": {"time": [], "survival": [], "low": [], "high": [], "at_risk": []},
    "at": [],
    "at_risk": [],
    "few_at_risk": [],
}


def _group(method: KaplanMeier, curves: Curves, g: int, ticks: list[int], notes: list[str]) -> dict[str, Any]:
    """One group's curve at the times that may be shown, its medians, and survival at the times asked for."""
    axis, spec, name = method.axis, method.spec, method.groups[g]
    events, exits, at_risk = curves.events[g], curves.exits[g], curves.at_risk[g]
    counts = Counts(exits, at_risk, method.study.release.min_count)
    estimated = product_limit(events, at_risk)
    low, high = estimated.band(spec.confidence)
    wanted = [axis.position(t) for t in spec.at]
    points, fixed = shown(counts, wanted, ticks)

    def row(k: int) -> dict[str, float | int | None]:
        return {
            "survival": float(estimated.survival[k]),
            "low": _or_none(low[k]),
            "high": _or_none(high[k]),
            "at_risk": int(at_risk[k]),
        }

    def few(k: int) -> bool:
        """Fewer at risk than may be said (or nobody: that is not told apart)."""
        return bool(at_risk[k] < counts.min_count)

    blank: dict[str, float | int | None] = dict.fromkeys(("survival", "low", "high", "at_risk"))
    rows = [row(k) for k in points]
    at = [{"time": t, **(row(k) if k in fixed else blank), "few": few(k)} for t, k in zip(spec.at, wanted, strict=True)]
    asked = zip(spec.at, wanted, strict=True)
    notes += _why_not(counts, f"{name}: survival at", axis.unit, {t: k for t, k in asked if k not in fixed})

    def median(values: Float, what: str) -> float | None:
        k = first_at_or_below(values, 0.5)
        if k is not None and not counts.holds(k):
            notes.append(f"{name}: the {what} lies where too few patients were still at risk, and is not shown.")
            return None
        return None if k is None else float(axis.times[k])

    reverse = product_limit(exits - events, at_risk)
    return {
        "median": median(estimated.survival, "median"),
        "median_low": median(low, "lower limit of the median"),
        "median_high": median(high, "upper limit of the median"),
        "follow_up_median": median(reverse.survival, "median follow-up"),
        "curve": {
            "time": [float(axis.times[k]) for k in points],
            **{key: [r[key] for r in rows] for key in ("survival", "low", "high", "at_risk")},
        },
        "at": at,
        "at_risk": [int(at_risk[k]) if k in fixed else None for k in ticks],
        "few_at_risk": [few(k) for k in ticks],
    }


def _why_not(counts: Counts, what: str, unit: str, unshown: dict[float, int]) -> list[str]:
    """Why survival at some times (and their grid positions) is not shown, a sentence for each reason."""
    least = counts.min_count
    reasons: dict[str, list[str]] = {}
    for time, k in unshown.items():
        if counts.at_risk[k] < least:
            reason = f"fewer than {least} patients were at risk"
        elif not counts.holds(k):
            reason = f"fewer than {least} patients were at risk at an earlier time, where the curve ends"
        else:
            reason = f"fewer than {least} patients changed between it and a neighbouring shown time (or the start)"
        reasons.setdefault(reason, []).append(f"{time:g}")
    return [f"{what} {say_list(times)} {unit} is not shown: {reason}." for reason, times in reasons.items()]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
