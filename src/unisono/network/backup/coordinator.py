"""A coordinator's back-up, while it serves or not, and its restoration.

What sites answered since is not in a back-up, and they do not answer it again. So a restored coordinator begins its unfinished runs
anew, under other names; and it forgets open invitations, some of which may have been used. Revocations since are lost: the operator is
told.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from unisono.engines.analysis import JOURNAL
from unisono.federation.storage import storage
from unisono.network.authority import Authority
from unisono.network.backup.archive import Manifest, Source, write
from unisono.network.backup.place import restored
from unisono.network.backup.sealed import MEMORY_BITS, altered
from unisono.network.backup.snapshot import copy_database, copy_journal, staging
from unisono.network.coordinator.beginnings import close_unfinished
from unisono.network.coordinator.home import SETTINGS, CoordinatorHome
from unisono.network.coordinator.store import Store, snapshot_of
from unisono.network.enrolment.invitations import Invitations

STORE = "coordinator.db"
AUTHORITY_KEY = "ca.key"
_NEEDED = (SETTINGS, "ca.pem", "tls.key")
_LISTS = ("members.db", "invitations.db", "renewals.db")
_FOLDERS = ("operator", "studies")
_NEVER = (".new", "-wal", "-shm", ".begun", ".lock")
"""Endings of files that are somebody's work under way, or are made again."""


def back_up(
    home: CoordinatorHome,
    to: Path,
    passphrase: str,
    now: datetime,
    *,
    copied: bool = False,
    authority_key: bool = False,
    memory_bits: int = MEMORY_BITS,
) -> Manifest:
    """Write the coordinator's back-up. copied: the coordinator that serves this folder was asked for a copy of its store (the call
    ``snapshot``), which it alone can make. authority_key: with the key that makes members. `StorageError` if a file cannot be read or
    written, or if a coordinator serves and was not asked (``one-coordinator``)."""
    name = home.settings().name
    with staging(home.path) as copies:
        sources = _sources(home, copies, copied, authority_key)
        return write(to, passphrase, "coordinator", name, now, sources, memory_bits=memory_bits)


def _sources(home: CoordinatorHome, copies: Path, copied: bool, authority_key: bool) -> Iterator[Source]:
    # The store before the journals: a study that it calls finished has its results below.
    yield Source(STORE, _store(home, copies, copied))
    for name in (*_NEEDED, "tls.pem", *((AUTHORITY_KEY,) if authority_key else ())):
        if (home.path / name).exists() or name in _NEEDED or name == AUTHORITY_KEY:
            yield Source(name, home.path / name)
    for name in _LISTS:
        if (home.path / name).exists():
            copy_database(home.path / name, copies / name)
            yield Source(name, copies / name)
    for folder in _FOLDERS:
        for path in sorted((home.path / folder).rglob("*")):
            name = path.relative_to(home.path)
            if path.name == JOURNAL:
                for copy in copy_journal(path, copies / name):
                    yield Source(copy.relative_to(copies).as_posix(), copy)
                    copy.unlink()  # it is in the archive: one copy at a time
            elif any(part.startswith(JOURNAL) for part in name.parts) or path.name.endswith(_NEVER):
                continue
            elif path.is_file() and not path.is_symlink():
                yield Source(name.as_posix(), path)


def _store(home: CoordinatorHome, copies: Path, copied: bool) -> Path:
    if not copied:
        store = Store(home.store)  # held: refused if a coordinator serves
        try:
            store.snapshot()
        finally:
            store.close()
    with storage(copies / STORE, "copy of the store"):
        return snapshot_of(home.store).replace(copies / STORE)


def restore(file: Path, passphrase: str, home: CoordinatorHome, now: datetime) -> Manifest:
    """A coordinator's folder from its back-up. Nothing is put in place unless all of it is; errors as `restored`."""
    with restored(file, passphrase, home.path, "coordinator") as (aside, manifest):
        missing = {*_NEEDED, STORE, "members.db"} - set(manifest.files)
        if missing:
            raise altered(f"{min(missing)} is not in it")
        made = CoordinatorHome(aside)
        made.settings(), Authority.open(aside)  # as a serving coordinator would read them
        _begin_anew(made, manifest.made, now)
    return manifest


def restore_in_place(home: CoordinatorHome, now: datetime) -> None:
    """A folder that was put back by other means than ours, a snapshot say. `StorageError` (``one-coordinator``) while a coordinator
    serves in it."""
    home.settings()
    _begin_anew(home, now, now)


def _begin_anew(home: CoordinatorHome, made: datetime, now: datetime) -> None:
    store = Store(home.store)  # held: nobody serves meanwhile
    try:
        studies = store.all()
        for asked in studies:
            close_unfinished(home.folder(asked.id, asked.digest))
        for site in sorted({site for asked in studies for site in asked.roster.sites}):
            store.tell_again(site)
        invitations = Invitations(home.invitations)
        try:
            for invitation in invitations.open_invitations(now):
                invitations.cancel(invitation.id, now)
        finally:
            invitations.close()
        store.restore(made.isoformat(timespec="seconds"))
    finally:
        store.close()
