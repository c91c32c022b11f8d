"""Only hospitals whose keys were verified out of band count: a coordinator that invents hospitals gets no sum
(design/secure-aggregation.md, rule 3)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support import engine, steward
from tests.support.bench import Bench, refused
from tests.support.network import now
from unisono.errors import EnrolmentError, PermitError
from unisono.federation.exchange import Advertise, NewSlot
from unisono.network.agent.folder import AgentFolder, Settings
from unisono.network.agent.offer import Offer
from unisono.network.agent.steward import Desk
from unisono.network.signing import StudySignature
from unisono.network.wordcode import word_code
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site.counted import Counted, counted
from unisono.site.permit import Permit
from unisono.site.policy import Policy, simulation_policy
from unisono.study.document import Study

FIVE = ("leiden", "madrid", "padua", "turin", "utrecht")
ME = "padua"


def only(*names: str) -> Callable[[Permit], Permit]:
    """Permits that name these as verified, and no others."""
    return lambda permit: permit.model_copy(update={"verified": names})


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def made(sites: tuple[str, ...], alter: Callable[[Permit], Permit], policy: Policy | None = None) -> Bench:
        frames = {name: engine.frame(ME) for name in sites}
        folder = tmp_path / secrets.token_hex(4)
        benches.append(Bench(folder, sites=sites, alter=alter, policy=policy, frames=frames))
        return benches[-1]

    yield made
    for bench in benches:
        bench.close()


# -- the rule -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sites", "verified", "colluding", "needed", "enough"),
    [
        (3, 2, 1, 3, True),
        (3, 1, 1, 3, False),
        (4, 2, 1, 3, True),  # the fourth may be the coordinator: one colluder is what the sum is protected against
        (4, 1, 1, 3, False),
        (5, 2, 1, 4, False),  # three count, but two who do not are more than one colluder
        (5, 3, 1, 4, True),
        (5, 2, 2, 3, True),
        (10, 6, 3, 7, True),
        (10, 5, 3, 7, False),
        (4, 3, 0, 4, True),
        (4, 2, 0, 4, False),
    ],
)
def test_enough_sites_count_and_those_that_do_not_are_no_more_than_the_colluders(
    sites: int, verified: int, colluding: int, needed: int, enough: bool
) -> None:
    names = [f"site{k}" for k in range(sites)]
    study = engine.study("odds", protection={"colluding": colluding})
    found = counted(names, "site0", names[1 : 1 + verified], study, Policy())
    assert (found.needed, found.enough, found.count) == (needed, enough, 1 + verified)


def test_a_policy_that_leaves_it_to_the_coordinator_and_a_sum_that_nothing_hides_need_no_mark() -> None:
    hidden, open_ = engine.study("odds"), engine.study("odds", protection={"hide": "none"})
    trusting = Policy(trust="coordinator")
    assert counted(FIVE, ME, (), hidden, trusting).enough and counted(FIVE, ME, (), open_, Policy()).enough
    assert not counted(FIVE, ME, (), hidden, Policy()).enough
    assert "leaves that to the coordinator" in counted(FIVE, ME, (), hidden, trusting).sentence()
    assert (Policy().trust, simulation_policy().trust) == ("verified", "coordinator")


def test_one_cannot_verify_oneself_twice_and_a_stranger_counts_for_nothing() -> None:
    found = counted(("leiden", ME, "turin"), ME, (ME, "rome", "turin"), engine.study("odds"), Policy())
    assert found == Counted(("leiden", ME, "turin"), ME, ("turin",), 3)
    assert found.unverified == ("leiden",)


# -- at the gate ---------------------------------------------------------------------------------------------------------------


def test_no_key_is_made_and_nothing_computed_for_a_sum_with_too_few_verified_sites(make: Callable[..., Bench]) -> None:
    bench = make(engine.SITES, only("turin"))
    ask = bench.totals()
    here = bench.sites[ME]
    error = refused(bench, ME, Advertise(ask.circle, NewSlot("odds/0/1", "")), PermitError, "verified-sites")
    assert "unisono site verify" in error.remedy and "leiden" in error.remedy
    refused(bench, ME, bench.bare(ask, ME), PermitError, "verified-sites")
    assert here.state.step(ask.key) is None


def test_enough_verified_sites_beside_one_that_is_not_make_a_sum(make: Callable[..., Bench]) -> None:
    four = ("leiden", "madrid", "padua", "turin")
    others = {name: tuple(site for site in four if site != name)[:2] for name in four}
    bench = make(four, lambda permit: permit.model_copy(update={"verified": others[permit.site]}))
    ask = bench.totals()
    assert (bench.opened(ask) == bench.true_sum(ask)).all()


def test_two_invented_hospitals_among_five_are_more_than_one_colluder(make: Callable[..., Bench]) -> None:
    bench = make(FIVE, only("leiden", "madrid"))
    refused(bench, ME, Advertise(bench.totals().circle, NewSlot("odds/0/1", "")), PermitError, "verified-sites")


def test_a_sum_is_not_opened_over_survivors_of_whom_too_few_are_verified(make: Callable[..., Bench]) -> None:
    """All five answered; the coordinator claims that the verified ones were lost, so that the invented one and it remain."""
    four = ("leiden", "madrid", "padua", "turin")
    bench = make(four, lambda permit: permit)
    ask = bench.totals()
    session = bench.masked(ask)
    here = bench.sites[ME]
    admitted = here._studies[bench.study.digest()]
    here._studies[bench.study.digest()] = replace(admitted, permit=only("leiden", "madrid")(admitted.permit))
    claimed = replace(session.unmask_request(), survivors=("leiden", "padua", "turin"))
    refused(bench, ME, bench.reveal(ask, claimed), PermitError, "verified-sites")


def test_the_marks_are_under_the_steward_s_signature(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make(engine.SITES, only("turin"))
    admitted = bench.sites[ME]._studies[bench.study.digest()]
    forged = admitted.permit.model_copy(update={"verified": ("leiden", "turin")})
    with pytest.raises(PermitError) as altered:
        bench.sites[ME].admit(bench.study, forged, bench.roster, bench.worker(ME))
    assert altered.value.rule == "permit-signature"


# -- at the steward's desk ----------------------------------------------------------------------------------------------------


STUDY: Study = engine.study("odds")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Of padua, with a study over four hospitals in the inbox."""
    folder = AgentFolder(tmp_path / "padua")
    folder.home.make()
    folder.keep(Settings(name=ME, address="localhost:9", ca_fingerprint="0" * 64))
    researcher = Identity.generate()
    keys = {name: Identity.generate().public for name in ("leiden", "madrid", "turin")}
    roster = Roster({**keys, ME: folder.home.identity().public})
    opened = Desk(folder)
    signature = StudySignature.make(STUDY, "rossi", researcher)
    opened.inbox.offer(Offer(STUDY, STUDY.model_dump_json(), signature, roster, datetime.now(UTC).isoformat()), now())
    yield opened
    opened.close()


