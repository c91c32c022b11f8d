"""A service's log: one JSON object a line, for the institution's own monitoring. Names, digests, rules, sizes and times; never a
patient's value, never what a message held."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from unisono.errors import UnisonoError
from unisono.federation.storage import append_whole, storage

MAX_BYTES = 16 * 1024 * 1024
"""From this size on the file becomes ``log.jsonl.1`` and a new one is begun."""

Clock = Callable[[], datetime]
Fact = str | int | float | bool | list[str] | None
Listener = Callable[[str, dict[str, Any]], None]


def nobody(_: str, __: dict[str, Any]) -> None:
    """The listener that does not listen."""


def both(first: Listener, second: Listener) -> Listener:
    """A listener that tells two."""

    def tell(event: str, facts: dict[str, Any]) -> None:
        first(event, facts)
        second(event, facts)

    return tell


class Log:
    """Appends to one file (mode 0600), from any thread. listener: is told every event too (a terminal). A full disk does not
    stop the service: a line that cannot be written is counted, and the next that can says how many were (``lines_lost``)."""

    def __init__(self, path: Path, clock: Clock, listener: Listener = nobody, max_bytes: int = MAX_BYTES) -> None:
        """Makes the file if there is none. `StorageError` if it cannot be written."""
        self.path = path
        self._clock = clock
        self._listener = listener
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._lost = 0
        self.lost = 0
        """Lines that could not be written, since the service began."""
        self._closed = False
        with storage(path, "log"):
            self._append(b"")

    def write(self, event: str, **facts: Fact) -> None:
        """One event."""
        line = {"time": self._clock().isoformat(timespec="milliseconds"), "event": event, **facts}
        with self._lock:
            if self._closed:
                return  # a thread that ends late has nobody to tell
            if self._lost:
                line["lines_lost"] = self._lost
            try:
                self._append((json.dumps(line) + "\n").encode())
                self._lost = 0
            except OSError:
                self._lost += 1
                self.lost += 1
        self._listener(event, facts)

    def refused(self, event: str, error: UnisonoError, **facts: Fact) -> None:
        """An event with the error that it was."""
        self.write(event, rule=error.rule, what=error.what, remedy=error.remedy, **facts)

    def close(self) -> None:
        """Write nothing any more."""
        with self._lock:
            self._closed = True

    def _append(self, content: bytes) -> None:
        if self.path.exists() and self.path.stat().st_size > self._max_bytes:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        append_whole(self.path, content, mode=0o600)
