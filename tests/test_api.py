"""Unisono from Python: DataFrames in, results out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

import unisono
from tests.support import lung
from unisono.errors import DisclosureRefusal, StudyError


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    data = lung.frame(step=None)
    data["sex"] = data["sex"].map({0.0: "male", 1.0: "female"})
    data["died"] = data["died"].astype(bool)
    return {name: data[data["site"] == name].drop(columns="site") for name in lung.SITES}


@pytest.fixture(scope="module")
def answer(frames: dict[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> unisono.StudyResult:
    return unisono.run(lung.DOCUMENT, frames, out=tmp_path_factory.mktemp("api"))


def test_a_study_over_dataframes_equals_the_pooled_fit(answer: unisono.StudyResult) -> None:
    pooled = lung.frame()  # on the study's grid
    columns = ["time", "died", "age", "sex", "ecog", "site"]
    fit = CoxPHFitter().fit(pooled[columns], "time", "died", strata=["site"], fit_options={"precision": 1e-14})
    table = answer["effect"].coefficients
    np.testing.assert_allclose(table["coef"], fit.params_, rtol=1e-7)
    np.testing.assert_allclose(table["se"], fit.standard_errors_, rtol=1e-7)


def test_results_are_tables_figures_and_html(answer: unisono.StudyResult) -> None:
    assert list(answer) == ["curves", "effect"]
    assert isinstance(answer["effect"].summary(), pd.DataFrame)
    assert {"time", "survival"} <= set(answer["curves"].curve.columns)
    assert "data:image/png" in answer["effect"]._repr_html_()
    assert "women with advanced lung cancer" in answer._repr_html_()
    assert answer.report.exists()


def test_an_analysis_that_cannot_be_answered_raises_when_it_is_read_and_the_others_are_there(
    frames: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    tiny = {**frames, "leiden": frames["leiden"].head(6)}
    answered = unisono.run(lung.DOCUMENT, tiny, out=tmp_path)
    assert set(answered.errors) == {"curves", "effect"}
    with pytest.raises(DisclosureRefusal, match="fewer than 10 patients") as refusal:
        answered["effect"].summary()
    assert refusal.value.rule == "enough-patients"
    assert "leiden" in str(refusal.value)
    assert "fewer than 10 patients" in answered._repr_html_()


def test_an_unknown_analysis_names_those_there_are(answer: unisono.StudyResult) -> None:
    with pytest.raises(StudyError, match="effects") as error:
        answer["effects"]
    assert "curves, effect" in error.value.remedy


def test_without_a_folder_results_go_to_a_temporary_one(frames: dict[str, pd.DataFrame]) -> None:
    answered = unisono.run(lung.DOCUMENT, frames, analyses=["curves"])
    assert (answered.folder / "curves" / "result.json").exists()


def test_a_result_says_what_it_found_and_shows_no_patient(
    answer: unisono.StudyResult, frames: dict[str, pd.DataFrame]
) -> None:
    said = repr(answer)
    assert "the hazard (died)" in said
    assert len(said) < 2000
    assert "array(" not in repr(answer.completed)


@pytest.mark.parametrize(
    ("study", "sites"), [(None, {}), (lung.DOCUMENT, [1, 2, 3]), (lung.DOCUMENT, {5: pd.DataFrame()}), ("no.yaml", {})]
)
def test_what_is_no_study_or_no_sites_is_said(study: object, sites: object) -> None:
    with pytest.raises(unisono.UnisonoError) as error:
        unisono.run(study, sites)  # type: ignore[arg-type]
    assert error.value.remedy
