"""Studies from their submission to their results: offered to the sites, approved, run, and told to everybody.

submitted -> waiting (for the sites' stewards) -> ready -> running -> finished | failed (may be submitted again, and goes on) |
refused | cancelled | withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from unisono.errors import NetworkError, StudyError, UnisonoError
from unisono.federation.attempts import parameters_of
from unisono.federation.events import Event
from unisono.network.coordinator.consent import checked_permit
from unisono.network.coordinator.courier import Courier
from unisono.network.coordinator.home import CoordinatorHome, Limits
from unisono.network.coordinator.running import Ended, result_files
from unisono.network.coordinator.runs import Runs, Told
from unisono.network.coordinator.sites import Sites
from unisono.network.coordinator.store import OPEN, OVER, Asked, Decided, Delivery, State, Store, unknown_study
from unisono.network.coordinator.watching import Progress, Watchers
from unisono.network.log import Log
from unisono.network.signing import StudySignature
from unisono.protection.secagg.roster import Roster
from unisono.study.document import Study


class Studies:
    """The studies of one coordinator. All of it lives in the service's event loop."""

    def __init__(
        self, home: CoordinatorHome, store: Store, sites: Sites, log: Log, clock: Callable[[], datetime], limits: Limits
    ) -> None:
        self.store = store
        self.watchers = Watchers()
        self._home = home
        self._sites = sites
        self._log = log
        self._clock = clock
        self._limits = limits
        self._runs = Runs(
            home, sites, log, limits.running, Told(self._started, self._seen, self._ended, self._site_knows)
        )
        self._progress: dict[str, Progress] = {}
        self._couriers: dict[str, Courier] = {}

    def start(self) -> None:
        """Go on with what was ready or running when the service ended."""
        for asked in self.store.all():
            for site in asked.roster.sites:
                self._courier(site)
            if asked.state in ("ready", "running"):
                self._log.write("study-resumed", study=asked.digest, state=asked.state)
                self._runs.begin(asked)

    async def stop(self) -> None:
        """End what runs, with every journal closed. It goes on at the next start."""
        self.watchers.close()
        await self._runs.close()
        await asyncio.gather(*(courier.stop() for courier in self._couriers.values()), return_exceptions=True)

    # -- the researcher's half ------------------------------------------------------------------------------------------

    def submit(self, study: Study, document: str, signature: StudySignature, roster: Roster) -> Asked:
        """A study, asked of the sites of `roster`; all checked but whether these sites are enough. One that failed goes on
        where it stopped. One that was refused, withdrawn or cancelled is offered anew, and every steward decides anew.
        Otherwise the same study again changes nothing."""
        parameters_of(roster.sites, study)
        digest = study.digest()
        known = self.store.find(digest)
        if known is not None and known.state in (*OPEN, "finished"):
            return known
        if known is not None and known.state == "failed" and known.roster.to_tree() == roster.to_tree():
            return self._ready(known)
        if sum(asked.state in OPEN for asked in self.store.all()) >= self._limits.studies:
            raise NetworkError(
                f"{self._limits.studies} studies wait or run here; no more are taken.",
                rule="studies-at-once",
                remedy="Wait until some are answered, or ask the coordinator's operator.",
            )
        if known is not None and known.roster.to_tree() != roster.to_tree() and self._begun(known):
            raise NetworkError(
                "This study was begun over other sites, or one of them has another key now.",
                rule="frozen-sites",
                remedy="A fit is over one set of sites. Give the study another id, and submit that.",
            )
        if known is not None:
            self.store.forget(digest)
        asked = Asked(digest, study.id, document, signature, roster, self._clock(), "waiting", "")
        self.store.submit(asked)
        self._log.write("study-submitted", study=digest, id=study.id, by=signature.researcher, sites=list(roster.sites))
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
        """A steward's signed permit. The study runs when every site has given one. `PermitError` if it is not this site's
        own, for this study and these sites, or has expired."""
        asked = self._of(site, digest)
        checked_permit(permit, asked, site, self._clock())
        if asked.state in ("cancelled", "withdrawn"):
            raise _over(asked)
        self._decided(asked, Decided(site, "approved", "", permit, self._clock()))
        if asked.state not in ("waiting", "refused"):
            return asked
        decisions = self.store.decisions(digest)
        refusing = next((d for d in decisions.values() if d.decision != "approved"), None)
        if refusing is None and set(decisions) == set(asked.roster.sites):
            return self._ready(asked)
        if asked.state == "refused" and refusing is None:
            return self._move(asked, "waiting", "")
        self._tell(asked)
        return asked

    def refuse(self, site: str, digest: str, why: str) -> Asked:
        """A steward says no. Of a study that runs already, it is a withdrawal."""
        asked = self._of(site, digest)
        if asked.state not in ("waiting", "refused"):
            return self.withdraw(site, digest, why)
        self._decided(asked, Decided(site, "refused", why, "", self._clock()))
        return self._end(asked, "refused", _said(site, "refused", why))

    def withdraw(self, site: str, digest: str, why: str) -> Asked:
        """A steward takes the permit back: the study is stopped at once. What was answered before stays answered."""
        asked = self._of(site, digest)
        self._decided(asked, Decided(site, "withdrawn", why, "", self._clock()))
        if asked.state in OVER:
            return asked
        return self._end(asked, "withdrawn", _said(site, "withdrew", why))

    # -- what is known ------------------------------------------------------------------------------------------------

    def known(self, digest: str) -> Asked:
        """The study of that digest. `NetworkError` if there is none."""
        asked = self.store.find(digest)
        if asked is None:
            raise unknown_study(digest)
        return asked

    def status(self, asked: Asked) -> dict[str, Any]:
        """Where a study stands, as a tree."""
        decisions = self.store.decisions(asked.digest)
        sites: dict[str, Any] = {}
        for name in asked.roster.sites:
            line, decided = self._sites.line(name), decisions.get(name)
            sites[name] = {
                "online": line.end.is_online,
                "decision": "open" if decided is None else decided.decision,
                "why": "" if decided is None else decided.why,
                "bytes_in": line.end.bytes_in,
                "bytes_out": line.end.bytes_out,
            }
        progress = self._progress.get(asked.digest)
        return {
            "study": asked.digest,
            "id": asked.id,
            "researcher": asked.signature.researcher,
            "submitted": asked.submitted.isoformat(),
            "state": asked.state,
            "why": asked.why,
            "sites": sites,
            "waiting_for": self._late(asked, decisions, progress),
            "progress": None if progress is None else progress.to_tree(),
        }

    async def watch(self, digest: str) -> AsyncIterator[dict[str, Any]]:
        """{state, event} from now on, until nothing more happens by itself. event: None where only the state changed."""
        with self.watchers.watching(digest) as queue:
            asked = self.known(digest)
            yield {"state": self.status(asked), "event": None}
            while asked.state in OPEN:
                event = await queue.get()
                if self.watchers.closed:
                    raise stopping()
                asked = self.known(digest)
                yield {"state": self.status(asked), "event": event}

    def site_changed(self, name: str) -> None:
        """A site came or went: whoever watches a study of its is told; what was kept for it is tried again."""
        if name in self._couriers:
            self._couriers[name].look()
        for digest in self.watchers.watched():
            asked = self.store.find(digest)
            if asked is not None and name in asked.roster:
                self.watchers.tell(digest)

    def _late(self, asked: Asked, decisions: dict[str, Decided], progress: Progress | None) -> list[str]:
        if asked.state == "waiting":
            return [name for name in asked.roster.sites if name not in decisions]
        return sorted(progress.waiting_for) if progress is not None and asked.state == "running" else []

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
        asked = self._move(asked, "ready", "")
        self._runs.begin(asked)
        return asked

    def _end(self, asked: Asked, state: State, why: str) -> Asked:
        asked = self._move(asked, state, why)
        self._runs.stop(asked.digest)
        return asked

    def _move(self, asked: Asked, state: State, why: str, *, results: bool = False) -> Asked:
        self.store.move(asked.digest, state, why, results=results)
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
            self._progress[digest] = Progress()
            self._move(asked, "running", "")

    async def _site_knows(self, digest: str, site: str) -> None:
        await self._courier(site).told(digest)

    def _seen(self, digest: str, event: Event) -> None:
        self._progress.setdefault(digest, Progress()).see(event)
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
