"""What each site must be told of studies: offers, states, results. In order, once it is there, again after a lost link; nothing
is forgotten by a restart of either."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from unisono.errors import StorageError, UnisonoError
from unisono.methods.packages import to_tree
from unisono.methods.registry import packages_for, versions_for
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.coordinator.sites import Sites
from unisono.network.coordinator.store import Asked, Delivery, Store
from unisono.network.link import Restarted
from unisono.network.results import result_files

_TRY_AGAIN_S = (1.0, 60.0)
"""What could not be kept is told again: after so long at first, and at last."""


class Courier:
    """Tells one site. `look` wakes it when there is something new. refused: told what the site would not take,
    and why; None for what is kept, to be told later."""

    def __init__(
        self,
        site: str,
        sites: Sites,
        store: Store,
        home: CoordinatorHome,
        refused: Callable[[Delivery | None, UnisonoError], None],
    ) -> None:
        self.site = site
        self._sites = sites
        self._store = store
        self._home = home
        self._refused = refused
        self._news, self._told = asyncio.Event(), asyncio.Event()
        self._task = asyncio.ensure_future(self._tell())

    @property
    def is_alive(self) -> bool:
        """Whether it still tells; it ends only when it is stopped, or by a fault of ours."""
        return not self._task.done()

    def look(self) -> None:
        """There may be something new."""
        self._news.set()

    async def told(self, study: str) -> None:
        """Returns when the site knows everything about a study."""
        while self._store.owes(self.site, study):
            self._told.clear()
            await self._told.wait()

    def stop(self) -> asyncio.Task[None]:
        """No more; what was not delivered is, after the next start."""
        self._task.cancel()
        return self._task

    async def _tell(self) -> None:
        wait_s: float | None = None
        while True:
            self._news.clear()
            try:
                told, wait_s = await self._told_one(), None
            except StorageError as error:  # a full disk, here or there: kept, and tried again
                self._refused(None, error)
                told, wait_s = False, min(2 * (wait_s or _TRY_AGAIN_S[0]), _TRY_AGAIN_S[1])
            if not told:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._news.wait()

    async def _told_one(self) -> bool:
        """Tell the site the first thing that it does not know; False if it knows everything."""
        delivery, end = self._store.undelivered(self.site), self._sites.line(self.site).end
        if delivery is None:
            return False
        if not end.is_online:
            await end.online()
            return True  # looked up again: while the site was away, the study may have been submitted anew without it
        asked = self._store.find(delivery.study)
        assert asked is not None  # deliveries are of studies, and nothing else ran since this one was looked up
        try:
            tree = await asyncio.to_thread(self._tree, delivery, asked)
            await self._sites.ask(self.site, tree)
        except Restarted:
            return True
        except StorageError:
            raise
        except UnisonoError as error:  # another telling would end no other way
            if self._store.is_due(delivery):  # else it is about an earlier submission; this one is answered for itself
                self._refused(delivery, error)
        self._store.delivered(delivery)
        self._told.set()
        return True

    def _tree(self, delivery: Delivery, asked: Asked) -> dict[str, Any]:
        if delivery.kind == "offer":
            return {
                "to": "offer",
                "study": asked.document,
                "signature": asked.signature.to_tree(),
                "roster": asked.roster.to_tree(),
                "submitted": asked.submitted.isoformat(),
                "methods": versions_for(asked.study()),
                "packages": to_tree(packages_for(asked.study())),
            }
        if delivery.kind == "state" and self.site not in asked.roster:
            why = "The study is asked of the other hospitals alone, since this one had not approved it in time."
            return {"to": "state", "study": asked.digest, "state": "cancelled", "why": why}
        if delivery.kind == "state":
            return {"to": "state", "study": asked.digest, "state": asked.state, "why": asked.why}
        folder = self._home.folder(asked.id, asked.digest)
        return {"to": "result", "study": asked.digest, "files": result_files(folder)}
