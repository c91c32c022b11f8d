"""FedYogi: FedAvg at the sites, Yogi at the coordinator: its step sizes grow slower than Adam's.

Reddi et al., *Adaptive Federated Optimization*, ICLR 2021, algorithm 2; what is the same for all three is in `server.py`. With D_t the
mean change of a round,

    v_t = v_{t-1} - (1 - beta2) D_t^2 sign(v_{t-1} - D_t^2)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisono.methods.registry import method
from unisono.methods.training.server import DecayingServer, ServerOptimiser
from unisono.methods.training.spec import TrainingSpec

Array = NDArray[np.float64]


class FedYogiSpec(TrainingSpec):
    """server: its rate, beta1, beta2 and tau."""

    server: DecayingServer = DecayingServer()


@method("fedyogi", version=1, spec=FedYogiSpec)
class FedYogi(ServerOptimiser[FedYogiSpec]):
    """A neural network, by averaging with Yogi (Zaheer et al. 2018) at the coordinator."""

    @property
    def server(self) -> DecayingServer:
        return self.spec.server

    def second(self, v: Array, squares: Array) -> Array:
        return v - (1 - self.spec.server.beta2) * squares * np.sign(v - squares)
