"""The `fixed32` encoding: model updates in the ring Z_2^32, 4 bytes a parameter, statistics exactly beside them.

Layout, for n sites: first every update leaf in declared order, one word an element; then one vector of 48-bit integers,
namely the other leaves as the `exact` encoding makes them, and the number of clipped values as the last. These integers
are cut into three 16-bit limbs, the topmost signed, each limb in a word of its own, all lowest limbs first: the limbs of
2^15 sites can be added without one running over into the next.

An update leaf is clipped to its bound, multiplied by a power of two (its scale) and rounded up or down at random so that
the expectation is the value itself (unbiased stochastic rounding; Gupta et al., ICML 2015, 3). With
``|q| <= 2**(31 - ceil(log2 n)) - 1`` the sum of n parts fits a signed 32-bit word. The random number of an element has 16
bits, u = (r + 1/2) / 2^16, so that ``|E q - x * scale| <= 2**-17`` (and 2^-24 where the remainder is not a single-precision
number): a hundred-thousandth of a quantum, which is itself at most about 2^-27 of the bound for 8 sites, 2^-24 for 64.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from numpy.typing import NDArray

from unisono.errors import MethodError, ProtocolError
from unisono.protection.encoding import exact
from unisono.protection.encoding.decoded import Decoded
from unisono.protection.leaves import Leaf, update_bound
from unisono.protection.prg import BLOCK_BYTES, SEED_BYTES, Entropy, Words, counter, mask_into, system_entropy

MAX_SITES = 2**15
"""Sites whose limbs can be added without a carry being lost; `exact` has the same limit."""
_LIMBS = 3
_LIMB_BITS = 16
_LIMB = 2**_LIMB_BITS
_BLOCK = 128 * 1024
"""Elements that are rounded at a time: as many as a chunk of masks has, for the same reason."""
_ZEROS = bytes(2 * _BLOCK + BLOCK_BYTES)
_SCALES = range(-900, 901)
"""Binary exponents of the scale: beyond, a bound is no bound of anything, and a scaled value might not be finite."""
_SINGLE = range(-100, 101)
"""Scales at which single precision can do it: multiplying by the power of two is then exact."""


def length(leaves: Mapping[str, Leaf]) -> int:
    """Number of 32-bit words that a tree of these leaves takes."""
    updates, others = _kinds(leaves)
    return sum(leaf.size for leaf in updates.values()) + _LIMBS * (exact.length(others) + 1)


def exponent(leaf: Leaf, sites: int) -> int:
    """log2 of the scale of an update leaf: the largest power of two with ``bound * scale <= limit(sites)``.
    `MethodError` if the bound is not one positive number of ordinary size."""
    top = limit(sites)
    bound = update_bound(leaf)
    power = top.bit_length() - math.frexp(bound)[1]
    if math.ldexp(math.frexp(bound)[0], top.bit_length()) > top:
        power -= 1
    if power not in _SCALES:
        raise MethodError(
            "The bound of an update is beyond any size that parameters have.",
            rule="update-bound",
            remedy="Declare a clipping bound between 1e-250 and 1e250.",
        )
    return power


def limit(sites: int) -> int:
    """The largest \\|q\\| of one site's part: ``2**(31 - ceil(log2 sites)) - 1``."""
    if not 1 <= sites <= MAX_SITES:
        raise ProtocolError(
            f"The parts of {sites} sites cannot be added in 32 bits.",
            rule="encoding-sites",
            remedy=f"A sum of model updates takes from 1 to {MAX_SITES} sites.",
        )
    return int(2 ** (31 - (sites - 1).bit_length()) - 1)


