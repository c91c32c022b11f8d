"""The agent's log: one JSON line an event, for the hospital's own monitoring. Names, digests, rules, counts of bytes; never a
patient's value, never the content of a message."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from unisono.errors import UnisonoError

MAX_BYTES = 16 * 1024 * 1024
"""From this size on the file becomes ``log.jsonl.1`` and a new one is begun."""

Clock = Callable[[], datetime]
Listener = Callable[[str, dict[str, Any]], None]


def nobody(_: str, __: dict[str, Any]) -> None:
    """The listener that does not listen."""


class Log:
    """Appends to one file. listener: is told every event too (a terminal). A line that cannot be written, because the disk is
    full, does not stop the agent; the next line says how many were lost."""

    def __init__(self, path: Path, clock: Clock, listener: Listener = nobody, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._clock = clock
        self._listener = listener
        self._max_bytes = max_bytes
        self._lost = 0

    def write(self, event: str, **facts: Any) -> None:
        """One event."""
        lost = {"lines_lost": self._lost} if self._lost else {}
        line = json.dumps({"time": self._clock().isoformat(), "event": event, **facts, **lost}, sort_keys=True)
        try:
            if self.path.exists() and self.path.stat().st_size > self._max_bytes:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
            self._lost = 0
        except OSError:
            self._lost += 1
        self._listener(event, facts)

    def refused(self, event: str, error: UnisonoError, **facts: Any) -> None:
        """An event with the error that it was."""
        self.write(event, rule=error.rule, what=error.what, remedy=error.remedy, **facts)
