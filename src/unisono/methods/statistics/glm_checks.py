"""What a GLM cannot be fitted on, said instead of a meaningless number: constant outcomes and covariates, levels that
too few patients hold, too many parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unisono.errors import MethodError
from unisono.methods.design import Design, unknown_variable
from unisono.methods.statistics.families import FamilyName
from unisono.methods.statistics.irls import NormalEquations
from unisono.methods.wording import say_list
from unisono.study.document import BooleanVariable, CategoryVariable, NumberVariable, Study, Variable
from unisono.study.problems import Problem

if TYPE_CHECKING:
    from unisono.methods.statistics.glm import GlmSpec, Totals

PARAMETERS_PER_PATIENT = 0.2
FLAT = 1e-10
"""Variance of a scaled column below which it does not vary, within what the encoding carries."""


def outcome_problems(study: Study, family: FamilyName, outcome: str, covariates: Sequence[str]) -> list[Problem]:
    """An outcome that is unknown, of a type that the family cannot have, or its own covariate."""
    variable = study.variables.get(outcome)
    if variable is None:
        return [unknown_variable(("outcome",), outcome, study)]
    found: list[Problem] = []
    if outcome in covariates:
        found.append(
            Problem(
                ("covariates",),
                f"{outcome!r} is the outcome and a covariate.",
                "outcome-apart",
                "Remove it from the covariates.",
            )
        )
    wanted = _unfit(family, variable)
    if wanted:
        found.append(
            Problem(
                ("outcome",), f"The {family} family cannot have {outcome!r} as its outcome.", "outcome-type", wanted
            )
        )
    return found


def _unfit(family: FamilyName, variable: Variable) -> str | None:
    """What to do about an outcome's type; None if it fits the family."""
    if family == "binomial" and not isinstance(variable, BooleanVariable):
        return "Name a boolean variable, or derive one with an expression."
    if family == "gaussian" and not isinstance(variable, NumberVariable):
        return "Name a number variable, or use `family: binomial` for a boolean."
    if family == "poisson" and not (
        isinstance(variable, NumberVariable) and variable.type == "integer" and variable.min >= 0
    ):
        return "Name an integer variable whose declared `min` is 0 or more: counts are never negative."
    return None


def enough(study: Study, outcome: str, family: FamilyName, design: Design, totals: Totals) -> None:
    """`MethodError` when patients, outcomes or the holders of a level are too few (on the opened totals)."""
    n, q = int(totals.patients), design.p + 1
    if q > PARAMETERS_PER_PATIENT * n:
        needed = int(np.ceil(q / PARAMETERS_PER_PATIENT))
        raise MethodError(
            f"The model has {q} parameters, more than {PARAMETERS_PER_PATIENT:g} of the number of patients.",
            rule="parameters-against-patients",
            remedy=f"Use fewer covariates or levels, or a cohort of at least {needed} patients.",
        )
    _enough_outcomes(study, outcome, family, n, int(totals.events))
    _enough_holders(study, design, n, totals)


def _enough_outcomes(study: Study, outcome: str, family: FamilyName, n: int, events: int) -> None:
    if family == "gaussian":
        return
    rest = n - events if family == "binomial" else n
    if events == 0 or rest == 0:
        who = "No patient has" if events == 0 else "Every patient has"
        raise _constant_outcome(f"{who} the outcome {outcome!r}, so there is nothing to explain.")
    least = study.release.min_count
    if min(events, rest) < least:
        which = f"have {outcome!r}" if events < least else f"do not have {outcome!r}"
        what = (
            f"Fewer than {least} patients {which}."
            if family == "binomial"
            else f"{outcome!r} adds up to fewer than {least}."
        )
        raise MethodError(what, rule="small-cells", remedy="Widen the cohort, or choose a commoner outcome.")


def _enough_holders(study: Study, design: Design, n: int, totals: Totals) -> None:
    """Every indicator, and each category's reference, must be held and be lacked by `min_count` patients."""
    least = study.release.min_count
    columns = [c for c in design.columns if c.indicator]
    held = {c.name: int(h) for c, h in zip(columns, totals.held, strict=True)}
    for name, number in held.items():
        if number in (0, n):
            raise MethodError(
                f"{'No' if number == 0 else 'Every'} patient has {name}: it does not vary.",
                rule="constant-covariate",
                remedy="Remove the level or the covariate, or widen the cohort.",
            )
    for variable in dict.fromkeys(c.factors[0].variable for c in columns if len(c.factors) == 1):
        declared = study.variables[variable]
        levels = [held[c.name] for c in columns if len(c.factors) == 1 and c.factors[0].variable == variable]
        reference = declared.reference if isinstance(declared, CategoryVariable) else "no"
        held[f"{variable}[{reference}] (the reference)"] = n - sum(levels)
    small = [name for name, number in held.items() if number < least]
    if small:
        raise MethodError(
            f"Fewer than {least} patients have {say_list(small)}.",
            rule="small-cells",
            remedy="Merge rare levels (or choose another reference), leave the covariate out, or widen the cohort.",
        )


def varying(null: NormalEquations, spec: GlmSpec, design: Design) -> None:
    """`MethodError` if the outcome or a covariate does not vary, seen in the sums of the model without covariates."""
    information = null.information
    weight = float(information[0, 0])
    if float(null.deviance) <= FLAT * weight:
        raise _constant_outcome(f"The outcome {spec.outcome!r} is the same for every patient.")
    means = information[0, 1:] / weight
    spread = np.diag(information)[1:] / weight - means**2
    flat = [name for name, s in zip(design.names, spread, strict=True) if s <= FLAT]
    if flat:
        raise MethodError(
            f"{say_list(flat)} does not vary, compared with its declared range.",
            rule="constant-covariate",
            remedy="Leave it out, or declare min/max that are close to the values that really occur.",
        )


def _constant_outcome(what: str) -> MethodError:
    return MethodError(what, rule="constant-outcome", remedy="Choose another outcome, or widen the cohort.")
