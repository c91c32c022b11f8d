"""Bagged boosting: each hospital grows its own XGBoost trees, and the common model is the weighted mean of their scores.

Breiman (1996), bagging, with hospitals in place of bootstrap samples. One message a hospital, whatever the number of trees; but each
hospital's model is seen by the coordinator, and no tree is grown on more than one hospital's patients: `hist-boosting` is more
private and usually better. What leaves a hospital: as part of a sum `totals` and `performance`; by itself `trees`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unisono.federation.contribution import Declaration, Facts, contribution, within
from unisono.methods.base import PlannedAsk
from unisono.methods.boosting.at_sites import AtSites, SiteModel
from unisono.methods.boosting.model import Model, merged
from unisono.methods.boosting.result import BoostingResult
from unisono.methods.boosting.rows import Patients
from unisono.methods.boosting.spec import BaggingSpec
from unisono.methods.registry import method
from unisono.protection.leaves import blob, count

if TYPE_CHECKING:
    from unisono.federation.federation import Federation


@method("bagged-boosting", version=1, spec=BaggingSpec)
class BaggedBoosting(AtSites[BaggingSpec]):
    """The mean of the hospitals' models."""

    @contribution
    def trees(self, data: Patients, base: float) -> SiteModel:
        """This hospital's own boosted trees, seen by the coordinator by themselves, and the number of its patients."""
        return self.grown(data, base)

    @trees.declares
    def _(self, facts: Facts, base: float) -> Declaration:
        del base
        return Declaration(
            {
                "model": blob(self.limits.size, "This hospital's own trees, as an XGBoost model."),
                "patients": count((), max(facts.patients, 1), "Number of patients they were grown on."),
            },
            {"base": within((), max(self.objective.margin_bound, 1.0))},
        )

    def plan(self) -> tuple[PlannedAsk, ...]:
        """One sum, one model of each hospital, one sum."""
        return (
            PlannedAsk(self.totals, (), 1),
            PlannedAsk(self.trees, (0.5,), 1, "collect"),
            PlannedAsk(self.performance, (np.zeros(self.limits.size, np.uint8),), 1),
        )

    async def run(self, federation: Federation) -> BoostingResult:
        """Collect, validate, merge, measure. `ProtocolError` for a model that is none."""
        totals, base = await self.begun(federation)
        parts = await federation.collect(self.trees, base)
        able = [part for part in parts if len(part.model)]
        models = [self.received(part, base) for part in able]
        patients = np.array([float(part.patients) for part in able])
        weights = np.full(len(able), 1.0) if self.spec.weights == "equal" else patients
        small = len(parts) - len(able)
        notes = (f"{small} hospitals had too few patients for trees of their own.",) if small else ()
        common = merged(models, weights / max(weights.sum(), 1.0)) if models else Model.empty(base)
        return await self.answered(federation, totals, common, notes)
