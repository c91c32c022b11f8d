"""A line between two ends of TCP that a test makes slow, lossy, cut or deaf while it is used; and that counts what it carries.

A relay on loopback with an event loop in a thread of its own. It emulates what a connection's ends see of the line, not packets:
*loss* holds a segment back for a retransmission time-out that doubles, and with it everything behind it, as TCP does above a
line that loses packets (RFC 6298). The relay's own TCP handshake is not delayed.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Self, cast

from tests.support.doors import Door, Refused
from tests.support.weather import CLEAR, SHORT_BYTES, Fate, Way, Weather

SEGMENT_BYTES = 1448
"""Of TCP over Ethernet."""
FIRST_TIMEOUT_S = 0.2
"""Linux's least retransmission time-out."""
_HEAD_BYTES = 16 * 1024


class Line:
    """A port that leads to `target` (a port of loopback), as a context manager.

    fates: of its connections, one after the other; those that come later live for ever. door: an HTTP proxy's manners (who dials
    then names the target); tls: the certificate of a firewall that opens TLS.
    """

    def __init__(
        self,
        target: int,
        weather: Weather = CLEAR,
        *,
        fates: Iterable[Fate] = (),
        door: Door | None = None,
        tls: ssl.SSLContext | None = None,
        seed: int = 0,
    ) -> None:
        self.target = target
        self.weather = weather
        self.door = door
        self.tls = tls
        self.carried: dict[Way, int] = {"up": 0, "down": 0}
        self.connections = 0
        self.draw = random.Random(seed)
        self._fates = iter(fates)
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._server: Any = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def live(self) -> int:
        """Connections that are open now."""
        return len(self._open)

    def cut(self) -> None:
        """Reset every connection that there is, at both ends."""

        async def all_of_them() -> None:
            for connection in list(self._open):
                connection.reset()

        self._do(all_of_them)

    def forget(self, *ways: Way) -> None:
        """Half-open: what present connections send these ways (both, if none is named) vanishes from now on, acknowledged. New
        ones work."""

        async def all_of_them() -> None:
            for connection in self._open:
                connection.forget(*ways or ("up", "down"))

        self._do(all_of_them)

    def fate(self) -> Fate:
        """The next connection's."""
        return next(self._fates, Fate())

    # -- in the loop's thread -----------------------------------------------------------------------------------------

    def _do(self, what: Callable[[], Any]) -> None:
        asyncio.run_coroutine_threadsafe(what(), self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(self._accepted, "127.0.0.1", 0, ssl=self.tls)

    async def _end(self) -> None:
        self._server.close()
        for connection in list(self._open):
            connection.reset()
        await asyncio.sleep(0)  # transports say that they are closed

    def _accepted(self) -> asyncio.Protocol:
        self.connections += 1
        connection = _Connection(self, self._loop)
        self._open.add(connection)
        return connection.ends["up"]

    def over(self, connection: _Connection) -> None:
        """A connection ended."""
        self._open.discard(connection)


class _Connection:
    """Who dialled, and the target. ends["up"] receives what goes up."""

    def __init__(self, line: Line, loop: asyncio.AbstractEventLoop) -> None:
        self.line = line
        self.loop = loop
        self.fate = line.fate()
        self.carried = 0
        self.ends: dict[Way, _End] = {"up": _End(self, "up"), "down": _End(self, "down")}
        self._dialling: asyncio.Task[None] | None = None
        self._used = loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self._over = False

    def other(self, end: _End) -> _End:
        """Where that end's bytes go."""
        return self.ends["down" if end.way == "up" else "up"]

    def accepted(self) -> None:
        """Who dialled is there: dial on, or listen first to whom a proxy is to call."""
        self._looked()
        if self.line.door is None:
            self.dial("127.0.0.1", self.line.target)

    def dial(self, host: str, port: int, greeting: bytes = b"") -> None:
        """Connect to the target; greeting: what is then said to who dialled."""

        async def there() -> None:
            own = None
            if self.line.tls is not None:
                own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                own.check_hostname, own.verify_mode = False, ssl.CERT_NONE
                own.set_alpn_protocols(["h2"])
            try:
                await self.loop.create_connection(lambda: self.ends["down"], host, port, ssl=own)
            except OSError:
                self.reset()
                return
            self.ends["up"].say(greeting)
            self.ends["up"].move()

        self._dialling = self.loop.create_task(there())

    @property
    def is_dialled(self) -> bool:
        """Whether it is known where it leads."""
        return self._dialling is not None

    def carrying(self, way: Way, size: int) -> None:
        """So many bytes came."""
        self._used = self.loop.time()
        self.line.carried[way] += size
        self.carried += size
        if self.carried > self.fate.after_bytes:
            match self.fate.how:
                case "cut":
                    self.reset()
                case "both":
                    self.forget("up", "down")
                case one:
                    self.forget(one)

    def forget(self, *ways: Way) -> None:
        """What is sent these ways vanishes from now on."""
        for way in ways:
            self.ends[way].deaf = True

    def reset(self) -> None:
        """End it with a reset, whatever is on its way."""
        if self._dialling is not None and not self._over:
            self._dialling.cancel()
        for end in self.ends.values():
            end.reset()
        self.ended()

    def ended(self) -> None:
        """Both ends are closed."""
        if not self._over:
            self._over = True
            if self._watch is not None:
                self._watch.cancel()
            self.line.over(self)

    def _looked(self) -> None:
        """Cut it if nothing was carried for too long; look again when that could be so."""
        idle_s = self.line.weather.idle_s
        silent_s = self.loop.time() - self._used
        if silent_s >= idle_s:
            self.reset()
        elif not math.isinf(idle_s):
            self._watch = self.loop.call_later(idle_s - silent_s, self._looked)


class _End(asyncio.Protocol):
    """One end of a connection: what comes from it waits until it is due at the other one."""

    def __init__(self, connection: _Connection, way: Way) -> None:
        self.connection = connection
        self.way = way
        self.deaf = False
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        self._waiting = 0
        self._free = 0.0
        """When the line has room for the next segment."""
        self._timer: asyncio.TimerHandle | None = None
        self._ended = self._paused = self._full = False
        self._head = b""

    # -- asyncio's calls ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket")
        # What is on the way is in the line, and not in the kernel.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SHORT_BYTES)
        if self.way == "up":
            self.connection.accepted()

    def data_received(self, data: bytes) -> None:
        door = self.connection.line.door
        if door is not None and not self.connection.is_dialled:
            self._asked(door, data)
            return
        self.connection.carrying(self.way, len(data))
        if not self.deaf and self._transport is not None and not self._transport.is_closing():
            self._put(data)

    def eof_received(self) -> bool:
        self._ended = True
        self.move()
        return self.connection.line.tls is None  # TLS has no half-closed connections

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self._ended = None, True
        if exc is not None:
            self.connection.reset()
        self.move()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self.connection.other(self).move()

    # -- the line -----------------------------------------------------------------------------------------------------

    def _put(self, data: bytes) -> None:
        weather, now = self.connection.line.weather, self.connection.loop.time()
        whole = math.isinf(weather.bytes_per_s) and not weather.loss
        for at in range(0, len(data), len(data) if whole else SEGMENT_BYTES):
            segment = data if whole else data[at : at + SEGMENT_BYTES]
            self._free = max(self._free, now) + len(segment) / weather.bytes_per_s + self._stalled(weather.loss)
            self._queue.append((self._free + weather.delay_s, segment))
        self._waiting += len(data)
        if self._waiting > weather.queue_bytes and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self.move()

    def _stalled(self, loss: float) -> float:
        """Seconds until a segment is through: nothing, or time-outs of which each is twice the one before."""
        seconds, timeout = 0.0, FIRST_TIMEOUT_S
        while loss and self.connection.line.draw.random() < loss:
            seconds += timeout
            timeout *= 2
        return seconds

    def move(self) -> None:
        """Give the other end what is due; come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        to, now = self.connection.other(self), self.connection.loop.time()
        if to._transport is None and not to._ended:
            return  # not connected yet
        while self._queue and not to._full and (self._queue[0][0] <= now or to._transport is None):
            _, segment = self._queue.popleft()
            self._waiting -= len(segment)
            to.say(segment)
        if (
            self._paused
            and self._waiting <= self.connection.line.weather.queue_bytes // 2
            and self._transport is not None
        ):
            self._paused = False
            self._transport.resume_reading()
        if self._queue and not to._full:
            self._timer = self.connection.loop.call_at(self._queue[0][0], self.move)
        elif self._ended and not self._queue:
            to.finish()

    def say(self, data: bytes) -> None:
        """Write to this end."""
        if self._transport is not None and data:
            self._transport.write(data)

    def finish(self) -> None:
        """Nothing more comes for this end: say so to it; close it if nothing comes from it either."""
        if self._transport is None:
            if self.connection.other(self)._transport is None:
                self.connection.ended()
        elif self._ended or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._transport.write_eof()

    def reset(self) -> None:
        """RST, at once."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            raw = self._transport.get_extra_info("socket")
            if raw is not None:  # it may have been lost this moment
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def _asked(self, door: Door, data: bytes) -> None:
        """The head of a request to a proxy, as far as it has come."""
        self._head += data
        if b"\r\n\r\n" not in self._head and len(self._head) < _HEAD_BYTES:
            return
        try:
            host, port, greeting = door.open(self._head.partition(b"\r\n\r\n")[0].decode("latin-1"))
        except Refused as refused:
            self.say(refused.answer)
            if self._transport is not None:
                self._transport.close()
            return
        self.connection.dial(host, port, greeting)
