"""FedProx: FedAvg, with a spring that holds every site's local model near the one that was broadcast.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, *Federated Optimization in Heterogeneous Networks*, MLSys 2020, algorithm 2. In round t
site i takes its local steps on

    f_i(w) + mu/2 |w - w_t|^2

so that sites with other patients, or with more local steps, drift less. mu is `proximal`; with 0 it is FedAvg, bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unisono.federation.contribution import Declaration, Facts, contribution
from unisono.methods.base import PlannedAsk
from unisono.methods.registry import method
from unisono.methods.training.data import Patients
from unisono.methods.training.progress import Progress
from unisono.methods.training.spec import TrainingSpec
from unisono.methods.training.training import Step, Training

if TYPE_CHECKING:
    from unisono.federation.federation import Federation

Vector = NDArray[np.float32]
Array = NDArray[np.float64]


class FedProxSpec(TrainingSpec):
    """proximal: mu. The paper tries 0.001 to 1; the more sites differ, the larger."""

    proximal: float = Field(default=0.01, ge=0, le=1e3)


@method("fedprox", version=1, spec=FedProxSpec)
class FedProx(Training[FedProxSpec]):
    """A neural network, by averaging local models that are held near the joint one."""

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution
    def update(self, data: Patients, model: Vector, round: int, prepared: Array) -> dict[str, NDArray[Any]]:
        """How local training, held near the model that was broadcast, changes it; and beside it losses."""
        from unisono.methods.training.local import proximal

        place = self.workplace(data, prepared)
        validated = place.validation(model) if self.validated_in(round) else None
        pull = proximal(place.network, model, self.spec.proximal) if self.spec.proximal else None
        return place.part(model, place.trained(model, round, pull=pull), validated)

    @update.declares
    def _(self, facts: Facts, model: Vector, round: int, prepared: Array) -> Declaration:
        del facts, model, round, prepared
        return Declaration(self.leaves(), self.arguments())

    def planned(self) -> PlannedAsk:
        return PlannedAsk(self.update, self.example(), self.spec.rounds.most)

    # -- what the coordinator does with the mean ----------------------------------------------------------------------

    async def step(self, federation: Federation, progress: Progress) -> Step:
        mean = await federation.mean(self.update, progress.model, progress.round + 1, progress.prepared)
        return Step(self.moved(progress.model, mean), {}, self.answered(mean, federation))
