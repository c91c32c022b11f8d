"""From a hospital's columns to the study's variables: units, codes, dates, bounds and the time grid, with a report.

Every variable is read on its own and every problem is collected, so that one run tells a data steward all there is to
mend. Messages name columns and row numbers, never a patient's value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from unisono.site.data import columns
from unisono.site.data.columns import Values
from unisono.site.data.fitting_units import suggestion
from unisono.site.data.image_files import Pictures, read_pictures
from unisono.site.data.mapping import FixedDate, Mapping, VariableMapping
from unisono.site.data.problems import ROWS_SHOWN, ColumnError, DataProblem, DataProblems, rows_text
from unisono.site.data.readers import Raw
from unisono.site.data.validation import Validation, VariableReport
from unisono.study import units
from unisono.study.cohort import derive_and_count, source_variables
from unisono.study.document import BooleanVariable, CategoryVariable, ImageVariable, NumberVariable, Study, Variable
from unisono.study.grid import GridRule, grids
from unisono.study.table import Table

_ROUNDING = 1e-9
"""Relative error that a conversion of units may add: within it a value is still on its bound, and still whole."""


EMPTY = "{variable}: nobody here has a value; the study fills it in for all of this hospital's patients."
"""Noted of a column without any value, where the study has a rule that fills it (without one, it is refused)."""


@dataclass(frozen=True)
class Harmonised:
    """A hospital's patients in the study's variables, derived ones included, and the report on how they came to be.
    pictures: of each image variable, SHA-256 (hex) over its files."""

    table: Table
    report: Validation
    pictures: AnyMapping[str, str]


def harmonise(raw: Raw, mapping: Mapping, study: Study, name: str) -> Harmonised:
    """The study's variables from `raw` by `mapping`, for the site called `name`.

    Raises `DataProblems` (a `DataError`) with everything that is wrong with the data.
    """
    made: dict[str, Values] = {}
    pictures: dict[str, Pictures] = {}
    reports: dict[str, VariableReport] = {}
    problems: list[DataProblem] = _absent(raw, mapping, study)
    rules = grids(study)
    lost = {p.variable for p in problems}
    for variable in source_variables(study):
        if variable in lost:
            continue
        reading = _Reading.of(raw, mapping, variable, filled=study.cohort.missing_rule(variable) != "complete-cases")
        try:
            if isinstance(declared := study.variables[variable], ImageVariable):
                pictures[variable], reports[variable] = _pictures(reading, declared)
                made[variable] = pictures[variable].content
            else:
                made[variable], reports[variable] = _one(reading, declared, rules.get(variable))
        except ColumnError as error:
            problems += [_problem(e, variable, reading.entry, raw) for e in (error, *error.others)]
    if problems:
        raise DataProblems.of(problems, raw.name)
    images = {name: found.images for name, found in pictures.items()}
    table, outside = derive_and_count(Table(made, raw.n, images), study)
    table = _derived(table, outside, study, rules, reports)
    ordered = {v: table[v] for v in study.variables}
    empty = tuple(EMPTY.format(variable=v) for v in source_variables(study) if raw.n and not reports[v].n)
    told = (*raw.notes, *empty)
    report = Validation(study.id, name, raw.name, raw.n, tuple(reports[v] for v in study.variables), told)
    return Harmonised(table.having(ordered), report, {name: found.digest for name, found in pictures.items()})


def _absent(raw: Raw, mapping: Mapping, study: Study) -> list[DataProblem]:
    """Columns that the mapping, or a variable's own name, asks for and that are not there."""
    problems = []
    for variable in source_variables(study):
        for column in mapping.entry(variable).columns(variable):
            if column in raw.columns:
                continue
            folded = {name.casefold().strip(): name for name in raw.names}
            near = folded.get(column.casefold().strip()) or next(iter(get_close_matches(column, raw.names, 1)), None)
            entry = f"`{variable}: {{column: {json.dumps(near or '...', ensure_ascii=False)}}}`"
            problems.append(
                DataProblem(
                    variable,
                    f"There is no column {column!r} for the variable {variable!r}.",
                    "required-columns",
                    (f"Did you mean the column {near!r}? " if near else "")
                    + f"Say under `variables` of the mapping: {entry}.",
                )
            )
    return problems


