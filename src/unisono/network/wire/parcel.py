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

CHUNK_BYTES = 128 * 1024
"""Of what is sent. Each connection holds a few at a time, and a link that is lost loses one; larger ones were no faster, and smaller
ones slower."""
MOST_CHUNK_BYTES = 1024 * 1024
"""Of what is taken."""
STAGED_BYTES = 1024 * 1024
"""From this size on an incoming parcel is kept in a file while it comes, so that a hundred at a time take no memory."""


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
    """A temporary file without a name. Disk is taken as bytes come, and not because they were announced: who only promises a large
    message fills nobody's disk. Memory is taken by nobody before the whole message is read, and then page by page."""

    def __init__(self) -> None:
        with _staging(), tempfile.TemporaryFile("w+b") as file:
            self._handle = os.dup(file.fileno())
        finalize(self, os.close, self._handle)

    def write(self, offset: int, data: bytes) -> None:
        """All of it, or `StorageError`."""
        left = memoryview(data)
        with _staging():
            while left:
                written = os.pwrite(self._handle, left, offset)
                offset, left = offset + written, left[written:]

    def read(self) -> mmap.mmap:
        """The whole file, as memory that the system fills when it is looked at."""
        with _staging():
            return mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ)


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
        self._into: bytearray | _Staged = bytearray(size) if size < STAGED_BYTES else _Staged()

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
        if isinstance(self._into, _Staged):
            self._into.write(offset, data)
        else:
            self._into[offset:end] = data
        self.received = end

    @property
    def complete(self) -> bool:
        """Whether every byte has come."""
        return self.received == self.size

    def tree(self) -> Tree:
        """The tree; its arrays look into the buffer or the file. `ProtocolError` if it is none."""
        return unpack(memoryview(self._into.read() if isinstance(self._into, _Staged) else self._into))
