"""How a service ends: the first SIGTERM or SIGINT asks it to end in order, within a bound; the second ends it at once.

Both ends of the network survive a `kill -9` at any moment, so that ending at once loses nothing that was promised: what was being
computed is computed again. The order is a courtesy: answers under way are sent, the other end is told, files are closed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

WITHIN_S = 30.0
"""From the first signal to the end of the process, whatever it still waits for. Below systemd's and Docker Compose's patience as
`deploy/` sets it."""
_SAME_S = 1.0
"""Signals so close together are one: a terminal and a program between both pass Ctrl-C on."""


@contextmanager
def asked_by_signals(late: Callable[[], None], within_s: float = WITHIN_S) -> Iterator[asyncio.Event]:
    """An event that the first signal sets. In the main thread, in a running loop.

    late: called, from another thread, when the service has not ended in time (to log it); the process then ends as it is, with
    exit code 0: a stop that was asked for is no failure. After a signal was heard this stays in force until the process ends.
    """
    loop, asked, heard = asyncio.get_running_loop(), asyncio.Event(), list[float]()

    def overdue() -> None:
        try:
            late()
            os.write(
                2, b"stopped without waiting longer; what was being computed is computed again at the next start\n"
            )
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
        finally:
            os._exit(0)

    def hear(number: int, _: FrameType | None) -> None:
        heard.append(time.monotonic())
        if len(heard) > 1:
            if heard[-1] - heard[0] < _SAME_S:
                return
            os.write(2, b"\nstopped at once\n")
            os._exit(128 + number)
        bound = threading.Timer(within_s, overdue)
        bound.daemon = True
        bound.start()
        loop.call_soon_threadsafe(asked.set)

    # Python's own handlers, and not the loop's: a second signal is heard even where the loop waits for something.
    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        if not heard:
            for number, handler in before.items():
                signal.signal(number, handler)