def _problem(error: ColumnError, variable: str, entry: VariableMapping, raw: Raw) -> DataProblem:
    said = (error.column,) if error.column else entry.columns(variable)
    names = f"column {said[0]!r}" if len(said) == 1 else f"columns {' and '.join(map(repr, said))}"
    where = ""
    if error.rows is not None:
        numbers = raw.row_numbers(error.rows[:ROWS_SHOWN].tolist())
        where = f" {rows_text(numbers, error.rows.size)}"
        header = f"; the header is row {raw.header_row}" if raw.header_row is not None else ""
        where += f" ({error.rows.size:,} of {raw.n:,} rows{header})"
    what = error.what if error.rows is not None or not error.what.endswith(",") else error.what[:-1]
    return DataProblem(variable, f"The {names} for {variable!r} {what}{where}.", error.rule, error.remedy)


@dataclass(frozen=True)
class _Reading:
    """What one observed variable is read from. filled: the study fills its missing values, so that it may be empty here."""

    raw: Raw
    name: str
    entry: VariableMapping
    missing: frozenset[str]
    date_format: str | None
    filled: bool

    @staticmethod
    def of(raw: Raw, mapping: Mapping, name: str, *, filled: bool) -> _Reading:
        """By the mapping's entry of this variable, and what it says of the whole file."""
        entry = mapping.entry(name)
        missing = frozenset({*mapping.missing, *entry.missing} - set(entry.codes or ()))
        return _Reading(raw, name, entry, missing, entry.date_format or mapping.date_format, filled)

    @property
    def column(self) -> Any:
        """The Arrow column of a variable that has one."""
        return self.raw.columns[self.entry.column or self.name]

    def instants(self, point: str | FixedDate) -> columns.Instants:
        """(n,) of a column of dates, or of a fixed date."""
        if isinstance(point, FixedDate):
            return columns.fixed(point.date, self.raw.n)
        try:
            return columns.dates(self.raw.columns[point], self.missing, self.date_format)
        except ColumnError as error:
            error.column = point
            raise


def _one(reading: _Reading, variable: Variable, rule: GridRule | None) -> tuple[Values, VariableReport]:
    """One observed variable, and its report."""
    name, entry = reading.name, reading.entry
    if isinstance(variable, NumberVariable):
        values, conversion = _number(reading, variable)
    else:
        values, conversion = _coded(reading, variable)
    if not reading.filled:
        _some(values)
    unit = variable.unit if isinstance(variable, NumberVariable) else ""
    report = VariableReport(name, variable.type, unit, _source(entry, name), conversion, 0, 0)
    if isinstance(variable, NumberVariable):
        values, report = _within(values, report, entry, variable)
        values, report = _on_grid(values, report, rule)
    return values, _counted(values, report)


def _pictures(reading: _Reading, variable: ImageVariable) -> tuple[Pictures, VariableReport]:
    """One image variable, and its report."""
    found = read_pictures(reading.column, reading.raw.folder, reading.missing, variable)
    _some(found.content)
    report = VariableReport(reading.name, variable.type, "", _source(reading.entry, reading.name), found.said, 0, 0)
    return found, _counted(found.content, report)


def _some(values: Values) -> None:
    if np.isnan(values).all():
        remedy = (
            "Is this the right column, and are the codes under `missing` right? If this hospital records it for nobody, the study"
            " must say how it is filled: `cohort: missing` with `mean` or `mode`."
        )
        raise ColumnError("is empty: every value is missing", "some-values", remedy)


def _counted(values: Values, report: VariableReport) -> VariableReport:
    missing = int(np.isnan(values).sum())
    return replace(report, n=values.size - missing, missing=missing)


def _source(entry: VariableMapping, name: str) -> str:
    if entry.dates is None:
        return entry.column or name
    start, to = (d.date if isinstance(d, FixedDate) else d for d in entry.dates)
    return f"{start} to {to}"


