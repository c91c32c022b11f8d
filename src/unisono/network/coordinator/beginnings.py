"""Under which permits the runs of one study are begun at the coordinator, and which of them are given up to be begun anew.

A run whose name was made under permits that no longer count, because a site was restored from a back-up since, would be refused by
that site for ever; so would, by every site, a run of which a restored coordinator forgot the end. The journal of such a run is set
aside, unless the run is finished: what was opened stays opened, and nothing is asked twice under one name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from unisono.engines.analysis import JOURNAL
from unisono.federation.journal import Journal
from unisono.federation.storage import damaged, storage, write_whole
from unisono.federation.tree import Tree
from unisono.network.beginning import Beginning

FILE = "consents.json"
_CLOSED = "closed"
_BESIDE = (".begun", "-wal", "-shm", ".bulk", "")
"""In this order: a journal that is half set aside is set aside the next time, and a write-ahead log never stays for the next one."""


class Beginnings:
    """Of one study. consents: by site, the digest of its permit now. restored: sites that were restored from a back-up."""

    def __init__(self, folder: Path, consents: Mapping[str, str], restored: Collection[str] = ()) -> None:
        self._folder = folder
        self._now = Beginning(dict(consents))
        self._restored = frozenset(restored)
        self._kept: Beginning | None = None

    def prepare(self) -> tuple[str, ...]:
        """Read under which permits the study's runs were begun; before the first, write it down. Analyses whose runs were given
        up. `JournalError` if a file is damaged, `StorageError` if one cannot be written; reads journals: not in an event loop."""
        before = self._read()
        given_up: tuple[str, ...] = ()
        if before is not None:
            changed = {site for site in self._now.consents if before.consents.get(site) != self._now.consents[site]}
            if not changed & self._restored:
                self._kept = before
                return ()
        if before is not None or self._restored & set(self._now.consents):
            given_up = close_unfinished(self._folder)
        content = f"{json.dumps(self._now.to_tree(), indent=2, sort_keys=True)}\n".encode()
        write_whole(self._folder / FILE, content, "study's consents")
        self._kept = self._now
        return given_up

    def name(self) -> str:
        """For a run that begins."""
        return (self._kept or self._now).name()

    def tree(self) -> Tree:
        """What shows a site under which permits a run was begun."""
        return dict((self._kept or self._now).to_tree())

    def _read(self) -> Beginning | None:
        path = self._folder / FILE
        with storage(path, "study's consents"):
            if not path.exists():
                return None
            content = path.read_bytes()
        try:
            found = Beginning.from_tree(json.loads(content))
        except ValueError as error:
            raise damaged(path, "study's consents", "it cannot be read") from error
        if found is None:
            raise damaged(path, "study's consents", "it is no list of consents")
        return found


def close_unfinished(folder: Path) -> tuple[str, ...]:
    """Set aside the journals of a study's runs that are not finished, which nobody may have open. Their analyses' names.
    `JournalError` if one is damaged."""
    closed = []
    for path in sorted(folder.glob(f"*/{JOURNAL}")):
        journal = Journal(path)
        try:
            finished = journal.last("finished") is not None
        finally:
            journal.close()
        if not finished:
            _set_aside(path)
            closed.append(path.parent.name)
    return tuple(closed)


def _set_aside(path: Path) -> None:
    """The name still begins with that of a journal: it stays with the coordinator (`unisono.network.coordinator.running`)."""
    number = 1
    while list(path.parent.glob(f"{path.name}.{_CLOSED}-{number}*")):
        number += 1
    with storage(path, "journal"):
        for ending in _BESIDE:
            beside = path.with_name(path.name + ending)
            if beside.exists():
                beside.replace(path.with_name(f"{path.name}.{_CLOSED}-{number}{ending}"))
