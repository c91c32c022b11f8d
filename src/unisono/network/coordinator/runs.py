"""Studies that are being answered: several at once, each in a thread of its own; what is beyond waits its turn. What a restart
interrupted goes on from its journals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count

from unisono.errors import NetworkError, UnisonoError
from unisono.federation.events import Event
from unisono.network.coordinator.beginnings import Beginnings
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.coordinator.queue import Turn, first
from unisono.network.coordinator.running import Ended, StudyRun
from unisono.network.coordinator.sites import NetworkExchange, Sites
from unisono.network.coordinator.store import Asked
from unisono.network.log import Log

_TRY_AGAIN_S = (1.0, 60.0)
"""What could not be written is tried again: after so long at first, and at last."""


MOST_WAITING = 60
"""Studies whose runs wait for a site that is away, at a time: each has a thread, which sleeps."""


@dataclass(frozen=True)
class Told:
    """Whom a run tells, in the service's event loop: that it started, what happens, and how it ended. known: returns when a
    site (the second) knows that a study (the first) runs."""

    started: Callable[[str], None]
    event: Callable[[str, Event], None]
    ended: Callable[[str, Ended], None]
    known: Callable[[str, str], Awaitable[None]]


class Runs:
    """The runs of one coordinator. All of it lives in the service's event loop. at_once: studies that run at a time; one that waits
    for a site which is away holds up no other."""

    def __init__(self, home: CoordinatorHome, sites: Sites, log: Log, at_once: int, told: Told) -> None:
        self._home = home
        self._sites = sites
        self._log = log
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._at_once = at_once
        self._pool = ThreadPoolExecutor(at_once + MOST_WAITING, thread_name_prefix="study")
        self._queued: dict[str, tuple[Turn, asyncio.Event]] = {}
        self._going: dict[str, Turn] = {}
        self._waits: set[str] = set()
        self._arrived = count()
        self._running: dict[str, tuple[StudyRun, asyncio.Task[None]]] = {}
        self._closing = asyncio.Event()

    @property
    def running(self) -> list[str]:
        """Ids of the studies that are being answered, or wait their turn."""
        return [run.study.id for run, _ in self._running.values()]

    def begin(self, asked: Asked, consents: Mapping[str, str], restored: Collection[str]) -> None:
        """Answer a study, or go on with it; after its run that is just ending, if there is one. consents: by site, the digest of its
        permit; restored: sites that were restored from a back-up."""
        digest = asked.digest
        earlier = self._running.get(digest)
        folder = self._home.folder(asked.id, digest)
        beginnings = Beginnings(folder, consents, restored)
        run = StudyRun(
            asked.study(),
            asked.roster,
            folder,
            NetworkExchange(self._sites, partial(self._told.known, digest), beginnings.tree),
            beginnings,
            lambda event: self._there(self._told.event, digest, event),
        )
        turn = Turn(digest, asked.signature.researcher, asked.roster.sites, next(self._arrived))
        task = asyncio.ensure_future(self._run(turn, run, None if earlier is None else earlier[1]))
        self._running[digest] = run, task

    def stop(self, digest: str) -> None:
        """End a study's run at the next message that it waits for."""
        if digest in self._running:
            self._running[digest][0].stop()
            self._release(digest)

    @property
    def queued(self) -> tuple[str, ...]:
        """Digests of the studies that wait their turn."""
        return tuple(self._queued)

    def waits(self, digest: str, waits: bool) -> None:
        """Whether a study's run waits for a site that is away: another one may run meanwhile."""
        if waits == (digest in self._waits) or digest not in self._going:
            return
        (self._waits.add if waits else self._waits.discard)(digest)
        self._next()

    def _next(self) -> None:
        """As many of those who wait their turn as may run now."""
        online = {line.name for line in self._sites.lines() if line.end.is_online}
        while self._queued and len(self._going) - len(self._waits) < self._at_once and len(self._waits) < MOST_WAITING:
            running = [turn.researcher for study, turn in self._going.items() if study not in self._waits]
            self._release(first([turn for turn, _ in self._queued.values()], running, online).study)

    def _release(self, digest: str) -> None:
        """Let a study that waits its turn go on; if it was stopped, to its end."""
        if digest in self._queued:
            turn, go = self._queued.pop(digest)
            self._going[digest] = turn
            go.set()

    async def close(self) -> None:
        """End all, with every journal closed."""
        tasks = [task for _, task in self._running.values()]
        self._closing.set()
        for run, _ in self._running.values():
            run.stop()
        for digest in self.queued:
            self._release(digest)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _run(self, turn: Turn, run: StudyRun, earlier: asyncio.Task[None] | None) -> None:
        digest, go = turn.study, asyncio.Event()
        if earlier is not None:
            await asyncio.wait({earlier})
        self._queued[digest] = turn, go
        if run.stopped or self._closing.is_set():
            self._release(digest)
        self._next()
        await go.wait()
        try:
            ended = await self._loop.run_in_executor(self._pool, self._work, digest, run)
        finally:
            del self._going[digest]
            self._waits.discard(digest)
            self._next()
        if ended is not None:
            await self._keep(digest, ended)
        if self._running.get(digest, (None,))[0] is run:
            del self._running[digest]

    async def _keep(self, digest: str, ended: Ended) -> None:
        """How a run ended, written down; again and again while the disk is full: a study that only seems to run would wait for
        ever. Everything else is in the journals, also if the service ends before."""
        wait_s = _TRY_AGAIN_S[0]
        while not self._closing.is_set():
            try:
                self._told.ended(digest, ended)
                return
            except UnisonoError as error:
                self._log.refused("study-state-not-kept", error, study=digest)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._closing.wait()
            wait_s = min(2 * wait_s, _TRY_AGAIN_S[1])

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
