"""Secure aggregation when somebody meddles with keys, rosters or sealed boxes: refused, by a stable name."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.secagg import (
    ASK,
    NAMES,
    Hall,
    identities,
    refusal,
    refused,
    roster_of,
    seeded,
)
from unisono.protection.secagg.group import Group, group_of
from unisono.protection.secagg.keys import RunKeys, Slot
from unisono.protection.secagg.messages import KeyRoster, SealedInbox
from unisono.protection.secagg.parameters import derive
from unisono.protection.secagg.roster import Identity, Roster
from unisono.protection.secagg.setup import SlotSetup
from unisono.protection.secagg.site import SiteSession
from unisono.protection.shamir import SHARE_BYTES


def relayed(keys: KeyRoster, site: str, **changes: object) -> KeyRoster:
    """The key roster with one site's advertisement altered."""
    items = tuple(dataclasses.replace(a, **changes) if a.site == site else a for a in keys.advertised)
    return dataclasses.replace(keys, advertised=items)


def other_keys(hall: Hall, site: str, seed: str) -> SiteSession:
    """Another copy of a site: its identity, and keys of its own."""
    entropy = seeded(seed)
    return SiteSession(site, hall.keys[site], hall.group, hall.slot, RunKeys(hall.run, entropy), entropy=entropy)


# Keys (rule 3)


@pytest.mark.parametrize("field", ["mask_key", "channel_key", "signature"])
def test_a_key_swapped_by_the_coordinator_is_refused(field: str):
    hall = Hall(3)
    keys = hall.advertise()
    size = 64 if field == "signature" else 32
    assert refusal(hall.at["site00"].share, relayed(keys, "site01", **{field: seeded("c")(size)})) == "signed-keys"


def test_a_key_signed_by_somebody_else_is_refused():
    hall = Hall(3)
    keys = hall.advertise()
    coordinator = Identity.generate(seeded("coordinator"))
    item = dataclasses.replace(keys.advertised[1], mask_key=seeded("c")(32))
    forged = relayed(keys, "site01", mask_key=item.mask_key, signature=coordinator.sign(item.signed()))
    assert refusal(hall.at["site00"].share, forged) == "signed-keys"


def test_the_coordinator_finds_a_forged_key_too():
    hall = Hall(3)
    item = dataclasses.replace(hall.at["site00"].advertise(), mask_key=bytes([9] * 32))
    assert refusal(hall.setup.collect_advertise, item) == "signed-keys"


def test_missing_extra_and_double_keys_are_refused():
    hall = Hall(3)
    keys = hall.advertise()
    stranger = dataclasses.replace(keys.advertised[0], site="stranger")
    own_key = dataclasses.replace(stranger, mask_key=bytes([7] * 32), channel_key=bytes([8] * 32))
    for items, rule in [
        (keys.advertised[:2], "key-roster"),  # too few
        (keys.advertised[1:], "key-roster"),  # without this site
        ((*keys.advertised, own_key), "key-roster"),
        ((*keys.advertised, stranger), "reused-keys"),
        ((*keys.advertised, keys.advertised[0]), "reused-keys"),
        ((), "key-roster"),
    ]:
        altered = dataclasses.replace(keys, advertised=items)
        assert refusal(hall.at["site00"].share, altered) == rule
    assert hall.at["site00"].share(keys).site == "site00"  # nothing was used of them


def test_an_invented_site_is_refused_although_it_signs_with_a_key_of_its_own():
    hall = Hall(3)
    keys = hall.advertise()
    roster = Roster({**hall.roster, "invented": Identity.generate(seeded("i")).public})
    group = group_of(hall.run, 0, roster.sites, roster, derive(4, 1, 3))
    identity = Identity.generate(seeded("i"))
    session = SiteSession("invented", identity, group, hall.slot, RunKeys(hall.run, seeded("e")), entropy=seeded("f"))
    invented = session.advertise()
    four = dataclasses.replace(keys, advertised=(*keys.advertised[:2], invented))
    assert refusal(hall.at["site00"].share, four) == "key-roster"


def test_the_sites_own_keys_must_come_back_unchanged():
    hall = Hall(3)
    keys = hall.advertise()
    own = other_keys(hall, "site00", "twin").advertise()  # well signed, by another copy of this site
    altered = dataclasses.replace(keys, advertised=(own, *keys.advertised[1:]))
    assert refusal(hall.at["site00"].share, altered) == "own-keys"


def test_a_key_used_by_two_sites_is_refused_at_both_ends():
    hall = Hall(3)
    for site in ("site01", "site02"):
        hall.at[site] = other_keys(hall, site, "broken randomness")
    for site in hall.sites:
        hall.setup.collect_advertise(hall.at[site].advertise())
    assert refusal(hall.setup.key_roster) == "reused-keys"
    keys = KeyRoster(hall.run, hall.slot, tuple(hall.at[site].advertise() for site in hall.sites))
    assert refusal(hall.at["site00"].share, keys) == "reused-keys"


