"""Studies that are being answered: several at once, each in a thread of its own; what is beyond waits its turn. What a restart
interrupted goes on from its journals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from unisono.errors import NetworkError, UnisonoError
from unisono.federation.events import Event
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.coordinator.running import Ended, StudyRun
from unisono.network.coordinator.sites import NetworkExchange, Sites
from unisono.network.coordinator.store import Asked
from unisono.network.log import Log


@dataclass(frozen=True)
class Told:
    """Whom a run tells, in the service's event loop: that it started, what happens, and how it ended. known: returns when a
    site (the second) knows that a study (the first) runs."""

    started: Callable[[str], None]
    event: Callable[[str, Event], None]
    ended: Callable[[str, Ended], None]
    known: Callable[[str, str], Awaitable[None]]


class Runs:
    """The runs of one coordinator. All of it lives in the service's event loop. at_once: studies that run at a time."""

    def __init__(self, home: CoordinatorHome, sites: Sites, log: Log, at_once: int, told: Told) -> None:
        self._home = home
        self._sites = sites
        self._log = log
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="study")
        self._running: dict[str, tuple[StudyRun, asyncio.Task[None]]] = {}

    def begin(self, asked: Asked) -> None:
        """Answer a study, or go on with it; after its run that is just ending, if there is one."""
        digest = asked.digest
        earlier = self._running.get(digest)
        folder = self._home.folder(asked.id, digest)
        run = StudyRun(
            asked.study(),
            asked.roster,
            folder,
            NetworkExchange(self._sites, partial(self._told.known, digest)),
            lambda event: self._there(self._told.event, digest, event),
        )
        task = asyncio.ensure_future(self._run(digest, run, None if earlier is None else earlier[1]))
        self._running[digest] = run, task

    def stop(self, digest: str) -> None:
        """End a study's run at the next message that it waits for."""
        if digest in self._running:
            self._running[digest][0].stop()

    async def close(self) -> None:
        """End all, with every journal closed."""
        tasks = [task for _, task in self._running.values()]
        for run, _ in self._running.values():
            run.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _run(self, digest: str, run: StudyRun, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait({earlier})
        ended = await self._loop.run_in_executor(self._pool, self._work, digest, run)
        if self._running.get(digest, (None,))[0] is run:
            del self._running[digest]
        if ended is None:
            return
        try:
            self._told.ended(digest, ended)
        except (
            UnisonoError
        ) as error:  # a full disk: everything is in the journals, and the next start goes on from there
            self._log.write("study-state-not-kept", study=digest, rule=error.rule)

    def _work(self, digest: str, run: StudyRun) -> Ended | None:
        """In the study's thread."""
        self._there(self._told.started, digest)
        try:
            return run.work()
        except Exception as error:  # noqa: BLE001  (a method may be anybody's package: the other studies go on)
            self._log.write("study-fault", study=digest, kind=type(error).__name__)
            fault = NetworkError(
                f"The coordinator could not go on ({type(error).__name__}).",
                rule="coordinator-fault",
                remedy="Ask its operator; the log names the study. Submitted again, it goes on where it stopped.",
            )
            return Ended((), {"run": fault})

    def _there(self, tell: Callable[..., None], *about: object) -> None:
        with contextlib.suppress(RuntimeError):  # the service's loop has ended: nobody is left to tell
            self._loop.call_soon_threadsafe(tell, *about)