# --- numbers ---------------------------------------------------------------------------------------------------------


def _number(reading: _Reading, variable: NumberVariable) -> tuple[Values, str]:
    """(n,) in the study's unit, not yet held against the bounds, and what was done."""
    entry = reading.entry
    unit = entry.unit or variable.unit
    conversion = "as it is" if unit == variable.unit else f"{unit} → {variable.unit}"
    if entry.dates is not None:
        start, to = (reading.instants(point) for point in entry.dates)
        birthdays = entry.years_between is not None and variable.type == "integer"
        values, unit = (
            (columns.completed_years(start, to), "a") if birthdays else (columns.days_between(start, to), "d")
        )
        conversion = "dates → birthdays" if birthdays else f"dates → {variable.unit}"
    elif entry.codes is not None:
        meanings = {code: np.nan if m is None else float(m) for code, m in entry.codes.items()}
        values = columns.coded(reading.column, _lookup(meanings, reading.missing), _ADD_CODES)
        conversion = "codes"
    else:
        values = columns.numbers(reading.column, reading.missing, reading.raw.file.decimal or ".")
    converted = units.convert(values, unit, variable.unit)
    _plausible(values, converted, unit, variable)
    return _whole(converted) if variable.type == "integer" else converted, conversion


def _whole(values: Values) -> Values:
    rounded = np.rint(values)
    broken = np.abs(values - rounded) > _ROUNDING * np.maximum(np.abs(values), 1.0)  # NaN is never broken
    if broken.any():
        raise ColumnError(
            "holds numbers that are not whole, and the study asks for an integer,",
            "whole-numbers",
            "Is this the right column and unit? If fractions are meant, the study must declare `type: number`.",
            np.flatnonzero(broken),
        )
    return rounded


def _outside(values: Values, variable: NumberVariable) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """(n,) which known values are outside the declared bounds; None where all are inside (the usual, cheap case)."""
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    if low >= variable.min and high <= variable.max:
        return None
    slack = _ROUNDING * max(abs(variable.min), abs(variable.max))
    return (values < variable.min - slack) | (values > variable.max + slack)


def _plausible(values: Values, converted: Values, unit: str, variable: NumberVariable) -> None:
    """Refuse a column that is mostly outside the declared bounds, its median included: its unit is probably wrong."""
    outside = _outside(converted, variable)
    if outside is None:
        return
    known = int((~np.isnan(converted)).sum())
    share = outside.sum() / max(known, 1)
    median = float(np.nanmedian(converted)) if known else variable.min
    if share <= 0.5 or variable.min <= median <= variable.max:
        return
    better = suggestion(values, variable, unit)
    read = "" if unit == NO_UNIT else f" when read as {unit!r}"
    raise ColumnError(
        f"is mostly ({share:.0%}) outside the declared bounds {_bounds(variable)}{read}",
        "plausible-units",
        f"{WIDEN} Only if the column really is in another unit, say so in the mapping (for example"
        f" `unit: {better!r}` would fit)."
        if better
        else f"{WIDEN} Otherwise, is this the right column? No other usual unit would fit.",
    )


NO_UNIT = "1"
"""UCUM's word for a number without a unit: not worth saying."""
WIDEN = "If the values are right, widen `min` and `max` of the variable in the study."
"""Said first: a unit that happens to fit, and is not the column's, would change every value without a word."""


def _bounds(variable: NumberVariable) -> str:
    unit = "" if variable.unit == NO_UNIT else f" {variable.unit}"
    return f"{variable.min:g} to {variable.max:g}{unit}"


