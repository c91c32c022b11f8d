"""What a worker process may use: memory, processor time and time; set by the process itself, before anything else.

POSIX resource limits (setrlimit(2)), which a process can lower and, without privileges, never raise again. They stop
accidents: a loop without end, a matrix that is too large. Against hostile code a hospital wants a container or a virtual
machine around the agent as well. On macOS the system does not enforce the limit on memory; on Windows there are no such
limits at all, and the worker processes are refused there: run the agent in WSL2 or in a container.

The worker imports this first: nothing large may be imported here.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

from unisono.errors import WorkerError

GIB = 1 << 30
MIN_MEMORY = GIB
"""An idle worker takes about 0.5 GiB of addresses (numpy, scipy, pandas, pyarrow), of which it uses 0.2."""
OPEN_FILES = 256


@dataclass(frozen=True)
class Limits:
    """Of one worker process.

    memory_bytes: of address space (RLIMIT_AS), at least 1 GiB; None leaves it to a container, for graphics cards, whose
        drivers map far more addresses than they use.
    cpu_seconds: processor time of one request, all threads together, rounded up to whole seconds.
    wall_seconds: how long the agent waits for one answer; start_seconds: for a start, which reads the data.
    result_bytes: largest arrays of one ask or one answer, together; also the largest file that the worker can write.
    threads: of the linear algebra libraries. With one, the bits of a sum do not depend on how many cores are free.
    """

    memory_bytes: int | None = 8 * GIB
    cpu_seconds: float = 3600.0
    wall_seconds: float = 3600.0
    start_seconds: float = 900.0
    result_bytes: int = GIB
    threads: int = 1

    def __post_init__(self) -> None:
        """`WorkerError` (``worker-limits``) for a limit under which no worker could work."""
        seconds = (self.cpu_seconds, self.wall_seconds, self.start_seconds)
        if not all(math.isfinite(s) and s > 0 for s in seconds) or self.result_bytes < 1 or self.threads < 1:
            raise _impossible("A worker's limits must be above zero.", "Give positive numbers.")
        if self.memory_bytes is not None and self.memory_bytes < MIN_MEMORY:
            raise _impossible(
                "A worker cannot be loaded in less than 1 GiB of memory.",
                "Give memory_bytes at least 1 GiB; what is not used is not taken.",
            )


def check_platform() -> None:
    """`WorkerError` (``worker-platform``) where processes cannot be limited."""
    if os.name != "posix":
        raise WorkerError(
            "Worker processes need POSIX resource limits, which this system does not have.",
            rule="worker-platform",
            remedy="Run the site agent on Linux: on a server, in a container, or under WSL2 on Windows.",
        )


def restrict(memory_bytes: int | None, result_bytes: int) -> None:
    """In the worker, first: memory, size of files, open files; and no core dumps, which would hold patients."""
    import resource

    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, result_bytes)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    if memory_bytes is not None:
        _lower(resource.RLIMIT_AS, memory_bytes)


def allow_cpu(seconds: float) -> None:
    """In the worker, before each request: this much processor time from now on. What goes beyond ends it by SIGXCPU."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    until = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (until if hard == resource.RLIM_INFINITY else min(until, hard), hard))


def _lower(which: int, value: int) -> None:
    """Both limits, for good; a lower one that is there already stays."""
    import resource

    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _impossible(what: str, remedy: str) -> WorkerError:
    return WorkerError(what, rule="worker-limits", remedy=remedy)