SMALL_ORDER = [bytes(32), b"\x01" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")]
"""The points 0, 1 and -1 of Curve25519 (RFC 7748, 6.1)."""


@pytest.mark.parametrize("point", SMALL_ORDER)
@pytest.mark.parametrize("which", ["mask_key", "channel_key"])
def test_a_key_of_small_order_is_refused_and_its_site_named(point: bytes, which: str):
    hall = Hall(4)
    item = dataclasses.replace(hall.at["site01"].advertise(), **{which: point})
    bad = dataclasses.replace(item, signature=hall.keys["site01"].sign(item.signed()))  # signed by the liar itself
    error = refused(hall.setup.collect_advertise, bad)
    assert error.rule == "usable-keys"
    assert "site01" in error.what
    assert error.evidence == {"signed": bad.signed().decode(), "signature": bad.signature.hex()}


@pytest.mark.parametrize("which", ["mask_key", "channel_key"])
def test_a_key_of_small_order_that_the_coordinator_relays_all_the_same_stops_the_site(which: str):
    hall = Hall(4)
    bad = hall.at["site01"]
    if which == "mask_key":
        bad._keys.mask_public = bytes(32)
    else:
        bad._run_keys.public = bytes(32)
    keys = KeyRoster(hall.run, hall.slot, tuple(hall.at[site].advertise() for site in hall.sites))
    site = hall.at["site00"]
    if which == "channel_key":
        assert refusal(site.share, keys) == "usable-keys"
        return
    boxes = {name: hall.at[name].share(keys).boxes["site00"] for name in hall.sites[1:]}
    site.share(keys)
    inbox = SealedInbox("site00", hall.run, hall.slot, hall.sites, boxes)
    assert refusal(site.mask, hall.vectors["site00"], ASK, inbox) == "usable-keys"


@pytest.mark.parametrize(("run", "slot"), [("run 1", "slot 2"), ("run 2", "slot 1")])
def test_replay_of_another_slot_or_run_is_refused(run: str, slot: str):
    old, hall = Hall(3), Hall(3, run=run, slot=slot)
    old_keys, keys = old.advertise(), hall.advertise()
    site = hall.at["site00"]
    assert refusal(site.share, old_keys) == "other-slot"
    assert refusal(site.share, dataclasses.replace(old_keys, run=run, slot=slot)) == "other-slot"
    setup = SlotSetup(hall.setup.drawing, slot)
    assert refusal(setup.collect_advertise, old_keys.advertised[1]) == "other-slot"
    replayed = old_keys.advertised[1]
    relabelled_keys = relayed(
        keys,
        "site01",
        mask_key=replayed.mask_key,
        channel_key=replayed.channel_key,
        signature=replayed.signature,  # over the old names
    )
    assert refusal(site.share, relabelled_keys) == "signed-keys"
    old_shares = old.at["site01"].share(old_keys)
    site.share(keys)
    assert refusal(hall.setup.collect_shares, old_shares) == "other-slot"
    replayed_boxes = dict.fromkeys(("site01", "site02"), old_shares.boxes["site00"])
    relabelled = SealedInbox("site00", run, slot, hall.sites, replayed_boxes)
    assert refusal(site.mask, hall.vectors["site00"], ASK, relabelled) == "sealed-box"


def test_sites_with_different_rosters_do_not_work_together():
    hall = Hall(4)
    keys = hall.advertise()
    other = Roster({**hall.roster, "site03": Identity.generate(seeded("new")).public})
    site = hall.session("site00", other)
    item = site.advertise()
    error = refused(site.share, keys)
    assert error.rule == "pinned-roster"
    assert error.evidence["ours"] != error.evidence["group"] == hall.group.digest
    setup = SlotSetup(hall.setup.drawing, hall.slot)
    assert refusal(setup.collect_advertise, item) == "pinned-roster"


@pytest.mark.parametrize(
    "changed",
    [
        {"parameters": derive(5, 0, 3)},
        {"parameters": derive(5, 1, 5)},
        {"parameters": derive(5, 1, 3, threat="malicious")},
        {"epoch": 1},
    ],
    ids=["fewer colluders", "more sites in a sum", "another threat", "another epoch"],
)
def test_sites_that_were_told_other_parameters_do_not_work_together(changed: dict[str, object]):
    hall = Hall(5)
    group = dataclasses.replace(hall.group, **changed)
    assert group.digest != hall.group.digest
    keys = hall.advertise()
    entropy = seeded("e")
    site = SiteSession("site00", hall.keys["site00"], group, hall.slot, RunKeys(hall.run, entropy), entropy=entropy)
    site.advertise()
    assert refusal(site.share, keys) == "pinned-roster"


def test_a_swapped_key_in_the_roster_changes_the_group_for_everyone():
    hall = Hall(4)
    with_mine = Roster({**hall.roster, "site03": Identity.generate(seeded("coordinator")).public})
    assert group_of(hall.run, 0, hall.sites, with_mine, hall.parameters).digest != hall.group.digest


def test_a_site_does_not_run_with_an_identity_that_its_roster_does_not_have():
    hall = Hall(3)
    arguments = (hall.group, "s", RunKeys(hall.run, seeded("e")))
    assert refusal(SiteSession, "site00", hall.keys["site01"], *arguments) == "pinned-roster"
    assert refusal(SiteSession, "elsewhere", hall.keys["site01"], *arguments) == "pinned-roster"


def test_attempt_roster_and_parameters_must_fit():
    roster = roster_of(identities(NAMES[:4]))
    assert refusal(group_of, "r", 0, NAMES[:4], roster, derive(5, 1, 3)) == "pinned-roster"
    assert refusal(group_of, "r", 0, [*NAMES[:3], "x"], roster, derive(4, 1, 3)) == "pinned-roster"
    assert refusal(group_of, "r", 0, ["site00"] * 4, roster, derive(4, 1, 3)) == "pinned-roster"


def test_a_group_survives_its_journey_and_no_other_roster():
    hall = Hall(4)
    again = Group.from_tree(hall.group.to_tree(), hall.roster)
    assert again.digest == hall.group.digest
    with pytest.raises(ValueError, match="another roster"):
        Group.from_tree(hall.group.to_tree(), roster_of(identities(NAMES[:5])))


# Boxes


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 159), st.integers(1, 255))
def test_a_tampered_box_is_refused_wherever_it_was_touched(at: int, flip: int):
    hall = Hall(3)
    hall.share()
    inbox = hall.setup.inbox_for("site00")
    box = bytearray(inbox.boxes["site01"])
    box[at] ^= flip
    altered = dataclasses.replace(inbox, boxes={**inbox.boxes, "site01": bytes(box)})
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, altered) == "sealed-box"


