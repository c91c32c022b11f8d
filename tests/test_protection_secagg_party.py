"""One site over many sums: one opening a step, one vector a step, secrets in memory only, through retries and crashes."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.secagg import (
    NAMES,
    Asking,
    Town,
    chi_square_of_bytes,
    refusal,
    refused,
    seeded,
    small_regular,
    wired,
)
from unisono.errors import ProtocolError, UnisonoError
from unisono.protection.prg import Words
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.messages import Unmask
from unisono.protection.secagg.party import LIVE_SLOTS, Party, SlotUnknown
from unisono.protection.secagg.roster import Identity

FIVE = NAMES[:5]


def told(session: AggregatorSession, survivors: tuple[str, ...]) -> Unmask:
    """What a coordinator that lies about the survivors sends."""
    return Unmask(session.group.run, session.slot, session.ask_digest, session.binding, survivors, {})


def never() -> Words:
    raise AssertionError("the vector was computed a second time")


# Many sums


def test_steps_follow_each_other_and_slots_are_made_ahead():
    town = Town(5)
    ahead = town.dealt("slot 1")
    for step in (1, 2, 3):
        ask = Asking(FIVE, step=step)
        session = town.begun(ahead, ask)
        ahead = town.dealt(f"slot {step + 1}")
        for site in FIVE:
            session.collect_masked(town.mask(session, ask, site))
        town.unmask(session, ask)
        np.testing.assert_array_equal(session.open(), town.total(FIVE))
        for site in FIVE:
            town.party[site].close(ask.key)
            town.memory[site].close_step(ask.key)


def test_everything_is_written_down_before_it_goes_out():
    for threat, rows in (("semi-honest", 3), ("malicious", 4)):
        town = Town(5, threat=threat)  # type: ignore[arg-type]
        town.opened(Asking(FIVE), "slot 1")
        expected = ["vector", *["survivors"] * (rows - 2), "answer"]
        assert all(memory.written == expected for memory in town.memory.values())


@pytest.mark.parametrize("what", ["vector", "survivors", "answer"])
def test_when_the_disk_is_full_nothing_leaves_and_a_retry_opens_the_sum(what: str):
    town = Town(5, threat="malicious")
    ask = Asking(FIVE)
    full = town.memory["site00"]
    session = town.begun(town.dealt("slot 1"), ask)
    for site in FIVE[1:]:
        session.collect_masked(town.mask(session, ask, site))
    if what == "vector":
        full.full = True
        with pytest.raises(UnisonoError, match="disk is full"):
            town.mask(session, ask, "site00")
        assert full.step(ask.key) is None
    else:
        session.collect_masked(town.mask(session, ask, "site00"))
        request = session.unmask_request()
        if what == "answer":
            agreements = {site: town.party[site].agree(ask.key, request).signature for site in FIVE}
            request = replace(request, agreements=agreements)
        full.full = True
        call = town.party["site00"].agree if what == "survivors" else town.party["site00"].unmask
        with pytest.raises(UnisonoError, match="disk is full"):
            call(ask.key, request)
    full.full = False
    np.testing.assert_array_equal(town.opened(replace(ask, attempt=2), "slot 2"), town.total(FIVE))


# One vector a step (rule 6)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_the_vector_of_a_step_is_re_sent_bit_for_bit_under_fresh_masks(dtype: type[np.unsignedinteger]):
    town = Town(5, dtype=dtype)
    for site in FIVE:
        town.vectors[site] = np.arange(1 << 14, dtype=dtype)
    sent = []
    for attempt in (1, 2):
        ask = Asking(FIVE, attempt=attempt)
        setup = town.dealt(f"slot {attempt}")
        session = AggregatorSession(setup, ask.digest, 1 << 14, dtype)
        inbox = wired(setup.inbox_for("site00"))
        compute = (lambda: town.vectors["site00"]) if attempt == 1 else never
        sent.append(town.party["site00"].mask(ask, session.slot, inbox, compute).words)
    step = town.memory["site00"].step(Asking(FIVE).key)
    assert step is not None
    assert step.vector is not None
    assert step.vector.dtype == dtype
    np.testing.assert_array_equal(step.vector, town.vectors["site00"])
    assert chi_square_of_bytes(np.asarray(sent[0] - sent[1])) < 340


def test_a_changed_vector_is_not_sent_in_a_retry():
    town = Town(5)
    before = town.total(FIVE)
    town.masked(Asking(FIVE), "slot 1")
    town.restart("site01")
    town.vectors["site00"] = town.vectors["site00"] + np.uint64(1)  # another GPU, the same noise
    np.testing.assert_array_equal(town.opened(Asking(FIVE, attempt=2), "slot 2"), before)


def test_a_step_has_one_question():
    town = Town(5)
    town.masked(Asking(FIVE), "slot 1")
    other = Asking(FIVE, content="how old?", attempt=2)
    session = town.begun(town.dealt("slot 2"), other)
    assert refusal(town.mask, session, other, "site00") == "one-question-per-step"


def test_a_step_of_another_run_or_epoch_is_not_answered_here():
    town = Town(5)
    for ask in (Asking(FIVE, run="run 2"), Asking(FIVE, epoch=1)):
        session = town.begun(town.dealt(f"slot of {ask.key}"), ask)
        assert refusal(town.mask, session, ask, "site00") == "other-slot"
        assert not town.memory["site00"].steps


# One opening a step (rule 1)


def test_a_second_opening_without_one_site_is_refused_with_evidence():
    town = Town(5)
    town.opened(Asking(FIVE), "slot 1")
    ask = Asking(FIVE, attempt=2)
    second = town.masked(ask, "slot 2", dropped=["site04"])
    request = second.unmask_request()
    for site in FIVE[:4]:
        error = refused(town.party[site].unmask, ask.key, request)
        assert error.rule == "one-opening-per-step"
        assert error.evidence == {"first": ", ".join(FIVE), "second": ", ".join(FIVE[:4])}
    # For the set that it was unmasked for, each answers again; it is the same sum.
    again = town.opened(replace(ask, attempt=3), "slot 3")
    np.testing.assert_array_equal(again, town.total(FIVE))


def test_one_slot_is_not_unmasked_for_two_sets_either():
    town = Town(5)
    ask = Asking(FIVE)
    session = town.masked(ask, "slot 1")
    town.party["site00"].unmask(ask.key, told(session, FIVE))
    assert refusal(town.party["site00"].unmask, ask.key, told(session, FIVE[:4])) == "one-opening-per-step"


def test_a_closed_step_is_neither_asked_nor_unmasked_again():
    town = Town(5)
    ask = Asking(FIVE)
    session = town.masked(ask, "slot 1")
    town.unmask(session, ask)
    for site in FIVE:
        town.memory[site].close_step(ask.key)
    again = replace(ask, attempt=2)
    second = town.begun(town.dealt("slot 2"), again)
    for site in FIVE:
        assert refusal(town.party[site].unmask, ask.key, session.unmask_request()) == "one-opening-per-step"
        assert refusal(town.mask, second, again, site) == "one-opening-per-step"


def test_a_slot_counts_for_the_step_it_answered_whatever_is_asked_of_it_later():
    # Found by attack: the coordinator leaves step 1 unopened, has step 2 answered in slot 2, names slot 2 in a retry of
    # step 1 (refused), and then has slot 2 unmasked as step 1's, so that step 2 could be opened once more.
    town = Town(5)
    one, two = Asking(FIVE, step=1), Asking(FIVE, step=2)
    town.masked(one, "slot 1")
    session = town.masked(two, "slot 2")
    retry = replace(one, attempt=2)
    for site in FIVE:
        inbox = wired(session.setup.inbox_for(site))
        assert refusal(town.party[site].mask, retry, "slot 2", inbox, never) == "message-order"
        assert refusal(town.party[site].unmask, one.key, session.unmask_request()) == "other-slot"
        step = town.memory[site].step(one.key)
        assert step is not None
        assert step.survivors is None
    town.unmask(session, two)
    np.testing.assert_array_equal(session.open(), town.total(FIVE))


def test_a_step_that_was_never_asked_is_not_unmasked():
    town = Town(5)
    session = town.masked(Asking(FIVE), "slot 1")
    assert refusal(town.party["site00"].unmask, Asking(FIVE, step=9).key, session.unmask_request()) == "unknown-step"
    assert refusal(town.party["site00"].receive, Asking(FIVE, step=9).key, "slot 1", np.zeros(5)) == "other-slot"


def test_on_a_regular_graph_who_unmasked_joins_no_new_attempt():
    town = Town(9, parameters=small_regular("semi-honest"))
    ask = Asking(town.sites)
    session = town.masked(ask, "slot 1")
    town.party["site00"].unmask(ask.key, session.unmask_request())
    again = replace(ask, attempt=2)
    second = town.begun(town.dealt("slot 2"), again)
    assert refusal(town.mask, second, again, "site00") == "one-opening-per-step"
    assert town.mask(second, again, "site01").site == "site01"  # it gave nothing yet


def test_on_a_regular_graph_joining_a_new_attempt_gives_up_the_one_before():
    town = Town(9, parameters=small_regular("semi-honest"))
    ask = Asking(town.sites)
    first = town.masked(ask, "slot 1")
    again = replace(ask, attempt=2)
    second = town.masked(again, "slot 2", dropped=["site08"])
    for site in town.sites[:8]:
        with pytest.raises(SlotUnknown):
            town.party[site].unmask(ask.key, first.unmask_request())
    town.unmask(second, again)
    np.testing.assert_array_equal(second.open(), town.total(town.sites[:8]))
    assert refusal(town.party["site08"].unmask, ask.key, replace(told(first, ()), binding="c" * 64)) == (
        "different-questions"
    )


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_whatever_is_told_over_three_attempts_no_two_sets_can_be_opened(data: st.DataObject):
    """One site is the coordinator's: it answers whatever is asked. t answers about one set open it."""
    town = Town(5)
    honest = FIVE[:4]
    sets = [FIVE, *(tuple(site for site in FIVE if site != left) for left in FIVE)]
    given_for: dict[str, set[tuple[str, ...]]] = {site: set() for site in honest}
    for attempt in (1, 2, 3):
        ask = Asking(FIVE, attempt=attempt)
        session = town.masked(ask, f"slot {attempt}")
        for site in honest:
            if data.draw(st.booleans()):
                town.restart(site)
            for survivors in data.draw(st.lists(st.sampled_from(sets), max_size=3)):
                try:
                    answer = town.party[site].unmask(ask.key, told(session, survivors))
                except (ProtocolError, SlotUnknown):
                    continue
                assert set(answer.self_seeds) == set(survivors)
                given_for[site].add(survivors)
    assert all(len(sets_given) <= 1 for sets_given in given_for.values())
    helpers = Counter(survivors for sets_given in given_for.values() for survivors in sets_given)
    assert sum(count + 1 >= town.group.parameters.t for count in helpers.values()) <= 1


