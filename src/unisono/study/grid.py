"""The declared time grid of survival analyses: one grid for each time variable, times rounded up, entries down.

Rounding is what makes federated equal pooled: on the same grid, every hospital's times fall on the same points. All
analyses of one time variable share one grid; an analysis that declares none inherits it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from unisono.errors import StudyError
from unisono.study.document import Grid, NumberVariable, Study
from unisono.study.problems import Path, Problem, from_pydantic
from unisono.study.units import check_unit, compatible, factor

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
        return max(1, _multiple(self.last / self.step, math.ceil))

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
    """The rule of every variable that is the `time` or the `entry` of an analysis. `StudyError` if a grid is missing or ambiguous."""
    rules, problems = _resolve(study)
    if problems:
        first = problems[0]
        raise StudyError(first.what, rule=first.rule, remedy=first.remedy, where=".".join(map(str, first.path)))
    return rules


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
    return _resolve(study)[1]


def _resolve(study: Study) -> tuple[dict[str, GridRule], list[Problem]]:
    problems: list[Problem] = []
    steps: dict[str, float] = {}
    declared_in: dict[str, str] = {}
    malformed: set[str] = set()
    for name, analysis in study.analyses.items():
        time, grid = analysis.parameters.get("time"), analysis.parameters.get("grid")
        if grid is None or not _number(study, time):
            continue
        step = _declared_step(study, time, grid, ("analyses", name, "grid"), problems)
        if step is None:
            malformed.add(time)
        elif time not in steps:
            steps[time], declared_in[time] = step, name
        elif not math.isclose(step, steps[time], rel_tol=_SAME):
            problems.append(
                Problem(
                    ("analyses", name, "grid"),
                    f"The analyses {declared_in[time]!r} and {name!r} put {time!r} on two different grids.",
                    "one-grid",
                    "Write the same grid in both, or leave it out of one: it then inherits the other's.",
                )
            )
    rules: dict[str, GridRule] = {}
    for name, analysis in study.analyses.items():
        time, entry = analysis.parameters.get("time"), analysis.parameters.get("entry")
        if not _number(study, time) or time in malformed:
            continue
        if time not in steps:
            problems.append(
                Problem(
                    ("analyses", name),
                    f"The analysis {name!r} needs a declared grid for {time!r}: survival needs a declared grid.",
                    "survival-grid",
                    "Add a grid that is coarse enough for several patients to share a time, as in 'grid: {step: 1, unit: mo}'.",
                )
            )
            continue
        _add(rules, _rule(study, time, steps[time], "time"), ("analyses", name, "time"), problems)
        if _number(study, entry):
            _add_entry(study, rules, time, entry, steps[time], ("analyses", name, "entry"), problems)
    problems += [p for time, rule in rules.items() if rule.role == "time" for p in _range_problems(study, time, rule)]
    return rules, problems


def _number(study: Study, name: Any) -> bool:
    """Whether `name` is a number variable; anything else is the method's to report."""
    return isinstance(name, str) and isinstance(study.variables.get(name), NumberVariable)


def _variable(study: Study, name: str) -> NumberVariable:
    variable = study.variables[name]
    assert isinstance(variable, NumberVariable)
    return variable


def _rule(study: Study, name: str, step: float, role: Role) -> GridRule:
    return GridRule(name, step, _variable(study, name).max, role)


def _declared_step(study: Study, time: str, written: Any, path: Path, problems: list[Problem]) -> float | None:
    """The step in the time variable's unit; None, and a problem, where the grid cannot be read."""
    try:
        grid = written if isinstance(written, Grid) else Grid.model_validate(written)
    except ValidationError as error:
        problems += from_pydantic(error, path, Grid, written)
        return None
    unit = _variable(study, time).unit
    try:
        check_unit(grid.unit)
    except StudyError as error:
        problems.append(Problem((*path, "unit"), error.what, error.rule, error.remedy))
        return None
    try:
        if compatible(grid.unit, unit):
            return grid.step * factor(grid.unit, unit)
    except StudyError:
        return None  # the variable's own unit is unknown, which is reported there
    problems.append(
        Problem(
            (*path, "unit"),
            f"The grid's unit {grid.unit!r} does not fit {time!r}, which is in {unit!r}.",
            "grid-unit",
            f"Give the grid in {unit!r}, or in a unit that converts to it.",
        )
    )
    return None


def _add_entry(
    study: Study, rules: dict[str, GridRule], time: str, entry: str, step: float, path: Path, problems: list[Problem]
) -> None:
    source, target = _variable(study, time).unit, _variable(study, entry).unit
    try:
        fits = compatible(source, target)
    except StudyError:
        return  # an unknown unit is reported at its variable
    if fits:
        _add(rules, _rule(study, entry, step * factor(source, target), "entry"), path, problems)
        return
    problems.append(
        Problem(
            path,
            f"The entry {entry!r} is in {target!r} and the time {time!r} in {source!r}.",
            "grid-unit",
            "Give both in units of time, counted from the same origin.",
        )
    )


def _add(rules: dict[str, GridRule], rule: GridRule, path: Path, problems: list[Problem]) -> None:
    """One rule for each variable: the same step everywhere, and one direction of rounding."""
    known = rules.setdefault(rule.variable, rule)
    if known.role != rule.role:
        what = f"{rule.variable!r} is a time in one analysis and an entry in another; it would be rounded both up and down."
    elif not math.isclose(known.step, rule.step, rel_tol=_SAME):
        what = f"{rule.variable!r} is the entry of two times that are on different grids."
    else:
        return
    problems.append(Problem(path, what, "one-grid", "Use two variables, or the same grid for both times."))


def _range_problems(study: Study, time: str, rule: GridRule) -> list[Problem]:
    if _variable(study, time).min < 0:
        return [
            Problem(
                ("variables", time, "min"),
                f"{time!r} is a time, and its grid begins at 0, but it may be negative.",
                "grid-range",
                "Set 'min: 0'; the mapping reports what lies outside.",
            )
        ]
    if rule.last / rule.step > MAX_POINTS:
        return [
            Problem(
                ("variables", time, "max"),
                f"The grid of {time!r} has more than {MAX_POINTS} points.",
                "grid-range",
                "Choose a larger step, or a smaller 'max' for the variable.",
            )
        ]
    return []


def _multiple(quotient: float, rounding: Any) -> int:
    near = round(quotient)
    return near if abs(quotient - near) <= _SAME * abs(near) else int(rounding(quotient))
