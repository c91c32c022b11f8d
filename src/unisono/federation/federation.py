"""The privileged operations: `sum`, `mean` and `tell` over a set of sites, each a step in program order.

A method's coordinator half gets nothing but this object. Every opened sum is in the journal before the method sees it; a
re-run is answered from there, so that a step is opened once, ever. What happens when a site is lost before its masked
input is the study's `on_dropout` rule; when lost after it, the site's part counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, ParamSpec, TypeVar

import numpy as np

from unisono.errors import JournalError, MethodError, ParticipationError, ProtocolError
from unisono.federation.ask import WEIGHT, Ask, Operation, leaves_of
from unisono.federation.contribution import BoundContribution, BoundReceipt, Facts
from unisono.federation.events import Event, Kind, Observer, nobody
from unisono.federation.exchange import Close, Exchange, LinkLost, Tell
from unisono.federation.journal import Journal, Record
from unisono.federation.rounds import Incomplete, Opened, Round, together
from unisono.federation.tree import Tree, pack, unpack
from unisono.protection.encoding import exact
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.parameters import Parameters, threshold
from unisono.protection.secagg.roster import Roster
from unisono.study.document import Study
from unisono.study.units import duration

P = ParamSpec("P")
T = TypeVar("T")

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
"""Between tries that fail one after the other: a link that is up and fails at once must not be asked in a hot loop."""
PATIENCE_S = 30.0
"""For messages that a sum does not depend on: a site that hangs misses them."""


class SiteLeft(Exception):
    """`on_dropout: continue`: these sites are out for good; what they were in must be recomputed without them."""

    def __init__(self, stayed: tuple[str, ...]) -> None:
        super().__init__(f"continuing with {', '.join(stayed)}")
        self.stayed = stayed


@dataclass(frozen=True)
class Question:
    """What identifies the asks of one analysis of one run."""

    study: Study
    run: str
    analysis: str


class Federation:
    """The federated operations of one analysis. `facts` is set once the cohort has been opened."""

    def __init__(
        self,
        question: Question,
        exchange: Exchange,
        roster: Roster,
        journal: Journal,
        *,
        observer: Observer = nobody,
        strict: bool = True,
    ) -> None:
        study = question.study
        self.question = question
        self.exchange = exchange
        self.roster = roster
        self.journal = journal
        self.observer = observer
        self.strict = strict
        self._facts, self._base = Facts(patients=0), 0
        self.study_digest = study.digest()
        self.deadline = duration(study.participation.deadline)
        self.began = monotonic()
        epochs = journal.all("epoch")
        self.epoch = len(epochs)
        left = set(epochs[-1].body["stayed"]) if epochs and epochs[-1].body else set(roster.sites)
        self.sites: tuple[str, ...] = tuple(sorted(left))
        self._step = 0
        self._busy = False
        self._missing: dict[str, str] = {}  # lost in the last try, with the message at which
        self._away: dict[str, str] = {}  # of these, without a link now
        self.parameters = _parameters(self.sites, study)
        self._round = Round(exchange, roster, self.parameters, journal, self._timed)

    @property
    def facts(self) -> Facts:
        """What has been opened about the cohort; a part of every ask."""
        return self._facts

    @facts.setter
    def facts(self, facts: Facts) -> None:
        self._facts, self._base = facts, self._step

    @property
    def left(self) -> tuple[str, ...]:
        """Sites that were in at first and are out for good (`on_dropout: continue`)."""
        return tuple(sorted(set(self.roster.sites) - set(self.sites)))

    # -- operations ---------------------------------------------------------------------------------------------------

    async def sum(self, contribution: BoundContribution[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        """The sum of a contribution over the sites, as the type that the contribution returns."""
        leaves, opened = await self._open("sum", contribution, arguments)
        return contribution.rebuild(exact.decode(opened, leaves))

    async def mean(self, contribution: BoundContribution[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        """The patient-weighted mean of a contribution: numerator and denominator are both sums."""
        leaves, opened = await self._open("mean", contribution, arguments)
        tree = exact.decode(opened, leaves)
        weight = tree.pop(WEIGHT)
        return contribution.rebuild({name: value / weight for name, value in tree.items()})

    async def tell(self, receipt: BoundReceipt[P], *arguments: P.args, **_: P.kwargs) -> None:
        """Broadcast; nothing comes back. What a site makes of it stays at the site. A site that is away misses it."""
        ask = self._ask("tell", receipt.method, receipt.name, arguments)
        if self._replayed("told", ask) is not None:
            return
        self._notify("step", ask)
        await self._send(ask, Tell(ask))
        self.journal.write(
            "told", {"question": ask.question, "name": ask.contribution}, epoch=self.epoch, step=ask.step
        )

    async def collect(self, contribution: BoundContribution[P, T], *arguments: P.args, **_: P.kwargs) -> list[T]:
        """Individual contributions, visible: refused by every site's default policy."""
        ask = self._ask("collect", contribution.method, contribution.name, arguments)
        await self._refused(ask)
        raise ProtocolError(
            "A site answered a `collect`, which this version of the coordinator does not carry.",
            rule="allowed-operations",
            remedy="Use federation.sum; sites' policies allow sum and tell.",
        )

    async def align(self, identifiers: BoundContribution[P, T], *arguments: P.args, **_: P.kwargs) -> None:
        """Private set intersection of patient identifiers: refused by every site's default policy."""
        await self._refused(self._ask("align", identifiers.method, identifiers.name, arguments))

    # -- durable state of a method -------------------------------------------------------------------------------------

    def snapshot(self, state: Tree) -> None:
        """Write down a method's state; a re-run begins from here (`restored`), and earlier sums are pruned."""
        replayed = self.journal.last("snapshot", epoch=self.epoch)
        if replayed is not None and replayed.step >= self._step:
            return
        record = self.journal.write("snapshot", {"state": state}, epoch=self.epoch, step=self._step)
        self.journal.prune(record, from_step=self._base)

    def restored(self) -> Tree | None:
        """The last snapshot's state, or None; to be called by a method before its first step after the cohort's."""
        record = self.journal.last("snapshot", epoch=self.epoch)
        if record is None or record.body is None:
            return None
        self._step = max(self._step, record.step)
        return record.body["state"]

    # -- one step -----------------------------------------------------------------------------------------------------

    async def _open(
        self, operation: Operation, contribution: BoundContribution[..., Any], arguments: Sequence[Any]
    ) -> Any:
        ask = self._ask(operation, contribution.method, contribution.name, arguments)
        leaves = leaves_of(operation, contribution, self.facts, tuple(arguments))
        record = self._replayed("opened", ask)
        if record is not None:
            assert record.body is not None
            self._notify("replayed", ask)
            return leaves, np.asarray(record.body["words"], np.uint64)
        self._notify("step", ask)
        length = exact.length(leaves)
        with self._alone(ask):
            opened = await self._until_opened(ask, length)
        self.journal.write(
            "opened",
            {
                "question": ask.question,
                "name": ask.contribution,
                "method": ask.method,
                "words": opened.words,
                "participants": list(opened.participants),
                "recovered": list(opened.recovered),
                "first_bytes": dict(opened.first_bytes),
                "leaves": {
                    k: {"rule": v.rule, "shape": list(v.shape), "meaning": v.meaning} for k, v in leaves.items()
                },
            },
            epoch=self.epoch,
            step=ask.step,
        )
        self.journal.forget_pending(self.epoch, ask.step)
        self._notify("opened", ask, words=length)
        await self._close(ask)
        return leaves, opened.words

    @contextmanager
    def _alone(self, ask: Ask) -> Iterator[None]:
        """Steps are in program order: two at once would be numbered by chance, and a replay could not follow."""
        if self._busy:
            raise MethodError(
                f"{ask.method!r} asks for {ask.contribution!r} while another of its sums is open.",
                rule="one-step-at-a-time",
                remedy="Await one sum before asking for the next; several leaves can travel in one contribution.",
            )
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def _until_opened(self, ask: Ask, length: int) -> Opened:
        """Attempts, until one opens or the deadline passes."""
        on_dropout = self.question.study.participation.on_dropout
        failures = 0
        try:
            async with asyncio.timeout(self.deadline):
                opened = await self._finish_pending(ask)
                while opened is None:
                    ask = self._next_attempt(ask)
                    try:
                        opened = await self._attempt(ask, length)
                    except Incomplete as incomplete:
                        if on_dropout == "abort":
                            raise _stopped(incomplete.lost, ask, "on_dropout is `abort`") from incomplete
                        failures += 1
                        await self._return_of(incomplete, ask, failures)
                        opened = await self._finish_pending(ask)
        except TimeoutError as error:
            opened = self._round.unmasked(ask, self._round.waiting)
            if opened is not None:
                return opened
            late = dict.fromkeys(sorted(self._round.waiting), "deadline")
            missing = self._away | late or self._missing
            if on_dropout == "continue" and missing:
                raise self._leave(ask, missing) from error
            raise _stopped(missing, ask, f"the deadline of {self.deadline:g} s passed") from error
        return opened

    async def _attempt(self, ask: Ask, length: int) -> Opened:
        if ask.hide == "none":
            return await self._round.plain(ask, length)
        return await self._round.secagg(ask, length)

    async def _finish_pending(self, ask: Ask) -> Opened | None:
        """If the step's masked sum is on disk, ask for the same unmasking again; None if too few sites can give it."""
        record = self.journal.last("pending", epoch=self.epoch, step=ask.step)
        if record is None or record.body is None:
            return None
        session = AggregatorSession.restore(record.body["session"], self.roster)
        try:
            return await self._round.unmask(ask, session, record.body["first_bytes"])
        except Incomplete as incomplete:
            self._missing = incomplete.lost
            return None

    async def _return_of(self, incomplete: Incomplete, ask: Ask, failures: int) -> None:
        """Until every lost site has a link again."""
        self._missing, self._away = incomplete.lost, dict(incomplete.lost)
        body = {"name": ask.contribution, "method": ask.method, "sites": dict(incomplete.lost)}
        self.journal.write("waited", body, epoch=self.epoch, step=ask.step)

        async def back(site: str) -> None:
            self._notify("waiting", ask, site)
            await self.exchange.online(site)
            del self._away[site]
            self._notify("returned", ask, site)

        await together(back(site) for site in sorted(incomplete.lost))
        if failures > 1:
            await asyncio.sleep(min(FIRST_PAUSE_S * 2.0 ** (failures - 2), LONGEST_PAUSE_S))

    def _leave(self, ask: Ask, missing: Mapping[str, str]) -> SiteLeft:
        """Those who stayed begin anew; the ones missing at the deadline are out for good. An error, and nothing is written
        down, if those who stayed are too few: the same command can still wait for the others."""
        stayed = tuple(s for s in self.sites if s not in missing)
        _parameters(stayed, self.question.study)
        for site in sorted(missing):
            self._notify("left", ask, site)
        self.journal.write("epoch", {"stayed": list(stayed), "left": dict(missing)}, epoch=self.epoch + 1)
        return SiteLeft(stayed)

    async def _close(self, ask: Ask) -> None:
        """Tell the sites that the step is opened and stored. Losing this message loses nothing."""
        await self._send(ask, Close(ask.key))

    async def _send(self, ask: Ask, message: Tell | Close) -> None:
        """To every site; one that is away, or does not answer in time, misses it."""

        async def one(site: str) -> None:
            try:
                async with asyncio.timeout(min(self.deadline, PATIENCE_S)):
                    await self.exchange.request(site, message)
            except (LinkLost, TimeoutError):
                self._notify("lost", ask, site)

        await together(one(site) for site in ask.sites)

    async def _refused(self, ask: Ask) -> None:
        """Ask the first site, so that its own policy answers."""
        await self.exchange.request(self.sites[0], Tell(ask))

    # -- asks ---------------------------------------------------------------------------------------------------------

    def _ask(self, operation: Operation, method: Any, name: str, arguments: Sequence[Any]) -> Ask:
        step, self._step = self._step, self._step + 1
        self._missing, self._away = {}, {}
        # What the sites get is what the digest is over, and nobody can change it later: a read-only copy.
        fixed = unpack(pack(list(arguments)))
        return Ask(
            run=self.question.run,
            study=self.study_digest,
            analysis=self.question.analysis,
            method=method.name,
            version=method.version,
            operation=operation,
            contribution=name,
            step=step,
            epoch=self.epoch,
            attempt=0,
            sites=self.sites,
            hide=self.question.study.protection.hide,
            encoding="exact",
            facts=self.facts,
            arguments=fixed,
        )

    def _next_attempt(self, ask: Ask) -> Ask:
        """A number never used before, also by a run that was killed: written down before the ask goes out."""
        before = self.journal.last("attempt", epoch=self.epoch, step=ask.step)
        number = 1 if before is None or before.body is None else int(before.body["attempt"]) + 1
        self.journal.write("attempt", {"attempt": number, "question": ask.question}, epoch=self.epoch, step=ask.step)
        self._notify("attempt", ask)
        return replace(ask, attempt=number)

    def _replayed(self, kind: str, ask: Ask) -> Record | None:
        """The record of this step; a replay that asks something else has diverged and must not go on."""
        found = [self.journal.last(k, epoch=self.epoch, step=ask.step) for k in ("opened", "told")]
        record = next((r for r in found if r is not None), None)
        if record is None:
            return None
        asked = record.body if record.kind == kind else None
        same = asked is not None and (
            asked["question"] == ask.question or (not self.strict and asked["name"] == ask.contribution)
        )
        if not same:
            recorded = record.body["name"] if record.body else "a pruned step"
            raise JournalError(
                f"Step {ask.step} of {ask.analysis!r} asked for {recorded!r} when it was opened, and now asks something "
                f"else ({ask.contribution!r}): the replay has diverged.",
                rule="deterministic-replay",
                remedy="Run it in the environment in which it was begun (same packages, same processor), or begin anew with --fresh.",
            )
        return record

    def _notify(self, kind: Kind, ask: Ask, site: str = "", words: int = 0) -> None:
        self._timed(Event(kind, ask.analysis, ask.step, f"{ask.method}.{ask.contribution}", site, words=words))

    def _timed(self, event: Event) -> None:
        seconds = monotonic() - self.began
        self.observer(replace(event, seconds=seconds))


def _parameters(sites: tuple[str, ...], study: Study) -> Parameters | None:
    """How many of these sites must stay; None where nothing is hidden. An error if no sum over them may be opened."""
    if len(sites) < study.release.min_sites:
        raise ParticipationError(
            f"{len(sites)} site{'s' if len(sites) != 1 else ''} can take part ({', '.join(sites) or 'none'}); "
            f"a sum is opened over {study.release.min_sites} or more.",
            rule="min_sites",
            remedy="Invite more sites. With fewer, a sum would show one hospital's part to another.",
        )
    if study.protection.hide == "none":
        return None
    return threshold(len(sites), study.protection.colluding, study.release.min_sites)


def _stopped(missing: Mapping[str, str], ask: Ask, why: str) -> ParticipationError:
    names = ", ".join(f"{site} (at {phase})" for site, phase in sorted(missing.items())) or "some sites"
    return ParticipationError(
        f"Step {ask.step} of {ask.analysis!r} ({ask.method}.{ask.contribution}) stopped: {why} while waiting for {names}.",
        rule="on_dropout",
        remedy="Run the same command again when the site is back: every opened sum is kept and the fit goes on there.",
    )
