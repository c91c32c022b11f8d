"""A coordinator, and sites with it, that lie: signed agreement, wrong shares, evidence, and messages that are no messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.secagg import (
    ASK,
    NAMES,
    OTHER_ASK,
    Asking,
    Hall,
    Town,
    refusal,
    refused,
    seeded,
    small_regular,
)
from unisono.errors import ProtocolError
from unisono.protection.secagg.messages import (
    Advertise,
    Agreement,
    Commitment,
    KeyRoster,
    MaskedInput,
    Message,
    SealedInbox,
    Shares,
    Unmask,
    UnmaskShares,
)
from unisono.protection.secagg.roster import Identity
from unisono.protection.shamir import SHARE_BYTES


def lying(n: int = 5, colluding: int = 1, **more: Any) -> Hall:
    """A hall in the malicious setting."""
    return Hall(n, colluding, threat="malicious", **more)


def about(hall: Hall, survivors: Collection[str], agreements: dict[str, bytes] | None = None) -> Unmask:
    """A request that names the right question, whatever the survivors."""
    binding = hall.coordinator.binding
    return Unmask(hall.run, hall.slot, ASK, binding, tuple(sorted(survivors)), agreements or {})


def signatures(hall: Hall, request: Unmask, sites: Collection[str]) -> dict[str, bytes]:
    """Signed by the sites' identities, as only colluding sites would for two sets."""
    return {site: hall.keys[site].sign(request.agreed(site)) for site in sites}


# Agreement before unmasking


def test_a_sum_opens_when_all_survivors_were_told_the_same():
    hall = lying(6)
    hall.mask(dropped=["site05"])
    hall.unmask(silent=["site00"])
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(hall.sites[:5]))


def test_a_site_whose_own_signature_is_missing_unmasks_what_a_quorum_signed_and_nothing_else():
    hall = lying()
    hall.mask()
    request = about(hall, hall.sites)
    without = [site for site in hall.sites if site != "site00"]
    signed = dataclasses.replace(request, agreements=signatures(hall, request, without))
    assert refusal(hall.at["site00"].unmask, request) == "consistency"
    assert set(hall.at["site00"].unmask(signed).self_seeds) == set(hall.sites)
    other = about(hall, hall.sites[:-1])
    assert refusal(hall.at["site00"].agree, other) == "one-opening"


def test_fewer_signatures_than_the_quorum_unmask_nothing_and_are_kept_as_evidence():
    hall = lying()
    hall.mask()
    request = about(hall, hall.sites)
    for site in hall.sites:
        hall.at[site].agree(request)
    quorum = hall.parameters.quorum
    few = dataclasses.replace(request, agreements=signatures(hall, request, hall.sites[: quorum - 1]))
    error = refused(hall.at["site00"].unmask, few)
    assert error.rule == "consistency"
    assert error.evidence["binding"] == request.binding
    assert error.evidence["signature of site00"] == few.agreements["site00"].hex()
    enough = dataclasses.replace(request, agreements=signatures(hall, request, hall.sites[:quorum]))
    assert hall.at["site00"].unmask(enough).site == "site00"  # the refusal used nothing up


def _other(hall: Hall, request: Unmask, **changes: Any) -> bytes:
    return hall.keys["site01"].sign(dataclasses.replace(request, **changes).agreed("site01"))


@pytest.mark.parametrize(
    "forge",
    [
        lambda hall, request: bytes(64),
        lambda hall, request: Identity.generate(seeded("coordinator")).sign(request.agreed("site01")),
        lambda hall, request: hall.keys["site02"].sign(request.agreed("site02")),
        lambda hall, request: hall.keys["site01"].sign(request.agreed("site02")),
        lambda hall, request: _other(hall, request, slot="slot 0"),
        lambda hall, request: _other(hall, request, run="run 0"),
        lambda hall, request: _other(hall, request, ask_digest=OTHER_ASK),
        lambda hall, request: _other(hall, request, binding="c" * 64),
        lambda hall, request: _other(hall, request, survivors=request.survivors[:4]),
    ],
    ids=["none", "forged", "another's", "for another", "slot", "run", "question", "binding", "survivors"],
)
def test_an_agreement_that_is_forged_or_over_something_else_does_not_count(forge: Callable[[Hall, Unmask], bytes]):
    hall = lying()
    hall.mask()
    request = about(hall, hall.sites)
    hall.at["site00"].agree(request)
    good = signatures(hall, request, ("site00", "site02", "site03"))
    forged = dataclasses.replace(request, agreements={**good, "site01": forge(hall, request)})
    error = refused(hall.at["site00"].unmask, forged)
    assert error.rule == "consistency"
    assert "not good: site01" in error.what
    agreement = Agreement("site01", hall.run, hall.slot, forged.agreements["site01"])
    assert refusal(hall.coordinator.collect_agreement, agreement) == "signed-keys"
    assert not hall.coordinator.agreed


