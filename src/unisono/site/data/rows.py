"""A keyed fingerprint of every row, for the rule against near-twins: which patients two asks have in common.

SipHash-2-4 (Aumasson and Bernstein, INDOCRYPT 2012), a pseudorandom function of 64 bits, over a row's float64 values.
Without the site's secret nobody can test whether a known patient is among the fingerprints; even so, they never leave
the site.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from unisono.study.table import Table

Words = NDArray[np.uint64]

_CHUNK = 16_384
"""Rows at a time: the four state words of a chunk stay in the processor's cache."""
LEAST_SECRET = 16


def row_hashes(table: Table, keep: NDArray[np.bool_], secret: bytes) -> Words:
    """(kept,) fingerprints of the rows where `keep` (n,) is true, keyed with the site's `secret`.

    Equal rows have equal fingerprints, in any order of the columns and in any table with the same variables; tables
    with other variables give unrelated ones. Missing values are equal to each other. Two different rows collide with
    probability 2^-64. `ValueError` if the secret has fewer than 16 bytes.
    """
    if len(secret) < LEAST_SECRET:
        raise ValueError("the secret of row_hashes must have at least 16 bytes")
    names = sorted(table.columns)
    # The key is bound to the variables' names, so that a column is never mistaken for another one.
    digest = hashlib.blake2b(
        "\0".join(names).encode(), key=secret[:64], digest_size=16, person=b"unisono-rows"
    ).digest()
    kept = np.flatnonzero(keep)
    hashes = np.empty(kept.size, np.uint64)
    for at in range(0, kept.size, _CHUNK):
        rows = kept[at : at + _CHUNK]
        hashes[at : at + _CHUNK] = siphash([_bits(table[name][rows]) for name in names], digest)
    return hashes


def _bits(values: NDArray[np.float64]) -> Words:
    """(n,) the values' bits, with one zero and one NaN."""
    values = values + 0.0  # -0.0 becomes 0.0
    values[np.isnan(values)] = np.nan
    return values.view(np.uint64)


def siphash(words: list[Words], key: bytes) -> Words:
    """(n,) SipHash-2-4 of n messages of ``len(words)`` little-endian 64-bit words each; `key` has 16 bytes."""
    k0, k1 = (np.uint64(int.from_bytes(key[i : i + 8], "little")) for i in (0, 8))
    n = words[0].size
    start = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    state = [np.full(n, np.uint64(c) ^ k) for c, k in zip(start, (k0, k1, k0, k1), strict=True)]
    length = np.full(n, np.uint64((8 * len(words)) % 256 << 56))
    for word in [*words, length]:
        state[3] ^= word
        _round(state, 2)
        state[0] ^= word
    state[2] ^= np.uint64(0xFF)
    _round(state, 4)
    mixed: Words = state[0] ^ state[1] ^ state[2] ^ state[3]
    return mixed


def _round(state: list[Words], times: int) -> None:
    """SipRound, in place."""
    v0, v1, v2, v3 = state
    for _ in range(times):
        v0 += v1
        v2 += v3
        _rotate(v1, 13)
        _rotate(v3, 16)
        v1 ^= v0
        v3 ^= v2
        _rotate(v0, 32)
        v2 += v1
        v0 += v3
        _rotate(v1, 17)
        _rotate(v3, 21)
        v1 ^= v2
        v3 ^= v0
        _rotate(v2, 32)


def _rotate(word: Words, bits: int) -> None:
    high = word >> np.uint64(64 - bits)
    word <<= np.uint64(bits)
    word |= high
