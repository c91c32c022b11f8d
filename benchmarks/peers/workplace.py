"""A folder and processes for one measurement, of which nothing is left when it ends: not even if it fails or is told to.

    with workplace(limit_s=300) as here:
        server = here.start("server", ["program", "--port", "8443"])
        here.until(lambda: listening(8443), "the server listens")

Some peers start processes that leave their group, or that outlive who started them. Such orphans are adopted by this
process, and everything that descends from it is ended: so it is for a program of its own, which has no other children.
Orphans are adopted on Linux only; elsewhere nothing is started.
Plain Python without other packages: the peers' environments read this file too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from timing import PeerError

_BECOME_SUBREAPER = 36  # prctl(2), PR_SET_CHILD_SUBREAPER
_POLITE_S = 10.0
"""How long processes have to end by themselves after SIGTERM."""
_KILLED_S = 10.0


@dataclass
class Workplace:
    """folder: temporary, removed at the end. Every process's output goes to ``<folder>/<name>.log``."""

    folder: Path
    _started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A process in a group of its own. environment: added to this process's."""
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._started[name] = process
        return process

    def run(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
        """Start, wait for its end, and what it printed. What it leaves running runs on. `PeerError` if it fails."""
        code = self.start(name, command, environment).wait()
        del self._started[name]  # it was meant to end
        if code:
            raise PeerError(f"{name} failed ({code}): {self.said(name)}")
        return self.said(name)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        """The end of what a process printed."""
        with suppress(OSError):
            return self.log(name).read_text("utf-8", "replace").strip()[-1500:]
        return ""

    def until(self, condition: Callable[[], bool], what: str, step_s: float = 0.1) -> None:
        """Wait for `condition`, as long as the workplace's own limit lets us. `PeerError` if a process ends meanwhile."""
        while not condition():
            for name, process in self._started.items():
                if process.poll() is not None:
                    code = process.returncode
                    raise PeerError(f"waiting until {what}, but {name} has ended ({code}): {self.said(name)}")
            time.sleep(step_s)

    def close(self) -> None:
        """End every process that was started here, and what those have started."""
        for process in self._started.values():
            _signal_group(process.pid, signal.SIGTERM)
        _wait(lambda: all(process.poll() is not None for process in self._started.values()), _POLITE_S)
        for process in self._started.values():
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()
        _wait(_none_left, _KILLED_S)


@contextmanager
def workplace(limit_s: float) -> Iterator[Workplace]:
    """A workplace for at most limit_s seconds. `PeerError` after that; SIGTERM ends it in order, too. Main thread only."""
    _adopt_orphans()

    def late(_: int, __: FrameType | None) -> None:
        raise PeerError(f"it took more than {limit_s:.0f} s")

    def told(_: int, __: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    with ExitStack() as stack:
        for number, handler in ((signal.SIGALRM, late), (signal.SIGTERM, told)):
            stack.callback(signal.signal, number, signal.signal(number, handler))
        here = Workplace(Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))))
        stack.callback(here.close)
        stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)  # the end is not to be interrupted
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        yield here


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in taken]


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def descendants() -> list[int]:
    """Processes that descend from this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, ahead = [], [os.getpid()]
    while ahead:
        some = children.get(ahead.pop(), [])
        found += some
        ahead += some
    return found


def _adopt_orphans() -> None:
    if sys.platform != "linux":
        raise PeerError("this needs Linux: elsewhere not all that a peer starts could be ended")
    if ctypes.CDLL(None, use_errno=True).prctl(_BECOME_SUBREAPER, 1, 0, 0, 0):
        raise PeerError(f"orphans cannot be adopted: {os.strerror(ctypes.get_errno())}")


def _none_left() -> bool:
    """Kill and bury what is left; true once nothing is."""
    left = descendants()
    for pid in left:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    for pid in left:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return not left


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _wait(condition: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
