"""The embedded exchange: many sites in this process, each answering in a thread of its own, with faults on request.

The sites are the same `Site` that runs in a hospital. Faults (delay, a lost link at a chosen message, a crash) happen
here, between coordinator and site, where a network would make them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from unisono.federation.exchange import LinkLost, Message, Phase
from unisono.site.agent import Site


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong: once, or once in each analysis if `analysis` is not said.

    site: whose. phase: at which message. when: before the message reaches the site, or after it answered.
    occurrence: the how many-eth message of that phase to that site it is, from 1; `analysis` narrows it to one analysis.
    what: ``delay`` (the answer comes `seconds` late), ``drop`` (the link is lost, and back after `seconds`; never, if None),
    ``crash`` (the site loses its memory and comes back from its files after `seconds`), ``kill`` (this whole process gets
    SIGKILL: for tests of durability).
    """

    site: str
    phase: Phase
    what: Literal["delay", "drop", "crash", "kill"] = "drop"
    when: Literal["before", "after"] = "before"
    occurrence: int = 1
    seconds: float | None = 0.0
    analysis: str | None = None


class EmbeddedExchange:
    """Carries messages to `sites`. `restart` builds a site again from its folder, for crashes."""

    def __init__(
        self, sites: Mapping[str, Site], *, faults: Iterable[Fault] = (), restart: Callable[[str], Site] | None = None
    ) -> None:
        self.sites = dict(sites)
        self._faults = list(faults)
        self._restart = restart
        self._online = {name: asyncio.Event() for name in self.sites}
        for event in self._online.values():
            event.set()
        self._counts: dict[tuple[str, Phase, str | None], int] = {}
        # A thread each: a site that takes its time holds up no other one's.
        self._threads = {name: ThreadPoolExecutor(max_workers=1, thread_name_prefix=name) for name in self.sites}
        self._returning: set[asyncio.Task[None]] = set()

    async def request(self, site: str, message: Message) -> object:
        """The site's answer; `LinkLost` while its link is down."""
        if not self._online[site].is_set():
            raise LinkLost(site, message.phase)
        faults = self._due(site, message)
        await self._strike(site, message, [f for f in faults if f.when == "before"])
        answer = await asyncio.get_running_loop().run_in_executor(self._threads[site], self._answer, site, message)
        await self._strike(site, message, [f for f in faults if f.when == "after"])
        return answer

    def connected(self, site: str) -> bool:
        """Whether the site's link is up."""
        return self._online[site].is_set()

    def _answer(self, site: str, message: Message) -> object:
        return self.sites[site].answer(
            message
        )  # the one that is there now: it may have been restarted while this waited

    async def online(self, site: str) -> None:
        """Returns when the site has a live link."""
        await self._online[site].wait()

    def close(self) -> None:
        """Stop the threads. The sites belong to whoever made them."""
        for task in self._returning:
            task.cancel()
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=True)

    def _due(self, site: str, message: Message) -> list[Fault]:
        analysis = message.analysis
        for key in ((site, message.phase, None), (site, message.phase, analysis)):
            self._counts[key] = self._counts.get(key, 0) + 1
        return [
            f
            for f in self._faults
            if (f.site, f.phase) == (site, message.phase)
            and f.analysis in (None, analysis)
            and self._counts[site, message.phase, f.analysis] == f.occurrence
        ]

    async def _strike(self, site: str, message: Message, faults: list[Fault]) -> None:
        for fault in faults:
            if fault.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault.what == "delay":
                await asyncio.sleep(fault.seconds or 0.0)
                continue
            if fault.what == "crash" and self._restart is not None:
                self.sites[site].close()
                self.sites[site] = self._restart(site)
            self._online[site].clear()
            if fault.seconds is not None:
                task = asyncio.ensure_future(self._come_back(site, fault.seconds))
                self._returning.add(task)
                task.add_done_callback(self._returning.discard)
            raise LinkLost(site, message.phase)

    async def _come_back(self, site: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._online[site].set()
