"""The site: takes the model, adds its own constant to it, and lets Flower's SecAgg+ mod mask it. The constants' mean is 0.1."""

from __future__ import annotations

import numpy as np
from flwr.app import Context
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp


class DoNothing(NumPyClient):  # type: ignore[misc]
    """own: what this site adds."""

    def __init__(self, own: np.float32) -> None:
        self.own = own

    def fit(self, parameters: list[np.ndarray], config: object) -> tuple[list[np.ndarray], int, dict[str, float]]:  # noqa: ARG002
        return [layer + self.own for layer in parameters], 1000, {}


def site(context: Context) -> Client:
    own = np.float32(0.2 * (int(context.node_config["site"]) + 1) / (int(context.node_config["sites"]) + 1))
    return DoNothing(own).to_client()


app = ClientApp(client_fn=site, mods=[secaggplus_mod])
