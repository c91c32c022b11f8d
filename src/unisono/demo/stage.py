"""The network demo's processes: commands that run to their end, services that go on, every one of them ended in the end.

Each runs `unisono` in a session of its own, in the demo's folder; what it says is kept in ``logs/<who>.log``.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from unisono.errors import NetworkError
from unisono.federation.storage import storage

COMMAND_S = 120.0
_END_S = 10.0
_AT_ONCE = 4

Listener = Callable[[str, str], None]
"""(who, line)"""


class Service:
    """A command that goes on. Its lines are kept in a log, told to `heard`, and can be waited for."""

    def __init__(self, who: str, command: list[str], folder: Path, log: Path, environment: dict[str, str], heard: Listener) -> None:  # fmt: skip
        self.who = who
        self._heard = heard
        self._said: list[str] = []
        self._asked = False
        self._news = threading.Condition()
        self._log = log
        self.process = subprocess.Popen(  # noqa: S603  (our own command)
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"log-{who}", daemon=True)
        self._reader.start()

    def wait_for(self, text: str, seconds: float) -> bool:
        """Until a line with this text came: True. False if the process ended without it, or it took too long."""
        until = time.monotonic() + seconds
        with self._news:
            while not any(text in line for line in self._said):
                left = until - time.monotonic()
                if left <= 0 or (self._said and self._said[-1] == _OVER):
                    return False
                self._news.wait(left)
        return True

    def line(self, text: str) -> str:
        """The last line so far with this text; empty if there is none."""
        with self._news:
            return next((line.rstrip("\n") for line in reversed(self._said) if text in line), "")

    def wait(self, seconds: float) -> int:
        """The exit code. `NetworkError` if it takes too long."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise failed(self.who, "did not end in time", self._log) from error
        self._reader.join(_END_S)
        return code

    def kill(self) -> None:
        """SIGKILL to the process alone, as if the machine's power went: whatever it started must notice by itself."""
        self.process.kill()
        self.process.wait()

    def ask(self) -> None:
        """SIGTERM, once: a second one would end a service in the middle of its leave."""
        if not self._asked and self.process.poll() is None:
            self._asked = True
            self.process.terminate()

    def end(self) -> None:
        """SIGTERM, patience, then SIGKILL to whatever is left of its session."""
        self.ask()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(_END_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self._log.open("a", encoding="utf-8") as log, self.process.stdout as lines:
            for line in lines:
                log.write(line)
                log.flush()
                self._heard(self.who, line.rstrip("\n"))
                self._tell(line)
        self._tell(_OVER)

    def _tell(self, line: str) -> None:
        with self._news:
            self._said.append(line)
            self._news.notify_all()


_OVER = "\0"


class Stage:
    """All processes of the demo, in one folder. A context manager: at its end, however it comes, none is left."""

    def __init__(self, folder: Path, shown: Listener) -> None:
        """shown: told every command (who, as a person would type it), before it runs."""
        self.folder = folder
        self.logs = folder / "logs"
        self._shown = shown
        self._services: list[Service] = []
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._over = False
        self._environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "TERM": "dumb",
            "COLUMNS": "110",
            "UNISONO_DEMO": str(folder.absolute()),
        }

    def __enter__(self) -> Stage:
        with storage(self.logs, "demo folder"):
            self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _undisturbed():
            self.end()

    def run(self, who: str, *arguments: str, stdin: Path | None = None, secret: bool = False) -> str:
        """A command, to its end; what it said. stdin: a file within the folder. secret: its standard output is not logged.
        `NetworkError` (``demo-step``) if it fails."""
        self._show(who, arguments, stdin)
        given = None if stdin is None else (self.folder / stdin).read_text("utf-8")
        with self._lock:
            if self._over:
                raise failed(who, "was not begun: the demo ended", self._log(who))
            process = self._popen(arguments)
            self._running.add(process)
        try:
            said, complained = process.communicate(given, timeout=COMMAND_S)
        except subprocess.TimeoutExpired as error:
            raise failed(who, "took too long", self._log(who)) from error
        finally:
            with self._lock:
                self._running.discard(process)
            _sweep(process)
        with storage(self.logs, "log"), self._log(who).open("a", encoding="utf-8") as log:
            log.write(f"$ unisono {shlex.join(arguments)}\n{'' if secret else said}{complained}")
        if process.returncode != 0:
            raise failed(who, f"failed at `unisono {shlex.join(arguments)}`", self._log(who))
        return said

    def together(self, works: Iterable[Callable[[], object]]) -> None:
        """Several works at once; the first error of any, when all have ended."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="demo") as pool:
            futures = [pool.submit(work) for work in works]
            try:
                wait(futures)
            except BaseException:  # Ctrl-C: what runs is ended, so that the threads end too
                self.end()
                raise
        for future in futures:
            future.result()

    def serve(self, who: str, *arguments: str, heard: Listener = lambda _, __: None) -> Service:
        """A command that goes on until the end."""
        self._show(who, arguments, None)
        command = [sys.executable, "-m", "unisono.cli.main", *arguments]
        with self._lock:
            if self._over:
                raise failed(who, "was not begun: the demo ended", self._log(who))
            service = Service(who, command, self.folder, self._log(who), self._environment, heard)
            self._services.append(service)
        return service

    def end(self) -> None:
        """End all, the last begun first."""
        with self._lock:
            self._over = True
            running, services = list(self._running), list(reversed(self._services))
            self._services = []
        for process in running:
            _sweep(process)
        for service in services:
            service.ask()  # all at once: they take leave beside each other
        for service in services:
            service.end()

    def _popen(self, arguments: tuple[str, ...]) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603  (our own command)
            [sys.executable, "-m", "unisono.cli.main", *arguments],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def _log(self, who: str) -> Path:
        return self.logs / f"{who}.log"

    def _show(self, who: str, arguments: tuple[str, ...], stdin: Path | None) -> None:
        self._shown(who, f"unisono {shlex.join(arguments)}{'' if stdin is None else f' < {stdin}'}")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not stop the ending."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sweep(process: subprocess.Popen[str]) -> None:
    """Nothing of a command's session is left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def failed(who: str, what: str, log: Path) -> NetworkError:
    """A step of the demo that did not go as it should."""
    return NetworkError(
        f"The demo stopped: {who} {what}.",
        rule="demo-step",
        remedy=f"{log} says why; all processes were ended. `--fresh` begins the demo anew.",
    )
