"""The design matrix: covariates and their interactions as columns within [-1, 1], and the way back to the study's units.

Every column is an affine image of what the study declares (``z = (x - centre) / half``), with centre and half-range from the
*declared* bounds and never from the data. Sums of products of columns are then bounded by the number of patients, which
fixes their encoding, and Newton steps are well conditioned whatever the units.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from unisono.methods.wording import say_list, say_one
from unisono.study.document import BooleanVariable, CategoryVariable, ImageVariable, NumberVariable, Study
from unisono.study.problems import Path, Problem
from unisono.study.table import Table

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Factor:
    """One variable's part in a column: the number itself, or the indicator of one level."""

    variable: str
    level: int | None
    low: float
    high: float
    name: str

    def values(self, table: Table) -> Vector:
        """(n,) in the study's unit, or 0/1."""
        column = table[self.variable]
        return column if self.level is None else (column == self.level).astype(np.float64)


@dataclass(frozen=True)
class Column:
    """A product of factors: a main effect has one, an interaction several."""

    factors: tuple[Factor, ...]

    @property
    def name(self) -> str:
        return ":".join(f.name for f in self.factors)

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the product, by interval arithmetic on the declared bounds."""
        low, high = self.factors[0].low, self.factors[0].high
        for f in self.factors[1:]:
            corners = (low * f.low, low * f.high, high * f.low, high * f.high)
            low, high = min(corners), max(corners)
        return low, high

    @property
    def indicator(self) -> bool:
        return all((f.low, f.high) == (0.0, 1.0) for f in self.factors)

    @property
    def centre(self) -> float:
        low, high = self.bounds
        return 0.0 if self.indicator else (low + high) / 2

    @property
    def half(self) -> float:
        low, high = self.bounds
        return 1.0 if self.indicator else (high - low) / 2

    def values(self, table: Table) -> Vector:
        product = self.factors[0].values(table)
        for f in self.factors[1:]:
            product = product * f.values(table)
        return product


class Design:
    """Columns of a list of covariates: ``[age, sex, age:sex]``; a category gives an indicator for each level but its reference."""

    def __init__(self, study: Study, covariates: list[str]) -> None:
        self.columns: tuple[Column, ...] = tuple(c for term in covariates for c in _columns(study, term))
        self.names = tuple(c.name for c in self.columns)
        self.p = len(self.columns)
        self.centre: Vector = np.array([c.centre for c in self.columns])
        self.half: Vector = np.array([c.half for c in self.columns])

    def matrix(self, table: Table) -> Matrix:
        """(n, p) within [-1, 1], C-ordered."""
        z = np.empty((table.n, self.p))
        for j, column in enumerate(self.columns):
            np.subtract(column.values(table), column.centre, out=z[:, j])
            z[:, j] /= column.half
        return z


def variables_of(covariates: list[str]) -> tuple[str, ...]:
    """The study's variables that covariates read, each once, in order."""
    return tuple(dict.fromkeys(name.strip() for term in covariates for name in term.split(":")))


def label_of(study: Study, name: str) -> str:
    """A variable as a reader knows it."""
    return study.variables[name].label or name


def column_labels(study: Study, covariates: list[str]) -> dict[str, str]:
    """What to write beside each column in a figure, by the column's name: ``age, per year``, ``sex: female``."""
    return {
        column.name: " × ".join(_factor_label(study, factor) for factor in column.factors)
        for column in Design(study, covariates).columns
    }


def _factor_label(study: Study, factor: Factor) -> str:
    variable, label = study.variables[factor.variable], label_of(study, factor.variable)
    if isinstance(variable, NumberVariable):
        return f"{label}, per {say_one(variable.unit)}"
    if isinstance(variable, BooleanVariable):
        return f"{label}: yes"
    assert isinstance(variable, CategoryVariable) and factor.level is not None
    return f"{label}: {variable.levels[factor.level]}"


def say_adjusted(study: Study, covariates: list[str]) -> str:
    """The end of a headline about the first covariate: what else is in the model, and where the first effect holds if an
    interaction lets it differ. Empty where there is nothing to say."""
    first = variables_of(covariates[:1])
    others = [label_of(study, name) for name in variables_of(covariates[1:]) if name not in first]
    crossed = [name for term in covariates[1:] if first[0] in variables_of([term]) for name in variables_of([term])]
    where = [label_of(study, name) for name in dict.fromkeys(crossed) if name not in first]
    adjusted = f", adjusted for {say_list(others)}" if others else ""
    return adjusted + (f", at the reference (or 0) of {say_list(where)}" if where else "")


def covariate_problems(study: Study, covariates: list[str], path: Path = ("covariates",)) -> list[Problem]:
    """Unknown variables, images, and terms that are there twice."""
    found: list[Problem] = []
    seen: dict[frozenset[str], str] = {}
    for i, term in enumerate(covariates):
        parts = [name.strip() for name in term.split(":")]
        unknown = [name for name in parts if name not in study.variables]
        found += [unknown_variable((*path, i), name, study) for name in unknown]
        images = [name for name in parts if isinstance(study.variables.get(name), ImageVariable)]
        found += [image_problem((*path, i), name, "a covariate") for name in images]
        key = frozenset(parts)
        if key in seen or len(key) != len(parts):
            found.append(
                Problem(
                    (*path, i),
                    f"The covariate {term!r} is there twice.",
                    "distinct-covariates",
                    "Remove one of the two.",
                )
            )
        seen[key] = term
    return found


def unknown_variable(path: Path, name: str, study: Study) -> Problem:
    """The problem that a name is none of the study's variables, with the nearest one."""
    near = get_close_matches(name, list(study.variables), 1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"The study's variables are {', '.join(study.variables)}."
    return Problem(path, f"There is no variable {name!r} in this study.", "known-variables", remedy)


def image_problem(path: Path, name: str, use: str) -> Problem:
    """The problem that an image stands where a statistical method needs a number or groups."""
    remedy = (
        "Name a number, category or boolean; a model that learns from images is trained (as with `method: fedavg`)."
    )
    return Problem(path, f"{name!r} is an image, which cannot be {use}.", "variable-type", remedy)


def _columns(study: Study, term: str) -> list[Column]:
    columns = [Column(())]
    for name in term.split(":"):
        columns = [Column((*c.factors, f)) for c in columns for f in _factors(study, name.strip())]
    return columns


def _factors(study: Study, name: str) -> list[Factor]:
    variable = study.variables[name]
    if isinstance(variable, NumberVariable):
        return [Factor(name, None, variable.min, variable.max, name)]
    if isinstance(variable, BooleanVariable):
        return [Factor(name, None, 0.0, 1.0, name)]
    assert isinstance(variable, CategoryVariable)
    return [
        Factor(name, k, 0.0, 1.0, f"{name}[{level}]")
        for k, level in enumerate(variable.levels)
        if level != variable.reference
    ]
