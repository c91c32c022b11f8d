"""What the coordinator shows to the operator's monitoring: sites, studies, steps, bytes, refusals; and whether it can work.

Nothing here counts by itself what something else knows: the log's events are counted as they are written, a run's events as they
come, and the rest is looked up when it is asked for. No number is a site's part of a sum, nor tells anything of a patient.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from unisono.errors import UnisonoError
from unisono.federation.events import Event, Kind
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.coordinator.sites import Line, Sites
from unisono.network.coordinator.store import State, Store
from unisono.network.coordinator.studies import Studies
from unisono.network.enrolment.members import Members
from unisono.network.log import Log
from unisono.network.monitoring import machine
from unisono.network.monitoring.exposition import Family, Histogram, Sample, by, one
from unisono.network.monitoring.listener import Shown
from unisono.network.monitoring.tally import Tally

_MOST_STEPS = 4096
"""Studies whose last step is remembered; runs that were stopped leave theirs behind."""


class Steps:
    """How many steps of how long there were, from what runs tell. In the service's loop."""

    def __init__(self) -> None:
        self._events: Counter[str] = Counter()
        self._took = Histogram()
        self._asked: dict[str, tuple[str, int, float]] = {}

    def see(self, study: str, event: Event) -> None:
        """One thing that happened in a study's run."""
        self._events[event.kind] += 1
        if event.kind == "step":
            if len(self._asked) >= _MOST_STEPS:
                self._asked.pop(next(iter(self._asked)))
            self._asked[study] = event.analysis, event.step, event.seconds
        elif event.kind == "opened" and study in self._asked:
            analysis, step, seconds = self._asked.pop(study)
            if (analysis, step) == (event.analysis, event.step):
                self._took.observe(max(0.0, event.seconds - seconds))

    def families(self) -> list[Family]:
        """``unisono_coordinator_run_events_total`` and ``unisono_coordinator_step_seconds``."""
        counts = {kind: float(self._events[kind]) for kind in get_args(Kind)}
        happened = "What happened in runs, by kind; `opened` are steps done."
        took = "From the ask of a step to its opened sum, waiting for sites included."
        return [
            by("unisono_coordinator_run_events_total", "counter", happened, "kind", counts),
            Family("unisono_coordinator_step_seconds", "histogram", took, self._took.samples()),
        ]


@dataclass(frozen=True)
class Parts:
    """What the monitor looks at. streams, calls: how many are open now."""

    home: CoordinatorHome
    name: str
    store: Store
    members: Members
    sites: Sites
    studies: Studies
    log: Log
    clock: Callable[[], datetime]
    streams: Callable[[], int]
    calls: Callable[[], int]


class Monitor:
    """One coordinator's. tally: for its log; steps: for its runs. is_stopping: it takes no more work."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.steps = Steps()
        self.is_stopping = False

    def shown(self, parts: Parts) -> Shown:
        """For the listener."""

        async def families() -> list[Family]:
            kept = await asyncio.to_thread(_kept, parts)
            return [*kept, *_live(parts), *self.steps.families(), self.tally.family()]

        async def checks() -> Mapping[str, str]:
            return {
                "serving": "the coordinator is being stopped" if self.is_stopping else "",
                "store": await asyncio.to_thread(_writable, parts.store),
                "studies": parts.studies.course.trouble,
            }

        return Shown(families, checks)


def _kept(parts: Parts) -> list[Family]:
    """What files and databases say."""
    home, found = parts.home, parts.store.states()
    states = {state: float(found.get(state, 0)) for state in get_args(State)}
    certificates = {"server": home.path / "tls.pem", "authority": home.path / "ca.pem"}
    return [
        machine.info("coordinator", parts.name),
        *machine.process(),
        machine.disk(home.path),
        machine.files((home.store, home.members, home.invitations)),
        machine.log_lost(parts.log),
        machine.certificates(certificates, parts.clock()),
        by("unisono_coordinator_studies", "gauge", "Studies by state.", "state", states),
    ]


def _live(parts: Parts) -> list[Family]:
    """What is so at this moment. Sites are those that are members now."""
    here = {line.name: line for line in parts.sites.lines()}
    lines = {name: here.get(name) for name in parts.members.roster().sites}
    online = {name: float(line is not None and line.end.is_online) for name, line in lines.items()}
    asked = {name: float(line.end.open_requests) for name, line in lines.items() if line is not None}
    return [
        one("unisono_coordinator_sites_known", "gauge", "Sites that are members.", len(lines)),
        one("unisono_coordinator_sites_online", "gauge", "... with a live connection.", sum(online.values())),
        by("unisono_coordinator_site_online", "gauge", "Whether the site is connected.", "site", online),
        by("unisono_coordinator_requests_open", "gauge", "Requests without a whole answer.", "site", asked),
        Family("unisono_coordinator_site_bytes_total", "counter", "Bytes of messages, as the coordinator sees them.", _bytes(lines)),
        one("unisono_coordinator_streams", "gauge", "Live streams of sites.", parts.streams()),
        one("unisono_coordinator_calls_open", "gauge", "Calls, watches and streams open now.", parts.calls()),
    ]  # fmt: skip


def _bytes(lines: Mapping[str, Line | None]) -> tuple[Sample, ...]:
    return tuple(
        Sample(count, {"site": name, "direction": direction})
        for name, line in lines.items()
        if line is not None
        for direction, count in (("in", line.end.bytes_in), ("out", line.end.bytes_out))
    )


def _writable(store: Store) -> str:
    try:
        store.check()
    except UnisonoError as error:
        return error.what
    return ""
