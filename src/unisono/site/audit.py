"""The site's audit log: who asked what, what was answered or refused, by which rule. One JSON line an event, each with the
hash of the line before, so that a removed or changed line is seen. Never a patient's value."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from unisono.federation.storage import append_whole, storage


class AuditLog:
    """Appends; `verify` walks the chain."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage(path, "audit log"):
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes() if path.exists() else b""
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                # A line that a full disk or a kill cut off: what it would have allowed was not done.
                os.truncate(path, whole)
        lines = content[:whole].splitlines()
        self._previous = _hash(lines[-1]) if lines else ""

    def write(self, now: datetime, event: str, **facts: Any) -> None:
        """One event. `facts` are names, digests, counts of messages; never data."""
        line = json.dumps(
            {"time": now.isoformat(), "event": event, **facts, "previous": self._previous}, sort_keys=True
        ).encode()
        with storage(self.path, "audit log"):
            append_whole(self.path, line + b"\n")
        self._previous = _hash(line)

    def verify(self) -> bool:
        """True if no line was changed or removed (but for the end, which `previous` of a later copy shows)."""
        previous = ""
        for line in self.path.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                return False
            if not isinstance(event, dict) or event.get("previous") != previous:
                return False
            previous = _hash(line)
        return True


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