def _within(
    values: Values, report: VariableReport, entry: VariableMapping, variable: NumberVariable
) -> tuple[Values, VariableReport]:
    """Values outside the declared bounds refused, set to missing or moved to the bound, as the mapping says."""
    outside = _outside(values, variable)
    if outside is None:
        return values, report
    count = int(outside.sum())
    if count == 0:  # only a conversion's rounding beyond the bound
        return np.clip(values, variable.min, variable.max), report
    if entry.outside == "refuse":
        raise ColumnError(
            f"is outside the declared bounds {_bounds(variable)}",
            "declared-bounds",
            f"Correct these rows, or decide in the mapping: `outside: missing` or `outside: clamp`. {WIDEN}",
            np.flatnonzero(outside),
        )
    if entry.outside == "missing":
        values = np.where(outside, np.nan, values)
        if np.isnan(values).all():
            raise ColumnError(
                "is empty once values outside the bounds are set to missing",
                "some-values",
                "Is this the right column and unit?",
            )
    values = np.clip(values, variable.min, variable.max)
    return values, replace(report, outside=count, treatment="missing" if entry.outside == "missing" else "clamped")


def _on_grid(values: Values, report: VariableReport, rule: GridRule | None) -> tuple[Values, VariableReport]:
    """Times up and entries down to the study's grid; the report says how many moved and how far at most."""
    if rule is None:
        return values, report
    rounded = rule.round_to(values)
    moves = np.abs(rounded - values)
    largest = float(np.fmax.reduce(moves)) if moves.size else 0.0
    moved = int((moves > _ROUNDING * rule.step).sum())
    return rounded, replace(report, moved=moved, largest_move=largest if moved else 0.0)


# --- categories and booleans -----------------------------------------------------------------------------------------

_ADD_CODES = "Add them under `codes` in the mapping with what each means (null for missing), or under `missing`."


def _coded(reading: _Reading, variable: Variable) -> tuple[Values, str]:
    """(n,) 0/1 of a boolean, level indices of a category."""
    codes, missing = reading.entry.codes, reading.missing
    conversion = "as it is" if codes is None else "codes"
    if isinstance(variable, CategoryVariable):
        levels = {level: float(k) for k, level in enumerate(variable.levels)}
        meanings = levels
        if codes is not None:
            meanings = {code: np.nan if m is None else levels[str(m)] for code, m in codes.items()}
        remedy = f"{_ADD_CODES} The levels are {', '.join(variable.levels)}."
        return columns.coded(reading.column, _lookup(meanings, missing), remedy), conversion
    assert isinstance(variable, BooleanVariable)
    if codes is not None:
        meanings = {code: np.nan if m is None else float(m) for code, m in codes.items()}
        return columns.coded(reading.column, _lookup(meanings, missing), _ADD_CODES), conversion
    if columns.kind_of(reading.column) == "boolean":
        return columns.floats_of(reading.column), conversion
    remedy = 'Say what each code means, for example `codes: {"yes": true, "no": false}`.'
    return columns.coded(reading.column, _lookup(_YES_NO, missing, caseless=True), remedy), conversion


_IDLE_DECIMALS = re.compile(r"(?<=\d)\.0*$")
_YES_NO = {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0}


def _lookup(
    meanings: dict[str, float], missing: frozenset[str], caseless: bool = False
) -> Callable[[str], float | None]:
    """What a code means: as written, or, for a number with idle decimals (``1.0``), as the whole number."""

    def meaning(code: str) -> float | None:
        plain = code.casefold() if caseless else code
        for spelling in (code, _IDLE_DECIMALS.sub("", plain)):
            if spelling in meanings:
                return meanings[spelling]
            if spelling in missing:
                return np.nan
        return None

    return meaning


# --- derived variables -----------------------------------------------------------------------------------------------


def _derived(
    table: Table,
    outside: AnyMapping[str, int],
    study: Study,
    rules: dict[str, GridRule],
    reports: dict[str, VariableReport],
) -> Table:
    """Derived variables on the grid and in the report; `outside` of each became missing when it was derived."""
    made = dict(table.columns)
    for name, variable in study.variables.items():
        if variable.derive is None:
            continue
        unit = variable.unit if isinstance(variable, NumberVariable) else ""
        count = outside.get(name, 0)
        report = VariableReport(
            name, variable.type, unit, "the study", "derived", 0, 0, count, "missing" if count else ""
        )
        made[name], report = _on_grid(made[name], report, rules.get(name))
        reports[name] = _counted(made[name], report)
    return table.having(made)
