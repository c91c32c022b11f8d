"""What is too large for a row of SQLite, which would write it twice and rewrite it with every change of the row: each in a file of
its own, in a folder beside the database. Mode 0600: it may be one hospital's part of a sum."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from unisono.federation.storage import storage

LARGE = 256 * 1024
"""Bytes from which on something belongs here."""


class Bulk:
    """The files of one database. what: for errors, "journal"."""

    def __init__(self, beside: Path, what: str) -> None:
        self.folder = beside.with_name(f"{beside.name}.bulk")
        self._what = what

    def write(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """On disk when this returns; a file of that name that was left by a crash is replaced. `StorageError` if there is no room:
        nothing of it is left then."""
        path = self.folder / name
        with storage(path, self._what):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            path.unlink(missing_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(handle, "wb", buffering=0) as file:
                    for piece in pieces:
                        left = memoryview(piece).cast("B")
                        while left:
                            left = left[file.write(left) :]
                    os.fsync(file.fileno())
                _sync_folder(self.folder)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def read(self, name: str) -> memoryview | None:
        """The bytes, read-only, as far as they are looked at; None if there is no such file."""
        path = self.folder / name
        with storage(path, self._what):
            if not path.exists():
                return None
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    return memoryview(b"")
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def held(self, names: Iterable[str]) -> list[str]:
        """Those of them that are here."""
        with storage(self.folder, self._what):
            return [name for name in names if (self.folder / name).exists()]

    def drop(self, names: Iterable[str]) -> None:
        """Remove these; whoever still looks into one may go on. Only when it is on the disk that nothing refers to them: a power cut
        may keep this and take that back."""
        for name in names:
            with storage(self.folder / name, self._what):
                (self.folder / name).unlink(missing_ok=True)

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove what nothing refers to: a crash came between the file and the row."""
        with storage(self.folder, self._what):
            if not self.folder.is_dir():
                return
            kept = set(names)
            self.drop(path.name for path in list(self.folder.iterdir()) if path.name not in kept)

    def clear(self) -> None:
        """Remove all."""
        with storage(self.folder, self._what):
            if self.folder.is_dir():
                shutil.rmtree(self.folder)


def _sync_folder(folder: Path) -> None:
    """The file's name is on disk too; where a folder cannot be opened (Windows) the system sees to it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
