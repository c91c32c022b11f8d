"""The mask generator: AES-256-CTR keystreams added to, or subtracted from, a vector of 32- or 64-bit words.

What is to be masked comes chunk by chunk from a `Source`, so that it never exists in two copies. Chunks of the vector are
the outer loop and the streams the inner one, through one reused buffer: from quantising to the last mask a chunk stays in
the processor's cache. Large vectors are cut into one contiguous span a thread. The result is the same, bit for bit,
whatever the threads. (design/secure-aggregation.md, *Masks*; NIST SP 800-38A, 6.5, for counter mode.)
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from numpy.typing import NDArray

Words = NDArray[np.uint32] | NDArray[np.uint64]
"""Elements of Z_2^32 or Z_2^64; numpy's arithmetic on them is the ring's."""
Entropy = Callable[[int], bytes]
"""Number of bytes -> that many bytes nobody can guess. A simulator injects a seeded one; nothing else may."""

system_entropy: Entropy = secrets.token_bytes

SEED_BYTES = 32
BLOCK_BYTES = 16
"""Of AES: a stream can be entered at multiples of it."""
CHUNK_BYTES = 512 * 1024
"""For one thread 128 to 512 KiB are the same (below, the calls cost more than the work; above, the additions leave the
level-2 cache), but two threads wait for the interpreter less often the longer a call is."""
_CHUNKS_A_THREAD = 8
"""A thread is worth starting for 4 MiB of words, not for less: what two spend in handing the interpreter to each other is then
a good part of the work."""
_CHECKSUM_BYTES = 2**22
_ZEROS = bytes(CHUNK_BYTES)


class Source(Protocol):
    """What is to be masked: `size` words of `dtype` (uint32 or uint64), made when they are asked for."""

    @property
    def size(self) -> int:
        """Number of words."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint32 or uint64: the ring."""

    def fill(self, start: int, out: Words) -> None:
        """Write the elements ``start .. start + out.size`` into `out`. Called from several threads at once, in any
        order, for each element once."""


