"""What the coordinator remembers of studies, in one SQLite file (WAL): documents, permits, states, and what sites have not been
told yet. Sums are in the studies' own journals."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from unisono.errors import StorageError, StudyError
from unisono.federation import lineage
from unisono.federation.lineage import Mark
from unisono.federation.storage import begun, is_new, storage
from unisono.network.database import Database
from unisono.network.signing import StudySignature
from unisono.protection.secagg.roster import Roster
from unisono.study.document import Study
from unisono.study.load import load

State = Literal["waiting", "ready", "running", "finished", "failed", "refused", "cancelled", "withdrawn"]
OPEN: tuple[State, ...] = ("waiting", "ready", "running")
"""In which something is still going to happen by itself."""
OVER: tuple[State, ...] = ("finished", "refused", "cancelled", "withdrawn")
"""In which nothing more will be asked. A failed study may be submitted again, and goes on."""

Decision = Literal["approved", "refused", "withdrawn"]
Kind = Literal["offer", "state", "result"]
_VERSION = 1
_SCHEMA = (
    "CREATE TABLE studies (digest TEXT PRIMARY KEY, id TEXT NOT NULL, document TEXT NOT NULL, signature TEXT NOT NULL,"
    " roster TEXT NOT NULL, submitted TEXT NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL)",
    "CREATE TABLE decisions (study TEXT NOT NULL, site TEXT NOT NULL, decision TEXT NOT NULL, why TEXT NOT NULL,"
    " permit TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (study, site))",
    "CREATE TABLE deliveries (seq INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, study TEXT NOT NULL,"
    " kind TEXT NOT NULL, UNIQUE (site, study, kind))",
)
_MARKS = (
    "CREATE TABLE IF NOT EXISTS marks (seq INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, identity TEXT NOT NULL,"
    " lineage TEXT NOT NULL, count INTEGER NOT NULL, restored TEXT NOT NULL, UNIQUE (site, identity, lineage))"
)
_COLUMNS = "digest, id, document, signature, roster, submitted, state, why"


@dataclass(frozen=True)
class Asked:
    """One study as it was submitted, and where it stands. document: as text, as it was signed."""

    digest: str
    id: str
    document: str
    signature: StudySignature
    roster: Roster
    submitted: datetime
    state: State
    why: str

    def study(self) -> Study:
        """The document, read again. What it names is checked when it is submitted, and by every site."""
        return load(json.loads(self.document))


@dataclass(frozen=True)
class Decided:
    """What one site's steward decided. permit: JSON, empty unless approved."""

    site: str
    decision: Decision
    why: str
    permit: str
    at: datetime


@dataclass(frozen=True)
class Delivery:
    """Something that a site has not been told yet. What exactly is looked up when it is sent: a state may have changed."""

    seq: int
    site: str
    study: str
    kind: Kind


