"""What a site remembers across restarts: every step it answered, with the vector it sent, and the one set of survivors it
ever unmasked for. Written down before anything is sent (secure aggregation, rules 1 and 6). One SQLite file.

Key material of a slot is *not* here: it lives in memory only, so a restarted site counts as dropped for that attempt.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unisono.errors import ProtocolError
from unisono.federation.ask import Ask
from unisono.federation.journal import storage
from unisono.protection.encoding.exact import Words

Key = tuple[str, str, int, int]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    run TEXT, analysis TEXT, epoch INTEGER, step INTEGER, name TEXT NOT NULL, question TEXT NOT NULL, sites TEXT NOT NULL,
    vector BLOB, slot TEXT, survivors TEXT, answer BLOB, closed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, analysis, epoch, step));
CREATE TABLE IF NOT EXISTS cohorts (
    study TEXT, analysis TEXT, method TEXT, variables TEXT, sites TEXT, n INTEGER, rows BLOB,
    PRIMARY KEY (study, analysis, method));
CREATE TABLE IF NOT EXISTS snapshots (run TEXT PRIMARY KEY, digest TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Step:
    """One answered step. `survivors` and `answer` (packed) are there once the site gave its unmasking shares."""

    question: str
    sites: tuple[str, ...]
    vector: Words | None
    slot: str | None
    survivors: tuple[str, ...] | None
    answer: bytes | None
    closed: bool


@dataclass(frozen=True)
class Cohort:
    """A set of this site's patients that an earlier analysis was answered on: sorted keyed row hashes."""

    study: str
    analysis: str
    sites: tuple[str, ...]
    rows: np.ndarray[tuple[int], np.dtype[np.uint64]]


class SiteState:
    """The site's memory of its answers. Safe to call from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with storage(path, "site's state"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def step(self, key: Key) -> Step | None:
        """What was answered at a step, if anything."""
        with self._guard():
            row = self._db.execute(
                "SELECT question, sites, vector, slot, survivors, answer, closed FROM steps"
                " WHERE run = ? AND analysis = ? AND epoch = ? AND step = ?",
                key,
            ).fetchone()
        if row is None:
            return None
        question, sites, vector, slot, survivors, answer, closed = row
        return Step(
            question=question,
            sites=tuple(json.loads(sites)),
            vector=None if vector is None else np.frombuffer(vector, np.uint64).copy(),
            slot=slot,
            survivors=None if survivors is None else tuple(json.loads(survivors)),
            answer=answer,
            closed=bool(closed),
        )

    def remember_vector(self, ask: Ask, vector: Words) -> None:
        """Before the masked part goes out: the step's question and the one vector it is ever answered with."""
        name = f"{ask.method}.{ask.contribution}"
        with self._guard():
            self._db.execute(
                "INSERT INTO steps (run, analysis, epoch, step, name, question, sites, vector, slot) VALUES (?,?,?,?,?,?,?,?,?)"
                " ON CONFLICT DO UPDATE SET slot = excluded.slot",
                (*ask.key, name, ask.question, json.dumps(ask.sites), vector.tobytes(), ask.slot),
            )

    def remember_answer(self, key: Key, slot: str, survivors: tuple[str, ...], answer: bytes) -> None:
        """Before the unmasking shares go out: the one set of survivors of this step, and what was answered."""
        with self._guard():
            changed = self._db.execute(
                "UPDATE steps SET survivors = ?, answer = ?, slot = ? WHERE run = ? AND analysis = ? AND epoch = ? AND step = ?"
                " AND (survivors IS NULL OR survivors = ?)",
                (json.dumps(survivors), answer, slot, *key, json.dumps(survivors)),
            ).rowcount
        if changed != 1:
            raise ProtocolError(
                f"Step {key[3]} of {key[1]!r} was unmasked for another set of sites before.",
                rule="one-opening-per-step",
                remedy="This is refused for ever: two openings of one step would show one hospital's part. Report the coordinator.",
            )

    def close_step(self, key: Key) -> None:
        """The step is opened and stored at the coordinator: the vector and the shares are of no more use."""
        with self._guard():
            self._db.execute(
                "UPDATE steps SET closed = 1, vector = NULL, answer = NULL WHERE run = ? AND analysis = ? AND epoch = ? AND step = ?",
                key,
            )

    def steps_answered(self, run: str, analysis: str, epoch: int, name: str, *, but: int) -> int:
        """How many other steps asked for this contribution, in this run and epoch."""
        with self._guard():
            row = self._db.execute(
                "SELECT COUNT(*) FROM steps WHERE run = ? AND analysis = ? AND epoch = ? AND name = ? AND step != ?",
                (run, analysis, epoch, name, but),
            ).fetchone()
        return int(row[0])

    def epoch_sites(self, run: str, analysis: str, epoch: int) -> tuple[str, ...] | None:
        """The frozen set of sites of an epoch, from its first answered step."""
        with self._guard():
            row = self._db.execute(
                "SELECT sites FROM steps WHERE run = ? AND analysis = ? AND epoch = ? ORDER BY step LIMIT 1",
                (run, analysis, epoch),
            ).fetchone()
        return None if row is None else tuple(json.loads(row[0]))

    def cohorts(self, method: str, variables: str) -> list[Cohort]:
        """The cohorts on which a method was answered over these variables, in all studies."""
        with self._guard():
            rows = self._db.execute(
                "SELECT study, analysis, sites, rows FROM cohorts WHERE method = ? AND variables = ?",
                (method, variables),
            ).fetchall()
        return [Cohort(s, a, tuple(json.loads(w)), np.frombuffer(blob, np.uint64)) for s, a, w, blob in rows]

    def remember_cohort(self, ask: Ask, variables: str, rows: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> None:
        """The patients an analysis is answered on."""
        with self._guard():
            self._db.execute(
                "INSERT OR REPLACE INTO cohorts VALUES (?,?,?,?,?,?,?)",
                (ask.study, ask.analysis, ask.method, variables, json.dumps(ask.sites), len(rows), rows.tobytes()),
            )

    def snapshot_of(self, run: str, digest: str) -> str:
        """The digest of the data that a run was begun on; `digest` if the run is new here."""
        with self._guard():
            self._db.execute("INSERT OR IGNORE INTO snapshots VALUES (?, ?)", (run, digest))
            row = self._db.execute("SELECT digest FROM snapshots WHERE run = ?", (run,)).fetchone()
        return str(row[0])

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with self._lock, storage(self.path, "site's state"):
            yield
