"""The check of long-lived connections: hold one without a word, and then use it.

An agent sends a sign of life every heartbeat (15 s), so a way that cuts at 30 s still works; one that cuts sooner does not. The
coordinator's own probe is held where a token opens it; else an HTTP/2 connection with a PING before and after.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from unisono.errors import NetworkError, ProtocolError
from unisono.network.preflight import h2
from unisono.network.preflight.probe import missing, opened
from unisono.network.preflight.report import Found
from unisono.network.preflight.secure import hang_up, open_tls
from unisono.network.preflight.trip import HEARTBEAT_S, Trip, why

_AGAIN_S = 10.0
"""For an answer after the silence."""
_MARGIN = 4 / 3
"""A heartbeat that is late by a third must still come in time."""


UNSEEN = -1.0
"""The connection was dead when it was used; when it died was not seen."""


class _Unfit(Exception):
    """Nothing can be held here: why."""


async def idle(trip: Trip) -> Found:
    """Whether a connection lives through `trip.idle_s` of silence; if it does not, whether it lives from heartbeat to heartbeat."""
    if not trip.reached or trip.seen is None:
        return Found(status="skipped", found="there is no connection to hold")
    needed_s = (trip.greeting.heartbeat_s if trip.greeting else HEARTBEAT_S) * _MARGIN
    try:
        lived_s = await _held(trip, trip.idle_s)
        if lived_s is None:
            return Found(
                status="ok",
                found=f"alive after {trip.idle_s:g} s of silence",
                details={"seconds": trip.idle_s, "alive": True},
            )
        if lived_s == UNSEEN and trip.idle_s > needed_s:  # cut without a word, at a time that nobody knows
            lived_s = needed_s if await _held(trip, needed_s) is None else 0.0
    except _Unfit as error:
        return Found(status="skipped", found=str(error))
    return _cut(trip, max(lived_s, 0.0), needed_s)


def _cut(trip: Trip, lived_s: float, needed_s: float) -> Found:
    """lived_s: seconds of silence that the connection is known to survive."""
    ask = (
        f"Let idle connections to {trip.target.address} live for at least 60 s; one without traffic was cut after about "
        f"{lived_s:.0f} s."
    )
    details = {"seconds": round(lived_s, 1), "alive": False}
    if lived_s >= needed_s:
        return Found(
            status="warn",
            found=f"cut after about {lived_s:.0f} s of silence",
            todo=f"It works: the agent never is silent for more than {needed_s / _MARGIN:g} s. A longer time-out is better.",
            ask=ask,
            details=details,
        )
    return Found(
        status="fail",
        found=f"cut after about {lived_s:.0f} s of silence",
        todo="The agent's line would be cut again and again. Send the text below to the IT desk, or ask the operator for a shorter "
        "heartbeat.",
        ask=ask,
        details=details,
    )


async def _held(trip: Trip, seconds: float) -> float | None:
    """None if a connection lived through so much silence; else after how many seconds it was cut, or `UNSEEN`.
    `_Unfit` if there was none to hold."""
    if missing(trip) is None:
        return await _held_probe(trip, seconds)
    return await _held_http2(trip, seconds)


async def _held_probe(trip: Trip, seconds: float) -> float | None:
    """Over the coordinator's own probe. Its reader waits all the time: the answer after the silence comes to the same one."""
    try:
        async with opened(trip) as stream:
            await stream.ask(probe="hello")
            began, reader = time.perf_counter(), asyncio.ensure_future(stream.hear())
            try:
                if (await asyncio.wait({reader}, timeout=seconds))[0]:
                    return time.perf_counter() - began
                await stream.say(probe="hello")
                await asyncio.wait({reader}, timeout=_AGAIN_S)
                return None if reader.done() and reader.exception() is None else UNSEEN
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
    except (NetworkError, ProtocolError) as error:
        raise _Unfit(f"no stream could be held: {error.what}") from error


async def _held_http2(trip: Trip, seconds: float) -> float | None:
    """Over an HTTP/2 connection without a request."""
    try:
        reader, writer = await open_tls(trip)
    except (OSError, TimeoutError, NetworkError) as error:
        raise _Unfit(f"no connection could be held: {why(error)}") from error
    try:
        return await _silent(trip, h2.Connection(reader, writer), seconds)
    finally:
        await hang_up(writer)


def _no_certificate(trip: Trip) -> str:
    """Why nothing could be held that shows no certificate of ours."""
    if trip.target.credentials is None:
        return "what answers hangs up on whoever shows no certificate: run again with the token"
    if trip.trusted:
        return "the coordinator did not answer, and hangs up on whoever shows no certificate"
    return "the certificate that answered is not the coordinator's, so ours is not shown, and without it no connection is held"


async def _silent(trip: Trip, connection: h2.Connection, seconds: float) -> float | None:
    try:
        async with asyncio.timeout(_AGAIN_S):
            await connection.begin()
            await connection.ping()
    except (h2.Ended, TimeoutError, ValueError) as error:
        raise _Unfit(_no_certificate(trip)) from error
    began = time.perf_counter()
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await connection.until_closed()
        async with asyncio.timeout(_AGAIN_S):
            await connection.ping()
    except h2.Ended as error:
        lived_s = time.perf_counter() - began
        if error.politely:
            raise _Unfit(f"what answers closes connections without a request itself, after {lived_s:.0f} s") from error
        return lived_s if lived_s < seconds else UNSEEN
    except (TimeoutError, ValueError):
        return UNSEEN
    return None
