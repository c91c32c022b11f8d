"""Who masks with whom: the complete graph, or a random regular graph that nobody could choose (rule 8).

Above a few dozen sites each needs only some neighbours (SecAgg+; Bell et al., CCS 2020). That is safe because the graph
is drawn at random *after* the roster was frozen. A coordinator that could choose the draw would surround a victim with
colluders, so every site commits to a nonce, reveals it only when it holds all the commitments, and each site computes
seed and graph by itself from the revealed nonces: one honest nonce makes the draw fair.
(design/secure-aggregation.md, rule 8 and *Parameters*. Graph: Harary, PNAS 1962.)
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from unisono.errors import ProtocolError
from unisono.protection.secagg.keys import canonical
from unisono.protection.secagg.parameters import Parameters

NONCE_BYTES = 32
SEED_BYTES = 32
_WORD_BYTES = 8
_BLOCK_BYTES = 136 * 8
"""Eight blocks of SHAKE-256's rate: no squeeze is wasted."""


@dataclass(frozen=True)
class Graph:
    """Sites and their neighbours; immutable. Made by `complete`, `harary` or `draw`.

    sites: sorted. degree: neighbours of each site.
    """

    sites: tuple[str, ...]
    degree: int
    _joined: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    """Each site's neighbours, in the order of `sites`; empty on the complete graph, where they follow from `sites`."""

    @property
    def complete(self) -> bool:
        """Whether every site is every other's neighbour."""
        return self.degree == len(self.sites) - 1

    def neighbours(self, site: str) -> tuple[str, ...]:
        """The sites that share a mask with `site`, sorted, without itself. `ProtocolError` if `site` is not in it."""
        at = self._position(site)
        return self.sites[:at] + self.sites[at + 1 :] if self.complete else self._joined[at]

    def holders(self, site: str) -> tuple[str, ...]:
        """The sites that hold shares of `site`'s secrets, sorted. `ProtocolError` if `site` is not in the graph.

        Complete graph: all, itself included. Its threshold counts all n (2t > n + C), so its own share is one of them.
        Regular graph: its neighbours only. There 2t > k + colluding neighbours, or t above these, counts k holders; a
        share of its own would hand a lying coordinator one more answer than was counted.
        """
        self._position(site)
        return self.sites if self.complete else self.neighbours(site)

    def _position(self, site: str) -> int:
        at = bisect_left(self.sites, site)
        if at == len(self.sites) or self.sites[at] != site:
            raise ProtocolError(
                f"{site[:64]!r} is not in the graph of this sum.",
                rule="graph-sites",
                remedy="Only sites of the frozen roster have neighbours; a new site waits for the next graph.",
            )
        return at


def complete(sites: Collection[str]) -> Graph:
    """The graph in which every site is every other's neighbour. `ProtocolError` if a name is there twice, or none."""
    ordered = _ordered(sites)
    return Graph(ordered, len(ordered) - 1)


