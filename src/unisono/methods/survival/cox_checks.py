"""What a Cox regression cannot be fitted on, said from the opened totals before the first iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unisono.errors import MethodError
from unisono.methods.design import label_of, variables_of
from unisono.methods.survival.fit import Scale
from unisono.methods.wording import say_list, say_p
from unisono.study.document import Study

if TYPE_CHECKING:
    from unisono.methods.survival.cox import CoxRegression
    from unisono.methods.survival.cox_sums import Totals

PARAMETERS_PER_PATIENT = 0.2
EVENTS_PER_PARAMETER = 10
"""Below this a fit is possible but shaky (Peduzzi et al. 1995); it is noted."""
PH_ALPHA = 0.05
"""A check of proportional hazards with a smaller p than this is noted."""
OFF_RANGE = 1e-4
"""Within this part of the declared half-range: a number whose values all lie there is declared far too wide, or constant."""


def answerable(method: CoxRegression, totals: Totals) -> None:
    """`MethodError`, rules: ``parameters-against-patients``, ``no-events``, ``few-events``, ``parameters-against-events``,
    ``rare-level``."""
    n, events, p = int(totals.patients), int(totals.events), method.p
    if p > PARAMETERS_PER_PATIENT * n + 1e-9:
        raise MethodError(
            f"The model has {p} coefficients, more than {PARAMETERS_PER_PATIENT:g} of the number of patients.",
            rule="parameters-against-patients",
            remedy=f"Use fewer covariates or levels, or a cohort of at least {int(np.ceil(p / PARAMETERS_PER_PATIENT))} patients.",
        )
    if events == 0:
        raise MethodError(
            f"Nobody had the event {method.spec.event!r}: a hazard ratio compares times of events.",
            rule="no-events",
            remedy="Check the coding of the event in the mappings (which code means that it happened), or follow up longer.",
        )
    least = method.study.release.min_count
    if events < least:
        raise MethodError(
            f"Fewer than {least} patients had the event {method.spec.event!r}: the baseline hazard and the standard errors "
            "would give so small a number away.",
            rule="few-events",
            remedy="Follow up longer, invite more hospitals, or widen the event (for instance to any progression or death).",
        )
    if events <= p:
        raise MethodError(
            f"The model has {p} coefficients, and there are no more events than that.",
            rule="parameters-against-events",
            remedy=f"Use fewer covariates or levels; {EVENTS_PER_PARAMETER} events for each coefficient is a common rule of thumb.",
        )
    _refuse_rare(method, totals, n)


def _refuse_rare(method: CoxRegression, totals: Totals, n: int) -> None:
    """A level held by too few patients: its coefficient would speak of them alone."""
    least = method.study.release.min_count
    names = [method.design.names[j] for j in method.indicators]
    rare = [name for name, held in zip(names, totals.holders, strict=True) if min(held, n - held) < least]
    if rare:
        raise MethodError(
            f"Fewer than {least} patients have, or fewer than {least} do not have, {say_list(rare)}.",
            rule="rare-level",
            remedy="Merge levels, leave the covariate out, or restrict the cohort to the levels that are common enough.",
        )


def scale_of(method: CoxRegression, totals: Totals) -> Scale:
    """What a fit must know of sizes, to say what is wrong with it.

    Where the declared bounds of a number are absurd, its scaled values are all the same: -1, 0 or 1 to many digits. That
    cannot be told from a constant by the information alone, but the mean, which was opened, gives it away.
    """
    means = totals.numbers / max(float(totals.patients), 1.0)
    off = {name for (name, _), z in zip(method.numbers, means, strict=True) if min(abs(z), abs(abs(z) - 1)) < OFF_RANGE}
    columns = {c.name: [f.variable for f in c.factors if f.level is None] for c in method.design.columns}
    numbers = {name for name, used in columns.items() if any(variable in dict(method.numbers) for variable in used)}
    return Scale(
        patients=float(totals.patients) * method.heaviest,
        events=float(totals.weight.sum()),
        numbers=frozenset(numbers),
        crowded=frozenset(name for name in numbers if off & set(columns[name])),
    )


def ph_advice(study: Study, tests: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the check of proportional hazards found, where it found something: which hazard ratios may change with time."""
    failed = [row for row in tests if row["p"] is not None and row["p"] < PH_ALPHA]
    named = [(_say_term(study, row["name"]), say_p(row["p"])) for row in failed if row["name"] != "global"]
    if not failed:
        return []
    if not named:
        return [
            f"Hazards may not be proportional (all covariates together: {say_p(failed[0]['p'])}), though no covariate stands "
            "out: one number for each is an average over time."
        ]
    if len(named) == 1:
        ((term, p),) = named
        return [f"The hazard ratio of {term} may change with time ({p}): one number is an average over time."]
    terms = say_list([f"{term} ({p})" for term, p in named])
    return [f"The hazard ratios of {terms} may change with time: one number for each is an average over time."]


def _say_term(study: Study, term: str) -> str:
    return " × ".join(label_of(study, name) for name in variables_of([term]))


def advice(method: CoxRegression, totals: Totals) -> list[str]:
    """What a reader of the result should know."""
    notes = []
    if method.common:
        notes.append(
            "One baseline hazard for all hospitals: the coordinator saw sums over the patients at risk at each event time, "
            "some of them over few patients."
        )
    else:
        notes.append("Each hospital has its own baseline hazard (stratified): hazards are compared within hospitals.")
    if totals.events < EVENTS_PER_PARAMETER * method.p:
        notes.append(
            f"There are fewer than {EVENTS_PER_PARAMETER} events for each coefficient: the estimates and their limits are shaky."
        )
    if method.spec.weights:
        notes.append("Standard errors take the case weights as numbers of like patients (they are not robust ones).")
    return notes
