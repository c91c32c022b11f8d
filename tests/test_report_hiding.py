"""Who must stay and who may be lost: told before a run by `unisono study check`, and the same in the record after it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.support import lung
from unisono.cli.study import app
from unisono.errors import ProtocolError
from unisono.network.agent.sheet import limits
from unisono.protection.secagg.roster import Identity, Roster
from unisono.report import hiding
from unisono.report.record import protection_of
from unisono.site.permit import propose


def study_file(folder: Path, **changes: object) -> str:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**lung.DOCUMENT, **changes}, sort_keys=False))
    return str(path)


def said(*arguments: str) -> str:
    """What `unisono study check` prints; sentences may be folded over lines, rows of its table are not."""
    done = CliRunner().invoke(app, ["check", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def sentences(text: str) -> str:
    return " ".join(text.split())


def test_of_three_hospitals_with_one_colluding_none_may_be_lost_and_the_remedy_is_named() -> None:
    found = hiding.outlook(lung.study(), 3)
    assert (found.must_stay, found.may_be_lost) == (3, 0)
    assert found.sentence == "3 sites, 1 colluder: no drop-out is tolerated: accept none, or invite 1 more site"


def test_examples_begin_with_the_smallest_federation_that_the_study_allows() -> None:
    assert [row.sites for row in hiding.examples(lung.study())] == [3, 4, 5, 10, 20, 40]
    wide = lung.study(protection={"colluding": 5}, release={"min_sites": 4})
    assert [row.sites for row in hiding.examples(wide)] == [7, 8, 10, 20, 40]
    assert hiding.examples(wide)[0].may_be_lost == 0


@given(
    sites=st.integers(2, 60),
    colluding=st.integers(0, 5),
    hide=st.sampled_from(["secagg", "secagg+"]),
    threat=st.sampled_from(["semi-honest", "malicious"]),
)
def test_what_is_told_before_a_run_is_what_the_record_says_after_it(
    sites: int, colluding: int, hide: str, threat: str
) -> None:
    study = lung.study(protection={"hide": hide, "threat": threat, "colluding": colluding})
    try:
        before = hiding.outlook(study, sites)
    except ProtocolError as refused:
        assert refused.rule == "federation-too-small"
        assert sites < max(3, colluding + 2)
        return
    after = protection_of(study, sites)
    assert (before.graph, before.must_stay, before.may_be_lost) == (
        after.graph,
        after.must_stay,
        after.tolerated_drop_outs,
    )
    assert after.sentence == f"{before.sentence}."
    assert before.must_stay + before.may_be_lost <= sites
    assert (hide, threat, colluding) == (after.hide, after.threat, after.colluding)


def test_study_check_shows_a_few_sizes_when_it_is_not_known_who_comes(tmp_path: Path) -> None:
    text = said(study_file(tmp_path, protection={"hide": "secagg+", "threat": "malicious"}))
    assert "hidden by secagg+, against a malicious coordinator and 1 colluding hospital" in text
    rows = [line.split() for line in text.splitlines() if "graph" in line]
    assert ["40", "10-regular", "graph", "6", "32", "21", "4"] in rows
    assert ["3", "complete", "graph", "3", "3", "3", "none"] in rows
    assert "must sign: who is in a sum, before it is opened" in sentences(text)
    assert "! 3 sites, 1 colluder: no drop-out is tolerated: accept none, or invite 1 more site" in sentences(text)


def test_nobody_must_sign_where_the_coordinator_is_trusted_to_tell_all_the_same(tmp_path: Path) -> None:
    text = said(study_file(tmp_path))
    assert "must sign" not in text
    assert ["10", "complete", "graph", "6", "6", "4"] in [line.split() for line in text.splitlines()]
    assert hiding.outlook(lung.study(), 10).must_sign is None


@pytest.mark.parametrize(("threat", "signed"), [("semi-honest", False), ("malicious", True)])
def test_study_check_prints_t_and_who_must_sign(tmp_path: Path, threat: str, signed: bool) -> None:
    file = study_file(tmp_path, protection={"hide": "secagg+", "threat": threat})
    text = sentences(said(file, "--sites", "40"))
    assert f"t = {6 if signed else 2} pieces rebuild a hospital's secrets" in text
    assert ("21 hospitals must sign who is in a sum before it is opened" in text) is signed


@pytest.mark.parametrize("threat", ["semi-honest", "malicious"])
def test_study_check_warns_that_going_on_without_a_hospital_shows_its_part(tmp_path: Path, threat: str) -> None:
    changes = {"protection": {"threat": threat}, "participation": {"on_dropout": "continue"}}
    text = sentences(said(study_file(tmp_path, **changes), "--sites", "5"))
    assert "! lost before masking: after the deadline everything is computed again without it." in text
    assert "then show that hospital's part" in text
    assert "it can say so of one that was not, and threat: malicious does not prevent that" in text


@pytest.mark.parametrize(("on_dropout", "told"), [("wait", False), ("abort", False), ("continue", True)])
def test_the_stewards_sheet_says_that_a_hospital_may_be_said_to_have_left(on_dropout: str, told: bool) -> None:
    study = lung.study(participation={"on_dropout": on_dropout})
    roster = Roster({site: Identity.generate().public for site in ("leiden", "padua", "turin")})
    text = " ".join(limits(propose(study, roster, "padua", datetime(2025, 1, 1, tzinfo=UTC)), study))
    assert "A sum holds at least 3 hospitals." in text
    assert ("The coordinator alone says who left: it could say so of this hospital" in text) is told


def test_study_check_tells_who_must_stay_of_so_many(tmp_path: Path) -> None:
    text = sentences(said(study_file(tmp_path), "--sites", "5"))
    assert "5 sites, 1 colluder: 4 must stay; 1 drop-out after masking is tolerated" in text
    assert "lost before masking: the sum waits for it until the deadline" in text
    assert "!" not in text
    assert "! 3 sites, 1 colluder: no drop-out is tolerated" in sentences(said(study_file(tmp_path), "--sites", "3"))


@pytest.mark.parametrize(("sites", "rule"), [("2", "federation-too-small"), ("0", "federation-parameters")])
def test_study_check_refuses_a_federation_that_could_open_no_sum(tmp_path: Path, sites: str, rule: str) -> None:
    done = CliRunner().invoke(app, ["check", study_file(tmp_path), "--sites", sites])
    assert done.exit_code == 1
    assert isinstance(done.exception, ProtocolError)
    assert done.exception.rule == rule
    assert done.exception.remedy
    assert "1 colluder " in done.exception.what


def test_study_check_says_that_nothing_is_hidden(tmp_path: Path) -> None:
    text = sentences(said(study_file(tmp_path, protection={"hide": "none"}), "--sites", "3"))
    assert "! Nothing hides the hospitals' parts: the coordinator sees each one." in text
    assert "must stay" not in text