def harary(sites: Collection[str], degree: int, seed: bytes) -> Graph:
    """The sites on a circle, in an order drawn from `seed` without bias, each joined to degree/2 on either side.

    degree: even, 2 <= degree <= n - 1. seed: 32 bytes (`seed_of`). The order in which `sites` come does not matter.
    Removing fewer than `degree` sites, whichever they are, leaves the rest connected. `ProtocolError` if the degree
    does not fit, or the seed is no seed.
    """
    ordered = _ordered(sites)
    n = len(ordered)
    if degree % 2 or not 2 <= degree <= n - 1:
        raise ProtocolError(
            f"{n} sites cannot each have {degree} neighbours on a circle.",
            rule="graph-parameters",
            remedy="The degree is even, at least 2 and below the number of sites: derive it, do not choose it.",
        )
    if not isinstance(seed, bytes) or len(seed) != SEED_BYTES:
        raise _unusable_seed(f"What was given as the graph's seed is not {SEED_BYTES} bytes.")
    circle = _shuffled(ordered, seed)
    steps = [step for step in range(-(degree // 2), degree // 2 + 1) if step]
    joined = {site: tuple(sorted(circle[(at + step) % n] for step in steps)) for at, site in enumerate(circle)}
    return Graph(ordered, degree, tuple(joined[site] for site in ordered))


def draw(sites: Collection[str], parameters: Parameters, seed: bytes | None) -> Graph:
    """The graph that `parameters` ask for. A complete graph needs no seed. `ProtocolError` if a regular one has none, or
    if `sites` are not as many as the parameters were derived for."""
    if len(sites) != parameters.n:
        raise ProtocolError(
            f"The parameters are for {parameters.n} sites, and {len(sites)} take part.",
            rule="graph-sites",
            remedy="Parameters and graph are made for exactly the sites of the frozen roster: derive them again.",
        )
    if parameters.complete:
        return complete(sites)
    if seed is None:
        raise _unusable_seed(f"The {parameters.graph} of {parameters.n} sites cannot be drawn without a seed.")
    return harary(sites, parameters.degree, seed)


def commitment(run: str, group: str, site: str, nonce: bytes) -> bytes:
    """What a site publishes of its nonce before anyone reveals theirs (32 bytes, SHA-256): it can no longer change it.

    run, group: what the graph is for; a commitment for one is none for another. `ProtocolError` unless `nonce` has 32
    bytes (random ones, from the system: `unisono.protection.prg.system_entropy`).
    """
    _check_nonce(site, nonce)
    return hashlib.sha256(canonical("graph-commitment", run, group, site) + nonce).digest()


def seed_of(run: str, group: str, nonces: Mapping[str, bytes]) -> bytes:
    """The graph's seed (32 bytes, SHA-256), from every site's revealed nonce, in the order of the names.

    That the nonces are the committed ones, and that they are of the whole roster, each site checks before. A site that
    sees the others' nonces first could only abort, and aborts are logged. `ProtocolError` if there is no nonce, or one
    has not 32 bytes.
    """
    names = _ordered(nonces)
    for site in names:
        _check_nonce(site, nonces[site])
    revealed = b"".join(nonces[site] for site in names)  # of one length each, under the names: it can be read one way
    return hashlib.sha256(canonical("graph-seed", run, group, *names) + revealed).digest()


def _shuffled(sites: tuple[str, ...], seed: bytes) -> list[str]:
    """Fisher-Yates (Knuth, TAOCP 2, 3.4.2, algorithm P): every order equally likely."""
    words = _words(seed)
    circle = list(sites)
    for last in range(len(circle) - 1, 0, -1):
        other = _below(last + 1, words)
        circle[last], circle[other] = circle[other], circle[last]
    return circle


def _below(bound: int, words: Iterator[int]) -> int:
    """A number in 0 .. bound - 1, each equally likely: words past the last whole multiple of `bound` are thrown away."""
    usable = 2 ** (8 * _WORD_BYTES) // bound * bound
    return next(word for word in words if word < usable) % bound


def _words(seed: bytes) -> Iterator[int]:
    """Endless 64-bit words of SHAKE-256 (FIPS 202) over the seed and a block counter."""
    start = canonical("graph-order") + seed
    for block in count():
        stream = hashlib.shake_256(start + block.to_bytes(8, "big")).digest(_BLOCK_BYTES)
        for at in range(0, _BLOCK_BYTES, _WORD_BYTES):
            yield int.from_bytes(stream[at : at + _WORD_BYTES], "big")


def _ordered(sites: Collection[str]) -> tuple[str, ...]:
    ordered = tuple(sorted(sites))
    if not ordered or len(set(ordered)) != len(ordered):
        raise ProtocolError(
            "A graph needs sites, each once.",
            rule="graph-sites",
            remedy="Give the frozen roster's sites; a site that is there twice would be its own neighbour.",
        )
    return ordered


def _check_nonce(site: str, nonce: bytes) -> None:
    if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES:
        raise ProtocolError(
            f"The nonce of {site[:64]} for the graph is not {NONCE_BYTES} bytes.",
            rule="graph-nonce",
            remedy="Each site draws 32 random bytes and reveals exactly these; start a new draw, and log this one.",
        )


def _unusable_seed(what: str) -> ProtocolError:
    return ProtocolError(
        what,
        rule="graph-seed",
        remedy="Every site commits to a nonce and reveals it; the seed is the hash over all of them, never a chosen one.",
    )
