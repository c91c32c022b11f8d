"""Secure aggregation when somebody deviates: other questions, half uploads, second openings, wrong shares, wrong order."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.secagg import (
    ASK,
    NAMES,
    OTHER_ASK,
    Hall,
    chi_square_of_bytes,
    refusal,
    refused,
    seeded,
)
from unisono.errors import ProtocolError
from unisono.protection.secagg.keys import RunKeys, Slot, SlotKeys, private_key
from unisono.protection.secagg.messages import KeyRoster, SealedInbox, Unmask, checksum_of
from unisono.protection.secagg.site import SiteSession
from unisono.protection.shamir import SHARE_BYTES


def about(hall: Hall, survivors: Collection[str], site: str = "site00") -> Unmask:
    """A request that names what the site has answered, whatever the survivors."""
    session = hall.at[site]
    return Unmask(hall.run, hall.slot, session.ask_digest, session.binding, tuple(sorted(survivors)), {})


# Different questions (rule 2)


def test_different_questions_are_named_and_nothing_is_added():
    hall = Hall(3)
    hall.share()
    hall.coordinator.collect_masked(hall.masked("site00"))
    before = hall.coordinator.accumulated.copy()
    assert refusal(hall.coordinator.collect_masked, hall.masked("site01", OTHER_ASK)) == "different-questions"
    np.testing.assert_array_equal(hall.coordinator.accumulated, before)
    assert hall.coordinator.survivors == ("site00",)


def test_a_coordinator_that_lies_about_the_question_opens_noise():
    hall = Hall(4, length=1 << 15)
    hall.share()
    binding = hall.coordinator.binding
    for site in hall.sites:
        asked = OTHER_ASK if site == "site02" else ASK
        message = hall.masked(site, asked)
        relabelled = checksum_of(message.words, binding, site)
        hall.coordinator.collect_masked(
            dataclasses.replace(message, ask_digest=ASK, binding=binding, checksum=relabelled)
        )
    request = hall.coordinator.unmask_request()
    for site in ("site00", "site01", "site03"):
        hall.coordinator.collect_unmask(hall.at[site].unmask(request))
    opened = hall.coordinator.open()
    assert chi_square_of_bytes(opened - hall.total(hall.sites)) < 340
    # The site that was asked something else sees that the request names another question than its own.
    error = refused(hall.at["site02"].unmask, request)
    assert error.rule == "different-questions"
    assert error.evidence == {"answered": hall.at["site02"].binding, "asked to unmask": binding}


def test_a_coordinator_that_tells_two_stories_about_who_dealt_opens_noise():
    hall = Hall(7, length=1 << 15)
    hall.share()
    fewer = hall.sites[:6]
    for site in fewer:
        inbox = hall.setup.inbox_for(site, fewer) if site == "site00" else hall.inbox(site)
        message = hall.at[site].mask(hall.vectors[site], ASK, inbox)
        if site == "site00":
            assert refusal(hall.coordinator.collect_masked, message) == "different-questions"
            binding = hall.coordinator.binding
            relabelled = checksum_of(message.words, binding, site)
            message = dataclasses.replace(message, binding=binding, checksum=relabelled)
        hall.coordinator.collect_masked(message)
    request = hall.coordinator.unmask_request()
    assert refusal(hall.at["site00"].unmask, request) == "different-questions"
    for site in fewer[1:]:
        hall.coordinator.collect_unmask(hall.at[site].unmask(request))
    assert chi_square_of_bytes(hall.coordinator.open() - hall.total(fewer)) < 340


def test_sites_that_were_relayed_different_keys_share_no_mask():
    hall = Hall(3)
    keys = hall.advertise()
    # A colluding site signs two advertisements; the coordinator shows the second to site00 only.
    entropy = seeded("twin")
    twin = SiteSession(
        "site02", hall.keys["site02"], hall.group, hall.slot, RunKeys(hall.run, entropy), entropy=entropy
    )
    second = dataclasses.replace(keys, advertised=(*keys.advertised[:2], twin.advertise()))
    one, other = hall.at["site00"], hall.at["site01"]
    seeds = {}
    for mine, theirs, relayed_keys in ((one, other, second), (other, one, keys)):
        mine.share(relayed_keys)
        binding = mine._derive.binding(relayed_keys.transcript(), hall.sites, ASK)
        pair = (private_key(mine._keys.mask), theirs._keys.mask_public, "site00", "site01", binding)
        seeds[mine.me] = mine._derive.pair_seed(*pair)
    assert seeds["site00"] != seeds["site01"]


def test_two_sites_derive_the_same_mask_exactly_when_run_slot_keys_sites_pair_and_question_agree():
    a, b = SlotKeys.fresh(seeded("a")), SlotKeys.fresh(seeded("b"))
    sites = ["x", "y", "z"]
    bindings = [
        Slot(run, slot).binding(keys, dealt, ask)
        for run, slot, keys, dealt, ask in [
            ("r", "s", "t", sites, ASK),
            ("r2", "s", "t", sites, ASK),
            ("r", "s2", "t", sites, ASK),
            ("r", "s", "t2", sites, ASK),
            ("r", "s", "t", ["x", "y"], ASK),
            ("r", "s", "t", sites, OTHER_ASK),
        ]
    ]
    assert len(set(bindings)) == 6
    slot, here = Slot("r", "s"), bindings[0]
    seed = slot.pair_seed(private_key(a.mask), b.mask_public, "x", "y", here)
    assert slot.pair_seed(private_key(b.mask), a.mask_public, "y", "x", here) == seed
    elsewhere = [slot.pair_seed(private_key(b.mask), a.mask_public, "y", "x", other) for other in bindings[1:]]
    elsewhere.append(slot.pair_seed(private_key(b.mask), a.mask_public, "y", "z", here))
    assert len({seed, *elsewhere}) == 7
    own = {slot.self_mask_seed(a.self_seed, site, binding) for site in ("x", "y") for binding in bindings}
    assert len(own) == 12


# Uploads (rules 6 and 9)


def test_a_half_upload_is_never_added_and_the_whole_one_can_follow():
    hall = Hall(3)
    hall.share()
    whole = hall.masked("site00")
    half = dataclasses.replace(whole, words=whole.words[:3])
    altered = dataclasses.replace(whole, words=whole.words + np.uint64(1))
    other_type = dataclasses.replace(whole, words=whole.words.astype(np.int64))
    for broken in (half, altered, other_type):
        assert refusal(hall.coordinator.collect_masked, broken) == "half-upload"
    relabelled = dataclasses.replace(half, checksum=checksum_of(half.words, half.binding, "site00"))
    assert refusal(hall.coordinator.collect_masked, relabelled) == "half-upload"
    of_another = dataclasses.replace(whole, checksum=checksum_of(whole.words, whole.binding, "site01"))
    assert refusal(hall.coordinator.collect_masked, of_another) == "half-upload"
    assert not hall.coordinator.accumulated.any()
    hall.coordinator.collect_masked(whole)
    np.testing.assert_array_equal(hall.coordinator.accumulated, whole.words)


def test_a_part_is_added_once_only():
    hall = Hall(3)
    hall.share()
    part = hall.masked("site00")
    hall.coordinator.collect_masked(part)
    assert refusal(hall.coordinator.collect_masked, part) == "message-order"
    np.testing.assert_array_equal(hall.coordinator.accumulated, part.words)


def test_a_part_of_a_site_that_dealt_nothing_is_not_added():
    hall = Hall(5)
    keys = hall.advertise()
    for site in hall.sites[:4]:
        hall.setup.collect_shares(hall.at[site].share(keys))
    part = hall.masked("site00")
    undealt = dataclasses.replace(part, site="site04", checksum=checksum_of(part.words, part.binding, "site04"))
    assert refusal(hall.coordinator.collect_masked, undealt) == "message-order"
    assert not hall.coordinator.accumulated.any()


def test_a_site_does_not_mask_among_too_few_that_dealt():
    hall = Hall(5)
    hall.share()
    few = hall.sites[: hall.parameters.least_survivors - 1]
    inbox = hall.inbox("site00")
    boxes = {site: inbox.boxes[site] for site in few if site != "site00"}
    lonely = dataclasses.replace(inbox, dealt=few, boxes=boxes)
    assert refusal(hall.at["site00"].mask, hall.vectors["site00"], ASK, lonely) == "enough-survivors"
    assert refusal(hall.setup.inbox_for, "site00", few) == "message-order"


def test_a_site_masks_once_only():
    hall = Hall(3)
    hall.share()
    hall.masked("site00")
    assert refusal(hall.masked, "site00") == "message-order"


def test_a_part_that_comes_late_is_thrown_away():
    hall = Hall(5)
    hall.mask(dropped=["site04"])
    hall.coordinator.state_tree()
    before = hall.coordinator.accumulated.copy()
    assert refusal(hall.coordinator.collect_masked, hall.masked("site04")) == "survivors-fixed"
    np.testing.assert_array_equal(hall.coordinator.accumulated, before)


def test_only_words_can_be_masked_and_for_a_named_question():
    hall = Hall(3)
    hall.share()
    inbox = hall.setup.inbox_for("site00")
    for wrong in (np.zeros(5), np.zeros(5, np.int64), np.zeros((5, 1), np.uint64)):
        with pytest.raises(ValueError, match="uint32 or uint64"):  # a fault of the caller, not of a message
            hall.at["site00"].mask(wrong, ASK, inbox)
    assert refusal(hall.at["site00"].mask, np.zeros(5, np.uint64), "", inbox) == "encoding-length"
    assert hall.at["site00"].mask(hall.vectors["site00"], ASK, inbox).site == "site00"  # nothing was used up


# Unmasking (rules 1, 4 and 5)


def test_both_shares_of_a_site_are_never_given():
    hall = Hall(5)
    hall.mask()
    everyone, without = set(hall.sites), set(hall.sites) - {"site04"}
    first = hall.at["site00"].unmask(about(hall, everyone))
    error = refused(hall.at["site00"].unmask, about(hall, without))
    assert error.rule == "one-opening"
    assert error.evidence == {"first": ", ".join(sorted(everyone)), "second": ", ".join(sorted(without))}
    assert "site04" in first.self_seeds
    assert not first.mask_keys
    hall.at["site01"].unmask(about(hall, without))
    assert refusal(hall.at["site01"].unmask, about(hall, everyone)) == "one-opening"


def test_asked_again_for_the_same_set_a_site_repeats_its_answer():
    hall = Hall(5)
    hall.mask(dropped=["site04"])
    request = hall.coordinator.unmask_request()
    assert hall.at["site00"].unmask(request) == hall.at["site00"].unmask(about(hall, request.survivors))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sets(st.sampled_from(NAMES[:6])), max_size=6))
def test_whatever_is_asked_no_site_gives_two_shares_of_one_site(asked: list[set[str]]):
    hall = Hall(6, length=1)
    hall.mask()
    for site in hall.sites:
        seeds: set[str] = set()
        keys: set[str] = set()
        for survivors in [*asked, set(hall.sites)]:
            try:
                answer = hall.at[site].unmask(about(hall, survivors, site))
            except ProtocolError:
                continue
            seeds |= set(answer.self_seeds)
            keys |= set(answer.mask_keys)
        assert not seeds & keys


def test_too_few_survivors_are_refused_by_the_site():
    hall = Hall(10, 3)
    hall.mask()
    assert refusal(hall.at["site00"].unmask, about(hall, hall.sites[:6])) == "enough-survivors"
    assert hall.at["site00"].unmask(about(hall, hall.sites[:7])).site == "site00"


@pytest.mark.parametrize("min_sites", [3, 5])
def test_the_least_number_of_sites_in_a_sum_holds_at_both_ends(min_sites: int):
    hall = Hall(5, 0, min_sites=min_sites)
    hall.share()
    for site in hall.sites[: min_sites - 1]:
        hall.coordinator.collect_masked(hall.masked(site))
    assert refusal(hall.coordinator.unmask_request) == "enough-survivors"
    assert refusal(hall.coordinator.state_tree) == "enough-survivors"
    assert refusal(hall.at["site00"].unmask, about(hall, hall.sites[: min_sites - 1])) == "enough-survivors"


def test_survivors_must_have_taken_part_and_count_this_site_in():
    hall = Hall(5)
    hall.mask()
    assert refusal(hall.at["site00"].unmask, about(hall, {*hall.sites, "invented"})) == "survivor-set"
    assert refusal(hall.at["site00"].unmask, about(hall, hall.sites[1:])) == "survivor-set"


def test_a_request_of_another_slot_is_refused():
    hall = Hall(3)
    hall.mask()
    assert (
        refusal(hall.at["site00"].unmask, dataclasses.replace(about(hall, hall.sites), slot="slot 2")) == "other-slot"
    )


def test_the_coordinator_does_not_take_an_answer_about_another_set():
    hall = Hall(5)
    hall.mask(dropped=["site04"])
    answer = hall.at["site00"].unmask(hall.coordinator.unmask_request())
    both = dataclasses.replace(answer, self_seeds={**answer.self_seeds, "site04": bytes(SHARE_BYTES)})
    assert refusal(hall.coordinator.collect_unmask, both) == "survivor-set"
    from_dropped = dataclasses.replace(answer, site="site04")
    assert refusal(hall.coordinator.collect_unmask, from_dropped) == "survivor-set"
    hall.coordinator.collect_unmask(answer)
    assert refusal(hall.coordinator.collect_unmask, answer) == "message-order"


# Wrong shares


def _answers(hall: Hall, wrong: dict[str, str], silent: tuple[str, ...] = ()) -> None:
    """Collect D; each site in `wrong` sends a wrong share of the named site's self-mask seed or mask key."""
    request = hall.coordinator.unmask_request()
    for site in request.survivors:
        answer = hall.at[site].unmask(request)
        if site in wrong:
            about = wrong[site]
            kind = "self_seeds" if about in answer.self_seeds else "mask_keys"
            answer = dataclasses.replace(answer, **{kind: {**getattr(answer, kind), about: bytes(SHARE_BYTES)}})
        if site not in silent:
            hall.coordinator.collect_unmask(answer)


