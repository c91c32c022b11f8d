"""A few sites on a bench: permits signed, data admitted, and a coordinator that may send them any message, honest or not."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import engine
from unisono.errors import UnisonoError
from unisono.federation.ask import Ask, leaves_of
from unisono.federation.contribution import Facts
from unisono.federation.exchange import Advertise, Agree, Close, Closes, Mask, Message, NewSlot, Reveal, Share
from unisono.protection.encoding import exact
from unisono.protection.encoding.codec import codec
from unisono.protection.leaves import Leaf
from unisono.protection.prg import Words
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.group import Group, group_of
from unisono.protection.secagg.messages import SealedInbox, Unmask
from unisono.protection.secagg.parameters import derive
from unisono.protection.secagg.roster import Roster
from unisono.protection.secagg.setup import Drawing, SlotSetup
from unisono.site.agent import Site
from unisono.site.data.snapshot import freeze
from unisono.site.home import Home
from unisono.site.permit import Permit, propose
from unisono.site.policy import Policy
from unisono.site.worker import LocalWorker, method_of
from unisono.study.document import Study

START = datetime(2024, 6, 7, 12, tzinfo=UTC)
ODDS = "odds"


class Bench:
    """Sites by name, each with its folder, over a study whose analysis is the logistic model `ODDS` (or the study given).

    policy: every site's. alter: changes the permit before a site signs it. frames: the patients of each site. started:
    the sites that are there at all (every one); the others are names in the roster.
    """

    def __init__(
        self,
        folder: Path,
        study: Study | None = None,
        sites: Sequence[str] = engine.SITES,
        *,
        policy: Policy | None = None,
        alter: Callable[[Permit], Permit] = lambda permit: permit,
        frames: Mapping[str, Any] | None = None,
        started: Sequence[str] | None = None,
    ) -> None:
        self.study = study or engine.study(ODDS)
        self.policy = policy or Policy(updates_threat="semi-honest")  # the protocol is tested under both
        self.alter = alter
        self.now = START
        self.run = secrets.token_hex(8)
        self.names = tuple(sorted(sites))
        self.frames = dict(frames or {name: engine.frame(name) for name in self.names})
        self.homes = {name: Home(folder / name) for name in self.names}
        self.roster = Roster({name: home.identity().public for name, home in self.homes.items()})
        self.sites: dict[str, Site] = {}
        self.patients = sum(len(frame) for frame in self.frames.values())
        for name in started or self.names:
            self.start(name)

    def start(self, name: str) -> Site:
        """(Re)start a site from its folder."""
        if name in self.sites:
            self.sites[name].close()
        home = self.homes[name]
        self.sites[name] = Site(name, home.path, home.identity(), self.policy, clock=lambda: self.now)
        self.admit(name, self.roster)
        return self.sites[name]

    def admit(self, name: str, roster: Roster) -> None:
        """A site takes up the study, under a permit that pins this roster."""
        permit = self.alter(propose(self.study, roster, name, self.now, verified=roster.sites)).signed(
            self.homes[name].identity()
        )
        self.sites[name].admit(self.study, permit, roster, self.worker(name))

    def close(self) -> None:
        for site in self.sites.values():
            site.close()

    def later(self, days: float) -> None:
        """The clock of every site moves on."""
        self.now += timedelta(days=days)

    # -- asks ---------------------------------------------------------------------------------------------------------

    def totals(self, **changes: Any) -> Ask:
        """An honest ask, for the first sum of the logistic model."""
        asked = Ask(
            run=self.run,
            study=self.study.digest(),
            analysis=ODDS,
            method="glm",
            version=1,
            operation="sum",
            contribution="totals",
            step=1,
            epoch=0,
            attempt=1,
            sites=self.names,
            hide=self.study.protection.hide,
            encoding="exact",
            facts=Facts(self.patients),
            arguments=[],
        )
        return replace(asked, **changes)

    def gradient(self, beta: Sequence[float] = (0.1, 0.2, -0.1), **changes: Any) -> Ask:
        """An honest ask, for the score and information at `beta`."""
        asked = self.totals(contribution="normal_equations", step=2, arguments=[np.array(beta), 0.0])
        return replace(asked, **changes)

    # -- messages -----------------------------------------------------------------------------------------------------

    def send(self, site: str, message: Message) -> Any:
        return self.sites[site].answer(message)

    def refusal(self, site: str, message: Message) -> UnisonoError:
        """The error with which a site refuses; a failure if it answers."""
        try:
            self.send(site, message)
        except UnisonoError as error:
            return error
        raise AssertionError(f"{site} answered {message.phase}")

    def group(self, ask: Ask) -> Group:
        """The coordinator's view of an ask's frozen set."""
        rules, n = self.study.protection, len(ask.sites)
        parameters = derive(n, rules.colluding, self.study.release.min_sites, hide=rules.hide, threat=rules.threat)
        return group_of(ask.run, ask.epoch, ask.sites, self.roster, parameters)

    def new_setup(self, ask: Ask) -> SlotSetup:
        """A fresh slot for an ask's circle, at the coordinator."""
        return SlotSetup(Drawing(self.group(ask)), f"{ask.analysis}/{ask.epoch}/{secrets.token_hex(8)}", ask.to)

    def advertised(self, ask: Ask) -> SlotSetup:
        """A fresh slot, with keys of every site."""
        setup = self.new_setup(ask)
        for site in ask.sites:
            setup.collect_advertise(self.send(site, Advertise(ask.circle, NewSlot(setup.slot, ask.to))))
        return setup

    def setup(self, ask: Ask) -> SlotSetup:
        """A fresh slot, with keys and shares of every site."""
        setup = self.advertised(ask)
        keys = setup.key_roster()
        for site in ask.sites:
            setup.collect_shares(self.send(site, Share(ask.circle, keys)))
        return setup

    def leaves(self, ask: Ask) -> dict[str, Leaf]:
        bound = getattr(method_of(self.study, ask), ask.contribution)
        return leaves_of(ask.operation, bound, ask.facts, tuple(ask.arguments))

    def length(self, ask: Ask) -> int:
        return codec(ask.encoding).length(self.leaves(ask))

    def question(self, ask: Ask, setup: SlotSetup, site: str) -> Mask:
        return Mask(ask, setup.slot, setup.inbox_for(site))

    def bare(self, ask: Ask, site: str = "turin") -> Mask:
        """A question for which no keys were made: what is asked is checked before they are looked for."""
        return Mask(ask, "no-slot", SealedInbox(site, ask.run, "no-slot", ask.sites, {}))

    def masked(self, asks: Mapping[str, Ask] | Ask) -> AggregatorSession:
        """Messages A to C, every site asked what `asks` says; collected by a coordinator who asked what the first was."""
        if isinstance(asks, Ask):
            asks = dict.fromkeys(asks.sites, asks)
        first = next(iter(asks.values()))
        setup = self.setup(first)
        session = self.session(setup, first)
        for site, ask in asks.items():
            session.collect_masked(self.send(site, self.question(ask, setup, site)).part)
        return session

    def session(self, setup: SlotSetup, ask: Ask) -> AggregatorSession:
        """The coordinator's half of one sum in a slot that is set up."""
        return AggregatorSession(setup, ask.digest, self.length(ask), codec(ask.encoding).dtype)

    def reveal(self, ask: Ask, request: Unmask) -> Reveal:
        return Reveal(ask.key, request)

    def agreed(self, ask: Ask, session: AggregatorSession) -> Unmask:
        """The request to unmask, signed where the threat is malicious."""
        request = session.unmask_request()
        if session.group.malicious:
            for site in session.survivors:
                session.collect_agreement(self.send(site, Agree(ask.key, request)))
        return session.agreed_request()

    def opened(self, ask: Ask, session: AggregatorSession | None = None, *, close: bool = True) -> Words:
        """The sum, opened as an honest coordinator opens it."""
        session = session or self.masked(ask)
        request = self.agreed(ask, session)
        for site in session.survivors:
            session.collect_unmask(self.send(site, self.reveal(ask, request)).shares)
        words = session.open()
        if close:
            for site in ask.sites:
                self.send(site, Close(Closes(ask.key)))
        return words

    def true_sum(self, ask: Ask) -> Words:
        """What the sites' parts of a sum of statistics add up to, from their data."""
        leaves = self.leaves(ask)
        parts = [exact.encode(self.worker(site).contribution(ask, {}).tree, leaves) for site in ask.sites]
        total: Words = np.add.reduce(parts)
        return total

    def worker(self, site: str) -> LocalWorker:
        """A worker over a site's data, beside the site's own."""
        snapshot = freeze(self.frames[site], None, self.study, site)
        return LocalWorker(self.study, snapshot, self.homes[site].secret())


def audit(site: Site) -> list[dict[str, Any]]:
    """The events of a site's audit log."""
    return [json.loads(line) for line in (site.home / "audit.jsonl").read_text("utf-8").splitlines()]


def refused(bench: Bench, site: str, message: Message, kind: type[UnisonoError], rule: str) -> UnisonoError:
    """The site refuses, by this rule; says where and what to do; and writes it down."""
    error = bench.refusal(site, message)
    assert (type(error), error.rule) == (kind, rule)
    assert error.where is not None
    assert error.where.startswith(f"site {site}")
    assert error.remedy
    last = audit(bench.sites[site])[-1]
    assert (last["event"], last["phase"], last["rule"]) == ("refused", message.phase, rule)
    return error
