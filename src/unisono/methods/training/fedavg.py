"""FedAvg: every site trains the model for a while on its own patients; the mean of what comes out is the next model.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, *Communication-Efficient Learning of Deep Networks from Decentralized Data*,
AISTATS 2017, algorithm 1. With n_i of the N patients of the sites in a round,

    w_{t+1} = w_t + sum_i (n_i / N) (local_i(w_t) - w_t)

Epochs, steps or seconds of local work between two means save rounds, and let sites that differ drift apart: FedProx and
SCAFFOLD hold them. One local step on all patients is gradient descent on the pooled data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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


@method("fedavg", version=1, spec=TrainingSpec)
class FedAvg(Training[TrainingSpec]):
    """A neural network, by federated averaging."""

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution
    def update(self, data: Patients, model: Vector, round: int, prepared: Array) -> dict[str, NDArray[Any]]:
        """How local training changes the model; and beside it losses, on training and on validation patients."""
        place = self.workplace(data, prepared)
        validated = place.validation(model) if self.validated_in(round) else None
        return place.part(model, place.trained(model, round), validated)

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
