"""What a site says of itself when it connects: versions, clock, machine, and what its last preflight found. For the operator's board;
no patient's value, and no path."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from datetime import datetime

from pydantic import ValidationError

from unisono.engines.environment import environment
from unisono.federation.tree import Tree
from unisono.methods.packages import packages, to_tree
from unisono.methods.registry import versions
from unisono.network.agent.folder import AgentFolder
from unisono.network.preflight.report import Report

_MOST_BYTES = 1 << 20


def about(folder: AgentFolder, studies: int, now: datetime) -> Tree:
    """The tree of the hello. studies: how many are answered now."""
    return {
        "methods": versions(),
        "packages": to_tree(packages()),
        "environment": environment(),
        "time_ms": round(now.timestamp() * 1000),
        "readiness": {
            "cpus": os.cpu_count() or 1,
            "disk_free_bytes": shutil.disk_usage(folder.path).free,
            "studies": studies,
        },
        "preflight": _preflight(folder),
    }


def _preflight(folder: AgentFolder) -> Tree:
    """The verdict of the preflight that was run with this folder last; empty if there was none, or it cannot be read."""
    with suppress(OSError, ValidationError):
        if folder.preflight.stat().st_size <= _MOST_BYTES:
            report = Report.model_validate_json(folder.preflight.read_bytes())
            cards = next((check.details.get("cards") for check in report.checks if check.name == "gpu"), None)
            return {"status": report.status, "cards": list(cards) if isinstance(cards, list) else [], **report.board()}
    return {}
