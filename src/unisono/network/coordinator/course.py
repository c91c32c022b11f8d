"""The course of a study from state to state: it runs when it is its turn, its sites are told, and so is whoever watches.

Whether it may go on is decided elsewhere (`unisono.network.coordinator.studies`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime
from time import monotonic
from typing import Any

from unisono.errors import NetworkError, StorageError, UnisonoError
from unisono.federation.events import Event
from unisono.network.beginning import consent_of
from unisono.network.coordinator.consent import checked_permit
from unisono.network.coordinator.courier import Courier
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.coordinator.running import Ended
from unisono.network.coordinator.runs import Runs, Told
from unisono.network.coordinator.sites import Sites
from unisono.network.coordinator.status import status
from unisono.network.coordinator.store import OPEN, Asked, Delivery, State, Store, unknown_study
from unisono.network.coordinator.watching import Progress, Watchers
from unisono.network.log import Log

_TOGETHER_S = 0.2
"""Events within so long are told together."""


class Course:
    """Of all studies of one coordinator. All of it lives in the service's event loop.

    observed: told everything that happens in runs, with the study's digest. opened: called when a sum is in its journal. settled:
    called with a study that does not wait for decisions any more. refuse: (site, study, why) of a site that cannot take a study up.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        store: Store,
        sites: Sites,
        log: Log,
        clock: Callable[[], datetime],
        at_once: int,
        *,
        observed: Callable[[str, Event], None],
        opened: Callable[[], None],
        settled: Callable[[str], None],
        refuse: Callable[[str, str, str], object],
    ) -> None:
        self.store = store
        self.watchers = Watchers()
        self.couriers: dict[str, Courier] = {}
        self._home = home
        self._sites = sites
        self._log = log
        self._clock = clock
        self._observed = observed
        self._opened = opened
        self._settled = settled
        self._refuse = refuse
        self._runs = Runs(home, sites, log, at_once, Told(self._started, self._seen, self._ended, self._site_knows))
        self._progress: dict[str, Progress] = {}

    @property
    def running(self) -> list[str]:
        """Ids of the studies that are being answered, or wait their turn."""
        return self._runs.running

    @property
    def trouble(self) -> str:
        """What stands still and should not, in words; empty if nothing does."""
        dead = sorted(site for site, courier in self.couriers.items() if not courier.is_alive)
        return f"nothing is told to {', '.join(dead)} any more: start the coordinator anew" if dead else ""

    async def stop(self) -> None:
        """End what runs, with every journal closed. It goes on at the next start."""
        self.watchers.close()
        await self._runs.close()
        await asyncio.gather(*(courier.stop() for courier in self.couriers.values()), return_exceptions=True)

    def known(self, digest: str) -> Asked:
        """The study of that digest. `NetworkError` if there is none."""
        asked = self.store.find(digest)
        if asked is None:
            raise unknown_study(digest)
        return asked

    # -- from state to state --------------------------------------------------------------------------------------------

    def ready(self, asked: Asked) -> Asked:
        """Everybody who must has approved it: it runs when it is its turn."""
        return self.begin(self.move(asked, "ready", ""))

    def begin(self, asked: Asked) -> Asked:
        """Run it, if every permit holds now: since it was given it may have expired, or this coordinator was upgraded."""
        decisions = self.store.decisions(asked.digest)
        try:
            for name, decided in decisions.items():
                checked_permit(decided.permit, asked, name, self._clock())
        except UnisonoError as error:
            self._log.refused("study-not-begun", error, study=asked.digest)
            return self.move(asked, "failed", f"{error.what} {error.remedy}")
        consents = {name: consent_of(decided.permit) for name, decided in decisions.items()}
        self._runs.begin(asked, consents, self.store.restored())
        return asked

    def end(self, asked: Asked, state: State, why: str) -> Asked:
        """It goes no further; what runs of it is stopped."""
        asked = self.move(asked, state, why)
        self._runs.stop(asked.digest)
        return asked

    def move(self, asked: Asked, state: State, why: str, *, results: bool = False) -> Asked:
        """To another state, written down, and told to its sites and to whoever watches. why: for a person. results: there are some."""
        self.store.move(asked.digest, state, why, results=results)
        if state != "waiting":
            self._settled(asked.digest)
        self._log.write("study-state", study=asked.digest, state=state)
        asked = replace(asked, state=state, why=why)
        self.tell(asked)
        return asked

    def tell(self, asked: Asked) -> None:
        """There is something new of a study, for its sites and for whoever watches it."""
        for site in asked.roster.sites:
            self.courier(site).look()
        self.watchers.tell(asked.digest)

    def courier(self, site: str) -> Courier:
        """Who tells a site."""
        if site not in self.couriers:
            self.couriers[site] = Courier(site, self._sites, self.store, self._home, self._undelivered)
        return self.couriers[site]

    # -- what is shown --------------------------------------------------------------------------------------------------

    def status(self, asked: Asked) -> dict[str, Any]:
        """Where a study stands, as a tree."""
        decisions, progress = self.store.decisions(asked.digest), self._progress.get(asked.digest)
        return status(asked, decisions, self._sites, progress, queued=asked.digest in self._runs.queued)

    async def watch(self, digest: str) -> AsyncIterator[dict[str, Any]]:
        """{state, events} from now on, until nothing more happens by itself; some five times a second at most, however fast sums are
        opened. events: none where only the state changed."""
        with self.watchers.watching(digest) as queue:
            asked = self.known(digest)
            told = monotonic()
            yield {"state": self.status(asked), "events": []}
            while asked.state in OPEN:
                events = [await queue.get()]
                await asyncio.sleep(told + _TOGETHER_S - monotonic())
                told = monotonic()
                while not queue.empty():
                    events.append(queue.get_nowait())
                if self.watchers.closed:
                    raise stopping()
                asked = self.known(digest)
                yield {"state": self.status(asked), "events": [event for event in events if event is not None]}

    def site_changed(self, name: str) -> None:
        """A site came or went: whoever watches a study of its is told; what was kept for it is tried again."""
        if name in self.couriers:
            self.couriers[name].look()
        for digest in self.watchers.watched():
            asked = self.store.find(digest)
            if asked is not None and name in asked.roster:
                self.watchers.tell(digest)

    # -- what runs and couriers say -------------------------------------------------------------------------------------

    def _undelivered(self, delivery: Delivery | None, error: UnisonoError) -> None:
        """A site could not take what it was told. An offer that it cannot take up is refused by it."""
        if delivery is None:
            self._log.write("delivery-kept", rule=error.rule)
            return
        about = {"study": delivery.study, "site": delivery.site, "kind": delivery.kind, "rule": error.rule}
        self._log.write("delivery-refused", **about)
        asked = self.store.find(delivery.study)
        if delivery.kind == "offer" and asked is not None and asked.state == "waiting":
            self._refuse(delivery.site, delivery.study, f"{error.what} {error.remedy}")

    def _started(self, digest: str) -> None:
        asked = self.known(digest)
        if asked.state == "ready":
            self._progress[digest] = Progress.of(asked.study())
            try:
                self.move(asked, "running", "")
            except StorageError as error:  # it runs all the same; how it ends is written down when it can be
                self._log.refused("study-state-not-kept", error, study=digest)

    async def _site_knows(self, digest: str, site: str) -> None:
        await self.courier(site).told(digest)

    def _seen(self, digest: str, event: Event) -> None:
        self._observed(digest, event)
        if event.kind == "opened":
            self._opened()
        if digest not in self._progress:  # gone on with after a restart
            self._progress[digest] = Progress.of(self.known(digest).study())
        progress = self._progress[digest]
        progress.see(event, self._clock())
        self._runs.waits(digest, bool(progress.waiting_for))
        self.watchers.tell(digest, event)

    def _ended(self, digest: str, ended: Ended) -> None:
        """What was answered goes to the sites too; unless the study was cancelled or withdrawn meanwhile."""
        asked = self.known(digest)
        if asked.state not in ("ready", "running"):
            return
        failed = bool(ended.errors) and (ended.resumable or not ended.answered)
        self._progress.pop(digest, None)
        self.move(asked, "failed" if failed else "finished", ended.why, results=bool(ended.answered))


def stopping() -> NetworkError:
    """What everybody is told when the service ends."""
    return NetworkError(
        "The coordinator is being stopped.",
        rule="coordinator-stopping",
        remedy="Nothing to do: it is connected to again when it is back, and what was running goes on.",
    )
