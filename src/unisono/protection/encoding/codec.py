"""One face for the two encodings, so that site and coordinator pick one by name: `exact` and `fixed32`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unisono.errors import ProtocolError
from unisono.protection.encoding import exact, fixed32
from unisono.protection.encoding.decoded import Decoded
from unisono.protection.leaves import Leaf
from unisono.protection.prg import Entropy, Held, Source, Words, mask_into, system_entropy

__all__ = ["Codec", "Decoded", "codec", "encode", "encoding_of"]

Leaves = Mapping[str, Leaf]
Tree = Mapping[str, NDArray[Any]]


class Codec(Protocol):
    """An encoding: from a tree of arrays to words of a ring, and from the sum of words to the sum of trees."""

    @property
    def name(self) -> str:
        """As it stands in an ask."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the words: uint32 (Z_2^32) or uint64 (Z_2^64)."""

    def length(self, leaves: Leaves) -> int:
        """Number of words that a tree of these leaves takes."""

    def source(self, tree: Tree, leaves: Leaves, sites: int, entropy: Entropy) -> Source:
        """The tree's words, to be masked, with room for `sites` sites. Refuses what was not declared (`DataError`)."""

    def decode(self, total: Words, leaves: Leaves, sites: int) -> Decoded:
        """The opened sum of at most `sites` parts. `ProtocolError` if it is none, or larger than their bounds allow."""


class _Exact:
    """Statistics: 64-bit words, no rounding that depends on anything but the declared bounds."""

    name = "exact"
    dtype: np.dtype[Any] = np.dtype(np.uint64)

    def length(self, leaves: Leaves) -> int:
        return exact.length(leaves)

    def source(self, tree: Tree, leaves: Leaves, sites: int, entropy: Entropy) -> Source:  # noqa: ARG002  (rounds nothing)
        _room(sites)
        return Held(exact.encode(tree, leaves))

    def decode(self, total: Words, leaves: Leaves, sites: int) -> Decoded:
        _room(sites)
        if total.dtype != np.uint64:
            raise exact.wrong_words(total, exact.length(leaves), exact.Word)
        return Decoded(exact.decode(total.view(np.uint64), leaves, sites), 0)


class _Fixed32:
    """Model updates: 32-bit words, stochastic rounding; statistics exactly beside them."""

    name = "fixed32"
    dtype: np.dtype[Any] = np.dtype(np.uint32)

    def length(self, leaves: Leaves) -> int:
        return fixed32.length(leaves)

    def source(self, tree: Tree, leaves: Leaves, sites: int, entropy: Entropy) -> Source:
        return fixed32.Quantiser(tree, leaves, sites, entropy)

    def decode(self, total: Words, leaves: Leaves, sites: int) -> Decoded:
        return fixed32.decode(total, leaves, sites)


_CODECS: dict[str, Codec] = {"exact": _Exact(), "fixed32": _Fixed32()}


def codec(name: str) -> Codec:
    """The encoding of that name; `ProtocolError` if there is none."""
    try:
        return _CODECS[name]
    except KeyError:
        raise ProtocolError(
            f"There is no encoding {name!r} here.",
            rule="encoding",
            remedy=f"Known encodings: {', '.join(_CODECS)}. Coordinator and sites must run compatible versions of Unisono.",
        ) from None


def encoding_of(leaves: Leaves) -> str:
    """The name of the encoding that these leaves travel in: `fixed32` if any is a model update, `exact` otherwise."""
    return "fixed32" if any(leaf.rule == "update" for leaf in leaves.values()) else "exact"


def encode(codec: Codec, tree: Tree, leaves: Leaves, sites: int, entropy: Entropy = system_entropy) -> Words:
    """All words of a tree at once, unmasked: what stays at the site, or what ``hide: none`` sends."""
    source = codec.source(tree, leaves, sites, entropy)
    words: Words = np.empty(source.size, source.dtype)
    mask_into(words, source, [])
    return words


def _room(sites: int) -> None:
    if not 1 <= sites <= exact.MAX_SITES:
        raise ProtocolError(
            f"The parts of {sites} sites cannot be added without losing a carry.",
            rule="encoding-sites",
            remedy=f"A sum takes from 1 to {exact.MAX_SITES} sites.",
        )
