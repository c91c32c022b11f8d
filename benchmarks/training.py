"""What a round of training costs beyond the training itself, with and without secure aggregation; and the same CNN in Flower.

    python benchmarks/training.py                   # everything, about fifteen minutes on two idle cores
    python benchmarks/training.py --quick           # 1e4 and 1e5 parameters, without Flower
    python benchmarks/training.py --skip flower network --write

Rounds: FedAvg of an MLP of 1e4 to 1e7 parameters over five embedded sites, one local step a round, so that all the rest is what a round
costs: the model out, validation none, differences encoded, masked, summed, opened, written down. Seconds and processor seconds of
the local step itself are taken out (it is timed apart, thread by thread). Each cell runs in a process of its own; medians of warm rounds.

CNN: two convolutions on handwritten digits enlarged to 28 x 28, three sites, the same epochs, batches and rate, in Unisono embedded and
between processes over mutual TLS, and in Flower's simulation (Ray) and deployment runtimes. `peers/README.md` says what is counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE / "peers")  # and not this folder, whose `statistics.py` would hide Python's own

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from page import write_section

SITES = 5
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
ROUNDS = {10_000: 25, 100_000: 20, 1_000_000: 12, 10_000_000: 6}
WARM = 2
"""Rounds that are not counted: keys for later rounds are not there yet."""
HIDES = ("none", "secagg")
FEATURES = 8
LOCAL_S, AIM = 2.0, 0.05
"""The aim: to a round whose local training takes 2 s, secure aggregation adds less than 5% of a site's processor time."""
CNN_SITES, TEST = 3, 297
CNN = {"epochs": 5, "batch": 32, "rate": 0.05}
CNN_ROUNDS = 6
LIMIT_S = 900.0


# -- rounds beyond local compute: one cell a process -------------------------------------------------------------------


def width(parameters: int) -> int:
    """Of two equal hidden layers, for about so many parameters."""
    return max(round((-(FEATURES + 3) + ((FEATURES + 3) ** 2 + 4 * parameters) ** 0.5) / 2), 1)


def study(parameters: int, hide: str, rounds: int) -> dict[str, Any]:
    names = [f"x{k}" for k in range(FEATURES)]
    h = width(parameters)
    return {
        "unisono": 1,
        "id": "rounds",
        "question": "What does a round cost beyond its training?",
        "variables": {**{n: {"type": "number", "min": -6, "max": 6} for n in names}, "ill": {"type": "boolean"}},
        "analyses": {
            "model": {
                "method": "fedavg", "outcome": "ill", "features": names, "model": {"kind": "mlp", "hidden": [h, h]},
                "local": {"steps": 1, "batch": 8, "rate": 0.01}, "rounds": {"most": rounds, "snapshot": 1},
                "validate": {"fraction": 0},
            }
        },
        "protection": {"hide": hide},
        "release": {"min_count": 1},
    }  # fmt: skip


def cell(parameters: int, hide: str) -> dict[str, Any]:
    """Wall and processor seconds of each warm round, without its local training."""
    from unisono.engines.embedded.run import Settings, SiteData, run_study
    from unisono.federation.events import Event
    from unisono.methods.registry import check
    from unisono.methods.training import local
    from unisono.study.load import load

    rng = np.random.default_rng(1)
    data = {}
    for k in range(SITES):
        frame = pd.DataFrame(rng.normal(size=(40, FEATURES)).clip(-6, 6), columns=[f"x{j}" for j in range(FEATURES)])
        data[f"site-{k}"] = SiteData(frame.assign(ill=rng.random(40) < 0.5))
    spent = Spent()
    local.train = spent.around(local.train)
    stamps: list[tuple[float, float]] = []

    def observe(event: Event) -> None:
        if event.kind == "opened" and event.name == "fedavg.update":
            wall, cpu = spent.take()
            stamps.append((time.perf_counter() - spent.wall(wall), time.process_time() - spent.cpu(cpu)))

    with tempfile.TemporaryDirectory() as out:
        asked = load(study(parameters, hide, ROUNDS[parameters]), check)
        run = run_study(asked, data, Path(out), Settings(observer=observe))
    outcome = run.outcomes["model"]
    if outcome.error is not None:
        raise outcome.error
    assert outcome.answer is not None
    rounds = np.diff(np.array(stamps), axis=0)[WARM - 1 :]
    return {
        "parameters": outcome.answer.result.estimates["parameters"],
        "wall": float(np.median(rounds[:, 0])),
        "cpu": float(np.median(rounds[:, 1])) / SITES,
    }


