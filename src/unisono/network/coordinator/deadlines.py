"""Moments at which something must happen to a study if it has not happened by itself: one task that sleeps until the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

_LOOK = timedelta(hours=1)
"""The clock is looked at so often at least: it may have been set, or the machine have slept."""


class Deadlines:
    """Of one coordinator's studies; all of it in the service's event loop. passed: called with a study's digest, once."""

    def __init__(self, clock: Callable[[], datetime], passed: Callable[[str], None]) -> None:
        self._clock = clock
        self._passed = passed
        self._at: dict[str, datetime] = {}
        self._changed = asyncio.Event()
        self._task = asyncio.ensure_future(self._keep())

    def set(self, study: str, at: datetime) -> None:
        """From now on, in the place of an earlier one."""
        self._at[study] = at
        self._changed.set()

    def drop(self, study: str) -> None:
        """It happened, or is not waited for any more."""
        self._at.pop(study, None)

    def stop(self) -> asyncio.Task[None]:
        """No more."""
        self._task.cancel()
        return self._task

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            now = self._clock()
            for study in sorted(
                (study for study, at in self._at.items() if at <= now), key=lambda study: self._at[study]
            ):
                del self._at[study]
                self._passed(study)
            left = min((at - now for at in self._at.values()), default=_LOOK)
            try:
                async with asyncio.timeout(max(min(left, _LOOK).total_seconds(), 0.01)):
                    await self._changed.wait()
            except TimeoutError:
                continue
