"""The coordinator's half of one masked sum: it adds masked vectors, and opens the total only.

    collect_masked -> state_tree -> unmask_request -> [collect_agreement -> agreed_request ->] collect_unmask -> open

`state_tree` closes the set of survivors and holds all that is needed to finish: it is to be stored durably *before* anyone
is asked to agree or to unmask, so that a coordinator that dies asks for the very same opening again (rule 1). One
accumulator, whatever the number of sites: every part is checked whole, added, and let go.
(Bonawitz et al., CCS 2017, figure 4; Bell et al., CCS 2020; design/secure-aggregation.md.)
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from unisono.errors import ProtocolError
from unisono.protection.prg import Held, Words, fresh, mask_into
from unisono.protection.secagg.group import Group
from unisono.protection.secagg.keys import PROTOCOL, Slot
from unisono.protection.secagg.messages import Agreement, MaskedInput, Unmask, UnmaskShares, checksum_of
from unisono.protection.secagg.rebuild import Rebuilder
from unisono.protection.secagg.roster import Roster
from unisono.protection.secagg.setup import SlotSetup, expect_from


class AggregatorSession:
    """One sum at the coordinator.

    setup: the slot, with keys and shares. ask_digest: of the ask. length, dtype: of a vector (uint32 or uint64). dealt: the
    sites whose shares were relayed, and so can be in the sum: all whose shares are out when it begins.
    """

    def __init__(self, setup: SlotSetup, ask_digest: str, length: int, dtype: DTypeLike = np.uint64) -> None:
        self.setup = setup
        self.group = setup.group
        self.slot = setup.slot
        self.ask_digest = ask_digest
        self.length = length
        self.dealt = setup.dealt
        self.binding = Slot(self.group.run, self.slot).binding(setup.key_roster().transcript(), self.dealt, ask_digest)
        self.wrong_sharers: tuple[str, ...] = ()
        """Sites whose shares `open` found to be wrong (or dealt to them wrong). The sum it gave is right all the same:
        every secret was checked."""
        self._masked: set[str] = set()
        self._accumulated: Words = np.zeros(length, dtype)
        self._survivors: tuple[str, ...] | None = None
        self._agreements: dict[str, bytes] = {}
        self._answers: dict[str, UnmaskShares] = {}

    # Message C, masked inputs

    def collect_masked(self, message: MaskedInput) -> None:
        """Add a site's masked vector: whole, of the right length and to the right question, once; or not at all (rule 9).

        The words may be of a memory-mapped file: only a chunk is in memory at a time.
        """
        message.check_slot(self.group.run, self.slot)
        expect_from(message, message.site, self.group, self._masked)
        if self._survivors is not None:
            raise ProtocolError(
                f"{message.site}'s part came after the sum was closed; it is not in it.",
                rule="survivors-fixed",
                remedy="The part is thrown away unread; the site takes part again in the next sum.",
            )
        if message.site not in self.dealt:
            raise ProtocolError(
                f"{message.site} dealt no shares in this slot.", rule="message-order", remedy="Its part is thrown away."
            )
        if (message.ask_digest, message.binding) != (self.ask_digest, self.binding):
            raise ProtocolError(
                f"{message.site} answered another question than the others, or was shown other keys or sites.",
                rule="different-questions",
                remedy="Its part would not unmask. Ask all sites the same, in a new attempt.",
                evidence={"site": message.site, "binding": message.binding, "expected": self.binding},
            )
        words = message.words
        whole = words.dtype == self._accumulated.dtype and words.shape == (self.length,)
        if not whole or not hmac.compare_digest(checksum_of(words, self.binding, message.site), message.checksum):
            raise ProtocolError(
                f"{message.site}'s masked part is not whole: {words.size} words came, {self.length} are expected.",
                rule="half-upload",
                remedy="Nothing of it was added. The site sends the same message again.",
            )
        np.add(self._accumulated, words, out=self._accumulated)
        self._masked.add(message.site)

    @property
    def accumulated(self) -> Words:
        """The sum of the masked parts so far, (length,), read-only: noise, until it is unmasked."""
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
        return tuple(site for site in self.dealt if site not in self.survivors)

    @property
    def can_close(self) -> bool:
        """Whether enough parts are in, of those that are needed, for the sum to be unmasked."""
        try:
            self._check_survivors()
        except ProtocolError:
            return False
        return True

    # The consistency message

    def unmask_request(self) -> Unmask:
        """Close the set of survivors for ever, and ask for exactly it. `ProtocolError` if too few are left (rule 4), or the
        recipient is not (rule 7)."""
        if self._survivors is None:
            self._check_survivors()
            self._survivors = tuple(sorted(self._masked))
        return Unmask(self.group.run, self.slot, self.ask_digest, self.binding, self._survivors, {})

    def _check_survivors(self) -> None:
        least = self.group.parameters.least_survivors
        if len(self._masked) < least:
            raise ProtocolError(
                f"{len(self._masked)} of {self.group.parameters.n} parts came; at least {least} must be in a sum.",
                rule="enough-survivors",
                remedy="Start a new attempt when more sites are there.",
            )
        if self.setup.recipient and self.setup.recipient not in self._masked:
            raise ProtocolError(
                f"The sum is for {self.setup.recipient}, whose part did not come.",
                rule="recipient-survives",
                remedy="Without its recipient a sum is not opened; start a new attempt when it is back.",
            )
        self._check_holders()

    def _check_holders(self) -> None:
        """Before anybody is asked: a sum that could not be rebuilt must not use up the step's one opening."""
        graph, t = self.setup.drawing.draw(self.setup.advertised), self.group.parameters.t
        for owner in self.dealt:
            there = sum(site in self._masked for site in graph.holders(owner))
            if owner != self.setup.recipient and there < t:
                raise ProtocolError(
                    f"Of those who hold shares of {owner}'s secrets {there} are left; {t} are needed.",
                    rule="enough-survivors",
                    remedy="Nobody was asked to unmask. Start a new attempt when more sites are there.",
                )

    def collect_agreement(self, message: Agreement) -> None:
        """A survivor's signature over the question and the set. `ProtocolError` if it is not: that site is named."""
        message.check_slot(self.group.run, self.slot)
        expect_from(message, message.site, self.group, ())
        request = self.unmask_request()
        if message.site not in request.survivors:
            raise ProtocolError(
                f"{message.site} agreed to a sum that it has no part in.",
                rule="survivor-set",
                remedy="Only survivors sign, and no site would count this one; it is thrown away.",
            )
        self.group.roster.verify(message.site, request.agreed(message.site), message.signature)
        self._agreements[message.site] = message.signature

    @property
    def agreed(self) -> bool:
        """Whether unmasking can be asked for: enough signatures, where they are needed."""
        return not self.group.malicious or len(self._agreements) >= self.group.parameters.quorum

    def agreed_request(self) -> Unmask:
        """The request to unmask, with the signatures that show every site that all were told the same."""
        return replace(self.unmask_request(), agreements=dict(sorted(self._agreements.items())))

    # Message D, unmasking

    def collect_unmask(self, message: UnmaskShares) -> None:
        """A survivor's shares: for each site that dealt it some, the one kind that the closed set calls for."""
        message.check_slot(self.group.run, self.slot)
        expect_from(message, message.site, self.group, self._answers)
        if self._survivors is None:
            raise ProtocolError(
                f"{message.site} unmasks a sum that is not closed.",
                rule="message-order",
                remedy="Close the sum first (unmask_request), and store its state before asking anyone.",
            )
        held = self._held_by(message.site)
        fits = set(message.self_seeds) == held & set(self._survivors) and set(message.mask_keys) == held & set(
            self.dropped
        )
        if message.site not in self._survivors or not fits:
            raise ProtocolError(
                f"{message.site} did not answer for exactly the survivors it was asked about.",
                rule="survivor-set",
                remedy="Its shares are thrown away; the sum can be opened without them if enough others answered.",
            )
        self._answers[message.site] = message

    def _held_by(self, site: str) -> set[str]:
        """Whose shares a site holds; holding is mutual."""
        if self.group.parameters.complete:
            return set(self.dealt) - {self.setup.recipient}
        graph = self.setup.drawing.draw(self.setup.advertised)
        return {owner for owner in graph.holders(site) if owner in self.dealt} - {self.setup.recipient}

    @property
    def can_open(self) -> bool:
        """Whether enough sites have answered for every secret that is needed."""
        t = self.group.parameters.t
        graph = self.setup.drawing.draw(self.setup.advertised)
        if self.group.parameters.complete:
            return len(self._answers) >= t
        needed = [site for site in self.dealt if site != self.setup.recipient]
        return all(sum(site in self._answers for site in graph.holders(owner)) >= t for owner in needed)

    def open(self, *, threads: int | None = None) -> Words:
        """The sum of the survivors' vectors, (length,); for a sum to a site, still under the recipient's own mask.

        `ProtocolError` if too few sites answered (``too-few-shares``), or a secret cannot be rebuilt from what they
        answered (``wrong-share``, saying whose). With more than t answers wrong ones are found, named in `wrong_sharers`,
        and done without.
        """
        if not self.can_open:
            raise ProtocolError(
                f"{len(self._answers)} sites helped to unmask; {self.group.parameters.t} holders of every secret are needed.",
                rule="too-few-shares",
                remedy="Wait for more of the survivors to come back; the sum is stored and can still be opened.",
            )
        rebuild = Rebuilder(self.setup, self._answers, self.binding)
        streams = [stream for site in self.survivors for stream in rebuild.self_mask(site)]
        streams += [stream for gone in self.dropped for stream in rebuild.pair_masks(gone, self.survivors)]
        self.wrong_sharers = rebuild.wrong_sharers
        total: Words = fresh(self.length, self._accumulated.dtype)
        mask_into(total, Held(self._accumulated), streams, threads=threads)
        return total

    # Storing and going on

    def state_tree(self) -> dict[str, Any]:
        """Closes the set of survivors and gives everything that unmasking needs, for the journal; no secret is in it.

        Like `unmask_request`, a `ProtocolError` if too few are left.
        """
        request = self.unmask_request()
        return {
            "protocol": PROTOCOL,
            "kind": "aggregator",
            "setup": self.setup.to_tree(self.dealt),
            "unmask": request.to_tree(),
            "length": self.length,
            "accumulated": self.accumulated,
        }

    @classmethod
    def restore(cls, tree: Mapping[str, Any], roster: Roster) -> AggregatorSession:
        """The session that `state_tree` stored, ready to ask for the same opening. `ProtocolError` if it is damaged."""
        try:
            if tree["protocol"] != PROTOCOL:
                raise ValueError("another version of the protocol")
            setup = SlotSetup.from_tree(tree["setup"], Group.from_tree(tree["setup"]["group"], roster))
            request = Unmask.from_tree(tree["unmask"])
            accumulated = np.asarray(tree["accumulated"])
            if accumulated.dtype not in (np.uint32, np.uint64) or accumulated.shape != (tree["length"],):
                raise ValueError("the accumulated sum is of another length or type")
            session = cls(setup, request.ask_digest, accumulated.size, accumulated.dtype)
            enough = len(request.survivors) >= setup.group.parameters.least_survivors
            if not enough or request.binding != session.binding or request.slot != session.slot:
                raise ValueError("survivors or question do not fit")
            if not set(request.survivors) <= set(session.dealt):
                raise ValueError("a survivor dealt no shares")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ProtocolError(
                "A stored sum cannot be read.",
                rule="stored-sum",
                remedy="The journal is damaged: restore it from its back-up. The step cannot be asked a second time.",
            ) from error
        session._accumulated = accumulated.copy()
        session._masked = set(request.survivors)
        session._survivors = request.survivors
        return session
