"""Durable files: SQLite's and the file system's troubles as errors that a user can act on, and writing a file whole."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unisono.errors import JournalError, StorageError

_DAMAGE = (
    "malformed",
    "not a database",
    "corrupt",
    "could not decode",
    "no such table",
    "no such column",
    "unsupported",
)
"""What SQLite says of a file whose bytes were changed."""


@contextmanager
def storage(path: Path, what: str) -> Iterator[None]:
    """`JournalError` for a damaged file, `StorageError` for one that is in use, or cannot be read or written."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error).lower()
        if "locked" in text:
            raise in_use(path, what) from error
        if any(sign in text for sign in _DAMAGE):
            raise damaged(path, what, "the file is not a readable database") from error
        raise unwritable(path, what, str(error)) from error
    except UnicodeDecodeError as error:  # what SQLite says of a damaged file may quote its bytes
        raise damaged(path, what, "the file is not a readable database") from error
    except OSError as error:
        raise unwritable(path, what, error.strerror or str(error)) from error


def damaged(path: Path, what: str, how: str) -> JournalError:
    """The error for a record that cannot be trusted; nothing is restarted silently."""
    return JournalError(
        f"The {what} {path} is damaged: {how}.",
        rule="journal-integrity",
        remedy="Restore the file from a back-up and run the same command again; or run with --fresh, which asks the sites anew.",
    )


def in_use(path: Path, what: str) -> StorageError:
    """The error for a folder or file that another process works in."""
    return StorageError(
        f"The {what} {path} is in use by another process.",
        rule="one-run-at-a-time",
        remedy="Wait for the other run to end, or write to another folder with --out.",
    )


def unwritable(path: Path, what: str, reason: str) -> StorageError:
    """The error for a disk that is full or a folder that cannot be written."""
    remedy = "Free disk space or correct the permissions, then run the same command again: it goes on where it stopped."
    if "not a directory" in reason.lower() or "file exists" in reason.lower():
        remedy = "Name a folder, or one that can be made; a file stands in its way."
    elif "directory" in reason.lower():
        remedy = "Name a folder that can be made and written in: there, the system lets none be."
    return StorageError(f"The {what} {path} cannot be written: {reason}.", rule="durable-storage", remedy=remedy)


def is_new(db: sqlite3.Connection, path: Path, what: str, version: int) -> bool:
    """True if nothing was ever written in a SQLite file. `StorageError` (``schema-version``), with the file left as it is, if it
    was written by a Unisono that keeps it in another form than the one with this number."""
    with storage(path, what):
        found = db.execute("PRAGMA user_version").fetchone()[0]
    if found in (0, version):
        return bool(found == 0)
    age = "newer" if found > version else "older"
    raise StorageError(
        f"The {what} {path} was written by {'a' if age == 'newer' else 'an'} {age} Unisono: it is of version {found}, and "
        f"this one reads version {version}.",
        rule="schema-version",
        remedy=f"Nothing was changed. Run it with the {age} Unisono, as before; or put back a back-up of this version's.",
    )


def write_whole(path: Path, content: bytes, what: str, *, mode: int = 0o644) -> None:
    """Write a file, on disk when this returns, whole or not at all: a process killed here leaves no half of it.
    `StorageError` if it cannot be written."""
    with storage(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.new")
        aside.unlink(missing_ok=True)
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)


def append_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Append to a file: all of it or nothing, also on a disk that has room for half. `OSError` if it cannot be written.

    Opened every time: a log may be moved away meanwhile, by the institution's own rotation."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
    try:
        before = os.fstat(handle).st_size
        try:
            if os.write(handle, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.truncate(handle, before)
            raise
    finally:
        os.close(handle)


def begun(path: Path, mark: str, what: str, *, empty: bool) -> None:
    """Notice a memory that was lost: SQLite takes a file cut to nothing, or removed, for a new one.

    A small file beside it says that it was begun, and by which `mark`. `JournalError` if it is there and the memory is
    `empty`, or begun by another mark; written if it is not there and the memory is not empty.
    """
    beside = path.with_name(f"{path.name}.begun")
    with storage(beside, what):
        noted = beside.read_text("utf-8").strip() if beside.exists() else None
    if noted is None and not empty:
        write_whole(beside, f"{mark}\n".encode(), what)
    elif noted is not None and empty:
        raise damaged(path, what, "what was written in it is gone")
    elif noted is not None and noted != mark:
        raise damaged(path, what, "it is not the one that was begun here")