@pytest.mark.parametrize("about", ["site03", "site06"])
def test_a_wrong_sharer_is_named_and_done_without(about: str):
    hall = Hall(7)
    hall.mask(dropped=["site06"])
    _answers(hall, {"site01": about})
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(hall.sites[:6]))
    assert hall.coordinator.wrong_sharers == ("site01",)


def test_two_wrong_sharers_are_both_named():
    hall = Hall(9)
    hall.mask()
    _answers(hall, {"site00": "site05", "site04": "site05"})
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(hall.sites))
    assert hall.coordinator.wrong_sharers == ("site00", "site04")


@pytest.mark.parametrize("about", ["site02", "site04"])
def test_with_no_share_to_spare_the_error_says_whose_secret_it_is(about: str):
    hall = Hall(5)
    hall.mask(dropped=["site04"])
    _answers(hall, {"site01": about})
    with pytest.raises(ProtocolError) as error:
        hall.coordinator.open()
    assert error.value.rule == "wrong-share"
    assert about in error.value.what


# Order


def test_messages_out_of_order_are_refused():
    hall = Hall(3)
    site = hall.at["site00"]
    inbox = SealedInbox("site00", hall.run, hall.slot, hall.sites, {})
    nobody = Unmask(hall.run, hall.slot, ASK, "c" * 64, hall.sites, {})
    assert refusal(site.share, KeyRoster(hall.run, hall.slot, ())) == "message-order"
    assert refusal(site.mask, hall.vectors["site00"], ASK, inbox) == "message-order"
    assert refusal(site.unmask, nobody) == "message-order"
    keys = hall.advertise()
    assert site.advertise() == keys.advertised[0]  # asked again, the same
    assert refusal(site.mask, hall.vectors["site00"], ASK, inbox) == "message-order"
    shares = site.share(keys)
    assert site.share(keys) == shares  # asked again, the same: not a second polynomial
    assert refusal(site.share, dataclasses.replace(keys, advertised=keys.advertised[:2])) == "message-order"
    assert refusal(site.advertise) == "message-order"
    assert refusal(site.unmask, nobody) == "message-order"
    assert refusal(site.agree, nobody) == "message-order"
    assert refusal(site.receive, hall.vectors["site00"]) == "message-order"


