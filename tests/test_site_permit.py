"""A permit is signed, covers exactly one document and one roster, and is kept whole; what it does not cover is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine
from tests.support.bench import Bench, refused
from tests.support.engine import estimates, run, study
from unisono.errors import PermitError, PolicyRefusal, ProtocolError, StorageError, UnisonoError
from unisono.federation.contribution import Facts
from unisono.federation.exchange import Advertise, NewSlot, Share, SlotLost
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site.agent import Site
from unisono.site.data.snapshot import freeze
from unisono.site.home import Home
from unisono.site.permit import Permit, allowances, propose
from unisono.site.policy import Policy, simulation_policy
from unisono.site.worker import LocalWorker

NOW = datetime(2024, 6, 7, tzinfo=UTC)
ME = "turin"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / ME)


def roster_with(home: Home) -> Roster:
    others = {name: Identity.from_bytes(bytes([k]) * 32).public for k, name in enumerate(("leiden", "padua"), 1)}
    return Roster({**others, ME: home.identity().public})


def path_of(home: Home) -> Path:
    return home.path / "permits" / "lung.json"


def kept(home: Home) -> Permit:
    permit = propose(study("odds"), roster_with(home), ME, NOW).signed(home.identity())
    home.keep(permit)
    return permit


def test_a_permit_lists_every_contribution_that_the_study_may_ask_for() -> None:
    named = {(a.analysis, a.method, a.contribution) for a in allowances(study("odds", "curves"))}
    assert named == {
        ("odds", "cohort", "flow"),
        ("odds", "glm", "totals"),
        ("odds", "glm", "normal_equations"),
        ("curves", "cohort", "flow"),
        ("curves", "kaplan-meier", "counts"),
    }


def test_a_permit_is_found_again_as_it_was_signed(home: Home) -> None:
    permit = kept(home)
    assert home.permit(study("odds"), roster_with(home)) == permit
    assert permit.signed_by(home.identity())
    assert not permit.signed_by(Identity.from_bytes(b"x" * 32))


def test_a_permit_is_for_one_document_and_one_roster(home: Home) -> None:
    kept(home)
    assert home.permit(study("odds", question="Another?"), roster_with(home)) is None
    strangers = Roster({**roster_with(home), "leiden": Identity.from_bytes(b"y" * 32).public})
    assert home.permit(study("odds"), strangers) is None


@pytest.mark.parametrize(
    "field",
    ["study", "roster", "allowances", "argument_limits", "may_leave", "runs", "expires", "site", "signature"],
)
def test_a_tampered_permit_is_refused_and_not_replaced(home: Home, field: str) -> None:
    kept(home)
    changed: dict[str, Any] = json.loads(path_of(home).read_text())
    changed[field] = {
        "study": "0" * 64,
        "roster": {},
        "allowances": [],
        "argument_limits": {"beta": 1e9},
        "may_leave": True,
        "runs": 1000,
        "expires": "2099-01-01T00:00:00Z",
        "site": "leiden",
        "signature": "00" * 64,
    }[field]
    path_of(home).write_text(json.dumps(changed))
    with pytest.raises(PermitError) as raised:
        home.permit(study("odds"), roster_with(home))
    assert raised.value.rule == "permit-signature"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"study": 1}'])
def test_a_file_that_is_no_permit_is_refused(home: Home, content: bytes) -> None:
    kept(home)
    path_of(home).write_bytes(content)
    with pytest.raises(PermitError):
        home.permit(study("odds"), roster_with(home))


def test_a_tampered_permit_stops_a_run_before_it_begins(tmp_path: Path) -> None:
    run(study("odds"), tmp_path)
    path = tmp_path / "sites" / ME / "permits" / "lung.json"
    path.write_text(path.read_text().replace('"may_leave": false', '"may_leave": true'))
    with pytest.raises(PermitError) as raised:
        run(study("odds"), tmp_path)
    assert raised.value.rule == "permit-signature"


def test_an_expired_permit_stops_a_run_where_it_is_and_a_renewed_one_lets_it_go_on(tmp_path: Path) -> None:
    whole = estimates(run(study("odds"), tmp_path / "whole"))
    home = Home(tmp_path / "run" / "sites" / ME)
    roster = Roster({name: Home(tmp_path / "run" / "sites" / name).identity().public for name in engine.SITES})
    permit = propose(study("odds"), roster, ME, datetime(2020, 1, 1, tzinfo=UTC))
    home.keep(permit.signed(home.identity()))
    error = run(study("odds"), tmp_path / "run").outcomes["odds"].error
    assert isinstance(error, PermitError)
    assert error.rule == "permit-expired"
    assert error.where == f"site {ME}"
    home.keep(propose(study("odds"), roster, ME, datetime.now(UTC)).signed(home.identity()))
    assert estimates(run(study("odds"), tmp_path / "run")) == whole


@pytest.mark.parametrize("wrong", ["site", "signature", "study"])
def test_a_site_takes_up_no_study_under_a_permit_that_is_not_its_own_for_it(home: Home, wrong: str) -> None:
    signed_for = study("odds", question="Another?") if wrong == "study" else study("odds")
    permit = propose(signed_for, roster_with(home), "leiden" if wrong == "site" else ME, NOW)
    permit = permit.signed(Identity.from_bytes(b"z" * 32) if wrong == "signature" else home.identity())
    site = Site(ME, home.path, home.identity(), Policy())
    snapshot = freeze(engine.frame(ME), None, study("odds"), ME)
    with pytest.raises(PermitError) as raised:
        site.admit(study("odds"), permit, roster_with(home), LocalWorker(study("odds"), snapshot, home.secret()))
    assert raised.value.rule == ("permit-study" if wrong == "study" else "permit-signature")
    site.close()


@pytest.mark.parametrize(
    ("policy", "changes", "rule"),
    [
        ({}, {"protection": {"hide": "none"}}, "least-protection"),
        ({"min_sites": 4}, {}, "min_sites"),
        ({"methods": frozenset({"describe"})}, {}, "allowed-methods"),
        ({"threat": "malicious"}, {}, "least-protection"),
    ],
)
def test_a_study_below_a_sites_policy_does_not_begin(
    tmp_path: Path, policy: dict[str, Any], changes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(UnisonoError) as raised:
        run(study("odds", **changes), tmp_path, policy=Policy(**policy))
    assert raised.value.rule == rule


def test_the_policy_of_a_simulation_accepts_what_a_hospitals_does_not() -> None:
    assert "none" in simulation_policy().hide
    assert "none" not in Policy().hide


def test_private_files_are_for_their_owner_and_are_made_once(home: Home) -> None:
    first = (home.identity().to_bytes(), home.secret())
    assert (home.identity().to_bytes(), home.secret()) == first
    for name in ("identity.key", "rows.key"):
        assert (home.path / name).stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as raised:
        Home(tmp_path / "file" / "turin").identity()
    assert raised.value.rule == "durable-storage"


# -- what a permit and a policy do not cover -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "why"),
    [
        ((0.1, 1e6, 0.0), "beyond"),
        ((0.1, float("nan"), 0.0), "not finite"),
        ((0.1, float("inf"), 0.0), "not finite"),
        ((0.1, 0.2), "fit"),
        ((0.1, 0.2, 0.3, 0.4), "fit"),
    ],
)
def test_an_extreme_argument_is_refused(bench: Bench, beta: Any, why: str) -> None:
    error = refused(bench, ME, bench.bare(bench.gradient(beta=beta)), PermitError, "argument-limits")
    assert why in error.what


@pytest.mark.parametrize(
    "arguments",
    [[], [np.zeros(3)], [np.zeros(3), 0.0, 0.0], ["beta", 0.0], [[0.0, 0.0, 0.0], 0.0], [np.zeros((3, 1)), 0.0]],
)
def test_arguments_that_do_not_fit_are_refused(bench: Bench, arguments: list[Any]) -> None:
    refused(bench, ME, bench.bare(replace(bench.gradient(), arguments=arguments)), PermitError, "argument-limits")


def test_a_permit_may_tighten_a_methods_limits(tmp_path: Path) -> None:
    bench = Bench(tmp_path, alter=lambda permit: permit.model_copy(update={"argument_limits": {"beta": 0.5}}))
    refused(bench, ME, bench.bare(bench.gradient(beta=(0.1, 0.6, 0.0))), PermitError, "argument-limits")
    bench.masked(bench.gradient(beta=(0.1, 0.4, 0.0)))
    bench.close()


@pytest.mark.parametrize("facts", [Facts(-5), Facts(2**60), Facts(226, {"age": 50.0}), Facts(226, {"nobody": 0.0})])
def test_facts_that_could_not_have_been_opened_are_refused(bench: Bench, facts: Facts) -> None:
    error = bench.refusal(ME, bench.bare(bench.totals(facts=facts)))
    assert error.rule in ("argument-limits", "ask-format")


def test_a_value_that_fills_gaps_stays_within_its_variables_bounds(tmp_path: Path) -> None:
    bench = Bench(tmp_path, engine.study("odds", cohort={"missing": {"age": "mean"}}))
    refused(bench, ME, bench.bare(bench.totals(facts=Facts(226, {"age": 1e9}))), PermitError, "argument-limits")
    bench.masked(bench.totals(facts=Facts(226, {"age": 62.0})))
    bench.close()


def test_more_steps_than_the_permit_allows_are_refused(bench: Bench) -> None:
    bench.masked(bench.totals())
    again = bench.totals(step=2)
    refused(bench, ME, bench.bare(again), PermitError, "permit-steps")
    bench.masked(bench.totals(attempt=2))  # a retry is no other step


def test_more_beginnings_than_the_permit_allows_are_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, alter=lambda permit: permit.model_copy(update={"runs": 2}))
    for name in ("a", "b"):
        bench.masked(bench.totals(run=name))
    refused(bench, ME, bench.bare(bench.totals(run="c")), PermitError, "permit-runs")
    refused(bench, ME, Advertise(bench.totals(run="c").circle, NewSlot("slot")), PermitError, "permit-runs")
    bench.masked(bench.gradient(run="b"))
    bench.close()


@pytest.mark.parametrize(
    ("changes", "kind", "rule"),
    [
        ({"contribution": "prepare"}, PermitError, "permit-contribution"),
        ({"contribution": "no_such"}, PermitError, "permit-contribution"),
        ({"method": "cox"}, PermitError, "permit-contribution"),
        ({"analysis": "../../etc"}, PermitError, "permit-contribution"),
        ({"version": 2}, PermitError, "method-version"),
        ({"study": "0" * 64}, PermitError, "permit-study"),
        ({"sites": ("leiden", "madrid", "padua")}, PermitError, "permit-roster"),
        ({"sites": ("leiden", "madrid", "nowhere", "padua", "turin")}, PermitError, "permit-roster"),
        ({"sites": ("leiden", "leiden", "madrid", "padua", "turin")}, ProtocolError, "ask-format"),
        ({"sites": ("padua", "turin")}, PolicyRefusal, "min_sites"),
        ({"hide": "none"}, PolicyRefusal, "least-protection"),
        ({"hide": "ckks"}, ProtocolError, "study-protection"),
        ({"encoding": "fixed32"}, ProtocolError, "encoding"),
        ({"encoding": "fixed32", "partial": True}, ProtocolError, "encoding"),
        ({"encoding": "other"}, ProtocolError, "encoding"),
        ({"partial": True}, ProtocolError, "encoding"),
        ({"to": "padua", "receipt": "totals"}, ProtocolError, "message-operation"),
        ({"to": "padua", "receipt": "prepare"}, ProtocolError, "message-operation"),
        ({"to": "padua"}, ProtocolError, "ask-format"),
        ({"to": "nowhere", "receipt": "totals"}, ProtocolError, "ask-format"),
        ({"partial": 1}, ProtocolError, "ask-format"),
        ({"operation": "collect"}, PolicyRefusal, "allowed-operations"),
        ({"operation": "align"}, PolicyRefusal, "allowed-operations"),
        ({"operation": "give"}, ProtocolError, "ask-format"),
        ({"step": 1.5}, ProtocolError, "ask-format"),
        ({"epoch": -1}, ProtocolError, "ask-format"),
        ({"attempt": True}, ProtocolError, "ask-format"),
    ],
)
def test_an_ask_that_the_permit_or_the_policy_does_not_cover_is_refused(
    bench: Bench, changes: dict[str, Any], kind: type[UnisonoError], rule: str
) -> None:
    refused(bench, ME, bench.bare(bench.totals(**changes)), kind, rule)


def test_the_clock_ends_a_permit(bench: Bench) -> None:
    bench.masked(bench.totals())
    bench.later(days=91)
    refused(bench, ME, bench.bare(bench.gradient()), PermitError, "permit-expired")


def test_nothing_is_answered_after_a_study_was_withdrawn(bench: Bench) -> None:
    ask = bench.totals()
    session = bench.masked(ask)
    request = session.unmask_request()
    bench.sites[ME].withdraw(bench.study.digest())
    refused(bench, ME, bench.reveal(ask, request), PermitError, "permit-study")
    refused(bench, ME, bench.bare(bench.gradient()), PermitError, "permit-study")
    refused(bench, ME, bench.question(ask, session.setup, ME), PermitError, "permit-study")
    refused(bench, ME, Advertise(ask.circle, NewSlot("slot")), PermitError, "permit-study")
    with pytest.raises(SlotLost):
        bench.send(ME, Share(ask.circle, session.setup.key_roster()))


def test_a_study_that_would_release_smaller_cells_than_the_policy_allows_is_refused() -> None:
    small = study(release={"min_sites": 3, "min_count": 5})
    with pytest.raises(PolicyRefusal) as refusal:
        Policy().check_study(small)
    assert refusal.value.rule == "min_count"
    Policy(min_released=5).check_study(small)
    simulation_policy().check_study(small)
