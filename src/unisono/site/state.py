"""What a site remembers across restarts: every step it answered, with the vector it sent, and the one set of survivors it
ever unmasked for. Written down before anything is sent (secure aggregation, rules 1 and 6). One SQLite file, and large vectors
in files beside it.

Key material of a slot is *not* here: it lives in memory only, so a restarted site counts as dropped for that attempt.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.federation.ask import Ask, Circle
from unisono.federation.bulk import LARGE, Bulk
from unisono.federation.storage import begun, damaged, is_new, storage
from unisono.federation.tree import pack, parts, unpack
from unisono.protection.prg import Words
from unisono.protection.secagg.messages import UnmaskShares
from unisono.protection.secagg.refusals import another_opening
from unisono.site.lineage import SiteLineage

Key = tuple[str, str, int, int]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS steps (
    run TEXT, analysis TEXT, epoch INTEGER, step INTEGER, study TEXT NOT NULL, name TEXT NOT NULL, question TEXT NOT NULL,
    sites TEXT NOT NULL, slot TEXT, survivors TEXT, answer BLOB, closed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, analysis, epoch, step));
CREATE TABLE IF NOT EXISTS vectors (
    run TEXT, analysis TEXT, epoch INTEGER, step INTEGER, words TEXT NOT NULL, vector BLOB, file TEXT,
    PRIMARY KEY (run, analysis, epoch, step));
CREATE TABLE IF NOT EXISTS cohorts (
    study TEXT, analysis TEXT, method TEXT, variables TEXT, sites TEXT, rows_digest TEXT, rows BLOB,
    PRIMARY KEY (study, analysis, method, variables, sites, rows_digest));
CREATE TABLE IF NOT EXISTS drawings (
    run TEXT, epoch INTEGER, commitments TEXT NOT NULL, seed BLOB, PRIMARY KEY (run, epoch));
CREATE TABLE IF NOT EXISTS circles (
    study TEXT, analysis TEXT, run TEXT, epoch INTEGER, sites TEXT, PRIMARY KEY (study, analysis, run, epoch, sites));
CREATE TABLE IF NOT EXISTS snapshots (run TEXT PRIMARY KEY, digest TEXT NOT NULL);
"""
_LATER = """
CREATE TABLE IF NOT EXISTS memories (
    run TEXT, analysis TEXT, epoch INTEGER, step INTEGER, staged INTEGER NOT NULL, body BLOB, file TEXT,
    PRIMARY KEY (run, analysis, epoch, step));
"""
"""Added to version 3 of the file after it was in use."""
_VERSION = 3
_OF_STEP = "run = ? AND analysis = ? AND epoch = ? AND step = ?"


