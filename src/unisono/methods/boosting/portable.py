"""The same number on every machine: exponentials, hashes and draws by operations that IEEE 754 and integers fix to the last bit.

Trees are grown from gradients that are rounded to integers at each hospital. If the exponential came from each processor's own
library, a last bit could differ, and with it, once in many millions, an integer. Here it cannot.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Words = NDArray[np.uint64]

LARGEST = 700.0
"""Exponents are held within [-LARGEST, LARGEST]."""

_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10  # fdlibm, e_exp.c
_LOG2_E = 1.4426950408889634
_TAYLOR = tuple(1.0 / math.factorial(k) for k in range(13, -1, -1))


def exp(x: Vector) -> Vector:
    """(n,) e^x, within 2 ulp, by additions and multiplications alone (argument reduction as in fdlibm; Taylor to degree 13)."""
    x = np.clip(x, -LARGEST, LARGEST)
    whole = np.rint(x * _LOG2_E)
    rest = (x - whole * _LN2_HIGH) - whole * _LN2_LOW  # within +- 0.347: the term of degree 14 is below 1e-17
    total = np.full_like(rest, _TAYLOR[0])
    for term in _TAYLOR[1:]:
        total *= rest
        total += term
    return np.asarray(np.ldexp(total, whole.astype(np.int32)), np.float64)


def mix(words: Words) -> Words:
    """Each word's hash: the finaliser of splitmix64 (Steele, Lea & Flood 2014)."""
    w = words + np.uint64(0x9E3779B97F4A7C15)
    w = (w ^ (w >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    w = (w ^ (w >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(w ^ (w >> np.uint64(31)), np.uint64)


def keys(columns: NDArray[np.float32], target: NDArray[np.float64]) -> Words:
    """(n,) a hash of each patient's features (f, n) and outcome (k, n): of what the patient is, and not of where."""
    key = np.zeros(columns.shape[1], np.uint64)
    for column in columns:
        key = mix(key ^ np.ascontiguousarray(column).view(np.uint32).astype(np.uint64))
    for row in target:
        key = mix(key ^ np.ascontiguousarray(row).view(np.uint64))
    return key


def drawn(key: Words, share: float, seed: int, purpose: int) -> NDArray[np.bool_]:
    """(n,) true for about `share` of the keys; the same keys for the same share, seed and purpose, everywhere.

    Two shares draw independently of each other. If the keys of 0.200 were among those of 0.202, two analyses would differ by the few
    patients between, who could be read by subtraction.
    """
    if share >= 1:
        return np.ones(len(key), np.bool_)
    exactly = np.array([share], np.float64).view(np.uint64)
    salt = mix(mix(np.array([seed * 2**32 + purpose], np.uint64)) ^ exactly)[0]
    return np.asarray(mix(key ^ salt) >> np.uint64(11) < np.uint64(int(share * 2**53)), np.bool_)


def chosen(number: int, share: float, seed: int, purpose: int) -> NDArray[np.int64]:
    """Sorted indices of ``ceil(share * number)`` of `number` things, at least one."""
    if share >= 1:
        return np.arange(number)
    salt = np.uint64(seed * 2**32 + purpose)
    order = np.argsort(mix(mix(np.arange(number, dtype=np.uint64)) ^ mix(np.array([salt]))[0]), kind="stable")
    return np.sort(order[: max(1, math.ceil(share * number))])
