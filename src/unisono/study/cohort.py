"""The cohort of a study at one site: derived variables, inclusion rules one by one, and the missing-data rule.

Pure functions over the site's table. Nothing is copied where nothing is dropped or filled: a million rows stay where
they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unisono.errors import DataError, StudyError
from unisono.study.document import BooleanVariable, CategoryVariable, Cut, NumberVariable, Study, Variable
from unisono.study.expressions import Expression
from unisono.study.table import Column, Table

Rows = Literal["all", "eligible", "cohort"]


@dataclass(frozen=True)
class Selection:
    """Who is in, and how many were lost where.

    table: the chosen rows of the asked variables; without NaN when rows is ``cohort``.
    keep: (n read,) which input rows are in `table`.
    flow: patients read, after each inclusion rule, and after the missing-data rule (`flow_labels` names them); ends
        earlier for ``all`` (read only) and ``eligible`` (no missing-data rule).
    missing: of each asked variable, how many eligible patients (for ``all``: patients) have no value.
    """

    table: Table
    keep: NDArray[np.bool_]
    flow: tuple[int, ...]
    missing: dict[str, int]


def flow_labels(study: Study) -> tuple[str, ...]:
    """What each number of a cohort's `flow` counts."""
    return ("read", *study.cohort.include, "complete")


def select(
    table: Table,
    study: Study,
    variables: Sequence[str],
    rows: Rows = "cohort",
    imputed: Mapping[str, float] | None = None,
) -> Selection:
    """The rows of `table` (derived variables included, see `derive`) that an analysis of `variables` is given.

    An inclusion rule whose answer is unknown excludes. imputed: the federated mean, or the code of the modal level, of
    the variables whose missing values are filled. `DataError` if one that is needed is not there.
    """
    keep = np.ones(table.n, np.bool_)
    flow = [table.n]
    asked = table.only(list(variables))
    if rows != "all":
        for text in study.cohort.include:
            keep &= Expression.parse(text, study.variables).evaluate(table) == 1.0
            flow.append(int(np.count_nonzero(keep)))
    chosen = asked.without_images().rows(keep)  # images follow at the end, so that they are copied once at most
    gaps = {name: np.isnan(chosen[name]) for name in variables}
    missing = {name: int(np.count_nonzero(gap)) for name, gap in gaps.items()}
    if rows != "cohort":
        return Selection(_pictured(chosen, asked, keep), keep, tuple(flow), missing)

    complete = np.ones(chosen.n, np.bool_)
    filled: dict[str, float] = {}
    for name, count in missing.items():
        if count and study.cohort.missing_rule(name) == "complete-cases":
            complete &= ~gaps[name]
        elif count:
            filled[name] = _replacement(name, imputed or {})
    chosen = _fill(chosen.rows(complete), filled)
    if not complete.all():
        keep[keep] = complete
    flow.append(chosen.n)
    return Selection(_pictured(chosen, asked, keep), keep, tuple(flow), missing)


def _pictured(chosen: Table, asked: Table, keep: NDArray[np.bool_]) -> Table:
    """`chosen` with the images of the rows that are kept of `asked`."""
    images = asked.images if keep.all() else {name: images[keep] for name, images in asked.images.items()}
    return Table(chosen.columns, chosen.n, images)


def derive(table: Table, study: Study) -> Table:
    """`table` with the study's derived variables added, in the order in which they depend on each other."""
    return derive_and_count(table, study)[0]


def derive_and_count(table: Table, study: Study) -> tuple[Table, dict[str, int]]:
    """`derive`, and of each derived number how many values fell outside its declared bounds; those become missing,
    because the bounds fix how sums are encoded. An ``integer`` is rounded to the nearest whole number first."""
    columns = dict(table.columns)
    outside: dict[str, int] = {}
    for name in derivation_order(study):
        variable = study.variables[name]
        sofar = table.having(columns)
        if isinstance(variable, CategoryVariable):
            assert variable.derive is not None
            columns[name] = _cut(sofar, variable.derive)
            continue
        assert variable.derive is not None
        values = Expression.parse(variable.derive, study.variables).evaluate(sofar)
        if isinstance(variable, NumberVariable):
            values, outside[name] = _within(values, variable)
        columns[name] = values
    return table.having(columns), outside


def derivation_order(study: Study) -> list[str]:
    """The derived variables, each after those it is made of. `StudyError` if two are made of each other."""
    order, circle = order_and_circle(study)
    if circle:
        raise StudyError(
            f"These derived variables are made of each other: {', '.join(circle)}.",
            rule="derivation-order",
            remedy="Let each be made only of the data's own variables, or of derived variables that do not need it.",
        )
    return order


def order_and_circle(study: Study) -> tuple[list[str], list[str]]:
    """The derived variables that can be made, in order; and those that cannot, because they lead back to themselves."""
    waiting = {
        name: reads(variable, study.variables)
        for name, variable in study.variables.items()
        if variable.derive is not None
    }
    order: list[str] = []
    while ready := [name for name, inputs in waiting.items() if not any(i in waiting for i in inputs)]:
        order += ready
        for name in ready:
            del waiting[name]
    return order, list(waiting)


def reads(variable: Variable, variables: Mapping[str, Variable]) -> tuple[str, ...]:
    """The variables that a derived variable is made of; none for a variable that is in the data."""
    if variable.derive is None:
        return ()
    if isinstance(variable.derive, Cut):
        return (variable.derive.variable,)
    return Expression.parse(variable.derive, variables).variables


def source_variables(study: Study) -> tuple[str, ...]:
    """The variables that a hospital's data must hold: all that are not derived."""
    return tuple(name for name, variable in study.variables.items() if variable.derive is None)


def _cut(table: Table, cut: Cut) -> Column:
    """(n,) codes 0..len(at): below the first point, from a point up to but not including the next, from the last on."""
    values = table[cut.variable]
    codes = np.searchsorted(np.array(cut.at), values, side="right").astype(np.float64)
    codes[np.isnan(values)] = np.nan
    return codes


def _within(values: Column, variable: NumberVariable) -> tuple[Column, int]:
    if variable.type == "integer":
        values = np.rint(values)
    out = (values < variable.min) | (values > variable.max)
    values[out] = np.nan
    return values, int(np.count_nonzero(out))


def _replacement(name: str, imputed: Mapping[str, float]) -> float:
    if name not in imputed:
        raise DataError(
            f"Missing values of {name!r} are to be filled, but no federated value to fill them with came with the ask.",
            rule="imputation",
            remedy="Let the cohort step finish first; it opens the mean or the mode over all sites.",
        )
    return float(imputed[name])


def _fill(table: Table, filled: Mapping[str, float]) -> Table:
    if not filled:
        return table
    columns = dict(table.columns)
    for name, value in filled.items():
        columns[name] = np.where(np.isnan(columns[name]), value, columns[name])
    return table.having(columns)


def fits(rule: str, variable: Variable) -> bool:
    """Whether this rule may fill this variable: a mean is for numbers, a mode for what has few values, neither for images."""
    if rule == "mean":
        return isinstance(variable, NumberVariable)
    if rule == "mode":
        return isinstance(variable, BooleanVariable | CategoryVariable) or variable.type == "integer"
    return True
