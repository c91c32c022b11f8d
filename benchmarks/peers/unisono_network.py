"""Seconds per warm round of a do-nothing FedAvg over a real Unisono network: a coordinator and three hospitals as processes of
their own, mutual TLS on loopback, set up by the commands that people type. Prints one line of JSON for each study.

    python benchmarks/peers/unisono_network.py plain:1e4:30 secagg:1e4:30 malicious:1e7:6

A study is PROTECTION:PARAMETERS:ROUNDS; protections are `plain`, `secagg` (semi-honest) and `malicious`. They run one after the
other over one network. --memory keeps every folder on a RAM disk: what the same work takes when nothing has to reach a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from timing import whole

HERE = Path(__file__).resolve().parent
METHOD = HERE / "do_nothing"
SITES = ("leiden", "padua", "turin")
WARM = 2
"""Rounds that are not counted: keys for later rounds are not there yet, and nobody knows anybody."""
RAM_DISK = Path("/dev/shm")
_WAIT_S = 600.0
_NAME = "unisono_do_nothing"
_MADE = "UNISONO_BENCH_ENVIRONMENT"


def environment(folder: Path) -> Path:
    """An interpreter that sees this one's packages and the do-nothing method, as a hospital's administrator would have
    installed it. Nothing is downloaded."""
    home = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(home)}))
    (packages / "outer.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n{METHOD}\n")
    about = packages / f"{_NAME}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[unisono.methods]\ndo-nothing = {_NAME}\n")
    return home / "bin" / "python"


@contextmanager
def method_installed(program: str) -> Iterator[None]:
    """The program, begun again where the do-nothing method is installed: as this process, so that whoever ends it ends all."""
    made = os.environ.get(_MADE)
    if made is None:
        made = tempfile.mkdtemp(prefix="unisono-bench-")
        python = environment(Path(made))
        os.execve(python, [str(python), program, *sys.argv[1:]], {**os.environ, _MADE: made})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        shutil.rmtree(made, ignore_errors=True)


PROTECTIONS = {
    "plain": ("none", "semi-honest"),
    "secagg": ("secagg", "semi-honest"),
    "malicious": ("secagg", "malicious"),
}
"""hide and threat of a study."""


def study(parameters: int, rounds: int, hide: str, threat: str, name: str = "nothing") -> str:
    """The study, as YAML (JSON is YAML)."""
    return json.dumps(
        {
            "unisono": 1,
            "id": name,
            "question": "How long does a round take?",
            "purpose": "statistics",
            "variables": {"age": {"type": "number", "unit": "a", "min": 0, "max": 120}},
            "analyses": {"rounds": {"method": "do-nothing", "size": parameters, "rounds": rounds}},
            "protection": {"hide": hide, "threat": threat} if hide != "none" else {"hide": "none"},
            "release": {"min_sites": 3, "min_count": 10},
        }
    )


@contextmanager
def network(
    folder: Path, address: Callable[[int], str] | None = None, tables: Mapping[str, Path] | None = None
) -> Iterator[Network]:
    """A coordinator, three hospitals with their data, a researcher: joined, connected. All processes end with it.

    address: what everybody dials instead of the coordinator's own port: that of a line between ("host:port"). tables: the
    hospitals' data, by `SITES`; 60 ages each by default.
    """
    from unisono.demo.stage import Stage

    with Stage(folder, lambda *_: None) as stage:
        yield Network(stage, address, tables or {})


class Network:
    """`study` after study over one network."""

    def __init__(self, stage: object, address: Callable[[int], str] | None, tables: Mapping[str, Path]) -> None:
        from unisono.demo.stage import Stage

        assert isinstance(stage, Stage)
        self.stage = stage
        self._tables = tables
        self.port = free_port()
        dialled = f"localhost:{self.port}" if address is None else address(self.port)
        stage.run(
            "operator", "coordinator", "init", "centre", "--address", dialled, "--listen", f"127.0.0.1:{self.port}"
        )
        self.coordinator = stage.serve("operator", "coordinator", "serve", "--home", "centre")
        self._heard(self.coordinator, "listening on")
        for name, role in [*((site, "site") for site in SITES), ("rossi", "researcher")]:
            stage.run("operator", "coordinator", "invite", name, "--role", role, "--home", "centre", secret=True)
        stage.together([partial(self._site, name) for name in SITES])
        stage.run("rossi", "study", "join", "-", "--home", "rossi", stdin=_token("rossi"))
        self.sites = {name: stage.serve(name, "site", "serve", "--home", name) for name in SITES}
        self._studies = 0
        for service in self.sites.values():
            self._heard(service, "connected")

    def _site(self, name: str) -> None:
        stage = self.stage
        stage.run(name, "site", "join", "-", "--home", name, stdin=_token(name))
        (stage.folder / name / "policy.json").write_text(json.dumps(_POLICY))
        table = self._tables.get(name)
        if table is None:
            table = stage.folder / f"{name}.csv"
            table.write_text("age\n" + "".join(f"{40 + k % 40}\n" for k in range(60)))
        stage.run(name, "site", "data", "add", "patients", str(table.resolve()), "--home", name)

    def rounds(self, parameters: int, rounds: int, hide: str, threat: str) -> dict[str, object]:
        """Run one study; its estimates: seconds of every round, and the error of the last mean."""
        name = f"nothing-{self._studies + 1}"
        out = self.answer(name, json.loads(study(parameters, rounds, hide, threat, name)))
        found = json.loads((out / "rounds" / "result.json").read_text())
        return dict(found["estimates"])

    def answer(self, name: str, document: Mapping[str, object]) -> Path:
        """Run one study, called `name`; the folder of its results."""
        stage, self._studies = self.stage, self._studies + 1
        file = f"{name}.yaml"
        (stage.folder / file).write_text(json.dumps(document))
        stage.run("rossi", "study", "sign", file, "--home", "rossi")
        stage.run("rossi", "study", "submit", file, "--sites", ",".join(SITES), "--home", "rossi")
        for service in self.sites.values():
            self._heard(service, f"site show {name}")
        watch = stage.serve("rossi", "study", "watch", name, "--home", "rossi")
        if self._studies == 1:
            for site in SITES:
                others, told = [other for other in SITES if other != site], ("--study", name, "--how", "one machine")
                stage.run(site, "site", "verify", *others, *told, "--yes", "--home", site)
        stage.together([partial(stage.run, n, "site", "approve", name, "--yes", "--home", n) for n in SITES])
        if watch.wait(_WAIT_S) != 0:
            raise SystemExit(f"the study did not finish: see {stage.logs}")
        stage.run("rossi", "study", "result", name, "--out", name, "--home", "rossi")
        return Path(stage.folder / name)

    def _heard(self, service: object, text: str) -> None:
        if not service.wait_for(text, _WAIT_S):  # type: ignore[attr-defined]
            raise SystemExit(f"a process did not get as far as “{text}”: see {self.stage.logs}")


_POLICY = {"hide": ["secagg", "none"], "suppress_own_cells": False}
"""The plain rounds are refused by every hospital's default policy, as they should be."""


