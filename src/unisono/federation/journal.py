"""The coordinator's durable record of one analysis: every opened sum, in order, in a chain of hashes.

A killed run is replayed against it: the method's coordinator half runs again from its start (or its last snapshot), every
step that was opened is answered from here and never asked again, and the run goes on where it stopped. One SQLite file;
large records' bodies in files beside it; no clock, so that the same run gives the same bytes in every record.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisono.errors import JournalError
from unisono.federation.bulk import LARGE, Bulk
from unisono.federation.storage import begun, damaged, is_new, storage
from unisono.federation.tree import Tree, digest, parts, unpack

__all__ = ["Journal", "Record", "storage"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, epoch INTEGER NOT NULL, step INTEGER NOT NULL,
    body BLOB, body_digest TEXT NOT NULL, hash TEXT NOT NULL)
"""
_IN_FILE = b"in a file"
"""Stands in a row for a body that lies beside it. A packed tree begins otherwise."""
_AT_ONCE = 500
_PATIENCE_S = 1.0
"""How long another process may hold the file before the user is told."""


@dataclass(frozen=True)
class Record:
    """One thing written down. `body` is None where a snapshot pruned it."""

    seq: int
    kind: str
    epoch: int
    step: int
    body: dict[str, Any] | None


@dataclass(frozen=True)
class _Place:
    """Where a record is, without its body."""

    seq: int
    kind: str
    epoch: int
    step: int


class _Places:
    """Where the records are. In memory, and not an index of SQLite's: a damaged index would hide a record, and a hidden
    `opened` would be asked a second time."""

    def __init__(self) -> None:
        self.number = 0
        self._of_kind: dict[str, list[_Place]] = {}
        self._of_step: dict[tuple[str, int, int], list[_Place]] = {}

    def add(self, place: _Place) -> None:
        self.number += 1
        self._of_kind.setdefault(place.kind, []).append(place)
        self._of_step.setdefault((place.kind, place.epoch, place.step), []).append(place)

    def find(self, kind: str, epoch: int | None, step: int | None) -> list[_Place]:
        """Oldest first."""
        if epoch is not None and step is not None:
            return self._of_step.get((kind, epoch, step), [])
        return [
            p for p in self._of_kind.get(kind, []) if (epoch is None or p.epoch == epoch) and step in (None, p.step)
        ]

    def may_be_empty(self, place: _Place) -> bool:
        """Bodies are forgotten for two reasons only: the step was opened, or a snapshot came after it."""
        pruned = any(s.seq > place.seq for s in self.find("snapshot", place.epoch, None)[-1:])
        if place.kind == "pending":
            return pruned or any(o.seq > place.seq for o in self.find("opened", place.epoch, place.step)[-1:])
        return place.kind == "opened" and pruned


