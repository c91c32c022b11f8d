"""Coordinators and site agents as processes of their own that kill themselves (SIGKILL) at one moment: the n-th time that a message
is asked for, written to the line, answered, or that something is written down before or after it.

What runs is the service as it is: the moments (`tests.support.moments`) are wrapped around its functions in the process that is to
be killed and nowhere else; a process that is to be killed at no moment and writes none down is not touched at all. `Stable` is one process
that has imported everything and forks a child for every start; a child starts in milliseconds, and dies as any process does.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support import engine, moments, wide
from unisono.network.agent.datasets import Dataset
from unisono.network.agent.dial import Pace
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.serve import Options
from unisono.network.agent.serve import serve as serve_site
from unisono.network.agent.studies import make_worker
from unisono.network.coordinator import service
from unisono.network.coordinator.home import CoordinatorHome
from unisono.report.files import write
from unisono.site.worker import LocalWorker, Worker
from unisono.site.workers.process import ProcessWorker
from unisono.study.document import Study

MARK = "UNISONO_KILLING"
"""Environment variable of everything that a stable starts, and what that starts: who looks for it finds what is left."""
MOMENTS = "moments.log"
"""In a process's folder: every moment it came to, a line each; ``started`` begins one life."""
_PACE = Pace(first=0.05, longest=0.4, welcome=20.0, steady=0.5)


@dataclass(frozen=True)
class Start:
    """A process to be started. what: ``coordinator`` or ``site``. watched: moments are written down. moment, times: where it kills
    itself, by the signal `with_`. pause_s: by which a site's contribution is held up. local: a site's data and method code are in its own process."""

    what: str
    home: str
    watched: bool = False
    moment: str = ""
    times: int = 1
    with_: int = signal.SIGKILL
    pause_s: float = 0.0
    local: bool = True


# -- a process ----------------------------------------------------------------------------------------------------------


def _serve(start: Start) -> None:
    """What `unisono coordinator serve` and `unisono site serve` do."""
    home = Path(start.home)
    if start.moment or start.watched:
        reached = moments.Moments(home / MOMENTS, start.moment, start.times, start.with_)
        moments.on_the_line(reached)
        (moments.at_the_coordinator if start.what == "coordinator" else moments.at_a_site)(reached)
    if start.what == "coordinator":
        asyncio.run(service.serve(CoordinatorHome(home)))
    else:
        asyncio.run(_site(AgentFolder(home), start))


async def _site(folder: AgentFolder, start: Start) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def local(study: Study, dataset: Dataset, site: str, secret: bytes) -> Worker:
        return LocalWorker(study, dataset.freeze(study, site), secret)

    if start.pause_s:
        for kind in (LocalWorker, ProcessWorker):
            _slow(kind, start.pause_s)
    await serve_site(folder, stop, Options(pace=_PACE, make_worker=local if start.local else make_worker))


def _slow(kind: Any, pause_s: float) -> None:
    plain = kind.contribution

    def held_up(self: Any, ask: Any) -> Any:
        time.sleep(pause_s)
        return plain(self, ask)

    kind.contribution = held_up


def _child(start: Start) -> None:
    os.setsid()
    log = os.open(Path(start.home) / "process.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for fd, of in ((0, nothing), (1, log), (2, log)):
        os.dup2(of, fd)
    faulthandler.enable()  # a crash of the interpreter says where
    try:
        _serve(start)
    except BaseException:  # noqa: BLE001  whatever it is, it is on record, and the test that looks fails on it
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _warm(training: bool) -> None:
    """What a life imports, reads and draws when it first needs it: once for all."""
    wide.install()
    if training:
        from unisono.methods.training.local import load_pytorch

        load_pytorch()
    with TemporaryDirectory() as folder:
        found = engine.run(engine.study("table"), Path(folder), data=engine.hospitals(engine.SITES[:3]))
        write(found)


def _stable(training: bool) -> None:
    """Lines of JSON: ``{start}`` or ``{signal, pid}`` in, ``{pid}`` and ``{pid, status}`` out. When the input ends, so do all."""
    _warm(training)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: set[int] = set()
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd == woken:
                os.read(woken, 4096)
            elif not (line := sys.stdin.buffer.raw.readline()):  # type: ignore[attr-defined]
                for pid in living:
                    os.killpg(pid, signal.SIGKILL)
                return
            else:
                command = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _child(Start(**command))
                living.add(pid)
                _say(pid=pid)
        for pid in list(living):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                living.discard(pid)
                _say(pid=pid, status=os.waitstatus_to_exitcode(status))


def _say(**what: int) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Stable:
    """Where processes are started from, as the test sees it. A context manager: at its end none is left."""

    def __init__(self, mark: str, *, training: bool = False) -> None:
        """training: networks are trained in what is started."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killing", *(["training"] if training else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "GRPC_VERBOSITY": "NONE", MARK: mark},
        )
        self._news = threading.Condition()
        self._begun: list[int] = []
        self._ended: dict[int, int] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Stable:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def start(self, start: Start) -> int:
        """Its process id."""
        assert self._process.stdin is not None
        with self._news:
            before = len(self._begun)
            self._process.stdin.write(json.dumps(asdict(start)) + "\n")
            self._process.stdin.flush()
            assert self._news.wait_for(lambda: len(self._begun) > before, 60)
            return self._begun[-1]

    def status(self, pid: int) -> int | None:
        """Of a process that ended: its exit code, or minus the signal; None while it lives."""
        with self._news:
            return self._ended.get(pid)

    def ended(self, pid: int, seconds: float = 60.0) -> int:
        """Wait for its end."""
        with self._news:
            assert self._news.wait_for(lambda: pid in self._ended, seconds), f"process {pid} did not end"
            return self._ended[pid]

    def change(self, seconds: float) -> None:
        """Returns when a process ended, or after so long."""
        with self._news:
            self._news.wait(seconds)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._news:
                if "status" in said:
                    self._ended[said["pid"]] = said["status"]
                else:
                    self._begun.append(said["pid"])
                self._news.notify_all()


if __name__ == "__main__":
    _stable("training" in sys.argv[1:])
