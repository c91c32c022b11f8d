"""The coordinator's half of a run, for any exchange: one analysis of a study, from the opened cohort to its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from unisono.errors import MethodError
from unisono.federation.attempts import SiteLeft
from unisono.federation.federation import Federation
from unisono.methods.base import Result
from unisono.methods.cohort import CohortResult, establish
from unisono.methods.registry import build
from unisono.study.document import Study

PARAMETER_FRACTION = 0.2
"""Fitted parameters per patient of the whole cohort, at most (../shared/design/privacy.md, Disclosure control)."""

_LEFT = (
    "Left for good, and not in these numbers: {}. Sums had been opened with it before and were opened again without it, so "
    "whoever sees both, as the coordinator does, can work out its part of those. The study (`on_dropout: continue`) and "
    "every site's permit allow this."
)


@dataclass(frozen=True)
class Answer:
    """An analysis's result, the cohort it is over, and the sites that were in."""

    result: Result
    cohort: CohortResult
    sites: tuple[str, ...]


async def answer(study: Study, analysis: str, begin: Callable[[], Federation]) -> Answer:
    """Run one analysis. `begin` makes its federation: again after a site left for good (`on_dropout: continue`), so that
    everything reported is recomputed on those who stayed."""
    while True:
        federation = begin()
        try:
            cohort = await establish(federation, study, analysis)
            federation.facts = cohort.facts
            method = build(study, analysis)
            patients, parameters = cohort.facts.patients, method.parameters
            if parameters > PARAMETER_FRACTION * patients:
                raise MethodError(
                    f"{parameters} parameters are too many for {patients} patients.",
                    rule="parameters-against-patients",
                    remedy=f"Use at most {int(PARAMETER_FRACTION * patients)}: drop covariates or merge levels.",
                )
            result = await method.run(federation)
            await federation.finish()
        except SiteLeft:
            continue
        notes = (*result.notes, *(f"{_LEFT.format(', '.join(federation.left))}" for _ in federation.left[:1]))
        notes = (*notes, *federation.remarks)
        return Answer(replace(result, notes=notes), cohort, federation.sites)
