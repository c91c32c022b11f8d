"""What a run must meet with a clear error and nothing lost: the issue's list, as far as it concerns runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support import engine, training
from tests.support.engine import SITES, estimates, frame, hospitals, records, run, study
from unisono.cli.sites import parse_sites
from unisono.engines.embedded.run import Settings, SiteData, run_study
from unisono.errors import (
    DataError,
    DisclosureRefusal,
    MethodError,
    ParticipationError,
    StorageError,
    StudyError,
    UnisonoError,
)
from unisono.federation.events import Event


def with_frames(change: Callable[[pd.DataFrame, str], pd.DataFrame]) -> dict[str, SiteData]:
    return {site: SiteData(change(frame(site), site)) for site in SITES}


def stopped(out: Path, analysis: str, data: dict[str, SiteData] | None = None, **changes: Any) -> UnisonoError:
    """The error of an analysis: it says what, which rule, and what to do."""
    error = run(study(analysis, **changes), out, data=data).outcomes[analysis].error
    assert error is not None
    assert error.what
    assert error.remedy
    assert "Traceback" not in str(error)
    return error


# -- sites ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("hide", ["secagg", "none"])
def test_one_or_two_sites_are_too_few_and_told_so_before_anything_is_made(
    tmp_path: Path, number: int, hide: str
) -> None:
    with pytest.raises(ParticipationError) as raised:
        run(study("odds", protection={"hide": hide}), tmp_path / "out", data=hospitals(SITES[:number]))
    assert raised.value.rule == "min_sites"
    assert not (tmp_path / "out").exists()


def test_no_site_is_told(tmp_path: Path) -> None:
    with pytest.raises(ParticipationError) as raised:
        run(study("odds"), tmp_path, data={})
    assert raised.value.rule == "min_sites"


def test_two_sites_with_one_name_are_told() -> None:
    with pytest.raises(StudyError) as raised:
        parse_sites(["padua=a.csv", "turin=b.csv", "padua=c.csv"], None)
    assert raised.value.rule == "distinct-sites"
    assert "padua" in raised.value.what


def test_a_site_with_fewer_patients_than_the_rule_is_named_and_its_number_is_not(tmp_path: Path) -> None:
    data = with_frames(lambda f, site: f.head(7) if site == "turin" else f)
    error = stopped(tmp_path, "curves", data)
    assert isinstance(error, DisclosureRefusal)
    assert error.rule == "enough-patients"
    assert error.where == "site turin"
    assert " 7 " not in str(error)


def test_a_failed_analysis_does_not_stop_the_others(tmp_path: Path) -> None:
    data = with_frames(lambda f, _: f.assign(sex="male"))
    finished = run(study(), tmp_path, data=data)
    failed = {name for name, outcome in finished.outcomes.items() if outcome.error is not None}
    assert failed == {"effect", "odds"}
    assert finished.outcomes["table"].answer is not None


# -- covariates and outcomes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("analysis", ["odds", "effect"])
def test_a_constant_covariate_is_named(tmp_path: Path, analysis: str) -> None:
    error = stopped(tmp_path, analysis, with_frames(lambda f, _: f.assign(age=60.0)))
    assert isinstance(error, MethodError)
    assert error.rule == "constant-covariate"
    assert "age" in error.what


@pytest.mark.parametrize("analysis", ["odds", "effect"])
def test_perfect_separation_is_explained(tmp_path: Path, analysis: str) -> None:
    """Every woman lived: nothing bounds how much better they did."""
    separated = with_frames(lambda f, _: f.assign(died=(f["sex"] == "male").astype(float)))
    error = stopped(tmp_path, analysis, separated)
    assert isinstance(error, MethodError)
    assert "sex[female]" in error.what
    assert error.rule in ("separation", "monotone-likelihood")


def test_a_level_of_two_patients_is_refused(tmp_path: Path) -> None:
    def two(data: pd.DataFrame, site: str) -> pd.DataFrame:
        data["sex"] = "male"
        if site == "turin":
            data.loc[:1, "sex"] = "female"
        return data

    error = stopped(tmp_path, "odds", with_frames(two))
    assert isinstance(error, MethodError | DisclosureRefusal)
    assert "female" in error.what
    assert not any(f" {word} " in error.what for word in ("2", "two"))


def test_a_fit_that_does_not_settle_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.methods.statistics.glm.MOST_ASKS", 3)
    error = stopped(tmp_path, "odds")
    assert isinstance(error, MethodError)
    assert error.rule == "convergence"
    assert len(records(tmp_path, "odds", "opened")) == 2 + 3


def test_nobody_in_the_cohort_is_told(tmp_path: Path) -> None:
    error = stopped(tmp_path, "odds", cohort={"include": ["age > 99"]})
    assert error.rule in ("empty-cohort", "enough-patients")


def test_more_parameters_than_the_patients_bear_are_told(tmp_path: Path) -> None:
    few = {site: SiteData(frame(site).head(10)) for site in SITES[:3]}
    error = stopped(tmp_path, "odds", few)
    assert error.rule in ("parameters-against-patients", "parameters-against-n")


def test_an_outcome_that_nobody_has_is_told(tmp_path: Path) -> None:
    error = stopped(tmp_path, "effect", with_frames(lambda f, _: f.assign(died=0.0)))
    assert isinstance(error, MethodError)
    assert "event" in error.what.lower()


# -- data that moves --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [1, 4])
def test_a_file_edited_in_the_middle_of_a_fit_stops_it_and_nothing_is_lost(tmp_path: Path, opened: int) -> None:
    whole = estimates(run(study("odds"), tmp_path / "whole", data=engine.files(tmp_path / "data")))
    path = tmp_path / "data" / "turin.csv"
    kept = path.read_bytes()

    def edit(event: Event) -> None:
        if event.kind == "opened" and event.step == opened:
            path.write_bytes(kept.replace(b"male", b"female", 1))

    out = tmp_path / "out"
    data = engine.files(tmp_path / "data")
    path.write_bytes(kept)
    error = run(study("odds"), out, data=data, observer=edit).outcomes["odds"].error
    assert isinstance(error, DataError)
    assert error.rule == "frozen-data"
    assert "turin" in str(error.where)
    assert len(records(out, "odds", "opened")) == opened + 1
    with pytest.raises(DataError) as refused:  # not with the edited file
        run(study("odds"), out, data=data)
    assert refused.value.rule == "frozen-data"
    path.write_bytes(kept)
    assert estimates(run(study("odds"), out, data=data)) == whole
    assert len(records(out, "odds", "opened")) == len(records(tmp_path / "whole", "odds", "opened"))


def test_a_file_that_was_only_touched_changes_nothing(tmp_path: Path) -> None:
    data = engine.files(tmp_path / "data")

    def touch(event: Event) -> None:
        if event.kind == "opened":
            (tmp_path / "data" / "turin.csv").touch()

    whole = estimates(run(study("odds"), tmp_path / "whole"))
    assert estimates(run(study("odds"), tmp_path / "out", data=data, observer=touch)) == whole


def test_a_file_that_is_taken_away_stops_the_fit(tmp_path: Path) -> None:
    data = engine.files(tmp_path / "data")
    path = tmp_path / "data" / "leiden.csv"
    kept = path.read_bytes()

    def remove(event: Event) -> None:
        if event.kind == "opened" and event.step == 3:
            path.unlink()

    error = run(study("odds"), tmp_path / "out", data=data, observer=remove).outcomes["odds"].error
    assert error is not None
    assert error.rule == "frozen-data"
    path.write_bytes(kept)
    assert estimates(run(study("odds"), tmp_path / "out", data=data))


def test_data_with_values_that_are_not_numbers_never_begins(tmp_path: Path) -> None:
    def wrong(data: pd.DataFrame, site: str) -> pd.DataFrame:
        if site == "turin":
            data["age"] = data["age"].astype(object)
            data.loc[3, "age"] = "seventy-three"
        return data

    with pytest.raises(DataError) as raised:
        run(study("odds"), tmp_path, data=with_frames(wrong))
    assert "seventy" not in str(raised.value)


def test_a_site_without_a_single_value_of_a_variable_is_told(tmp_path: Path) -> None:
    data = with_frames(lambda f, site: f.assign(age=np.nan) if site == "turin" else f)
    try:
        error = run(study("odds"), tmp_path, data=data).outcomes["odds"].error
    except UnisonoError as raised:
        error = raised
    assert error is not None
    assert "turin" in str(error)


# -- folders and settings -----------------------------------------------------------------------------------------------


def test_a_folder_that_the_system_does_not_let_be_is_not_said_to_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory") as raised:
        run(study("odds"), Path("/proc/unisono/out"))
    assert "stands in its way" not in raised.value.remedy
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as raised:
        run(study("odds"), tmp_path / "file" / "out")
    assert "a file stands in its way" in raised.value.remedy


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"local": {"batch": 0}}, "Write a whole number from 1 on, or `batch: all`."),
        ({"local": {"epochs": 1, "steps": 2}}, "Give one of `epochs`, `steps` and `seconds`"),
        ({"local": {"optimiser": "adam", "momentum": 0.5}}, "Remove `momentum`"),
        ({"validate": {"metric": "auroc"}}, "Write 'loss' or 'accuracy'."),
        ({"validate": {"metric": "acuracy"}}, "Did you mean 'accuracy'?"),
    ],
    ids=str,
)
def test_a_wrong_setting_of_a_training_says_what_is_allowed(wrong: dict[str, Any], remedy: str) -> None:
    with pytest.raises(StudyError) as raised:
        training.study(wrong)
    assert remedy in raised.value.remedy


def test_a_number_without_a_unit_is_not_read_as_one(tmp_path: Path) -> None:
    wrong = {site: SiteData(data.assign(radius=data["radius"] * 100)) for site, data in training.frames().items()}
    with pytest.raises(DataError, match=r"outside the declared bounds 0 to [0-9.]+[.:;]") as raised:
        run_study(training.study(), wrong, tmp_path, Settings())
    assert "'1'" not in raised.value.what
