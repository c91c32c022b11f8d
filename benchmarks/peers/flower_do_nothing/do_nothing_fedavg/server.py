"""The server: Flower's FedAvg as it is, with the time at which each round begins. Its figures go to the file `out`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()
LAYERS = 10


class TimedFedAvg(FedAvg):  # type: ignore[misc]
    """FedAvg that remembers when its rounds began, and how many good answers each brought."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.stamps: list[float] = []
        self.answers: list[int] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.stamps.append(time.time())
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        replies = list(replies)
        self.answers.append(sum(not reply.has_error() for reply in replies))
        return super().aggregate_train(server_round, replies)


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    setting = context.run_config
    parameters, rounds, sites = int(setting["parameters"]), int(setting["rounds"]), int(setting["sites"])
    # Layers that differ, for the same reason for which the sites' answers do.
    layers = np.array_split(np.random.default_rng(1).standard_normal(parameters, np.float32), LAYERS)
    strategy = TimedFedAvg(
        fraction_evaluate=0.0, min_train_nodes=sites, min_evaluate_nodes=0, min_available_nodes=sites
    )
    found: dict[str, Any] = {"stamps": strategy.stamps, "answers": strategy.answers, "error": float("inf")}
    try:
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord(layers), num_rounds=rounds)
        strategy.stamps.append(time.time())
        final = result.arrays.to_numpy_ndarrays()
        found["error"] = max(
            float(np.max(np.abs(after - (before + np.float32(rounds))), initial=0.0))
            for after, before in zip(final, layers, strict=True)
        )
    finally:  # what was found goes out, and a failure is seen by its error at infinity
        out = Path(str(setting["out"]))
        out.with_suffix(".part").write_text(json.dumps(found), "utf-8")
        out.with_suffix(".part").replace(out)
