"""Ditto: a joint model by FedAvg, and beside it a personal one at each site, held near the joint one.

Li, Hu, Beirami, Smith, *Ditto: Fair and Robust Federated Learning Through Personalization*, ICML 2021, algorithm 1. In round t site i
takes local steps for the joint model, as in FedAvg, and as many for its own model v_i on

    f_i(v) + lambda/2 |v - w_t|^2

lambda is `proximal`: large, and all sites predict with the joint model; 0, and each learns alone. Only the change of the joint model
leaves a site.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unisono.federation.contribution import Declaration, Facts, Memory, contribution_with_memory
from unisono.methods.base import PlannedAsk
from unisono.methods.registry import method
from unisono.methods.training.data import Patients
from unisono.methods.training.personal import Personal
from unisono.methods.training.progress import Progress
from unisono.methods.training.spec import TrainingSpec
from unisono.methods.training.training import Step

if TYPE_CHECKING:
    from unisono.federation.federation import Federation
    from unisono.methods.training.models.vector import Entry

Vector = NDArray[np.float32]
Array = NDArray[np.float64]


class DittoSpec(TrainingSpec):
    """proximal: lambda. The paper tries 0.05 to 2."""

    proximal: float = Field(default=0.1, ge=0, le=1e3)


@method("ditto", version=1, spec=DittoSpec)
class Ditto(Personal[DittoSpec]):
    """A joint neural network, and beside it a personal one at each site."""

    def kept(self, entry: Entry) -> bool:
        del entry
        return True

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution_with_memory
    def update(
        self, data: Patients, memory: Memory, model: Vector, round: int, prepared: Array, best: int
    ) -> tuple[dict[str, NDArray[Any]], Memory]:
        """How local training changes the joint model; and beside it losses, on validation patients of the personal model."""
        from unisono.methods.training.local import proximal

        place, own = self.workplace(data, prepared), self.assembled(model, memory, round - 1)
        validated = place.validation(own) if self.validated_in(round) else None
        trained = place.trained(model, round)
        pull = proximal(place.network, model, self.spec.proximal)
        mine = place.trained(own, round, pull=pull, purpose="personal").vector
        return place.part(model, trained, validated), self.remembered(memory, mine, round, best)

    @update.declares
    def _(self, facts: Facts, model: Vector, round: int, prepared: Array, best: int) -> Declaration:
        del facts, model, round, prepared, best
        return Declaration(self.leaves(), self.with_best())

    def planned(self) -> PlannedAsk:
        return self.planned_with_best(self.update)

    # -- what the coordinator does with the mean ----------------------------------------------------------------------

    async def step(self, federation: Federation, progress: Progress) -> Step:
        asked = (progress.model, progress.round + 1, progress.prepared, progress.best_round)
        mean = await federation.mean(self.update, *asked)
        return Step(self.moved(progress.model, mean), {}, self.answered(mean, federation))
