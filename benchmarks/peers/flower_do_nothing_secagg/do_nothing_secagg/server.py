"""The server: Flower's SecAgg+ workflow as it is, with the time at which each round begins. Its figures go to `out`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_PARAMS_RECORD
from flwr.serverapp import Grid, ServerApp

app = ServerApp()
LAYERS = 10
THRESHOLD = 2
"""Shares that open a mask, of as many as there are sites."""
EXAMPLES = 1000.0
"""Every site's weight, and so the largest."""


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    setting = context.run_config
    parameters, rounds, sites = int(setting["parameters"]), int(setting["rounds"]), int(setting["sites"])
    while len(list(grid.get_node_ids())) < sites:
        time.sleep(0.5)
    values = np.random.default_rng(1).standard_normal(parameters, np.float32) * np.float32(0.1)
    layers = np.array_split(values, LAYERS)
    strategy = FedAvg(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=sites,
        min_evaluate_clients=0,
        min_available_clients=sites,
        initial_parameters=ndarrays_to_parameters(layers),
    )
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=rounds), strategy=strategy)
    workflow = SecAggPlusWorkflow(num_shares=sites, reconstruction_threshold=THRESHOLD, max_weight=EXAMPLES)
    stamps: list[float] = []

    def timed(grid: Grid, context: Context) -> None:
        stamps.append(time.time())
        workflow(grid, context)

    found: dict[str, Any] = {"stamps": stamps, "answers": [], "error": float("inf")}
    try:
        DefaultWorkflow(fit_workflow=timed)(grid, legacy)
        stamps.append(time.time())
        final = [layer.numpy() for layer in legacy.state.array_records[MAIN_PARAMS_RECORD].values()]
        found["error"] = max(
            float(np.max(np.abs(after - (before + np.float32(0.1 * rounds))), initial=0.0))
            for after, before in zip(final, layers, strict=True)
        )
    finally:  # what was found goes out, and a failure is seen by its error at infinity
        out = Path(str(setting["out"]))
        out.with_suffix(".part").write_text(json.dumps(found), "utf-8")
        out.with_suffix(".part").replace(out)
