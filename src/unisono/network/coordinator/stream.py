"""One connection of one site: its hello, frames both ways, heartbeats, and an end that is always said and logged.

A site may only speak frames. Whatever else comes, or comes out of order, ends the connection with a Bye that says which rule;
requests stay open and go on over the next connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from unisono.errors import NetworkError, ProtocolError, StorageError, UnisonoError
from unisono.federation.tree import unpack
from unisono.network import link
from unisono.network.clock import wrong_clock
from unisono.network.coordinator.marks import Marks
from unisono.network.coordinator.sites import Line, Sites
from unisono.network.log import Log
from unisono.network.marks import to_wire
from unisono.network.wire.outbox import Outbox
from unisono.network.wire.unisono_pb2 import Beat, Bye, Frame, Hello, Welcome
from unisono.network.wire.version import PROTOCOL, same_protocol
from unisono.version import VERSION

if TYPE_CHECKING:
    import grpc

    from unisono.network.pki import Peer

MISSED = 3
"""Heartbeats without a sign of life after which a connection is dead."""
_PARTING_S = 2.0
"""To write a Bye to somebody who may not be reading."""
_PROOF_S = 20.0
"""At most so long a second agent waits while the first one is to show that it lives; less than an agent waits for a welcome."""
_ABOUT_BYTES = 64 * 1024
_SESSION_LENGTH = 100


class Stream:
    """One site's live connection. check: raises if the peer's certificate no longer counts; called with every heartbeat."""

    def __init__(
        self,
        context: grpc.aio.ServicerContext[bytes, bytes],
        peer: Peer,
        sites: Sites,
        marks: Marks,
        log: Log,
        clock: Callable[[], datetime],
        heartbeat_s: float,
        check: Callable[[], None],
    ) -> None:
        self.peer = peer
        self.fingerprint = peer.fingerprint
        self.session = ""
        self._context = context
        self._sites = sites
        self._marks = marks
        self._log = log
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._check = check
        self._outbox = Outbox()
        self._bye: UnisonoError | None = None
        self._line: Line | None = None
        self._heard = asyncio.Event()
        self._over = False
        self._silent = False

    async def serve(self, hello_s: float) -> None:
        """Until the connection ends. hello_s: within which the site must say who it is."""
        # Before anything that can be cancelled: gRPC cannot end a call whose first write was given up half-way.
        await self._context.send_initial_metadata(())
        try:
            await self._welcomed(hello_s)
            await self._carry()
        except UnisonoError as error:
            self._bye = error
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._context.write(_frame(bye=_bye(error))), _PARTING_S)
        finally:
            self.leave()
            rule, why = self._why_left()
            self._log.write("site-left", site=self.peer.name, session=self.session[:16], rule=rule, why=why)

    def close(self, error: UnisonoError) -> None:
        """Say good-bye, and why."""
        if self._bye is None:
            self._bye = error
            self._outbox.put(Frame(beat=Beat()))  # wakes the writer

    def leave(self) -> None:
        """Let go of the link at once: another stream takes its place."""
        self._heard.set()
        if self._line is not None:
            line, self._line = self._line, None
            line.end.disconnected(self._outbox)
            line.seen = self._clock()
            self._sites.left(line, self)
            self._marks.keep(line.name)

    async def beats_within(self, seconds: float) -> bool:
        """Whether a sign of life comes within so long. Also false once the connection has ended."""
        self._heard.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), seconds)
        return self._heard.is_set() and self._line is not None

    # -- hello --------------------------------------------------------------------------------------------------------

    async def _welcomed(self, hello_s: float) -> None:
        try:
            async with asyncio.timeout(hello_s):
                frame = await self._read()
        except TimeoutError:
            raise _trouble("No hello came.", "hello-late", "Open the connection again.") from None
        if frame is None or frame.WhichOneof("kind") != "hello":
            raise ProtocolError(
                "The first frame was no hello.",
                rule="message-order",
                remedy="The connection is closed. The other end runs another version of Unisono, or altered software.",
            )
        hello = frame.hello
        same_protocol(hello.protocol, hello.software, "site")
        about = _about(hello)
        line = self._sites.line(self.peer.name)
        await self._alone(line, hello.session)
        remembered = self._marks.arrived(line.name, hello)
        self.session = hello.session
        # From here to `connected` nothing else runs: what one side says is open is what the other finds.
        line.about, line.seen, line.expires, line.skew_s = about, self._clock(), self.peer.not_after, None
        opened = line.end.welcome(hello.session)
        self._outbox.put(
            Frame(
                welcome=Welcome(
                    protocol=PROTOCOL,
                    software=VERSION,
                    open=opened,
                    heartbeat_ms=round(self._heartbeat_s * 1000),
                    time_ms=self._now_ms(),
                    mark=to_wire(self._marks.told()),
                    remembered=to_wire(remembered),
                )
            )
        )
        line.end.connected({p.id: p.received for p in hello.open}, self._outbox)
        self._line = line
        self._sites.arrived(line, self)
        self._log.write("site-arrived", site=line.name, session=self.session[:16], software=hello.software[:64])
        self._compare_clocks(about.get("time_ms"))

    def _compare_clocks(self, theirs_ms: Any) -> None:
        if type(theirs_ms) is int and self._line is not None:
            skew_s = self._line.skew_s = (theirs_ms - self._now_ms()) / 1000
            wrong = wrong_clock(self._clock(), skew_s, "the coordinator", self.peer.name)
            if wrong is not None:
                self._log.refused("clock-wrong", wrong, site=self.peer.name)

    async def _alone(self, line: Line, session: str) -> None:
        """One live stream a site. The same session again is a half-open link that was given up at the other end; another
        session is another process: the first one is asked for a sign of life, and stays if it gives one."""
        while isinstance(first := line.stream, Stream):
            if first.session != session and await first.beats_within(min(self._heartbeat_s * 1.25, _PROOF_S)):
                self._log.write("two-agents", site=line.name, fingerprint=self.fingerprint)
                raise _trouble(
                    f"Another agent of {line.name!r} is connected, and alive.",
                    "two-agents",
                    "One site has one agent: stop the other one. If there is none of yours, somebody has a copy of this "
                    "site's key: call the coordinator's operator, who revokes it.",
                )
            if line.stream is first:
                first.close(_replaced())
                first.leave()

    # -- frames both ways ---------------------------------------------------------------------------------------------

    async def _carry(self) -> None:
        reader, writer, beats = (asyncio.ensure_future(work) for work in (self._receive(), self._send(), self._beat()))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not writer.done() and not self._silent:
                self._over = True
                self._outbox.put(Frame(beat=Beat()))  # wakes the writer, which may be in the middle of a frame
                await asyncio.wait({writer}, timeout=_PARTING_S)
        finally:
            for task in (reader, writer, beats):
                task.cancel()
            await asyncio.gather(reader, writer, beats, return_exceptions=True)

    async def _receive(self) -> None:
        """Until the site closes, falls silent, or breaks a rule."""
        dead_s, clock = MISSED * self._heartbeat_s, asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(dead_s) as deadline:
                while (frame := await self._read()) is not None and self._line is not None:
                    deadline.reschedule(clock() + dead_s)
                    self._heard.set()
                    if frame.WhichOneof("kind") == "beat":
                        self._check()
                    self._line.end.receive(frame)
        except TimeoutError:
            self._silent = True
        except StorageError as error:  # its words are for this machine's operator
            self._log.refused("not-kept", error, site=self.peer.name)
            self.close(_storage())
        except UnisonoError as error:
            self.close(error)

    async def _send(self) -> None:
        """Everything that is due, one frame at a time; a Bye is the last."""
        frames = self._outbox.frames()
        # Only its bytes are held while a frame is written: a hundred sites are written to at a time.
        while (data := await self._due(frames)) is not None:
            await self._context.write(data)
        if self._bye is not None:
            await self._context.write(_frame(bye=_bye(self._bye)))

    async def _due(self, frames: AsyncIterator[Frame]) -> bytes | None:
        """The next frame's bytes; None if there are no more, or the connection is to end."""
        frame = await anext(frames, None)
        return None if frame is None or self._over or self._bye is not None else frame.SerializeToString()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            self._marks.keep(self.peer.name)
            self._outbox.put(Frame(beat=Beat(time_ms=self._now_ms(), mark=to_wire(self._marks.told()))))

    async def _read(self) -> Frame | None:
        """The next frame; None when the site closed its side."""
        read: Callable[[], Awaitable[Any]] = self._context.read
        data = await read()
        if not isinstance(data, bytes):
            return None
        try:
            return Frame.FromString(data)
        except DecodeError as error:
            raise ProtocolError(
                f"{len(data)} bytes that are no frame came.",
                rule="message-format",
                remedy="The connection is closed. The other end runs another version of Unisono, or altered software.",
            ) from error

    def _now_ms(self) -> int:
        return round(self._clock().timestamp() * 1000)

    def _why_left(self) -> tuple[str, str]:
        """The rule, and in words."""
        if self._bye is not None:
            return self._bye.rule, self._bye.what
        return ("heartbeats-missed", "silent") if self._silent else ("closed", "closed by the site")


