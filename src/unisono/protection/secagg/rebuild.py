"""Rebuilding the secrets that unmask a sum from the shares that survivors gave, each checked before it is used."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping

from unisono.errors import ProtocolError
from unisono.protection.secagg.keys import Slot, private_key, public_of
from unisono.protection.secagg.messages import UnmaskShares
from unisono.protection.secagg.setup import SlotSetup
from unisono.protection.secagg.site import pair_sign
from unisono.protection.shamir import recover

Stream = tuple[bytes, int]
"""A mask to add: its seed and its sign."""


class Rebuilder:
    """The masks left in a sum. `wrong_sharers` grows as wrong shares are found and done without."""

    def __init__(self, setup: SlotSetup, answers: Mapping[str, UnmaskShares], binding: str) -> None:
        self.setup = setup
        self.answers = answers
        self.binding = binding
        self.wrong_sharers: tuple[str, ...] = ()
        self._derive = Slot(setup.group.run, setup.slot)

    def self_mask(self, site: str) -> list[Stream]:
        """What takes a survivor's own mask off. Nothing for the recipient's, which only it can."""
        if site == self.setup.recipient:
            return []
        shares = {name: answer.self_seeds[site] for name, answer in self.answers.items() if site in answer.self_seeds}
        expected = self.setup.shares[site].commitment
        seed = self._rebuilt(site, shares, lambda secret: self._derive.commitment(secret, site), expected)
        return [(self._derive.self_mask_seed(seed, site, self.binding), -1)]

    def pair_masks(self, gone: str, survivors: Iterable[str]) -> list[Stream]:
        """What takes off the masks that the survivors share with a site that dropped."""
        shares = {name: answer.mask_keys[gone] for name, answer in self.answers.items() if gone in answer.mask_keys}
        advertised = self.setup.advertised
        secret = private_key(self._rebuilt(gone, shares, public_of, advertised[gone].mask_key))
        neighbours = set(self.setup.drawing.draw(advertised).neighbours(gone))
        return [
            (
                self._derive.pair_seed(secret, advertised[site].mask_key, gone, site, self.binding),
                -pair_sign(site, gone),
            )
            for site in survivors
            if site in neighbours
        ]

    def _rebuilt(
        self, owner: str, shares: Mapping[str, bytes], known: Callable[[bytes], bytes], expected: bytes
    ) -> bytes:
        places = self.setup.group.places
        names = {x: site for site, x in places.items()}
        found = recover(
            {places[site]: share for site, share in shares.items()},
            self.setup.group.parameters.t,
            lambda secret: hmac.compare_digest(known(secret), expected),
            frozenset(places[site] for site in self.wrong_sharers),
        )
        if found is None:
            raise ProtocolError(
                f"{owner}'s secret cannot be rebuilt from the {len(shares)} shares that came: one is wrong, "
                f"or {owner} dealt them wrong.",
                rule="wrong-share",
                remedy="With more answers than the threshold the wrong one can be found: wait for the other survivors. "
                "If none is missing, the attempt is over.",
                evidence={"owner": owner, "shares from": ", ".join(sorted(shares))},
            )
        self.wrong_sharers = tuple(sorted({*self.wrong_sharers, *(names[x] for x in found.wrong)}))
        return found.secret
