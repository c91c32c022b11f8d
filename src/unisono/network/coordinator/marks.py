"""The coordinator's half of the marks: how far each site's memory had come, and how far its own has.

A site's mark comes with its hello and with every answer; it is on disk with the next heartbeat. What a site says of its mark it can
invent: this finds accidents, and copies of a folder, not a site that lies about itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from unisono.errors import StorageError
from unisono.federation.lineage import Mark
from unisono.network.coordinator.store import Store
from unisono.network.log import Log
from unisono.network.marks import from_wire, site_rolled_back
from unisono.network.wire.unisono_pb2 import Hello


class Marks:
    """All sites'. Lives in the service's event loop.

    identity: a site's Ed25519 public key now, by its name: a site that joined anew with another key has another memory.
    restored: called with a site and the time of the back-up that it was restored from. rolled_back: called with a site that
    remembers this coordinator farther than it is.
    """

    def __init__(
        self,
        store: Store,
        log: Log,
        identity: Callable[[str], bytes],
        restored: Callable[[str, str], None],
        rolled_back: Callable[[str], None],
    ) -> None:
        self._store = store
        self._log = log
        self._identity = identity
        self._restored = restored
        self._rolled_back = rolled_back
        self._known: dict[str, Mark] = {}
        self._whose: dict[str, bytes] = {}
        self._fresh: set[str] = set()
        self._opened = 0

    def own(self) -> Mark:
        """How far this coordinator has come: changes of its store, and sums opened."""
        if self._opened:
            self._store.count(self._opened)
            self._opened = 0
        return self._store.mark()

    def told(self) -> Mark | None:
        """As `own`, for a frame; None while the disk is full: only what is written down is said."""
        try:
            return self.own()
        except StorageError as error:
            self._log.write("mark-not-kept", site="", rule=error.rule)
            return None

    def opened(self) -> None:
        """A sum was opened, and is in its journal."""
        self._opened += 1

    def arrived(self, site: str, hello: Hello) -> Mark | None:
        """A site says hello. What was remembered of it; `NetworkError` (``rolled-back``) if it went back. One that says that it was
        restored is taken as another memory, once."""
        identity = self._identity(site)
        if self._whose.get(site) != identity:  # it joined anew
            self._known.pop(site, None)
            self._fresh.discard(site)
            self._whose[site] = identity
        said = from_wire(hello, "mark")
        before = self._before(site)
        if said is not None:
            self._take(site, before, said)
        if self.own().is_behind(from_wire(hello, "remembered")):
            self._rolled_back(site)
        return before if said is None else self._known[site]

    def heard(self, site: str, mark: Mark) -> None:
        """A site says how far it is, with an answer."""
        known = self._known.get(site)
        if known is not None and (farther := known.farther(mark)) != known:
            self._known[site] = farther
            self._fresh.add(site)

    def keep(self, site: str) -> None:
        """What was heard of a site since, onto the disk. A full one is logged: the mark is in memory, and kept the next time."""
        if site not in self._fresh:
            return
        try:
            self._store.keep_mark(site, self._whose[site], self._known[site])
            self._fresh.discard(site)
        except StorageError as error:
            self._log.write("mark-not-kept", site=site, rule=error.rule)

    def _before(self, site: str) -> Mark | None:
        if site in self._known:
            return self._known[site]
        marks = self._store.marks(site, self._identity(site))
        return marks[-1] if marks else None

    def _take(self, site: str, before: Mark | None, said: Mark) -> None:
        if said.is_behind(before):
            raise site_rolled_back(site)
        if before is None or before.lineage != said.lineage:
            older = {mark.lineage for mark in self._store.marks(site, self._identity(site))}
            if before is not None and (not said.restored or said.lineage in older):
                raise site_rolled_back(site)
            if said.restored:
                self._log.write("site-restored", site=site, restored=said.restored)
                self._restored(site, said.restored)
        self._store.keep_mark(site, self._identity(site), said)
        self._known[site] = replace(said)
        self._fresh.discard(site)
