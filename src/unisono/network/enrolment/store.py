"""What the lists of invitations and of members share: one SQLite file each, at the coordinator."""

from __future__ import annotations

from datetime import UTC, datetime

from unisono.federation.storage import begun, is_new, storage
from unisono.network.database import Database

_VERSION = 1


class Store(Database):
    """One SQLite file, for several processes. `JournalError` if what it held is gone: a coordinator that forgot who joined, or which
    tokens were used, would let in whoever comes."""

    SCHEMA: tuple[str, ...] = ()

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


def utc(seconds: float) -> datetime:
    """The time in a column."""
    return datetime.fromtimestamp(seconds, UTC)


def utc_or_none(seconds: float | None) -> datetime | None:
    """The time in a column that may be empty."""
    return None if seconds is None else utc(seconds)