class Journal:
    """An analysis's records. The constructor verifies the whole chain; `JournalError` if a byte was changed."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """read_only: nothing may be written (`JournalError`, rule ``complete-journal``): for verification."""
        self.path = path
        self._read_only = read_only
        self._places = _Places()
        self._bulk = Bulk(path, "journal")
        with storage(path, "journal"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_S)
        try:
            with storage(path, "journal"):
                # A killed process or machine loses nothing that was answered: every record is on disk before it is used.
                self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
            if is_new(self._db, path, "journal", _VERSION):
                with storage(path, "journal"):
                    self._db.execute(_SCHEMA)
                    self._db.execute(f"PRAGMA user_version={_VERSION}")
            self.digest, first = self._verify()
            begun(path, first, "journal", empty=self._places.number == 0)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file; the journal can be opened again."""
        self._db.close()

    def write(
        self, kind: str, body: Mapping[str, Tree], *, epoch: int = 0, step: int = -1, soon: bool = False
    ) -> Record:
        """Append a record; on disk when this returns. soon: a power cut may take it back until the next record, or `flush`."""
        if self._read_only:
            raise JournalError(
                f"The journal {self.path} ends before the run does.",
                rule="complete-journal",
                remedy="The run is not finished, or was made with another version of the method; run it to its end first.",
            )
        place = _Place(self._places.number, kind, epoch, step)
        pieces = parts(dict(body))
        body_digest = _sha256(pieces)
        link = _link(self.digest, place, body_digest)
        if sum(map(len, pieces)) >= LARGE:
            self._bulk.write(_file(place.seq), pieces)
            packed = _IN_FILE
        else:
            packed = b"".join(pieces)
        with storage(self.path, "journal"), self._commits(soon=soon):
            self._db.execute(
                "INSERT INTO records VALUES (?,?,?,?,?,?,?)",
                (place.seq, kind, epoch, step, packed, body_digest, link),
            )
        self.digest = link
        self._places.add(place)
        if place.seq == 0:
            begun(self.path, link, "journal", empty=False)
        return Record(place.seq, kind, epoch, step, dict(body))

    def last(self, kind: str, *, epoch: int | None = None, step: int | None = None) -> Record | None:
        """The newest record of a kind (of an epoch, of a step)."""
        found = self._places.find(kind, epoch, step)
        return self._read(found[-1]) if found else None

    def all(self, kind: str, *, epoch: int | None = None, step: int | None = None) -> list[Record]:
        """The records of a kind, oldest first."""
        return list(self.each(kind, epoch=epoch, step=step))

    def each(self, kind: str, *, epoch: int | None = None, step: int | None = None) -> Iterator[Record]:
        """The records of a kind, oldest first, one in memory at a time."""
        return (self._read(place) for place in tuple(self._places.find(kind, epoch, step)))

    def count(self, kind: str) -> int:
        """How many records of a kind there are, those that a snapshot emptied among them."""
        return len(self._places.find(kind, None, None))

    def prune(self, before: Record, *, from_step: int) -> None:
        """Forget the bodies of sums opened from `from_step` on and before a snapshot; their hashes stay in the chain, and what they
        say beside their words in a record ``sums`` (`federation.history`)."""
        found = [p for kind in ("opened", "pending") for p in self._places.find(kind, before.epoch, None)]
        self._empty(p for p in found if p.step >= from_step and p.seq < before.seq)

    def flush(self) -> None:
        """Everything is on disk when this returns."""
        with storage(self.path, "journal"):
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def forget_pending(self, epoch: int, step: int) -> None:
        """The accumulated masked sum of a step that was opened is of no more use."""
        self._empty(self._places.find("pending", epoch, step))

    def _empty(self, places: Iterable[_Place]) -> None:
        seqs = [place.seq for place in places]
        for at in range(0, len(seqs), _AT_ONCE):
            some = seqs[at : at + _AT_ONCE]
            marks = ",".join("?" * len(some))
            files = self._bulk.held(map(_file, some))
            with storage(self.path, "journal"), self._commits(soon=not files):
                self._db.execute(f"UPDATE records SET body = NULL WHERE seq IN ({marks})", some)  # noqa: S608
            self._bulk.drop(files)

    @contextmanager
    def _commits(self, *, soon: bool) -> Iterator[None]:
        """How far a change goes before it counts as made: as far as the system, or as far as the disk."""
        if soon:
            self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            if soon:
                self._db.execute("PRAGMA synchronous=FULL")

    def _read(self, place: _Place) -> Record:
        with storage(self.path, "journal"):
            row = self._db.execute("SELECT body FROM records WHERE seq = ?", (place.seq,)).fetchone()
        body = None if row[0] is None else unpack(self._body(place.seq, row[0]))
        return Record(place.seq, place.kind, place.epoch, place.step, body)

    def _body(self, seq: int, stored: bytes) -> bytes | memoryview:
        """What a row stands for."""
        if stored != _IN_FILE:
            return stored
        content = self._bulk.read(_file(seq))
        if content is None:
            raise damaged(self.path, "journal", f"the file {_file(seq)} of {self._bulk.folder.name} is missing")
        return content

    def _verify(self) -> tuple[str, str]:
        """Walk the chain; the digests of its last and its first link."""
        link, first = digest("unisono journal"), ""
        emptied: list[_Place] = []
        in_files: list[int] = []
        for row in self._rows():
            if not _typed(row) or row[0] != self._places.number:
                raise damaged(self.path, "journal", f"record {self._places.number} is missing or unreadable")
            seq, kind, epoch, step, body, body_digest, stored = row
            place = _Place(seq, kind, epoch, step)
            if body == _IN_FILE:
                in_files.append(seq)
            if body is None:
                emptied.append(place)
            elif _sha256([self._body(seq, body)]) != body_digest:
                raise damaged(self.path, "journal", f"record {seq} ({kind}) was altered")
            link = _link(link, place, body_digest)
            if link != stored:
                raise damaged(self.path, "journal", f"the chain of hashes breaks at record {seq} ({kind})")
            first = first or link
            self._places.add(place)
        if not self._read_only:
            self._bulk.keep_only(_file(seq) for seq in in_files)
        for place in emptied:
            if not self._places.may_be_empty(place):
                raise damaged(self.path, "journal", f"record {place.seq} ({place.kind}) was emptied")
        return link, first

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        try:
            # The chain cannot see that its last link is gone; SQLite's pages can.
            if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("malformed")
            yield from self._db.execute(
                "SELECT seq, kind, epoch, step, body, body_digest, hash FROM records ORDER BY seq"
            )
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # It could be opened: whatever stops the reading now is in its bytes.
            raise damaged(self.path, "journal", "the file is not a readable database") from error


def _file(seq: int) -> str:
    return f"{seq:08d}.body"


def _sha256(pieces: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def _typed(row: tuple[Any, ...]) -> bool:
    seq, kind, epoch, step, body, body_digest, stored = row
    numbers = all(type(x) is int for x in (seq, epoch, step))
    return numbers and all(type(x) is str for x in (kind, body_digest, stored)) and type(body) in (bytes, type(None))


def _link(previous: str, place: _Place, body_digest: str) -> str:
    text = f"{previous}|{place.seq}|{place.kind}|{place.epoch}|{place.step}|{body_digest}"
    return hashlib.sha256(text.encode()).hexdigest()
