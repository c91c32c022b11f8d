"""One study's analyses, run one after the other in a thread of their own with their own event loop: opening a large sum does
not hold up the service. Everything is in the journals; a run that is stopped goes on there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from unisono.engines.analysis import Place, answer_analysis
from unisono.engines.embedded.outcome import Outcome, with_remarks
from unisono.engines.embedded.run import Run
from unisono.errors import ParticipationError, StorageError, UnisonoError
from unisono.federation.events import Event
from unisono.federation.exchange import Exchange
from unisono.network.coordinator.beginnings import Beginnings
from unisono.protection.secagg.roster import Roster
from unisono.report.files import write
from unisono.study.document import Study

EXCHANGE = "grpc"
_writing = threading.Lock()
"""Figures are drawn by one thread at a time: matplotlib's settings are the process's."""


@dataclass(frozen=True)
class Ended:
    """How a run ended: analyses answered, why others were not, and whether the same run can go on later."""

    answered: tuple[str, ...]
    errors: dict[str, UnisonoError] = field(default_factory=dict)

    @property
    def resumable(self) -> bool:
        """True if something stopped it that may be gone the next time."""
        return any(isinstance(error, ParticipationError | StorageError) for error in self.errors.values())

    @property
    def why(self) -> str:
        """What was not answered, in words."""
        return " ".join(f"{name}: {error.what}" for name, error in self.errors.items())


class StudyRun:
    """A study that is being answered. observer: told every event, from the run's thread."""

    def __init__(
        self,
        study: Study,
        roster: Roster,
        folder: Path,
        exchange: Exchange,
        beginnings: Beginnings,
        observer: Callable[[Event], None],
    ) -> None:
        self.study = study
        self.place = Place(folder, roster, name=beginnings.name)
        self._beginnings = beginnings
        self._exchange = exchange
        self._observer = observer
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._stopped = False
        self._task: asyncio.Task[Ended] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def work(self) -> Ended | None:
        """Run it to its end, in the calling thread; None if it was stopped. What went wrong is in what it gives back."""
        try:
            return asyncio.run(self._answer_all())
        except asyncio.CancelledError:
            return None

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def stop(self) -> None:
        """End `work` soon, from any thread: at the next message that it waits for. Journals are closed."""
        with self._lock:
            self._stopped = True
            if self._loop is not None and self._task is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._task.cancel)

    async def _answer_all(self) -> Ended:
        with self._lock:
            if self._stopped:
                raise asyncio.CancelledError
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            return await self._answered()
        finally:
            with self._lock:
                self._loop = None

    async def _answered(self) -> Ended:
        outcomes: dict[str, Outcome] = {}
        errors: dict[str, UnisonoError] = {}
        try:
            await asyncio.to_thread(self._beginnings.prepare)
        except UnisonoError as error:
            return Ended((), {"run": error})
        for name in self.study.analyses:
            try:
                outcomes[name] = await answer_analysis(
                    self.study, name, self.place, self._exchange, observer=self._observe
                )
            except UnisonoError as error:  # it could not even begin; the others can
                errors[name] = error
        outcomes = with_remarks(self.study, outcomes, simulated=False)
        errors |= {name: outcome.error for name, outcome in outcomes.items() if outcome.error is not None}
        try:
            await asyncio.to_thread(self._write, outcomes)
        except UnisonoError as error:  # every sum is in the journals: the next time only the results are written
            errors["results"] = error
        return Ended(tuple(n for n, o in outcomes.items() if o.answer is not None), errors)

    def _observe(self, event: Event) -> None:
        self._events.append(event)
        self._observer(event)

    def _write(self, outcomes: dict[str, Outcome]) -> None:
        run = Run(self.study, self.place.roster.sites, self.place.folder, outcomes, {}, self._events)
        with _writing:
            write(run, exchange=EXCHANGE)
