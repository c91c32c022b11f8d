"""One study over sites in this process: sites with their folders, identities, permits and data; a journal an analysis.

The same command again replays what is journalled and goes on; it is refused if the study, the sites or the data changed.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from unisono.engines.analysis import Place, answer_analysis
from unisono.engines.embedded.exchange import EmbeddedExchange, Fault
from unisono.engines.embedded.folder import Folder
from unisono.engines.embedded.outcome import Outcome, with_remarks
from unisono.engines.environment import environment
from unisono.errors import ParticipationError, StudyError, UnisonoError
from unisono.federation.attempts import parameters_of
from unisono.federation.events import Event, Observer, nobody
from unisono.protection.secagg.roster import Roster
from unisono.site.agent import Site
from unisono.site.data.snapshot import Snapshot, Source, freeze
from unisono.site.home import Home
from unisono.site.permit import propose
from unisono.site.policy import Policy, simulation_policy
from unisono.site.worker import LocalWorker
from unisono.study.document import Study


@dataclass(frozen=True)
class SiteData:
    """What one site holds: a file (CSV, Parquet) or a DataFrame, and a mapping file where it does not speak the study's words."""

    source: Source = field(repr=False)  # may be patients
    mapping: Path | str | dict[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """Everything that running a study left behind."""

    study: Study
    sites: tuple[str, ...]
    out: Path
    outcomes: dict[str, Outcome]
    snapshots: dict[str, Snapshot]
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """How to run: which analyses (all), what goes wrong on purpose, whose policy, who watches."""

    analyses: Sequence[str] | None = None
    faults: Sequence[Fault] = ()
    policy: Policy = field(default_factory=simulation_policy)
    observer: Observer = nobody
    fresh: bool = False


def run_study(study: Study, data: Mapping[str, SiteData], out: Path, settings: Settings) -> Run:
    """Answer the study's analyses one after the other. An analysis that fails does not stop the others; a site or a study
    that cannot begin stops everything, with nothing lost."""
    if not data:
        raise ParticipationError(
            "No site was given.", rule="min_sites", remedy="Name sites with their data, three or more."
        )
    parameters_of(tuple(sorted(data)), study)  # refused here if they are too few for any sum, before anything is read
    chosen = _chosen(study, settings.analyses)
    folder = Folder(out)
    try:
        if settings.fresh:
            _forget(out, study)
        # A thread a site; a linear algebra library that adds its own makes sums depend on how many are free.
        with threadpool_limits(limits=1):
            return _run(study, data, out, settings, chosen)
    finally:
        folder.close()


def _run(study: Study, data: Mapping[str, SiteData], out: Path, settings: Settings, chosen: Sequence[str]) -> Run:
    hospitals = _Hospitals(study, data, out, settings)
    events: list[Event] = []
    try:
        hospitals.open()
        outcomes = with_remarks(study, {name: asyncio.run(hospitals.answer(name, events)) for name in chosen})
    finally:
        hospitals.close()
    return Run(study, tuple(sorted(data)), out, outcomes, hospitals.snapshots, events)


def _chosen(study: Study, names: Sequence[str] | None) -> list[str]:
    for name in names or ():
        if name not in study.analyses:
            raise StudyError(
                f"The study has no analysis {name!r}.",
                rule="known-analyses",
                remedy=f"Its analyses are {', '.join(study.analyses)}.",
            )
    return list(names or study.analyses)


def _forget(out: Path, study: Study) -> None:
    """--fresh: the runs and the simulated sites' memories of this folder."""
    ours = [(name, "journal.db") for name in study.analyses] + [("sites", "*/identity.key")]
    for name, sign in ours:
        if any((out / name).glob(sign)):  # a folder of the user's that happens to have the name stays
            shutil.rmtree(out / name)


def _frozen(name: str, given: SiteData, study: Study) -> Snapshot:
    """A site's data; what is wrong with it is said with the site's name."""
    try:
        return freeze(given.source, given.mapping, study, name)
    except UnisonoError as error:
        error.where = f"site {name}" if error.where is None else f"site {name}, {error.where}"
        raise


class _Hospitals:
    """The sites of a run, built from their folders, and built again after a crash."""

    def __init__(self, study: Study, data: Mapping[str, SiteData], out: Path, settings: Settings) -> None:
        self.study = study
        self.out = out
        self.settings = settings
        self.homes = {name: Home(out / "sites" / name) for name in sorted(data)}
        for home in self.homes.values():
            home.make()
        self.roster = Roster({name: home.identity().public for name, home in self.homes.items()})
        self.snapshots = {name: _frozen(name, given, study) for name, given in sorted(data.items())}
        self.sites: dict[str, Site] = {}

    def open(self) -> None:
        """Take up the study at every site."""
        for name in self.homes:
            self._site(name)

    def _site(self, name: str) -> Site:
        home = self.homes[name]
        site = Site(name, home.path, home.identity(), self.settings.policy)
        self.sites[name] = site
        self.settings.policy.check_study(self.study)
        permit = home.permit(self.study, self.roster)
        if permit is None:
            permit = propose(self.study, self.roster, name, site.clock()).signed(site.identity)
            home.keep(permit)
        site.admit(self.study, permit, self.roster, LocalWorker(self.study, self.snapshots[name], home.secret()))
        return site

    async def answer(self, analysis: str, events: list[Event]) -> Outcome:
        """One analysis, from its journal on."""

        def observe(event: Event) -> None:
            events.append(event)
            self.settings.observer(event)

        exchange = EmbeddedExchange(self.sites, faults=self.settings.faults, restart=self._restart)
        try:
            place = Place(self.out, self.roster, environment())
            return await answer_analysis(
                self.study, analysis, place, exchange, observer=observe, check_data=self._check_data
            )
        finally:
            exchange.close()

    def _check_data(self, run: str, study: str) -> None:
        for site in self.sites.values():
            site.check_data(run, study)

    def _restart(self, name: str) -> Site:
        return self._site(name)

    def close(self) -> None:
        """Close the sites' files."""
        for site in self.sites.values():
            site.close()


__all__ = ["Fault", "Outcome", "Run", "Settings", "SiteData", "run_study"]
