"""SecAgg+: a random regular graph that nobody chose (rule 8), and sums on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.secagg import Asking, Hall, Town, refusal, refused, seeded, small_regular, wired
from unisono.errors import ProtocolError
from unisono.federation.tree import pack, unpack
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.graph import commitment, draw
from unisono.protection.secagg.group import group_of
from unisono.protection.secagg.keys import RunKeys, nonce_of
from unisono.protection.secagg.messages import Advertise, Commitment, KeyRoster
from unisono.protection.secagg.party import Party
from unisono.protection.secagg.setup import Drawing, SlotSetup
from unisono.protection.secagg.site import SiteSession

THREATS = ["semi-honest", "malicious"]


@pytest.fixture(params=THREATS)
def town(request: pytest.FixtureRequest) -> Iterator[Town]:
    yield Town(9, parameters=small_regular(request.param))


def signed_again(town: Town, item: Advertise, **changes: object) -> Advertise:
    """What a site that lies advertises: signed by itself."""
    changed = dataclasses.replace(item, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(changed, signature=town.keys[item.site].sign(changed.signed()))


# Sums


@pytest.mark.parametrize("threat", THREATS)
def test_forty_sites_four_dropping_at_different_messages(threat: str):
    hall = Hall(40, hide="secagg+", threat=threat)  # type: ignore[arg-type]
    gone = [*hall.sites[3:4], *hall.sites[20:21]]
    hall.mask(dropped=gone)
    silent = [hall.sites[0], hall.sites[39]]
    hall.unmask(silent=silent)
    np.testing.assert_array_equal(hall.coordinator.open(), hall.total(set(hall.sites) - set(gone)))
    assert hall.coordinator.dropped == tuple(sorted(gone))


def test_a_site_masks_deals_and_unmasks_with_its_neighbours_only(town: Town):
    session = town.masked(Asking(town.sites), "slot 1")
    graph = town.drawing.graph
    assert graph is not None
    request = town.agree(session, Asking(town.sites))
    for site in town.sites:
        neighbours = set(graph.neighbours(site))
        assert len(neighbours) == 4
        assert set(session.setup.shares[site].boxes) == neighbours
        assert set(session.setup.inbox_for(site).boxes) == neighbours
        answer = town.party[site].unmask(Asking(town.sites).key, request)
        assert set(answer.self_seeds) == neighbours  # not its own, which was not counted
        assert not answer.mask_keys


def test_a_neighbourhood_that_could_not_rebuild_is_found_before_anyone_is_asked():
    town = Town(9, parameters=dataclasses.replace(small_regular("semi-honest"), t=4))
    session = town.begun(town.dealt("slot 1"), Asking(town.sites))
    victim = "site00"
    graph = town.drawing.graph
    assert graph is not None
    gone = graph.neighbours(victim)[0]
    for site in town.sites:
        if site != gone:
            session.collect_masked(town.mask(session, Asking(town.sites), site))
    error = refused(session.unmask_request)
    assert error.rule == "enough-survivors"
    assert error.remedy.startswith("Nobody was asked")


def test_a_site_most_of_whose_neighbours_dealt_nothing_does_not_mask(town: Town):
    setup = town.dealt("slot 1")
    graph = town.drawing.graph
    assert graph is not None
    victim = "site00"
    few = town.group.parameters.t - 1
    kept = {victim, *graph.neighbours(victim)[:few], *(s for s in town.sites if s not in graph.neighbours(victim))}
    inbox = dataclasses.replace(setup.inbox_for(victim), dealt=tuple(sorted(kept)))
    boxes = {sender: box for sender, box in inbox.boxes.items() if sender in kept}
    lonely = dataclasses.replace(inbox, boxes=boxes)
    assert refusal(town.party[victim].mask, Asking(town.sites), "slot 1", lonely, lambda: town.vectors[victim]) == (
        "enough-survivors"
    )


def test_a_coordinator_restored_after_a_crash_draws_nothing_again():
    hall = Hall(33, hide="secagg+")
    hall.mask(dropped=["site08"])
    stored = unpack(pack(hall.coordinator.state_tree()))
    again = AggregatorSession.restore(stored, hall.roster)
    assert again.setup.drawing.graph == hall.setup.drawing.graph
    assert again.setup.drawing.seed == hall.seed
    hall._coordinator = again
    hall.unmask()
    np.testing.assert_array_equal(again.open(), hall.total(set(hall.sites) - {"site08"}))
    damaged = {**stored, "setup": {**stored["setup"], "seed": None}}
    assert refusal(AggregatorSession.restore, damaged, hall.roster) == "graph-nonces"
    fewer = {**stored["setup"]["group"]["parameters"], "degree": 2}
    damaged = {**stored, "setup": {**stored["setup"], "group": {**stored["setup"]["group"], "parameters": fewer}}}
    assert refusal(AggregatorSession.restore, damaged, hall.roster) == "stored-sum"


def test_a_forged_key_stops_every_neighbour_and_with_them_the_sum():
    # A site checks the signatures of those it masks with; the others are checked by *their* neighbours. In the malicious
    # setting fewer may be lost than a site has honest neighbours, so no sum can be made around a forged site.
    town = Town(9, parameters=small_regular("malicious"))
    town.dealt("slot 1")  # the graph is known
    setup = town.advertised("slot 2")
    victim = "site04"
    forged = dataclasses.replace(setup.advertised[victim], mask_key=bytes([9] * 32))
    items = tuple(forged if item.site == victim else item for item in setup.key_roster().advertised)
    willing = []
    for site in town.sites:
        try:
            town.party[site].share(KeyRoster("run 1", "slot 2", items))
            willing.append(site)
        except ProtocolError as error:
            assert error.rule in {"own-keys", "signed-keys"}
    assert town.drawing.graph is not None
    assert set(willing) == set(town.sites) - {victim, *town.drawing.graph.neighbours(victim)}
    assert len(willing) < town.group.parameters.least_survivors


# The graph, the same everywhere and chosen by nobody (rule 8)


def test_every_site_and_the_coordinator_draw_the_same_graph(town: Town):
    setup = town.dealt("slot 1")
    nonces = {item.nonce for item in setup.advertised.values()}
    assert len(nonces) == 9
    graphs = {town.party[site]._graph for site in town.sites}
    assert graphs == {town.drawing.graph}
    assert town.drawing.seed is not None
    assert town.drawing.graph == draw(town.sites, town.group.parameters, town.drawing.seed)
    assert all(memory.written[:2] == ["drawing", "graph"] for memory in town.memory.values())


def test_a_nonce_cannot_be_foreseen_and_is_the_same_however_often_it_is_asked_for():
    secret = seeded("identity")(32)
    again = {nonce_of(secret, run, group) for run in ("r", "r2") for group in ("g", "g2") for _ in range(3)}
    assert len(again) == 4
    assert secret not in again
    town = Town(9, parameters=small_regular("malicious"))
    first = town.party["site00"].commit()
    town.restart("site00")
    assert town.party["site00"].commit() == first


@pytest.mark.parametrize("change", [{"nonce": b"\x01" * 32}, {"nonce": b""}])
def test_a_nonce_that_is_not_the_committed_one_is_refused_and_its_site_named(town: Town, change: dict[str, object]):
    setup = town.advertised("slot 1")
    liar = signed_again(town, setup.advertised["site03"], **change)
    keys = KeyRoster("run 1", "slot 1", tuple({**setup.advertised, "site03": liar}[site] for site in town.sites))
    for site in ("site00", "site08"):
        error = refused(town.party[site].share, wired(keys))
        assert error.rule == "graph-nonces"
        if change["nonce"]:
            assert "site03" in error.what
            assert error.evidence["nonce"] == liar.nonce.hex()
            assert error.evidence["commitment"] == town.drawing.commitments["site03"].commitment.hex()
        assert town.party[site]._graph is None
    setup.advertised["site03"] = liar
    assert refusal(setup.key_roster) == "graph-nonces"


def test_no_nonce_is_revealed_before_every_commitment_is_there(town: Town):
    items = tuple(wired(town.party[site].commit()) for site in town.sites)
    party = town.party["site00"]
    stranger = dataclasses.replace(items[8], site="stranger")
    forged = dataclasses.replace(items[8], commitment=bytes(32))
    other_run = dataclasses.replace(items[8], run="run 2")
    other_group = dataclasses.replace(items[8], group="f" * 64)
    for wrong, rule in [
        ((), "graph-nonces"),
        (items[:8], "graph-nonces"),
        ((*items, items[0]), "graph-nonces"),
        ((*items[:8], stranger), "pinned-roster"),
        ((*items[:8], forged), "signed-keys"),
        ((*items[:8], other_run), "other-slot"),
        ((*items[:8], other_group), "pinned-roster"),
    ]:
        assert refusal(party.advertise, "slot 1", "", wrong) == rule
        assert not town.memory["site00"].drawings
        assert not party._slots
    assert party.advertise("slot 1", "", items).nonce == nonce_of(
        town.keys["site00"].to_bytes(), "run 1", town.group.digest
    )


def test_commitments_that_change_after_they_were_shown_are_refused_after_a_restart_too(town: Town):
    town.advertised("slot 1")
    secret = bytes(32)
    value = commitment("run 1", town.group.digest, "site08", secret)
    named = ("site08", "run 1", town.group.digest, value)
    second = Commitment(*named, town.keys["site08"].sign(Commitment(*named, b"").signed()))
    others = (*town.drawing.all_commitments()[:8], second)
    town.restart("site00")
    error = refused(town.party["site00"].advertise, "slot 2", "", others)
    assert error.rule == "graph-nonces"
    assert error.evidence["first"] != error.evidence["second"]
    assert town.party["site00"].advertise("slot 2", "", town.drawing.all_commitments()).slot == "slot 2"
    # The coordinator does not take a second commitment of a site either; the same one again is nothing new.
    town.drawing.collect_commitment(town.drawing.commitments["site08"])
    error = refused(town.drawing.collect_commitment, second)
    assert error.rule == "graph-nonces"
    assert error.evidence["second"] == value.hex()
    assert town.drawing.commitments["site08"].commitment != value


def test_a_restarted_site_knows_its_graph_from_its_disk(town: Town):
    np.testing.assert_array_equal(town.opened(Asking(town.sites), "slot 1"), town.total(town.sites))
    graph = town.drawing.graph
    town.restart(*town.sites)
    town.drawing.commitments.clear()  # the coordinator was restarted as well, and has the seed only
    setup = SlotSetup(town.drawing, "slot 2")
    for site in town.sites:
        setup.collect_advertise(wired(town.party[site].advertise("slot 2")))
    keys = setup.key_roster()
    for site in town.sites:
        setup.collect_shares(town.party[site].share(keys))
        assert town.party[site]._graph == graph


def test_a_site_restarted_before_the_graph_was_drawn_draws_the_same_in_the_next_slot(town: Town):
    town.advertised("slot 1")
    town.restart("site04")
    np.testing.assert_array_equal(town.opened(Asking(town.sites), "slot 2"), town.total(town.sites))
    assert town.party["site04"]._graph == town.drawing.graph


def test_a_seed_is_of_no_use_for_another_set_of_sites(town: Town):
    # Found by attack: who knows the seed could choose which sites take part, so that a victim's neighbours are its own.
    town.dealt("slot 1")
    fewer = town.sites[:8]
    parameters = dataclasses.replace(town.group.parameters, n=8)
    group = group_of("run 1", 0, fewer, town.roster, parameters)
    party: Party[Asking] = Party("site00", town.keys["site00"], group, town.memory["site00"])
    assert refusal(party.advertise, "slot 2") == "graph-nonces"
    assert party._graph is None


def test_a_graph_that_the_coordinator_drew_otherwise_fits_nobodys_boxes(town: Town):
    setup = town.advertised("slot 1")
    keys = setup.key_roster()
    other = Drawing(town.group)
    other.restore(bytes(32))
    liar = SlotSetup(other, "slot 1")
    liar.advertised, liar._keys = setup.advertised, keys
    shares = [town.party[site].share(keys) for site in town.sites]
    assert {refusal(liar.collect_shares, item) for item in shares if _moved(town, other, item.site)} == {"sealed-inbox"}
    for item in shares:
        liar.shares[item.site] = item
    ask = Asking(town.sites)
    for site in town.sites:
        boxes = {s: bytes(160) for s in other.graph.neighbours(site)} if other.graph else {}
        inbox = dataclasses.replace(liar.inbox_for(site), boxes=boxes)
        rule = "sealed-inbox" if _moved(town, other, site) else "sealed-box"
        assert refusal(town.party[site].mask, ask, "slot 1", inbox, lambda: np.zeros(5, np.uint64)) == rule


def _moved(town: Town, other: Drawing, site: str) -> bool:
    assert town.drawing.graph is not None
    assert other.graph is not None
    return town.drawing.graph.neighbours(site) != other.graph.neighbours(site)


def test_shares_are_not_dealt_before_there_is_a_graph():
    hall = Hall(40, hide="secagg+")
    run_keys = RunKeys(hall.run, seeded("e"))
    site = SiteSession("site00", hall.keys["site00"], hall.group, hall.slot, run_keys)
    item = site.advertise()
    others = [hall.at[name].advertise() for name in hall.sites[1:]]
    assert refusal(site.share, KeyRoster(hall.run, hall.slot, (item, *others))) == "graph-nonces"


def test_on_the_complete_graph_nobody_needs_a_nonce():
    hall = Hall(4)
    assert Drawing(hall.group).committed
    assert all(item.nonce == b"" for item in hall.advertise().advertised)
    assert hall.at["site00"].graph == Drawing(hall.group).graph
