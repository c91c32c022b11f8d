"""Flower's SecAgg+ for `secure_sum.py`: the real `secaggplus_mod` and `SecAggPlusWorkflow`, no network between them.

    .bench-venv/bin/python benchmarks/peers/flower_secagg.py --sites 5 --size 1000000 --threshold 4 --lost 1 --repeats 5

The server's half runs in this process and all clients in one child, each message in Flower's own serialised form over a
pipe, so that the peak memory of each half is its own. Clients answer one after another, so one client's figures are
its own too. What is counted in Flower's favour: serialising and sending are not; neither is the local fit; and the
global model that goes with the request is a single number.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import time
import uuid
from collections import defaultdict
from multiprocessing.connection import Connection
from typing import Any

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import flwr
import flwr.compat.common.recorddict_compat as compat
import memory
import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as Wire
from flwr.server import LegacyContext, ServerConfig
from flwr.server.client_manager import SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

FIRST_NODE = 10
MAX_WEIGHT = 1000.0

Cost = tuple[float, float]
"""CPU and wall milliseconds."""


def vector(node: int, size: int) -> np.ndarray:
    """A client's update, (size,) float32, the same at every call."""
    return np.random.default_rng(node).standard_normal(size, np.float32) * np.float32(0.05)


def weight(node: int) -> int:
    return 50 + 37 * node % 900


def be_a_task() -> None:
    """Flower's records of who runs a message, which its runtime would set."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


# -- the clients' process ---------------------------------------------------------------------------------------------


def clients(pipe: Connection, size: int) -> None:
    """Answer each message with the real mod: first the reply, then what it cost. An empty message ends the process."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    be_a_task()
    contexts: dict[int, Context] = {}
    base, most = memory.start(), 0
    while data := pipe.recv_bytes():
        message = message_from_proto(Wire.FromString(data))
        node = message.metadata.dst_node_id
        context = contexts.setdefault(
            node, Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
        )
        fit: list[Cost] = []

        def trained(message: Message, _: Context, node: int = node, fit: list[Cost] = fit) -> Message:
            began, used = time.perf_counter(), time.process_time()
            update = ndarrays_to_parameters([vector(node, size)])
            result = FitRes(Status(Code.OK, ""), update, weight(node), {})
            reply = Message(compat.fitres_to_recorddict(result, keep_input=False), reply_to=message)
            fit.append((time.process_time() - used, time.perf_counter() - began))
            return reply

        del data
        memory.start()
        began, used = time.perf_counter(), time.process_time()
        reply = secaggplus_mod(message, context, trained)
        cpu = time.process_time() - used - sum(f[0] for f in fit)
        wall = time.perf_counter() - began - sum(f[1] for f in fit)
        most = max(most, memory.peak() - base)
        up = sum(_size(value) for value in reply.content.config_records[RECORD_KEY_CONFIGS].values())
        pipe.send_bytes(message_to_proto(reply).SerializeToString())
        pipe.send_bytes(json.dumps({"cpu": 1e3 * cpu, "wall": 1e3 * wall, "bytes": up, "memory": most}).encode())
        del message, reply


def _size(value: Any) -> int:
    """Bytes of a record's value, its numbers as 8 bytes each."""
    if isinstance(value, list):
        return sum(_size(item) for item in value)
    return len(value) if isinstance(value, bytes | str) else 8


# -- the server's process ---------------------------------------------------------------------------------------------


