"""One running worker process: started in an empty folder with a small environment, talked to under a deadline, ended."""

from __future__ import annotations

import contextlib
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from unisono.errors import WorkerError
from unisono.site.workers.child import FOLDER
from unisono.site.workers.limits import Limits
from unisono.site.workers.pipe import HEADER, Shared, length_of

Why = Literal["died", "late"]

_KEPT = ("PATH", "LD_LIBRARY_PATH", "TZ", "CUDA_VISIBLE_DEVICES")
"""Of the agent's environment: where libraries and devices are. Nothing else is handed on."""
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_BLOCK = 1 << 20


class Ended(Exception):
    """The process gave no answer: it died, or was late. Never leaves this package."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why: Why = why


class Running:
    """A worker process, from its start to its end. One thread at a time; only `kill` may be called from another."""

    def __init__(self, limits: Limits, packages: Sequence[Path] = ()) -> None:
        """`WorkerError` (``worker-died``) if the system lets no process be started."""
        self.said = 0
        """Bytes that it wrote to its error stream. They are thrown away: they may hold data."""
        self._reaping = threading.Lock()
        with contextlib.ExitStack() as undo:
            try:
                self._folder = tempfile.mkdtemp(prefix=FOLDER)
                undo.callback(shutil.rmtree, self._folder, ignore_errors=True)
                self.shared = Shared.make(limits.result_bytes)
                undo.callback(self.shared.close)
                self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                    command(limits, self.shared.fd),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    cwd=self._folder,
                    env=environment(self._folder, limits, packages),
                    pass_fds=(self.shared.fd,),
                    start_new_session=True,  # what it starts ends with it, and Ctrl-C is the agent's alone
                    umask=0o077,
                )
            except OSError as error:
                raise _not_started(error) from error
            undo.callback(self._process.__exit__, None, None, None)  # closes the pipes
            self._give_back = undo.pop_all()
        self.pid = self._process.pid
        self._stdin, self._stdout, self._stderr = (
            stream.fileno() for stream in (self._process.stdin, self._process.stdout, self._process.stderr) if stream
        )
        self._poll = select.poll()
        for fd in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(fd, False)
        self._poll.register(self._stdout, select.POLLIN)
        self._poll.register(self._stderr, select.POLLIN)

    def quiet(self) -> bool:
        """Whether it lives and says nothing, as between two requests."""
        heard = [fd for fd, _ in self._poll.poll(0)]
        if self._stderr in heard:
            self._overhear()
        return self._stdout not in heard

    def exchange(self, frame: bytes, seconds: float) -> bytes:
        """Send a question and wait for the answer's packed tree, together at most so long.

        `Ended` without an answer, `Garbled` for bytes that are none: the process is then of no use, and is to be ended.
        """
        until = time.monotonic() + seconds
        question, answer, wanted = memoryview(frame), bytearray(), HEADER.size
        header_read = False
        question = self._sent(question)
        while len(answer) < wanted:
            left = until - time.monotonic()
            if left <= 0:
                raise Ended("late")
            for fd, _ in self._poll.poll(math.ceil(left * 1000)):
                if fd == self._stdin:
                    question = self._sent(question)
                elif fd == self._stderr:
                    self._overhear()
                else:
                    answer += self._heard(min(wanted - len(answer), _BLOCK))
            if not header_read and len(answer) == wanted:
                header_read, wanted = True, length_of(bytes(answer))
                answer.clear()
        return bytes(answer)

    def kill(self) -> None:
        """Kill it and all that it started. A request that waits for it, in another thread, then ends at once."""
        with self._reaping:
            if self._process.returncode is None:  # not reaped: the number is still its own
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Kill, wait, give everything back. Its exit status: of its own, or minus the signal that killed it."""
        self.kill()
        with self._reaping:
            status = self._process.wait()
        while self._overhear():
            pass
        self._give_back.close()
        return status

    def _sent(self, question: memoryview) -> memoryview:
        """What is left to send; the pipe is watched as long as there is something."""
        try:
            left = question[os.write(self._stdin, question) :] if question else question
        except BlockingIOError:
            left = question
        except BrokenPipeError:  # how it ended shows in its answer, or in that there is none
            left = question[:0]
        if left:
            self._poll.register(self._stdin, select.POLLOUT)
        else:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._stdin)
        return left

    def _heard(self, size: int) -> bytes:
        """Something of an answer, or nothing yet; `Ended` if there is no more."""
        try:
            more = os.read(self._stdout, size)
        except BlockingIOError:
            return b""
        if not more:
            raise Ended("died")
        return more

    def _overhear(self) -> bool:
        """Count, and throw away, what it says on its error stream; False if it said nothing."""
        try:
            more = os.read(self._stderr, _BLOCK)
        except BlockingIOError:
            return False
        self.said += len(more)
        if not more:  # it closed the stream
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._stderr)
        return bool(more)


def command(limits: Limits, shared: int) -> list[str]:
    """What is started. Nothing secret is in it: every user of the machine can read it."""
    numbers = (limits.memory_bytes or 0, limits.result_bytes, shared)
    return [sys.executable, "-m", "unisono.site.workers.child", *map(str, numbers)]


def environment(folder: str, limits: Limits, packages: Sequence[Path]) -> dict[str, str]:
    """A worker's whole environment: no secret of the agent's, and the same bits at every start."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    own = {
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # an order of names in a set is the same after a restart
        "MALLOC_ARENA_MAX": "2",  # addresses that threads would reserve count as memory
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        **dict.fromkeys(_THREADS, str(limits.threads)),
    }
    if packages:
        own["PYTHONPATH"] = os.pathsep.join(str(path.absolute()) for path in packages)
    return {**kept, **own}


def _not_started(error: OSError) -> WorkerError:
    return WorkerError(
        f"A worker process could not be started: {error.strerror or 'the system refused'}.",
        rule="worker-died",
        remedy="Nothing left the site. Look for a lack of memory, disk or processes on this machine, then ask again.",
    )