def _token(name: str) -> Path:
    return Path("centre") / "tokens" / f"{name}.token"


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(studies: list[tuple[str, int, int]], *, memory: bool) -> None:
    """In a temporary folder, in the environment with the method; prints a line for each."""
    base = RAM_DISK if memory and RAM_DISK.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="unisono-bench-", dir=base))
    try:
        with network(folder) as net:
            for protection, parameters, rounds in studies:
                found = net.rounds(parameters, rounds + WARM, *PROTECTIONS[protection])
                seconds = found["seconds"]
                assert isinstance(seconds, list)
                line = {
                    "peer": "unisono",
                    "protection": protection,
                    "durable": base is None,
                    "payload": parameters,
                    "seconds_per_round": seconds[WARM:],
                    "warm_up_s": sum(seconds[:WARM]),
                    "error": found["error"],
                }
                print(json.dumps(line), flush=True)
    except BaseException:
        sys.stderr.write(f"logs are in {folder}\n")
        raise
    shutil.rmtree(folder, ignore_errors=True)


def cell(text: str) -> tuple[str, int, int]:
    """PROTECTION:PARAMETERS:ROUNDS."""
    protection, parameters, rounds = text.split(":")
    if protection not in PROTECTIONS:
        raise argparse.ArgumentTypeError(f"{protection} is none of {', '.join(PROTECTIONS)}")
    return protection, whole(parameters), whole(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=cell, nargs="+", metavar="PROTECTION:PARAMETERS:ROUNDS")
    parser.add_argument("--memory", action="store_true", help="all folders on a RAM disk")
    options = parser.parse_args()
    with method_installed(__file__):
        measure(options.studies, memory=options.memory)


if __name__ == "__main__":
    main()
