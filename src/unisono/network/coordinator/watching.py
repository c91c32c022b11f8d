"""How far a study is, for whoever watches: what happens in a run, as trees, to any number of watchers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from unisono.federation.events import Event

_MOST_EVENTS = 256
"""That wait for a slow watcher; then the oldest are left out. The state beside each is always the newest."""


@dataclass
class Progress:
    """Of one study's run, since this service began it."""

    analysis: str = ""
    step: int = -1
    name: str = ""
    opened: int = 0
    seconds: float = 0.0
    waiting_for: set[str] = field(default_factory=set)

    def see(self, event: Event) -> None:
        """One thing that happened."""
        self.seconds = event.seconds
        if event.kind == "analysis":
            self.analysis, self.step, self.name = event.analysis, -1, event.name
        elif event.kind == "step":
            self.step, self.name = event.step, event.name
            self.waiting_for.clear()
        elif event.kind == "opened":
            self.opened += 1
            self.waiting_for.clear()
        elif event.kind == "waiting":
            self.waiting_for.add(event.site)
        elif event.kind in ("returned", "left"):
            self.waiting_for.discard(event.site)

    def to_tree(self) -> dict[str, Any]:
        """For a message."""
        return {
            "analysis": self.analysis,
            "step": self.step,
            "name": self.name,
            "opened": self.opened,
            "seconds": self.seconds,
            "waiting_for": sorted(self.waiting_for),
        }


class Watchers:
    """Who watches which study. All of it lives in the service's event loop."""

    def __init__(self) -> None:
        self.closed = False
        self._queues: dict[str, set[asyncio.Queue[dict[str, Any] | None]]] = {}

    def close(self) -> None:
        """Nothing more is to be seen: everybody who watches wakes once more."""
        self.closed = True
        for study in self.watched():
            self.tell(study)

    @contextmanager
    def watching(self, study: str) -> Iterator[asyncio.Queue[dict[str, Any] | None]]:
        """A queue of event trees; None where only the study's state changed."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_MOST_EVENTS)
        self._queues.setdefault(study, set()).add(queue)
        try:
            yield queue
        finally:
            self._queues[study].discard(queue)
            if not self._queues[study]:
                del self._queues[study]

    def watched(self) -> list[str]:
        """Studies that somebody watches."""
        return list(self._queues)

    def tell(self, study: str, event: Event | None = None) -> None:
        """Something happened in a study."""
        tree = None if event is None else event_tree(event)
        for queue in self._queues.get(study, ()):
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(tree)


def event_tree(event: Event) -> dict[str, Any]:
    """The event in a message."""
    return {
        "kind": event.kind,
        "analysis": event.analysis,
        "step": event.step,
        "name": event.name,
        "site": event.site,
        "seconds": event.seconds,
        "words": event.words,
    }
