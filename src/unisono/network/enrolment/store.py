"""What the lists of invitations and of members share: one SQLite file each, at the coordinator."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unisono.federation.storage import begun, is_new, storage

_VERSION = 1
_PATIENCE_S = 10.0


class Store:
    """One SQLite file, on disk when a change returns. Safe to use from several threads and processes."""

    WHAT = "store"
    SCHEMA: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it. `StorageError` or `JournalError` if it cannot be, or if what it held is gone: a
        coordinator that forgot who joined, or which tokens were used, would let in whoever comes."""
        self.path = path
        self._lock = threading.RLock()
        with storage(path, self.WHAT):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_S, check_same_thread=False)
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        with storage(self.path, self.WHAT):
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
        with self._change() as db:
            if is_new(db, self.path, self.WHAT, _VERSION):
                begun(self.path, "enrolment", self.WHAT, empty=True)
                for table in self.SCHEMA:
                    db.execute(table)
                db.execute(f"PRAGMA user_version={_VERSION}")
        with self._change():  # one process at a time
            begun(self.path, "enrolment", self.WHAT, empty=False)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing, alone."""
        with self._lock, storage(self.path, self.WHAT):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock, storage(self.path, self.WHAT):
            return self._db.execute(query, values).fetchall()


def utc(seconds: float) -> datetime:
    """The time in a column."""
    return datetime.fromtimestamp(seconds, UTC)


def utc_or_none(seconds: float | None) -> datetime | None:
    """The time in a column that may be empty."""
    return None if seconds is None else utc(seconds)
