"""A site's back-up, and its restoration.

A back-up holds keys, settings, decisions and what was remembered; never a dataset, nor a vector that a study was answered with. What
a restored site remembers is old. So it closes every run that it knows, answers only runs that are begun after the data steward has
approved their study anew, and is another memory to the coordinator from then on (docs/backup.md says why that is safe).
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from unisono.errors import StorageError
from unisono.federation.storage import storage
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.inbox import Inbox
from unisono.network.backup.archive import Manifest, Source, write
from unisono.network.backup.place import restored
from unisono.network.backup.sealed import MEMORY_BITS, altered
from unisono.network.backup.snapshot import copy_database, staging
from unisono.site.audit import AuditLog
from unisono.site.sheets import KEPT
from unisono.site.state import SiteState

STATE = "state.db"
INBOX = "inbox.db"
_NEEDED = ("coordinator.json", "identity.key", "rows.key", "tls/tls.key", "tls/tls.pem", "tls/ca.pem")
_OTHERS = ("policy.json", "verified.json", "data.json", "members.json", "workers.json", "audit.jsonl")
_FOLDERS = ("results", KEPT)


def back_up(
    folder: AgentFolder, to: Path, passphrase: str, now: datetime, *, memory_bits: int = MEMORY_BITS
) -> Manifest:
    """Write the site's back-up, also while the agent serves. `NetworkError` (``not-joined``) before the site joined;
    `StorageError` if a file cannot be read or written."""
    name = folder.settings().name
    folder.home.secret()  # made on first use
    with staging(folder.path) as copies:
        return write(to, passphrase, "site", name, now, _sources(folder, copies, now), memory_bits=memory_bits)


def _sources(folder: AgentFolder, copies: Path, now: datetime) -> Iterator[Source]:
    for name in _NEEDED:
        yield Source(name, folder.path / name)
    for name in _OTHERS:
        if (folder.path / name).exists():
            yield Source(name, folder.path / name)
    for path in sorted(path for name in _FOLDERS for path in (folder.path / name).rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix != ".new":
            yield Source(path.relative_to(folder.path).as_posix(), path)
    yield Source(STATE, _state(folder.path / STATE, copies / STATE, now))
    if folder.inbox.exists():
        copy_database(folder.inbox, copies / INBOX)
        yield Source(INBOX, copies / INBOX)


def _state(path: Path, copy: Path, now: datetime) -> Path:
    """A copy of the site's memory, without what the steps were answered with."""
    if not path.exists():  # it has joined, and not served yet
        SiteState(copy).close()
        return copy
    copy_database(path, copy)
    state = SiteState(copy)
    try:
        state.lineage.restore(now.isoformat(timespec="seconds"))
    finally:
        state.close()
    with storage(copy, "site's state"), closing(sqlite3.connect(copy, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("VACUUM")  # or the pages would still hold them
    return copy


def restore(file: Path, passphrase: str, folder: AgentFolder, now: datetime) -> Manifest:
    """A site's folder from its back-up. Nothing is put in place unless all of it is; errors as `restored`."""
    with restored(file, passphrase, folder.path, "site") as (aside, manifest):
        missing = {*_NEEDED, STATE} - set(manifest.files)
        if missing:
            raise altered(f"{min(missing)} is not in it")
        made = AgentFolder(aside)
        made.settings(), made.credentials(), made.policy()  # as a serving agent would read them
        _forget_promises(made, manifest.made, now)
    return manifest


def restore_in_place(folder: AgentFolder, now: datetime) -> None:
    """A folder that was put back by other means than ours, a snapshot say. `StorageError` (``one-agent-a-home``) while an agent
    serves in it."""
    folder.settings()
    with folder.held():
        if not (folder.path / STATE).exists():
            raise StorageError(
                f"{folder.path} holds no memory of what this site answered.",
                rule="site-memory",
                remedy="Restore the whole folder from a back-up; or let the operator remove this site, and join anew.",
            )
        _forget_promises(folder, now, now)


def _forget_promises(folder: AgentFolder, made: datetime, now: datetime) -> None:
    """Decisions first: while the memory is the old one, the coordinator still refuses this site."""
    inbox = Inbox(folder.inbox)
    try:
        inbox.reopen()
    finally:
        inbox.close()
    permits = folder.path / "permits"
    with storage(permits, "permits"):
        if permits.exists():
            shutil.rmtree(permits)
    state = SiteState(folder.path / STATE)
    try:
        AuditLog(folder.path / "audit.jsonl").write(now, "restored", made=made.isoformat(timespec="seconds"))
        state.lineage.restore(made.isoformat(timespec="seconds"))
    finally:
        state.close()
