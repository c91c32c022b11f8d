"""Studies from their submission to their results: offered to the sites, approved, run, and told to everybody.

submitted -> waiting (for the sites' stewards) -> ready -> running -> finished | failed (may be submitted again, and goes on) |
refused | cancelled | withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from unisono.errors import NetworkError, StorageError, StudyError, UnisonoError
from unisono.federation.attempts import parameters_of
from unisono.federation.events import Event
from unisono.methods.packages import same_packages, to_tree
from unisono.methods.registry import packages_for, versions_for
from unisono.methods.versions import same_methods
from unisono.network.beginning import consent_of
from unisono.network.coordinator.admission import check_open, check_size
from unisono.network.coordinator.consent import checked_permit
from unisono.network.coordinator.courier import Courier
from unisono.network.coordinator.deadlines import Deadlines
from unisono.network.coordinator.home import CoordinatorHome, Limits
from unisono.network.coordinator.quorum import Standing, standing, until
from unisono.network.coordinator.running import Ended, result_files
from unisono.network.coordinator.runs import Runs, Told
from unisono.network.coordinator.sites import Sites
from unisono.network.coordinator.status import status
from unisono.network.coordinator.store import OPEN, OVER, Asked, Decided, Delivery, State, Store, unknown_study
from unisono.network.coordinator.watching import Progress, Watchers
from unisono.network.log import Log
from unisono.network.marks import coordinator_rolled_back
from unisono.network.signing import StudySignature
from unisono.protection.secagg.roster import Roster
from unisono.study.document import Study

_TRY_AGAIN = timedelta(minutes=1)

_TOGETHER_S = 0.05
"""Events within so long are told together."""


class Studies:
    """The studies of one coordinator. All of it lives in the service's event loop."""

    def __init__(
        self,
        home: CoordinatorHome,
        store: Store,
        sites: Sites,
        log: Log,
        clock: Callable[[], datetime],
        limits: Limits,
        observed: Callable[[str, Event], None],
        opened: Callable[[], None],
    ) -> None:
        """observed: told everything that happens in runs, with the study's digest. opened: called when a sum is in its journal."""
        self.store = store
        self.watchers = Watchers()
        self._home = home
        self._sites = sites
        self._log = log
        self._clock = clock
        self._limits = limits
        self._observed = observed
        self._opened = opened
        self._runs = Runs(
            home, sites, log, limits.running, Told(self._started, self._seen, self._ended, self._site_knows)
        )
        self._deadlines = Deadlines(clock, self._time_is_up)
        self._progress: dict[str, Progress] = {}
        self._couriers: dict[str, Courier] = {}

    def start(self) -> None:
        """Go on with what was ready or running when the service ended."""
        for asked in self.store.all():
            for site in asked.roster.sites:
                self._courier(site)
            if asked.state == "waiting":
                self._deadlines.set(asked.digest, until(asked, asked.study()))
            if asked.state in ("ready", "running"):
                self._log.write("study-resumed", study=asked.digest, state=asked.state)
                self._begin(asked)

    @property
    def running(self) -> list[str]:
        """Ids of the studies that are being answered, or wait their turn."""
        return self._runs.running

    @property
    def trouble(self) -> str:
        """What stands still and should not, in words; empty if nothing does."""
        dead = sorted(site for site, courier in self._couriers.items() if not courier.is_alive)
        return f"nothing is told to {', '.join(dead)} any more: start the coordinator anew" if dead else ""

    async def stop(self) -> None:
        """End what runs, with every journal closed. It goes on at the next start."""
        self.watchers.close()
        await asyncio.gather(self._deadlines.stop(), return_exceptions=True)
        await self._runs.close()
        await asyncio.gather(*(courier.stop() for courier in self._couriers.values()), return_exceptions=True)

    # -- the researcher's half ------------------------------------------------------------------------------------------

    def submit(self, study: Study, document: str, signature: StudySignature, roster: Roster) -> Asked:
        """A study, asked of the sites of `roster`; all checked but whether these sites are enough. One that failed goes on
        where it stopped. One that was refused, withdrawn or cancelled is offered anew, and every steward decides anew.
        Otherwise the same study again changes nothing."""
        parameters_of(roster.sites, study)
        check_size(study, document, self._limits)
        digest = study.digest()
        known = self.store.find(digest)
        if known is not None and known.state in (*OPEN, "finished"):
            return known
        needed, packages = versions_for(study), to_tree(packages_for(study))
        for site in roster.sites:
            line = self._sites.line(site)
            same_methods(needed, line.methods, site)
            if line.packages is not None:  # a site that is away says so when it is offered the study
                same_packages(packages, line.packages, site)
        if known is not None and known.state == "failed" and known.roster.to_tree() == roster.to_tree():
            return self._ready(known)
        check_open(signature.researcher, self.store.all(), self._limits)
        if known is not None and known.roster.to_tree() != roster.to_tree() and self._begun(known):
            raise NetworkError(
                "This study was begun over other sites, or one of them has another key now.",
                rule="frozen-sites",
                remedy="A fit is over one set of sites. Give the study another id, and submit that.",
            )
        return self._offered(Asked(digest, study.id, document, signature, roster, self._clock(), "waiting", ""), study)

    def _offered(self, asked: Asked, study: Study, without: tuple[str, ...] = ()) -> Asked:
        """To every site of its roster, whatever they decided before. without: sites that were asked until now, and are told so."""
        self.store.submit(asked, without)
        self._deadlines.set(asked.digest, until(asked, study))
        by, sites = asked.signature.researcher, list(asked.roster.sites)
        self._log.write("study-submitted", study=asked.digest, id=asked.id, by=by, sites=sites)
        for site in without:
            self._courier(site).look()
        self._tell(asked)
        return asked

    def cancel(self, digest: str, by: str) -> Asked:
        """Nothing more is asked. A study that is over stays as it is."""
        asked = self.known(digest)
        if asked.state in OVER:
            return asked
        return self._end(asked, "cancelled", f"Cancelled by {by}.")

    def results(self, digest: str) -> dict[str, bytes]:
        """The files of the results, by relative name. `NetworkError` if there are none yet."""
        asked = self.known(digest)
        files = result_files(self._home.folder(asked.id, digest)) if asked.state in ("finished", "failed") else {}
        if not files:
            raise NetworkError(
                f"Study {asked.id!r} has no results: it is {asked.state}.",
                rule="no-results",
                remedy="Watch it with: unisono study watch.",
            )
        return files

    # -- the sites' half ----------------------------------------------------------------------------------------------

    def approve(self, site: str, digest: str, permit: str) -> Asked:
        """A steward's signed permit. The study runs when every site has given one (or as many as it says suffice, asked anew).
        `PermitError` if it is not this site's own, for this study and these sites, or has expired."""
        asked = self._of(site, digest)
        checked_permit(permit, asked, site, self._clock())
        if asked.state in ("cancelled", "withdrawn"):
            raise _over(asked)
        self._decided(asked, Decided(site, "approved", "", permit, self._clock()))
        if asked.state not in ("waiting", "refused"):
            return asked
        if asked.state == "refused" and self._standing(asked).next != "refused":
            asked = self._move(asked, "waiting", "")
            self._deadlines.set(digest, until(asked, asked.study()))
        return self._weighed(asked)

    def refuse(self, site: str, digest: str, why: str) -> Asked:
        """A steward says no. Of a study that runs already, it is a withdrawal."""
        asked = self._of(site, digest)
        if asked.state not in ("waiting", "refused"):
            return self.withdraw(site, digest, why)
        self._decided(asked, Decided(site, "refused", why, "", self._clock()))
        return self._weighed(asked, why=_said(site, "refused", why))

    def withdraw(self, site: str, digest: str, why: str) -> Asked:
        """A steward takes the permit back: the study is stopped at once. What was answered before stays answered."""
        asked = self._of(site, digest)
        self._decided(asked, Decided(site, "withdrawn", why, "", self._clock()))
        if asked.state in OVER:
            return asked
        return self._end(asked, "withdrawn", _said(site, "withdrew", why))

    # -- whether it may begin -----------------------------------------------------------------------------------------

    def _standing(self, asked: Asked, *, over: bool = False) -> Standing:
        return standing(asked.roster.sites, asked.study(), self.store.decisions(asked.digest), over=over)

    def _weighed(self, asked: Asked, *, why: str = "", over: bool = False) -> Asked:
        """A study that waits, after a decision, or when the time to decide is up. why: of the last decision, if it was a no."""
        found = self._standing(asked, over=over)
        if found.next == "begin":
            return self._ready(asked)
        if found.next == "refused":
            return self._end(asked, "refused", why or asked.why)
        missing = ", ".join(found.missing)
        if found.next == "fewer":
            try:
                study, fewer = asked.study(), Roster({name: asked.roster[name] for name in found.approved})
                parameters_of(fewer.sites, study)
            except UnisonoError as error:
                return self._end(asked, "cancelled", f"Without {missing}: {error.what}")
            self._log.write("study-fewer", study=asked.digest, without=list(found.missing))
            fewer_asked = replace(asked, roster=fewer, submitted=self._clock(), state="waiting")
            again = self._offered(fewer_asked, study, found.missing)
            return self._move(again, "waiting", f"Asked anew without {missing}, who did not approve it.")
        if found.next == "expired":
            return self._end(
                asked, "cancelled", f"{missing} did not approve it in time. Submit it again, over others if need be."
            )
        self._tell(asked)
        return asked

    def _time_is_up(self, digest: str) -> None:
        asked = self.store.find(digest)
        if asked is None or asked.state != "waiting":
            return
        try:
            self._weighed(asked, over=True)
        except UnisonoError as error:  # a full disk: tried again later
            self._log.refused("study-state-not-kept", error, study=digest)
            self._deadlines.set(digest, self._clock() + _TRY_AGAIN)

    # -- what is known ------------------------------------------------------------------------------------------------

    def known(self, digest: str) -> Asked:
        """The study of that digest. `NetworkError` if there is none."""
        asked = self.store.find(digest)
        if asked is None:
            raise unknown_study(digest)
        return asked

    def status(self, asked: Asked) -> dict[str, Any]:
        """Where a study stands, as a tree."""
        decisions, progress = self.store.decisions(asked.digest), self._progress.get(asked.digest)
        return status(asked, decisions, self._sites, progress, queued=asked.digest in self._runs.queued)

    async def watch(self, digest: str) -> AsyncIterator[dict[str, Any]]:
        """{state, events} from now on, until nothing more happens by itself; some twenty times a second at most, however fast sums are
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
        if name in self._couriers:
            self._couriers[name].look()
        for digest in self.watchers.watched():
            asked = self.store.find(digest)
            if asked is not None and name in asked.roster:
                self.watchers.tell(digest)

    # -- memories that went back --------------------------------------------------------------------------------------

    def site_restored(self, site: str, made: str) -> None:
        """A site was restored from a back-up of that time (ISO): what it approved before is not gone on with, and it is told of every
        study again, since it may have forgotten some."""
        why = f"{site} was restored from a back-up of {made[:10]}: submit the study again, for every data steward to decide anew."
        for asked in self.store.all():
            decided = self.store.decisions(asked.digest).get(site)
            if decided is None or decided.decision != "approved" or (asked.state in OVER and asked.state != "refused"):
                continue
            self._decided(asked, Decided(site, "withdrawn", why, "", self._clock()))
            if asked.state != "refused":
                self._end(asked, "withdrawn", why)
        self.store.tell_again(site)
        self._courier(site).look()

    def rolled_back(self, site: str) -> None:
        """This coordinator's memory is older than a site remembers it: what it would ask of that site again is not asked."""
        error = coordinator_rolled_back(site)
        self._log.refused("rolled-back", error, site=site)
        for asked in self.store.all():
            if site in asked.roster and asked.state in ("ready", "running"):
                self._end(asked, "failed", f"{error.what} {error.remedy}")

    # -- changes ------------------------------------------------------------------------------------------------------

    def _of(self, site: str, digest: str) -> Asked:
        asked = self.store.find(digest)
        if asked is None or site not in asked.roster:
            raise unknown_study(digest)
        return asked

    def _begun(self, asked: Asked) -> bool:
        return any(self._home.folder(asked.id, asked.digest).glob("*/journal.db"))

    def _decided(self, asked: Asked, decided: Decided) -> None:
        self.store.decide(asked.digest, decided)
        self._log.write("study-decided", study=asked.digest, site=decided.site, decision=decided.decision)

    def _ready(self, asked: Asked) -> Asked:
        return self._begin(self._move(asked, "ready", ""))

    def _begin(self, asked: Asked) -> Asked:
        """Run it, if every permit holds now: since it was given it may have expired, or this coordinator was upgraded."""
        decisions = self.store.decisions(asked.digest)
        try:
            for name, decided in decisions.items():
                checked_permit(decided.permit, asked, name, self._clock())
        except UnisonoError as error:
            self._log.refused("study-not-begun", error, study=asked.digest)
            return self._move(asked, "failed", f"{error.what} {error.remedy}")
        consents = {name: consent_of(decided.permit) for name, decided in decisions.items()}
        self._runs.begin(asked, consents, self.store.restored())
        return asked

    def _end(self, asked: Asked, state: State, why: str) -> Asked:
        asked = self._move(asked, state, why)
        self._runs.stop(asked.digest)
        return asked

    def _move(self, asked: Asked, state: State, why: str, *, results: bool = False) -> Asked:
        self.store.move(asked.digest, state, why, results=results)
        if state != "waiting":
            self._deadlines.drop(asked.digest)
        self._log.write("study-state", study=asked.digest, state=state)
        asked = replace(asked, state=state, why=why)
        self._tell(asked)
        return asked

    def _tell(self, asked: Asked) -> None:
        for site in asked.roster.sites:
            self._courier(site).look()
        self.watchers.tell(asked.digest)

    def _courier(self, site: str) -> Courier:
        if site not in self._couriers:
            self._couriers[site] = Courier(site, self._sites, self.store, self._home, self._undelivered)
        return self._couriers[site]

    def _undelivered(self, delivery: Delivery | None, error: UnisonoError) -> None:
        """A site could not take what it was told. An offer that it cannot take up is refused by it."""
        if delivery is None:
            self._log.write("delivery-kept", rule=error.rule)
            return
        about = {"study": delivery.study, "site": delivery.site, "kind": delivery.kind, "rule": error.rule}
        self._log.write("delivery-refused", **about)
        asked = self.store.find(delivery.study)
        if delivery.kind == "offer" and asked is not None and asked.state == "waiting":
            self.refuse(delivery.site, delivery.study, f"{error.what} {error.remedy}")

    # -- running ------------------------------------------------------------------------------------------------------

    def _started(self, digest: str) -> None:
        asked = self.known(digest)
        if asked.state == "ready":
            self._progress[digest] = Progress.of(asked.study())
            try:
                self._move(asked, "running", "")
            except StorageError as error:  # it runs all the same; how it ends is written down when it can be
                self._log.refused("study-state-not-kept", error, study=digest)

    async def _site_knows(self, digest: str, site: str) -> None:
        await self._courier(site).told(digest)

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
        self._move(asked, "failed" if failed else "finished", ended.why, results=bool(ended.answered))


def stopping() -> NetworkError:
    """What everybody is told when the service ends."""
    return NetworkError(
        "The coordinator is being stopped.",
        rule="coordinator-stopping",
        remedy="Nothing to do: it is connected to again when it is back, and what was running goes on.",
    )


def _said(site: str, did: str, why: str) -> str:
    return f"{site} {did}{': ' + why if why else '.'}"


def _over(asked: Asked) -> StudyError:
    return StudyError(
        f"Study {asked.id!r} was {asked.state}.",
        rule="study-over",
        remedy="A researcher may submit it again; it then waits for every steward anew.",
    )