# A fit over one frozen set


def test_a_sum_of_a_frozen_set_is_not_masked_or_unmasked_over_fewer():
    town = Town(5)
    ask = Asking(FIVE, partial=False)
    part = town.begun(town.dealt("slot 1", away=["site04"]), ask)
    error = refused(town.mask, part, ask, "site00")
    assert error.rule == "frozen-sites"
    assert "site04" in error.what
    whole = town.masked(ask, "slot 2")
    error = refused(town.party["site00"].unmask, ask.key, told(whole, FIVE[:4]))
    assert error.rule == "frozen-sites"
    assert "site04" in error.what
    town.unmask(whole, ask)
    np.testing.assert_array_equal(whole.open(), town.total(FIVE))


def test_what_was_unmasked_for_all_of_a_frozen_set_is_not_retried_over_fewer():
    town = Town(5)
    ask = Asking(FIVE, partial=False)
    town.opened(ask, "slot 1")
    fewer = Asking(FIVE[:4], partial=False, attempt=2)
    session = town.begun(town.dealt("slot 2", away=["site04"]), fewer)
    error = refused(town.mask, session, fewer, "site00")
    assert error.rule == "one-opening-per-step"
    assert error.evidence == {"first": ", ".join(FIVE), "second": ", ".join(FIVE[:4])}


