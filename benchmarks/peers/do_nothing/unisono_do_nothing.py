"""A method that learns nothing, as fast as it can: every hospital sends back the weights that it was sent, and the coordinator
averages them. What a round of it takes is what the network and the protection take. Installed for benchmarks only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unisono.errors import MissingExtra
from unisono.federation.contribution import Declaration, Facts, contribution, within
from unisono.methods.base import Method, PlannedAsk, Result, Spec
from unisono.methods.registry import method
from unisono.protection.leaves import update
from unisono.study.document import Study
from unisono.study.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unisono.federation.federation import Federation

Weights = NDArray[np.float32]
BOUND = 1.0


class DoNothingSpec(Spec):
    """size: of the model that is sent around; rounds: how often."""

    size: int
    rounds: int


class Rounds(Result):
    """Seconds of every round."""

    def summary(self) -> pd.DataFrame:
        return pd.DataFrame({"seconds": self.estimates["seconds"]})

    def headline(self) -> str:
        return f"{len(self.estimates['seconds'])} rounds."

    def plot(self) -> Figure:
        raise MissingExtra("There is no figure of this.", rule="missing-extra", remedy="Read the table.")


@method("do-nothing", version=1, spec=DoNothingSpec)
class DoNothing(Method[DoNothingSpec]):
    """FedAvg without training."""

    def variables(self) -> tuple[str, ...]:
        return ("age",)

    def prepare(self, table: Table) -> Table:
        return table

    @contribution
    def round(self, _data: Table, weights: Weights) -> dict[str, Weights]:
        """The weights, as they came."""
        return {"weights": weights}

    @round.declares
    def _(self, _facts: Facts, _weights: Weights) -> Declaration:
        shape = (self.spec.size,)
        return Declaration({"weights": update(shape, BOUND, "Weights.")}, {"weights": within(shape, BOUND)})

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.round, (self._start(),), self.spec.rounds),)

    async def run(self, federation: Federation) -> Result:
        weights, seconds = self._start(), []
        for _ in range(self.spec.rounds):
            began = time.perf_counter()
            found = await federation.sum(self.round, weights)
            seconds.append(time.perf_counter() - began)
            mean = np.asarray(found["weights"]) / len(federation.sites)
            error = float(np.abs(mean - weights).max())
            weights = np.clip(mean, -BOUND, BOUND).astype(np.float32)
        estimates: dict[str, Any] = {"seconds": seconds, "error": error}
        return self.result(self.study, self.analysis, estimates)

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> Rounds:
        return Rounds(study, analysis, estimates, **rest)

    def _start(self) -> Weights:
        return np.linspace(-0.5, 0.5, self.spec.size, dtype=np.float32)