class Store(Database):
    """The file, held by one process. `StorageError` if another coordinator serves this folder; `JournalError` if it is damaged or was
    emptied."""

    WHAT = "store of studies"
    PATIENCE_S = 0.5

    def _open(self) -> None:
        with storage(self.path, self.WHAT):
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    raise _served(self.path) from error
                raise
            self._db.execute("PRAGMA synchronous=FULL")
        with self._change() as db:
            if is_new(db, self.path, self.WHAT, _VERSION):
                begun(self.path, "studies", self.WHAT, empty=True)
                for table in _SCHEMA:
                    db.execute(table)
                db.execute(f"PRAGMA user_version={_VERSION}")
            db.execute(_MARKS)
            lineage.keep(db, dict.fromkeys(("studies", "decisions"), ("INSERT", "UPDATE", "DELETE")))
        begun(self.path, "studies", self.WHAT, empty=False)

    # -- studies ------------------------------------------------------------------------------------------------------

    def submit(self, asked: Asked, without: tuple[str, ...] = ()) -> None:
        """A study that is new here or submitted anew, with an offer to every site of its roster; what was decided on it before does
        not count. without: sites that are not asked any more, and are to be told.

        In one change: a courier, or a coordinator that is started again after a kill, must not find a study that is gone.
        """
        with self._change() as db:
            for table, column in (("studies", "digest"), ("decisions", "study"), ("deliveries", "study")):
                db.execute(f"DELETE FROM {table} WHERE {column} = ?", (asked.digest,))  # noqa: S608
            values = (asked.digest, asked.id, asked.document, json.dumps(asked.signature.to_tree()))
            rest = (json.dumps(asked.roster.to_tree()), asked.submitted.isoformat(), asked.state, asked.why)
            db.execute(f"INSERT INTO studies ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)", (*values, *rest))  # noqa: S608
            _deliver(db, asked.digest, asked.roster.sites, "offer")
            _deliver(db, asked.digest, without, "state")

    def find(self, digest: str) -> Asked | None:
        """The study of that digest."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM studies WHERE digest = ?", digest)  # noqa: S608
        return _asked(rows[0]) if rows else None

    def all(self) -> list[Asked]:
        """Every study, the oldest first."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM studies ORDER BY submitted, digest")  # noqa: S608
        return [_asked(row) for row in rows]

    def states(self) -> dict[str, int]:
        """How many studies are in which state."""
        return dict(self._rows("SELECT state, count(*) FROM studies GROUP BY state"))

    def check(self) -> None:
        """Write something that changes nothing, down to the disk. `StorageError` if that cannot be done."""
        with self._change() as db:
            db.execute(f"PRAGMA user_version={_VERSION}")

    def move(self, digest: str, state: State, why: str = "", *, results: bool = False) -> None:
        """Another state; its sites are to be told. results: and are to be sent what was answered."""
        with self._change() as db:
            db.execute("UPDATE studies SET state = ?, why = ? WHERE digest = ?", (state, why, digest))
            row = db.execute("SELECT roster FROM studies WHERE digest = ?", (digest,)).fetchone()
            sites = tuple(json.loads(row[0]))
            _deliver(db, digest, sites, "state")
            if results:
                _deliver(db, digest, sites, "result")

    # -- what sites decided -------------------------------------------------------------------------------------------

    def decide(self, digest: str, decided: Decided) -> None:
        """A site's decision, in the place of an earlier one."""
        with self._change() as db:
            db.execute(
                "INSERT OR REPLACE INTO decisions (study, site, decision, why, permit, at) VALUES (?,?,?,?,?,?)",
                (digest, decided.site, decided.decision, decided.why, decided.permit, decided.at.isoformat()),
            )

    def decisions(self, digest: str) -> dict[str, Decided]:
        """By site."""
        rows = self._rows("SELECT site, decision, why, permit, at FROM decisions WHERE study = ? ORDER BY site", digest)
        return {row[0]: Decided(row[0], row[1], row[2], row[3], datetime.fromisoformat(row[4])) for row in rows}

    # -- what sites have not been told --------------------------------------------------------------------------------

    def undelivered(self, site: str) -> Delivery | None:
        """The first thing to tell a site."""
        rows = self._rows("SELECT seq, site, study, kind FROM deliveries WHERE site = ? ORDER BY seq LIMIT 1", site)
        return Delivery(*rows[0]) if rows else None

    def tell_again(self, site: str) -> None:
        """A site may have forgotten what it was told: every study that it is asked in is offered again, and its state told."""
        with self._change() as db:
            for digest, roster in db.execute(
                "SELECT digest, roster FROM studies ORDER BY submitted, digest"
            ).fetchall():
                if site in json.loads(roster):
                    _deliver(db, digest, (site,), "offer")
                    _deliver(db, digest, (site,), "state")

    def owes(self, site: str, study: str) -> bool:
        """Whether there is something about a study that a site has not been told."""
        return bool(self._rows("SELECT 1 FROM deliveries WHERE site = ? AND study = ? LIMIT 1", site, study))

    def is_due(self, delivery: Delivery) -> bool:
        """Whether a site is still to be told this; False if something newer took its place, or the study was submitted anew."""
        return bool(self._rows("SELECT 1 FROM deliveries WHERE seq = ?", delivery.seq))

    def delivered(self, delivery: Delivery) -> None:
        """The site has it; or refused it, which is as final."""
        with self._change() as db:
            db.execute("DELETE FROM deliveries WHERE seq = ?", (delivery.seq,))

    # -- how far each memory has come ---------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """This coordinator's."""
        with self._lock, storage(self.path, "store of studies"):
            found = lineage.mark_of(self._db)
        assert found is not None  # kept since the file was opened
        return found

    def count(self, changes: int) -> None:
        """Changes that were written elsewhere: sums in journals."""
        with self._change() as db:
            lineage.advance(db, changes)

    def restore(self, made: str) -> None:
        """This memory was put back from a copy of that time (ISO): it is another one from now on."""
        with self._change() as db:
            lineage.begin_anew(db, made)

    def marks(self, site: str, identity: bytes) -> list[Mark]:
        """Every memory that a site with this key has had; the present one last."""
        query = "SELECT lineage, count, restored FROM marks WHERE site = ? AND identity = ? ORDER BY seq"
        return [Mark(*row) for row in self._rows(query, site, identity.hex())]

    def keep_mark(self, site: str, identity: bytes, mark: Mark) -> None:
        """How far a site has come; a mark that is farther is left."""
        with self._change() as db:
            db.execute(
                "INSERT INTO marks (site, identity, lineage, count, restored) VALUES (?,?,?,?,?)"
                " ON CONFLICT (site, identity, lineage) DO UPDATE SET count = max(count, excluded.count)",
                (site, identity.hex(), mark.lineage, mark.count, mark.restored),
            )

    def restored(self) -> frozenset[str]:
        """Sites that were restored from a back-up at some time."""
        return frozenset(row[0] for row in self._rows("SELECT DISTINCT site FROM marks WHERE restored != ''"))

    # -- SQLite -------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Path:
        """The whole store as it is now, in a file beside it, while it is used. `StorageError` if that cannot be written."""
        path = snapshot_of(self.path)
        with self._lock, storage(path, "copy of the store"):
            path.unlink(missing_ok=True)
            path.touch(0o600)
            with closing(sqlite3.connect(path)) as copy:
                self._db.backup(copy)
        return path


