"""One site's half of one masked sum: a state machine, messages in, messages out, no network, no files, no clock.

    advertise() -> share(key roster) -> mask(words, ask digest, inbox) -> unmask(survivors)

Each step happens once and in this order. What the machine cannot know is whether this *step* of a study was opened
before, in another attempt: remembering that, durably, is its caller's duty (rule 1).
(Bonawitz et al., CCS 2017, figure 4, semi-honest form; design/secure-aggregation.md.)
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

import numpy as np

from unisono.errors import ProtocolError
from unisono.protection.prg import Entropy, Words, add_streams, system_entropy
from unisono.protection.secagg.keys import Slot, SlotKeys, nonce, private_key
from unisono.protection.secagg.messages import (
    Advertise,
    KeyRoster,
    MaskedInput,
    SealedInbox,
    Shares,
    Unmask,
    UnmaskShares,
    words_digest,
)
from unisono.protection.secagg.parameters import Parameters
from unisono.protection.secagg.roster import Identity, Roster
from unisono.protection.shamir import SHARE_BYTES, split


class Stage(Enum):
    """How far a site has come in a slot."""

    NEW = "nothing was advertised yet"
    ADVERTISED = "keys were advertised"
    SHARED = "shares went out"
    MASKED = "a masked input went out"
    UNMASKED = "the sum was unmasked"
    FORGOTTEN = "the slot was forgotten"


class SiteSession:
    """One slot at one site.

    me, identity: this site. roster: the public keys that *this site's permit* pins, whatever the coordinator says.
    sites: who takes part in this attempt (all of the roster by default); `parameters.n` of them.
    run, slot: names, new for each attempt. keys: a slot's secrets made earlier; fresh ones by default.
    `ProtocolError` if these do not fit together.
    """

    def __init__(
        self,
        me: str,
        identity: Identity,
        roster: Roster,
        parameters: Parameters,
        run: str,
        slot: str,
        entropy: Entropy = system_entropy,
        *,
        sites: Collection[str] | None = None,
        keys: SlotKeys | None = None,
    ) -> None:
        self.me = me
        self.sites = check_sites(roster.sites if sites is None else sites, roster, parameters)
        if me not in self.sites or roster[me] != identity.public:
            raise ProtocolError(
                f"{me}'s own key is not the one that the roster has for it.",
                rule="pinned-roster",
                remedy="This site has a new identity or an old roster: enrol again and have the permit renewed.",
            )
        self.roster = roster
        self.parameters = parameters
        self.run = run
        self.slot = slot
        self.stage = Stage.NEW
        self._identity = identity
        self._entropy = entropy
        self._keys = SlotKeys.fresh(entropy) if keys is None else keys
        self._derive = Slot(run, slot, transcript="")
        self._advertised: dict[str, Advertise] = {}
        self._mask_shares: dict[str, bytes] = {}
        self._seed_shares: dict[str, bytes] = {}
        self._ask_digest = ""
        self._unmasked: UnmaskShares | None = None
        self._opened_for: frozenset[str] = frozenset()

    def advertise(self) -> Advertise:
        """A: this slot's public keys, signed. Asked again before anything else, it gives the same keys."""
        if self.stage is not Stage.ADVERTISED:
            self._expect(Stage.NEW, "advertise")
        digest, mask_key, channel_key = self.roster.digest, self._keys.mask_public, self._keys.channel_public
        unsigned = Advertise(self.me, self.run, self.slot, digest, mask_key, channel_key, b"")
        signature = self._identity.sign(unsigned.signed())
        self.stage = Stage.ADVERTISED
        return Advertise(self.me, self.run, self.slot, digest, mask_key, channel_key, signature)

    def share(self, keys: KeyRoster) -> Shares:
        """B: check that every key is its site's own, then deal out shares of this site's two secrets, sealed.

        `ProtocolError` for a key that is missing, extra, there twice, reused, unsigned, or of another slot or roster.
        """
        self._expect(Stage.ADVERTISED, "share")
        advertised = self._checked(keys)
        derive = Slot(self.run, self.slot, keys.transcript())
        places = {site: x for x, site in enumerate(self.sites, 1)}
        of_mask = split(self._keys.mask, self.parameters.t, list(places.values()), self._entropy)
        of_seed = split(self._keys.self_seed, self.parameters.t, list(places.values()), self._entropy)
        channel = private_key(self._keys.channel)
        boxes: dict[str, bytes] = {}
        for site in self._neighbours():
            key = derive.channel_key(channel, advertised[site].channel_key, self.me, site)
            plain = of_mask[places[site]] + of_seed[places[site]]
            boxes[site] = derive.seal(key, nonce(self._entropy), plain, self.me, site)
        # A site keeps its own share of its own seed: with it, t of the n - drops survivors are enough.
        self._mask_shares[self.me] = of_mask[places[self.me]]
        self._seed_shares[self.me] = of_seed[places[self.me]]
        self._advertised, self._derive, self.stage = advertised, derive, Stage.SHARED
        commitment = derive.commitment(self._keys.self_seed, self.me)
        return Shares(self.me, self.run, self.slot, boxes, commitment)

    def mask(self, words: Words, ask_digest: str, inbox: SealedInbox) -> MaskedInput:
        """C: open the shares dealt to this site, and give its vector (m,) uint64 under masks bound to the ask's digest.

        Once only: two vectors under one mask would show their difference (rule 6). `words` itself is not changed.
        `ProtocolError` if a box is missing, extra or altered; then nothing leaves.
        """
        self._expect(Stage.SHARED, "mask")
        if words.dtype != np.uint64 or words.ndim != 1 or not ask_digest:
            raise ProtocolError(
                "Only one dimension of 64-bit words, for one named ask, can be masked.",
                rule="encoding-length",
                remedy="This is a fault of the site's software; report it.",
            )
        mask_shares, seed_shares = self._opened(inbox)
        seeds = [(self._derive.self_mask_seed(self._keys.self_seed, self.me, ask_digest), 1)]
        secret = private_key(self._keys.mask)
        for site in self._neighbours():
            public = self._advertised[site].mask_key
            seed = self._derive.pair_seed(secret, public, self.me, site, ask_digest)
            seeds.append((seed, pair_sign(self.me, site)))
        self.stage = Stage.MASKED
        self._mask_shares.update(mask_shares)
        self._seed_shares.update(seed_shares)
        self._ask_digest = ask_digest
        self._keys.forget()  # what the others may need of them is in the shares
        masked = words.astype(np.uint64)  # always a copy
        add_streams(masked, seeds)
        return MaskedInput(self.me, self.run, self.slot, ask_digest, masked, words_digest(masked))

    def unmask(self, request: Unmask | Collection[str]) -> UnmaskShares:
        """D: for each site *either* the share of its self-mask seed (it survived) *or* of its mask key (it dropped).

        request: the coordinator's message, or just the set of survivors. Asked again for the same set it repeats its
        answer; for another set it refuses for ever (rules 1 and 5). `ProtocolError` if too few survived (rule 4), this
        site is not among them, or one of them took no part.
        """
        survivors = self._survivors(request)
        if self.stage is Stage.UNMASKED and self._unmasked is not None and survivors == self._opened_for:
            return self._unmasked
        if self.stage is Stage.UNMASKED:
            raise ProtocolError(
                "The sum was already unmasked for another set of survivors.",
                rule="one-opening",
                remedy="The difference of two openings would be one hospital's part. Nothing was given.",
            )
        self._expect(Stage.MASKED, "unmask")
        self._check_survivors(survivors)
        self._unmasked = UnmaskShares(
            self.me,
            self.run,
            self.slot,
            {site: self._seed_shares[site] for site in self.sites if site in survivors},
            {site: self._mask_shares[site] for site in self.sites if site not in survivors},
        )
        self._opened_for = survivors
        self.stage = Stage.UNMASKED
        self._mask_shares.clear()
        self._seed_shares.clear()
        return self._unmasked

    def forget(self) -> None:
        """Drop every secret of the slot; only a new slot can follow."""
        self._keys.forget()
        self._mask_shares.clear()
        self._seed_shares.clear()
        self._unmasked = None
        self.stage = Stage.FORGOTTEN

    def _neighbours(self) -> list[str]:
        return [site for site in self.sites if site != self.me]

    def _expect(self, stage: Stage, action: str) -> None:
        if self.stage is not stage:
            raise ProtocolError(
                f"{self.me} cannot {action} now: {self.stage.value}.",
                rule="message-order",
                remedy="Each message of a slot is answered once, in order; a retry is a new attempt with fresh keys.",
            )

    def _checked(self, keys: KeyRoster) -> dict[str, Advertise]:
        keys.check_slot(self.run, self.slot)
        advertised = {item.site: item for item in keys.advertised}
        if len(advertised) != len(keys.advertised) or set(advertised) != set(self.sites):
            raise ProtocolError(
                "The advertised keys are not one for each site of this attempt: "
                f"{_named('missing', set(self.sites) - set(advertised))}"
                f"{_named('unexpected', set(advertised) - set(self.sites))}"
                f"{len(keys.advertised)} keys for {len(self.sites)} sites.",
                rule="key-roster",
                remedy="The coordinator must relay exactly what the sites of the attempt advertised.",
            )
        for item in keys.advertised:
            check_advertised(item, self.roster, self.run, self.slot)
        mine = advertised[self.me]
        if (mine.mask_key, mine.channel_key) != (self._keys.mask_public, self._keys.channel_public):
            raise ProtocolError(
                f"The keys relayed as {self.me}'s are not the ones it advertised for this slot.",
                rule="own-keys",
                remedy="Another copy of this site is running with the same identity, or keys were changed on the way.",
            )
        check_distinct_keys(keys)
        return advertised

    def _opened(self, inbox: SealedInbox) -> tuple[dict[str, bytes], dict[str, bytes]]:
        inbox.check_slot(self.run, self.slot)
        if inbox.site != self.me or set(inbox.boxes) != set(self._neighbours()):
            raise ProtocolError(
                "The sealed shares are not one from each other site of this attempt.",
                rule="sealed-inbox",
                remedy="A site that is lost before its shares are out ends the attempt; start a new one without it.",
            )
        channel = private_key(self._keys.channel)
        mask_shares: dict[str, bytes] = {}
        seed_shares: dict[str, bytes] = {}
        for site in self._neighbours():
            key = self._derive.channel_key(channel, self._advertised[site].channel_key, site, self.me)
            plain = self._derive.unseal(key, inbox.boxes[site], site, self.me)
            mask_shares[site], seed_shares[site] = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
        return mask_shares, seed_shares

    def _survivors(self, request: Unmask | Collection[str]) -> frozenset[str]:
        if not isinstance(request, Unmask):
            return frozenset(request)
        request.check_slot(self.run, self.slot)
        if self.stage in (Stage.MASKED, Stage.UNMASKED) and request.ask_digest != self._ask_digest:
            raise ProtocolError(
                "The request to unmask names another question than the one that was answered.",
                rule="different-questions",
                remedy="The coordinator asked its sites different questions. Nothing was given; this is logged.",
            )
        return frozenset(request.survivors)

    def _check_survivors(self, survivors: frozenset[str]) -> None:
        if not survivors <= set(self.sites) or self.me not in survivors:
            raise ProtocolError(
                "The survivors named are not sites of this attempt, or this site is not among them.",
                rule="survivor-set",
                remedy="Nothing was given. Look at the coordinator's log; the attempt is over.",
            )
        if len(survivors) < self.parameters.least_survivors:
            raise ProtocolError(
                f"{len(survivors)} parts are too few to be opened; the least is {self.parameters.least_survivors}.",
                rule="enough-survivors",
                remedy="Start a new attempt when more sites are there.",
            )


