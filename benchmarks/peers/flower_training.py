"""Seconds per round of FedAvg of a small CNN in Flower, with three sites: in its simulation (Ray) or its deployment runtime.

    .bench-venv/flower-torch/bin/python benchmarks/peers/flower_training.py --data FOLDER --runtime simulation --rounds 6
    .bench-venv/flower-torch/bin/python benchmarks/peers/flower_training.py --data FOLDER --runtime deployment --rounds 4

FOLDER holds site-1.npz, site-2.npz, site-3.npz and test.npz, as `benchmarks/training.py` writes them. Flower as it comes: its own
programs with their defaults, the app of `flower_training/` submitted with `flwr run`. A round is from one `configure_train` to the
next, by the server app's clock. Ends with one line of JSON: also `local_s`, the longest local training of each round, and `accuracy`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from certificates import certificates
from flower_network import start as start_deployment
from timing import HERE, SITES, PeerError
from workplace import Workplace, free_ports, listening, workplace

LIMIT_S = 600


def simulation(here: Workplace, environment: dict[str, str], port: int) -> str:
    """A superlink that simulates its supernodes; the connection's settings."""
    programs = Path(sys.executable).parent
    command = [programs / "flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    here.start("superlink", [*command, "--disable-runtime-dependency-installation"], environment)
    here.until(lambda: listening(port), "the superlink listens")
    return (
        f"insecure = true\noptions.num-supernodes = {SITES}\noptions.backend.client-resources.num-cpus = 1\n"
        f"options.backend.client-resources.num-gpus = 0.0\noptions.backend.init-args.num-cpus = {os.cpu_count()}\n"
    )


def deployment(here: Workplace, environment: dict[str, str], port: int) -> str:
    """A superlink and three supernodes over TLS; the connection's settings."""
    papers = certificates(here.folder / "certificates")
    start_deployment(here, papers, environment, port)
    return f'root-certificates = "{papers.authority}"\ninsecure = false\n'


RUNTIMES = {"simulation": simulation, "deployment": deployment}


def measure(here: Workplace, runtime: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the server app wrote: stamps, answers per round, local seconds, the accuracy at the end."""
    home, out, port = here.folder / "home", here.folder / "rounds.json", free_ports(1)[0]
    temporary = here.folder / "temporary"
    home.mkdir()
    temporary.mkdir()
    programs = Path(sys.executable).parent
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",  # the superlink starts its helpers by name
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }
    settings = RUNTIMES[runtime](here, environment, port)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\n{settings}', "utf-8"
    )
    app = HERE / "flower_training"
    copy = Path(shutil.copytree(app, here.folder / "app", ignore=shutil.ignore_patterns("__pycache__")))
    asked = (
        f"rounds={options.rounds} epochs={options.epochs} batch={options.batch} rate={options.rate} sites={SITES} "
        f'data="{options.data.resolve()}" out="{out}"'
    )
    command: list[str | Path] = [programs / "flwr", "run", copy, "here", "--format", "json", "--run-config", asked]
    submitted = here.run("submit", command, environment)
    if '"success": true' not in submitted:
        raise PeerError(f"Flower did not take the app: {submitted}")
    here.until(out.exists, "the rounds are over")
    return dict(json.loads(out.read_text("utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runtime", choices=list(RUNTIMES), required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--limit", type=int, default=LIMIT_S)
    options = parser.parse_args()
    try:
        with workplace(options.limit) as here:
            found = measure(here, options.runtime, options)
            if found["accuracy"] < 0 or any(answers != SITES for answers in found["answers"]):
                raise PeerError(f"the app failed (answers {found['answers']}): {here.said('superlink')}")
    except (PeerError, OSError) as error:
        raise SystemExit(f"flower_training.py: {error}") from None
    seconds = [round(after - before, 3) for before, after in pairwise(found["stamps"])]
    line = {
        "peer": f"Flower {version('flwr')}, {options.runtime}",
        "warm_up_s": seconds[0],
        "seconds_per_round": seconds[1:],
        "local_s": found["local"][1:],
        "accuracy": found["accuracy"],
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