class Spent:
    """Seconds in local training, over all threads: what is taken out of a round. The wall clock's is the time during which at least
    one site was training."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cpu = self._wall = self._all_cpu = self._all_wall = 0.0
        self._busy, self._since = 0, 0.0

    def around(self, function: Any) -> Any:
        """The function, timed."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self._lock:
                self._busy += 1
                if self._busy == 1:
                    self._since = time.perf_counter()
            began = time.thread_time()
            try:
                return function(*arguments, **keywords)
            finally:
                with self._lock:
                    self._cpu += time.thread_time() - began
                    self._busy -= 1
                    if self._busy == 0:
                        self._wall += time.perf_counter() - self._since

        return timed

    def take(self) -> tuple[float, float]:
        """(wall, cpu) since it was asked last."""
        with self._lock:
            found = self._wall, self._cpu
            self._wall = self._cpu = 0.0
        return found

    def wall(self, seconds: float) -> float:
        """Of all rounds so far."""
        self._all_wall += seconds
        return self._all_wall

    def cpu(self, seconds: float) -> float:
        """Of all rounds so far."""
        self._all_cpu += seconds
        return self._all_cpu


def measured(parameters: int, hide: str) -> dict[str, Any]:
    """A cell in a process of its own."""
    command = [sys.executable, __file__, "--one", str(parameters), hide]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise SystemExit(f"{parameters} parameters, {hide}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def rounds_table(found: dict[tuple[int, str], dict[str, Any]]) -> str:
    lines = [
        f"A round of FedAvg over {SITES} embedded sites, without its local training: medians, {os.cpu_count()} cores; processor time is "
        "all of the process (sites and coordinator) divided by the sites.",
        "",
        "| parameters | s, `hide: none` | s, `secagg` | CPU s a site, `none` | CPU s a site, `secagg` | added by secagg, CPU ms a site "
        f"| of a round with {LOCAL_S:g} s of training |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size in dict.fromkeys(size for size, _ in found):
        plain, hidden = found[size, "none"], found[size, "secagg"]
        added = hidden["cpu"] - plain["cpu"]
        lines.append(
            f"| {plain['parameters']:,} | {plain['wall']:.3f} | {hidden['wall']:.3f} | {plain['cpu']:.3f} | {hidden['cpu']:.3f} "
            f"| {1000 * added:.1f} | {100 * added / LOCAL_S:.2f}% |"
        )
    worst = max((found[s, "secagg"]["cpu"] - found[s, "none"]["cpu"]) / LOCAL_S for s, _ in found)
    met = "met" if worst < AIM else "**not met**"
    lines += ["", f"Aim: below {AIM:.0%} of a site's processor time: {met} (at most {worst:.2%})."]
    return "\n".join(lines)


# -- the same CNN, data and rounds ------------------------------------------------------------------------------------------


def images(folder: Path) -> None:
    """scikit-learn's digits, each pixel 3 by 3 and two pixels of margin: site-k.npz for Flower, PNG files and tables for Unisono."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    large = np.pad(np.kron(pixels, np.ones((1, 3, 3), np.uint8)), ((0, 0), (2, 2), (2, 2)))
    order = np.random.default_rng(1).permutation(len(large))
    parts = dict(zip(["test", *(f"site-{k + 1}" for k in range(CNN_SITES))], _split(order), strict=True))
    for name, rows in parts.items():
        np.savez(folder / f"{name}.npz", images=large[rows], classes=bunch.target[rows])
        place = folder / name
        place.mkdir()
        for k, row in enumerate(rows):
            Image.fromarray(large[row]).save(place / f"{k:04d}.png")
        table = pd.DataFrame({"digit": bunch.target[rows], "image": [f"{name}/{k:04d}.png" for k in range(len(rows))]})
        table.to_csv(folder / f"{name}.csv", index=False)


def _split(order: np.ndarray) -> list[np.ndarray]:
    return [order[:TEST], *np.array_split(order[TEST:], CNN_SITES)]


def cnn_study(hide: str, rounds: int, name: str = "digits") -> dict[str, Any]:
    return {
        "unisono": 1,
        "id": name,
        "question": "Which digit is it?",
        "variables": {
            "digit": {"type": "category", "levels": [str(k) for k in range(10)]},
            "image": {"type": "image", "size": [28, 28], "intensity": {"window": [0.0, 255.0]}},
        },
        "analyses": {
            "model": {
                "method": "fedavg", "outcome": "digit", "features": ["image"], "local": dict(CNN),
                "model": {"kind": "cnn", "channels": [16, 32], "hidden": 64},
                "rounds": {"most": rounds}, "validate": {"fraction": 0},
            }
        },
        "protection": {"hide": hide, "threat": "malicious"} if hide != "none" else {"hide": hide},
        "release": {"min_count": 10},
    }  # fmt: skip


def seconds_of(out: Path) -> list[float]:
    """Of each warm round, as run.json has it."""
    record = json.loads((out / "run.json").read_text("utf-8"))
    found = [step["seconds"] for step in record["analyses"]["model"]["steps"] if step["name"] == "fedavg.update"]
    return [float(s) for s in found[1:]]


def accuracy(model: Path, folder: Path) -> float:
    """Of a model's files, on the test images."""
    from unisono.site.prediction import open_model, predict

    found = predict(open_model(model), folder / "test.csv", None)
    truth = pd.read_csv(folder / "test.csv")["digit"].to_numpy()
    return float((np.asarray(found.values)[:, :10].argmax(axis=1) == truth).mean())


def embedded(folder: Path, hide: str) -> dict[str, Any]:
    from unisono.api import run

    with tempfile.TemporaryDirectory() as out:
        sites = {f"site-{k + 1}": folder / f"site-{k + 1}.csv" for k in range(CNN_SITES)}
        answered = run(cnn_study(hide, CNN_ROUNDS), sites, out=out)
        for error in answered.errors.values():
            raise error
        return {
            "peer": f"Unisono, embedded, `hide: {hide}`",
            "seconds_per_round": seconds_of(Path(out)),
            "accuracy": accuracy(Path(out) / "model", folder),
        }


def network(folder: Path, hides: Sequence[str]) -> list[dict[str, Any]]:
    """Between processes: a coordinator and three sites, mutual TLS, by the commands that people type."""
    from unisono_network import network as open_network

    found = []
    with tempfile.TemporaryDirectory() as place:
        tables = {name: folder / f"site-{k + 1}.csv" for k, name in enumerate(("leiden", "padua", "turin"))}
        with open_network(Path(place), tables=tables) as net:
            for hide in hides:
                out = net.answer(f"digits-{hide}", cnn_study(hide, CNN_ROUNDS, f"digits-{hide}"))
                found.append(
                    {
                        "peer": f"Unisono, network, `hide: {hide}`",
                        "seconds_per_round": seconds_of(out),
                        "accuracy": accuracy(out / "model", folder),
                    }
                )
    return found


def flower(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Both runtimes; and why one is not in the table."""
    import torch
    from environment import environment

    here = environment(
        "flwr[simulation]>=1.41,<1.43",
        f"torch=={torch.__version__.split('+')[0]}",
        "numpy",
        "cryptography",
        name="flower-torch",
    )
    if here.python is None:
        return [], [here.why_not]
    found, left_out = [], []
    options = [f"--{name}={value}" for name, value in {**CNN, "rounds": CNN_ROUNDS, "data": folder}.items()]
    for runtime in ("simulation", "deployment"):
        command = [str(here.python), str(HERE / "peers" / "flower_training.py"), f"--runtime={runtime}", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        if done.returncode:
            left_out.append(f"Flower, {runtime}: {done.stderr.strip()[-300:]}")
        else:
            found.append(dict(json.loads(done.stdout.splitlines()[-1])))
    return found, left_out


def cnn_table(found: Sequence[dict[str, Any]], left_out: Sequence[str], local_s: float) -> str:
    lines = [
        f"FedAvg of a CNN (105,866 parameters) on 1,500 images of digits, {CNN_SITES} sites, {CNN['epochs']} epochs of batches of "
        f"{CNN['batch']} a round, {CNN_ROUNDS} rounds; one thread a site, {os.cpu_count()} cores; medians of warm rounds. The local "
        f"training of one site by itself takes {local_s:.2f} s a round.",
        "",
        "| | s a round | above three trainings on these cores | test accuracy after the last round |",
        "| --- | ---: | ---: | ---: |",
    ]
    least = local_s * CNN_SITES / min(CNN_SITES, os.cpu_count() or 1)
    for one in found:
        seconds = statistics.median(one["seconds_per_round"])
        lines.append(f"| {one['peer']} | {seconds:.2f} | {seconds - least:+.2f} | {100 * one['accuracy']:.1f}% |")
    lines += ["", *(f"Left out: {why}" for why in left_out)]
    return "\n".join(lines).rstrip()


def one_site_s(folder: Path) -> float:
    """Seconds of one site's local training in a round, by itself: plain PyTorch, as the Flower app does it."""
    import torch

    sys.path.append(str(HERE / "peers" / "flower_training"))
    from cnn_fedavg import task

    torch.set_num_threads(1)
    patients = task.patients(str(folder), "site-1")
    times = []
    for _ in range(3):
        began = time.perf_counter()
        task.train(task.network(), *patients, **CNN)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two sizes, without Flower")
    parser.add_argument("--sizes", type=float, nargs="*", choices=[float(s) for s in SIZES])
    parser.add_argument("--skip", nargs="*", default=[], choices=["rounds", "embedded", "network", "flower"])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(cell(int(options.one[0]), options.one[1])))
        return
    skip = {*options.skip, *(["flower"] if options.quick else [])}
    sizes = [int(s) for s in options.sizes] if options.sizes else list(SIZES[:2] if options.quick else SIZES)
    parts = []
    if "rounds" not in skip:
        found = {}
        for size in sizes:
            for hide in HIDES:
                print(f"{size} parameters, {hide} ...", file=sys.stderr, flush=True)
                found[size, hide] = measured(size, hide)
        parts.append(rounds_table(found))
        print(parts[-1], flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        images(folder)
        rows = [] if "embedded" in skip else [embedded(folder, hide) for hide in HIDES]
        rows += [] if "network" in skip else network(folder, HIDES)
        peers, left_out = ([], ["Flower was skipped."]) if "flower" in skip else flower(folder)
        if rows or peers:
            parts.append(cnn_table([*rows, *peers], left_out, one_site_s(folder)))
            print(parts[-1], flush=True)
    if options.write:
        write_section("training", "\n\n".join(parts))


if __name__ == "__main__":
    main()