def test_signatures_of_sites_that_are_not_in_the_sum_do_not_count():
    hall = lying(6, 1)
    hall.mask(dropped=["site05"])
    request = about(hall, hall.sites[:5])
    for site in hall.sites[:5]:
        hall.at[site].agree(request)
    quorum = hall.parameters.quorum
    signers = (*hall.sites[: quorum - 1], "site05")
    padded = dataclasses.replace(request, agreements=signatures(hall, request, signers))
    error = refused(hall.at["site00"].unmask, padded)
    assert error.rule == "consistency"
    assert "site05" in error.what
    late = Agreement("site05", hall.run, hall.slot, padded.agreements["site05"])
    assert refusal(hall.coordinator.collect_agreement, late) == "survivor-set"
    stranger = dataclasses.replace(request, agreements={**signatures(hall, request, NAMES[:3]), "x": bytes(64)})
    assert refusal(hall.at["site00"].unmask, stranger) == "consistency"


def test_an_agreement_of_another_slot_is_not_collected():
    hall = lying()
    hall.mask()
    agreement = hall.at["site00"].agree(hall.coordinator.unmask_request())
    assert refusal(hall.coordinator.collect_agreement, dataclasses.replace(agreement, slot="slot 0")) == "other-slot"
    stranger = dataclasses.replace(agreement, site="stranger")
    assert refusal(hall.coordinator.collect_agreement, stranger) == "pinned-roster"


def test_a_site_signs_one_set_only_and_the_same_one_as_often_as_asked():
    hall = lying()
    hall.mask()
    site = hall.at["site00"]
    first = site.agree(about(hall, hall.sites))
    assert site.agree(about(hall, hall.sites)) == first
    error = refused(site.agree, about(hall, hall.sites[:4]))
    assert error.rule == "one-opening"
    assert error.evidence["first"] == ", ".join(hall.sites)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_of_two_stories_about_the_survivors_at_most_one_gathers_a_quorum(data: st.DataObject):
    n, colluding = data.draw(st.sampled_from([(4, 1), (5, 1), (7, 2), (8, 0)]))
    hall = lying(n, colluding, length=1)
    hall.mask()
    stories = [about(hall, hall.sites), about(hall, hall.sites[1:])]
    colluders = data.draw(st.sets(st.sampled_from(hall.sites), min_size=colluding, max_size=colluding))
    signed: list[dict[str, bytes]] = [signatures(hall, story, colluders & set(story.survivors)) for story in stories]
    for site in hall.sites:
        if site not in colluders:
            for which in data.draw(st.permutations([0, 1])):
                try:
                    signed[which][site] = hall.at[site].agree(stories[which]).signature
                except ProtocolError:
                    continue
    assert sum(len(found) >= hall.parameters.quorum for found in signed) <= 1
    opened: set[int] = set()
    for which, story in enumerate(stories):
        request = dataclasses.replace(story, agreements=signed[which])
        for site in set(hall.sites) - colluders:
            try:
                hall.at[site].unmask(request)
                opened.add(which)
            except ProtocolError:
                continue
    assert len(opened) <= 1


def test_a_request_without_its_signatures_does_not_use_up_the_step():
    # Found by attack: the set was written down for ever before the signatures were looked at.
    town = Town(5, threat="malicious")
    ask = Asking(town.sites)
    session = town.masked(ask, "slot 1")
    lie = dataclasses.replace(session.unmask_request(), survivors=town.sites[:4])
    assert refusal(town.party["site00"].unmask, ask.key, lie) in ("consistency", "frozen-sites")
    step = town.memory["site00"].step(ask.key)
    assert step is not None
    assert step.survivors is None
    town.unmask(session, ask)
    np.testing.assert_array_equal(session.open(), town.total(town.sites))


