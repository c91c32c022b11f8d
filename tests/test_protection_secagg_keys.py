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
    roster_of,
    seeded,
)
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.keys import Slot, SlotKeys, private_key
from unisono.protection.secagg.messages import KeyRoster, SealedInbox
from unisono.protection.secagg.parameters import threshold
from unisono.protection.secagg.roster import Identity, Roster
from unisono.protection.secagg.site import SiteSession
from unisono.protection.shamir import SHARE_BYTES


def relayed(keys: KeyRoster, site: str, **changes: object) -> KeyRoster:
    """The key roster with one site's advertisement altered."""
    items = tuple(dataclasses.replace(a, **changes) if a.site == site else a for a in keys.advertised)
    return dataclasses.replace(keys, advertised=items)


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
    assert refusal(hall.coordinator.collect_advertise, item) == "signed-keys"


def test_missing_extra_and_double_keys_are_refused():
    hall = Hall(3)
    keys = hall.advertise()
    stranger = dataclasses.replace(keys.advertised[0], site="stranger")
    for items in (keys.advertised[:2], (*keys.advertised, stranger), (*keys.advertised, keys.advertised[0])):
        altered = dataclasses.replace(keys, advertised=items)
        assert refusal(hall.at["site00"].share, altered) == "key-roster"


def test_an_invented_site_is_refused_although_it_signs_with_a_key_of_its_own():
    hall = Hall(3)
    keys = hall.advertise()
    roster = Roster({**hall.roster, "invented": Identity.generate(seeded("i")).public})
    invented = SiteSession(
        "invented", Identity.generate(seeded("i")), roster, threshold(4, 1, 3), hall.run, hall.slot, seeded("e")
    ).advertise()
    four = dataclasses.replace(keys, advertised=(*keys.advertised[:2], invented))
    assert refusal(hall.at["site00"].share, four) == "key-roster"


def test_the_sites_own_keys_must_come_back_unchanged():
    hall = Hall(3)
    keys = hall.advertise()
    twin = SiteSession("site00", hall.keys["site00"], hall.roster, hall.parameters, hall.run, hall.slot, seeded("twin"))
    own = twin.advertise()  # well signed, by another copy of this site
    altered = dataclasses.replace(keys, advertised=(own, *keys.advertised[1:]))
    assert refusal(hall.at["site00"].share, altered) == "own-keys"


def test_a_key_used_by_two_sites_is_refused_at_both_ends():
    hall = Hall(3)
    for site in ("site01", "site02"):
        hall.at[site] = SiteSession(
            site, hall.keys[site], hall.roster, hall.parameters, hall.run, hall.slot, seeded("broken randomness")
        )
    for site in hall.sites:
        hall.coordinator.collect_advertise(hall.at[site].advertise())
    assert refusal(hall.coordinator.key_roster) == "reused-keys"
    keys = KeyRoster(hall.run, hall.slot, tuple(hall.at[site].advertise() for site in hall.sites))
    assert refusal(hall.at["site00"].share, keys) == "reused-keys"


def test_a_key_of_small_order_is_refused():
    hall = Hall(3)
    bad = hall.at["site01"]
    bad._keys.channel_public = bytes(32)
    for site in hall.sites:
        hall.coordinator.collect_advertise(hall.at[site].advertise())
    assert refusal(hall.at["site00"].share, hall.coordinator.key_roster()) == "usable-keys"


@pytest.mark.parametrize(("run", "slot"), [("run 1", "slot 2"), ("run 2", "slot 1")])
def test_replay_of_another_slot_or_run_is_refused(run: str, slot: str):
    old, hall = Hall(3), Hall(3, run=run, slot=slot)
    old_keys, keys = old.advertise(), hall.advertise()
    site = hall.at["site00"]
    assert refusal(site.share, old_keys) == "other-slot"
    assert refusal(site.share, dataclasses.replace(old_keys, run=run, slot=slot)) == "other-slot"
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
    assert refusal(hall.coordinator.collect_shares, old_shares) == "other-slot"
    relabelled = SealedInbox("site00", run, slot, dict.fromkeys(("site01", "site02"), old_shares.boxes["site00"]))
    assert refusal(site.mask, hall.vectors["site00"], ASK, relabelled) == "sealed-box"


