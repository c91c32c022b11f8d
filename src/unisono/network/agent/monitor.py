"""What a site's agent shows to the hospital's own monitoring: its connection, requests, workers, studies, certificate; and whether
it is connected. The log's events are counted as they are written, requests as they are answered; the rest is looked up."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from unisono.federation.tree import Tree
from unisono.network.agent.dial import Line
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.inbox import Decision, Inbox
from unisono.network.agent.studies import Studies
from unisono.network.link import Handler, SiteEnd
from unisono.network.log import Log
from unisono.network.monitoring import machine
from unisono.network.monitoring.exposition import Family, Histogram, Sample, by, one
from unisono.network.monitoring.listener import Shown
from unisono.network.monitoring.tally import Tally

OUTCOMES = {"error": "refused", "slot-lost": "slot-lost"}
"""Of answers by their kind; every other one is an answer that was given."""
_NAMED = ("exchange", "offer", "state", "result", "roster")


class Answers:
    """A handler of requests that is timed: around the one that answers, which knows nothing of it. In the agent's loop."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._took: dict[tuple[str, str], Histogram] = {}

    async def __call__(self, tree: Tree) -> Tree:
        """The handler's answer."""
        began = time.monotonic()
        answer = await self._handler(tree)
        asked = tree.get("to") if isinstance(tree, dict) else None
        said = answer.get("kind") if isinstance(answer, dict) else None
        named = (
            asked if isinstance(asked, str) and asked in _NAMED else "unknown",
            OUTCOMES.get(str(said), "answered"),
        )
        self._took.setdefault(named, Histogram()).observe(time.monotonic() - began)
        return answer

    def family(self) -> Family:
        """``unisono_site_request_seconds``, whose count is of requests answered."""
        samples: list[Sample] = []
        for (kind, outcome), took in sorted(self._took.items()):
            samples += took.samples(kind=kind, outcome=outcome)
        about = "How long the coordinator's requests took to be answered, by kind and outcome."
        return Family("unisono_site_request_seconds", "histogram", about, tuple(samples))


@dataclass(frozen=True)
class Parts:
    """What the monitor looks at."""

    folder: AgentFolder
    name: str
    line: Line
    end: SiteEnd
    answers: Answers
    inbox: Inbox
    studies: Studies
    log: Log
    clock: Callable[[], datetime]


class Monitor:
    """One agent's. is_stopping: it answers nothing new."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._skew_s: float | None = None
        self.is_stopping = False

    def hear(self, event: str, facts: dict[str, Any]) -> None:
        """A listener of the log."""
        self._tally(event, facts)
        if event == "connected":
            self._skew_s = facts.get("clock_skew_s")

    def shown(self, parts: Parts) -> Shown:
        """For the listener."""

        async def families() -> list[Family]:
            kept = await asyncio.to_thread(_kept, parts)
            return [*kept, *self._live(parts), parts.answers.family(), self._tally.family()]

        async def checks() -> Mapping[str, str]:
            trouble = parts.line.trouble
            away = "not connected yet" if trouble is None else f"{trouble.rule}: {trouble.what}"
            return {
                "serving": "the agent is being stopped" if self.is_stopping else "",
                "connected": "" if parts.line.is_online else away,
            }

        return Shown(families, checks)

    def _live(self, parts: Parts) -> list[Family]:
        carried = {"in": float(parts.end.bytes_in), "out": float(parts.end.bytes_out)}
        found = [
            one("unisono_site_connected", "gauge", "Whether the coordinator has welcomed it.", parts.line.is_online),
            by("unisono_site_bytes_total", "counter", "Bytes of messages.", "direction", carried),
        ]
        if self._skew_s is not None:
            about = "The coordinator's clock minus this machine's, at the last welcome."
            found.append(one("unisono_site_clock_skew_seconds", "gauge", about, self._skew_s))
        return found


def _kept(parts: Parts) -> list[Family]:
    """What files and databases say."""
    folder, counts = parts.folder, parts.inbox.decisions()
    decisions = {decision: float(counts.get(decision, 0)) for decision in get_args(Decision)}
    certificates = {"site": folder.tls / "tls.pem", "authority": folder.tls / "ca.pem"}
    return [
        machine.info("site", parts.name),
        *machine.process(),
        machine.disk(folder.path),
        machine.files((folder.inbox, folder.path / "state.db")),
        machine.log_lost(parts.log),
        machine.certificates(certificates, parts.clock()),
        *_workers(parts.studies),
        by("unisono_site_studies", "gauge", "Studies offered, by the steward's decision.", "decision", decisions),
        one("unisono_site_decisions_untold", "gauge", "Decisions that the coordinator does not know yet.", len(parts.inbox.untold())),
    ]  # fmt: skip


def _workers(studies: Studies) -> list[Family]:
    pids = studies.worker_pids
    memory = sum(machine.resident_bytes(pid) for pid in pids)
    ended = os.times()
    about = "Processor time of worker processes that have ended."
    return [
        one("unisono_site_workers", "gauge", "Worker processes that are warm, one for each study answered.", len(pids)),
        one("unisono_site_workers_resident_bytes", "gauge", "Memory of all worker processes together.", memory),
        one(
            "unisono_site_workers_ended_cpu_seconds_total",
            "counter",
            about,
            ended.children_user + ended.children_system,
        ),
    ]
