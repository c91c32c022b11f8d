"""A sum that one site alone reads (rule 7): nobody else can take its mask off, and without it nothing is opened."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.support.secagg import (
    NAMES,
    Asking,
    Hall,
    Town,
    chi_square_of_bytes,
    refusal,
    refused,
    roster_of,
    seeded,
    small_regular,
    wired,
)
from unisono.federation.tree import pack, unpack
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.keys import RunKeys
from unisono.protection.secagg.messages import Unmask
from unisono.protection.secagg.setup import SlotSetup
from unisono.protection.secagg.site import SiteSession
from unisono.protection.shamir import SHARE_BYTES

READER = "site02"


def about(hall: Hall, survivors: tuple[str, ...], site: str) -> Unmask:
    """A request that names what the site has answered, whatever the survivors."""
    session = hall.at[site]
    return Unmask(hall.run, hall.slot, session.ask_digest, session.binding, survivors, {})


# The reader reads, and nobody else


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("threat", ["semi-honest", "malicious"])
def test_only_the_reader_can_read_the_sum(dtype: type[np.unsignedinteger], threat: str):
    hall = Hall(6, recipient=READER, length=1 << 15, dtype=dtype, threat=threat)  # type: ignore[arg-type]
    hall.mask(dropped=["site05"])
    hall.unmask(silent=["site00"])
    at_coordinator = hall.coordinator.open()
    assert chi_square_of_bytes(np.asarray(at_coordinator - hall.total(hall.sites[:5]))) < 340
    np.testing.assert_array_equal(hall.at[READER].receive(at_coordinator), hall.total(hall.sites[:5]))
    assert hall.coordinator.wrong_sharers == ()


def test_the_reader_shares_neither_of_its_secrets_with_anybody():
    hall = Hall(6, recipient=READER)
    hall.share()
    assert hall.setup.shares[READER].boxes == {}
    parts = {site: hall.masked(site) for site in hall.sites}
    for part in parts.values():
        hall.coordinator.collect_masked(part)
    request = hall.coordinator.unmask_request()
    for site in hall.sites:
        assert READER not in hall.inbox(site).boxes
        assert READER not in hall.at[site]._seed_shares | hall.at[site]._mask_shares
        answer = hall.at[site].unmask(request)
        assert READER not in {**answer.self_seeds, **answer.mask_keys}


def test_boxes_of_the_reader_are_refused_by_the_coordinator_and_by_the_sites():
    hall = Hall(4, recipient=READER)
    keys = hall.advertise()
    all_shares = {site: hall.at[site].share(keys) for site in hall.sites}
    boxes = dict.fromkeys((site for site in hall.sites if site != READER), bytes(160))
    dealing = dataclasses.replace(all_shares[READER], boxes=boxes)
    assert refusal(hall.setup.collect_shares, dealing) == "sealed-inbox"
    for item in all_shares.values():
        hall.setup.collect_shares(item)
    inbox = hall.inbox("site00")
    with_reader = dataclasses.replace(inbox, boxes={**inbox.boxes, READER: bytes(160)})
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], "a" * 64, with_reader) == "sealed-inbox"


def test_shares_said_to_be_of_the_reader_are_not_taken():
    hall = Hall(5, recipient=READER)
    hall.mask()
    answer = hall.at["site00"].unmask(hall.coordinator.unmask_request())
    more = dataclasses.replace(answer, self_seeds={**answer.self_seeds, READER: bytes(SHARE_BYTES)})
    assert refusal(hall.coordinator.collect_unmask, more) == "survivor-set"


# A reader that is not there


def test_without_its_reader_a_sum_is_not_closed_by_the_coordinator():
    hall = Hall(6, recipient=READER)
    hall.mask(dropped=[READER])
    error = refused(hall.coordinator.unmask_request)
    assert error.rule == "recipient-survives"
    assert READER in error.what
    assert refusal(hall.coordinator.state_tree) == "recipient-survives"


@pytest.mark.parametrize("threat", ["semi-honest", "malicious"])
def test_a_coordinator_that_says_the_reader_dropped_gets_nothing_from_any_site(threat: str):
    hall = Hall(6, recipient=READER, threat=threat)  # type: ignore[arg-type]
    hall.mask()
    without = tuple(site for site in hall.sites if site != READER)
    for site in hall.sites:
        rule = "survivor-set" if site == READER else "recipient-survives"
        assert refusal(hall.at[site].unmask, about(hall, without, site)) == rule
        assert refusal(hall.at[site].agree, about(hall, without, site)) == rule
    hall.unmask()  # and nothing of it is used up
    np.testing.assert_array_equal(hall.at[READER].receive(hall.coordinator.open()), hall.total(hall.sites))


def test_keys_and_shares_are_not_sent_round_without_the_readers():
    hall = Hall(6, recipient=READER)
    for site in hall.sites:
        if site != READER:
            hall.setup.collect_advertise(hall.at[site].advertise())
    assert READER in refused(hall.setup.key_roster).what
    hall.setup.collect_advertise(hall.at[READER].advertise())
    keys = hall.setup.key_roster()
    for site in hall.sites:
        if site != READER:
            hall.setup.collect_shares(hall.at[site].share(keys))
    assert READER in refused(hall.setup.inbox_for, "site00").what


# Who reads is fixed with the keys


def test_sites_that_were_told_different_readers_do_not_work_together():
    hall = Hall(5, recipient=READER)
    keys = hall.advertise()
    for told, named in (("site03", READER), ("", READER)):
        site = hall.session("site00", recipient=told)
        site.advertise()
        error = refused(site.share, keys)
        assert error.rule == "recipient"
        assert named in error.what
        assert error.evidence["signature"] == hall.setup.advertised["site00"].signature.hex()
        setup = SlotSetup(hall.setup.drawing, hall.slot, told)
        assert refusal(setup.collect_advertise, keys.advertised[0]) == "recipient"


def test_keys_for_one_reader_cannot_be_relabelled_for_another():
    hall = Hall(5, recipient=READER)
    keys = hall.advertise()
    relabelled = dataclasses.replace(
        keys, advertised=tuple(dataclasses.replace(a, recipient="site03") for a in keys.advertised)
    )
    site = hall.session("site00", recipient="site03")
    site.advertise()
    assert refusal(site.share, relabelled) in {"own-keys", "signed-keys"}


def test_a_reader_is_one_of_the_group():
    hall = Hall(4)
    arguments = (hall.group, "s", RunKeys(hall.run, seeded("e")))
    with pytest.raises(Exception, match="not the recipient") as error:
        SiteSession("site00", hall.keys["site00"], *arguments, recipient="stranger")
    assert error.value.rule == "recipient"  # type: ignore[attr-defined]


def test_nobody_else_receives_and_nobody_before_it_has_unmasked():
    hall = Hall(5, recipient=READER)
    hall.mask()
    assert refusal(hall.at[READER].receive, hall.vectors[READER]) == "message-order"
    hall.unmask()
    total = hall.coordinator.open()
    assert refusal(hall.at["site00"].receive, total) == "recipient"
    for wrong in (total[:4], total.astype(np.uint32), total.astype(np.float64), total.reshape(5, 1)):
        assert refusal(hall.at[READER].receive, wrong) == "encoding-length"
    np.testing.assert_array_equal(hall.at[READER].receive(total), hall.total(hall.sites))
    hall.at[READER].forget()
    assert refusal(hall.at[READER].receive, total) == "message-order"


def test_a_coordinator_restored_after_a_crash_still_knows_who_reads():
    hall = Hall(6, recipient=READER)
    hall.mask(dropped=["site05"])
    hall._coordinator = AggregatorSession.restore(unpack(pack(hall.coordinator.state_tree())), roster_of(hall.keys))
    assert hall.coordinator.setup.recipient == READER
    hall.unmask()
    np.testing.assert_array_equal(hall.at[READER].receive(hall.coordinator.open()), hall.total(hall.sites[:5]))


# Through a party


def test_a_sum_to_a_site_by_its_party_and_on_a_regular_graph():
    for town in (Town(6), Town(9, parameters=small_regular("malicious"))):
        ask = Asking(town.sites, to=READER)
        last = town.sites[-1]
        masked = town.opened(ask, "slot 1", dropped=[last])
        reader = town.party[READER]
        np.testing.assert_array_equal(reader.receive(ask.key, "slot 1", masked), town.total(town.sites[:-1]))
        assert refusal(reader.receive, Asking(town.sites, step=2).key, "slot 1", masked) == "other-slot"
        assert refusal(town.party["site00"].receive, ask.key, "slot 1", masked) == "recipient"


@pytest.mark.parametrize(("keys_for", "asked_for"), [("", READER), (READER, ""), ("site03", READER)])
def test_a_sum_to_one_reader_is_not_masked_with_keys_for_another(keys_for: str, asked_for: str):
    town = Town(5)
    setup = town.dealt("slot 1", keys_for)
    ask = Asking(NAMES[:5], to=asked_for)
    session = town.begun(setup, ask)
    for site in town.sites:
        assert refusal(town.mask, session, ask, site) == "recipient"
        assert not town.memory[site].steps


def test_a_slot_asked_for_again_for_another_reader_is_refused():
    town = Town(5)
    town.party["site00"].advertise("slot 1", READER)
    assert refusal(town.party["site00"].advertise, "slot 1", "site03") == "recipient"
    assert refusal(town.party["site00"].advertise, "slot 1") == "recipient"
    assert refusal(town.party["site00"].advertise, "slot 2", "stranger") == "recipient"


def test_a_retry_is_not_for_another_reader():
    town = Town(5)
    town.masked(Asking(NAMES[:5], to=READER), "slot 1")
    other = Asking(NAMES[:5], attempt=2)
    session = town.begun(town.dealt("slot 2"), other)
    for site in town.sites:
        assert refusal(town.mask, session, other, site) == "one-question-per-step"


def test_a_reader_that_was_restarted_cannot_be_done_without_and_the_retry_opens():
    town = Town(5)
    ask = Asking(NAMES[:5], to=READER)
    session = town.masked(ask, "slot 1")
    request = wired(session.unmask_request())
    for site in ("site00", "site01", "site03", "site04"):
        session.collect_unmask(town.party[site].unmask(ask.key, request))
    town.restart(READER)
    masked = session.open()
    assert not (masked == town.total(town.sites)).any()  # its own mask went with its memory
    again = dataclasses.replace(ask, attempt=2)
    opened = town.opened(again, "slot 2")
    np.testing.assert_array_equal(town.party[READER].receive(again.key, "slot 2", opened), town.total(town.sites))