def test_a_study_that_could_never_run_is_not_approved_and_says_whom_to_call(desk: Desk) -> None:
    desk.verify(["turin"], "lung", "telephone", "Dr Rossi", now())
    sheet = desk.sheet("lung", None, now())
    assert (sheet.counted.count, sheet.counted.needed) == (2, 3)
    with pytest.raises(PermitError) as few:
        desk.approve(sheet, now())
    assert few.value.rule == "verified-sites"
    assert "2 of 4 sites are verified, this one included; 3 are needed" in few.value.what
    assert "unisono site verify leiden madrid --study lung" in few.value.remedy
    assert not list((desk.folder.path / "permits").glob("*")) and desk.inbox.find("lung").decision == "open"


def test_the_permit_that_is_signed_names_who_was_verified(desk: Desk) -> None:
    steward.call_everybody(desk, "lung", now())
    assert desk.sheet("lung", None, now()).permit.verified == ("leiden", "madrid", "turin")


def test_a_hospital_may_leave_it_to_the_coordinator_in_its_policy(desk: Desk) -> None:
    (desk.folder.path / "policy.json").write_text('{"trust": "coordinator"}')
    sheet = desk.sheet("lung", None, now())
    assert sheet.counted.enough and sheet.permit.verified == ()


def test_words_that_differ_mark_nobody(desk: Desk) -> None:
    roster = desk.inbox.find("lung").sites()
    other = Roster({**dict(roster), "turin": Identity.generate().public})
    with pytest.raises(EnrolmentError) as differ:
        desk.verify(["turin", "leiden"], "lung", "telephone", "Dr Rossi", now(), word_code(other.digest))
    assert differ.value.rule == "word-code-differs" and "Approve nothing" in differ.value.remedy
    assert not desk.verified().marks()
    desk.verify(["turin", "leiden"], "lung", "telephone", "Dr Rossi", now(), word_code(roster.digest).upper())
    assert set(desk.verified().marks()) == {"leiden", "turin"}


@pytest.mark.parametrize("name", [ME, "rome"])
def test_only_another_hospital_of_the_study_is_verified(desk: Desk, name: str) -> None:
    with pytest.raises(EnrolmentError) as unknown:
        desk.verify(["turin", name], "lung", "telephone", "Dr Rossi", now())
    assert unknown.value.rule == "known-sites"
    assert not desk.verified().marks()


def test_a_mark_of_another_key_under_the_same_name_does_not_count(desk: Desk) -> None:
    steward.call_everybody(desk, "lung", now())
    roster = desk.inbox.find("lung").sites()
    swapped = Roster({**dict(roster), "turin": Identity.generate().public})
    signature = StudySignature.make(STUDY, "rossi", Identity.generate())
    later = datetime(2031, 1, 1, tzinfo=UTC).isoformat()
    desk.inbox.offer(Offer(STUDY, STUDY.model_dump_json(), signature, swapped, later), now())
    assert desk.sheet("lung", None, now()).counted.unverified == ("turin",)
