"""What can be wrong with a study beyond the shape of its document, all found at once.

Each check looks at one rule and returns problems; none stops the others. What an analysis's own parameters may be is
its method's to say (`unisono.methods.registry.check`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from unisono.errors import StudyError
from unisono.study.cohort import derivation_order, fits, order_and_circle
from unisono.study.document import CategoryVariable, ImageVariable, NumberVariable, Study
from unisono.study.expressions import Expression
from unisono.study.grid import grid_problems
from unisono.study.problems import Path, Problem, did_you_mean
from unisono.study.units import check_unit, duration

LEAST_SITES = 3
"""With two, each hospital subtracts its own part from the sum and reads the other's."""


def problems(study: Study) -> list[Problem]:
    """Everything wrong with `study` at this level, with paths from the top of the document; empty when it is sound."""
    return [problem for check in _CHECKS for problem in check(study)]


def _at(path: Path, error: StudyError) -> Problem:
    return Problem(path, error.what, error.rule, error.remedy)


RESERVED = ("data", "sites")
"""Folders of a run's results that an analysis of the same name would overwrite."""


def _analysis_names(study: Study) -> list[Problem]:
    return [
        Problem(("analyses", name), f"An analysis cannot be called {name!r}.", "reserved-names", "Choose another name.")
        for name in study.analyses
        if name in RESERVED
    ]


def _units(study: Study) -> list[Problem]:
    found = []
    for name, variable in study.variables.items():
        if isinstance(variable, NumberVariable):
            try:
                check_unit(variable.unit)
            except StudyError as error:
                found.append(_at(("variables", name, "unit"), error))
    return found


def _inclusion(study: Study) -> list[Problem]:
    found = []
    for i, text in enumerate(study.cohort.include):
        path = ("cohort", "include", i)
        try:
            expression = Expression.parse(text, study.variables)
        except StudyError as error:
            found.append(_at(path, error))
            continue
        if expression.kind != "boolean":
            what = f"{text[:80]!r} is a number, not a yes/no."
            found.append(Problem(path, what, "expression-type", "Compare it with something, as in age >= 18."))
    return found


def _derivations(study: Study) -> list[Problem]:
    found: list[Problem] = []
    for name, variable in study.variables.items():
        path = ("variables", name, "derive")
        if isinstance(variable, CategoryVariable):
            found += _cut_problems(study, variable, path)
            continue
        if variable.derive is None:
            continue
        try:
            expression = Expression.parse(variable.derive, study.variables)
        except StudyError as error:
            found.append(_at(path, error))
            continue
        wanted = "boolean" if variable.type == "boolean" else "number"
        if expression.kind != wanted:
            what = f"{name!r} is a {variable.type}, but its expression is a {expression.kind}."
            remedy = "Compare it, as in bmi >= 30." if wanted == "boolean" else f"Declare {name!r} as 'type: boolean'."
            found.append(Problem(path, what, "expression-type", remedy))
    if found:
        return found  # the order below reads every expression
    try:
        derivation_order(study)
    except StudyError as error:
        circle = order_and_circle(study)[1]
        found.append(_at(("variables", circle[0], "derive"), error))
    return found


def _cut_problems(study: Study, variable: CategoryVariable, path: Path) -> list[Problem]:
    cut = variable.derive
    if cut is None:
        return []
    found = []
    source = study.variables.get(cut.variable)
    if source is None:
        remedy = did_you_mean(cut.variable, list(study.variables), "variables")
        what = f"There is no variable {cut.variable!r} in this study."
        found.append(Problem((*path, "variable"), what, "known-variables", remedy))
    elif not isinstance(source, NumberVariable):
        what = f"{cut.variable!r} is a {source.type}; only a number can be cut."
        found.append(Problem((*path, "variable"), what, "cut-points", "Name a variable of type number or integer."))
    elif not all(source.min < point <= source.max for point in cut.at):
        bounds = f"{source.min:g} to {source.max:g}"
        what = f"A cut point of {cut.variable!r} lies outside {bounds}: a level would always be empty."
        found.append(Problem((*path, "at"), what, "cut-points", "Keep the points within the variable's min and max."))
    if not all(a < b for a, b in pairwise(cut.at)):
        found.append(
            Problem(
                (*path, "at"),
                "The cut points do not increase.",
                "cut-points",
                "Write them from low to high, each once.",
            )
        )
    return found


def _missing(study: Study) -> list[Problem]:
    written = study.cohort.missing
    path: Path = ("cohort", "missing")
    if isinstance(written, str):
        return _unfit(study, written, list(study.variables), path)
    found = []
    for name, rule in written.items():
        if name in study.variables:
            found += _unfit(study, rule, [name], (*path, name))
        elif name == "default":
            found += _unfit(study, rule, [v for v in study.variables if v not in written], (*path, name))
        else:
            remedy = did_you_mean(name, [*study.variables, "default"], "names")
            found.append(
                Problem((*path, name), f"There is no variable {name!r} in this study.", "known-variables", remedy)
            )
    return found


def _unfit(study: Study, rule: str, names: list[str], path: Path) -> list[Problem]:
    unfit = [name for name in names if not fits(rule, study.variables[name])]
    if not unfit:
        return []
    what = f"Missing values of {', '.join(unfit)} cannot be filled by the {rule}."
    remedy = "A mean is for numbers; a mode is for categories, booleans and integers. Write a rule for each variable."
    if any(isinstance(study.variables[name], ImageVariable) for name in unfit):
        remedy += " Nothing fills in for a picture: write `complete-cases` for images."
    return [Problem(path, what, "missing-rule", remedy)]


def _deadlines(study: Study) -> list[Problem]:
    found = []
    for name in ("deadline", "approve_within"):
        try:
            duration(getattr(study.participation, name))
        except StudyError as error:
            found.append(_at(("participation", name), error))
    return found


def _quorum(study: Study) -> list[Problem]:
    quorum, least = study.participation.quorum, study.release.min_sites
    if quorum is None or quorum >= least:
        return []
    what = f"'quorum: {quorum}' would begin with fewer hospitals than a sum must hold ({least})."
    return [Problem(("participation", "quorum"), what, "min_sites", f"Write 'quorum: {least}' or more.")]


def _protection(study: Study) -> list[Problem]:
    found = []
    if study.protection.hide not in ("secagg", "secagg+", "none"):
        what = f"'hide: {study.protection.hide}' is not in this version of Unisono."
        found.append(Problem(("protection", "hide"), what, "available-protection", "Write 'hide: secagg'."))
    if study.protection.hide == "none" and study.protection.threat == "malicious":
        what = "'threat: malicious' protects nothing that 'hide: none' shows."
        remedy = "Write 'hide: secagg', or 'threat: semi-honest'."
        found.append(Problem(("protection", "threat"), what, "available-protection", remedy))
    if study.protection.hide != "none" and study.release.min_sites < LEAST_SITES:
        what = f"'min_sites: {study.release.min_sites}' would open a sum of fewer than {LEAST_SITES} hospitals."
        remedy = f"Write 'min_sites: {LEAST_SITES}' or more: of two, each could subtract its own part."
        found.append(Problem(("release", "min_sites"), what, "least-sites", remedy))
    return found


_CHECKS: tuple[Callable[[Study], list[Problem]], ...] = (
    _analysis_names,
    _units,
    _derivations,
    _inclusion,
    _missing,
    grid_problems,
    _protection,
    _deadlines,
    _quorum,
)
