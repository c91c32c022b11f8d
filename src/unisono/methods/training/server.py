"""Server optimisers: the mean change of a round is taken for a gradient, and the coordinator makes an adaptive step along it.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, *Adaptive Federated Optimization*, ICLR 2021, algorithm 2. With D_t
the mean change of the weights in round t,

    m_t = beta1 m_{t-1} + (1 - beta1) D_t
    v_t = ...                                  (fedadagrad, fedadam, fedyogi: each its own rule)
    w_{t+1} = w_t + rate m_t / (sqrt(v_t) + tau)

m_0 = 0 and v_0 = tau^2, without bias correction, as in the paper. Sites do what they do in FedAvg; nothing more leaves them. Running
statistics of norm layers are averaged: they are no direction.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unisono.federation.contribution import Declaration, Facts, contribution
from unisono.methods.base import PlannedAsk
from unisono.methods.training.data import Patients
from unisono.methods.training.progress import Progress
from unisono.methods.training.spec import Part, TrainingSpec
from unisono.methods.training.training import Step, Training

if TYPE_CHECKING:
    from unisono.federation.federation import Federation

Vector = NDArray[np.float32]
Array = NDArray[np.float64]


class Server(Part):
    """rate: the server's learning rate. beta1: of the mean direction. tau: how adaptive (the smaller, the more)."""

    rate: float = Field(default=0.03, gt=0, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0, le=1)


class DecayingServer(Server):
    """beta2: of the mean squares."""

    beta2: float = Field(default=0.99, ge=0, lt=1)


S = TypeVar("S", bound=TrainingSpec)


class ServerOptimiser(Training[S]):
    """FedAvg at the sites, an adaptive step at the coordinator."""

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

    @property
    @abstractmethod
    def server(self) -> Server:
        """The server's settings."""

    @abstractmethod
    def second(self, v: Array, squares: Array) -> Array:
        """v_t from v_{t-1} and the squares of D_t, (w,) each."""

    def begin(self) -> dict[str, NDArray[Any]]:
        weights = self.network.weights
        return {"m": np.zeros(weights), "v": np.full(weights, self.server.tau**2)}

    async def step(self, federation: Federation, progress: Progress) -> Step:
        mean = await federation.mean(self.update, progress.model, progress.round + 1, progress.prepared)
        direction, server = mean["update"], self.server
        m = server.beta1 * progress.memory["m"] + (1 - server.beta1) * direction
        v = self.second(progress.memory["v"], direction**2)
        moved = self.moved(progress.model, mean, server.rate * m / (np.sqrt(v) + server.tau))
        return Step(moved, {"m": m, "v": v}, self.answered(mean, federation))
