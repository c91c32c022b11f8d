"""The server: Flower's FedAvg as it is, with the time at which each round begins. Its figures go to the file `out`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from cnn_fedavg import task

app = ServerApp()


class TimedFedAvg(FedAvg):  # type: ignore[misc]
    """FedAvg that remembers when its rounds began, how many good answers each brought, and how long sites trained."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.stamps: list[float] = []
        self.answers: list[int] = []
        self.local: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.stamps.append(time.time())
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        replies = list(replies)
        good = [reply for reply in replies if not reply.has_error()]
        self.answers.append(len(good))
        self.local.append(max((float(reply.content["metrics"]["seconds"]) for reply in good), default=0.0))
        return super().aggregate_train(server_round, replies)


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    setting = context.run_config
    sites = int(setting["sites"])
    module = task.network()
    strategy = TimedFedAvg(
        fraction_evaluate=0.0, min_train_nodes=sites, min_evaluate_nodes=0, min_available_nodes=sites
    )
    found: dict[str, Any] = {
        "stamps": strategy.stamps,
        "answers": strategy.answers,
        "local": strategy.local,
        "accuracy": -1.0,
    }
    try:
        first = ArrayRecord(module.state_dict())
        result = strategy.start(grid=grid, initial_arrays=first, num_rounds=int(setting["rounds"]))
        strategy.stamps.append(time.time())
        module.load_state_dict(result.arrays.to_torch_state_dict())
        found["accuracy"] = task.accuracy(module, *task.patients(str(setting["data"]), "test"))
    finally:  # what was found goes out, and a failure is seen by its accuracy below 0
        out = Path(str(setting["out"]))
        out.with_suffix(".part").write_text(json.dumps(found), "utf-8")
        out.with_suffix(".part").replace(out)
