"""The declared time grid of survival analyses: one grid for each time variable, times rounded up, entries down.

Rounding is what makes federated equal pooled: on the same grid, every hospital's times fall on the same points. All
analyses of one time variable share one grid; an analysis that declares none inherits it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from unisono.errors import MappingError, StudyError
from unisono.study.document import Grid, NumberVariable, Study
from unisono.study.problems import Path, Problem, from_pydantic
from unisono.study.units import check_unit, factor

Role = Literal["time", "entry"]

MAX_POINTS = 100_000
"""A curve is one array along the grid; beyond this the grid hides nothing and costs much."""
_SAME = 1e-9
"""Relative distance within which a value is on the grid, and two steps are one step."""


@dataclass(frozen=True)
class GridRule:
    """The grid of one variable.

    step: in the variable's own unit. last: the variable's declared maximum, same unit.
    role: ``time`` rounds up (an event is known to have happened by then), ``entry`` rounds down.
    """

    variable: str
    step: float
    last: float
    role: Role

    @property
    def points(self) -> int:
        """Number of grid times ``step, 2 step, ..., points * step``, the last of which is not before `last`."""
        quotient = self.last / self.step
        near = round(quotient)
        return max(1, near if abs(quotient - near) <= _SAME * abs(near) else math.ceil(quotient))

    def index(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """(n,) which grid time each value falls on: 0 is the start, k is ``k * step``; -1 where missing."""
        known = ~np.isnan(values)
        quotient = np.where(known, values, 0.0) / self.step
        near = np.rint(quotient)
        on_grid = np.abs(quotient - near) <= _SAME * np.abs(near)
        rounded = np.where(on_grid, near, np.ceil(quotient) if self.role == "time" else np.floor(quotient))
        rounded[~known] = -1
        return rounded.astype(np.int64)

    def round_to(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) on the grid, in the variable's unit: equal grid times are equal to the last bit; NaN stays NaN."""
        return np.where(np.isnan(values), np.nan, self.index(values) * self.step)


def grids(study: Study) -> dict[str, GridRule]:
    """The rule of every variable that is the `time` or the `entry` of an analysis.

    `StudyError` if a grid is missing or ambiguous; a study that `unisono.study.checks` found sound has neither.
    """
    found = _Grids(study)
    if found.problems:
        first = found.problems[0]
        raise StudyError(first.what, rule=first.rule, remedy=first.remedy, where=".".join(map(str, first.path)))
    return found.rules


def grid_of(study: Study, analysis: str) -> GridRule:
    """The grid of one analysis's time variable. `StudyError` if it has none."""
    time = study.analyses[analysis].parameters.get("time")
    rules = grids(study)
    if not isinstance(time, str) or time not in rules:
        raise StudyError(
            f"The analysis {analysis!r} has no time variable with a grid.",
            rule="survival-grid",
            remedy="Name a number variable under 'time', and add 'grid: {step: 1, unit: mo}'.",
        )
    return rules[time]


def grid_problems(study: Study) -> list[Problem]:
    """What is wrong with the declared grids, with paths from the top of the document."""
    return _Grids(study).problems


