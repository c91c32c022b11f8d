"""Cyclic boosting: the model goes from hospital to hospital, and each adds XGBoost trees to it, several times around.

As the cyclic training of tree models in NVFlare and FedXGB. Each hospital fits what the hospitals before it left unexplained, so the
order matters and the last ones weigh most; the coordinator sees what each hospital adds. `hist-boosting` is more private and has
no order. What leaves a hospital: as part of a sum `totals` and `performance`; by itself `more_trees`, when it is its turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unisono.federation.contribution import Declaration, Facts, contribution
from unisono.methods.base import PlannedAsk
from unisono.methods.boosting.at_sites import AtSites, Bytes, SiteModel
from unisono.methods.boosting.model import Model, merged
from unisono.methods.boosting.result import BoostingResult
from unisono.methods.boosting.rows import Patients
from unisono.methods.boosting.spec import CyclicSpec
from unisono.methods.registry import method
from unisono.protection.leaves import blob, count

if TYPE_CHECKING:
    from unisono.federation.federation import Federation


@method("cyclic-boosting", version=1, spec=CyclicSpec)
class CyclicBoosting(AtSites[CyclicSpec]):
    """One model, continued by one hospital after the other."""

    @contribution
    def more_trees(self, data: Patients, model: Bytes) -> SiteModel:
        """The trees that this hospital adds to the model, seen by the coordinator by themselves, and the number of its patients."""
        start = self.common(model)
        return self.grown(data, start.base_score, start)

    @more_trees.declares
    def _(self, facts: Facts, model: Bytes) -> Declaration:
        return Declaration(
            {
                "model": blob(self.limits.size, "The trees this hospital adds, as an XGBoost model."),
                "patients": count((), max(facts.patients, 1), "Number of patients they were grown on."),
            },
            {"model": self.a_model(model)},
        )

    def plan(self) -> tuple[PlannedAsk, ...]:
        """One sum; in each cycle a turn of every hospital; one sum."""
        model = np.zeros(self.limits.size, np.uint8)
        return (
            PlannedAsk(self.totals, (), 1),
            PlannedAsk(self.more_trees, (model,), self.spec.cycles, "collect"),
            PlannedAsk(self.performance, (model,), 1),
        )

    async def run(self, federation: Federation) -> BoostingResult:
        """Turn after turn; each addition is validated before the next hospital sees it."""
        totals, base = await self.begun(federation)
        common, small = Model.empty(base), set[str]()
        for _ in range(self.spec.cycles):
            for site in federation.sites:
                part = await federation.collect_from(site, self.more_trees, self.file_of(common))
                if not len(part.model):
                    small.add(site)
                    continue
                common = merged([common, self.received(part, base)], [1, 1])
        notes = tuple(f"{site} had too few patients for trees of its own." for site in sorted(small))
        return await self.answered(federation, totals, common, notes)
