"""A tree on its way, in chunks: going out without a copy of its arrays, coming in into one buffer that arrays then look into.

What comes in is bounded, arrives in order, and can be resumed after a lost link from the byte where it stopped. Large ones
are staged in a file (rule 9 of secure aggregation: a half upload counts for nothing, and no memory).
"""

from __future__ import annotations

import mmap
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from weakref import finalize

from unisono.errors import ProtocolError, StorageError
from unisono.federation.tree import Tree, parts, unpack

CHUNK_BYTES = 1024 * 1024
STAGED_BYTES = 4 * 1024 * 1024
"""From this size on an incoming parcel is kept in a file that is mapped into memory."""


class Outgoing:
    """A packed tree, cut into chunks."""

    def __init__(self, tree: Tree) -> None:
        self._parts = [memoryview(part) for part in parts(tree)]
        self._starts = [0, *accumulate(len(part) for part in self._parts)]
        self.size = self._starts[-1]

    def chunk(self, offset: int) -> bytes:
        """The bytes from `offset` on, at most `CHUNK_BYTES`: of one array where that fills a chunk, joined where not."""
        found: list[memoryview] = []
        room = CHUNK_BYTES
        at = bisect_right(self._starts, offset) - 1
        while room and at < len(self._parts):
            begin = offset - self._starts[at]
            piece = self._parts[at][begin : begin + room]
            found.append(piece)
            room -= len(piece)
            offset += len(piece)
            at += 1
        return b"".join(found)


class _Staged:
    """A temporary file without a name, mapped into memory. Disk is taken as bytes come, and not because they were announced: who
    only promises a large message fills nobody's disk."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._room = 0
        with _staging(), tempfile.TemporaryFile("w+b") as file:
            file.truncate(size)
            self.map = mmap.mmap(file.fileno(), size)
            self._handle = os.dup(file.fileno())
        self._close = finalize(self, os.close, self._handle)

    def make_room(self, end: int) -> None:
        """Room for the bytes up to `end`, first: a mapped page for which the disk has none would kill the process."""
        if end > self._room:
            room = min(self._size, max(end, self._room + STAGED_BYTES))
            with _staging():
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(self._handle, self._room, room - self._room)
            self._room = room
        if self._room == self._size:
            self._close()


@contextmanager
def _staging() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"What is coming cannot be kept in {tempfile.gettempdir()}: {error.strerror or type(error).__name__}.",
            rule="durable-storage",
            remedy="Free disk space where temporary files go (TMPDIR); the message then goes on where it stopped.",
        ) from error


class Incoming:
    """A packed tree that is arriving. size: as announced, refused beyond `limit`."""

    def __init__(self, size: int, limit: int) -> None:
        if size > limit:
            raise ProtocolError(
                f"A message of {size:,} bytes was announced; {limit:,} are taken.",
                rule="message-size",
                remedy="Nothing of it was read. Raise the limit at the receiving end if messages of this size are meant.",
            )
        self.size = size
        self.received = 0
        self._staged = None if size < STAGED_BYTES else _Staged(size)
        self._buffer: bytearray | mmap.mmap = bytearray(size) if self._staged is None else self._staged.map

    def append(self, offset: int, data: bytes) -> None:
        """The next bytes. `ProtocolError` for a gap, an overlap or too many; `StorageError` if the disk has no room for them:
        they may come again later."""
        end = offset + len(data)
        if offset != self.received or end > self.size:
            raise ProtocolError(
                f"{len(data)} bytes came at {offset}; {self.received} of {self.size} were there.",
                rule="message-order",
                remedy="The connection is closed and opened again; the message goes on where it stopped.",
            )
        if self._staged is not None:
            self._staged.make_room(end)
        self._buffer[offset:end] = data
        self.received = end

    @property
    def complete(self) -> bool:
        """Whether every byte has come."""
        return self.received == self.size

    def tree(self) -> Tree:
        """The tree; its arrays look into the buffer. `ProtocolError` if it is none."""
        return unpack(memoryview(self._buffer))
