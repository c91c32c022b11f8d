"""What waits to be written to a connection: short frames first, then chunks of all parcels in turn, so that a large one
does not hold up a small one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from unisono.network.wire.parcel import Outgoing
from unisono.network.wire.unisono_pb2 import Begin, Chunk, Frame


class Outbox:
    """Frames for one connection. A new connection gets a new one."""

    def __init__(self) -> None:
        self._short: deque[Frame] = deque()
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
            self._short.append(Frame(begin=Begin(id=number, size=parcel.size)))
        if offset < parcel.size:
            self._parcels.append((number, parcel, offset))
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
                yield self._short.popleft()
            elif self._parcels:
                number, parcel, offset = self._parcels.popleft()
                data = parcel.chunk(offset)
                if offset + len(data) < parcel.size:
                    self._parcels.append((number, parcel, offset + len(data)))
                yield Frame(chunk=Chunk(id=number, offset=offset, data=data))
            elif self._closed:
                return
            else:
                self._more.clear()
                await self._more.wait()