# Crashes (rules 1 and 5)


def test_a_restarted_site_counts_as_dropped_in_this_attempt_and_is_back_in_the_next():
    town = Town(5)
    ask = Asking(FIVE)
    session = town.begun(town.dealt("slot 1"), ask)
    town.restart("site04")
    with pytest.raises(SlotUnknown):
        town.mask(session, ask, "site04")
    for site in FIVE[:4]:
        session.collect_masked(town.mask(session, ask, site))
    town.unmask(session, ask)
    np.testing.assert_array_equal(session.open(), town.total(FIVE[:4]))
    following = Asking(FIVE, step=2)
    np.testing.assert_array_equal(town.opened(following, "slot 2"), town.total(FIVE))


@pytest.mark.parametrize("threat", ["semi-honest", "malicious"])
def test_a_site_restarted_after_masking_gives_nothing_for_it_and_the_sum_opens_without_it(threat: str):
    town = Town(5, threat=threat)  # type: ignore[arg-type]
    ask = Asking(FIVE)
    session = town.masked(ask, "slot 1")
    request = session.unmask_request()
    town.restart("site02")
    for call in (town.party["site02"].agree, town.party["site02"].unmask):
        with pytest.raises(SlotUnknown):
            call(ask.key, request)
    request = town.agree(session, ask, silent=["site02"])
    for site in ("site00", "site01", "site03", "site04"):
        session.collect_unmask(town.party[site].unmask(ask.key, request))
    np.testing.assert_array_equal(session.open(), town.total(FIVE))


def test_a_site_restarted_after_unmasking_repeats_its_answer_and_nothing_else():
    town = Town(5, threat="malicious")
    ask = Asking(FIVE)
    session = town.masked(ask, "slot 1")
    request = town.agree(session, ask)
    answer = town.party["site00"].unmask(ask.key, request)
    assert town.party["site00"].unmask(ask.key, request) == answer
    town.restart("site00")
    assert town.party["site00"].unmask(ask.key, request) == answer
    assert refusal(town.party["site00"].unmask, ask.key, told(session, FIVE[:4])) == "one-opening-per-step"
    with pytest.raises(SlotUnknown):
        town.party["site00"].agree(ask.key, request)


