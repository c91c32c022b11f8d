"""Checks that need the coordinator's own answer, over mutual TLS and gRPC: who it is, clocks, bandwidth, the largest message.

The stream is the RPC ``Probe`` (`unisono.network.preflight.service`), which opens to a token and to a site.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from statistics import median
from typing import Any

import numpy as np

from unisono.errors import NetworkError, ProtocolError, UnisonoError
from unisono.federation.tree import Tree, pack, unpack
from unisono.network import pki
from unisono.network.agent.channel import SERVICE, open_channel, said, trouble
from unisono.network.agent.text import plain
from unisono.network.library import grpc_
from unisono.network.preflight.report import Detail, Found
from unisono.network.preflight.service import PIECE_BYTES
from unisono.network.preflight.trip import HEARTBEAT_S, Greeting, Trip
from unisono.network.wire.parcel import MOST_CHUNK_BYTES
from unisono.network.wire.unisono_pb2 import Packed
from unisono.network.wire.version import PROTOCOL
from unisono.version import VERSION

ANSWER_S = 15.0
MEASURE_S = 2.0
MEASURE_BYTES = 32 * 1024 * 1024
_MESSAGE_S = 60.0
_ROUND_TRIPS = 5
_SLOW_MBITS = 2.0
_MODEL_BYTES = 4_000_000
"""A million float32 parameters."""
_TOLD_S, _GOOD_S = 300.0, 30.0
_SKIPPED_TOKEN = "it needs the operator's token: run again as unisono site preflight TOKEN"  # noqa: S105  (a sentence)
_SKIPPED_OLDER = "this coordinator runs an older version, which does not measure"


class Stream:
    """One probe: ask and hear. Raises `NetworkError` in the words of what went wrong, and the coordinator's own errors."""

    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address

    async def say(self, **asked: Tree) -> None:
        """Ask, and do not wait."""
        grpc = grpc_()
        try:
            await self._call.write(Packed(tree=pack(asked)))
        except grpc.aio.AioRpcError as error:
            raise trouble(error.code(), error.details(), self._address) from error
        except asyncio.InvalidStateError as error:  # written to after it was closed
            raise trouble(await self._call.code(), await self._call.details(), self._address) from error

    async def hear(self) -> dict[str, Any]:
        """The next answer."""
        grpc = grpc_()
        try:
            answer = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise trouble(error.code(), error.details(), self._address) from error
        if not isinstance(answer, Packed):
            raise trouble(await self._call.code(), await self._call.details(), self._address)
        tree = unpack(answer.tree)
        if isinstance(tree, dict) and isinstance(tree.get("error"), dict):
            raise said(tree["error"])
        if not isinstance(tree, dict) or not isinstance(tree.get("ok"), dict):
            raise ProtocolError(
                "The coordinator's answer to a probe cannot be read.",
                rule="message-format",
                remedy="The two ends run different versions of Unisono; install the same one.",
            )
        found: dict[str, Any] = tree["ok"]
        return found

    async def ask(self, **asked: Tree) -> dict[str, Any]:
        """Ask, and hear, within `ANSWER_S`."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.say(**asked)
                return await self.hear()
        except TimeoutError as error:
            raise NetworkError(
                f"The coordinator at {self._address} did not answer within {ANSWER_S:g} seconds.",
                rule="unreachable",
                remedy="A proxy that does not let long-lived streams through does this: ask the IT desk.",
            ) from error


@contextlib.asynccontextmanager
async def opened(trip: Trip) -> AsyncIterator[Stream]:
    """A probe, on a connection of its own."""
    credentials = trip.target.credentials
    assert credentials is not None
    channel = open_channel(trip.target.address, credentials, trip.proxy.url if trip.proxy is not None else None)
    try:
        call = channel.stream_stream(
            SERVICE + "Probe", request_serializer=Packed.SerializeToString, response_deserializer=Packed.FromString
        )()
        try:
            yield Stream(call, trip.target.address)
        finally:
            call.cancel()
    finally:
        await channel.close()


def missing(trip: Trip) -> Found | None:
    """Why the coordinator cannot be asked; None if it can."""
    if trip.target.credentials is None:
        return Found(status="skipped", found=_SKIPPED_TOKEN)
    if trip.greeting is None:
        return Found(status="skipped", found="the coordinator was not reached")
    return None if trip.greeting.measures else Found(status="skipped", found=_SKIPPED_OLDER)


async def mutual(trip: Trip) -> Found:
    """Both certificates over gRPC, all the way to the coordinator: what joining and the agent do."""
    if trip.target.credentials is None:
        return Found(status="skipped", found=_SKIPPED_TOKEN)
    if not trip.trusted:
        return Found(status="skipped", found="the coordinator's certificate did not answer, so ours is not shown")
    try:
        async with opened(trip) as stream:
            told = await stream.ask(probe="hello")
    except (NetworkError, ProtocolError) as error:
        if error.rule == "another-service":  # gRPC answered after it took our certificate: it has no Probe
            trip.greeting = Greeting(trip.target.kind, "", "", HEARTBEAT_S, measures=False)
            return Found(
                status="ok", found="both certificates were accepted; the coordinator's version is an older one"
            )
        return _unheard(trip, error)
    heartbeat = told.get("heartbeat_ms")
    trip.greeting = Greeting(
        role=plain(str(told.get("role")), 20),
        name=plain(str(told.get("name")), 64),
        software=plain(str(told.get("software")), 40),
        heartbeat_s=heartbeat / 1000 if isinstance(heartbeat, int) and 0 < heartbeat < 3_600_000 else HEARTBEAT_S,
        measures=True,
    )
    details: dict[str, Detail] = {
        "role": trip.greeting.role,
        "name": trip.greeting.name,
        "software": trip.greeting.software,
    }
    if told.get("protocol") != PROTOCOL:
        return Found(
            status="fail",
            found=f"reached, but it speaks another protocol (Unisono {trip.greeting.software}; here {VERSION})",
            todo="Install the same version of Unisono as the coordinator.",
            details=details,
        )
    who = f"it knows this {'token' if trip.greeting.role == 'invited' else 'site'} as {trip.greeting.name!r}"
    return Found(
        status="ok", found=f"the coordinator answered (Unisono {trip.greeting.software}); {who}", details=details
    )


def _unheard(trip: Trip, error: UnisonoError) -> Found:
    """TLS was the coordinator's, and still it did not answer."""
    between = error.rule in ("unreachable", "proxy-refused")
    todo = (
        "Something between lets the TLS handshake through and not HTTP/2 streams: ask the IT desk. Or the coordinator does not accept "
        "this certificate: ask its operator whether the invitation was taken back."
    )
    ask = f"Let gRPC (HTTP/2 streams over mutual TLS) through to {trip.target.address}; the TLS handshake works, the stream does not."
    return Found(
        status="fail",
        found=error.what,
        todo=todo if between else error.remedy,
        ask=ask if between else "",
        details={"rule": error.rule},
    )


