"""What a Cox regression cannot be fitted on, said from the opened totals before the first iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unisono.errors import MethodError
from unisono.methods.wording import say_list

if TYPE_CHECKING:
    from unisono.methods.survival.cox import CoxRegression
    from unisono.methods.survival.cox_sums import Totals

PARAMETERS_PER_PATIENT = 0.2
EVENTS_PER_PARAMETER = 10
"""Below this a fit is possible but shaky (Peduzzi et al. 1995); it is noted."""


def answerable(method: CoxRegression, totals: Totals) -> None:
    """`MethodError`, rules: ``parameters-against-patients``, ``no-events``, ``parameters-against-events``,
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