def test_sites_with_different_rosters_do_not_work_together():
    hall = Hall(4)
    keys = hall.advertise()
    other = Roster({**hall.roster, "site03": Identity.generate(seeded("new")).public})
    site = hall.session("site00", other)
    site.advertise()
    assert refusal(site.share, keys) == "pinned-roster"


def test_a_site_does_not_run_with_an_identity_that_its_roster_does_not_have():
    keys = identities(NAMES[:3])
    arguments = (roster_of(keys), threshold(3, 1, 3), "r", "s", seeded("e"))
    assert refusal(SiteSession, "site00", keys["site01"], *arguments) == "pinned-roster"
    assert refusal(SiteSession, "elsewhere", keys["site01"], *arguments) == "pinned-roster"


def test_attempt_roster_and_parameters_must_fit():
    roster = roster_of(identities(NAMES[:4]))
    assert refusal(AggregatorSession, NAMES[:4], roster, threshold(5, 1, 3), "r", "s", 1) == "pinned-roster"
    assert refusal(AggregatorSession, [*NAMES[:3], "x"], roster, threshold(4, 1, 3), "r", "s", 1) == "pinned-roster"
    assert refusal(AggregatorSession, ["site00"] * 4, roster, threshold(4, 1, 3), "r", "s", 1) == "pinned-roster"


# Boxes


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 159), st.integers(1, 255))
def test_a_tampered_box_is_refused_wherever_it_was_touched(at: int, flip: int):
    hall = Hall(3)
    hall.share()
    inbox = hall.coordinator.inbox_for("site00")
    box = bytearray(inbox.boxes["site01"])
    box[at] ^= flip
    altered = dataclasses.replace(inbox, boxes={**inbox.boxes, "site01": bytes(box)})
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, altered) == "sealed-box"


def test_boxes_swapped_between_senders_or_receivers_are_refused():
    hall = Hall(3)
    hall.share()
    mine, other = hall.coordinator.inbox_for("site00"), hall.coordinator.inbox_for("site01")
    swapped = dataclasses.replace(mine, boxes=dict(zip(mine.boxes, reversed(mine.boxes.values()), strict=True)))
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, swapped) == "sealed-box"
    misdirected = dataclasses.replace(mine, boxes={**mine.boxes, "site02": other.boxes["site02"]})
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, misdirected) == "sealed-box"
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, other) == "sealed-inbox"


def test_a_box_opens_only_in_its_slot_and_direction_even_under_the_same_key():
    key, plain = bytes(32), bytes(2 * SHARE_BYTES)
    here = Slot("r", "s", "t")
    box = here.seal(key, bytes(12), plain, "x", "y")
    assert here.unseal(key, box, "x", "y") == plain
    for slot, sender, receiver in [
        (here, "y", "x"),
        (Slot("r2", "s", "t"), "x", "y"),
        (Slot("r", "s2", "t"), "x", "y"),
    ]:
        assert refusal(slot.unseal, key, box, sender, receiver) == "sealed-box"


def test_each_direction_of_a_channel_has_its_own_key():
    a, b = SlotKeys.fresh(seeded("a")), SlotKeys.fresh(seeded("b"))
    here = Slot("r", "s", "t")
    forth = here.channel_key(private_key(a.channel), b.channel_public, "x", "y")
    assert here.channel_key(private_key(b.channel), a.channel_public, "x", "y") == forth
    assert here.channel_key(private_key(a.channel), b.channel_public, "y", "x") != forth


def test_a_missing_box_is_refused():
    hall = Hall(4)
    hall.share()
    inbox = hall.coordinator.inbox_for("site00")
    fewer = dataclasses.replace(inbox, boxes={k: v for k, v in inbox.boxes.items() if k != "site02"})
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, fewer) == "sealed-inbox"
    # nothing left, so the right inbox is still good
    assert hall.at["site00"].mask(hall.vectors["site00"], ASK, inbox).site == "site00"
