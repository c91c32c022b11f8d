"""Time, event and entry of a survival analysis: what a study must say, and a site's patients on the declared grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unisono.errors import DataError
from unisono.methods.base import Spec
from unisono.methods.design import unknown_variable
from unisono.study.document import BooleanVariable, Grid, Name, NumberVariable, Study
from unisono.study.grid import grid_of, grids
from unisono.study.problems import Problem
from unisono.study.table import Table

Index = NDArray[np.int32]
Flags = NDArray[np.bool_]


class SurvivalSpec(Spec):
    """What every survival analysis says: `time` and `event`, perhaps `entry` (delayed entry), `grid`, the `confidence`
    of intervals, and times `at` which survival is wanted, in the unit of `time`."""

    time: Name
    event: Name
    entry: Name | None = None
    grid: Grid | None = None
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    at: list[float] = Field(default_factory=list)

    def problems(self, study: Study) -> list[Problem]:
        """Variables that are unknown, of the wrong type or used twice; times that are not in follow-up."""
        found = _number_problems(study, "time", self.time)
        event = study.variables.get(self.event)
        if event is None:
            found.append(unknown_variable(("event",), self.event, study))
        elif not isinstance(event, BooleanVariable):
            found.append(
                Problem(
                    ("event",),
                    f"The event {self.event!r} is not a boolean.",
                    "variable-type",
                    "Declare it as 'type: boolean' (true where the event happened, false where follow-up ended without it).",
                )
            )
        if self.entry is not None:
            found += _number_problems(study, "entry", self.entry)
            if self.entry == self.time:
                found.append(
                    Problem(
                        ("entry",), "Entry and time are the same variable.", "variable-twice", "Name two variables."
                    )
                )
        return found + self._at_problems(study)

    def _at_problems(self, study: Study) -> list[Problem]:
        variable = study.variables.get(self.time)
        if not isinstance(variable, NumberVariable):
            return []
        return [
            Problem(
                ("at", i),
                f"The time {t:g} is not after 0 and up to the declared maximum of {self.time!r}, {variable.max:g}.",
                "times-in-follow-up",
                f"Give a time in {variable.unit!r} above 0 and at most {variable.max:g}.",
            )
            for i, t in enumerate(self.at)
            if not 0 < t <= variable.max
        ]

    def time_variables(self) -> tuple[str, ...]:
        """Time, event and entry, each once."""
        names = (self.time, self.event) if self.entry is None else (self.time, self.event, self.entry)
        return tuple(dict.fromkeys(names))


def _number_problems(study: Study, key: str, name: str) -> list[Problem]:
    variable = study.variables.get(name)
    if variable is None:
        return [unknown_variable((key,), name, study)]
    if isinstance(variable, NumberVariable):
        return []
    return [
        Problem(
            (key,),
            f"The {key} {name!r} is not a number.",
            "variable-type",
            "Declare it as 'type: number' with a unit of time.",
        )
    ]


@dataclass(frozen=True)
class Axis:
    """The grid of one analysis as array positions: position k is the time ``k * step`` in `unit`, k = 0 .. length - 1."""

    time: str
    event: str
    entry: str | None
    step: float
    entry_step: float
    length: int
    unit: str

    @staticmethod
    def of(study: Study, analysis: str, spec: SurvivalSpec) -> Axis:
        """From the study's grid of the analysis's time variable."""
        rule = grid_of(study, analysis)
        variable = study.variables[spec.time]
        assert isinstance(variable, NumberVariable)
        entry_step = rule.step if spec.entry is None else grids(study)[spec.entry].step
        return Axis(spec.time, spec.event, spec.entry, rule.step, entry_step, rule.points + 1, variable.unit)

    @property
    def times(self) -> NDArray[np.float64]:
        """(length,) in `unit`."""
        return np.asarray(np.arange(self.length) * self.step, np.float64)

    def position(self, time: float) -> int:
        """The last grid position that is not after `time`."""
        quotient = time / self.step
        near = round(quotient)
        on_grid = abs(quotient - near) <= 1e-9 * max(near, 1)
        return min(near if on_grid else int(np.floor(quotient)), self.length - 1)

    def exits(self, table: Table) -> Index:
        """(n,) position at which each patient's follow-up ends."""
        return self._positions(table, self.time, self.step)

    def entries(self, table: Table) -> Index | None:
        """(n,) position after which each patient is at risk; None where everybody is from the start.
        `DataError` where somebody enters at or after the end of their own follow-up."""
        if self.entry is None:
            return None
        entries = self._positions(table, self.entry, self.entry_step)
        if (entries >= self.exits(table)).any():
            raise DataError(
                f"Some patients have {self.entry!r} at or after {self.time!r}: they were never under observation.",
                rule="entry-before-exit",
                remedy=f"Correct the two columns, or exclude them in the study: 'include: [\"{self.entry} < {self.time}\"]'.",
            )
        return entries

    def events(self, table: Table) -> Flags:
        """(n,) true where follow-up ended with the event."""
        return table[self.event] > 0.5

    def _positions(self, table: Table, name: str, step: float) -> Index:
        quotient = np.rint(table[name] / step)
        if not np.isfinite(quotient).all() or (quotient.size and (quotient.min() < 0 or quotient.max() >= self.length)):
            raise DataError(
                f"Values of {name!r} are missing or outside the declared follow-up.",
                rule="declared-bounds",
                remedy=f"Declare 'min: 0' and a 'max' that holds for every patient, or treat them in the mapping of {name!r}.",
            )
        return quotient.astype(np.int32)
