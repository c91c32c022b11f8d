"""Putting a restored folder in its place: it is made ready beside it, and takes it in one step, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unisono.errors import StorageError
from unisono.federation.storage import storage
from unisono.network.backup import archive
from unisono.network.backup.archive import Kind, Manifest


@contextmanager
def restored(file: Path, passphrase: str, folder: Path, kind: Kind) -> Iterator[tuple[Path, Manifest]]:
    """The files of an archive in a folder beside `folder`, which becomes `folder` if nothing fails. `StorageError` (``own-folder``)
    if that is there and not empty; further errors as `archive.opened`."""
    _free(folder)
    aside = folder.with_name(f"{folder.name}.restoring")
    with storage(aside, "restored folder"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if aside.exists():  # of a restoration that was killed: nothing in it counts
            shutil.rmtree(aside)
    with archive.opened(file, passphrase, aside, kind) as manifest:
        yield aside, manifest
        with storage(folder, "restored folder"):
            if folder.exists():
                folder.rmdir()
            aside.rename(folder)


def _free(folder: Path) -> None:
    with storage(folder, "folder"):
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken:
        raise StorageError(
            f"{folder} is not empty: a back-up is never put over what is there.",
            rule="own-folder",
            remedy="Name a new or an empty folder. If the one that is there is to be given up, move it away first, and keep it.",
        )
