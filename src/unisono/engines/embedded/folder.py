"""One run at a time in a folder of results: the second one is told, before it touches anything."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from unisono.federation.storage import storage

LOCK = "run.lock"
_PATIENCE_S = 0.5


class Folder:
    """A folder of results, held by this process until `close`.

    SQLite's lock on an empty file: the same on every system, and a killed process lets go of it. `StorageError` (rule
    ``one-run-at-a-time``) if another process holds it.
    """

    def __init__(self, out: Path) -> None:
        with storage(out, "folder"):
            out.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(out / LOCK, isolation_level=None, timeout=_PATIENCE_S)
        try:
            with storage(out, "folder"):
                self._db.execute("BEGIN EXCLUSIVE")
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Let go of it."""
        self._db.close()
