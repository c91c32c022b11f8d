"""The coordinator's half of making a slot's keys: it relays keys and sealed boxes, and can read none of them.

    [collect_commitment ->] collect_advertise -> key_roster -> collect_shares -> inbox_for

A slot can be set up before the question is known, along with the messages of the sum before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from unisono.errors import ProtocolError
from unisono.protection.secagg.checks import check_advertised, check_commitment, check_keys, check_usable, graph_of
from unisono.protection.secagg.graph import Graph, complete, draw
from unisono.protection.secagg.group import Group
from unisono.protection.secagg.keys import KEY_BYTES
from unisono.protection.secagg.messages import Advertise, Commitment, KeyRoster, Message, SealedInbox, Shares


@dataclass
class Drawing:
    """How the graph of a group comes about, at the coordinator: commitments first, then the nonces that come with keys.

    graph, seed: once drawn (on the complete graph at once). One drawing serves all slots of a group.
    """

    group: Group
    commitments: dict[str, Commitment] = field(default_factory=dict)
    graph: Graph | None = None
    seed: bytes | None = None

    def __post_init__(self) -> None:
        if self.group.parameters.complete:
            self.graph = complete(self.group.sites)

    @property
    def committed(self) -> bool:
        """Whether every site has committed, or none needs to."""
        return self.group.parameters.complete or set(self.commitments) == set(self.group.sites)

    def collect_commitment(self, item: Commitment) -> None:
        """A site's commitment; checked here too, so that a fault is named before the sites meet it."""
        check_commitment(item, self.group)
        if item.site not in self.group.sites:
            raise _not_here(item.site)
        first = self.commitments.setdefault(item.site, item)
        if first.commitment != item.commitment:
            raise ProtocolError(
                f"{item.site} committed to two nonces.",
                rule="graph-nonces",
                remedy="The first one counts. A site's nonce follows from its identity and the group; leave the site out until "
                "the second one is explained.",
                evidence={"first": first.commitment.hex(), "second": item.commitment.hex()},
            )

    def all_commitments(self) -> tuple[Commitment, ...]:
        """For every site, before any nonce is revealed."""
        return tuple(self.commitments[site] for site in sorted(self.commitments))

    def draw(self, advertised: Mapping[str, Advertise]) -> Graph:
        """The graph; drawn from the advertised nonces the first time, for which every site of the group must be there."""
        if self.graph is None:
            committed = {site: item.commitment for site, item in self.commitments.items()}
            self.graph, self.seed = graph_of(self.group, advertised, committed)
        return self.graph

    def restore(self, seed: bytes) -> None:
        """The graph that was drawn before the coordinator was restarted."""
        self.graph, self.seed = draw(self.group.sites, self.group.parameters, seed), seed