def overflow_probability(sigma: float, leaf: Leaf, sites: int, *, largest: float | None = None) -> float:
    """A bound on the probability that Gaussian noise carries some element of the sum of an update leaf out of 32 bits.

    sigma: standard deviation of the noise in the *sum*, in the leaf's units. largest: what one site's part is clipped to
    before noise, in the same units; the leaf's bound by default, which leaves hardly any room: declare a larger bound.

    Without noise an element of the sum is at most ``sites * (largest + quantum)``, the quantum for the rounding; the rest
    of ``2**31`` quanta is room. One element leaves it with probability ``P(|N(0, sigma^2)| >= room)`` at most, which is
    ``erfc(room / (sigma sqrt 2))``; some element does with probability at most the number of elements times that (union
    bound). 1 where there is no room.
    """
    quantum = math.ldexp(1.0, -exponent(leaf, sites))
    clean = sites * ((update_bound(leaf) if largest is None else largest) + quantum)
    room = (2**31 - 1) * quantum - clean
    if sigma < 0 or math.isnan(sigma) or room < 0:
        return 1.0
    if sigma == 0:
        return 0.0
    return min(1.0, leaf.size * math.erfc(room / (sigma * math.sqrt(2))))


@dataclass(frozen=True)
class _Update:
    """One update leaf of a tree, ready to be rounded.

    values: (m,) as they are in the tree. scale: a power of two. most: the bound times the scale, both in the working
    precision. clipped: how many values are outside the bound.
    """

    values: NDArray[Any] = field(repr=False)
    scale: np.floating[Any]
    most: np.floating[Any]
    clipped: int


class _Workspace:
    """The buffers and the random stream of one thread."""

    def __init__(self, key: bytes, kind: type[np.floating[Any]], size: int) -> None:
        self.scaled = np.empty(size, kind)
        self.below = np.empty(size, kind)
        self.up = np.empty(size, np.int32)
        self._random = bytearray(2 * size + 2 * BLOCK_BYTES)
        self._cipher = Cipher(AES(key), counter(0)).encryptor()

    def random(self, start: int, size: int) -> NDArray[np.uint16]:
        """The 16-bit numbers of the elements ``start .. start + size``: always the same ones for the same element."""
        block, skip = divmod(2 * start, BLOCK_BYTES)
        self._cipher.reset_nonce(block.to_bytes(BLOCK_BYTES, "big"))
        self._cipher.update_into(memoryview(_ZEROS)[: skip + 2 * size], self._random)
        return np.frombuffer(self._random, "<u2", size, skip)