class Pipe(Grid):  # type: ignore[misc]
    """Flower's `Grid` over a pipe to the clients' process. What passes here is transport, and is not counted."""

    def __init__(self, pipe: Connection, sites: int, lost: int) -> None:
        self.pipe = pipe
        self.nodes = list(range(FIRST_NODE, FIRST_NODE + sites))
        self.to_lose = lost
        self._run = Run.create_empty(1)
        self.restart()

    def restart(self) -> None:
        """Forget the last sum's figures."""
        self.gone: set[int] = set()
        self.client_costs: dict[int, list[dict[str, float]]] = defaultdict(list)
        self.transport: Cost = (0.0, 0.0)
        self.most = 0

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        return self.nodes

    def push_messages(self, messages: Any) -> Any:
        raise NotImplementedError("the workflow sends and receives in one call")

    def pull_messages(self, message_ids: Any) -> Any:
        raise NotImplementedError("the workflow sends and receives in one call")

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Message]:  # noqa: ARG002
        self.most = max(self.most, memory.peak())
        began, used = time.perf_counter(), time.process_time()
        replies = [self._ask(message) for message in messages]
        memory.start()
        self.transport = (
            self.transport[0] + time.process_time() - used,
            self.transport[1] + time.perf_counter() - began,
        )
        return replies

    def _ask(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
        stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        if stage == Stage.COLLECT_MASKED_VECTORS and len(self.gone) < self.to_lose:
            self.gone.add(node)
        if node in self.gone:
            return Message(Error(code=0, reason="lost"), reply_to=message)
        self.pipe.send_bytes(message_to_proto(message).SerializeToString())
        reply = message_from_proto(Wire.FromString(self.pipe.recv_bytes()))
        self.client_costs[node].append(json.loads(self.pipe.recv_bytes()))
        return reply


def one_sum(grid: Pipe, threshold: int) -> tuple[Cost, np.ndarray]:
    """One secure sum through the real workflow: what the server spent, and the weighted mean it opened, (size,)."""
    sites = len(grid.nodes)
    initial = ndarrays_to_parameters([np.zeros(1, np.float32)])
    strategy = FedAvg(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=sites,
        min_evaluate_clients=0,
        min_available_clients=sites,
        initial_parameters=initial,
    )
    manager = SimpleClientManager()
    for node in grid.nodes:
        manager.register(GridClientProxy(node_id=node, grid=grid, run_id=1))
    context = LegacyContext(
        context=Context(1, 1, {}, RecordDict(), {}),
        config=ServerConfig(num_rounds=1),
        strategy=strategy,
        client_manager=manager,
    )
    context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(initial, True)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord(
        {WorkflowKey.START_TIME: time.time(), WorkflowKey.CURRENT_ROUND: 1}
    )
    workflow = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=threshold, max_weight=MAX_WEIGHT)
    grid.restart()
    memory.start()
    began, used = time.perf_counter(), time.process_time()
    workflow(grid, context)
    spent = (time.process_time() - used - grid.transport[0], time.perf_counter() - began - grid.transport[1])
    grid.most = max(grid.most, memory.peak())
    opened = context.state.array_records[MAIN_PARAMS_RECORD]
    return spent, parameters_to_ndarrays(compat.arrayrecord_to_parameters(opened, True))[0]


def measure(grid: Pipe, size: int, threshold: int, repeats: int) -> dict[str, Any]:
    """Several sums: every client's and the server's CPU and wall ms, bytes of one client, and peak memory of both."""
    site: dict[str, Any] = {"cpu": [], "wall": [], "bytes": 0, "memory": 0}
    server: dict[str, Any] = {"cpu": [], "wall": [], "bytes": 0, "memory": 0}
    base, error = memory.start(), 0.0
    for repeat in range(repeats + 1):
        (cpu, wall), opened = one_sum(grid, threshold)
        stayed = [node for node in grid.nodes if node not in grid.gone]
        server["memory"] = max(server["memory"], grid.most - base)
        costs = {node: grid.client_costs[node] for node in stayed}
        site["memory"] = max(c["memory"] for cost in costs.values() for c in cost)
        site["bytes"] = max(sum(c["bytes"] for c in cost) for cost in costs.values())
        server["bytes"] = sum(c["bytes"] for cost in grid.client_costs.values() for c in cost)
        if repeat == 0:  # checked once, and left out of the times: first calls load libraries
            total = sum(weight(node) for node in stayed)
            expected = np.zeros(size)
            for node in stayed:
                expected += weight(node) / total * vector(node, size)
            error = float(np.abs(opened - expected).max())
            continue
        server["cpu"].append(1e3 * cpu)
        server["wall"].append(1e3 * wall)
        for name in ("cpu", "wall"):
            site[name] += [sum(c[name] for c in cost) for cost in costs.values()]
    return {"site": site, "coordinator": server, "error": error, "version": flwr.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--size", type=int, required=True, help="parameters")
    parser.add_argument("--threshold", type=int, required=True, help="shares that rebuild a secret")
    parser.add_argument("--lost", type=int, default=0, help="clients lost after their shares, before their vector")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    be_a_task()
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    child = spawn.Process(target=clients, args=(there, options.size), daemon=True)
    child.start()
    there.close()
    grid = Pipe(here, options.sites, options.lost)
    result = measure(grid, options.size, options.threshold, options.repeats)
    here.send_bytes(b"")
    child.join()
    if result["error"] > 1e-3:
        raise SystemExit(f"Flower's sum is off by {result['error']:.1e}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
