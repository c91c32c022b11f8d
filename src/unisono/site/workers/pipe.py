"""What agent and worker say to each other: packed trees in frames over pipes, and large arrays through shared memory.

A frame is ``UNW1``, the length (uint32, little-endian), and a packed tree (`federation.tree`: nothing in it is ever
executed). Arrays above `INLINE` bytes are left out of the tree and lie one after the other in the `Shared` memory, which
the agent makes. Questions and answers alternate strictly, so that one memory serves both.

Neither end maps the other's memory: each array is read **once**, by pread(2), into memory of the reader's own, and checked
there. What the worker may change afterwards, or cut off, is never looked at again.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import ProtocolError, WorkerError
from unisono.federation.tree import Tree, parts, unpack

INLINE = 64 * 1024
"""Bytes up to which an array stays in the tree."""
INLINE_ALL = 1 << 20
"""... and all of a tree's arrays together."""
MAX_FRAME = 4 << 20
HEADER = struct.Struct("<4sI")

_MAGIC = b"UNW1"
_ALIGN = 64
_SHARED = "$shared"
_PLAIN = frozenset({str, int, float, bool, type(None)})
_TRAVEL = frozenset(
    np.dtype(kind).str for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g")
)


class Garbled(Exception):
    """Bytes that are no answer. Never leaves this package; its text may name a length, a type, a shape: no value."""


class Shared:
    """Anonymous shared memory for the large arrays of one message, at most `limit` bytes (memfd on Linux, elsewhere a
    temporary file without a name). `fd` is the agent's to make and the worker's to inherit."""

    def __init__(self, fd: int, limit: int) -> None:
        self.fd = fd
        self.limit = limit

    @classmethod
    def make(cls, limit: int) -> Shared:
        """At the agent; empty."""
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("unisono-worker", os.MFD_CLOEXEC), limit)
        with tempfile.TemporaryFile() as file:
            return cls(os.dup(file.fileno()), limit)

    def clear(self) -> None:
        """Give the memory back to the system; what was not read is gone."""
        os.ftruncate(self.fd, 0)

    def close(self) -> None:
        """The agent's end of it."""
        os.close(self.fd)

    def write(self, array: NDArray[Any], at: int) -> None:
        """A C-ordered array's bytes. `WorkerError` (``worker-limits``) beyond the limit or the memory there is."""
        if at + array.nbytes > self.limit:
            raise _too_large(self.limit)
        left = array.reshape(-1).view(np.uint8).data
        try:
            while left:
                written = os.pwrite(self.fd, left, at)
                left, at = left[written:], at + written
        except OSError as error:  # no memory or disk left, or beyond RLIMIT_FSIZE
            raise _too_large(self.limit) from error

    def read(self, dtype: np.dtype[Any], shape: tuple[int, ...], at: int) -> NDArray[Any]:
        """An array of its own. `Garbled` unless all its bytes are there."""
        size = 1
        for side in shape:
            size *= side
        if size and at + size * dtype.itemsize > min(self.limit, os.fstat(self.fd).st_size):
            raise Garbled("an array beyond the shared memory")
        array: NDArray[Any] = np.empty(size, dtype)
        left = array.view(np.uint8).data
        while left:
            read = os.preadv(self.fd, [left], at)
            if read == 0:
                raise Garbled("an array beyond the shared memory")
            left, at = left[read:], at + read
        return array.reshape(shape)


def encode(message: Mapping[str, Tree], shared: Shared) -> bytes:
    """A message as a frame; its large arrays are then in `shared`.

    `ProtocolError` for what does not travel, `WorkerError` for what is too large.
    """
    pieces = parts(_Writer(shared).tree(message))
    size = sum(map(len, pieces))
    if size > MAX_FRAME:
        raise WorkerError(
            f"A message between agent and worker takes {size} bytes beside its large arrays.",
            rule="worker-limits",
            remedy=f"At most {MAX_FRAME} are taken: put many small arrays into one.",
        )
    return b"".join((HEADER.pack(_MAGIC, size), *pieces))


def length_of(header: bytes) -> int:
    """Of the packed tree that follows; `Garbled` for what is no header."""
    magic, length = HEADER.unpack(header)
    if magic != _MAGIC or length > MAX_FRAME:
        raise Garbled("not a frame")
    return int(length)


