"""The `exact` encoding: statistics as fixed-point numbers in the ring Z_2^64, so that a sum does not depend on the order of
the sites nor on what hides it.

Each element is a multiple of its quantum: 1 for counts, and for moments the power of two that lets the declared bound fill
48 bits with its sign. 2^15 sites can then be added without a carry being lost, and no bit far below the total's last place,
which would come from one site alone, ever leaves. (design/secure-aggregation.md, Encodings.)

A site refuses to encode what is outside its declared bound. Under a mask nobody can check that it did, so an opened sum is
checked once more: n sites cannot make it larger than n bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import DataError, ProtocolError
from unisono.protection.leaves import Leaf

PAYLOAD_BITS = 48
"""Bits of one site's part, sign included."""
MAX_SITES = 2 ** (63 - PAYLOAD_BITS)
"""Sites whose parts can be added without losing a carry."""
_LIMIT = 2 ** (PAYLOAD_BITS - 1)
_SLACK = 1 + 1e-9
"""A sum of floats that is at its bound may be this much above it."""

Word = np.uint64
Words = NDArray[np.uint64]


def length(leaves: Mapping[str, Leaf]) -> int:
    """Number of 64-bit words that a tree of these leaves takes."""
    return sum(leaf.size for leaf in leaves.values())


def exponent(leaf: Leaf) -> NDArray[np.int32]:
    """log2 of the quantum, of the leaf's shape (or a scalar array for a scalar bound)."""
    if leaf.integer:
        return np.zeros((), np.int32)
    bound = np.asarray(leaf.bound, np.float64)
    if not (np.isfinite(bound).all() and (bound > 0).all()):
        raise ProtocolError(
            "A leaf's declared bound is not a positive number.",
            rule="declared-bounds",
            remedy="Correct the contribution's declaration in the method's file.",
        )
    _, power = np.frexp(bound)  # bound < 2**power
    return np.asarray(power + 1 - PAYLOAD_BITS, np.int32)  # |x| <= bound gives |x / 2**e| < 2**47


def encode(tree: Mapping[str, NDArray[Any]], leaves: Mapping[str, Leaf]) -> Words:
    """The tree's leaves, in declared order, as one vector of ring elements. Refuses what is outside a declared bound."""
    words = np.empty(length(leaves), Word)
    signed = words.view(np.int64)
    at = 0
    for name, leaf in leaves.items():
        values = numbers(tree, name, leaf).astype(np.float64, copy=False)
        _within_bounds(name, leaf, values)
        scaled = np.ldexp(values, -exponent(leaf), out=np.empty(leaf.shape))
        signed[at : at + leaf.size] = np.rint(scaled, out=scaled).reshape(-1)
        at += leaf.size
    return words


def decode(total: Words, leaves: Mapping[str, Leaf], sites: int = MAX_SITES) -> dict[str, NDArray[np.float64]]:
    """The opened sum of at most `sites` parts, as named float64 arrays. total: (length(leaves),) uint64.

    `ProtocolError` if it has another length (rule ``encoding-length``), or if a leaf is larger than `sites` sites can make
    it within its bound, element by element (``encoding-range``).
    """
    if total.dtype != Word or total.shape != (length(leaves),):
        raise wrong_words(total, length(leaves), Word)
    signed = total.view(np.int64)
    tree: dict[str, NDArray[np.float64]] = {}
    at = 0
    for name, leaf in leaves.items():
        part = signed[at : at + leaf.size].astype(np.float64).reshape(leaf.shape)
        if not (np.abs(part) <= _most(leaf, sites)).all():
            raise beyond_range(name, sites)
        tree[name] = np.ldexp(part, exponent(leaf))
        at += leaf.size
    return tree


def numbers(tree: Mapping[str, NDArray[Any]], name: str, leaf: Leaf) -> NDArray[Any]:
    """The leaf's array as it is in the tree; `DataError` if it is missing, holds no real numbers or has another shape."""
    if name not in tree:
        found = "is missing"
    elif (values := np.asarray(tree[name])).dtype.kind not in "biuf":
        found = "does not hold real numbers"
    elif values.shape != leaf.shape:
        found = f"has shape {values.shape}, declared {leaf.shape}"
    else:
        return values
    raise DataError(
        f"The leaf {name!r} {found}.",
        rule="declared-shape",
        remedy="This is a fault of the method; report it to its author.",
    )


def not_finite(name: str) -> DataError:
    """The refusal of a leaf with a NaN or an infinity in it."""
    return DataError(
        f"The leaf {name!r} is not finite: this site's part of the sum cannot be computed at these arguments.",
        rule="finite-contribution",
        remedy="The site abstains. Look for extreme values in the data, or for a fit that diverges.",
    )


def wrong_words(total: NDArray[Any], expected: int, ring: type[np.unsignedinteger[Any]]) -> ProtocolError:
    """The refusal of an opened sum that is not of the leaves' length, or not of the encoding's ring."""
    return ProtocolError(
        f"An opened sum has {total.size} words of {total.dtype}, its leaves take {expected} of {np.dtype(ring)}.",
        rule="encoding-length",
        remedy="Coordinator and site run different versions of the method; install the same one.",
    )


def beyond_range(name: str, sites: int) -> ProtocolError:
    """The refusal of an opened sum whose leaf is larger than the parts of `sites` sites can be together."""
    return ProtocolError(
        f"The opened sum of the leaf {name!r} is larger than the declared parts of {sites} sites can be together.",
        rule="encoding-range",
        remedy="Nothing is decoded. One hospital sent more than was declared, and under the masks nobody can see which; or "
        "the masks did not cancel. Ask the hospitals to check what they run and the data they use, then begin anew.",
    )


def _most(leaf: Leaf, sites: int) -> NDArray[np.float64]:
    """The largest |sum| of `sites` parts, in quanta, of the leaf's shape (or a scalar array for a scalar bound)."""
    if leaf.integer:
        return sites * _whole_bound(leaf)
    quanta = np.ldexp(np.asarray(leaf.bound, np.float64), -exponent(leaf))
    return np.asarray(sites * (quanta * _SLACK + 1))  # one quantum a site, for its rounding


def _whole_bound(leaf: Leaf) -> NDArray[np.float64]:
    """The largest whole number that one site's part of a count or curve may be."""
    return np.asarray(np.minimum(np.floor(np.asarray(leaf.bound, np.float64)), _LIMIT - 1))


def _within_bounds(name: str, leaf: Leaf, values: NDArray[np.float64]) -> None:
    if not np.isfinite(values).all():
        raise not_finite(name)
    if leaf.integer:
        inside = bool((np.abs(values) <= _whole_bound(leaf)).all()) and bool((values == np.rint(values)).all())
    else:
        inside = bool((np.abs(values) <= np.asarray(leaf.bound) * _SLACK).all())
    if not inside:
        raise DataError(
            f"The leaf {name!r} is outside its declared bound.",
            rule="declared-bound",
            remedy="A value outside the study's declared min/max got through, or the method's declaration is wrong; nothing left.",
        )
