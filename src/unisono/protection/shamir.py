"""Shamir's secret sharing of 32-byte secrets, t of n, over the prime field of 2^521 - 1 (Shamir, CACM 1979).

The field is larger than any secret, so 32 bytes are one field element: never folded, never cut. Plain Python integers:
about a millisecond for the largest federations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice

from unisono.errors import ProtocolError
from unisono.protection.prg import Entropy, system_entropy

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66
"""A share is one field element, 521 bits, big-endian."""
_TRIES = 2000
"""Subsets of shares that `recover` looks through when some are wrong."""


def split(secret: bytes, t: int, xs: Sequence[int], entropy: Entropy = system_entropy) -> dict[int, bytes]:
    """Shares ``{x: 66 bytes}`` of a 32-byte secret at the places `xs`; any `t` of them give it back, fewer say nothing.

    `ProtocolError` if the places are not distinct positive numbers, or fewer than `t`.
    """
    _distinct_places(xs)
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes")
    if not 1 <= t <= len(xs):
        raise ProtocolError(
            f"A secret cannot be shared so that {t} of {len(xs)} shares give it back.",
            rule="share-threshold",
            remedy="The threshold must be between 1 and the number of shares.",
        )
    coefficients = [int.from_bytes(secret, "big"), *(_field_element(entropy) for _ in range(t - 1))]
    return {x: _evaluate(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in xs}


def combine(shares: Mapping[int, bytes], t: int) -> bytes:
    """The secret from at least `t` shares (the first `t` by place). `ProtocolError` if there are too few, or if what
    they give is no 32-byte secret, as nearly always with a wrong share; `recover` finds which one is wrong."""
    _check_enough(shares, t)
    secret = _interpolate(shares, tuple(sorted(shares)[:t]), 0)
    if secret >= 1 << (8 * SECRET_BYTES):
        raise ProtocolError(
            "Shares do not belong together: what they give is no secret.",
            rule="wrong-share",
            remedy="At least one share is wrong. With more than the threshold of shares the wrong one can be found.",
        )
    return secret.to_bytes(SECRET_BYTES, "big")


@dataclass(frozen=True)
class Recovered:
    """A secret that was checked, and the places whose shares do not lie on its polynomial."""

    secret: bytes
    wrong: frozenset[int]


def recover(
    shares: Mapping[int, bytes], t: int, accept: Callable[[bytes], bool], suspects: frozenset[int] = frozenset()
) -> Recovered | None:
    """The secret that `accept` knows to be right, although some shares may be wrong; `None` if it was not found.

    Tries sets of `t` shares, those without `suspects` first; all sets when there are few, else the first 2000. When
    the first set already gives the secret, the remaining shares are not looked at.
    """
    _check_enough(shares, t)
    order = sorted(shares, key=lambda x: (x in suspects, x))
    for attempt, places in enumerate(islice(_subsets(order, t), _TRIES)):
        value = _interpolate(shares, places, 0)
        if value >> (8 * SECRET_BYTES):
            continue
        secret = value.to_bytes(SECRET_BYTES, "big")
        if not accept(secret):
            continue
        if attempt == 0:
            return Recovered(secret, frozenset())
        others = set(shares) - set(places)
        wrong = {x for x in others if _interpolate(shares, places, x) != int.from_bytes(shares[x], "big")}
        return Recovered(secret, frozenset(wrong))
    return None


def _subsets(order: Sequence[int], t: int) -> Iterator[tuple[int, ...]]:
    # Windows first: with m > t shares, each single wrong share is outside one of the m cyclic windows of length t.
    m = len(order)
    for start in range(m if m > t else 1):
        yield tuple(sorted((*order, *order)[start : start + t]))
    if m > t:
        for places in combinations(order, t):
            yield tuple(sorted(places))


def _check_enough(shares: Mapping[int, bytes], t: int) -> None:
    _distinct_places(list(shares))
    if len(shares) < t:
        raise ProtocolError(
            f"{len(shares)} shares cannot give back a secret that takes {t}.",
            rule="too-few-shares",
            remedy="Wait for more sites to answer.",
        )
    if any(len(share) != SHARE_BYTES for share in shares.values()):
        raise ProtocolError(
            f"A share does not have {SHARE_BYTES} bytes.",
            rule="wrong-share",
            remedy="The site that sent it runs another version, or the message was altered.",
        )


def _distinct_places(xs: Sequence[int]) -> None:
    if len(set(xs)) != len(xs) or any(not 1 <= x < PRIME for x in xs):
        raise ProtocolError(
            "Two shares at one place, or a place that is not a positive number.",
            rule="share-places",
            remedy="Give each site its own place, from 1.",
        )


def _field_element(entropy: Entropy) -> int:
    while True:  # rejected once in 2^521
        value = int.from_bytes(entropy(SHARE_BYTES), "big") >> (8 * SHARE_BYTES - 521)
        if value < PRIME:
            return value


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def _interpolate(shares: Mapping[int, bytes], places: tuple[int, ...], at: int) -> int:
    weights = _lagrange(places, at)
    return sum(w * int.from_bytes(shares[x], "big") for w, x in zip(weights, places, strict=True)) % PRIME


@lru_cache(maxsize=256)
def _lagrange(places: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Weights of the values at `places` in the value at `at`: the same for every secret that the same sites share."""
    weights = []
    for x in places:
        above = below = 1
        for other in places:
            if other != x:
                above = above * (at - other) % PRIME
                below = below * (x - other) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
