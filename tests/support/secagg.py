"""A small federation of masked sums in one process, with seeded randomness, for the tests of the protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from unisono.errors import ProtocolError
from unisono.federation.tree import pack, unpack
from unisono.protection.prg import Entropy, Words
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.messages import (
    KeyRoster,
    MaskedInput,
    Message,
)
from unisono.protection.secagg.parameters import Parameters, threshold
from unisono.protection.secagg.roster import Identity, Roster
from unisono.protection.secagg.site import SiteSession

ASK = "a" * 64
OTHER_ASK = "b" * 64
NAMES = tuple(f"site{k:02d}" for k in range(40))


def seeded(seed: str) -> Entropy:
    """Entropy that is the same in every run of a test."""
    calls = 0

    def draw(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(size)

    return draw


def identities(sites: Collection[str]) -> dict[str, Identity]:
    """The same identity for the same name, always."""
    return {site: Identity.generate(seeded(f"identity {site}")) for site in sites}


def roster_of(keys: Mapping[str, Identity]) -> Roster:
    return Roster({site: key.public for site, key in keys.items()})


class Hall:
    """n sites and a coordinator, in one slot. Every message goes through its packed tree, as it does on the wire."""

    def __init__(
        self,
        n: int,
        colluding: int = 1,
        *,
        min_sites: int = 3,
        length: int = 5,
        slot: str = "slot 1",
        run: str = "run 1",
    ) -> None:
        self.sites = NAMES[:n]
        self.keys = identities(self.sites)
        self.roster = roster_of(self.keys)
        self.parameters: Parameters = threshold(n, colluding, min_sites)
        self.run, self.slot, self.length = run, slot, length
        self.at = {site: self.session(site) for site in self.sites}
        self.coordinator = AggregatorSession(self.sites, self.roster, self.parameters, run, slot, length)
        rng = np.random.default_rng(n)
        self.vectors = {site: rng.integers(0, 2**48, length, np.uint64) for site in self.sites}

    def session(self, site: str, roster: Roster | None = None) -> SiteSession:
        entropy = seeded(f"{self.run} {self.slot} {site}")
        return SiteSession(site, self.keys[site], roster or self.roster, self.parameters, self.run, self.slot, entropy)

    def advertise(self) -> KeyRoster:
        for site in self.sites:
            self.coordinator.collect_advertise(wired(self.at[site].advertise()))
        return wired(self.coordinator.key_roster())

    def share(self) -> None:
        keys = self.advertise()
        for site in self.sites:
            self.coordinator.collect_shares(wired(self.at[site].share(keys)))

    def masked(self, site: str, ask: str = ASK) -> MaskedInput:
        return wired(self.at[site].mask(self.vectors[site], ask, wired(self.coordinator.inbox_for(site))))

    def mask(self, dropped: Collection[str] = ()) -> None:
        self.share()
        for site in self.sites:
            if site not in dropped:
                self.coordinator.collect_masked(self.masked(site))

    def unmask(self, silent: Collection[str] = ()) -> None:
        request = wired(self.coordinator.unmask_request())
        for site in self.coordinator.survivors:
            if site not in silent:
                self.coordinator.collect_unmask(wired(self.at[site].unmask(request)))

    def total(self, sites: Collection[str]) -> Words:
        return np.add.reduce([self.vectors[site] for site in sites])


M = TypeVar("M", bound=Message)


def wired(message: M) -> M:
    """The message as it arrives at the other end."""
    return type(message).from_tree(unpack(pack(message.to_tree())))


def chi_square_of_bytes(words: NDArray[np.uint64]) -> float:
    """Of the 256 byte values against uniform; 255 degrees of freedom: above 340 in 3 of 10,000 uniform samples."""
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


def refusal(call: Callable[..., object], *arguments: object) -> str:
    """The rule by which the call is refused."""
    with pytest.raises(ProtocolError) as error:
        call(*arguments)
    assert error.value.remedy
    return error.value.rule
