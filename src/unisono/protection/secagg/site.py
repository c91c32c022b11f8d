"""One site's half of one masked sum: a state machine, messages in, messages out, no network, no files, no clock.

    advertise() -> share(key roster) -> mask(vector, ask digest, inbox) -> [agree(survivors) ->] unmask(survivors)

Each step happens once and in this order. What a slot cannot know is whether this *step* of a study was opened before, in
another attempt: that is `unisono.protection.secagg.party`'s, which holds all slots of a run (rules 1, 5 and 6).
(Bonawitz et al., CCS 2017, figure 4; Bell et al., CCS 2020, algorithms 2 and 3; design/secure-aggregation.md.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from unisono.errors import ProtocolError
from unisono.protection.prg import Entropy, Held, Source, Words, add_streams, fresh, mask_into, system_entropy
from unisono.protection.secagg import refusals
from unisono.protection.secagg.checks import check_advertised, check_keys
from unisono.protection.secagg.graph import Graph, complete
from unisono.protection.secagg.group import Group
from unisono.protection.secagg.keys import RunKeys, Slot, SlotKeys, nonce, private_key
from unisono.protection.secagg.messages import (
    Advertise,
    Agreement,
    KeyRoster,
    MaskedInput,
    SealedInbox,
    Shares,
    Unmask,
    UnmaskShares,
    checksum_of,
)
from unisono.protection.secagg.roster import Identity
from unisono.protection.shamir import SHARE_BYTES, split


class Stage(Enum):
    """How far a site has come in a slot."""

    NEW = "nothing was advertised yet"
    ADVERTISED = "keys were advertised"
    SHARED = "shares went out"
    MASKED = "a masked input went out"
    AGREED = "the survivors were agreed on"
    UNMASKED = "the sum was unmasked"
    FORGOTTEN = "the slot was forgotten"


class SiteSession:
    """One slot at one site.

    me, identity: this site. group: the frozen set, with the public keys that *this site's permit* pins, whatever the
    coordinator says. slot: a name, new for each attempt. recipient: the site that alone will read the sum; nobody, and so
    the coordinator, by default. nonce: this site's part of the graph's seed. graph: known at once if it is complete, else
    to be set before `share`. slot_keys: secrets made earlier; fresh ones by default.
    """

    def __init__(
        self,
        me: str,
        identity: Identity,
        group: Group,
        slot: str,
        run_keys: RunKeys,
        *,
        recipient: str = "",
        nonce: bytes = b"",
        graph: Graph | None = None,
        slot_keys: SlotKeys | None = None,
        entropy: Entropy = system_entropy,
    ) -> None:
        if me not in group.sites or group.roster[me] != identity.public:
            raise refusals.own_identity(me)
        if recipient and recipient not in group.sites:
            raise refusals.no_such_recipient(recipient)
        self.me = me
        self.group = group
        self.slot = slot
        self.recipient = recipient
        self.graph = complete(group.sites) if graph is None and group.parameters.complete else graph
        self.stage = Stage.NEW
        self.ask_digest = ""
        self.binding = ""
        self._identity = identity
        self._run_keys = run_keys
        self._nonce = nonce
        self._entropy = entropy
        self._keys = SlotKeys.fresh(entropy) if slot_keys is None else slot_keys
        self._derive = Slot(group.run, slot)
        self._transcript = ""
        self._advertised: dict[str, Advertise] = {}
        self._shares: Shares | None = None
        self._mask_shares: dict[str, bytes] = {}
        self._seed_shares: dict[str, bytes] = {}
        self._dealt: tuple[str, ...] = ()
        self._own_mask = b""
        self._received = b""
        self._shape: tuple[tuple[int], np.dtype[Any]] = ((0,), np.dtype(np.uint64))
        self._survivors: tuple[str, ...] | None = None
        self._unmasked: UnmaskShares | None = None

    # A and B: keys and shares; made before the question is known

    def advertise(self) -> Advertise:
        """A: this slot's public keys, signed. Asked again before anything else, it gives the same keys."""
        if self.stage is not Stage.ADVERTISED:
            self._expect(Stage.NEW, "advertise")
        keys = (self._keys.mask_public, self._run_keys.public, self._nonce)
        named = (self.me, self.group.run, self.slot, self.group.digest, self.recipient)
        signature = self._identity.sign(Advertise(*named, *keys, b"").signed())
        self.stage = Stage.ADVERTISED
        return Advertise(*named, *keys, signature)

    def share(self, keys: KeyRoster) -> Shares:
        """B: check that every key is its site's own, then deal out shares of this site's two secrets, sealed.

        `ProtocolError` for a key that is there twice, reused, unsigned, or of another slot, group or recipient. Asked again
        with the same keys, it gives the same shares.
        """
        if self.stage is Stage.SHARED and self._shares is not None and keys.transcript() == self._transcript:
            return self._shares
        self._expect(Stage.ADVERTISED, "share")
        advertised = self.accept(keys)
        if self.graph is None:
            raise refusals.no_graph(self.me)
        commitment = self._derive.commitment(self._keys.self_seed, self.me)
        boxes = {} if self.recipient == self.me else self._dealt_out(self.graph, advertised)
        self.stage = Stage.SHARED
        self._shares = Shares(self.me, self.group.run, self.slot, boxes, commitment)
        return self._shares

    def accept(self, keys: KeyRoster) -> Mapping[str, Advertise]:
        """The advertised keys by site, every one checked, with its signature, against this site's own roster."""
        self._expect(Stage.ADVERTISED, "share")
        transcript = keys.transcript()
        if transcript != self._transcript:
            self._advertised, self._transcript = self._checked(keys), transcript
        return self._advertised

    def _dealt_out(self, graph: Graph, advertised: Mapping[str, Advertise]) -> dict[str, bytes]:
        t, places = self.group.parameters.t, self.group.places
        holders = [site for site in graph.holders(self.me) if site in advertised]
        if len(holders) < t:
            raise refusals.too_few(len(holders), t, "can hold shares")
        xs = [places[site] for site in holders]
        of_mask = split(self._keys.mask, t, xs, self._entropy)
        of_seed = split(self._keys.self_seed, t, xs, self._entropy)
        boxes: dict[str, bytes] = {}
        for site in holders:
            x = places[site]
            if site == self.me:
                # Its own share of its own seed: with it, t of the n - drops survivors of a complete graph are enough.
                self._mask_shares[site], self._seed_shares[site] = of_mask[x], of_seed[x]
                continue
            key = self._run_keys.box_key(advertised[site].channel_key, self.me, site)
            boxes[site] = self._derive.seal(key, nonce(self._entropy), of_mask[x] + of_seed[x], self.me, site)
        return boxes

    # C: the masked input

    def mask(
        self,
        vector: Source | Words,
        ask_digest: str,
        inbox: SealedInbox,
        *,
        keep: Words | None = None,
        threads: int | None = None,
    ) -> MaskedInput:
        """C: open the shares dealt to this site, and give its vector (m,) uint32 or uint64 under masks bound to the question.

        Once only: two vectors under one mask would show their difference (rule 6). keep: receives the unmasked elements, to
        be stored. `ProtocolError` if a box is missing, extra or altered, or too few dealt; then nothing leaves.
        """
        self._expect(Stage.SHARED, "mask")
        source = Held(vector) if isinstance(vector, np.ndarray) else vector
        if not ask_digest:
            raise refusals.no_question()
        partners = self._partners(inbox)
        mask_shares, seed_shares = self._opened(inbox, partners)
        binding = self._derive.binding(self._transcript, inbox.dealt, ask_digest)
        self._own_mask = self._derive.self_mask_seed(self._keys.self_seed, self.me, binding)
        streams = [(self._own_mask, 1)]
        secret = private_key(self._keys.mask)
        for site in partners:
            seed = self._derive.pair_seed(secret, self._advertised[site].mask_key, self.me, site, binding)
            streams.append((seed, pair_sign(self.me, site)))
        self.stage = Stage.MASKED
        self.ask_digest, self.binding, self._dealt = ask_digest, binding, inbox.dealt
        self._mask_shares.update(mask_shares)
        self._seed_shares.update(seed_shares)
        self._shares = None
        self._keys.forget()  # what the others may need of them is in the shares
        masked = fresh(source.size, source.dtype)
        self._shape = ((source.size,), source.dtype)
        mask_into(masked, source, streams, keep=keep, threads=threads)
        if self.recipient != self.me:
            self._own_mask = b""
        checksum = checksum_of(masked, binding, self.me)
        return MaskedInput(self.me, self.group.run, self.slot, ask_digest, binding, masked, checksum)

    # D, the unmasking; before it, where the threat is malicious, the agreement

    def agree(self, request: Unmask) -> Agreement:
        """The consistency message: this site's signature over the question and the survivors. For one set only, ever."""
        self.check_request(request)
        if self._survivors is None:
            self._expect(Stage.MASKED, "agree")
            self._survivors, self.stage = request.survivors, Stage.AGREED
        signature = self._identity.sign(request.agreed(self.me))
        return Agreement(self.me, self.group.run, self.slot, signature)

    def unmask(self, request: Unmask) -> UnmaskShares:
        """D: for each site *either* the share of its self-mask seed (it survived) *or* of its mask key (it dropped).

        Asked again for the same set it repeats its answer; for another set it refuses for ever (rules 1 and 5).
        `ProtocolError` if too few survived (rule 4), this site or the recipient is not among them, one of them dealt no
        shares, the question differs (rule 2), or, where the threat is malicious, fewer than the quorum signed exactly this.
        """
        self.check_unmask(request)
        if self._unmasked is not None:
            return self._unmasked
        survivors = set(request.survivors)
        self._unmasked = UnmaskShares(
            self.me,
            self.group.run,
            self.slot,
            {site: share for site, share in sorted(self._seed_shares.items()) if site in survivors},
            {site: share for site, share in sorted(self._mask_shares.items()) if site not in survivors},
        )
        self._survivors = request.survivors
        self.stage = Stage.UNMASKED
        self._mask_shares.clear()
        self._seed_shares.clear()
        return self._unmasked

    def check_request(self, request: Unmask) -> None:
        """`ProtocolError` if this site may never agree to, or unmask, what is asked; nothing changes by asking."""
        request.check_slot(self.group.run, self.slot)
        if self.stage not in (Stage.MASKED, Stage.AGREED, Stage.UNMASKED):
            raise refusals.order(self.me, "unmask", self.stage.value)
        if (request.ask_digest, request.binding) != (self.ask_digest, self.binding):
            raise refusals.different_questions(self.binding, request.binding)
        if self._survivors is not None and request.survivors != self._survivors:
            raise refusals.second_set(self._survivors, request.survivors)
        survivors, least = set(request.survivors), self.group.parameters.least_survivors
        if not survivors <= set(self._dealt) or self.me not in survivors:
            raise refusals.survivor_set()
        if self.recipient and self.recipient not in survivors:
            raise refusals.recipient_dropped(self.recipient)
        if len(survivors) < least:
            raise refusals.too_few(len(survivors), least, "are in the sum")

    def check_unmask(self, request: Unmask) -> None:
        """`check_request`, and where the threat is malicious that a quorum signed exactly this: to be asked before anything
        is written down for ever. A site whose own signature is missing, because its link was lost, unmasks like the others:
        what makes the set the only one is the quorum."""
        self.check_request(request)
        if self._unmasked is None and self.group.malicious:
            check_agreements(request, self.group)

    def receive(self, words: Words) -> Words:
        """The sum, at its recipient: takes off this site's own mask, which nobody else can. words: what the coordinator has
        after unmasking all others, of the masked input's length and type. Once: with other words a second time, what becomes
        of each would tell the coordinator about the sum."""
        self._expect(Stage.UNMASKED, "receive")
        if self.recipient != self.me:
            raise refusals.no_such_recipient(self.me)
        if words.dtype != self._shape[1] or words.shape != self._shape[0]:
            raise refusals.other_words(words.size, self._shape[0][0])
        digest = hashlib.sha256(np.ascontiguousarray(words).view(np.uint8).data).digest()
        if self._received not in (b"", digest):
            raise refusals.another_delivery()
        self._received = digest
        total = words.copy()
        add_streams(total, [(self._own_mask, -1)])
        return total

    def forget(self) -> None:
        """Drop every secret of the slot; only a new slot can follow."""
        self._keys.forget()
        self._mask_shares.clear()
        self._seed_shares.clear()
        self._shares, self._unmasked, self._own_mask = None, None, b""
        self.stage = Stage.FORGOTTEN

    # Checks

    def _expect(self, stage: Stage, action: str) -> None:
        if self.stage is not stage:
            raise refusals.order(self.me, action, self.stage.value)

    def _checked(self, keys: KeyRoster) -> dict[str, Advertise]:
        keys.check_slot(self.group.run, self.slot)
        advertised = check_keys(keys)
        missing, extra = set(self.group.sites) - set(advertised), set(advertised) - set(self.group.sites)
        if extra or self.me in missing or len(advertised) < self.group.parameters.least_survivors:
            raise refusals.key_roster(missing, extra)
        # Of a site that is no neighbour nothing is used but that everybody was shown the same; its neighbours check it.
        near = set(advertised) if self.graph is None else {self.me, *self.graph.neighbours(self.me)}
        for item in keys.advertised:
            check_advertised(item, self.group, self.slot, self.recipient, signature=item.site in near)
        mine = advertised[self.me]
        if (mine.mask_key, mine.channel_key) != (self._keys.mask_public, self._run_keys.public):
            raise refusals.own_keys(self.me)
        return advertised

    def _partners(self, inbox: SealedInbox) -> list[str]:
        """The neighbours that dealt: with these this site shares masks. Enough of them, or one honest one may be missing."""
        inbox.check_slot(self.group.run, self.slot)
        p = self.group.parameters
        dealt = set(inbox.dealt)
        if not dealt <= set(self._advertised) or self.me not in dealt:
            raise refusals.sealed_inbox()
        assert self.graph is not None
        partners = [site for site in self.graph.neighbours(self.me) if site in dealt]
        if len(dealt) < p.least_survivors:
            raise refusals.too_few(len(dealt), p.least_survivors, "dealt shares")
        if not p.complete and len(partners) < p.t:
            raise refusals.too_few(len(partners), p.t, f"of {self.me}'s neighbours dealt shares")
        return partners

    def _opened(self, inbox: SealedInbox, partners: list[str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
        senders = [site for site in partners if site != self.recipient]
        if inbox.site != self.me or set(inbox.boxes) != set(senders):
            raise refusals.sealed_inbox()
        mask_shares: dict[str, bytes] = {}
        seed_shares: dict[str, bytes] = {}
        for site in senders:
            key = self._run_keys.box_key(self._advertised[site].channel_key, site, self.me)
            plain = self._derive.unseal(key, inbox.boxes[site], site, self.me)
            mask_shares[site], seed_shares[site] = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
        return mask_shares, seed_shares


def pair_sign(me: str, other: str) -> int:
    """The sign with which `me` takes the mask it shares with `other`: +1 before it in the alphabet, -1 after it."""
    return 1 if me < other else -1


def check_agreements(request: Unmask, group: Group) -> None:
    """`ProtocolError` unless a quorum of the survivors signed exactly this question and this set."""
    quorum, good = group.parameters.quorum, 0
    wrong = sorted(set(request.agreements) - set(request.survivors))
    for site, signature in request.agreements.items():
        if site in wrong:
            continue
        try:
            group.roster.verify(site, request.agreed(site), signature)
        except ProtocolError:
            wrong.append(site)
            continue
        good += 1
        if good == quorum:
            return
    raise refusals.no_quorum(good, quorum, sorted(wrong), request)
