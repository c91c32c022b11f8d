"""Secure aggregation when everybody does as agreed: parameters, roster, messages, sums, drop-outs, restarts."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.secagg import ASK, NAMES, Hall, chi_square_of_bytes, identities, refusal, roster_of, seeded, wired
from unisono.errors import ProtocolError
from unisono.federation.tree import pack, unpack
from unisono.protection.encoding.fixed32 import Quantiser
from unisono.protection.leaves import Leaf, count
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.group import group_of
from unisono.protection.secagg.messages import Advertise, MaskedInput, Unmask
from unisono.protection.secagg.parameters import derive
from unisono.protection.secagg.roster import Identity, Roster
from unisono.protection.secagg.setup import Drawing, SlotSetup

# Parameters


@pytest.mark.parametrize(
    ("n", "colluding", "t", "drops"),
    [(3, 1, 3, 0), (4, 1, 3, 1), (5, 1, 4, 1), (10, 3, 7, 3), (7, 0, 4, 3), (32, 1, 17, 15)],
)
def test_threshold_of_the_design(n: int, colluding: int, t: int, drops: int):
    parameters = derive(n, colluding, 3)
    assert (parameters.t, parameters.tolerated_drops) == (t, drops)


@given(st.integers(1, 60), st.integers(0, 8), st.integers(1, 8))
def test_a_threshold_is_private_live_and_the_smallest(n: int, colluding: int, min_sites: int):
    try:
        p = derive(n, colluding, min_sites)
    except ProtocolError as error:
        assert error.rule == "federation-too-small"
        assert 2 * n <= n + colluding or n < max(min_sites, colluding + 2)
        return
    assert 2 * p.t > n + colluding >= 2 * (p.t - 1)
    assert p.t <= n - p.tolerated_drops
    assert p.least_survivors == max(p.t, min_sites, colluding + 2) == n - p.tolerated_drops


def test_the_parameters_are_said_in_a_sentence():
    assert derive(5, 1, 3).sentence() == "5 sites, 1 colluder: 4 must stay; 1 drop-out after masking is tolerated"
    assert derive(10, 3, 3).sentence() == "10 sites, 3 colluders: 7 must stay; 3 drop-outs after masking are tolerated"
    assert derive(3, 1, 3).sentence() == (
        "3 sites, 1 colluder: no drop-out is tolerated: accept none, or invite 1 more site"
    )
    assert derive(5, 3, 3).sentence().endswith("accept none, or invite 1 more site")
    assert derive(4, 2, 3).sentence().endswith("accept none, or invite 1 more site")


@given(st.integers(1, 20), st.integers(0, 6), st.integers(1, 6))
def test_the_number_of_sites_to_invite_is_right(n: int, colluding: int, min_sites: int):
    try:
        sentence = derive(n, colluding, min_sites).sentence()
    except ProtocolError as error:
        more = int(error.remedy.split()[1])
        derive(n + more, colluding, min_sites)
        with pytest.raises(ProtocolError):
            derive(n + more - 1, colluding, min_sites)
        return
    if "invite" in sentence:
        more = int(sentence.split("invite ")[1].split()[0])
        assert derive(n + more, colluding, min_sites).tolerated_drops >= 1
        assert derive(n + more - 1, colluding, min_sites).tolerated_drops == 0


@pytest.mark.parametrize(("n", "colluding", "min_sites"), [(2, 1, 3), (3, 2, 3), (1, 0, 1), (4, 0, 5)])
def test_too_small_a_federation_is_refused(n: int, colluding: int, min_sites: int):
    with pytest.raises(ProtocolError) as error:
        derive(n, colluding, min_sites)
    assert error.value.rule == "federation-too-small"


def test_impossible_numbers_are_refused():
    with pytest.raises(ProtocolError) as error:
        derive(5, -1, 3)
    assert error.value.rule == "federation-parameters"


# Identity and roster


def test_an_identity_survives_its_file():
    one = Identity.generate(seeded("x"))
    assert Identity.from_bytes(one.to_bytes()).public == one.public
    with pytest.raises(ProtocolError) as error:
        Identity.from_bytes(one.to_bytes()[:-1])
    assert error.value.rule == "identity-key"


def test_a_roster_is_the_same_in_any_order_and_after_a_journey():
    keys = {site: key.public for site, key in identities(NAMES[:5]).items()}
    roster = Roster(keys)
    again = Roster.from_tree(unpack(pack(Roster(dict(reversed(keys.items()))).to_tree())))
    assert again.digest == roster.digest
    assert roster.sites == tuple(sorted(keys))
    changed = Roster({**keys, NAMES[0]: Identity.generate(seeded("other")).public})
    assert changed.digest != roster.digest
    assert changed.fingerprint(NAMES[0]) != roster.fingerprint(NAMES[0])
    assert changed.fingerprint(NAMES[1]) == roster.fingerprint(NAMES[1])


def test_a_fingerprint_can_be_read_aloud():
    groups = roster_of(identities(NAMES[:2])).fingerprint(NAMES[0]).split(" ")
    assert [len(g) for g in groups] == [4] * 8


@pytest.mark.parametrize(
    "tree",
    [
        {"Padua!": "00" * 32},
        {"padua\n": "00" * 32},
        {"padua": "00" * 31},
        {"padua": "zz" * 32},
        {"padua": "00" * 32, "turin": "00" * 32},
        {"padua": 5},
        [],
    ],
)
def test_a_malformed_roster_is_refused(tree: object):
    with pytest.raises(ProtocolError) as error:
        Roster.from_tree(tree)
    assert error.value.rule == "roster-entries"


# Sums


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 9), st.integers(0, 3), st.integers(0, 40), st.integers(0, 10**6))
def test_the_opened_sum_is_the_survivors_sum(n: int, colluding: int, length: int, seed: int):
    try:
        hall = Hall(n, colluding, min_sites=2, length=length)
    except ProtocolError:
        return
    chance = random.Random(seed)
    dropped = chance.sample(hall.sites, chance.randint(0, hall.parameters.tolerated_drops))
    hall.mask(dropped)
    survivors = hall.coordinator.survivors
    silent = chance.sample(survivors, chance.randint(0, len(survivors) - hall.parameters.t))
    hall.unmask(silent)
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(survivors))
    assert hall.coordinator.dropped == tuple(sorted(dropped))
    assert hall.coordinator.wrong_sharers == ()


def test_five_sites_one_drops_after_sharing_and_one_is_silent_at_the_end_is_one_too_many():
    hall = Hall(5)
    hall.mask(dropped=["site02"])
    hall.unmask(silent=["site04"])
    assert not hall.coordinator.can_open
    with pytest.raises(ProtocolError) as error:
        hall.coordinator.open()
    assert error.value.rule == "too-few-shares"
    request = hall.coordinator.unmask_request()
    hall.coordinator.collect_unmask(hall.at["site04"].unmask(request))  # it comes back
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(set(hall.sites) - {"site02"}))


def test_a_site_that_falls_silent_after_masking_still_counts():
    hall = Hall(5)
    hall.mask()
    hall.unmask(silent=["site02"])
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(hall.sites))


def test_three_sites_tolerate_no_drop():
    hall = Hall(3)
    hall.mask(dropped=["site01"])
    with pytest.raises(ProtocolError) as error:
        hall.coordinator.unmask_request()
    assert error.value.rule == "enough-survivors"


def test_a_subset_of_the_roster_can_take_part():
    hall = Hall(4)
    roster = roster_of(identities(NAMES[:6]))
    hall.group = group_of(hall.run, 0, hall.sites, roster, hall.parameters)
    hall.at = {site: hall.session(site) for site in hall.sites}
    hall.setup = SlotSetup(Drawing(hall.group), hall.slot)
    hall.mask()
    hall.unmask()
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(hall.sites))


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_sums_wrap_around_in_their_ring(dtype: type[np.unsignedinteger[Any]]):
    hall = Hall(5, dtype=dtype)
    for site in hall.sites:
        hall.vectors[site] = np.full(5, np.iinfo(dtype).max, dtype)  # minus one, in the ring
    hall.mask(dropped=["site04"])
    hall.unmask()
    opened = hall.coordinator.open()
    assert opened.dtype == dtype
    np.testing.assert_array_equal(opened, np.full(5, np.iinfo(dtype).max - 3, dtype))


def test_a_site_that_dealt_nothing_is_left_out_and_the_others_go_on():
    hall = Hall(5)
    keys = hall.advertise()
    for site in hall.sites[:4]:
        hall.setup.collect_shares(hall.at[site].share(keys))
    for site in hall.sites[:4]:
        hall.coordinator.collect_masked(hall.masked(site))
    hall.unmask()
    assert hall.coordinator.dropped == ()
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(hall.sites[:4]))


def test_a_site_that_advertised_nothing_is_left_out_and_the_others_go_on():
    hall = Hall(5)
    for site in hall.sites[1:]:
        hall.setup.collect_advertise(wired(hall.at[site].advertise()))
    keys = hall.setup.key_roster()
    for site in hall.sites[1:]:
        hall.setup.collect_shares(hall.at[site].share(keys))
    for site in hall.sites[1:]:
        hall.coordinator.collect_masked(hall.masked(site))
    hall.unmask()
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(hall.sites[1:]))


def test_what_is_kept_is_exactly_what_was_encoded_in_both_rings():
    leaves = {"weights": Leaf("update", (40_000,), 1.0, "a layer"), "patients": count((), 10_000, "patients")}
    rng = np.random.default_rng(5)
    tree = {"weights": rng.normal(0, 0.5, 40_000).astype(np.float32), "patients": np.asarray(120)}
    hall = Hall(3, dtype=np.uint32)
    hall.share()
    source = Quantiser(tree, leaves, 3, seeded("rounding"))
    again = Quantiser(tree, leaves, 3, seeded("rounding"))
    keep, encoded = np.empty(source.size, np.uint32), np.empty(source.size, np.uint32)
    again.fill(0, encoded)
    masked = hall.at["site00"].mask(source, ASK, hall.inbox("site00"), keep=keep)
    np.testing.assert_array_equal(keep, encoded)
    assert (masked.words != keep).mean() > 0.999
    wide = Hall(3)
    wide.share()
    kept = np.empty(wide.length, np.uint64)
    wide.at["site00"].mask(wide.vectors["site00"], ASK, wide.inbox("site00"), keep=kept)
    np.testing.assert_array_equal(kept, wide.vectors["site00"])


def test_vectors_longer_than_a_chunk_of_the_mask_generator():
    hall = Hall(4, length=70_001)
    hall.mask(dropped=["site03"])
    hall.unmask()
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(NAMES[:3]))


def test_masking_does_not_change_the_sites_own_vector_and_takes_a_read_only_one():
    hall = Hall(3)
    before = {site: v.copy() for site, v in hall.vectors.items()}
    for v in hall.vectors.values():
        v.flags.writeable = False
    hall.mask()
    for site in hall.sites:
        np.testing.assert_array_equal(hall.vectors[site], before[site])


# What the coordinator sees


def test_a_masked_vector_alone_is_uniform():
    hall = Hall(3, length=1 << 15)
    for v in hall.vectors.values():
        v[:] = 7
    hall.share()
    for site in hall.sites:
        assert chi_square_of_bytes(hall.masked(site).words) < 340


def test_the_accumulated_sum_is_uniform_until_it_is_unmasked_and_cannot_be_written():
    hall = Hall(3, length=1 << 15)
    hall.mask()
    assert chi_square_of_bytes(hall.coordinator.accumulated) < 340
    with pytest.raises(ValueError, match="read-only"):
        hall.coordinator.accumulated[0] = 0


def test_the_same_vector_in_two_slots_gives_unrelated_words():
    words = []
    for slot in ("slot 1", "slot 2"):
        hall = Hall(3, length=1 << 15, slot=slot)
        hall.share()
        words.append(hall.masked("site00").words)
    assert chi_square_of_bytes(words[0] - words[1]) < 340


def test_the_differences_between_two_sites_masked_vectors_are_uniform():
    hall = Hall(3, length=1 << 15)
    hall.share()
    one, other = hall.masked("site00").words, hall.masked("site01").words
    assert chi_square_of_bytes(one - other) < 340
    assert chi_square_of_bytes(one + other) < 340  # the third site's masks are still on it


def _part(words: Any = None) -> MaskedInput:
    return MaskedInput("site00", "r", "s", ASK, "c" * 64, np.zeros(3, np.uint64) if words is None else words, bytes(16))


def test_secrets_are_not_shown_when_a_message_is_printed():
    hall = Hall(3)
    hall.mask()
    request = hall.coordinator.unmask_request()
    answer = hall.at["site00"].unmask(request)
    assert "self_seeds" not in repr(answer)
    assert answer.self_seeds["site01"].hex() not in repr(answer)
    assert "words=" not in repr(_part())
    assert "boxes" not in repr(hall.inbox("site00"))


# A coordinator that dies


def test_a_coordinator_restored_after_a_crash_asks_for_the_same_opening_and_finishes():
    hall = Hall(5)
    hall.mask(dropped=["site03"])
    stored = pack(hall.coordinator.state_tree())
    request = hall.coordinator.unmask_request()
    hall.at["site00"].unmask(request)  # one answer was lost in the crash
    hall._coordinator = AggregatorSession.restore(unpack(stored), hall.roster)
    assert hall.coordinator.unmask_request() == request
    assert pack(hall.coordinator.state_tree()) == stored
    hall.unmask()
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(hall.coordinator.survivors))


def test_shares_that_come_late_do_not_spoil_the_stored_sum():
    hall = Hall(5)
    keys = hall.advertise()
    late = hall.at["site04"].share(keys)
    for site in hall.sites[:4]:
        hall.setup.collect_shares(hall.at[site].share(keys))
    assert hall.coordinator.dealt == hall.sites[:4]
    inboxes = {site: hall.inbox(site) for site in hall.sites[:4]}
    hall.setup.collect_shares(late)
    for site, inbox in inboxes.items():
        hall.coordinator.collect_masked(hall.at[site].mask(hall.vectors[site], ASK, inbox))
    assert hall.setup.inbox_for("site00", hall.coordinator.dealt) == inboxes["site00"]
    hall._coordinator = AggregatorSession.restore(unpack(pack(hall.coordinator.state_tree())), hall.roster)
    hall.unmask()
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(hall.sites[:4]))


def test_a_state_holds_nothing_that_opens_the_sum():
    hall = Hall(3, length=64)
    secrets = [key for site in hall.sites for key in (hall.at[site]._keys.mask, hall.at[site]._keys.self_seed)]
    hall.mask()
    tree = hall.coordinator.state_tree()
    assert set(tree) == {"protocol", "kind", "setup", "unmask", "length", "accumulated"}
    assert set(tree["setup"]) == {"group", "slot", "recipient", "seed", "keys", "commitments"}
    assert not (tree["accumulated"] == hall.total(hall.sites)).any()
    stored = pack(tree)
    assert not any(secret in stored or secret.hex().encode() in stored for secret in secrets)


def _in_setup(**changes: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tree: {**tree, "setup": {**tree["setup"], **changes}}


def _beside(**changes: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tree: {**tree, **changes}


@pytest.mark.parametrize(
    "damage",
    [
        _beside(accumulated=np.zeros(4, np.uint64)),
        _beside(accumulated=np.zeros(5, np.int64)),
        _beside(accumulated=np.zeros((5, 1), np.uint64)),
        _beside(accumulated=None),
        _beside(length=None),
        _beside(length=float("inf")),
        _beside(length=10**18),
        _beside(length=4),
        _beside(protocol="unisono-secagg-1"),
        _beside(setup=[]),
        _in_setup(commitments={}),
        _in_setup(commitments=None),
        _in_setup(commitments=dict.fromkeys(NAMES[:3], "zz")),
        _in_setup(commitments=dict.fromkeys(NAMES[:3], "00" * 31)),
        _in_setup(commitments={**dict.fromkeys(NAMES[:3], "00" * 32), "stranger": "00" * 32}),
        _in_setup(slot="slot 2"),
        _in_setup(group={}),
        _in_setup(seed="zz"),
        _in_setup(seed=3),
    ],
)
def test_a_damaged_state_is_refused(damage: Callable[[dict[str, Any]], dict[str, Any]]):
    hall = Hall(3)
    hall.mask()
    with pytest.raises(ProtocolError) as error:
        AggregatorSession.restore(damage(hall.coordinator.state_tree()), hall.roster)
    assert error.value.rule in {"stored-sum", "other-slot"}


@pytest.mark.parametrize("changed", [{"n": 4}, {"t": 2}, {"colluding": 0}, {"threat": "malicious"}, {"quorum": 1}])
def test_a_state_with_other_parameters_is_refused(changed: dict[str, object]):
    hall = Hall(3)
    hall.mask()
    tree = hall.coordinator.state_tree()
    tree["setup"]["group"]["parameters"].update(changed)
    assert refusal(AggregatorSession.restore, tree, hall.roster) in {"stored-sum", "pinned-roster"}


@pytest.mark.parametrize("survivors", [("site00",), ("site00", "site01", "stranger")])
def test_a_state_with_too_few_or_other_survivors_is_refused(survivors: tuple[str, ...]):
    hall = Hall(3)
    hall.mask()
    tree = hall.coordinator.state_tree()
    tree["unmask"]["survivors"] = list(survivors)
    assert refusal(AggregatorSession.restore, tree, hall.roster) == "stored-sum"


def test_a_state_is_not_restored_under_another_roster():
    hall = Hall(3)
    hall.mask()
    other = Roster({**hall.roster, "site01": Identity.generate(seeded("new")).public})
    assert refusal(AggregatorSession.restore, hall.coordinator.state_tree(), other) == "stored-sum"


# Messages that are not messages


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "00" * 31},
        {"nonce": np.zeros(2)},
        {"recipient": "Not A Site"},
        {"recipient": None},
        {"group": 3},
        {"site": "../../etc"},
        {"site": None},
        {"run": ""},
        {"run": "x" * 300},
        {"mask_key": "00" * 31},
        {"mask_key": "0G" * 32},
        {"mask_key": bytes(32)},
        {"signature": ["00"] * 64},
        {"kind": "shares"},
        {"more": 1},
    ],
)
def test_a_malformed_advertisement_is_refused(change: dict[str, object]):
    tree = {**Hall(3).at["site00"].advertise().to_tree(), **change}
    with pytest.raises(ProtocolError) as error:
        Advertise.from_tree(tree)
    assert error.value.rule == "message-format"


@pytest.mark.parametrize(
    "words", [np.zeros(3, np.int64), np.zeros((3, 1), np.uint64), [1, 2], "00", np.zeros(3, np.float64), None]
)
def test_masked_words_are_one_dimension_of_uint32_or_uint64(words: object):
    tree = _part().to_tree()
    with pytest.raises(ProtocolError) as error:
        MaskedInput.from_tree({**tree, "words": words})
    assert error.value.rule == "message-format"


@pytest.mark.parametrize("survivors", [["site01", "site00"], ["site00", "site00"], "site00", [1], None])
def test_survivors_are_sorted_and_distinct(survivors: object):
    tree = Unmask("r", "s", ASK, "c" * 64, ("site00",), {}).to_tree()
    with pytest.raises(ProtocolError) as error:
        Unmask.from_tree({**tree, "survivors": survivors})
    assert error.value.rule == "message-format"


@pytest.mark.parametrize("tree", [None, [], "x", 3])
def test_what_is_no_tree_at_all_is_refused(tree: object):
    with pytest.raises(ProtocolError) as error:
        Unmask.from_tree(tree)
    assert error.value.rule == "message-format"


def test_another_version_of_the_protocol_is_named_as_such():
    tree = {**Unmask("r", "s", ASK, "c" * 64, ("site00",), {}).to_tree(), "protocol": "unisono-secagg-0"}
    with pytest.raises(ProtocolError) as error:
        Unmask.from_tree(tree)
    assert error.value.rule == "protocol-version"


@pytest.mark.parametrize("version", ["unisono-secagg-0", None, 2, [], np.zeros(2), np.zeros(0)])
def test_whatever_stands_for_the_version_is_refused_and_crashes_nothing(version: object):
    tree = {**Unmask("r", "s", ASK, "c" * 64, ("site00",), {}).to_tree(), "protocol": version}
    assert refusal(Unmask.from_tree, tree) == "protocol-version"
