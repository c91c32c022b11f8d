"""One study over sites in this process: sites with their folders, identities, permits and data; a journal an analysis.

The same command again replays what is journalled and goes on; it is refused if the study, the sites or the data changed.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from unisono.engines.embedded.exchange import EmbeddedExchange, Fault
from unisono.engines.embedded.folder import Folder
from unisono.engines.embedded.outcome import Outcome, with_remarks
from unisono.engines.environment import environment
from unisono.errors import JournalError, ParticipationError, StudyError, UnisonoError
from unisono.federation.events import Event, Observer, nobody
from unisono.federation.federation import Federation, Question
from unisono.federation.journal import Journal
from unisono.methods.registry import build
from unisono.methods.runner import Answer, answer
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
        path = self.out / analysis / "journal.db"
        journal = Journal(path)
        began = asyncio.get_running_loop().time()

        def observe(event: Event) -> None:
            events.append(event)
            self.settings.observer(event)

        exchange = EmbeddedExchange(self.sites, faults=self.settings.faults, restart=self._restart)
        try:
            run, strict = self._begin(journal, analysis)
            observe(Event("analysis", analysis, name=build(self.study, analysis).name))
            question = Question(self.study, run, analysis)
            found, error = await _answered(
                self.study,
                analysis,
                lambda: Federation(question, exchange, self.roster, journal, observer=observe, strict=strict),
            )
            if found is not None and journal.last("finished") is None:
                journal.write("finished", {"sites": list(found.sites)})
            seconds = asyncio.get_running_loop().time() - began
            observe(Event("finished" if error is None else "failed", analysis, seconds=seconds))
            return Outcome(analysis, found, error, path, journal.digest, seconds)
        finally:
            exchange.close()
            journal.close()

    def _begin(self, journal: Journal, analysis: str) -> tuple[str, bool]:
        """The run's name, and whether a replay must ask exactly what was asked. Refuses another study, sites or data."""
        here = {"study": self.study.digest(), "analysis": analysis, "roster": dict(self.roster.to_tree())}
        start = journal.last("start")
        if start is None:
            body = {"run": secrets.token_hex(16), "environment": environment(), **here}
            journal.write("start", body)
            start_body: dict[str, Any] = body
        else:
            assert start.body is not None  # the journal would be damaged
            start_body = start.body
        changed = [what for what, value in here.items() if start_body[what] != value]
        if changed:
            words = {"study": "another study", "analysis": "another analysis", "roster": "other sites"}
            raise JournalError(
                f"{journal.path.parent} holds a run of {' and '.join(words[c] for c in changed)}.",
                rule="one-run-a-folder",
                remedy="Write to another folder with --out, or begin anew with --fresh.",
            )
        for site in self.sites.values():
            site.check_data(start_body["run"], start_body["study"])
        same_place = start_body["environment"] == environment()
        finished = journal.last("finished") is not None
        if not same_place and not finished and journal.last("snapshot") is None and journal.last("opened") is not None:
            raise JournalError(
                "This run was begun with other packages or on another machine; its next numbers would not be the same bit for bit.",
                rule="deterministic-replay",
                remedy="Finish it where it was begun, or begin anew with --fresh.",
            )
        return str(start_body["run"]), same_place

    def _restart(self, name: str) -> Site:
        return self._site(name)

    def close(self) -> None:
        """Close the sites' files."""
        for site in self.sites.values():
            site.close()


async def _answered(
    study: Study, analysis: str, begin: Callable[[], Federation]
) -> tuple[Answer | None, UnisonoError | None]:
    try:
        return await answer(study, analysis, begin), None
    except UnisonoError as error:
        return None, error


__all__ = ["Fault", "Outcome", "Run", "Settings", "SiteData", "run_study"]
