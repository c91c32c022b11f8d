"""FedRep: the sites share a representation, and each has a head of its own on it.

Collins, Hassani, Mokhtari, Shakkottai, *Exploiting Shared Representations for Personalized Federated Learning*, ICML 2021,
algorithm 1. In a round a site first fits its head to the representation that was broadcast (`head_epochs`), and then trains the
representation under that head (`local`); only the change of the representation leaves. For sites where the same findings mean
different things (another coding, another population). A new hospital fits a head of its own.
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


class FedRepSpec(TrainingSpec):
    """head_epochs: epochs in which a site fits its head, in every round, before `local` trains the representation."""

    head_epochs: int = Field(default=1, ge=1, le=1000)

    def problems(self, study: Study) -> list[Problem]:
        what = "FedRep keeps the model's `head` at the site, and this model has none."
        missing = Problem(("model",), what, "shared-part", "Use a model whose last layer is called `head`.")
        return super().problems(study) or nothing_shared(self, study, lambda entry: entry.is_head, missing)


@method("fedrep", version=1, spec=FedRepSpec)
class FedRep(Personal[FedRepSpec]):
    """A neural network with a shared representation, and each site's own head."""

    whole = False

    def own(self, entry: Entry) -> bool:
        return entry.is_head

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution_with_memory
    def update(
        self, data: Patients, memory: Memory, model: Vector, round: int, prepared: Array, best: int
    ) -> tuple[dict[str, NDArray[Any]], Memory]:
        """How local training under this site's head changes the representation; and beside it losses of its own model."""
        place, start = self.workplace(data, prepared), self.assembled(model, memory, round - 1)
        validated = place.validation(start) if self.validated_in(round) else None
        epochs = {"epochs": self.spec.head_epochs, "steps": None, "seconds": None}
        settings = self.spec.local.model_copy(update=epochs)
        headed = place.trained(start, round, chosen=self.own, settings=settings, purpose="head").vector
        trained = place.trained(headed, round, chosen=lambda entry: not self.own(entry))
        mine = headed[self.own_part]
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
