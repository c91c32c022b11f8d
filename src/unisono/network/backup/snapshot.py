"""Copies of SQLite files while they are used: whole, as they were at one moment, each a single file."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from unisono.errors import JournalError, StorageError
from unisono.federation.bulk import Bulk
from unisono.federation.journal import Journal
from unisono.federation.storage import storage

STAGING = "backup.staging"
_PATIENCE_S = 10.0
_TRIES = 20


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder for the copies, beside what is copied (mode 0700) and gone afterwards. `StorageError` (``one-backup``) if there is one
    already."""
    path = folder / STAGING
    with storage(path, "back-up's copies"):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError as error:
            raise StorageError(
                f"Another back-up of {folder} is being made, or one was killed.",
                rule="one-backup",
                remedy=f"Wait for it. If there is none, remove {path} and run the same command again.",
            ) from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def copy_database(path: Path, to: Path) -> None:
    """A database that several processes may use, by SQLite's own back-up."""
    with storage(path, "database"):
        if not path.exists():
            raise FileNotFoundError(2, "No such file")
        with (
            closing(sqlite3.connect(path, timeout=_PATIENCE_S)) as source,
            closing(sqlite3.connect(to)) as copy,
        ):
            source.backup(copy)


def copy_journal(path: Path, to: Path) -> list[Path]:
    """A journal, which a run holds for itself: its files are copied as they are, and counted as a copy only when the whole chain of
    hashes holds in it. What the copy lacks is what was written since. Gives the copy's files. `JournalError` if the journal itself is
    damaged."""
    for tried in range(_TRIES):
        _remove(to)
        with storage(path, "journal"):
            to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(path, to)
            with suppress(FileNotFoundError):  # a log is there only while somebody writes
                shutil.copyfile(_log_of(path), _log_of(to))
            _link_all(_bulk_of(path), _bulk_of(to))
        try:
            Journal(to).close()  # takes the log in
            return [to, *sorted(_bulk_of(to).glob("*"))]
        except JournalError:  # it was written to in between
            if tried == _TRIES - 1:
                raise
    raise AssertionError("the last try returns or raises")


def _link_all(folder: Path, to: Path) -> None:
    """The large bodies of records: files that are never written again, only removed. So they need no copy."""
    if folder.is_dir():
        to.mkdir(mode=0o700)
        for file in folder.iterdir():
            with suppress(FileNotFoundError):  # of a record that was forgotten in between
                (to / file.name).hardlink_to(file)


def _bulk_of(path: Path) -> Path:
    return Bulk(path, "journal").folder


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _remove(path: Path) -> None:
    shutil.rmtree(_bulk_of(path), ignore_errors=True)
    for beside in path.parent.glob(f"{path.name}*"):
        beside.unlink()