@dataclass(frozen=True)
class Step:
    """One answered step. `survivors` and `slot` are there once the site signed or unmasked: for whom, in which slot; `answer`
    once it gave its unmasking shares: what it gave. `load` reads the stored vector, which may be large."""

    study: str
    question: str
    sites: tuple[str, ...]
    load: Callable[[], Words | None]
    slot: str | None
    survivors: tuple[str, ...] | None
    answer: UnmaskShares | None
    closed: bool

    @property
    def vector(self) -> Words | None:
        """The one vector that the step is ever answered with; None once the step is closed."""
        return self.load()


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
        self._answered: dict[tuple[str, str, int, str], set[int]] = {}
        self._epochs: dict[tuple[str, str], dict[int, tuple[str, ...]]] = {}
        self._bulk = Bulk(path, "site's state")
        with storage(path, "site's state"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        """`JournalError` if what was remembered is gone: a site that forgot its openings could be led to a second one."""
        with storage(self.path, "site's state"):
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
        if is_new(self._db, self.path, "site's state", _VERSION):
            begun(self.path, "site", "site's state", empty=True)
            with storage(self.path, "site's state"):
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;")
        begun(self.path, "site", "site's state", empty=False)
        with storage(self.path, "site's state"):
            self._db.executescript(_LATER)
        self.lineage = SiteLineage(self._db, self._guard)
        with self._guard():
            kept = self._db.execute(
                "SELECT file FROM vectors WHERE file IS NOT NULL UNION SELECT file FROM memories WHERE file IS NOT NULL"
            ).fetchall()
            self._bulk.keep_only(name for (name,) in kept)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def step(self, key: Key) -> Step | None:
        """What was answered at a step, if anything."""
        with self._guard():
            row = self._db.execute(
                f"SELECT study, question, sites, slot, survivors, answer, closed FROM steps WHERE {_OF_STEP}",  # noqa: S608
                key,
            ).fetchone()
        if row is None:
            return None
        study, question, sites, slot, survivors, answer, closed = row
        return Step(
            study=study,
            question=question,
            sites=tuple(json.loads(sites)),
            load=lambda: self._vector(key),
            slot=slot,
            survivors=None if survivors is None else tuple(json.loads(survivors)),
            answer=None if answer is None else UnmaskShares.from_tree(unpack(answer)),
            closed=bool(closed),
        )

    def _vector(self, key: Key) -> Words | None:
        with self._guard():
            row = self._db.execute(f"SELECT words, vector, file FROM vectors WHERE {_OF_STEP}", key).fetchone()  # noqa: S608
            if row is None:
                return None
            words, vector, file = row
            content = vector if file is None else self._bulk.read(file)
        if content is None:
            raise damaged(self.path, "site's state", "the vector of an open step is gone")
        return np.frombuffer(content, np.dtype(words))

    def remember_vector(self, ask: Ask, vector: NDArray[Any]) -> None:
        """Before a part goes out: the step's question and the one vector (for a `collect`: bytes) it is ever answered with."""
        name, content, file = f"{ask.method}.{ask.contribution}", np.ascontiguousarray(vector).view(np.uint8).data, None
        if vector.nbytes >= LARGE:
            file = hashlib.sha256(json.dumps(ask.key).encode()).hexdigest()[:32]
            self._bulk.write(file, (content,))
        with self._guard():
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                self._db.execute(
                    "INSERT INTO steps (run, analysis, epoch, step, study, name, question, sites) VALUES (?,?,?,?,?,?,?,?)",
                    (*ask.key, ask.study, name, ask.question, json.dumps(ask.sites)),
                )
                self._db.execute(
                    "INSERT INTO vectors VALUES (?,?,?,?,?,?,?)",
                    (*ask.key, vector.dtype.str, None if file else content, file),
                )
            if (*ask.key[:3], name) in self._answered:
                self._answered[*ask.key[:3], name].add(ask.step)
            self._epochs.get(ask.key[:2], {})[ask.epoch] = ask.sites

    def remember_survivors(self, key: Key, slot: str, survivors: tuple[str, ...]) -> None:
        """Before anything is signed or given: the one set of survivors of this step."""
        with self._guard():
            changed = self._db.execute(
                "UPDATE steps SET survivors = ?, slot = ?, answer = CASE WHEN slot = ? THEN answer END"  # noqa: S608
                f" WHERE {_OF_STEP} AND closed = 0 AND (survivors IS NULL OR survivors = ?)",
                (json.dumps(survivors), slot, slot, *key, json.dumps(survivors)),
            ).rowcount
        if changed != 1:
            raise another_opening(key[3], key[1], (), survivors)

    def remember_answer(self, key: Key, slot: str, answer: UnmaskShares) -> None:
        """Before the unmasking shares go out: what was answered, to be repeated and nothing else. A power cut may take it back:
        the set of survivors is on disk, and the slot's secrets, without which there is no other answer, never are."""
        with self._guard(), self._soon():
            changed = self._db.execute(
                f"UPDATE steps SET answer = ? WHERE {_OF_STEP} AND slot = ? AND closed = 0",  # noqa: S608
                (pack(answer.to_tree()), *key, slot),
            ).rowcount
        if changed != 1:
            raise another_opening(key[3], key[1])

    def close_step(self, key: Key, counted: int = -1) -> None:
        """The step is opened and stored at the coordinator, and so is every step before it: the vectors and the shares are of
        no more use, and the memory that was staged for the step `counted` is the site's. A power cut may take it back: then they
        are of no use a little longer."""
        before = "run = ? AND analysis = ? AND epoch = ? AND step <= ?"
        with self._guard():
            rows = self._db.execute(f"SELECT file FROM vectors WHERE {before} AND file IS NOT NULL", key).fetchall()  # noqa: S608
            staged = self._db.execute(
                f"SELECT step FROM memories WHERE {before} AND staged = 1",  # noqa: S608
                key,
            ).fetchall()
            gone = self._outlived(key, counted) if staged else []
            with nullcontext() if rows or gone else self._soon():
                self._db.execute("BEGIN IMMEDIATE")
                with self._db:
                    self._db.execute(f"UPDATE steps SET closed = 1, answer = NULL WHERE {before} AND closed = 0", key)  # noqa: S608
                    self._db.execute(f"DELETE FROM vectors WHERE {before}", key)  # noqa: S608
                    for step, _ in gone:
                        self._db.execute(f"DELETE FROM memories WHERE {_OF_STEP}", (*key[:3], step))  # noqa: S608
                    if staged:
                        self._db.execute(f"UPDATE memories SET staged = 0 WHERE {_OF_STEP}", (*key[:3], counted))  # noqa: S608
            self._bulk.drop([name for (name,) in rows] + [name for _, name in gone if name is not None])

    def _outlived(self, key: Key, counted: int) -> list[tuple[int, str | None]]:
        """Of the memories up to a step, those that are not the site's any more: the steps they were staged for, and their files.
        What is not counted was staged in vain; what is counted replaces what was before."""
        rows = self._db.execute(
            "SELECT step, staged, file FROM memories WHERE run = ? AND analysis = ? AND epoch = ? AND step <= ?", key
        ).fetchall()
        replaced = any(step == counted and staged for step, staged, _ in rows)
        return [(step, file) for step, staged, file in rows if step != counted and (staged or replaced)]

    def stage_memory(self, key: Key, tree: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Before the vector of a step goes out: what the site will remember if its part counts."""
        pieces, content, file = parts(dict(tree)), None, None
        if sum(map(len, pieces)) >= LARGE:
            file = hashlib.sha256(json.dumps(["memory", *key]).encode()).hexdigest()[:32]
            self._bulk.write(file, pieces)
        else:
            content = b"".join(pieces)
        with self._guard(), self._soon():  # the vector's row, which waits for the disk, is written after it
            self._db.execute("INSERT OR REPLACE INTO memories VALUES (?,?,?,?,1,?,?)", (*key, content, file))

    def memory(self, run: str, analysis: str, epoch: int) -> dict[str, np.ndarray[Any, Any]]:
        """What the site remembers in an analysis; nothing at first."""
        with self._guard():
            row = self._db.execute(
                "SELECT body, file FROM memories WHERE run = ? AND analysis = ? AND epoch = ? AND staged = 0",
                (run, analysis, epoch),
            ).fetchone()
            if row is None:
                return {}
            content = row[0] if row[1] is None else self._bulk.read(row[1])
        if content is None:
            raise damaged(self.path, "site's state", "the memory of a run is gone")
        return dict(unpack(content))

    def drawing(self, run: str, epoch: int) -> tuple[str, bytes | None] | None:
        """The digest of the commitments of a run's graph, and its seed once it is known."""
        with self._guard():
            row = self._db.execute(
                "SELECT commitments, seed FROM drawings WHERE run = ? AND epoch = ?", (run, epoch)
            ).fetchone()
        return None if row is None else (str(row[0]), row[1])

    def remember_drawing(self, run: str, epoch: int, commitments: str, seed: bytes | None) -> None:
        """One drawing for a run and its frozen set: what was written before is never replaced."""
        with self._guard():
            self._db.execute(
                "INSERT INTO drawings VALUES (?,?,?,?)"
                " ON CONFLICT (run, epoch) DO UPDATE SET seed = coalesce(seed, excluded.seed)",
                (run, epoch, commitments, seed),
            )

    def study_of(self, run: str, analysis: str) -> str | None:
        """The study of a run that was answered here."""
        with self._guard():
            row = self._db.execute(
                "SELECT study FROM steps WHERE run = ? AND analysis = ? LIMIT 1", (run, analysis)
            ).fetchone()
        return None if row is None else str(row[0])

    def steps_answered(self, run: str, analysis: str, epoch: int, name: str, *, but: int) -> int:
        """How many other steps asked for this contribution, in this run and epoch. Read once, then kept: a run has thousands."""
        key = run, analysis, epoch, name
        with self._guard():
            if key not in self._answered:
                query = "SELECT step FROM steps WHERE run = ? AND analysis = ? AND epoch = ? AND name = ?"
                self._answered[key] = {int(step) for (step,) in self._db.execute(query, key)}
            return len(self._answered[key]) - (but in self._answered[key])

    def epochs(self, run: str, analysis: str) -> dict[int, tuple[str, ...]]:
        """The frozen set of sites of each epoch of a run for which keys were made or that was answered here. Read once, then kept."""
        with self._guard():
            if (run, analysis) not in self._epochs:
                rows = self._db.execute(
                    "SELECT epoch, sites FROM steps WHERE run = :r AND analysis = :a"
                    " UNION SELECT epoch, sites FROM circles WHERE run = :r AND analysis = :a",
                    {"r": run, "a": analysis},
                ).fetchall()
                self._epochs[run, analysis] = {epoch: tuple(json.loads(sites)) for epoch, sites in rows}
            return dict(self._epochs[run, analysis])

    def other_runs(self, study: str, analysis: str, run: str) -> int:
        """How many other runs of an analysis were begun here: answered, or keys made for them."""
        with self._guard():
            row = self._db.execute(
                "SELECT COUNT(*) FROM (SELECT run FROM steps WHERE study = :s AND analysis = :a"
                " UNION SELECT run FROM circles WHERE study = :s AND analysis = :a) WHERE run != :r",
                {"s": study, "a": analysis, "r": run},
            ).fetchone()
        return int(row[0])

    def remember_circle(self, circle: Circle) -> None:
        """Before keys are made or a nonce is committed to: a run counts, and its set of sites is fixed, whether it goes on
        to ask or not. Otherwise a coordinator could draw one graph after the other until it suits it."""
        with self._guard():
            self._db.execute(
                "INSERT OR IGNORE INTO circles VALUES (?,?,?,?,?)",
                (circle.study, circle.analysis, circle.run, circle.epoch, json.dumps(circle.sites)),
            )
            self._epochs.get((circle.run, circle.analysis), {})[circle.epoch] = circle.sites

    def cohorts(self, method: str, variables: str) -> list[Cohort]:
        """The cohorts on which a method was answered over these variables, in all studies."""
        with self._guard():
            rows = self._db.execute(
                "SELECT study, analysis, sites, rows FROM cohorts WHERE method = ? AND variables = ?",
                (method, variables),
            ).fetchall()
        return [Cohort(s, a, tuple(json.loads(w)), np.frombuffer(blob, np.uint64)) for s, a, w, blob in rows]

    def remember_cohort(
        self, ask: Ask, method: str, variables: str, rows: np.ndarray[tuple[int], np.dtype[np.uint64]]
    ) -> None:
        """The patients an analysis is answered on. Nothing that was remembered before is replaced."""
        blob = rows.tobytes()
        with self._guard():
            self._db.execute(
                "INSERT OR IGNORE INTO cohorts VALUES (?,?,?,?,?,?,?)",
                (
                    ask.study,
                    ask.analysis,
                    method,
                    variables,
                    json.dumps(ask.sites),
                    hashlib.sha256(blob).hexdigest(),
                    blob,
                ),
            )

    def snapshot_of(self, run: str, digest: str) -> str:
        """The digest of the data that a run was begun on; `digest` if the run is new here."""
        with self._guard():
            self._db.execute("INSERT OR IGNORE INTO snapshots VALUES (?, ?)", (run, digest))
            row = self._db.execute("SELECT digest FROM snapshots WHERE run = ?", (run,)).fetchone()
        return str(row[0])

    @contextmanager
    def _soon(self) -> Iterator[None]:
        """What is written here survives the process, and the machine as soon as something else is written."""
        self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            self._db.execute("PRAGMA synchronous=FULL")

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with self._lock, storage(self.path, "site's state"):
            yield
