"""FedAdam: FedAvg at the sites, Adam at the coordinator.

Reddi et al., *Adaptive Federated Optimization*, ICLR 2021, algorithm 2; what is the same for all three is in `server.py`. With D_t the
mean change of a round,

    v_t = beta2 v_{t-1} + (1 - beta2) D_t^2
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisono.methods.registry import method
from unisono.methods.training.server import DecayingServer, ServerOptimiser
from unisono.methods.training.spec import TrainingSpec

Array = NDArray[np.float64]


class FedAdamSpec(TrainingSpec):
    """server: its rate, beta1, beta2 and tau."""

    server: DecayingServer = DecayingServer()


@method("fedadam", version=1, spec=FedAdamSpec)
class FedAdam(ServerOptimiser[FedAdamSpec]):
    """A neural network, by averaging with Adam at the coordinator."""

    @property
    def server(self) -> DecayingServer:
        return self.spec.server

    def second(self, v: Array, squares: Array) -> Array:
        return self.spec.server.beta2 * v + (1 - self.spec.server.beta2) * squares
