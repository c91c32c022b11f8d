"""Where a study stands, as a tree for whoever may ask: its sites, who is late, and until when that is waited for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from unisono.network.coordinator.quorum import until
from unisono.network.coordinator.sites import Sites
from unisono.network.coordinator.store import Asked, Decided
from unisono.network.coordinator.watching import Progress


def status(
    asked: Asked, decisions: Mapping[str, Decided], sites: Sites, progress: Progress | None, *, queued: bool
) -> dict[str, Any]:
    """The tree. progress: of its run, if one was seen; queued: it is ready, and waits its turn."""
    found: dict[str, Any] = {}
    for name in asked.roster.sites:
        line, decided = sites.line(name), decisions.get(name)
        found[name] = {
            "online": line.end.is_online,
            "decision": "open" if decided is None else decided.decision,
            "why": "" if decided is None else decided.why,
            "bytes_in": line.end.bytes_in,
            "bytes_out": line.end.bytes_out,
        }
    late, end = _late(asked, decisions, progress)
    return {
        "study": asked.digest,
        "id": asked.id,
        "researcher": asked.signature.researcher,
        "submitted": asked.submitted.isoformat(),
        "state": asked.state,
        "why": asked.why,
        "sites": found,
        "waiting_for": late,
        "until": None if end is None else end.isoformat(timespec="seconds"),
        "queued": queued,
        "progress": None if progress is None else progress.to_tree(),
    }


def _late(
    asked: Asked, decisions: Mapping[str, Decided], progress: Progress | None
) -> tuple[list[str], datetime | None]:
    """Who is waited for, and until when."""
    if asked.state == "waiting":
        return [name for name in asked.roster.sites if name not in decisions], until(asked, asked.study())
    if asked.state == "running" and progress is not None:
        return sorted(progress.waiting_for), progress.until
    return [], None
