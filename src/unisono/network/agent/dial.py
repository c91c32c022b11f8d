"""The site's one connection: dialled out, kept, and dialled again.

Hello and welcome, then frames both ways and a beat every heartbeat. A connection on which nothing came for three heartbeats is
dead and closed, however alive the sockets look. Then a wait that grows from try to try, with chance in it so that a hundred
hospitals do not come back in the same second; and the link (`unisono.network.link`) goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unisono.errors import NetworkError, ProtocolError, UnisonoError
from unisono.federation.lineage import ROLLED_BACK
from unisono.federation.tree import Tree, pack
from unisono.network import pki
from unisono.network.agent.channel import SERVICE, Channel, open_channel, send, trouble
from unisono.network.agent.marks import Marks
from unisono.network.agent.text import plain
from unisono.network.library import grpc_
from unisono.network.link import SiteEnd
from unisono.network.log import Clock
from unisono.network.marks import to_wire
from unisono.network.pki import Credentials
from unisono.network.preflight.whose import naming
from unisono.network.wire.envelope import RULE
from unisono.network.wire.outbox import Outbox
from unisono.network.wire.unisono_pb2 import Beat, Frame, Hello, Welcome
from unisono.network.wire.version import PROTOCOL, same_protocol
from unisono.site.agent import utc_now
from unisono.version import VERSION

MISSED_BEATS = 3
FINAL = ("certificate-revoked", "member-revoked", "certificate-role")
"""Refusals that trying again does not change: a revoked site joins anew, and a certificate of another role is none of a site's."""
FOR_GOOD = (*FINAL, ROLLED_BACK)
"""What ends an agent until a person does something: it is not to be started again by itself."""
_LONGEST_HEARTBEAT_MS = 3_600_000
_LAST_WORDS_S = 1.0


@dataclass(frozen=True)
class Pace:
    """Seconds. first: the wait after the first failure, doubled from try to try up to `longest`. welcome: how long a coordinator
    may take to answer a hello. steady: a connection that lived so long counts as a success, and the waits begin anew."""

    first: float = 0.5
    longest: float = 30.0
    welcome: float = 30.0
    steady: float = 10.0


Observer = Callable[[str, dict[str, Any]], None]