class Quantiser:
    """A tree as a source of 32-bit words (`unisono.protection.prg.Source`), quantised chunk by chunk when asked for.

    Making one looks at every value once: a leaf that is missing, of another shape or not finite is a `DataError` with its
    name, as is a statistic outside its bound; clipped values are counted. Then `fill` may be called from any thread, for
    any piece, in any order; the same piece of the same quantiser is always rounded alike.

    tree: arrays of the leaves' shapes; float32 is worked on in single precision, a tree with any other type of update in
    double. It is read where it is (copied only if it is not contiguous) and must not change meanwhile.
    sites: how many sites there is room for, 1 to 2^15. entropy: where the key of the rounding comes from.
    """

    dtype: np.dtype[Any] = np.dtype(np.uint32)

    def __init__(
        self,
        tree: Mapping[str, NDArray[Any]],
        leaves: Mapping[str, Leaf],
        sites: int,
        entropy: Entropy = system_entropy,
    ) -> None:
        limit(sites)  # refuses numbers of sites that there is no room for, without any update too
        updates, others = _kinds(leaves)
        powers = {name: exponent(leaf, sites) for name, leaf in updates.items()}
        arrays = {name: exact.numbers(tree, name, leaf).reshape(-1) for name, leaf in updates.items()}
        single = all(a.dtype == np.float32 and powers[name] in _SINGLE for name, a in arrays.items())
        self._kind: type[np.floating[Any]] = np.float32 if single else np.float64
        self._updates = [_inspect(name, arrays[name], leaf, powers[name], self._kind) for name, leaf in updates.items()]
        self._stops = np.cumsum([u.values.size for u in self._updates], dtype=np.int64).tolist()
        self.clipped = sum(u.clipped for u in self._updates)
        self._limbs = _to_limbs(np.append(exact.encode(tree, others).view(np.int64), np.int64(self.clipped)))
        self.size = (self._stops[-1] if self._stops else 0) + self._limbs.size
        self._key = entropy(SEED_BYTES)
        self._spare: list[_Workspace] = []  # pop and append are atomic: a thread takes one and puts it back

    def fill(self, start: int, out: Words) -> None:
        """Write the words ``start .. start + out.size`` into `out` (uint32)."""
        end = self._stops[-1] if self._stops else 0
        stop = start + out.size
        if start < end and out.size:
            work = self._workspace()
            for at in range(start, min(stop, end), _BLOCK):
                self._round(at, out[at - start : min(at + _BLOCK, stop, end) - start].view(np.int32), work)
            self._spare.append(work)
        if stop > end:
            tail = max(start, end)
            out[tail - start :] = self._limbs[tail - end : stop - end]

    def _workspace(self) -> _Workspace:
        try:
            return self._spare.pop()
        except IndexError:
            return _Workspace(self._key, self._kind, min(_BLOCK, self._stops[-1]))

    def _round(self, start: int, out: NDArray[np.int32], work: _Workspace) -> None:
        """floor(x * scale) + 1 if the remainder and the random number make 1 together, for at most _BLOCK elements.

        The remainder is in [0, 1], and exact but for a negative x * scale above -1/2, where single precision is off by
        2^-25 at most. u <= 1 - 2^-17, so that a whole number stays what it is and the limit holds.
        """
        size = out.size
        scaled, below, up = work.scaled[:size], work.below[:size], work.up[:size]
        self._scale(start, scaled)
        np.floor(scaled, out=below)
        np.subtract(scaled, below, out=scaled)
        np.copyto(out, below, casting="unsafe")
        np.copyto(below, work.random(start, size))
        np.multiply(below, self._kind(1 / _LIMB), out=below)
        np.add(below, self._kind(0.5 / _LIMB), out=below)
        np.add(scaled, below, out=scaled)
        np.copyto(up, scaled, casting="unsafe")
        np.add(out, up, out=out)

    def _scale(self, start: int, out: NDArray[np.floating[Any]]) -> None:
        """The clipped elements ``start .. start + out.size`` of all update leaves, times their scales."""
        k = bisect_right(self._stops, start)
        at = 0
        while at < out.size:
            leaf = self._updates[k]
            first = start + at - (self._stops[k] - leaf.values.size)
            values = leaf.values[first : first + out.size - at]
            part = out[at : at + values.size]
            with np.errstate(over="ignore"):  # an infinity is clipped as well
                np.multiply(values, leaf.scale, out=part, dtype=self._kind, casting="same_kind")
            if leaf.clipped:
                np.clip(part, -leaf.most, leaf.most, out=part)
            at += values.size
            k += 1


def encode(
    tree: Mapping[str, NDArray[Any]], leaves: Mapping[str, Leaf], sites: int, entropy: Entropy = system_entropy
) -> NDArray[np.uint32]:
    """The whole tree as one vector of 32-bit words, quantised by a `Quantiser` (whose errors it raises)."""
    source = Quantiser(tree, leaves, sites, entropy)
    words = np.empty(source.size, np.uint32)
    mask_into(words, source, [])
    return words


