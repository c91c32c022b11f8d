"""What the services' SQLite files share: a connection for several threads, and changes that are made whole or not at all."""

from __future__ import annotations

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unisono.federation.storage import storage


class Database(ABC):
    """One SQLite file; a change is on disk when it returns. Safe to use from several threads. WHAT: what it is, for errors;
    PATIENCE_S: how long another process may hold it."""

    WHAT = "store"
    PATIENCE_S = 10.0

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it. `StorageError` or `JournalError` if it cannot be."""
        self.path = path
        self._lock = threading.RLock()
        with storage(path, self.WHAT):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=self.PATIENCE_S, check_same_thread=False)
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    @abstractmethod
    def _open(self) -> None:
        """How it is kept, and its tables."""

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing, alone; also where the disk is full only when it is to be committed."""
        with self._lock, storage(self.path, self.WHAT):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock, storage(self.path, self.WHAT):
            return self._db.execute(query, values).fetchall()