def snapshot_of(path: Path) -> Path:
    """Where a store puts a copy of itself."""
    return path.with_name(f"{path.name}.snapshot")


def _deliver(db: sqlite3.Connection, digest: str, sites: tuple[str, ...], kind: Kind) -> None:
    """Again at the end of the line, if it was waiting already: what is looked up later is the newest, once."""
    db.executemany(
        "INSERT OR REPLACE INTO deliveries (site, study, kind) VALUES (?,?,?)", [(site, digest, kind) for site in sites]
    )


def _asked(row: tuple[Any, ...]) -> Asked:
    digest, id, document, signature, roster, submitted, state, why = row
    return Asked(
        digest,
        id,
        document,
        StudySignature.from_tree(json.loads(signature)),
        Roster.from_tree(json.loads(roster)),
        datetime.fromisoformat(submitted),
        state,
        why,
    )


def _served(path: Path) -> StorageError:
    return StorageError(
        f"A coordinator serves {path.parent} already.",
        rule="one-coordinator",
        remedy="Stop the other one first, or name another folder.",
    )


def unknown_study(name: str) -> StudyError:
    """No such study here, or not of whoever asks."""
    return StudyError(
        f"There is no study {name[:64]!r} here.",
        rule="known-studies",
        remedy="Give a study's digest, as it was answered when it was submitted, or see: unisono study status.",
    )