def decode(payload: bytes, shared: Shared, *, writeable: bool = True) -> Tree:
    """The message: every array in it is the reader's own, aligned. `Garbled` for anything that is not one."""
    try:
        return _Reader(shared, writeable).tree(unpack(payload))
    except (ProtocolError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Garbled(f"a message of {len(payload)} bytes that cannot be read") from error


def read_frame(fd: int, shared: Shared) -> Tree | None:
    """At the worker: the next message, waited for; None when the agent has closed the pipe. Its arrays are read-only."""
    header = _exactly(fd, HEADER.size)
    payload = None if header is None else _exactly(fd, length_of(header))
    return None if payload is None else decode(payload, shared, writeable=False)


def write_frame(fd: int, frame: bytes) -> None:
    """At the worker: all of it."""
    left = memoryview(frame)
    while left:
        left = left[os.write(fd, left) :]


def _exactly(fd: int, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            return None
        data += more
    return bytes(data)


class _Writer:
    """Walks a tree and moves what is large into the shared memory."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.at = 0
        self.inline = 0

    def tree(self, tree: Tree) -> Tree:
        if type(tree) in _PLAIN:  # most of every message, and so first
            return tree
        if isinstance(tree, np.ndarray):
            return self._array(tree)
        if isinstance(tree, dict | Mapping):
            if _SHARED in tree or len(set(map(str, tree))) < len(tree):
                raise ProtocolError(
                    f"A mapping has the key {_SHARED!r}, which is reserved, or two keys that read the same.",
                    rule="tree-format",
                    remedy="Call the argument something else.",
                )
            # In the order in which a packed tree has its keys: so the arrays lie, and so they are read.
            return {str(key): self.tree(tree[key]) for key in sorted(tree, key=str)}
        if isinstance(tree, list | tuple):
            return [self.tree(value) for value in tree]
        return tree

    def _array(self, array: NDArray[Any]) -> Tree:
        rare = array.dtype.itemsize in (2, 16)  # a packed tree carries no float16, int16 and long double
        if not rare and array.nbytes <= INLINE and self.inline + array.nbytes <= INLINE_ALL:
            self.inline += array.nbytes
            return array
        plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(array.shape)
        if plain.dtype.str not in _TRAVEL:
            raise ProtocolError(
                f"An array of {array.dtype} cannot be handed on.",
                rule="tree-format",
                remedy="Only arrays of real numbers travel.",
            )
        self.shared.write(plain, self.at)
        self.at = _next(self.at, plain.nbytes)
        return {_SHARED: True, "dtype": plain.dtype.str, "shape": list(plain.shape)}


class _Reader:
    """Puts the arrays back; where each lies follows from those before it, never from what the other end says."""

    def __init__(self, shared: Shared, writeable: bool) -> None:
        self.shared = shared
        self.writeable = writeable
        self.at = 0

    def tree(self, tree: Tree) -> Tree:
        if type(tree) in _PLAIN:
            return tree
        if isinstance(tree, np.ndarray):
            return self._own(np.array(tree))
        if isinstance(tree, dict):
            if _SHARED in tree:
                return self._own(self._array(tree))
            return {key: self.tree(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self.tree(value) for value in tree]
        return tree

    def _array(self, header: dict[str, Any]) -> NDArray[Any]:
        shape = tuple(header["shape"])
        if header["dtype"] not in _TRAVEL or not all(type(side) is int and side >= 0 for side in shape):
            raise Garbled("an array of an unknown type or shape")
        array = self.shared.read(np.dtype(header["dtype"]), shape, self.at)
        self.at = _next(self.at, array.nbytes)
        return array

    def _own(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            raise Garbled("a truth value that is neither")
        array.flags.writeable = self.writeable
        return array


def _next(at: int, size: int) -> int:
    return -(-(at + size) // _ALIGN) * _ALIGN


def _too_large(limit: int) -> WorkerError:
    return WorkerError(
        f"The arrays of one ask or one answer are larger than the worker's {limit} bytes, or than the memory there is.",
        rule="worker-limits",
        remedy="Raise the worker's result_bytes if the study needs it; otherwise report it to the method's author.",
    )
