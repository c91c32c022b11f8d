"""The mark of a memory that must not go back: which memory it is, and how far it has come.

A folder that is put back from a copy (a virtual machine's snapshot, a restored disk, a clone) has forgotten what it promised
since. Nothing within it can tell; whoever else saw its mark can. The count is advanced by triggers, in the transaction of the very
change that it counts: no code that writes can forget it.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace

ROLLED_BACK = "rolled-back"
"""The rule by which an end whose mark went back is refused."""
_LONGEST = 64
_MOST = 2**63 - 1


@dataclass(frozen=True)
class Mark:
    """lineage: the memory's random name. count: changes so far. restored: when the back-up was made that this memory was restored
    from (ISO time), empty if it never was."""

    lineage: str
    count: int
    restored: str = ""

    def is_behind(self, seen: Mark | None) -> bool:
        """True if the memory had come farther when it was seen."""
        return seen is not None and seen.lineage == self.lineage and self.count < seen.count

    def farther(self, other: Mark | None) -> Mark:
        """The farther of two marks of one memory; this one, if the other is of another memory."""
        return replace(self, count=max(self.count, other.count)) if other and other.lineage == self.lineage else self

    @property
    def is_one(self) -> bool:
        """Whether it can be a mark at all: it comes from outside."""
        texts = 0 < len(self.lineage) <= _LONGEST and len(self.restored) <= _LONGEST
        return texts and f"{self.lineage}{self.restored}".isprintable() and 0 <= self.count <= _MOST


def keep(db: sqlite3.Connection, counted: Mapping[str, tuple[str, ...]]) -> None:
    """Keep a mark in this database from now on, in a transaction of the caller's. Where one is kept already, nothing is changed.

    counted: by table, the changes of a row that count, as SQLite's triggers name them. Only such that are on the disk when they are
    done: a mark that was told and that a power cut takes back would look like a memory that went back.
    """
    db.execute(
        "CREATE TABLE IF NOT EXISTS mark (lineage TEXT NOT NULL, count INTEGER NOT NULL, restored TEXT NOT NULL)"
    )
    for table, changes in counted.items():
        for change in changes:
            name = f"mark_{table}_{change.split()[0].lower()}"
            what = "UPDATE mark SET count = count + 1"
            db.execute(f"CREATE TRIGGER IF NOT EXISTS {name} AFTER {change} ON {table} BEGIN {what}; END")
    if mark_of(db) is None:
        db.execute("INSERT INTO mark VALUES (?, 0, '')", (secrets.token_hex(16),))


def mark_of(db: sqlite3.Connection) -> Mark | None:
    """The mark; None where none is kept."""
    row = db.execute("SELECT lineage, count, restored FROM mark").fetchone()
    return None if row is None else Mark(*row)


def advance(db: sqlite3.Connection, by: int) -> None:
    """Count something that is written elsewhere."""
    db.execute("UPDATE mark SET count = count + ?", (by,))


def begin_anew(db: sqlite3.Connection, restored: str) -> None:
    """Another memory from now on: restored from a back-up of that time. In a transaction of the caller's."""
    db.execute("UPDATE mark SET lineage = ?, count = count + 1, restored = ?", (secrets.token_hex(16), restored))