def test_the_coordinator_waits_for_everybody_before_masks():
    hall = Hall(3)
    assert refusal(hall.setup.key_roster) == "message-order"
    keys = hall.advertise()
    assert refusal(hall.setup.collect_advertise, hall.at["site00"].advertise()) == "message-order"
    hall.setup.collect_shares(hall.at["site00"].share(keys))
    assert refusal(hall.setup.inbox_for, "site01") == "message-order"


def test_a_sum_that_is_not_closed_takes_no_unmasking():
    hall = Hall(3)
    hall.mask()
    answer = hall.at["site00"].unmask(about(hall, hall.sites))
    assert refusal(hall.coordinator.collect_unmask, answer) == "message-order"


def test_a_stranger_is_not_heard():
    hall = Hall(3)
    stranger = dataclasses.replace(hall.at["site00"].advertise(), site="stranger")
    assert refusal(hall.setup.collect_advertise, stranger) == "pinned-roster"


def test_a_share_set_that_leaves_a_site_out_is_refused():
    hall = Hall(4)
    shares = hall.at["site00"].share(hall.advertise())
    fewer = dataclasses.replace(shares, boxes={k: v for k, v in shares.boxes.items() if k != "site02"})
    assert refusal(hall.setup.collect_shares, fewer) == "sealed-inbox"


def test_a_forgotten_slot_says_nothing_any_more():
    hall = Hall(3)
    hall.mask()
    site = hall.at["site00"]
    request = about(hall, hall.sites)
    site.unmask(request)
    site.forget()
    assert refusal(site.unmask, request) == "message-order"
    assert refusal(site.agree, request) == "message-order"
    assert refusal(site.advertise) == "message-order"
    assert not site._mask_shares
    assert not site._seed_shares


def test_after_masking_a_site_no_longer_holds_its_own_secrets():
    keys = SlotKeys.fresh(seeded("k"))
    assert keys.mask != bytes(32)
    hall = Hall(3)
    hall.share()
    hall.masked("site00")
    own = hall.at["site00"]._keys
    assert own.mask == own.self_seed == bytes(32)
