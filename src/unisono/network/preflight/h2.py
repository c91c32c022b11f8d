"""The little of HTTP/2 that it takes to see whether a connection lives: preface, SETTINGS and PING (RFC 9113, sections 3.4, 6.5, 6.7).

No request is made. It is for addresses where no token opens the coordinator's own probe.
"""

from __future__ import annotations

import asyncio
import secrets

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1
HEADER_BYTES = 9
_MOST_BYTES = 16 * 1024
"""The largest frame that a peer may send before it was told otherwise (section 4.2)."""


class Ended(Exception):
    """The other end closed the connection. politely: it said GOAWAY, so it was the other end itself and nothing between."""

    def __init__(self, politely: bool) -> None:
        super().__init__("the connection was closed")
        self.politely = politely


class Connection:
    """HTTP/2 over a connection that was just opened. Every wait is the caller's to bound."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def begin(self) -> None:
        """The prefaces of both ends. `Ended`, or `ValueError` if the other end does not speak HTTP/2."""
        self._writer.write(PREFACE + frame(SETTINGS))
        kind, flags, _ = await self._next()
        if kind != SETTINGS or flags & ACK:
            raise ValueError("HTTP/2 begins with SETTINGS")
        self._writer.write(frame(SETTINGS, ACK))

    async def ping(self) -> None:
        """Returns when the other end has answered. `Ended`, or `ValueError`."""
        mark = secrets.token_bytes(8)
        self._writer.write(frame(PING, 0, mark))
        while True:
            kind, flags, payload = await self._next()
            if kind == PING and flags & ACK and payload == mark:
                return

    async def until_closed(self) -> None:
        """Read whatever comes, and answer its PINGs; never returns, but raises `Ended` or `ValueError`."""
        while True:
            await self._next()

    async def _next(self) -> tuple[int, int, bytes]:
        """The next frame: its type, flags and payload. What must be answered is answered."""
        try:
            head = await self._reader.readexactly(HEADER_BYTES)
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            if size > _MOST_BYTES:
                raise ValueError("not a frame of HTTP/2")
            payload = await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Ended(politely=False) from error
        if kind == GOAWAY:
            raise Ended(politely=True)
        if kind == PING and not flags & ACK:
            self._writer.write(frame(PING, ACK, payload))
        elif kind == SETTINGS and not flags & ACK:
            self._writer.write(frame(SETTINGS, ACK))
        return kind, flags, payload


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """A frame on stream 0, the connection's own."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload
