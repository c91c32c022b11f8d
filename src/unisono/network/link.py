"""One site's conversation with the coordinator, which outlives connections.

The coordinator numbers its requests. A request is open until the coordinator has the whole answer and says so (Done). After a
lost connection both sides say how much of every open request and answer they have, and go on from there: nothing is computed
or sent again. A site whose process was restarted is another session: what was open with the old one is lost.
Frames in, frames out; sockets are elsewhere (`unisono.network.coordinator`, `unisono.network.agent`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from unisono.errors import ProtocolError, UnisonoError
from unisono.federation.tree import Tree
from unisono.network.wire.outbox import Outbox
from unisono.network.wire.parcel import Incoming, Outgoing
from unisono.network.wire.unisono_pb2 import Frame, Progress

MESSAGE_LIMIT = 2**31
OPEN_LIMIT = 64
"""Requests that may be open with one site at a time."""


class Restarted(Exception):
    """The site's process is another one than the one that was asked; or the request was given up."""


@dataclass
class _Asked:
    parcel: Outgoing
    answer: asyncio.Future[Tree]
    incoming: Incoming | None = None


class CoordinatorEnd:
    """The coordinator's end of the link to one site.

    before: the number before the first request's. Each life of the coordinator's process must begin at another one: a site still
    holds what the life before asked, and would answer that to a new request of the same number.
    """

    def __init__(self, limit: int = MESSAGE_LIMIT, before: int = 0) -> None:
        self.limit = limit
        self.session = ""
        self.bytes_in = 0
        self.bytes_out = 0
        self._outbox: Outbox | None = None
        self._asked: dict[int, _Asked] = {}
        self._number = before
        self._online = asyncio.Event()

    @property
    def is_online(self) -> bool:
        """Whether there is a connection now."""
        return self._online.is_set()

    @property
    def open_requests(self) -> int:
        """Requests that have no whole answer yet."""
        return len(self._asked)

    async def online(self) -> None:
        """Returns when there is a connection."""
        await self._online.wait()

    async def request(self, tree: Tree | Outgoing) -> Tree:
        """Send a tree, or one that was packed before, and wait for the answer: over as many connections as it takes. Raises
        `Restarted`."""
        self._number += 1
        number = self._number
        asked = _Asked(
            tree if isinstance(tree, Outgoing) else Outgoing(tree), asyncio.get_running_loop().create_future()
        )
        self._asked[number] = asked
        if self._outbox is not None:
            self._outbox.send(number, asked.parcel)
        self.bytes_out += asked.parcel.size
        try:
            return await asked.answer
        finally:
            self._asked.pop(number, None)
            if self._outbox is not None:
                self._outbox.drop(number)
                self._outbox.done(number)

    def welcome(self, session: str) -> list[Progress]:
        """A site says hello: the open requests, with the bytes of their answers that have come. Another session than before
        means another process: what was open with the old one is lost."""
        if self.session not in ("", session):
            self.give_up()
        self.session = session
        return [
            Progress(id=number, received=0 if asked.incoming is None else asked.incoming.received)
            for number, asked in self._asked.items()
        ]

    def connected(self, progress: dict[int, int], outbox: Outbox) -> None:
        """The site was welcomed. progress: bytes that it has of each request that it knows."""
        self._outbox = outbox
        for number, asked in self._asked.items():
            outbox.send(number, asked.parcel, progress.get(number, 0))
        self._online.set()

    def disconnected(self, outbox: Outbox) -> None:
        """A connection ended; open requests stay open."""
        if self._outbox is outbox:
            self._outbox = None
            self._online.clear()

    def give_up(self) -> None:
        """Whoever waits for an answer is told that it does not come."""
        for asked in self._asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(Restarted())
        self._asked.clear()

    def receive(self, frame: Frame) -> None:
        """A frame from the site. `ProtocolError` for one that no site of ours sends; the connection is then closed."""
        kind = frame.WhichOneof("kind")
        if kind == "begin":
            asked = self._asked.get(frame.begin.id)
            if asked is not None and asked.incoming is None:
                asked.incoming = Incoming(frame.begin.size, self.limit)
                self.bytes_in += _with_data(asked.incoming, frame)
                _finished(asked)
        elif kind == "chunk":
            asked = self._asked.get(frame.chunk.id)
            if asked is None:
                return  # given up meanwhile
            if asked.incoming is None:
                raise _unannounced()
            asked.incoming.append(frame.chunk.offset, frame.chunk.data)
            self.bytes_in += len(frame.chunk.data)
            _finished(asked)
        elif kind != "beat":
            raise _unexpected(kind)


