"""Studies from their submission to their results: offered to the sites, approved, run, and told to everybody.

submitted -> waiting (for the sites' stewards) -> ready -> running -> finished | failed (may be submitted again, and goes on) |
refused | cancelled | withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from unisono.errors import NetworkError, StudyError, UnisonoError
from unisono.federation.attempts import parameters_of
from unisono.federation.events import Event
from unisono.methods.packages import same_packages, to_tree
from unisono.methods.registry import packages_for, versions_for
from unisono.methods.versions import same_methods
from unisono.network.coordinator.admission import check_open, check_size
from unisono.network.coordinator.consent import checked_permit
from unisono.network.coordinator.course import Course
from unisono.network.coordinator.deadlines import Deadlines
from unisono.network.coordinator.home import CoordinatorHome, Limits
from unisono.network.coordinator.quorum import Standing, standing, until
from unisono.network.coordinator.sites import Sites
from unisono.network.coordinator.store import OPEN, OVER, Asked, Decided, Store, unknown_study
from unisono.network.log import Log
from unisono.network.marks import coordinator_rolled_back
from unisono.network.signing import StudySignature
from unisono.protection.secagg.roster import Roster
from unisono.report.audience import FILE as FILES
from unisono.study.document import Study

_TRY_AGAIN = timedelta(minutes=1)


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
        self._deadlines = Deadlines(clock, self._time_is_up)
        self.course = Course(
            home,
            store,
            sites,
            log,
            clock,
            limits.running,
            observed=observed,
            opened=opened,
            settled=self._deadlines.drop,
            refuse=self.refuse,
        )
        self._home = home
        self._sites = sites
        self._log = log
        self._clock = clock
        self._limits = limits

    def start(self) -> None:
        """Go on with what was ready or running when the service ended."""
        for asked in self.store.all():
            for site in asked.roster.sites:
                self.course.courier(site)
            if asked.state == "waiting":
                self._deadlines.set(asked.digest, until(asked, asked.study()))
            if asked.state in ("ready", "running"):
                self._log.write("study-resumed", study=asked.digest, state=asked.state)
                self.course.begin(asked)

    async def stop(self) -> None:
        """End what runs, with every journal closed. It goes on at the next start."""
        await asyncio.gather(self._deadlines.stop(), return_exceptions=True)
        await self.course.stop()

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
            return self.course.ready(known)
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
            self.course.courier(site).look()
        self.course.tell(asked)
        return asked

    def cancel(self, digest: str, by: str) -> Asked:
        """Nothing more is asked. A study that is over stays as it is."""
        asked = self.course.known(digest)
        if asked.state in OVER:
            return asked
        return self.course.end(asked, "cancelled", f"Cancelled by {by}.")

    def results(self, digest: str) -> Path:
        """The folder of the results. `NetworkError` if there are none yet."""
        asked = self.course.known(digest)
        folder = self._home.folder(asked.id, digest)
        if asked.state not in ("finished", "failed") or not (folder / FILES).exists():
            raise NetworkError(
                f"Study {asked.id!r} has no results: it is {asked.state}.",
                rule="no-results",
                remedy="Watch it with: unisono study watch.",
            )
        return folder

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
            asked = self.course.move(asked, "waiting", "")
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
        return self.course.end(asked, "withdrawn", _said(site, "withdrew", why))

    # -- whether it may begin -----------------------------------------------------------------------------------------

    def _standing(self, asked: Asked, *, over: bool = False) -> Standing:
        return standing(asked.roster.sites, asked.study(), self.store.decisions(asked.digest), over=over)

    def _weighed(self, asked: Asked, *, why: str = "", over: bool = False) -> Asked:
        """A study that waits, after a decision, or when the time to decide is up. why: of the last decision, if it was a no."""
        found = self._standing(asked, over=over)
        if found.next == "begin":
            return self.course.ready(asked)
        if found.next == "refused":
            return self.course.end(asked, "refused", why or asked.why)
        missing = ", ".join(found.missing)
        if found.next == "fewer":
            try:
                study, fewer = asked.study(), Roster({name: asked.roster[name] for name in found.approved})
                parameters_of(fewer.sites, study)
            except UnisonoError as error:
                return self.course.end(asked, "cancelled", f"Without {missing}: {error.what}")
            self._log.write("study-fewer", study=asked.digest, without=list(found.missing))
            fewer_asked = replace(asked, roster=fewer, submitted=self._clock(), state="waiting")
            again = self._offered(fewer_asked, study, found.missing)
            return self.course.move(again, "waiting", f"Asked anew without {missing}, who did not approve it.")
        if found.next == "expired":
            return self.course.end(
                asked, "cancelled", f"{missing} did not approve it in time. Submit it again, over others if need be."
            )
        self.course.tell(asked)
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
                self.course.end(asked, "withdrawn", why)
        self.store.tell_again(site)
        self.course.courier(site).look()

    def rolled_back(self, site: str) -> None:
        """This coordinator's memory is older than a site remembers it: what it would ask of that site again is not asked."""
        error = coordinator_rolled_back(site)
        self._log.refused("rolled-back", error, site=site)
        for asked in self.store.all():
            if site in asked.roster and asked.state in ("ready", "running"):
                self.course.end(asked, "failed", f"{error.what} {error.remedy}")

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


def _said(site: str, did: str, why: str) -> str:
    return f"{site} {did}{': ' + why if why else '.'}"


def _over(asked: Asked) -> StudyError:
    return StudyError(
        f"Study {asked.id!r} was {asked.state}.",
        rule="study-over",
        remedy="A researcher may submit it again; it then waits for every steward anew.",
    )