class SlotSetup:
    """One slot's keys and shares. recipient: the site that alone will read the sum, if any."""

    def __init__(self, drawing: Drawing, slot: str, recipient: str = "") -> None:
        self.drawing = drawing
        self.group = drawing.group
        self.slot = slot
        self.recipient = recipient
        self.advertised: dict[str, Advertise] = {}
        self.shares: dict[str, Shares] = {}
        self._keys: KeyRoster | None = None

    # Message A, keys

    def collect_advertise(self, message: Advertise) -> None:
        """A site's keys; checked here too, so that a fault is named before the sites meet it."""
        if self._keys is not None:
            raise _late(message.site, "keys")
        self._expect_from(message, message.site, self.advertised)
        check_advertised(message, self.group, self.slot, self.recipient)
        check_usable(message)
        self.advertised[message.site] = message

    def key_roster(self) -> KeyRoster:
        """The keys of all who advertised, for every site; final once given. `ProtocolError` while too few are there."""
        if self._keys is None:
            self._enough(self.advertised, "keys")
            if self.recipient and self.recipient not in self.advertised:
                raise _missing("keys", [self.recipient])
            keys = KeyRoster(self.group.run, self.slot, tuple(self.advertised[s] for s in sorted(self.advertised)))
            check_keys(keys)
            self.drawing.draw(self.advertised)
            self._keys = keys
        return self._keys

    @property
    def keys_final(self) -> bool:
        """Whether the keys were sent round: who has not advertised by then is not in this slot."""
        return self._keys is not None

    @property
    def enough_keys(self) -> bool:
        """Whether those who advertised can make a sum."""
        return self._can_go_on(self.advertised)

    @property
    def enough_shares(self) -> bool:
        """Whether those who dealt can make a sum."""
        return self._can_go_on(self.shares)

    def _can_go_on(self, have: Collection[str]) -> bool:
        return len(have) >= self.group.parameters.least_survivors and (not self.recipient or self.recipient in have)

    def missing_keys(self, sites: Iterable[str]) -> list[str]:
        """Of these sites, who has not advertised."""
        return [site for site in sites if site not in self.advertised]

    # Message B, shares

    def collect_shares(self, message: Shares) -> None:
        """A site's sealed boxes, one for each neighbour; none from the recipient."""
        self._expect_from(message, message.site, self.shares)
        if self._keys is None or message.site not in self.advertised:
            raise _missing("keys", [message.site])
        graph = self.drawing.draw(self.advertised)
        holders = {site for site in graph.holders(message.site) if site in self.advertised} - {message.site}
        if set(message.boxes) != (set() if message.site == self.recipient else holders):
            raise ProtocolError(
                f"{message.site} did not seal one box for each of its neighbours.",
                rule="sealed-inbox",
                remedy="The site runs other software, or the message was altered; start a new attempt.",
            )
        self.shares[message.site] = message

    def missing_shares(self, sites: Iterable[str]) -> list[str]:
        """Of these sites, whose shares are not out."""
        return [site for site in sites if site not in self.shares]

    @property
    def dealt(self) -> tuple[str, ...]:
        """Sites whose shares are out, sorted: these and no others can be in the sum."""
        return tuple(sorted(self.shares))

    def inbox_for(self, site: str, dealt: Collection[str] | None = None) -> SealedInbox:
        """The boxes sealed for one site, and who has dealt. `ProtocolError` while too few shares are out: without them no
        masks."""
        among = self.dealt if dealt is None else tuple(sorted(dealt))
        self._enough(among, "shares")
        if self.recipient and self.recipient not in among:
            raise _missing("shares", [self.recipient])
        boxes = {sender: self.shares[sender].boxes.get(site) for sender in among}
        sealed = {sender: box for sender, box in boxes.items() if box is not None}
        return SealedInbox(site, self.group.run, self.slot, among, sealed)

    # Storing

    def to_tree(self, dealt: Collection[str] | None = None) -> dict[str, Any]:
        """What unmasking needs of it; no secret is in it. Boxes are left out: they have been delivered. dealt: the sites that
        the sum was begun with, where shares have come late; all whose shares are out by default."""
        among = self.dealt if dealt is None else dealt
        return {
            "group": self.group.to_tree(),
            "slot": self.slot,
            "recipient": self.recipient,
            "seed": None if self.drawing.seed is None else self.drawing.seed.hex(),
            "keys": self.key_roster().to_tree(),
            "commitments": {site: self.shares[site].commitment.hex() for site in sorted(among)},
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], group: Group) -> SlotSetup:
        """The set-up that `to_tree` stored. `ValueError`, `TypeError` or `KeyError` if it is damaged."""
        drawing = Drawing(group)
        if tree["seed"] is not None:
            drawing.restore(bytes.fromhex(tree["seed"]))
        setup = cls(drawing, str(tree["slot"]), str(tree["recipient"]))
        for item in KeyRoster.from_tree(tree["keys"]).advertised:
            setup.collect_advertise(item)
        setup.key_roster()
        for site, commitment in tree["commitments"].items():
            if site not in setup.advertised:
                raise ValueError("a commitment without keys")
            if len(bytes.fromhex(commitment)) != KEY_BYTES:
                raise ValueError("a commitment of another length")
            setup.shares[site] = Shares(site, group.run, setup.slot, {}, bytes.fromhex(commitment))
        return setup

    # Checks

    def _expect_from(self, message: Message, site: str, seen: Collection[str]) -> None:
        message.check_slot(self.group.run, self.slot)
        expect_from(message, site, self.group, seen)

    def _enough(self, have: Collection[str], what: str) -> None:
        if len(have) < self.group.parameters.least_survivors:
            raise _missing(what, [site for site in self.group.sites if site not in have])


def expect_from(message: Message, site: str, group: Group, seen: Collection[str]) -> None:
    """`ProtocolError` unless the message is the first of its kind from a site of the group."""
    if site not in group.sites:
        raise _not_here(site)
    if site in seen:
        raise ProtocolError(
            f"{site} sent its message {message.kind!r} twice.",
            rule="message-order",
            remedy="The first one counts; the second is thrown away.",
        )


def _not_here(site: str) -> ProtocolError:
    return ProtocolError(
        f"{site!r} is not a site of this attempt.", rule="pinned-roster", remedy="Its message is thrown away."
    )


def _missing(what: str, sites: Collection[str]) -> ProtocolError:
    return ProtocolError(
        f"The {what} of {', '.join(sites)} have not come.",
        rule="message-order",
        remedy="Wait for them, or start a new attempt without them.",
    )


def _late(site: str, what: str) -> ProtocolError:
    return ProtocolError(
        f"The {what} of {site} came after the others' were sent round.",
        rule="message-order",
        remedy="They are thrown away; the site takes part again in the next sum.",
    )
