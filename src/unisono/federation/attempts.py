"""One step, tried until it opens or its deadline passes: attempts, waiting for sites that come back, going on without them.

What happens when a site is lost before its masked input is the study's `on_dropout` rule; when lost after it, the site's
part counts. A sum that was masked and written down is finished before another attempt is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from unisono.errors import ParticipationError
from unisono.federation.ask import Ask
from unisono.federation.events import Kind
from unisono.federation.exchange import Exchange
from unisono.federation.journal import Journal
from unisono.federation.rounds import Opened, Round
from unisono.federation.slots import Incomplete
from unisono.federation.waiting import until_enough
from unisono.protection.encoding.codec import codec
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.parameters import Parameters, derive
from unisono.protection.secagg.roster import Roster
from unisono.study.document import Study

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
"""Between tries that fail one after the other: a link that is up and fails at once must not be asked in a hot loop."""


class SiteLeft(Exception):
    """`on_dropout: continue`: these sites are out for good; what they were in must be recomputed without them."""

    def __init__(self, stayed: tuple[str, ...]) -> None:
        super().__init__(f"continuing with {', '.join(stayed)}")
        self.stayed = stayed


@dataclass
class Attempts:
    """The tries at the steps of one analysis. notify: (kind, ask, site) for observers."""

    exchange: Exchange
    round: Round
    roster: Roster
    journal: Journal
    study: Study
    deadline: float
    notify: Callable[[Kind, Ask, str], None]
    _missing: dict[str, str] = field(default_factory=dict)
    """Lost in the last try, with the message at which."""
    _away: dict[str, str] = field(default_factory=dict)
    """Of these, without a link now."""

    async def until_collected(self, ask: Ask) -> dict[str, NDArray[np.uint8]]:
        """Every asked site's part as it is; waits for those that are away until the deadline passes."""
        self._missing, self._away, failures = {}, {}, 0
        of = (ask.of,) if ask.of else ask.sites
        try:
            async with asyncio.timeout(self.deadline):
                while True:
                    ask = self._next(ask)
                    try:
                        return await self.round.collect(ask, of)
                    except Incomplete as incomplete:
                        if self.study.participation.on_dropout == "abort":
                            raise stopped(incomplete.lost, ask, "on_dropout is `abort`") from incomplete
                        failures += 1
                        await self._return_of(incomplete, ask, failures)
        except TimeoutError as error:
            missing = self._away or dict.fromkeys(sorted(self.round.waiting), "deadline") or self._missing
            raise stopped(missing, ask, f"the deadline of {self.deadline:g} s passed") from error

    async def until_opened(self, ask: Ask, length: int) -> Opened:
        """Attempts, until one opens or the deadline passes."""
        self._missing, self._away = {}, {}
        try:
            async with asyncio.timeout(self.deadline):
                return await self._tried(ask, length)
        except TimeoutError as error:
            opened = self.round.unmasked(ask, self.round.waiting)
            if opened is not None and not ask.to:
                return opened
            late = dict.fromkeys(sorted(self.round.waiting), "deadline")
            missing = self._away | late or self._missing
            if self.study.participation.on_dropout == "continue" and missing:
                raise self._leave(ask, missing) from error
            raise stopped(missing, ask, f"the deadline of {self.deadline:g} s passed") from error

    async def _tried(self, ask: Ask, length: int) -> Opened:
        failures, restarted = 0, False
        opened = await self._finish_pending(ask)
        while opened is None:
            ask = self._next(ask)
            try:
                opened = await self._attempt(ask, length)
            except Incomplete as incomplete:
                if "abstained" in incomplete.lost.values():
                    raise _too_few(incomplete.lost, ask) from incomplete
                if incomplete.only_restarted and not restarted:
                    restarted = True  # it is there, and was not away when it was asked: nothing to wait for
                    continue
                if self.study.participation.on_dropout == "abort":
                    raise stopped(incomplete.lost, ask, "on_dropout is `abort`") from incomplete
                failures += 1
                await self._return_of(incomplete, ask, failures)
                opened = await self._finish_pending(ask)
        return opened

    async def _attempt(self, ask: Ask, length: int) -> Opened:
        if ask.hide == "none":
            return await self.round.plain(ask, codec(ask.encoding), length)
        return await self.round.secagg(ask, codec(ask.encoding), length)

    def _next(self, ask: Ask) -> Ask:
        """A number never used before, also by a run that was killed: written down before the ask goes out."""
        before = self.journal.last("attempt", epoch=ask.epoch, step=ask.step)
        number = 1 if before is None or before.body is None else int(before.body["attempt"]) + 1
        self.journal.write("attempt", {"attempt": number, "question": ask.question}, epoch=ask.epoch, step=ask.step)
        self.notify("attempt", ask, "")
        return replace(ask, attempt=number)

    async def _finish_pending(self, ask: Ask) -> Opened | None:
        """If the step's masked sum is on disk, ask for the same unmasking again; None if too few sites can give it."""
        record = self.journal.last("pending", epoch=ask.epoch, step=ask.step)
        if record is None or record.body is None:
            return None
        session = AggregatorSession.restore(record.body["session"], self.roster)
        try:
            return await self.round.unmask(ask, session, record.body["first_bytes"])
        except Incomplete as incomplete:
            self._missing = incomplete.lost
            return None

    async def _return_of(self, incomplete: Incomplete, ask: Ask, failures: int) -> None:
        """Until every lost site has a link again; where a sum may do without some, until enough have one."""
        enough = self._enough(ask)
        gone = () if enough is None else (site for site in ask.sites if not self.exchange.connected(site))
        self._missing, self._away = incomplete.lost, {**dict.fromkeys(gone, "advertise"), **incomplete.lost}
        body = {"name": ask.contribution, "method": ask.method, "sites": dict(incomplete.lost)}
        self.journal.write("waited", body, epoch=ask.epoch, step=ask.step)

        async def back(site: str) -> None:
            self.notify("waiting", ask, site)
            await self.exchange.online(site)
            del self._away[site]
            self.notify("returned", ask, site)

        await until_enough({site: back(site) for site in sorted(self._away)}, enough, after=0.0)
        if failures > 1:
            await asyncio.sleep(min(FIRST_PAUSE_S * 2.0 ** (failures - 2), LONGEST_PAUSE_S))

    def _enough(self, ask: Ask) -> Callable[[], bool] | None:
        """Says whether another try may open a sum that can do without some sites. None for one over a set that is given: a
        statistic's, or one that sites may have signed or unmasked for."""
        pending = self.journal.last("pending", epoch=ask.epoch, step=ask.step)
        if not ask.partial or (pending is not None and pending.body is not None):
            return None
        parameters = parameters_of(ask.sites, self.study)
        least = self.study.release.min_sites if parameters is None else parameters.least_survivors
        return lambda: sum(map(self.exchange.connected, ask.sites)) >= least

    def _leave(self, ask: Ask, missing: Mapping[str, str]) -> SiteLeft:
        """Those who stayed begin anew; the ones missing at the deadline are out for good. An error, and nothing is written
        down, if those who stayed are too few: the same command can still wait for the others."""
        stayed = tuple(s for s in ask.sites if s not in missing)
        parameters_of(stayed, self.study)
        for site in sorted(missing):
            self.notify("left", ask, site)
        self.journal.write("epoch", {"stayed": list(stayed), "left": dict(missing)}, epoch=ask.epoch + 1)
        return SiteLeft(stayed)


