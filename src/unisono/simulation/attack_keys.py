"""Lies about keys, sites and the graph: before anything is masked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from unisono.protection.secagg.keys import public_of
from unisono.protection.secagg.messages import Advertise, KeyRoster, Shares
from unisono.protection.secagg.setup import SlotSetup
from unisono.simulation.attack_tools import Attack, victims
from unisono.simulation.cast import Colluder, identity
from unisono.simulation.coordinator import Attempt, Coordinator
from unisono.simulation.world import Said

_STRANGER = "site99"
_OWN_KEY = public_of(hashlib.sha256(b"the coordinator's own key").digest())
_OTHER_KEY = public_of(hashlib.sha256(b"the coordinator's other key").digest())

Change = Callable[[Coordinator, Attempt, list[Advertise]], list[Advertise] | None]


def slot_name_again(c: Coordinator, at: Attempt) -> list[Said]:
    """An old slot's name for new keys."""
    used = sorted({old.slot for old in c.past[:-1]})
    if not used:
        return []
    slot = c.dice.choice(used)
    if c.dice.happens(0.5):
        at.prepared.setup = SlotSetup(c.world.drawing, slot, c.plan.recipient)
    commitments = c.world.drawing.all_commitments()
    return [c.world.advertise(site, slot, c.plan.recipient, commitments) for site in victims(c)]


def another_recipient(c: Coordinator, at: Attempt) -> list[Said]:
    """Some sites are told that another site will read the sum, or the coordinator."""
    others = [name for name in ("", *c.plan.sites) if name != c.plan.recipient]
    wrong, commitments = c.dice.choice(others), c.world.drawing.all_commitments()
    return [c.world.advertise(site, at.slot, wrong, commitments) for site in victims(c)]


def other_commitments(c: Coordinator, at: Attempt) -> list[Said]:
    """Some sites see another commitment of a colluder, or one less: a graph drawn again, until it suits."""
    commitments = list(c.world.drawing.all_commitments())
    if c.plan.parameters.complete or not commitments:
        return []
    place = c.dice.randrange(len(commitments))
    party = c.world.nodes[commitments[place].site].party
    if isinstance(party, Colluder):
        commitments[place] = party.recommitted()
    elif c.dice.happens(0.5):
        del commitments[place]
    else:
        changed = hashlib.sha256(commitments[place].commitment).digest()
        commitments[place] = replace(commitments[place], commitment=changed)
    return [c.world.advertise(site, at.slot, c.plan.recipient, tuple(commitments)) for site in victims(c)]


def _relaying(change: Change) -> Attack:
    """Relay changed keys to some sites. Their shares are used all the same, if they give any."""

    def lie(c: Coordinator, at: Attempt) -> list[Said]:
        advertised = [at.setup.advertised[site] for site in sorted(at.setup.advertised)]
        told = change(c, at, advertised) if advertised else None
        if told is None:
            return []
        keys = KeyRoster(c.plan.run, at.slot, tuple(told))
        answers = []
        for site in victims(c, sorted(at.setup.advertised), most=4):
            said = c.world.share(site, keys)
            if isinstance(said.message, Shares):
                at.setup.shares[site] = said.message
            answers.append(said)
        return answers

    return lie


def _somewhere(c: Coordinator, items: list[Advertise], change: Callable[[Advertise], Advertise]) -> list[Advertise]:
    place = c.dice.randrange(len(items))
    return [*items[:place], change(items[place]), *items[place + 1 :]]


def _own_mask_key(c: Coordinator, _at: Attempt, items: list[Advertise]) -> list[Advertise] | None:
    return _somewhere(c, items, lambda item: replace(item, mask_key=_OWN_KEY))


def _own_channel_key(c: Coordinator, _at: Attempt, items: list[Advertise]) -> list[Advertise] | None:
    return _somewhere(c, items, lambda item: replace(item, channel_key=_OWN_KEY))


def _own_signature(c: Coordinator, _at: Attempt, items: list[Advertise]) -> list[Advertise] | None:
    def change(item: Advertise) -> Advertise:
        made_up = replace(item, mask_key=_OWN_KEY, channel_key=_OTHER_KEY)
        return replace(made_up, signature=identity(_STRANGER).sign(made_up.signed()))

    return _somewhere(c, items, change)


def _fewer(c: Coordinator, _at: Attempt, items: list[Advertise]) -> list[Advertise] | None:
    left_out = c.dice.randint(1, max(1, len(items) - c.plan.parameters.least_survivors))
    out = set(c.dice.sample(range(len(items)), left_out))
    return [item for place, item in enumerate(items) if place not in out]


def _stranger(c: Coordinator, _at: Attempt, items: list[Advertise]) -> list[Advertise] | None:
    made_up = replace(items[0], site=_STRANGER, mask_key=_OWN_KEY, channel_key=_OTHER_KEY)
    made_up = replace(made_up, signature=identity(_STRANGER).sign(made_up.signed()))
    return [*items, made_up] if c.dice.happens(0.5) else [*items[1:], made_up]


def _twice(c: Coordinator, _at: Attempt, items: list[Advertise]) -> list[Advertise] | None:
    return [*items, c.dice.choice(items)]


def _old(c: Coordinator, at: Attempt, items: list[Advertise]) -> list[Advertise] | None:
    """Good signatures, of another slot, or of this slot's name before a crash."""
    now = {item.mask_key for item in items}
    heard = [m for _, m in c.world.heard.get("advertise", []) if isinstance(m, Advertise) and m.mask_key not in now]
    same_slot = [message for message in heard if message.slot == at.slot]
    if not heard:
        return None
    old = c.dice.choice(same_slot or heard)
    return [old if item.site == old.site else item for item in items]


def _nonce(c: Coordinator, _at: Attempt, items: list[Advertise]) -> list[Advertise] | None:
    if c.plan.parameters.complete:
        return None
    place = c.dice.randrange(len(items))
    other = replace(items[place], nonce=hashlib.sha256(items[place].nonce).digest())
    party = c.world.nodes[other.site].party
    signed = party.signed(other) if isinstance(party, Colluder) else other
    return [*items[:place], signed, *items[place + 1 :]]


BEFORE_KEYS: dict[str, Attack] = {
    "reuses a slot's name": slot_name_again,
    "names another recipient": another_recipient,
    "swaps commitments": other_commitments,
}
BEFORE_SHARES: dict[str, Attack] = {
    "swaps a mask key": _relaying(_own_mask_key),
    "swaps a channel key": _relaying(_own_channel_key),
    "signs keys itself": _relaying(_own_signature),
    "shows a smaller roster": _relaying(_fewer),
    "invents a site": _relaying(_stranger),
    "relays a key twice": _relaying(_twice),
    "replays old keys": _relaying(_old),
    "swaps a nonce": _relaying(_nonce),
}
