"""The coordinator's durable record of one analysis: every opened sum, in order, in a chain of hashes.

A killed run is replayed against it: the method's coordinator half runs again from its start (or its last snapshot), every
step that was opened is answered from here and never asked again, and the run goes on where it stopped. One SQLite file;
no clock, so that the same run gives the same bytes in every record.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.errors import JournalError, StorageError
from unisono.federation.tree import Tree, digest, pack, unpack

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, epoch INTEGER NOT NULL, step INTEGER NOT NULL,
    body BLOB, body_digest TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_step ON records (kind, epoch, step);
"""


@dataclass(frozen=True)
class Record:
    """One thing written down. `body` is None where a snapshot pruned it."""

    seq: int
    kind: str
    epoch: int
    step: int
    body: dict[str, Any] | None


@contextmanager
def storage(path: Path, what: str) -> Iterator[None]:
    """SQLite's and the file system's troubles as errors that a user can act on."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error).lower()
        if "malformed" in text or "not a database" in text or "corrupt" in text:
            raise damaged(path, what, "the file is not a readable database") from error
        if "locked" in text:
            raise StorageError(
                f"The {what} {path} is in use by another process.",
                rule="one-run-at-a-time",
                remedy="Wait for the other run to end, or write to another folder with --out.",
            ) from error
        raise unwritable(path, what, str(error)) from error
    except OSError as error:
        raise unwritable(path, what, error.strerror or str(error)) from error


def damaged(path: Path, what: str, how: str) -> JournalError:
    """The error for a record that cannot be trusted; nothing is restarted silently."""
    return JournalError(
        f"The {what} {path} is damaged: {how}.",
        rule="journal-integrity",
        remedy="Restore the file from a back-up and run the same command again; or run with --fresh, which asks the sites anew.",
    )


def unwritable(path: Path, what: str, reason: str) -> StorageError:
    """The error for a disk that is full or a folder that cannot be written."""
    return StorageError(
        f"The {what} {path} cannot be written: {reason}.",
        rule="durable-storage",
        remedy="Free disk space or correct the permissions, then run the same command again: it goes on where it stopped.",
    )


class Journal:
    """An analysis's records. The constructor verifies the whole chain; `JournalError` if a byte was changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage(path, "journal"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            # A killed process or machine loses nothing that was answered: every record is on disk before it is used.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            self._next = 0
            self.digest = self._verify()

    def close(self) -> None:
        """Close the file; the journal can be opened again."""
        self._db.close()

    def write(self, kind: str, body: Mapping[str, Tree], *, epoch: int = 0, step: int = -1) -> Record:
        """Append a record; on disk when this returns."""
        seq, packed = self._next, pack(dict(body))
        body_digest = hashlib.sha256(packed).hexdigest()
        link = _link(self.digest, seq, kind, epoch, step, body_digest)
        row = (seq, kind, epoch, step, packed, body_digest, link)
        with storage(self.path, "journal"):
            self._db.execute("INSERT INTO records VALUES (?,?,?,?,?,?,?)", row)
        self.digest, self._next = link, seq + 1
        return Record(seq, kind, epoch, step, dict(body))

    def last(self, kind: str, *, epoch: int | None = None, step: int | None = None) -> Record | None:
        """The newest record of a kind (of an epoch, of a step)."""
        rows = self._newest(kind, epoch, step, 1)
        return rows[0] if rows else None

    def all(self, kind: str, *, epoch: int | None = None, step: int | None = None) -> list[Record]:
        """The records of a kind, oldest first."""
        return self._newest(kind, epoch, step, -1)[::-1]

    def prune(self, before: Record, *, from_step: int) -> None:
        """Forget the bodies of sums opened from `from_step` on and before a snapshot; their hashes stay in the chain."""
        with storage(self.path, "journal"):
            self._db.execute(
                "UPDATE records SET body = NULL"
                " WHERE kind IN ('opened', 'pending') AND epoch = ? AND step >= ? AND seq < ?",
                (before.epoch, from_step, before.seq),
            )

    def forget_pending(self, epoch: int, step: int) -> None:
        """The accumulated masked sum of a step that was opened is of no more use."""
        with storage(self.path, "journal"):
            self._db.execute(
                "UPDATE records SET body = NULL WHERE kind = 'pending' AND epoch = ? AND step = ?", (epoch, step)
            )

    def _newest(self, kind: str, epoch: int | None, step: int | None, limit: int) -> list[Record]:
        with storage(self.path, "journal"):
            rows = self._db.execute(
                "SELECT seq, kind, epoch, step, body FROM records WHERE kind = :kind"
                " AND (:epoch IS NULL OR epoch = :epoch) AND (:step IS NULL OR step = :step)"
                " ORDER BY seq DESC LIMIT :limit",
                {"kind": kind, "epoch": epoch, "step": step, "limit": limit},
            ).fetchall()
        return [Record(s, k, e, n, None if body is None else unpack(body)) for s, k, e, n, body in rows]

    def _verify(self) -> str:
        """Walk the chain; the digest of its last link."""
        link, expected = digest("unisono journal"), 0
        for seq, kind, epoch, step, body, body_digest, stored in self._db.execute("SELECT * FROM records ORDER BY seq"):
            if seq != expected:
                raise damaged(self.path, "journal", f"record {expected} is missing")
            if body is not None and hashlib.sha256(body).hexdigest() != body_digest:
                raise damaged(self.path, "journal", f"record {seq} ({kind}) was altered")
            link = _link(link, seq, kind, epoch, step, body_digest)
            if link != stored:
                raise damaged(self.path, "journal", f"the chain of hashes breaks at record {seq} ({kind})")
            expected += 1
        self._next = expected
        return link


def _link(previous: str, seq: int, kind: str, epoch: int, step: int, body_digest: str) -> str:
    return hashlib.sha256(f"{previous}|{seq}|{kind}|{epoch}|{step}|{body_digest}".encode()).hexdigest()
