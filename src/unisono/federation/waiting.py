"""Waiting for several answers at once: for all of them, or for enough of them and a little longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from time import monotonic
from typing import Any, TypedDict

STRAGGLERS_S = 1.0
"""How long the last answers are waited for, at least, when those that are there would do: what rides on them saves the next sum
a round trip."""


class Patience(TypedDict):
    """For `Round._gather`."""

    enough: Callable[[], bool] | None
    after: float | None


async def until_enough(
    asked: Mapping[str, Coroutine[Any, Any, None]],
    enough: Callable[[], bool] | None,
    *,
    after: float | None = None,
    briefly: bool = False,
) -> tuple[str, ...]:
    """Run all, until they end, or a little longer than it takes until there are enough (as long again; briefly: `STRAGGLERS_S`); with
    `after`, until so many seconds have passed and there are enough. Gives back the names of those that were not waited for. If one fails, the
    others end first and the first failure (by order) is raised."""
    tasks = {name: asyncio.ensure_future(one) for name, one in asked.items()}
    began = monotonic()
    until: float | None = None
    try:
        while waiting := [task for task in tasks.values() if not task.done()]:
            now = monotonic()
            if until is None and enough is not None and enough():
                grace = STRAGGLERS_S if briefly else max(STRAGGLERS_S, now - began)
                until = now + grace if after is None else max(began + after, now)
            left = None if until is None else max(until - monotonic(), 0.0)
            done, _ = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
    finally:
        late = tuple(name for name, task in tasks.items() if not task.done())
        for name in late:
            tasks[name].cancel()
        for task in tasks.values():
            if task.done() and not task.cancelled():
                task.exception()  # looked at, or a second failure would be printed as one that nobody retrieved
    for name, task in tasks.items():
        if name not in late:
            task.result()
    return late


async def together(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all; if one fails, let the others end and raise the first failure (by order), not a group of them."""
    for outcome in await asyncio.gather(*coroutines, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
