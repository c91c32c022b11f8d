"""What tells a site's memory from an older copy of it: its mark, the coordinator's as it was last heard, and, where the memory was
restored from a back-up, the runs that were begun since. In the file of `SiteState`, in the same transactions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager

from unisono.errors import PermitError
from unisono.federation import lineage
from unisono.federation.lineage import Mark

_COUNTED = {
    "steps": ("INSERT", "UPDATE OF survivors, slot"),
    "drawings": ("INSERT", "UPDATE"),
    "circles": ("INSERT",),
    "cohorts": ("INSERT",),
    "snapshots": ("INSERT",),
}
"""What a site promises by writing it down. That a step was answered or closed is written without waiting for the disk."""
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS coordinator (lineage TEXT NOT NULL, count INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS begun (run TEXT PRIMARY KEY)",
)
Guard = Callable[[], AbstractContextManager[None]]


class SiteLineage:
    """guard: entered around every use of the database."""

    def __init__(self, db: sqlite3.Connection, guard: Guard) -> None:
        self._db = db
        self._guard = guard
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                for table in _SCHEMA:
                    self._db.execute(table)
                lineage.keep(self._db, _COUNTED)
        self.restored = self.mark().restored
        """When the back-up was made that this memory was restored from (ISO time); empty if it never was."""

    def mark(self) -> Mark:
        """How far this memory has come."""
        with self._guard():
            found = lineage.mark_of(self._db)
        assert found is not None  # kept since the file was opened
        return found

    # -- the coordinator's ----------------------------------------------------------------------------------------------

    def coordinator(self) -> Mark | None:
        """How far the coordinator's memory had come when it was last heard."""
        with self._guard():
            row = self._db.execute("SELECT lineage, count FROM coordinator").fetchone()
        return None if row is None else Mark(*row)

    def heard(self, mark: Mark) -> None:
        """What the coordinator says of its own."""
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                self._db.execute("DELETE FROM coordinator")
                self._db.execute("INSERT INTO coordinator VALUES (?, ?)", (mark.lineage, mark.count))

    # -- after a restoration --------------------------------------------------------------------------------------------

    def restore(self, made: str) -> None:
        """This memory was put back from a copy of that time (ISO): it is another one from now on, every run that it knows is closed,
        and only runs that are begun anew are answered. Vectors and shares are of no more use."""
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                self._db.execute("UPDATE steps SET closed = 1, answer = NULL")
                self._db.execute("DELETE FROM vectors")
                self._db.execute("DELETE FROM memories")
                self._db.execute("DELETE FROM begun")
                self._db.execute("DELETE FROM coordinator")
                lineage.begin_anew(self._db, made)
        self.restored = made

    def begin(self, run: str) -> None:
        """A run is known to be begun after the restoration."""
        with self._guard():
            self._db.execute("INSERT OR IGNORE INTO begun VALUES (?)", (run,))

    def may_answer(self, run: str) -> bool:
        """Whether a run may be answered by this memory."""
        if not self.restored:
            return True
        with self._guard():
            return self._db.execute("SELECT 1 FROM begun WHERE run = ?", (run,)).fetchone() is not None

    def check(self, run: str) -> None:
        """`PermitError` unless the run may be answered: what this site answered of it, and for which sites, may be forgotten."""
        if not self.may_answer(run):
            raise PermitError(
                f"This site was restored from a back-up of {self.restored[:16].replace('T', ' ')} UTC, and does not know what it "
                "answered since. It goes on with no run that was begun under an earlier approval.",
                rule="restored-site",
                remedy="Submit the study again: it then waits for every data steward anew, and is begun anew.",
            )