class Line:
    """A site's line to its coordinator. end: what the frames are for. about: what the hello says of this site. observe: is told
    ``connected``, ``disconnected`` and, with an error's words, ``unreachable``. marks: how far this site and its coordinator have
    come, where this site remembers anything yet."""

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        proxy: str | None,
        end: SiteEnd,
        about: Callable[[], Tree],
        observe: Observer,
        pace: Pace = Pace(),
        clock: Clock = utc_now,
        marks: Marks | None = None,
    ) -> None:
        self.address = address
        self.credentials = credentials
        self.trouble: UnisonoError | None = None
        self._proxy = proxy
        self._end = end
        self._about = about
        self._observe = observe
        self._pace = pace
        self._clock = clock
        self._marks = marks
        self._channel: Channel | None = None
        self._outbox: Outbox | None = None
        self._stream: Any = None
        self._online = asyncio.Event()
        self._stopping = asyncio.Event()
        self._welcomed_s = 0.0

    @property
    def is_online(self) -> bool:
        """Whether the coordinator has welcomed this site on a connection that lives."""
        return self._online.is_set()

    async def online(self) -> None:
        """Returns when it has."""
        await self._online.wait()

    async def keep(self) -> None:
        """Connect, again and again, until `stop`. `NetworkError` if this site's memory went back (``rolled-back``), or if the
        coordinator refuses this certificate for good (`FINAL`)."""
        failures = 0
        while not self._stopping.is_set():
            self._welcomed_s = 0.0
            try:
                await self._connection()
                self._observe("disconnected", {})
            except UnisonoError as error:
                if error.rule in FINAL:
                    self._observe("unreachable", {"rule": error.rule, "what": error.what, "remedy": error.remedy})
                    raise  # the coordinator will not say otherwise, however often it is asked
                if error.rule == ROLLED_BACK:
                    raise  # what this site promised may be forgotten: nothing more is answered, and keys are
                self.trouble = said = await naming(error, self.address, self._proxy)
                self._observe("unreachable", {"rule": said.rule, "what": said.what, "remedy": said.remedy})
            except Exception as error:  # noqa: BLE001  (a fault of ours: an agent that serves for years tries again)
                self._observe("fault", {"to": "", "kind": type(error).__name__})
            lived = time.monotonic() - self._welcomed_s if self._welcomed_s else 0.0
            failures = 1 if lived >= self._pace.steady else failures + 1
            longest = min(self._pace.longest, self._pace.first * 2.0 ** min(failures - 1, 30))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(longest * random.uniform(0.5, 1.0)):  # noqa: S311  (spread, not secrecy)
                    await self._stopping.wait()

    async def call(self, tree: Tree) -> Tree:
        """A command to the coordinator, over the same connection. Raises its error, or `NetworkError` if there is none."""
        channel = self._channel
        if channel is None or not self.is_online:
            raise self.trouble or NetworkError(
                f"There is no connection to the coordinator at {self.address} yet.",
                rule="unreachable",
                remedy="It is tried again by itself.",
            )
        return await send(channel, "Call", tree, self.address)

    def again(self, credentials: Credentials) -> None:
        """Close this connection and connect anew, with these credentials; nothing on its way is lost."""
        self.credentials = credentials
        if self._stream is not None:
            self._stream.cancel()

    def stop(self) -> None:
        """Connect no more. What waits to be sent is sent; then the connection ends, and with it `keep`."""
        self._stopping.set()
        if self._outbox is not None:
            self._outbox.close()
        elif self._stream is not None:
            self._stream.cancel()

    # -- one connection -----------------------------------------------------------------------------------------------

    async def _connection(self) -> None:
        """From the first packet to the last. Returns when it ended; `NetworkError` or `ProtocolError` says why it did not come
        about, or was closed."""
        grpc = grpc_()
        channel = open_channel(self.address, self.credentials, self._proxy)
        try:
            stream = channel.stream_stream(
                SERVICE + "Connect", request_serializer=Frame.SerializeToString, response_deserializer=Frame.FromString
            )()
            try:
                self._stream = stream
                await self._talk(channel, stream)
            except grpc.aio.AioRpcError as error:
                raise self._failed(error.code(), error.details(), error.trailing_metadata()) from error
            except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:  # written to after it was closed
                raise await self._closed(stream) from error
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise  # this task is to end; else it is the stream that `again` or `stop` cancelled
            finally:
                self._stream = None
                stream.cancel()
        finally:
            await channel.close()

    async def _talk(self, channel: Channel, stream: Any) -> None:
        welcome = await self._welcomed(stream)
        outbox = Outbox()
        self._end.connected({item.id: item.received for item in welcome.open}, outbox)
        self._channel, self._outbox, self.trouble = channel, outbox, None
        self._welcomed_s = time.monotonic()
        self._online.set()
        skew_s = welcome.time_ms / 1000 - self._clock().timestamp() if welcome.time_ms else 0.0
        self._observe("connected", {"software": plain(welcome.software, 40), "clock_skew_s": round(skew_s, 1)})
        heartbeat_s = min(welcome.heartbeat_ms or 15_000, _LONGEST_HEARTBEAT_MS) / 1000
        tasks = [
            asyncio.ensure_future(self._read(stream, heartbeat_s * MISSED_BEATS)),
            asyncio.ensure_future(self._write(stream, outbox)),
            asyncio.ensure_future(self._beat(outbox, heartbeat_s)),
        ]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():  # it could not be written to: a good-bye may be on its way, and says why
                await asyncio.wait(tasks[:1], timeout=_LAST_WORDS_S)
            for task in tasks[:2]:
                if task.done():
                    task.result()
        finally:
            self._online.clear()
            self._channel = self._outbox = None
            self._end.disconnected(outbox)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _welcomed(self, stream: Any) -> Welcome:
        """Say hello, and hear welcome. `NetworkError` with the coordinator's own words if it says no."""
        hello = Hello(
            protocol=PROTOCOL,
            software=VERSION,
            session=self._end.session,
            open=self._end.progress(),
            about=pack(self._about()),
            mark=None if self._marks is None else to_wire(self._marks.mine()),
            remembered=None if self._marks is None else to_wire(self._marks.remembered()),
        )
        try:
            async with asyncio.timeout(self._pace.welcome):
                await stream.write(Frame(hello=hello))
                first = await stream.read()
        except TimeoutError as error:
            raise NetworkError(
                f"The coordinator at {self.address} did not answer within {self._pace.welcome:g} seconds.",
                rule="unreachable",
                remedy="It is tried again by itself. A proxy that does not let long-lived streams through does this: "
                "`unisono site preflight` finds out.",
            ) from error
        kind = first.WhichOneof("kind") if isinstance(first, Frame) else None
        if kind == "bye":
            raise _bye(first)
        if kind != "welcome":
            raise await self._closed(stream)
        same_protocol(first.welcome.protocol, plain(first.welcome.software, 40), "coordinator")
        if self._marks is not None:
            self._marks.welcomed(first.welcome)
        return first.welcome  # type: ignore[no-any-return]

    async def _read(self, stream: Any, dead_s: float) -> None:
        """Every frame that comes; `NetworkError` if none does for `dead_s`, or the coordinator says good-bye."""
        try:
            async with asyncio.timeout(dead_s) as deadline:
                while True:
                    frame = await stream.read()
                    if not isinstance(frame, Frame):  # the end of the stream
                        return
                    deadline.reschedule(asyncio.get_running_loop().time() + dead_s)
                    if frame.WhichOneof("kind") == "bye":
                        raise _bye(frame)
                    if frame.WhichOneof("kind") == "beat" and self._marks is not None:
                        self._marks.heard(frame.beat)
                    self._end.receive(frame)
        except TimeoutError as error:
            raise NetworkError(
                f"Nothing came from the coordinator at {self.address} for {dead_s:g} seconds: the connection is dead.",
                rule="dead-connection",
                remedy="It is opened again by itself. If it happens often, something between cuts idle connections: ask the IT "
                "desk for a longer idle time-out, or the operator for a shorter heartbeat.",
            ) from error

    async def _write(self, stream: Any, outbox: Outbox) -> None:
        """Every frame that is due. gRPC's flow control makes this wait for a slow line."""
        async for frame in outbox.frames():
            await stream.write(frame)
        await stream.done_writing()
        await stream.code()  # the coordinator closes its half

    async def _beat(self, outbox: Outbox, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            outbox.put(Frame(beat=Beat(time_ms=int(self._clock().timestamp() * 1000))))

    def _failed(self, code: Any, details: str | None, more: Any) -> UnisonoError:
        """What gRPC says; or that this site's own certificate is over, which the other end shows by hanging up."""
        error = trouble(code, details, self.address)
        rule = next((value for key, value in more or () if key == RULE), "")
        if error.rule == "certificate-refused" and rule in FINAL:
            return NetworkError(error.what, rule=str(rule), remedy=error.remedy)
        if error.rule == "unreachable":
            try:
                pki.check(pki.peer_of(self.credentials.chain_pem), self._clock())
            except NetworkError as over:
                return over
        return error

    async def _closed(self, stream: Any) -> UnisonoError:
        """Why a stream ended that should not have."""
        if stream.done():
            return self._failed(await stream.code(), await stream.details(), await stream.trailing_metadata())
        return ProtocolError(
            "The coordinator did not begin with a welcome.",
            rule="message-order",
            remedy="It runs another version of Unisono; install the same one at both ends.",
        )


def _bye(frame: Frame) -> NetworkError:
    """What the coordinator said when it closed the connection."""
    bye = frame.bye
    return NetworkError(
        plain(bye.what) or "The coordinator closed the connection.",
        rule=plain(bye.rule, 60) or "closed",
        remedy=plain(bye.remedy) or "It is tried again by itself.",
    )