def test_a_signature_counts_as_an_opening_after_a_restart_too():
    town = Town(5, threat="malicious")
    ask = Asking(FIVE)
    session = town.masked(ask, "slot 1")
    town.party["site00"].agree(ask.key, session.unmask_request())
    town.restart("site00")
    again = replace(ask, attempt=2)
    second = town.masked(again, "slot 2", dropped=["site04"])
    assert refusal(town.party["site00"].agree, ask.key, second.unmask_request()) == "one-opening-per-step"


def test_a_site_rolled_back_to_an_old_disk_is_one_colluder_and_opens_no_second_set():
    town = Town(5)
    before = deepcopy(town.memory["site00"])
    ask = Asking(FIVE)
    first = town.masked(ask, "slot 1")
    town.unmask(first, ask)
    town.roll_back("site00", before)
    again = replace(ask, attempt=2)
    second = town.masked(again, "slot 2", dropped=["site04"])
    request = second.unmask_request()
    second.collect_unmask(town.party["site00"].unmask(again.key, request))  # it has forgotten what it gave
    for site in FIVE[1:4]:
        assert refusal(town.party[site].unmask, again.key, request) == "one-opening-per-step"
    assert not second.can_open
    assert refusal(second.open) == "too-few-shares"


def test_a_lost_disk_does_not_bring_back_a_slots_secrets():
    town = Town(5)
    ask = Asking(FIVE)
    session = town.masked(ask, "slot 1")
    town.unmask(session, ask)
    town.roll_back("site00", type(town.memory["site00"])())
    assert refusal(town.party["site00"].unmask, ask.key, session.unmask_request()) == "unknown-step"


def test_no_secret_is_written_down():
    town = Town(5)
    setup = town.dealt("slot 1")
    secrets = [key for site in FIVE for key in _secrets(town, site)]
    session = town.begun(setup, Asking(FIVE))
    for site in FIVE:
        session.collect_masked(town.mask(session, Asking(FIVE), site))
    kept = repr([memory.steps for memory in town.memory.values()])
    assert not any(secret.hex() in kept or repr(secret) in kept for secret in secrets)


def _secrets(town: Town, site: str) -> list[bytes]:
    keys = town.party[site]._slots["slot 1"]._keys
    return [keys.mask, keys.self_seed, bytes(town.party[site]._run_keys._secret), town.keys[site].to_bytes()]


# Slots


def test_a_slot_asked_for_again_has_the_same_keys_and_shares():
    town = Town(5)
    setup = town.dealt("slot 1")
    keys = setup.key_roster()
    assert town.party["site00"].share(keys) == setup.shares["site00"]
    fresh = town.party["site00"].advertise("slot 2")
    assert town.party["site00"].advertise("slot 2") == fresh
    assert fresh.mask_key != setup.advertised["site00"].mask_key
    assert fresh.channel_key == setup.advertised["site00"].channel_key  # of the run


def test_only_a_few_slots_live_and_the_oldest_is_forgotten():
    town = Town(5)
    setup = town.dealt("slot 1")
    session = town.party["site00"]._slots["slot 1"]
    for k in range(LIVE_SLOTS):
        town.party["site00"].advertise(f"slot {k + 2}")
    with pytest.raises(SlotUnknown):
        town.mask(town.begun(setup, Asking(FIVE)), Asking(FIVE), "site00")
    assert session._keys.mask == session._keys.self_seed == bytes(32)
    assert not session._mask_shares
    assert not session._seed_shares
    assert town.party["site00"].advertise("slot 1").mask_key != setup.advertised["site00"].mask_key


def test_a_party_that_forgets_gives_nothing_more():
    town = Town(5)
    ask = Asking(FIVE)
    session = town.masked(ask, "slot 1")
    town.party["site00"].forget()
    with pytest.raises(SlotUnknown):
        town.party["site00"].unmask(ask.key, session.unmask_request())


def test_the_question_of_a_slot_is_told_for_its_own_step_only():
    town = Town(5)
    ask = Asking(FIVE)
    town.masked(ask, "slot 1")
    assert town.party["site00"].asked(ask.key, "slot 1") == ask
    assert refusal(town.party["site00"].asked, Asking(FIVE, step=2).key, "slot 1") == "other-slot"
    with pytest.raises(SlotUnknown):
        town.party["site00"].asked(ask.key, "slot 2")


def test_a_party_needs_the_identity_that_its_roster_has():
    town = Town(5)
    arguments = (town.group, town.memory["site00"])
    assert refusal(Party, "site00", Identity.generate(seeded("new")), *arguments) == "pinned-roster"
    assert refusal(Party, "stranger", town.keys["site00"], *arguments) == "pinned-roster"
