"""Runs in processes of their own, to be killed with SIGKILL or given a full disk, each followed by the same command.

`Stable` is one process that has imported everything and forks a child for every run: a child starts in milliseconds, and
dies as any process does. A run's folder holds ``study.json`` and one CSV a site in ``data/``; results go to ``out/``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from unisono.engines.embedded.run import Fault, Run, Settings, SiteData, run_study
from unisono.errors import UnisonoError
from unisono.federation.events import Event
from unisono.methods.registry import build, check
from unisono.site.data.snapshot import freeze
from unisono.study.document import Study
from unisono.study.load import load

SAID = "said.json"
"""In a run's folder: the rule of the error that stopped each analysis, or null; or a traceback, which no run may show."""


def prepared(folder: Path, study: Study, frames: dict[str, Any]) -> Path:
    """A folder to run in."""
    (folder / "data").mkdir(parents=True)
    (folder / "study.json").write_text(study.model_dump_json(), "utf-8")
    for site, frame in frames.items():
        frame.to_csv(folder / "data" / f"{site}.csv", index=False)
    return folder


def again(folder: Path, **settings: Any) -> Run:
    """The command, in this process."""
    return run_study(*_read(folder), folder / "out", Settings(**settings))


def _read(folder: Path) -> tuple[Study, dict[str, SiteData]]:
    study = load(json.loads((folder / "study.json").read_text("utf-8")), check)
    return study, {path.stem: SiteData(path) for path in sorted((folder / "data").glob("*.csv"))}


def _warm(folder: Path) -> None:
    """What a run reads and imports when it first needs it, once for all children."""
    study, data = _read(folder)
    for site, given in data.items():
        freeze(given.source, None, study, site)
    for analysis in study.analyses:
        build(study, analysis)


class Stable:
    """Where runs are started from. One at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    def start(self, folder: Path, **fault: Any) -> int:
        """Begin the command; its process id, once its first analysis begins. fault: a `Fault`, or ``file_size``: bytes
        after which a file takes no more."""
        self._write({"folder": str(folder), "fault": fault})
        return int(self._read())

    def wait(self) -> int:
        """The exit status of the run that was started: minus the signal that killed it."""
        self._write({})
        return int(self._read())

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)

    def _write(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def _child(folder: Path, fault: dict[str, Any], begun: int) -> None:
    def observe(event: Event) -> None:
        if event.kind == "analysis" and not said:
            said.append("begun")
            os.write(begun, b"1")

    said: list[str] = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if "file_size" in fault:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.pop("file_size"), before[1]))
        run = again(folder, faults=[Fault(**fault)] if fault else [], observer=observe)
        rules = {name: None if o.error is None else o.error.rule for name, o in run.outcomes.items()}
    except UnisonoError as error:
        rules = {"stopped": error.rule}
    except Exception:  # noqa: BLE001  reported to the test, which fails on it
        rules = {"traceback": traceback.format_exc()}
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (folder / SAID).write_text(json.dumps(rules), "utf-8")


def main() -> None:
    pid = 0
    for line in sys.stdin:
        command = json.loads(line)
        if not command:
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        if pid == 0:
            _warm(Path(command["folder"]))
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _child(Path(command["folder"]), command["fault"], writer)
            os._exit(0)
        os.close(writer)
        os.read(reader, 1)  # an analysis began, or the child is gone
        os.close(reader)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
