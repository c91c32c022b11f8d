"""FedAdagrad: FedAvg at the sites, Adagrad at the coordinator: its step sizes only shrink.

Reddi et al., *Adaptive Federated Optimization*, ICLR 2021, algorithm 2; what is the same for all three is in `server.py`. With D_t the
mean change of a round,

    v_t = v_{t-1} + D_t^2
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unisono.methods.registry import method
from unisono.methods.training.server import Server, ServerOptimiser
from unisono.methods.training.spec import TrainingSpec

Array = NDArray[np.float64]


class AdagradServer(Server):
    """beta1 is 0 if it is not said, as in the paper."""

    beta1: float = Field(default=0.0, ge=0, lt=1)


class FedAdagradSpec(TrainingSpec):
    """server: its rate, beta1 and tau."""

    server: AdagradServer = AdagradServer()


@method("fedadagrad", version=1, spec=FedAdagradSpec)
class FedAdagrad(ServerOptimiser[FedAdagradSpec]):
    """A neural network, by averaging with Adagrad at the coordinator."""

    @property
    def server(self) -> Server:
        return self.spec.server

    def second(self, v: Array, squares: Array) -> Array:
        return v + squares
