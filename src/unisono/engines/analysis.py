"""One analysis of a study from its journal on, under any exchange: where it is begun, refused, gone on with, and finished.

The embedded engine and the coordinator of a real network both run analyses by this, so that what ran in a demo is what runs
between Amsterdam and Padua.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unisono.engines.embedded.outcome import Outcome
from unisono.engines.environment import environment
from unisono.errors import JournalError, UnisonoError
from unisono.federation.events import Event, Observer, nobody
from unisono.federation.exchange import Exchange
from unisono.federation.federation import Federation, Question
from unisono.federation.journal import Journal
from unisono.methods.registry import build
from unisono.methods.runner import Answer, answer
from unisono.protection.secagg.roster import Roster
from unisono.study.document import Study

CheckData = Callable[[str, str], None]
"""(run, study's digest): `DataError` if a site's data, where this process can see it, is not what the run was begun on."""
JOURNAL = "journal.db"


def anything(run: str, study: str) -> None:
    """Where no site's data can be seen, the sites check it themselves."""
    del run, study


@dataclass(frozen=True)
class Place:
    """Where an analysis is answered: the run's folder, whose journals are ``<folder>/<analysis>/journal.db``; over which
    sites; with which packages on which machine; how a run that begins is named."""

    folder: Path
    roster: Roster
    environment: Mapping[str, str] = field(default_factory=environment)
    name: Callable[[], str] = lambda: secrets.token_hex(16)


async def answer_analysis(
    study: Study,
    analysis: str,
    place: Place,
    exchange: Exchange,
    *,
    observer: Observer = nobody,
    check_data: CheckData = anything,
) -> Outcome:
    """One analysis, from its journal on. What stops the analysis is in the outcome.

    `JournalError` if the folder holds a run of something else, was begun elsewhere, or its journal is damaged; what
    `check_data` raises; `StorageError` if the journal cannot be written.
    """
    path = place.folder / analysis / JOURNAL
    journal = Journal(path)
    began = asyncio.get_running_loop().time()
    try:
        run, strict = _begin(study, analysis, place, journal, check_data)
        observer(Event("analysis", analysis, name=build(study, analysis).name))
        question = Question(study, run, analysis)
        found, error = await _answered(
            study,
            analysis,
            lambda: Federation(question, exchange, place.roster, journal, observer=observer, strict=strict),
        )
        if found is not None and journal.last("finished") is None:
            journal.write("finished", {"sites": list(found.sites)})
        seconds = asyncio.get_running_loop().time() - began
        observer(Event("finished" if error is None else "failed", analysis, seconds=seconds))
        return Outcome(analysis, found, error, path, journal.digest, seconds)
    finally:
        journal.close()


def _begin(study: Study, analysis: str, place: Place, journal: Journal, check_data: CheckData) -> tuple[str, bool]:
    """The run's name, and whether a replay must ask exactly what was asked. Refuses another study, sites or data."""
    here = {"study": study.digest(), "analysis": analysis, "roster": dict(place.roster.to_tree())}
    found = journal.last("start")
    if found is None:
        found = journal.write("start", {"run": place.name(), "environment": dict(place.environment), **here})
    assert found.body is not None  # the journal would be damaged
    start = found.body
    changed = [what for what, value in here.items() if start[what] != value]
    if changed:
        words = {"study": "another study", "analysis": "another analysis", "roster": "other sites"}
        raise JournalError(
            f"{journal.path.parent} holds a run of {' and '.join(words[c] for c in changed)}.",
            rule="one-run-a-folder",
            remedy="Write to another folder with --out, or begin anew with --fresh.",
        )
    check_data(start["run"], start["study"])
    same_place = bool(start["environment"] == dict(place.environment))
    finished = journal.last("finished") is not None
    if not same_place and not finished and journal.last("snapshot") is None and journal.last("opened") is not None:
        raise JournalError(
            "This run was begun with other packages or on another machine; its next numbers would not be the same bit for bit.",
            rule="deterministic-replay",
            remedy="Finish it where it was begun, or begin anew with --fresh.",
        )
    return str(start["run"]), same_place


async def _answered(
    study: Study, analysis: str, begin: Callable[[], Federation]
) -> tuple[Answer | None, UnisonoError | None]:
    try:
        return await answer(study, analysis, begin), None
    except UnisonoError as error:
        return None, error