def decode(total: Words, leaves: Mapping[str, Leaf], sites: int) -> Decoded:
    """The opened sum of at most `sites` parts (the number they were encoded for). total: (length(leaves),) uint32.

    `ProtocolError` if it has another length (rule ``encoding-length``), or cannot be such a sum (``encoding-range``): masks
    that did not cancel leave noise, and the limbs of noise are too large; or a leaf is larger than `sites` sites can make
    it within its bound, so that one of them sent more.
    """
    if total.dtype != np.uint32 or total.shape != (length(leaves),):
        raise exact.wrong_words(total, length(leaves), np.uint32)
    limit(sites)
    updates, others = _kinds(leaves)
    end = sum(leaf.size for leaf in updates.values())
    statistics = _from_limbs(np.asarray(total[end:]), sites)
    clipped = int(statistics[-1])
    if not 0 <= clipped <= sites * end:
        raise _no_sum()
    opened = exact.decode(statistics[:-1].view(exact.Word), others, sites)
    signed = np.asarray(total).view(np.int32)
    tree: dict[str, NDArray[np.float64]] = {}
    at = 0
    for name, leaf in leaves.items():
        if leaf.rule != "update":
            tree[name] = opened[name]
            continue
        words = signed[at : at + leaf.size]
        power = exponent(leaf, sites)
        most = sites * (math.ldexp(update_bound(leaf), power) + 1)  # one quantum a site, for its rounding
        if words.size and max(-int(words.min()), int(words.max())) > most:
            raise exact.beyond_range(name, sites)
        part = words.astype(np.float64).reshape(leaf.shape)
        tree[name] = np.multiply(part, math.ldexp(1.0, -power), out=part)
        at += leaf.size
    return Decoded(tree, clipped)


def _kinds(leaves: Mapping[str, Leaf]) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """The update leaves, and the others, each in declared order."""
    updates = {name: leaf for name, leaf in leaves.items() if leaf.rule == "update"}
    return updates, {name: leaf for name, leaf in leaves.items() if name not in updates}


def _inspect(name: str, values: NDArray[Any], leaf: Leaf, power: int, kind: type[np.floating[Any]]) -> _Update:
    """One look at every value: is it finite, and how many are clipped. `values` (m,); a NaN survives min and max."""
    bound = update_bound(leaf)
    top = _at_most(values.dtype.type if values.dtype.kind == "f" else np.float64, bound)
    clipped = 0
    for at in range(0, values.size, _BLOCK):
        block = values[at : at + _BLOCK]
        low, high = float(block.min()), float(block.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise exact.not_finite(name)
        if low < -bound or high > bound:
            clipped += int(np.count_nonzero(block > top)) + int(np.count_nonzero(block < -top))
    scale = kind(math.ldexp(1.0, power))
    return _Update(values, scale, _at_most(kind, bound) * scale, clipped)


def _at_most(kind: type[np.floating[Any]], bound: float) -> np.floating[Any]:
    """The largest number of this precision that is not above the bound."""
    with np.errstate(over="ignore"):
        top = kind(bound)
    return np.nextafter(top, kind(0)) if float(top) > bound else top


def _to_limbs(integers: NDArray[np.int64]) -> NDArray[np.uint32]:
    """(m,) 48-bit integers -> (3 m,) words: all lowest limbs, all middle ones, all topmost (signed) ones."""
    limbs = [integers & (_LIMB - 1), (integers >> _LIMB_BITS) & (_LIMB - 1), integers >> (2 * _LIMB_BITS)]
    return np.concatenate(limbs).astype(np.int32).view(np.uint32)


def _from_limbs(words: NDArray[np.uint32], sites: int) -> NDArray[np.int64]:
    """The sums of integers whose limbs were added over at most `sites` sites."""
    low, middle, high = words.view(np.int32).astype(np.int64).reshape(_LIMBS, -1)
    unsigned = np.concatenate([low, middle])
    if unsigned.min() < 0 or unsigned.max() > sites * (_LIMB - 1) or np.abs(high).max() > sites * (_LIMB // 2 + 1):
        raise _no_sum()
    integers: NDArray[np.int64] = low + (middle << _LIMB_BITS) + (high << (2 * _LIMB_BITS))
    return integers


def _no_sum() -> ProtocolError:
    return ProtocolError(
        "What was opened is not a sum of encoded parts.",
        rule="encoding-range",
        remedy="The masks did not cancel, or sites used another encoding; nothing is decoded. See the coordinator's log.",
    )
