"""One preflight: every check in turn, each with its time, none stopping the others."""

from __future__ import annotations

import platform
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path

from unisono.network.agent.text import plain
from unisono.network.preflight import machine, probe, reach, secure
from unisono.network.preflight.desk import letter
from unisono.network.preflight.idle import idle
from unisono.network.preflight.report import Check, Found, Report, overall
from unisono.network.preflight.target import Target
from unisono.network.preflight.trip import Trip
from unisono.version import VERSION

IDLE_S = 35.0
"""Longer than the shortest idle time-out that is common (30 s)."""
LONGEST_IDLE_S = 600.0

CHECKS: tuple[tuple[str, str, Callable[[Trip], Awaitable[Found]]], ...] = (
    ("proxy", "Proxy", reach.proxy),
    ("dns", "Name", reach.names),
    ("route", "Route", reach.route),
    ("certificate", "Certificate", secure.certificate),
    ("http2", "TLS and HTTP/2", secure.http2),
    ("mutual", "Coordinator", probe.mutual),
    ("clock", "Clock", probe.clock),
    ("bandwidth", "Bandwidth", probe.bandwidth),
    ("message", "Largest message", probe.message),
    ("idle", "Idle connection", idle),
    ("disk", "Disk", machine.disk),
    ("memory", "Memory", machine.memory),
    ("cpu", "Processors", machine.processors),
    ("gpu", "Graphics card", machine.graphics),
    ("versions", "Versions", machine.versions),
)
"""Name, title, check; in the order in which they build on one another."""


async def preflight(
    target: Target,
    home: Path,
    clock: Callable[[], datetime],
    environment: Mapping[str, str],
    *,
    idle_s: float = IDLE_S,
    proxy: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Look at everything. home: the site's folder, there or not yet; environment: where proxies are named; proxy: one that was
    given; say: is told each check's title before it begins. `MissingExtra` without ``unisono[network]``."""
    trip = Trip(target, idle_s, home, clock, environment, told=proxy)
    when, found = clock(), []
    for name, title, check in CHECKS:
        say(f"{title}, {idle_s:g} s of silence" if name == "idle" else title)
        began = time.perf_counter()
        result = await check(trip)
        seconds = round(time.perf_counter() - began, 3)
        found.append(Check(name=name, title=title, seconds=seconds, **result.model_dump()))
    checks, host = tuple(found), plain(platform.node(), 100) or "this machine"
    return Report(
        software=VERSION,
        address=target.address,
        authority=target.authority,
        machine=host,
        when=when,
        status=overall(checks),
        checks=checks,
        request=letter(target, checks, host, when),
    )