def pair_sign(me: str, other: str) -> int:
    """The sign with which `me` takes the mask it shares with `other`: +1 before it in the alphabet, -1 after it."""
    return 1 if me < other else -1


def check_sites(sites: Collection[str], roster: Roster, parameters: Parameters) -> tuple[str, ...]:
    """The attempt's sites, sorted. `ProtocolError` unless they are in the roster, distinct, and `parameters.n` many."""
    ordered = tuple(sorted(set(sites)))
    if len(ordered) != len(sites) or not set(ordered) <= set(roster) or len(ordered) != parameters.n:
        raise ProtocolError(
            f"An attempt of {len(sites)} sites fits no roster of {len(roster)}, or parameters for {parameters.n}.",
            rule="pinned-roster",
            remedy="Only sites that the permit names take part, each once; parameters are derived for exactly these.",
        )
    return ordered


def check_advertised(item: Advertise, roster: Roster, run: str, slot: str) -> None:
    """`ProtocolError` unless the keys are for this run, slot and roster, and signed by their site."""
    item.check_slot(run, slot)
    if item.roster_digest != roster.digest:
        raise ProtocolError(
            f"{item.site} advertised its keys under another roster than ours.",
            rule="pinned-roster",
            remedy="The sites hold different rosters: compare the word-codes and renew the permit that is out of date.",
        )
    roster.verify(item.site, item.signed(), item.signature)


def check_distinct_keys(keys: KeyRoster) -> None:
    """`ProtocolError` if a key was advertised twice: one key is one site's, for one purpose, in one slot."""
    public = [key for item in keys.advertised for key in (item.mask_key, item.channel_key)]
    if len(set(public)) != len(public):
        raise ProtocolError(
            "One key was advertised twice.",
            rule="reused-keys",
            remedy="A site copied another's key or its randomness is broken; leave it out until that is explained.",
        )


def _named(word: str, sites: set[str]) -> str:
    return f"{word}: {', '.join(sorted(sites))}; " if sites else ""