def test_a_coordinator_restored_after_a_crash_collects_the_same_agreements():
    hall = lying()
    hall.mask()
    stored = hall.coordinator.state_tree()
    request = hall.request()
    hall.at["site00"].unmask(request)
    hall._coordinator = type(hall.coordinator).restore(stored, hall.roster)
    assert not hall.coordinator.agreed
    hall.unmask()
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(hall.sites))


def test_a_threat_below_the_sites_is_another_group():
    town, weaker = Town(5, threat="malicious"), Town(5)
    assert town.group.digest != weaker.group.digest
    item = weaker.party["site00"].advertise("slot 1")
    setup = town.advertised("slot 1", away=["site00"])
    assert refusal(setup.collect_advertise, item) == "pinned-roster"


def test_on_a_regular_graph_two_stories_have_no_two_quorums_and_no_two_openings():
    town = Town(9, parameters=small_regular("malicious"))
    ask = Asking(town.sites)
    session = town.masked(ask, "slot 1")
    whole = session.unmask_request()
    fewer = dataclasses.replace(whole, survivors=town.sites[:8])
    signed: dict[str, bytes] = {"site08": town.keys["site08"].sign(whole.agreed("site08"))}
    for site in town.sites[:4]:
        signed[site] = town.party[site].agree(ask.key, whole).signature
    others = {site: town.party[site].agree(ask.key, fewer).signature for site in town.sites[4:8]}
    for request in (dataclasses.replace(whole, agreements=signed), dataclasses.replace(fewer, agreements=others)):
        for site in town.sites[:8]:
            assert refusal(town.party[site].unmask, ask.key, request) in {"consistency", "one-opening-per-step"}


# Wrong shares: dealt, or given


def _deals_wrong(hall: Hall, dealer: str, to: Collection[str]) -> None:
    """A site that seals something else than shares of its secrets, for some of its neighbours."""
    site = hall.at[dealer]
    keys = hall.setup.key_roster()
    shares = site.share(keys)
    boxes = dict(shares.boxes)
    for holder in to:
        key = site._run_keys.box_key(hall.setup.advertised[holder].channel_key, dealer, holder)
        boxes[holder] = site._derive.seal(key, bytes(12), bytes(2 * SHARE_BYTES), dealer, holder)
    hall.setup.collect_shares(dataclasses.replace(shares, boxes=boxes))


@pytest.mark.parametrize("dropped", [(), ("site03",)])
def test_shares_dealt_wrong_to_some_are_found_and_the_sum_is_right(dropped: tuple[str, ...]):
    hall = lying(9, 1)
    keys = hall.advertise()
    _deals_wrong(hall, "site03", ["site00", "site01"])
    for site in hall.sites:
        if site != "site03":
            hall.setup.collect_shares(hall.at[site].share(keys))
    for site in hall.sites:
        if site not in dropped:
            hall.coordinator.collect_masked(hall.masked(site))
    hall.unmask()
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(set(hall.sites) - set(dropped)))
    assert hall.coordinator.wrong_sharers == ("site00", "site01")  # or it was dealt to them wrong


def test_a_dealer_of_nothing_but_wrong_shares_is_named():
    hall = lying(5)
    keys = hall.advertise()
    _deals_wrong(hall, "site03", [site for site in hall.sites if site != "site03"])
    for site in hall.sites:
        if site != "site03":
            hall.setup.collect_shares(hall.at[site].share(keys))
    for site in hall.sites:
        hall.coordinator.collect_masked(hall.masked(site))
    hall.unmask()
    error = refused(hall.coordinator.open)
    assert error.rule == "wrong-share"
    assert error.evidence == {"owner": "site03", "shares from": ", ".join(hall.sites)}


def test_a_site_that_commits_to_another_seed_than_it_deals_is_named():
    hall = lying(5)
    keys = hall.advertise()
    for site in hall.sites:
        shares = hall.at[site].share(keys)
        hall.setup.collect_shares(dataclasses.replace(shares, commitment=bytes(32)) if site == "site03" else shares)
    for site in hall.sites:
        hall.coordinator.collect_masked(hall.masked(site))
    hall.unmask()
    assert refused(hall.coordinator.open).evidence["owner"] == "site03"