def _finished(asked: _Asked) -> None:
    if asked.incoming is None or not asked.incoming.complete or asked.answer.done():
        return
    try:
        asked.answer.set_result(asked.incoming.tree())
    except ProtocolError as error:
        asked.answer.set_exception(error)


Handler = Callable[[Tree], Awaitable[Tree]]


@dataclass
class _Answering:
    incoming: Incoming
    work: asyncio.Task[None] | None = None
    answer: Outgoing | None = None


@dataclass
class SiteEnd:
    """The site's end of its link. handler: answers a request's tree."""

    handler: Handler
    session: str
    limit: int = MESSAGE_LIMIT
    bytes_in: int = 0
    bytes_out: int = 0
    _open: dict[int, _Answering] = field(default_factory=dict)
    _outbox: Outbox | None = None

    def progress(self) -> list[Progress]:
        """For the hello: the requests that are here, with the bytes that have come."""
        return [Progress(id=number, received=item.incoming.received) for number, item in self._open.items()]

    def connected(self, answered: dict[int, int], outbox: Outbox) -> None:
        """The coordinator said welcome. answered: its open requests, with the bytes of our answers that it has."""
        self._outbox = outbox
        for number in [number for number in self._open if number not in answered]:
            self._forget(number)
        for number, received in answered.items():
            item = self._open.get(number)
            if item is not None and item.answer is not None:
                outbox.send(number, item.answer, received)

    def disconnected(self, outbox: Outbox) -> None:
        """The connection ended; what is being answered goes on."""
        if self._outbox is outbox:
            self._outbox = None

    def receive(self, frame: Frame) -> None:
        """A frame from the coordinator. `ProtocolError` for one that no coordinator of ours sends."""
        kind = frame.WhichOneof("kind")
        if kind == "begin":
            number = frame.begin.id
            for done in frame.begin.done:
                self._forget(done)
            if number in self._open:
                if self._open[number].incoming.received:
                    raise _unexpected(kind)
                self._took(number, frame)  # announced again after a lost connection, of which nothing had come
                return
            if len(self._open) >= OPEN_LIMIT:
                raise ProtocolError(
                    f"More than {OPEN_LIMIT} requests are open.",
                    rule="open-requests",
                    remedy="The coordinator runs altered software, or never says that it has an answer. Report it.",
                )
            self._open[number] = _Answering(Incoming(frame.begin.size, self.limit))
            self._took(number, frame)
        elif kind == "chunk":
            item = self._open.get(frame.chunk.id)
            if item is None:
                return  # given up meanwhile
            item.incoming.append(frame.chunk.offset, frame.chunk.data)
            self.bytes_in += len(frame.chunk.data)
            self._begin(frame.chunk.id)
        elif kind == "done":
            self._forget(frame.done.id)
        elif kind != "beat":
            raise _unexpected(kind)

    def _took(self, number: int, frame: Frame) -> None:
        self.bytes_in += _with_data(self._open[number].incoming, frame)
        self._begin(number)

    def close(self) -> None:
        """Let go of everything that is open."""
        for number in list(self._open):
            self._forget(number)

    def _begin(self, number: int) -> None:
        item = self._open[number]
        if item.incoming.complete and item.work is None:
            item.work = asyncio.ensure_future(self._answer(number, item))

    async def _answer(self, number: int, item: _Answering) -> None:
        try:
            answer = await self.handler(item.incoming.tree())
        except UnisonoError as error:
            answer = {"kind": "error", "error": error.to_dict()}
        except Exception as error:  # noqa: BLE001  whatever it is, who asked must not wait for ever, and is told no value
            fault = ProtocolError(
                f"The request could not be answered ({type(error).__name__}).",
                rule="site-fault",
                remedy="Nothing left the site. Report it, with the versions of Unisono at both ends.",
            )
            answer = {"kind": "error", "error": fault.to_dict()}
        item.answer = Outgoing(answer)
        self.bytes_out += item.answer.size
        if self._outbox is not None and number in self._open:
            self._outbox.send(number, item.answer)

    def _forget(self, number: int) -> None:
        item = self._open.pop(number, None)
        if item is not None and self._outbox is not None:
            self._outbox.drop(number)


def _with_data(incoming: Incoming, frame: Frame) -> int:
    """What came with an announcement; how many bytes."""
    data = frame.begin.data
    if data:
        incoming.append(0, data)
    return len(data)


def _unexpected(kind: str | None) -> ProtocolError:
    return ProtocolError(
        f"A frame {kind or 'of no known kind'!r} has no place here.",
        rule="message-order",
        remedy="The connection is closed. The other end runs another version of Unisono, or altered software.",
    )


def _unannounced() -> ProtocolError:
    return ProtocolError(
        "Bytes of an answer came that was not announced.",
        rule="message-order",
        remedy="The connection is closed and opened again.",
    )