@dataclass(frozen=True, eq=False)
class Held:
    """A source of words that are there already. words: (m,) uint32 or uint64."""

    words: Words = field(repr=False)

    def __post_init__(self) -> None:
        _check_words(self.words)

    @property
    def size(self) -> int:
        """Number of words."""
        return self.words.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint32 or uint64."""
        return self.words.dtype

    def fill(self, start: int, out: Words) -> None:
        """Copy the elements ``start .. start + out.size`` into `out`."""
        out[:] = self.words[start : start + out.size]


def fresh(size: int, dtype: np.dtype[Any] | type[np.generic]) -> Any:
    """An uninitialised vector (size,), as `np.empty`.

    numpy asks the system for large pages from 4 MiB on. Just below that, touching a new vector's small pages for the first
    time costs more than a mask, so that a vector of some megabytes is cut from a larger reservation.
    """
    dtype = np.dtype(dtype)
    if not 2**20 <= size * dtype.itemsize < 2**23:
        return np.empty(size, dtype)
    return np.empty((max(size * dtype.itemsize, 2**22) + 2**21) // dtype.itemsize, dtype)[:size]


def add_streams(vector: Words, streams: Iterable[tuple[bytes, int]], *, threads: int | None = None) -> None:
    """In place: add the streams ``(seed, sign)`` to `vector` (m,), modulo 2^32 or 2^64 by its dtype, in one pass over it.

    seed: 32 bytes, used for one vector, ever. sign: +1 or -1. threads: how many at most; by default one for each
    available processor if the vector is large. The k-th word of a stream is the little-endian reading of its bytes.
    """
    _run(vector, None, None, list(streams), threads)


def mask_into(
    out: Words,
    source: Source,
    streams: Iterable[tuple[bytes, int]],
    *,
    keep: Words | None = None,
    threads: int | None = None,
) -> None:
    """``out = source + sum of sign * PRG(seed)``, in one pass; `keep` receives the source's own elements.

    out, keep: (source.size,) of the source's dtype, writable (an `np.memmap` will do), and not the same memory: `keep`
    is what a site stores to re-send (secure-aggregation.md, rule 6), `out` is what leaves. An error that
    `source.fill` raises comes out of here, whichever thread met it; `out` and `keep` are then worthless.
    """
    for words in (out, keep):
        if words is not None and (words.size != source.size or words.dtype != source.dtype):
            raise ValueError("a source is masked into words of its own number and dtype")
    if keep is not None and np.may_share_memory(out, keep):
        raise ValueError("what is kept and what leaves cannot be the same memory")
    _run(out, source, keep, list(streams), threads)


def checksum(key: bytes, words: Words) -> bytes:
    """16 bytes that change when the words do: GMAC (NIST SP 800-38D) under `key` (32 bytes) over their little-endian bytes.

    It finds accidents (half an upload, a flipped bit) at the speed of memory, ten times faster than SHA-256. The key is
    public and the nonce fixed, so that it proves nothing about who made the words: signatures do that.
    words: (m,) uint32 or uint64, contiguous or not, an `np.memmap` will do, m = 0 too.
    """
    _check_words(words)
    if len(key) != SEED_BYTES:
        raise ValueError(f"the key of a checksum has {SEED_BYTES} bytes")
    little = np.ascontiguousarray(words, words.dtype.newbyteorder("<")).view(np.uint8)
    gmac = Cipher(AES(key), GCM(bytes(12))).encryptor()
    for at in range(0, little.size, _CHECKSUM_BYTES):  # in pieces: one call takes less than 2 GiB
        gmac.authenticate_additional_data(little[at : at + _CHECKSUM_BYTES].data)
    gmac.finalize()
    return gmac.tag


def counter(block: int) -> CTR:
    """The mode of a stream entered at its 16-byte `block`. A seed makes one stream, ever (it is derived for one slot, one
    pair and one ask), so that its counter may start at zero."""
    return CTR(block.to_bytes(BLOCK_BYTES, "big"))


def _run(
    out: Words, source: Source | None, keep: Words | None, streams: list[tuple[bytes, int]], threads: int | None
) -> None:
    """Check everything that can be wrong before the first word changes; then every span in a thread of its own."""
    _check_words(out)
    for seed, sign in streams:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes")
        if sign not in (1, -1):
            raise ValueError("a mask is added (+1) or subtracted (-1)")
    target = np.asarray(out)  # a memmap's slices are slow to make; a plain view's are not
    kept = None if keep is None else np.asarray(keep)
    spans = _spans(out.size, CHUNK_BYTES // out.dtype.itemsize, threads)

    def work(span: tuple[int, int]) -> None:
        _mask_span(target, source, kept, streams, span)

    if len(spans) < 2:
        for span in spans:
            work(span)
        return
    with ThreadPoolExecutor(len(spans) - 1, thread_name_prefix="masks") as pool:
        others = [pool.submit(work, span) for span in spans[1:]]
        work(spans[0])
        for other in others:
            other.result()


def _spans(size: int, chunk: int, threads: int | None) -> list[tuple[int, int]]:
    """Contiguous ``(start, stop)``, one a thread, of nearly the same number of whole chunks."""
    if threads is not None and threads < 1:
        raise ValueError("masks need at least one thread")
    chunks = -(-size // chunk)
    wanted = threads if threads is not None else min(_processors(), max(1, chunks // _CHUNKS_A_THREAD))
    number = min(chunks, wanted)
    starts = [chunk * (chunks * k // number) for k in range(number)]
    return list(zip(starts, [*starts[1:], size], strict=True)) if number else []


def _processors() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _mask_span(
    out: NDArray[Any],
    source: Source | None,
    keep: NDArray[Any] | None,
    streams: list[tuple[bytes, int]],
    span: tuple[int, int],
) -> None:
    """One span of `_run`: for each chunk, fill, keep, and add every stream while the chunk is in the cache."""
    start, stop = span
    width = out.dtype.itemsize
    mode = counter(start * width // BLOCK_BYTES)  # spans begin at whole chunks
    running = [
        (Cipher(AES(seed), mode).encryptor().update_into, np.add if sign == 1 else np.subtract)
        for seed, sign in streams
    ]
    room = min(CHUNK_BYTES, (stop - start) * width)
    buffer = bytearray(room + BLOCK_BYTES - 1)
    stream = np.frombuffer(buffer, out.dtype.newbyteorder("<"), room // width)
    zeros = memoryview(_ZEROS)[:room]
    for at in range(start, stop, CHUNK_BYTES // width):
        part = out[at : min(at + CHUNK_BYTES // width, stop)]
        if source is not None:
            source.fill(at, part)
        if keep is not None:
            keep[at : at + part.size] = part
        if part.size < stream.size:
            stream, zeros = stream[: part.size], zeros[: part.size * width]
        for update_into, add in running:
            update_into(zeros, buffer)
            add(part, stream, out=part)


def _check_words(words: Words) -> None:
    if words.dtype not in (np.uint32, np.uint64) or words.ndim != 1:
        raise ValueError("masks are added to one dimension of uint32 or uint64 words")