async def clock(trip: Trip) -> Found:
    """This machine's clock against the coordinator's; else against a proxy's; else, coarsely, against a certificate's dates."""
    if missing(trip) is None:
        with contextlib.suppress(NetworkError, ProtocolError):
            async with opened(trip) as stream:
                await stream.ask(probe="hello")  # the first one opens the connection
                before = trip.clock()
                told = (await stream.ask(probe="hello")).get("time_ms")
                after = trip.clock()
            if isinstance(told, int) and 0 < told < 2**47:
                there = datetime.fromtimestamp(told / 1000, UTC)
                return _skew((before + (after - before) / 2 - there).total_seconds(), "the coordinator's", 1)
    answer = trip.proxy_answer
    if answer is not None and answer.date is not None:
        return _skew((trip.clock() - answer.date).total_seconds(), "the proxy's", 0)
    certificate = trip.seen.certificate if trip.seen is not None else None
    if certificate is None:
        return Found(status="skipped", found="nothing answered that knows the time")
    now = trip.clock()
    if certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        return Found(
            status="ok", found="not contradicted by the dates of the certificate that answered (a coarse check)"
        )
    return Found(
        status="warn",
        found=f"{now:%Y-%m-%d %H:%M} UTC here, which is outside the dates of the certificate that answered (a coarse check)",
        todo="Check this machine's date and time zone; set the clock by a time server (NTP).",
    )


def _skew(seconds: float, whose: str, digits: int) -> Found:
    """seconds: this machine's clock ahead."""
    size = abs(seconds)
    said = f"{size:.{digits}f} s {'ahead of' if seconds > 0 else 'behind'} {whose}"
    details: dict[str, Detail] = {"seconds_ahead": round(seconds, 3), "compared_with": whose.removesuffix("'s")}
    if size <= _GOOD_S:
        return Found(status="ok", found=said, details=details)
    worst = pki.SKEW.total_seconds()
    todo = "Set this machine's clock by a time server (NTP). Beyond 10 minutes fresh certificates are refused."
    return Found(status="fail" if size >= worst else "warn", found=said, todo=todo, details=details)