class _Grids:
    """The rules of one study, and what is wrong with them."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.rules: dict[str, GridRule] = {}
        self.problems: list[Problem] = []
        self._steps: dict[str, float] = {}
        self._unreadable: set[str] = set()
        declared_in: dict[str, str] = {}
        for name, analysis in study.analyses.items():
            time, grid = analysis.parameters.get("time"), analysis.parameters.get("grid")
            if grid is not None and self._is_number(time):
                self._declare(name, time, grid, declared_in)
        for name, analysis in study.analyses.items():
            time, entry = analysis.parameters.get("time"), analysis.parameters.get("entry")
            if self._is_number(time) and time not in self._unreadable:
                self._use(name, time, entry)
        for rule in self.rules.values():
            if rule.role == "time":
                self._check_range(rule)

    def _is_number(self, name: Any) -> TypeGuard[str]:
        """Whether `name` is a number variable; anything else is the method's to report."""
        return isinstance(name, str) and isinstance(self.study.variables.get(name), NumberVariable)

    def _variable(self, name: str) -> NumberVariable:
        variable = self.study.variables[name]
        assert isinstance(variable, NumberVariable)
        return variable

    def _problem(self, path: Path, what: str, rule: str, remedy: str) -> None:
        self.problems.append(Problem(path, what, rule, remedy))

    def _declare(self, name: str, time: str, grid: Any, declared_in: dict[str, str]) -> None:
        path = ("analyses", name, "grid")
        step = self._step(time, grid, path)
        if step is None:
            self._unreadable.add(time)
        elif time not in self._steps:
            self._steps[time], declared_in[time] = step, name
        elif not math.isclose(step, self._steps[time], rel_tol=_SAME):
            what = f"The analyses {declared_in[time]!r} and {name!r} put {time!r} on two different grids."
            remedy = "Write the same grid in both, or leave it out of one: it then inherits the other's."
            self._problem(path, what, "one-grid", remedy)

    def _step(self, time: str, written: Any, path: Path) -> float | None:
        """The step in the time variable's unit; None, and a problem, where the grid cannot be read."""
        try:
            grid = written if isinstance(written, Grid) else Grid.model_validate(written)
            check_unit(grid.unit)
        except ValidationError as error:
            self.problems += from_pydantic(error, path, Grid, written)
            return None
        except StudyError as error:
            self._problem((*path, "unit"), error.what, error.rule, error.remedy)
            return None
        unit = self._variable(time).unit
        try:
            return grid.step * factor(grid.unit, unit)
        except StudyError:
            return None  # the variable's own unit is unknown, which is reported there
        except MappingError:
            what = f"The grid's unit {grid.unit!r} does not fit {time!r}, which is in {unit!r}."
            self._problem(
                (*path, "unit"), what, "grid-unit", f"Give the grid in {unit!r}, or in a unit that converts to it."
            )
            return None

    def _use(self, name: str, time: str, entry: Any) -> None:
        """The rules that the analysis `name` needs: its time's, and its entry's on the same grid."""
        path = ("analyses", name)
        step = self._steps.get(time)
        if step is None:
            what = f"Survival needs a declared grid, and no analysis declares one for {time!r}."
            remedy = (
                "Add one that is coarse enough for several patients to share a time, as in 'grid: {step: 1, unit: mo}'."
            )
            self._problem(path, what, "survival-grid", remedy)
            return
        self._add(GridRule(time, step, self._variable(time).max, "time"), (*path, "time"))
        if not self._is_number(entry):
            return
        source, target = self._variable(time).unit, self._variable(entry).unit
        try:
            step *= factor(source, target)
        except StudyError:
            return  # an unknown unit is reported at its variable
        except MappingError:
            what = f"The entry {entry!r} is in {target!r} and the time {time!r} in {source!r}."
            remedy = "Give both in units of time, counted from the same origin."
            self._problem((*path, "entry"), what, "grid-unit", remedy)
            return
        self._add(GridRule(entry, step, self._variable(entry).max, "entry"), (*path, "entry"))

    def _add(self, rule: GridRule, path: Path) -> None:
        """One rule for each variable: the same step everywhere, and one direction of rounding."""
        known = self.rules.setdefault(rule.variable, rule)
        if known.role != rule.role:
            what = f"{rule.variable!r} is a time here and an entry there; it would be rounded both up and down."
        elif not math.isclose(known.step, rule.step, rel_tol=_SAME):
            what = f"{rule.variable!r} is the entry of two times that are on different grids."
        else:
            return
        self._problem(path, what, "one-grid", "Use two variables, or the same grid for both times.")

    def _check_range(self, rule: GridRule) -> None:
        path = ("variables", rule.variable)
        if self._variable(rule.variable).min < 0:
            what = f"{rule.variable!r} is a time, and its grid begins at 0, but it may be negative."
            self._problem((*path, "min"), what, "grid-range", "Set 'min: 0'; the mapping reports what lies outside.")
        if rule.last <= 0:
            what = f"{rule.variable!r} is a time, and can never be above 0."
            self._problem((*path, "max"), what, "grid-range", "Set 'max' to the longest follow-up.")
        elif rule.last / rule.step > MAX_POINTS:
            what = f"The grid of {rule.variable!r} has more than {MAX_POINTS} points."
            self._problem(
                (*path, "max"), what, "grid-range", "Choose a larger step, or a smaller 'max' for the variable."
            )