def parameters_of(sites: tuple[str, ...], study: Study) -> Parameters | None:
    """How many of these sites must stay; None where nothing is hidden. An error if no sum over them may be opened."""
    if len(sites) < study.release.min_sites:
        raise ParticipationError(
            f"{len(sites)} site{'s' if len(sites) != 1 else ''} can take part ({', '.join(sites) or 'none'}); "
            f"a sum is opened over {study.release.min_sites} or more.",
            rule="min_sites",
            remedy="Invite more sites. With fewer, a sum would show one hospital's part to another.",
        )
    rules = study.protection
    if rules.hide == "none":
        return None
    return derive(len(sites), rules.colluding, study.release.min_sites, hide=rules.hide, threat=rules.threat)


def _too_few(lost: Mapping[str, str], ask: Ask) -> ParticipationError:
    """Waiting does not help: asked again, they would abstain again."""
    abstained = ", ".join(site for site, why in sorted(lost.items()) if why == "abstained")
    return ParticipationError(
        f"Step {ask.step} of {ask.analysis!r} ({ask.method}.{ask.contribution}) stopped: {abstained} abstained, and too few "
        "sites are left for a sum.",
        rule="enough-sites",
        remedy="Each site's log says why it abstained (updates that are not finite: lower the learning rate, clip gradients; not "
        "enough memory: a smaller batch). Every opened sum is kept.",
    )


def stopped(missing: Mapping[str, str], ask: Ask, why: str) -> ParticipationError:
    """The step could not be opened, and can be later."""
    names = ", ".join(f"{site} (at {phase})" for site, phase in sorted(missing.items())) or "some sites"
    return ParticipationError(
        f"Step {ask.step} of {ask.analysis!r} ({ask.method}.{ask.contribution}) stopped: {why} while waiting for {names}.",
        rule="on_dropout",
        remedy="Run the same command again when the site is back: every opened sum is kept and the fit goes on there.",
    )
