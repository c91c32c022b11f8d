"""The mask generator: an AES-256-CTR keystream added to, or subtracted from, a vector of 64-bit words.

Chunks of the vector are the outer loop and the streams the inner one, through one reused 256 KiB buffer: what is added
stays in the processor's cache. (design/secure-aggregation.md, *Masks*; NIST SP 800-38A, 6.5, for counter mode.)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Entropy = Callable[[int], bytes]
"""Number of bytes -> that many bytes nobody can guess. A simulator injects a seeded one; nothing else may."""

system_entropy: Entropy = secrets.token_bytes

SEED_BYTES = 32
_CHUNK_BYTES = 256 * 1024
_BLOCK_BYTES = 16
# A seed makes one stream, ever (it is derived for one slot, one pair and one ask), so the counter may start at zero.
_START = CTR(bytes(_BLOCK_BYTES))


def add_stream(vector: Words, seed: bytes, sign: int) -> None:
    """In place: ``vector += sign * PRG(seed)`` modulo 2^64. vector: (m,) uint64, writable. sign: +1 or -1."""
    add_streams(vector, [(seed, sign)])


def add_streams(vector: Words, streams: Iterable[tuple[bytes, int]]) -> None:
    """In place: add the streams ``(seed, sign)`` to `vector` (m,) uint64, modulo 2^64, in one pass over it."""
    if vector.dtype != np.uint64 or vector.ndim != 1:
        raise ValueError("masks are added to one dimension of uint64 words")
    running = [(_keystream(seed), _operation(sign)) for seed, sign in streams]
    span = min(_CHUNK_BYTES, 8 * vector.size)
    zeros = bytes(span)
    buffer = bytearray(span + _BLOCK_BYTES - 1)
    stream = np.frombuffer(buffer, "<u8", span // 8)
    for at in range(0, vector.size, max(1, span // 8)):
        part = vector[at : at + span // 8]
        source = memoryview(zeros)[: 8 * part.size]
        for cipher, add in running:
            cipher.update_into(source, buffer)
            add(part, stream[: part.size], out=part)


def _keystream(seed: bytes) -> CipherContext:
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes")
    return Cipher(AES(seed), _START).encryptor()


def _operation(sign: int) -> np.ufunc:
    if sign not in (1, -1):
        raise ValueError("a mask is added (+1) or subtracted (-1)")
    return np.add if sign == 1 else np.subtract