def test_boxes_swapped_between_senders_or_receivers_are_refused():
    hall = Hall(3)
    hall.share()
    mine, other = hall.setup.inbox_for("site00"), hall.setup.inbox_for("site01")
    swapped = dataclasses.replace(mine, boxes=dict(zip(mine.boxes, reversed(mine.boxes.values()), strict=True)))
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, swapped) == "sealed-box"
    misdirected = dataclasses.replace(mine, boxes={**mine.boxes, "site02": other.boxes["site02"]})
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, misdirected) == "sealed-box"
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, other) == "sealed-inbox"


def test_a_box_opens_only_in_its_slot_and_direction_even_under_the_same_key():
    key, plain = bytes(32), bytes(2 * SHARE_BYTES)
    here = Slot("r", "s")
    box = here.seal(key, bytes(12), plain, "x", "y")
    assert here.unseal(key, box, "x", "y") == plain
    for slot, sender, receiver in [
        (here, "y", "x"),
        (Slot("r2", "s"), "x", "y"),
        (Slot("r", "s2"), "x", "y"),
    ]:
        assert refusal(slot.unseal, key, box, sender, receiver) == "sealed-box"


def test_each_direction_of_a_channel_has_its_own_key_and_both_ends_agree_on_it():
    a, b, other = (RunKeys("r", seeded(name)) for name in "abc")
    forth = a.box_key(b.public, "x", "y")
    assert b.box_key(a.public, "x", "y") == forth
    assert a.box_key(b.public, "y", "x") == b.box_key(a.public, "y", "x") != forth
    assert a.box_key(other.public, "x", "y") != forth
    assert RunKeys("r2", seeded("a")).box_key(b.public, "x", "y") != forth  # of another run


def test_a_missing_box_is_refused():
    hall = Hall(4)
    hall.share()
    inbox = hall.setup.inbox_for("site00")
    fewer = dataclasses.replace(inbox, boxes={k: v for k, v in inbox.boxes.items() if k != "site02"})
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, fewer) == "sealed-inbox"
    extra = dataclasses.replace(inbox, boxes={**inbox.boxes, "site00": inbox.boxes["site02"]})
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, extra) == "sealed-inbox"
    stranger = dataclasses.replace(inbox, dealt=(*inbox.dealt, "stranger"))
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, stranger) == "sealed-inbox"
    without_me = dataclasses.replace(inbox, dealt=inbox.dealt[1:])
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, without_me) == "sealed-inbox"
    # nothing left, so the right inbox is still good
    assert hall.at["site00"].mask(hall.vectors["site00"], ASK, inbox).site == "site00"
