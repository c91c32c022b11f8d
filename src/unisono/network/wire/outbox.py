"""What waits to be written to a connection: short frames first, then chunks of all parcels in turn, so that a large one
does not hold up a small one. A small parcel goes with its announcement; that an answer has come is said with the next request, if
there is one soon: a frame costs more than what is in it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from unisono.network.wire.parcel import Outgoing
from unisono.network.wire.unisono_pb2 import Begin, Chunk, Done, Frame

SMALL_BYTES = 64 * 1024
"""Up to which a parcel goes with its announcement."""
_SOON_S = 0.05
_MOST_DONE = 64


class Outbox:
    """Frames for one connection. A new connection gets a new one."""

    def __init__(self) -> None:
        self._short: deque[Frame] = deque()
        self._done: list[int] = []
        self._parcels: deque[tuple[int, Outgoing, int]] = deque()
        self._more = asyncio.Event()
        self._closed = False

    def put(self, frame: Frame) -> None:
        """A short frame, before any chunk."""
        self._short.append(frame)
        self._more.set()

    def send(self, number: int, parcel: Outgoing, offset: int = 0) -> None:
        """A parcel, from `offset` on; announced if it is sent from its start."""
        if offset == 0:
            begin = Begin(id=number, size=parcel.size)
            if parcel.size <= SMALL_BYTES:
                begin.data = parcel.chunk(0)
                offset = parcel.size
            self._short.append(Frame(begin=begin))
        if offset < parcel.size:
            self._parcels.append((number, parcel, offset))
        self._more.set()

    def done(self, number: int) -> None:
        """The answer to a request has come, or is not wanted any more."""
        self._done.append(number)
        self._more.set()

    def drop(self, number: int) -> None:
        """Stop sending a parcel."""
        self._parcels = deque(item for item in self._parcels if item[0] != number)

    def close(self) -> None:
        """End `frames` when what is there was written."""
        self._closed = True
        self._more.set()

    async def frames(self) -> AsyncIterator[Frame]:
        """Every frame, as it becomes due; ends when the outbox is closed and empty."""
        while True:
            if self._short:
                frame = self._short.popleft()
                if frame.WhichOneof("kind") == "begin" and len(self._done) <= _MOST_DONE:
                    frame.begin.done.extend(self._taken())
                yield frame
            elif self._parcels:
                yield self._chunk()
            elif self._done and (self._closed or len(self._done) > _MOST_DONE or not await self._more_soon()):
                for number in self._taken():
                    yield Frame(done=Done(id=number))
            elif self._closed:
                return
            elif not self._done:
                self._more.clear()
                await self._more.wait()

    def _chunk(self) -> Frame:
        """The next one; not kept here while it is written."""
        number, parcel, offset = self._parcels.popleft()
        data = parcel.chunk(offset)
        if offset + len(data) < parcel.size:
            self._parcels.append((number, parcel, offset + len(data)))
        return Frame(chunk=Chunk(id=number, offset=offset, data=data))

    def _taken(self) -> list[int]:
        done, self._done = self._done, []
        return done

    async def _more_soon(self) -> bool:
        """Whether something else to write comes in a moment."""
        self._more.clear()
        try:
            async with asyncio.timeout(_SOON_S):
                await self._more.wait()
        except TimeoutError:
            return False
        return True
