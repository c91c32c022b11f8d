"""Whose certificate answers where the coordinator should: said in the very error that refused it, so that an IT desk need not ask."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from unisono.errors import NetworkError, UnisonoError
from unisono.network.preflight.secure import certificate_shown
from unisono.network.preflight.target import target_of
from unisono.network.preflight.trip import Trip
from unisono.network.preflight.way import choose

UNTRUSTED = "untrusted-coordinator"


async def naming(
    error: UnisonoError, address: str, proxy: str | None, environment: Mapping[str, str] = os.environ
) -> UnisonoError:
    """The same error; where it is that a certificate is not the authority's, with whose it is, if that can be seen.

    Looks once more, on a connection of its own, and sends nothing on it. address: ``host:port``; proxy: as the agent's.
    """
    if error.rule != UNTRUSTED:
        return error
    try:
        target = target_of(address, datetime.now(UTC))
        trip = Trip(target, 0.0, Path(), lambda: datetime.now(UTC), environment, told=proxy)
        trip.proxy = choose(target.host, environment, proxy)
        seen = await certificate_shown(trip)
    except (OSError, TimeoutError, UnisonoError):
        return error
    if not seen:
        return error
    return NetworkError(f"{error.what} What answered is {seen}.", rule=error.rule, remedy=error.remedy)