async def bandwidth(trip: Trip) -> Found:
    """Megabits a second each way, over the connection that the agent will use, and the time of a round trip."""
    if (skipped := missing(trip)) is not None:
        return skipped
    try:
        turn_s, up, down = await _turn(trip), await _up(trip), await _down(trip)
    except (NetworkError, ProtocolError) as error:
        return Found(status="warn", found=f"it could not be measured: {error.what}", todo=error.remedy)
    seconds = _MODEL_BYTES * 8 / 1e6 / min(up, down)
    said = f"up {_plainly(up)}, down {_plainly(down)} Mbit/s; a round trip takes {_plainly(turn_s * 1000)} ms"
    details: dict[str, Detail] = {
        "up_mbits": round(up, 3),
        "down_mbits": round(down, 3),
        "round_trip_ms": round(turn_s * 1000, 3),
    }
    if min(up, down) >= _SLOW_MBITS:
        return Found(status="ok", found=said, details=details)
    return Found(
        status="warn",
        found=said,
        todo=f"Enough for statistics. A model of a million parameters takes {seconds:.0f} s each way: ask the IT desk before a study "
        "that trains one.",
        details=details,
    )


def _plainly(value: float) -> str:
    """Three digits, or all before the point: people read no exponents."""
    return f"{value:,.0f}" if value >= 100 else f"{max(value, 0.001):.3g}"


async def _turn(trip: Trip) -> float:
    """Seconds of a round trip: the median of five, after one that opens the connection."""
    times: list[float] = []
    async with opened(trip) as stream:
        for _ in range(_ROUND_TRIPS + 1):
            began = time.perf_counter()
            await stream.ask(probe="hello")
            times.append(time.perf_counter() - began)
    return median(times[1:])


async def _up(trip: Trip) -> float:
    """Megabits a second to the coordinator. What counts is what it says it has."""
    piece = np.zeros(PIECE_BYTES, np.uint8)
    async with opened(trip) as stream:
        await stream.ask(probe="hello")
        began, sent = time.perf_counter(), 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                while sent < MEASURE_BYTES and time.perf_counter() - began < MEASURE_S:
                    await stream.say(probe="sink", data=piece)
                    sent += PIECE_BYTES
        total = (await stream.ask(probe="total")).get("bytes")
        return _mbits(total if isinstance(total, int) else sent, began)


async def _down(trip: Trip) -> float:
    """Megabits a second from the coordinator."""
    async with opened(trip) as stream:
        await stream.ask(probe="hello")
        began, came = time.perf_counter(), 0
        await stream.say(probe="source", bytes=MEASURE_BYTES)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                while came < MEASURE_BYTES and time.perf_counter() - began < MEASURE_S:
                    data = (await stream.hear()).get("data")
                    came += data.nbytes if isinstance(data, np.ndarray) else 0
        return _mbits(came, began)


def _mbits(size: int, began: float) -> float:
    """Never zero: a line so slow that nothing came is one that is slower than the smallest number that is shown."""
    return max(size * 8 / 1e6 / max(time.perf_counter() - began, 1e-6), 1e-3)


async def message(trip: Trip) -> Found:
    """The largest message that the wire ever uses, there and back, byte for byte."""
    if (skipped := missing(trip)) is not None:
        return skipped
    data = np.random.default_rng(0).integers(0, 256, MOST_CHUNK_BYTES, np.uint8)
    ask = f"Do not limit or scan messages on the connection to {trip.target.address}: one of 1 MiB does not come back whole."
    try:
        async with opened(trip) as stream, asyncio.timeout(_MESSAGE_S):
            await stream.say(probe="echo", data=data)
            back = (await stream.hear()).get("data")
    except TimeoutError:
        return Found(
            status="fail",
            found=f"1 MiB did not come back within {_MESSAGE_S:g} s",
            todo="Send the text below.",
            ask=ask,
        )
    except (NetworkError, ProtocolError) as error:
        return Found(status="fail", found=f"1 MiB did not come back: {error.what}", todo=error.remedy, ask=ask)
    if not isinstance(back, np.ndarray) or not np.array_equal(back, data):
        return Found(status="fail", found="1 MiB came back changed", todo="Send the text below.", ask=ask)
    return Found(status="ok", found="1 MiB went there and back unchanged", details={"bytes": MOST_CHUNK_BYTES})