# Evidence, and nothing secret in it


def _attacks(hall: Hall) -> Iterator[Callable[[], object]]:
    """Refused requests, at every stage of a sum."""
    site = hall.at["site00"]
    keys = hall.advertise()
    for change in ({"mask_key": bytes(32)}, {"recipient": "site01"}, {"group": "f" * 64}, {"run": "run 0"}):
        items = tuple(dataclasses.replace(a, **change) if a.site == "site01" else a for a in keys.advertised)
        yield lambda items=items: site.share(dataclasses.replace(keys, advertised=items))
    for name in hall.sites:
        hall.setup.collect_shares(hall.at[name].share(keys))
    inbox = hall.inbox("site00")
    yield lambda: site.mask(hall.vectors["site00"], ASK, dataclasses.replace(inbox, boxes={}))
    yield lambda: site.mask(hall.vectors["site00"], ASK, dataclasses.replace(inbox, dealt=hall.sites[:2]))
    swapped = dict(zip(inbox.boxes, reversed(inbox.boxes.values()), strict=True))
    yield lambda: site.mask(hall.vectors["site00"], ASK, dataclasses.replace(inbox, boxes=swapped))
    for name in hall.sites:
        message = hall.masked(name)
        yield lambda message=message: hall.coordinator.collect_masked(dataclasses.replace(message, binding="c" * 64))
        yield lambda message=message: hall.coordinator.collect_masked(
            dataclasses.replace(message, words=message.words + np.uint64(1))
        )
        hall.coordinator.collect_masked(message)
    request = about(hall, hall.sites)
    yield lambda: site.unmask(request)
    for name in hall.sites:
        hall.coordinator.collect_agreement(hall.at[name].agree(request))
    yield lambda: site.unmask(request)
    yield lambda: site.agree(about(hall, hall.sites[:4]))
    yield lambda: site.unmask(dataclasses.replace(request, binding="d" * 64))
    answers = {name: hall.at[name].unmask(hall.coordinator.agreed_request()) for name in hall.sites}
    for answer in answers.values():
        swapped_kinds = dataclasses.replace(answer, self_seeds=answer.mask_keys, mask_keys=answer.self_seeds)
        yield lambda swapped_kinds=swapped_kinds: hall.coordinator.collect_unmask(swapped_kinds)
        wrong = {owner: bytes(SHARE_BYTES) for owner in answer.self_seeds}
        hall.coordinator.collect_unmask(
            dataclasses.replace(answer, self_seeds=wrong) if answer.site > "site01" else answer
        )
    yield hall.coordinator.open


def test_no_refusal_says_a_secret_in_words_or_evidence():
    hall = lying()
    secrets = [key for site in hall.sites for key in (hall.at[site]._keys.mask, hall.at[site]._keys.self_seed)]
    secrets += [bytes(hall.at[site]._run_keys._secret) for site in hall.sites]
    secrets += [key.to_bytes() for key in hall.keys.values()]
    held: list[bytes] = []
    rules = set()
    for attack in _attacks(hall):
        held += [
            share for site in hall.sites for share in (hall.at[site]._seed_shares | hall.at[site]._mask_shares).values()
        ]
        error = refused(attack)
        rules.add(error.rule)
        said = f"{error} {error.evidence} {error.__cause__} {error.to_dict()}"
        assert not any(secret.hex() in said or repr(secret)[2:-1] in said for secret in [*secrets, *held])
        assert not any(str(int(word)) in said for vector in hall.vectors.values() for word in vector)
        assert all(isinstance(value, str) for value in error.evidence.values())
    assert len(held) > 20
    assert {"signed-keys", "recipient", "sealed-box", "half-upload", "consistency", "wrong-share"} <= rules


# Messages that are no messages: every kind, every field, at the end that reads it

GARBAGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=80),
    st.binary(max_size=70),
    st.sampled_from(
        [*NAMES[:5], "00" * 12, "00" * 16, "ff" * 32, "00" * 64, "00" * 66, "00" * 160, "run 1", "slot 1", ASK]
    ),
    st.sampled_from([np.zeros(0), np.zeros(5, np.uint64), np.zeros(5, np.uint32), np.ones((2, 2)), np.uint64(3)]),
    st.sampled_from([[], {}, ["site00"], list(NAMES[:4]), {"site00": "00" * 66}, {"site01": 3}, {3: "00"}, [[]], [{}]]),
)


def _spoilt(tree: Any, data: st.DataObject) -> Any:
    """The tree with one value in it, at any depth, replaced, removed or added."""
    if isinstance(tree, dict) and tree:
        key = data.draw(st.sampled_from(sorted(tree, key=str)))
        action = data.draw(st.sampled_from(["deeper", "deeper", "replace", "remove", "add"]))
        if action == "remove":
            return {name: value for name, value in tree.items() if name != key}
        if action == "add":
            return {**tree, data.draw(st.sampled_from(["more", *NAMES[:6]])): data.draw(GARBAGE)}
        return {**tree, key: _spoilt(tree[key], data) if action == "deeper" else data.draw(GARBAGE)}
    if isinstance(tree, list) and tree:
        at = data.draw(st.integers(0, len(tree) - 1))
        return [_spoilt(value, data) if k == at else value for k, value in enumerate(tree)]
    return data.draw(GARBAGE)


def _ready(kind: type[Message]) -> tuple[Message, Callable[[Any], object]]:
    """An honest message of a kind, and who reads it, in the state in which it is expected."""
    if kind is Commitment:
        town = Town(9, parameters=small_regular("malicious"))
        return town.party["site00"].commit(), town.drawing.collect_commitment
    hall = lying(4, length=3)
    if kind is Advertise:
        return hall.at["site00"].advertise(), hall.setup.collect_advertise
    keys = hall.advertise()
    if kind is KeyRoster:
        return keys, hall.at["site00"].share
    dealt = [hall.at[site].share(keys) for site in hall.sites]
    if kind is Shares:
        return dealt[0], hall.setup.collect_shares
    for item in dealt:
        hall.setup.collect_shares(item)
    if kind is SealedInbox:
        return hall.inbox("site00"), lambda inbox: hall.at["site00"].mask(hall.vectors["site00"], ASK, inbox)
    parts = [hall.masked(site) for site in hall.sites]
    for part in parts[:-1] if kind is MaskedInput else parts:
        hall.coordinator.collect_masked(part)
    if kind is MaskedInput:
        return parts[-1], hall.coordinator.collect_masked
    return _closed(hall, kind)


def _closed(hall: Hall, kind: type[Message]) -> tuple[Message, Callable[[Any], object]]:
    request = hall.request(silent=["site00"])
    agreement = hall.at["site00"].agree(request)
    if kind is Agreement:
        return agreement, hall.coordinator.collect_agreement
    if kind is Unmask:
        return request, hall.at["site00"].unmask
    return hall.at["site00"].unmask(request), hall.coordinator.collect_unmask


KINDS = [Commitment, Advertise, KeyRoster, Shares, SealedInbox, MaskedInput, Unmask, Agreement, UnmaskShares]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoilt_message_is_refused_by_name_and_the_honest_one_still_counts(kind: type[Message], data: st.DataObject):
    honest, read = _ready(kind)
    try:
        message = kind.from_tree(_spoilt(honest.to_tree(), data))
        read(message)
    except ProtocolError as error:
        assert error.remedy
        read(honest)
        return
    assert type(message) is kind  # what is accepted was a message: the same one, or one that only its sender can spoil


@given(tree=GARBAGE)
def test_garbage_is_no_message_of_any_kind(tree: Any):
    for kind in KINDS:
        assert refusal(kind.from_tree, tree) in {"message-format", "protocol-version"}


def test_every_kind_of_message_survives_its_journey():
    for kind in KINDS:
        honest, _ = _ready(kind)
        again = kind.from_tree(honest.to_tree())
        assert repr(again) == repr(honest)
        assert {name for name in KINDS if _reads(name, honest)} == {kind}


def _reads(kind: type[Message], message: Message) -> bool:
    try:
        return isinstance(kind.from_tree(message.to_tree()), kind)
    except ProtocolError:
        return False
