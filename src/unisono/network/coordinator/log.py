"""What happened, a JSON object a line: names, rules, sizes and times; never what a message held."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from unisono.federation.storage import storage

Plain = str | int | float | bool | None


class Log:
    """Appends to one file (mode 0600). A full disk does not stop the service: what could not be written is counted, and said
    with the next line that can."""

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._unwritten = 0
        with storage(path, "log"):
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: str, **about: Plain | list[str]) -> None:
        """One line."""
        line = {"time": self._clock().isoformat(timespec="milliseconds"), "event": event, **about}
        with self._lock:
            if self._handle < 0:
                return  # closed: a thread that ends late has nobody to tell
            if self._unwritten:
                line["lines_lost_before"] = self._unwritten
            try:
                os.write(self._handle, (json.dumps(line) + "\n").encode())
                self._unwritten = 0
            except OSError:
                self._unwritten += 1

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._handle)
            self._handle = -1
