"""The coordinator's half of preflight: the RPC ``Probe``, a stream that says who it is, echoes, swallows and sends bytes.

For whoever holds an invitation or is a site. What one stream may move and how long it may last is bounded, and so is how many
there are at a time: measuring must not slow down the studies that run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from unisono.errors import NetworkError, ProtocolError, UnisonoError
from unisono.federation.tree import Tree, pack, unpack
from unisono.network.pki import Peer
from unisono.network.wire.parcel import MOST_CHUNK_BYTES
from unisono.network.wire.unisono_pb2 import Packed
from unisono.network.wire.version import PROTOCOL
from unisono.version import VERSION

MOST_BYTES = 64 * 1024 * 1024
"""What one stream may move, each way."""
MOST_S = 900.0
MOST_AT_ONCE = 8
PIECE_BYTES = 64 * 1024
"""Small enough that a line of 1 Mbit/s shows some progress every half second."""


class Probes:
    """The probes of one coordinator. heartbeat_s: what sites are told."""

    def __init__(self, heartbeat_s: float, most_at_once: int = MOST_AT_ONCE, most_bytes: int = MOST_BYTES) -> None:
        self._heartbeat_s = heartbeat_s
        self._most_at_once = most_at_once
        self._most_bytes = most_bytes
        self._open = 0

    async def serve(
        self, peer: Peer, read: Callable[[], Awaitable[Any]], write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """One stream, until the other end closes it or a limit is reached, which is said as ``{error: ...}``. read and write: one
        message (`Packed`, serialised) at a time; what is read is no bytes at the end."""
        try:
            if self._open >= self._most_at_once:
                raise NetworkError(
                    f"{self._most_at_once} others are measuring now.",
                    rule="probes-at-once",
                    remedy="Run preflight again in a few minutes.",
                )
            self._open += 1
            try:
                async with asyncio.timeout(MOST_S):
                    await self._talk(peer, read, write)
            finally:
                self._open -= 1
        except TimeoutError:
            await write(_packed({"error": _limit(f"A probe may last {MOST_S:g} seconds.").to_dict()}))
        except UnisonoError as error:
            await write(_packed({"error": error.to_dict()}))

    async def _talk(
        self, peer: Peer, read: Callable[[], Awaitable[Any]], write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        came = sent = swallowed = 0
        while isinstance(data := await read(), bytes):
            came += len(data)
            asked = _tree(data)
            wanted = asked.get("bytes", 0)
            if type(wanted) is not int or wanted < 0 or max(came, sent + wanted) > self._most_bytes:
                raise _limit(f"A probe may move {self._most_bytes} bytes each way.")
            kind = asked.get("probe")
            if kind == "hello":
                await write(_packed({"ok": self._greeting(peer)}))
            elif kind == "echo":
                sent += len(data)
                await write(_packed({"ok": {"data": asked.get("data")}}))
            elif kind == "sink":
                swallowed += len(data)
            elif kind == "total":
                await write(_packed({"ok": {"bytes": swallowed}}))
            elif kind == "source":
                sent += wanted
                await _source(wanted, write)
            else:
                raise _unknown()

    def _greeting(self, peer: Peer) -> Tree:
        return {
            "protocol": PROTOCOL,
            "software": VERSION,
            "role": peer.role,
            "name": peer.name,
            "heartbeat_ms": round(self._heartbeat_s * 1000),
            "time_ms": round(time.time() * 1000),
            "message_bytes": MOST_CHUNK_BYTES,
        }


async def _source(wanted: int, write: Callable[[bytes], Awaitable[None]]) -> None:
    """So many bytes, in pieces. Flow control makes this wait for a slow line."""
    whole = _packed({"ok": {"data": np.zeros(PIECE_BYTES, np.uint8)}})
    for _ in range(wanted // PIECE_BYTES):
        await write(whole)
    await write(_packed({"ok": {"data": np.zeros(wanted % PIECE_BYTES, np.uint8)}}))


def _tree(data: bytes) -> dict[str, Any]:
    try:
        tree = unpack(Packed.FromString(data).tree)
    except DecodeError as error:
        raise _unknown() from error
    if not isinstance(tree, dict):
        raise _unknown()
    return tree


def _packed(tree: Tree) -> bytes:
    return Packed(tree=pack(tree)).SerializeToString()


def _limit(what: str) -> NetworkError:
    return NetworkError(what, rule="probe-limit", remedy="Run preflight again.")


def _unknown() -> ProtocolError:
    return ProtocolError(
        "A probe asks for something that this coordinator does not know.",
        rule="message-format",
        remedy="Both ends must run the same version of Unisono.",
    )
