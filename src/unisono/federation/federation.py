"""The privileged operations: `sum`, `mean` and `tell` over a set of sites, each a step in program order.

A method's coordinator half gets nothing but this object. Every opened sum is in the journal before the method sees it; a
re-run is answered from there, so that a step is opened once, ever. What happens when a site is lost before its masked
input is the study's `on_dropout` rule; when lost after it, the site's part counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, ParamSpec, TypeVar

import numpy as np

from unisono.errors import MethodError, ParticipationError
from unisono.federation import history
from unisono.federation.ask import WEIGHT, Ask, Operation, collected, leaves_of, opened_tree
from unisono.federation.attempts import Attempts, parameters_of
from unisono.federation.contribution import BoundContribution, BoundReceipt, Facts
from unisono.federation.events import Event, Kind, Observer, nobody
from unisono.federation.exchange import Close, Closes, Exchange, Key, LinkLost, Tell
from unisono.federation.journal import Journal, Record
from unisono.federation.rounds import Round
from unisono.federation.slots import Slots
from unisono.federation.tree import Tree, pack, unpack
from unisono.federation.waiting import together
from unisono.protection.encoding.codec import codec, encoding_of
from unisono.protection.leaves import Leaf
from unisono.protection.prg import Words
from unisono.protection.secagg.group import Group, group_of
from unisono.protection.secagg.parameters import Parameters
from unisono.protection.secagg.roster import Roster
from unisono.study.document import Study
from unisono.study.units import duration

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE_S = 30.0
"""For messages that a sum does not depend on, unless the method says more: a site that hangs misses them."""


@dataclass(frozen=True)
class Question:
    """What identifies the asks of one analysis of one run."""

    study: Study
    run: str
    analysis: str


class Federation:
    """The federated operations of one analysis. `facts` is set once the cohort has been opened.

    patience: seconds that a `tell` waits for what sites make of it. counted: the sites in the sum that was opened last; behind:
    the patients behind it, if it was a mean.
    """

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
        self._since: list[history.OpenedSum] = []
        self.patience = PATIENCE_S
        self.counted: tuple[str, ...] = ()
        self.behind = 0
        self.parameters = parameters_of(self.sites, study)
        slots = None if self.parameters is None else Slots(self._group(self.parameters), journal)
        least, last = study.release.min_sites, self._last_opened()
        self._round = Round(
            exchange, slots, journal, self._timed, least, last, history.counted_before(journal, self.epoch)
        )
        self._attempts = Attempts(exchange, self._round, roster, journal, study, self.deadline, self._notify)

    def _group(self, parameters: Parameters) -> Group:
        return group_of(self.question.run, self.epoch, self.sites, self.roster, parameters)

    def _last_opened(self) -> Key | None:
        """The step that a run which was stopped had opened last: the sites may not know yet that it is over."""
        record = self.journal.last("opened", epoch=self.epoch)
        known = record is None or self.journal.last("finished") is not None
        return None if known or record is None else (self.question.run, self.question.analysis, self.epoch, record.step)

    @property
    def stragglers_after(self) -> float | None:
        """Seconds after which a sum of model updates goes on without sites that have not answered, if enough have; None waits for
        all that have a link."""
        return self._round.stragglers_after

    @stragglers_after.setter
    def stragglers_after(self, seconds: float | None) -> None:
        self._round.stragglers_after = seconds

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

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is on record of sites that sent what no site of ours sends. No proof: not every message is signed."""
        found = {(r.body["site"], r.body["rule"]) for r in self.journal.all("misbehaved") if r.body is not None}
        return tuple(
            f"{site} gave a wrong share of a secret, or was dealt one by another hospital; the sum was opened without it."
            if rule == "wrong-share"
            else f"A message from {site} could not be used ({rule}); the numbers are right without it."
            for site, rule in sorted(found)
        )

    # -- operations ---------------------------------------------------------------------------------------------------

    async def sum(self, contribution: BoundContribution[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        """The sum of a contribution over the sites, as the type that the contribution returns."""
        return contribution.rebuild(await self._opened_tree("sum", contribution, arguments))

    async def mean(self, contribution: BoundContribution[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        """The patient-weighted mean of a contribution: numerator and denominator are both sums."""
        return contribution.rebuild(await self._opened_tree("mean", contribution, arguments))

    async def sum_to(
        self,
        site: str,
        receipt: BoundReceipt[[T]],
        contribution: BoundContribution[P, T],
        *arguments: P.args,
        **_: P.kwargs,
    ) -> None:
        """The sum of a contribution, read by one site alone, which hands it to `receipt`; the coordinator sees it masked.

        The recipient can subtract its own part: behind each number there must be two other contributors at least, or noise
        (docs/secure-aggregation.md, *A sum to a site*). Without the recipient nothing is opened.
        """
        if site not in self.sites or self.question.study.protection.hide == "none":
            raise ParticipationError(
                f"A sum cannot be read by {site!r} alone in this study.",
                rule="recipient",
                remedy=f"Name one of {', '.join(self.sites)}, under `protection: {{hide: secagg}}`.",
            )
        ask, leaves = self._encoded("sum", contribution, arguments)
        await self._open(replace(ask, to=site, receipt=receipt.name), leaves)

    async def tell(self, receipt: BoundReceipt[P], *arguments: P.args, **_: P.kwargs) -> None:
        """Broadcast; nothing comes back. What a site makes of it stays at the site. A site that is away misses it."""
        ask = self._ask("tell", receipt, arguments)
        if self._replayed("told", ask) is not None:
            return
        self._notify("step", ask)
        await self._send(ask.sites, lambda site: Tell(ask, self._round.closes(site)), self.patience)
        self.journal.write(
            "told", {"question": ask.question, "name": ask.contribution}, epoch=self.epoch, step=ask.step
        )

    async def collect(self, contribution: BoundContribution[P, T], *arguments: P.args, **_: P.kwargs) -> list[T]:
        """Every site's own part, in the order of `sites`. The coordinator sees each: refused by a site's default policy, and
        answered only where its permit says so."""
        return await self._collected("", contribution, arguments)

    async def collect_from(
        self, site: str, contribution: BoundContribution[P, T], *arguments: P.args, **_: P.kwargs
    ) -> T:
        """`collect` of one of `sites` alone."""
        if site not in self.sites:
            raise _no_such_site(site, self.sites)
        (part,) = await self._collected(site, contribution, arguments)
        return part

    async def _collected(self, of: str, contribution: BoundContribution[..., T], arguments: Sequence[Any]) -> list[T]:
        ask = replace(self._ask("collect", contribution, arguments), of=of)
        record = self._replayed("collected", ask)
        if record is None:
            self._notify("step", ask)
            with self._alone(ask):
                parts = await self._attempts.until_collected(ask)
            record = self.journal.write(
                "collected",
                {
                    "question": ask.question,
                    "name": ask.contribution,
                    "method": ask.method,
                    "parts": parts,
                    "leaves": history.leaves_said(contribution.declaration(self.facts, *ask.arguments).leaves),
                },
                epoch=ask.epoch,
                step=ask.step,
            )
            self._round.closed = ask.key
            self._notify("opened", ask, words=sum(part.size for part in parts.values()) // 8)
        assert record.body is not None  # never pruned
        leaves = contribution.declaration(self.facts, *arguments).leaves
        self.counted = tuple(sorted(record.body["parts"]))
        return [
            contribution.rebuild(collected(part, leaves, site)) for site, part in sorted(record.body["parts"].items())
        ]

    async def align(self, identifiers: BoundContribution[P, T], *arguments: P.args, **_: P.kwargs) -> None:
        """Private set intersection of patient identifiers: refused by every site's default policy."""
        await self._refused(self._ask("align", identifiers, arguments))

    # -- durable state of a method -------------------------------------------------------------------------------------

    def snapshot(self, state: Tree) -> None:
        """Write down a method's state; a re-run begins from here (`restored`), and the words of earlier sums are dropped."""
        written = self.journal.last("snapshot", epoch=self.epoch)
        if written is not None and written.step >= self._step:
            return
        self.journal.write("sums", history.sums_body(self._since), epoch=self.epoch, step=self._step, soon=True)
        body = {"state": state, "counted": dict(self._round.counted)}
        record = self.journal.write("snapshot", body, epoch=self.epoch, step=self._step)
        self.journal.prune(record, from_step=self._base)
        self._since.clear()

    def restored(self) -> Tree | None:
        """The last snapshot's state, or None; to be called by a method before its first step after the cohort's."""
        record = self.journal.last("snapshot", epoch=self.epoch)
        if record is None or record.body is None:
            return None
        self._step = max(self._step, record.step)
        return record.body["state"]

    # -- one step -----------------------------------------------------------------------------------------------------

    async def _opened_tree(
        self, operation: Operation, contribution: BoundContribution[..., Any], arguments: Sequence[Any]
    ) -> dict[str, Any]:
        ask, leaves = self._encoded(operation, contribution, arguments)
        words = await self._open(ask, leaves)
        decoded = codec(ask.encoding).decode(words, leaves, len(self.sites))
        if decoded.clipped:
            self._notify("clipped", ask, words=decoded.clipped)
        self.behind = int(decoded.tree[WEIGHT]) if operation == "mean" else 0
        return opened_tree(operation, leaves, self.facts, decoded.tree)

    def _encoded(
        self, operation: Operation, contribution: BoundContribution[..., Any], arguments: Sequence[Any]
    ) -> tuple[Ask, dict[str, Leaf]]:
        """The next ask, in the encoding of what is asked for; only model updates may be summed over fewer sites."""
        ask = self._ask(operation, contribution, arguments)
        leaves = leaves_of(operation, contribution, self.facts, tuple(arguments))
        encoding = encoding_of(leaves)
        return replace(ask, encoding=encoding, partial=encoding == "fixed32"), leaves

    async def _open(self, ask: Ask, leaves: Mapping[str, Leaf]) -> Words:
        """The step's opened words: from the journal, or asked for. For a sum to a site they stay masked, and are no one's."""
        record = self._replayed("opened", ask)
        if record is not None:
            assert record.body is not None
            self._since.append(history.opened_sum(record))
            self._notify("replayed", ask)
            self.counted = tuple(record.body["participants"])
            words: Words = np.asarray(record.body["words"])
            return words
        self._notify("step", ask)
        length = codec(ask.encoding).length(leaves)
        with self._alone(ask):
            opened = await self._attempts.until_opened(ask, length)
        record = self.journal.write(
            "opened",
            history.opened_body(ask, opened, leaves),
            epoch=ask.epoch,
            step=ask.step,
            soon=True,  # the next attempt is written before any site is told that this step is over; until then it can be asked again
        )
        self._since.append(history.opened_sum(record))
        self.journal.forget_pending(self.epoch, ask.step)
        # The news rides along with the next question, or is sent at the end.
        self.counted, self._round.closed = tuple(opened.participants), ask.key
        self._round.counted.update(dict.fromkeys(opened.participants, ask.step))
        self._notify("opened", ask, words=opened.words.size)
        return opened.words

    async def finish(self) -> None:
        """The analysis is answered: tell the sites that the last step is over. Losing this message loses nothing."""
        news = {site: self._round.closes(site) for site in self.sites}
        if self._round.closed is not None:
            self.journal.flush()
            await self._send(self.sites, lambda site: _close(news[site]), PATIENCE_S)
        self._round.closed = None

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

    async def _send(self, sites: Iterable[str], message: Callable[[str], Tell | Close], patience: float) -> None:
        """To these sites; one that is away, or does not answer in time, misses it."""

        async def one(site: str) -> None:
            sent = message(site)
            try:
                async with asyncio.timeout(min(self.deadline, patience)):
                    await self.exchange.request(site, sent)
            except (LinkLost, TimeoutError):
                self._timed(Event("lost", self.question.analysis, name=sent.phase, site=site))

        await together(one(site) for site in sites)

    async def _refused(self, ask: Ask) -> None:
        """Ask the first site, so that its own policy answers."""
        await self.exchange.request(self.sites[0], Tell(ask))

    # -- asks ---------------------------------------------------------------------------------------------------------

    def _ask(
        self, operation: Operation, named: BoundContribution[..., Any] | BoundReceipt[...], arguments: Sequence[Any]
    ) -> Ask:
        step, self._step = self._step, self._step + 1
        # What the sites get is what the digest is over, and nobody can change it later: a read-only copy.
        fixed = unpack(pack(list(arguments)))
        return Ask(
            run=self.question.run,
            study=self.study_digest,
            analysis=self.question.analysis,
            method=named.method.name,
            version=named.method.version,
            operation=operation,
            contribution=named.name,
            step=step,
            epoch=self.epoch,
            attempt=0,
            sites=self.sites,
            hide=self.question.study.protection.hide,
            encoding="exact",
            facts=self.facts,
            arguments=fixed,
        )

    def _replayed(self, kind: str, ask: Ask) -> Record | None:
        return history.replayed(self.journal, kind, ask, strict=self.strict)

    def _notify(self, kind: Kind, ask: Ask, site: str = "", words: int = 0) -> None:
        self._timed(Event(kind, ask.analysis, ask.step, f"{ask.method}.{ask.contribution}", site, words=words))

    def _timed(self, event: Event) -> None:
        seconds = monotonic() - self.began
        self.observer(replace(event, seconds=seconds))


def _close(closes: Closes | None) -> Close:
    assert closes is not None  # something was opened
    return Close(closes)


def _no_such_site(of: str, sites: tuple[str, ...]) -> ParticipationError:
    return ParticipationError(
        f"There is no site {of!r} to collect from.",
        rule="collect-sites",
        remedy=f"Name one of {', '.join(sites)}, or none for all.",
    )
