"""How far a study is, for whoever watches: what happens in a run, as trees, to any number of watchers."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from unisono.federation.events import Event
from unisono.site.permit import allowances
from unisono.study.document import Study
from unisono.study.units import duration

_REMEMBERED = 50
"""Steps that an estimate of the time left is made from."""
_MISSING = {"lost": "no link", "late": "late", "abstained": "abstained: {}"}
_MOST_EVENTS = 256
"""That wait for a slow watcher; then the oldest are left out. The state beside each is always the newest."""


@dataclass
class Progress:
    """Of one study's run, since this service began it. planned: by analysis, how many sums it asks at most; deadline_s: how long a
    step waits for a site; without: sites that had no part in the sum that was opened last, and why."""

    planned: Mapping[str, int]
    deadline_s: float
    analysis: str = ""
    step: int = -1
    name: str = ""
    opened: int = 0
    seconds: float = 0.0
    waiting_for: set[str] = field(default_factory=set)
    without: dict[str, str] = field(default_factory=dict)
    begun: datetime | None = None
    _asked_s: float = 0.0
    _missing: dict[str, str] = field(default_factory=dict)
    _done: dict[str, int] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)
    _times_s: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    @classmethod
    def of(cls, study: Study) -> Progress:
        """Of a study whose run has not been seen yet."""
        planned = Counter[str]()
        for allowed in allowances(study):
            planned[allowed.analysis] += allowed.at_most
        return cls(planned, duration(study.participation.deadline))

    def see(self, event: Event, now: datetime) -> None:
        """One thing that happened."""
        self.seconds = event.seconds
        if event.kind == "analysis":
            self.analysis, self.step, self.name = event.analysis, -1, event.name
        elif event.kind == "step":
            self.step, self.name = event.step, event.name
            self.begun, self._asked_s = now, event.seconds
            self.waiting_for.clear()
            self._missing.clear()
        elif event.kind in _MISSING:
            self._missing[event.site] = _MISSING[event.kind].format(event.name)
        elif event.kind in ("opened", "replayed"):
            self._done[event.analysis] = self._done.get(event.analysis, 0) + 1
            if event.kind == "opened":
                self.opened += 1
                self.without = dict(self._missing)
                self._times_s.append(max(event.seconds - self._asked_s, 0.0))
            self.waiting_for.clear()
        elif event.kind in ("finished", "failed"):
            self._over.add(event.analysis)
        elif event.kind == "waiting":
            self.waiting_for.add(event.site)
        elif event.kind == "attempt":
            self._missing.clear()
        elif event.kind in ("returned", "recovered", "left"):
            self.waiting_for.discard(event.site)
            self._missing.pop(event.site, None)
            if event.kind == "left":
                self._done[event.analysis] = 0  # everything is computed again

    @property
    def until(self) -> datetime | None:
        """Until when the site that is late is waited for; None if none is."""
        late = self.waiting_for and self.begun is not None
        return self.begun + timedelta(seconds=self.deadline_s) if late and self.begun is not None else None

    @property
    def sums_left(self) -> int:
        """At most: a fit that converges needs fewer."""
        return sum(
            max(most - self._done.get(name, 0), 0) for name, most in self.planned.items() if name not in self._over
        )

    def to_tree(self) -> dict[str, Any]:
        """For a message."""
        return {
            "analysis": self.analysis,
            "step": self.step,
            "name": self.name,
            "opened": self.opened,
            "seconds": self.seconds,
            "waiting_for": sorted(self.waiting_for),
            "without": dict(self.without),
            "seconds_a_sum": median(self._times_s) if self._times_s else None,
            "sums_left": self.sums_left,
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
