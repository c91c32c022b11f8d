"""SCAFFOLD: every site corrects its gradients by how they differ from everybody's, so that local models do not drift apart.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, *SCAFFOLD: Stochastic Controlled Averaging for Federated Learning*, ICML 2020,
algorithm 1 with option II. Site i keeps a control variate c_i, an estimate of its own gradient; c is their mean, weighted by
patients as the loss is. In a round of K local steps y <- y - rate (g_i(y) - c_i + c) from y = x,

    c_i+ = c_i - c + (x - y) / (K rate)
    x   <- x + server_rate * mean_i(y - x)
    c   <- c + sum_{i in the round} (n_i / N) (c_i+ - c_i)

The change of c_i travels with the update, in the same sum; c_i itself stays in the site's memory, and counts only if the site's
part was in the opened sum, so that c is always the mean of all c_i (to within the rounding of `fixed32`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unisono.federation.contribution import Declaration, Facts, Memory, contribution_with_memory, within
from unisono.methods.base import PlannedAsk
from unisono.methods.registry import method
from unisono.methods.training.data import Patients
from unisono.methods.training.progress import LIMIT, Progress
from unisono.methods.training.spec import TrainingSpec
from unisono.methods.training.training import Step, Training
from unisono.protection.leaves import update
from unisono.study.document import Study
from unisono.study.problems import Problem

if TYPE_CHECKING:
    from unisono.federation.federation import Federation

Vector = NDArray[np.float32]
Array = NDArray[np.float64]

CONTROL = "control"


class ScaffoldSpec(TrainingSpec):
    """server_rate: of the mean change of the model (the paper's global step size). control_bound: what an element of a control
    variate (a gradient) may change by in a round; more is clipped, at the site, so that both ends know the same."""

    server_rate: float = Field(default=1.0, gt=0, le=10)
    control_bound: float = Field(default=10.0, gt=0, le=1e6)

    def problems(self, study: Study) -> list[Problem]:
        found = super().problems(study)
        if self.local.optimiser != "sgd" or self.local.momentum:
            what = "SCAFFOLD's control variates (option II) are mean gradients of plain SGD."
            remedy = "Use `optimiser: sgd` without momentum, or another method."
            found.append(Problem(("local", "optimiser"), what, "plain-sgd", remedy))
        return found


@method("scaffold", version=1, spec=ScaffoldSpec)
class Scaffold(Training[ScaffoldSpec]):
    """A neural network, by averaging local models whose drift is corrected."""

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution_with_memory
    def update(
        self, data: Patients, memory: Memory, model: Vector, round: int, prepared: Array, control: Vector
    ) -> tuple[dict[str, NDArray[Any]], Memory]:
        """How controlled local training changes the model, and how it changes this site's control variate; and losses."""
        from unisono.methods.training.local import constant

        place = self.workplace(data, prepared)
        validated = place.validation(model) if self.validated_in(round) else None
        weights = self.network.weights
        mine = np.asarray(memory.get(CONTROL, np.zeros(weights, np.float32)))
        trained = place.trained(model, round, pull=constant(place.network, control - mine))
        slope = (model[:weights] - trained.vector[:weights]) / (trained.steps * place.rate(round))
        change = np.clip(slope - control, -self.spec.control_bound, self.spec.control_bound)
        tree = place.part(model, trained, validated)
        tree["control"] = change
        return tree, {CONTROL: mine + change}

    @update.declares
    def _(self, facts: Facts, model: Vector, round: int, prepared: Array, control: Vector) -> Declaration:
        del facts, model, round, prepared, control
        weights = (self.network.weights,)
        mine = {"control": update(weights, self.spec.control_bound, "Change of the site's control variate, clipped.")}
        return Declaration(self.leaves() | mine, self.arguments() | {"control": within(weights, LIMIT)})

    def planned(self) -> PlannedAsk:
        arguments = (*self.example(), np.zeros(self.network.weights, np.float32))
        return PlannedAsk(self.update, arguments, self.spec.rounds.most)

    # -- what the coordinator does with the mean ----------------------------------------------------------------------

    def begin(self) -> dict[str, NDArray[Any]]:
        return {CONTROL: np.zeros(self.network.weights, np.float32)}

    async def step(self, federation: Federation, progress: Progress) -> Step:
        control = progress.memory[CONTROL]
        mean = await federation.mean(self.update, progress.model, progress.round + 1, progress.prepared, control)
        share = min(
            federation.behind / federation.facts.patients, 1.0
        )  # of all patients: a mean is over those who took part
        moved = self.moved(progress.model, mean, self.spec.server_rate * mean["update"])
        following = (control + share * mean["control"]).astype(np.float32)
        return Step(moved, {CONTROL: following}, self.answered(mean, federation))
