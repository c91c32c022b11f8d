"""The coordinator's half of one masked sum: it relays keys and boxes, adds masked vectors, and opens the total only.

    collect_advertise -> key_roster -> collect_shares -> inbox_for -> collect_masked -> unmask_request
    -> collect_unmask -> open

`state_tree` closes the set of survivors and holds all that is needed to finish: it is to be stored durably *before*
anyone is asked to unmask, so that a coordinator that dies asks for the very same opening again (rule 1).
(Bonawitz et al., CCS 2017, figure 4, semi-honest form; design/secure-aggregation.md.)
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from unisono.errors import ProtocolError
from unisono.protection.prg import Words, add_streams
from unisono.protection.secagg.keys import PROTOCOL, Slot, private_key, public_of
from unisono.protection.secagg.messages import (
    Advertise,
    KeyRoster,
    MaskedInput,
    Message,
    SealedInbox,
    Shares,
    Unmask,
    UnmaskShares,
    words_digest,
)
from unisono.protection.secagg.parameters import Parameters, threshold
from unisono.protection.secagg.roster import Roster
from unisono.protection.secagg.site import check_advertised, check_distinct_keys, check_sites, pair_sign
from unisono.protection.shamir import recover


class AggregatorSession:
    """One slot at the coordinator.

    sites: the attempt's final set. length: words in a vector. ask_digest: of the ask; if empty, the first masked
    input's. `ProtocolError` if sites, roster and parameters do not fit together.
    """

    def __init__(
        self,
        sites: Collection[str],
        roster: Roster,
        parameters: Parameters,
        run: str,
        slot: str,
        length: int,
        ask_digest: str = "",
    ) -> None:
        self.participants = check_sites(sites, roster, parameters)
        self.roster = roster
        self.parameters = parameters
        self.run = run
        self.slot = slot
        self.length = length
        self.ask_digest = ask_digest
        self.wrong_sharers: tuple[str, ...] = ()
        """Sites whose shares `open` found to be wrong (or dealt to them wrong). The sum it gave is right all the same:
        every secret was checked."""
        self._advertised: dict[str, Advertise] = {}
        self._boxes: dict[str, Mapping[str, bytes]] = {}
        self._commitments: dict[str, bytes] = {}
        self._masked: set[str] = set()
        self._accumulated = np.zeros(length, np.uint64)
        self._survivors: tuple[str, ...] | None = None
        self._answers: dict[str, UnmaskShares] = {}

    # Message A, keys

    def collect_advertise(self, message: Advertise) -> None:
        """A site's keys; checked here too, so that a fault is named before the sites meet it."""
        self._expect_from(message, message.site, self._advertised)
        check_advertised(message, self.roster, self.run, self.slot)
        self._advertised[message.site] = message

    def key_roster(self) -> KeyRoster:
        """All keys, for every site. `ProtocolError` while one is missing."""
        self._complete(self._advertised, "keys")
        keys = KeyRoster(self.run, self.slot, tuple(self._advertised[site] for site in self.participants))
        check_distinct_keys(keys)
        return keys

    # Message B, shares

    def collect_shares(self, message: Shares) -> None:
        """A site's sealed boxes, one for each other site."""
        self._expect_from(message, message.site, self._boxes)
        self._complete(self._advertised, "keys")
        if set(message.boxes) != set(self.participants) - {message.site}:
            raise ProtocolError(
                f"{message.site} did not seal one box for each other site.",
                rule="sealed-inbox",
                remedy="The site runs other software, or the message was altered; start a new attempt.",
            )
        self._boxes[message.site] = message.boxes
        self._commitments[message.site] = message.commitment

    def inbox_for(self, site: str) -> SealedInbox:
        """The boxes sealed for one site. `ProtocolError` while a site's shares are missing: without them, no masks."""
        self._complete(self._boxes, "shares")
        boxes = {sender: self._boxes[sender][site] for sender in self.participants if sender != site}
        return SealedInbox(site, self.run, self.slot, boxes)

    # Message C, masked inputs

    def collect_masked(self, message: MaskedInput) -> None:
        """Add a site's masked vector: whole, of the right length and to the right question, once; or not at all."""
        self._expect_from(message, message.site, self._masked)
        self._complete(self._boxes, "shares")
        if self._survivors is not None:
            raise ProtocolError(
                f"{message.site}'s part came after the sum was closed; it is not in it.",
                rule="survivors-fixed",
                remedy="The part is thrown away unread; the site takes part again in the next sum.",
            )
        expected = self.ask_digest or message.ask_digest
        if message.ask_digest != expected:
            raise ProtocolError(
                f"{message.site} answered another question than the others.",
                rule="different-questions",
                remedy="Its part would not unmask. Ask all sites the same, in a new attempt.",
            )
        words = message.words
        whole = words.dtype == np.uint64 and words.shape == (self.length,)
        if not whole or not hmac.compare_digest(words_digest(words), message.words_digest):
            raise ProtocolError(
                f"{message.site}'s masked part is not whole: {words.size} words came, {self.length} are expected.",
                rule="half-upload",
                remedy="Nothing of it was added. The site sends the same message again.",
            )
        self.ask_digest = expected
        np.add(self._accumulated, words, out=self._accumulated)
        self._masked.add(message.site)

    @property
    def accumulated(self) -> Words:
        """The sum of the masked parts so far, (length,) uint64, read-only: noise, until it is unmasked."""
        view = self._accumulated.view()
        view.flags.writeable = False
        return view

    @property
    def survivors(self) -> tuple[str, ...]:
        """Sites whose part is in the sum, sorted; final after `unmask_request` or `state_tree`."""
        return tuple(sorted(self._masked)) if self._survivors is None else self._survivors

    @property
    def dropped(self) -> tuple[str, ...]:
        """Sites that dealt shares and whose part is not in the sum."""
        return tuple(site for site in self.participants if site not in self.survivors)

    # Message D, unmasking

    def unmask_request(self) -> Unmask:
        """Close the set of survivors for ever, and ask for exactly it. `ProtocolError` if too few are left (rule 4)."""
        if self._survivors is None:
            if len(self._masked) < self.parameters.least_survivors:
                raise ProtocolError(
                    f"{len(self._masked)} of {self.parameters.n} parts came; at least "
                    f"{self.parameters.least_survivors} must be in a sum.",
                    rule="enough-survivors",
                    remedy="Start a new attempt when more sites are there.",
                )
            self._survivors = tuple(sorted(self._masked))
        return Unmask(self.run, self.slot, self.ask_digest, self._survivors)

    def collect_unmask(self, message: UnmaskShares) -> None:
        """A survivor's shares: one for every site, of the one kind that the closed set calls for."""
        self._expect_from(message, message.site, self._answers)
        if self._survivors is None:
            raise ProtocolError(
                f"{message.site} unmasks a sum that is not closed.",
                rule="message-order",
                remedy="Close the sum first (unmask_request), and store its state before asking anyone.",
            )
        survivors = self._survivors
        fits = set(message.self_seeds) == set(survivors) and set(message.mask_keys) == set(self.dropped)
        if message.site not in survivors or not fits:
            raise ProtocolError(
                f"{message.site} did not answer for exactly the survivors it was asked about.",
                rule="survivor-set",
                remedy="Its shares are thrown away; the sum can be opened without them if enough others answered.",
            )
        self._answers[message.site] = message

    @property
    def can_open(self) -> bool:
        """Whether enough sites have answered."""
        return len(self._answers) >= self.parameters.t

    def open(self) -> Words:
        """The sum of the survivors' vectors, (length,) uint64.

        `ProtocolError` if fewer than t sites answered (``too-few-shares``), or a secret cannot be rebuilt from what
        they answered (``wrong-share``, saying whose). With more than t answers wrong ones are found, named in
        `wrong_sharers`, and done without.
        """
        if not self.can_open:
            raise ProtocolError(
                f"{len(self._answers)} sites helped to unmask, {self.parameters.t} are needed.",
                rule="too-few-shares",
                remedy="Wait for more of the survivors to come back; the sum is stored and can still be opened.",
            )
        derive = Slot(self.run, self.slot, self.key_roster().transcript())
        self.wrong_sharers = ()
        streams: list[tuple[bytes, int]] = []
        for site in self.survivors:
            seed = self._rebuild_seed(derive, site)
            streams.append((derive.self_mask_seed(seed, site, self.ask_digest), -1))
        for gone in self.dropped:
            secret = private_key(self._rebuild_mask_key(gone))
            for site in self.survivors:
                public = self._advertised[site].mask_key
                pair = derive.pair_seed(secret, public, gone, site, self.ask_digest)
                streams.append((pair, -pair_sign(site, gone)))
        total = self._accumulated.copy()
        add_streams(total, streams)
        return total

    def _rebuild_seed(self, derive: Slot, site: str) -> bytes:
        shares = {name: answer.self_seeds[site] for name, answer in self._answers.items()}
        return self._rebuild(site, shares, lambda seed: derive.commitment(seed, site), self._commitments[site])

    def _rebuild_mask_key(self, site: str) -> bytes:
        shares = {name: answer.mask_keys[site] for name, answer in self._answers.items()}
        return self._rebuild(site, shares, public_of, self._advertised[site].mask_key)

    def _rebuild(
        self, owner: str, shares: Mapping[str, bytes], known: Callable[[bytes], bytes], expected: bytes
    ) -> bytes:
        places = {site: x for x, site in enumerate(self.participants, 1)}
        names = {x: site for site, x in places.items()}
        found = recover(
            {places[site]: share for site, share in shares.items()},
            self.parameters.t,
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
            )
        self.wrong_sharers = tuple(sorted({*self.wrong_sharers, *(names[x] for x in found.wrong)}))
        return found.secret

    # Storing and going on

    def state_tree(self) -> dict[str, Any]:
        """Closes the set of survivors and gives everything that D needs, for the journal; no secret is in it.

        Like `unmask_request`, a `ProtocolError` if too few are left.
        """
        request = self.unmask_request()
        return {
            "protocol": PROTOCOL,
            "kind": "aggregator",
            "colluding": self.parameters.colluding,
            "min_sites": self.parameters.min_sites,
            "length": self.length,
            "roster_digest": self.roster.digest,
            "keys": self.key_roster().to_tree(),
            "commitments": {site: commitment.hex() for site, commitment in self._commitments.items()},
            "unmask": request.to_tree(),
            "accumulated": self._accumulated.copy(),
        }

    @classmethod
    def restore(cls, tree: Mapping[str, Any], roster: Roster) -> AggregatorSession:
        """The session that `state_tree` stored, ready to ask for the same opening. `ProtocolError` if it is damaged."""
        try:
            keys, request = KeyRoster.from_tree(tree["keys"]), Unmask.from_tree(tree["unmask"])
            sites = [item.site for item in keys.advertised]
            parameters = threshold(len(sites), int(tree["colluding"]), int(tree["min_sites"]))
            session = cls(sites, roster, parameters, request.run, request.slot, int(tree["length"]), request.ask_digest)
            for item in keys.advertised:
                session.collect_advertise(item)
            session._commitments = {site: bytes.fromhex(tree["commitments"][site]) for site in session.participants}
            accumulated = np.asarray(tree["accumulated"])
            survivors = set(request.survivors)
            fits = accumulated.dtype == np.uint64 and accumulated.shape == (session.length,)
            if not fits or not survivors <= set(sites) or len(survivors) < parameters.least_survivors:
                raise ValueError("survivors or accumulated sum do not fit")
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(
                "A stored sum cannot be read.",
                rule="stored-sum",
                remedy="The journal is damaged: restore it from its back-up. The step cannot be asked a second time.",
            ) from error
        session._accumulated = accumulated.astype(np.uint64)
        session._masked = survivors
        session._survivors = request.survivors
        return session

    # Checks

    def _expect_from(self, message: Message, site: str, seen: Collection[str]) -> None:
        message.check_slot(self.run, self.slot)
        if site not in self.participants:
            raise ProtocolError(
                f"{site!r} is not a site of this attempt.",
                rule="pinned-roster",
                remedy="Its message is thrown away.",
            )
        if site in seen:
            raise ProtocolError(
                f"{site} sent its message {message.kind!r} twice.",
                rule="message-order",
                remedy="The first one counts; the second is thrown away.",
            )

    def _complete(self, have: Collection[str], what: str) -> None:
        missing = [site for site in self.participants if site not in have]
        if missing:
            raise ProtocolError(
                f"The {what} of {', '.join(missing)} have not come.",
                rule="message-order",
                remedy="Wait for them, or start a new attempt without them.",
            )
