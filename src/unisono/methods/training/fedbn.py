"""FedBN: the norm layers stay at the site, weights and statistics alike; everything else is averaged.

Li, Jiang, Zhang, Kamp, Dou, *FedBN: Federated Learning on Non-IID Features via Local Batch Normalization*, ICLR 2021, algorithm 1.
For sites whose inputs differ (another scanner, another assay): each site's norms take the difference out, and what follows them is
learned by all. A new hospital has no norms yet, so that the training gives no single model; each site has its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unisono.federation.contribution import Declaration, Facts, Memory, contribution_with_memory
from unisono.methods.base import PlannedAsk
from unisono.methods.registry import method
from unisono.methods.training.data import Patients
from unisono.methods.training.personal import Personal, nothing_shared
from unisono.methods.training.progress import Progress
from unisono.methods.training.spec import TrainingSpec
from unisono.methods.training.training import Step
from unisono.study.document import Study
from unisono.study.problems import Problem

if TYPE_CHECKING:
    from unisono.federation.federation import Federation
    from unisono.methods.training.models.vector import Entry

Vector = NDArray[np.float32]
Array = NDArray[np.float64]


class FedBNSpec(TrainingSpec):
    """The model needs norm layers."""

    def problems(self, study: Study) -> list[Problem]:
        what = "FedBN keeps the norm layers at the site, and this model has none."
        missing = Problem(("model",), what, "shared-part", "Add `norm: batch` to the model, or use another method.")
        return super().problems(study) or nothing_shared(self, study, lambda entry: entry.is_norm, missing)


@method("fedbn", version=1, spec=FedBNSpec)
class FedBN(Personal[FedBNSpec]):
    """A neural network with each site's own norm layers, by averaging everything else."""

    whole = False

    def own(self, entry: Entry) -> bool:
        return entry.is_norm

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution_with_memory
    def update(
        self, data: Patients, memory: Memory, model: Vector, round: int, prepared: Array, best: int
    ) -> tuple[dict[str, NDArray[Any]], Memory]:
        """How local training changes the shared part of the model; and beside it losses of this site's own model."""
        place, start = self.workplace(data, prepared), self.assembled(model, memory, round - 1)
        validated = place.validation(start) if self.validated_in(round) else None
        trained = place.trained(start, round)
        mine = trained.vector[self.own_part]
        return place.part(start, trained, validated), self.remembered(memory, mine, round, best)

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