def _about(hello: Hello) -> dict[str, Any]:
    """What the site says of itself: method versions, readiness."""
    if not hello.session or len(hello.session) > _SESSION_LENGTH or len(hello.about) > _ABOUT_BYTES:
        raise ProtocolError(
            "The hello names no session, or says more than fits.",
            rule="message-format",
            remedy="The connection is closed. The other end runs another version of Unisono, or altered software.",
        )
    if len(hello.open) > link.OPEN_LIMIT:
        raise ProtocolError(
            f"The hello names more than {link.OPEN_LIMIT} open requests.",
            rule="open-requests",
            remedy="The connection is closed. The other end runs another version of Unisono, or altered software.",
        )
    about = unpack(hello.about) if hello.about else {}
    return about if isinstance(about, dict) else {}


def _bye(error: UnisonoError) -> Bye:
    return Bye(rule=error.rule, what=error.what, remedy=error.remedy)


def _frame(*, bye: Bye) -> bytes:
    return Frame(bye=bye).SerializeToString()


def _trouble(what: str, rule: str, remedy: str) -> NetworkError:
    return NetworkError(what, rule=rule, remedy=remedy)


def _replaced() -> NetworkError:
    return _trouble("Another connection of this site took over.", "connection-replaced", "Nothing to do.")


def _storage() -> NetworkError:
    return _trouble(
        "The coordinator cannot keep what is coming: its disk is full, or cannot be written.",
        "coordinator-storage",
        "The connection is opened again later. The coordinator's operator must free disk space.",
    )
