"""Two questions that differ by a few patients, or by a hospital, would show those few: the site refuses the second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import engine
from tests.support.bench import Bench
from unisono.errors import DisclosureRefusal
from unisono.site.near_twins import differing
from unisono.study.document import Study

ME = "turin"


def asked(folder: Path, *, cut: int = 0, sites: tuple[str, ...] = engine.SITES, study: Study | None = None) -> None:
    """The logistic model's first sum, over a cohort in which this hospital has `cut` patients fewer, in a study of its
    own; answered, or refused."""
    frames = {site: engine.frame(site) for site in sites}
    frames[ME] = frames[ME].iloc[cut:]
    ages = {"age": {"type": "number", "unit": "a", "min": 18, "max": 100 + cut}}
    study = study or engine.study("odds", id=f"without-{cut}", variables={**engine.lung.DOCUMENT["variables"], **ages})
    bench = Bench(folder, study, sites, frames=frames)
    try:
        bench.opened(bench.totals())
    finally:
        bench.close()


def twin(folder: Path, **changes: Any) -> DisclosureRefusal:
    with pytest.raises(DisclosureRefusal) as refused:
        asked(folder, **changes)
    assert refused.value.rule == "near-twin"
    return refused.value


def test_the_same_cohort_in_another_study_is_answered(tmp_path: Path) -> None:
    asked(tmp_path)
    asked(tmp_path, study=engine.study("odds", id="again", question="The same, asked by others?"))


@pytest.mark.parametrize("cut", [1, 9])
def test_a_cohort_that_differs_by_fewer_patients_than_the_rule_is_refused(tmp_path: Path, cut: int) -> None:
    asked(tmp_path)
    error = twin(tmp_path, cut=cut)
    assert error.where == f"site {ME}"
    assert "fewer than 10" in error.what


@pytest.mark.parametrize("cut", [1, 9])
def test_also_when_the_smaller_cohort_was_asked_first(tmp_path: Path, cut: int) -> None:
    asked(tmp_path, cut=cut)
    twin(tmp_path)


def test_a_cohort_that_differs_by_ten_is_answered(tmp_path: Path) -> None:
    asked(tmp_path)
    asked(tmp_path, cut=10)
    twin(tmp_path, cut=11)  # by eleven from the first, but by one from the second


def test_one_variable_more_in_the_study_does_not_hide_a_twin(tmp_path: Path) -> None:
    asked(tmp_path)
    variables = {**engine.lung.DOCUMENT["variables"], "old": {"type": "boolean", "derive": "age >= 60"}}
    twin(tmp_path, cut=3, study=engine.study("odds", variables=variables))


def test_an_inclusion_rule_over_another_variable_does_not_hide_a_twin(tmp_path: Path) -> None:
    """A rule that leaves out three patients of this hospital, by a variable that the analysis does not read. The count of
    patients along the inclusion rules would show them too."""
    frames = {site: engine.frame(site).fillna({"weight_loss": 0.0}) for site in engine.SITES}
    heavy = sorted(frames[ME]["weight_loss"])[-3]
    rules: tuple[list[str], list[str]] = ([], [f"not (weight_loss >= {heavy:.6f})"])
    for include in rules:
        study = engine.study("odds", id=f"rules-{len(include)}", cohort={"include": include})
        bench = Bench(tmp_path, study, frames=frames)
        for ask in (bench.totals(method="cohort", contribution="flow", step=0), bench.totals()):
            if not include:
                bench.opened(ask)
                continue
            with pytest.raises(DisclosureRefusal) as refused:
                bench.opened(ask)
            assert refused.value.rule == "near-twin"
        bench.close()


def test_table_1_and_a_model_over_the_same_variables_are_no_twins(tmp_path: Path) -> None:
    """They differ by the few patients with a missing value, whom the cohort step counts in any case."""
    study = engine.load(
        {
            **engine.lung.DOCUMENT,
            "analyses": {
                "table": {"method": "describe", "variables": ["died", "age", "sex"]},
                "odds": engine.ANALYSES["odds"],
            },
        },
        engine.check,
    )
    data = engine.hospitals()
    few = engine.frame(ME)
    few.loc[:2, "age"] = np.nan
    data[ME] = engine.SiteData(few)
    found = engine.estimates(engine.run(study, tmp_path, data=data))
    assert found["table"]["n"] == found["odds"]["n"] + 3


def test_a_study_that_may_go_on_without_a_site_may_also_be_asked_without_it(tmp_path: Path) -> None:
    leaving = engine.study("odds", participation={"on_dropout": "continue"})
    asked(tmp_path, study=leaving)
    asked(tmp_path, study=leaving, sites=("leiden", "madrid", "turin"))
    twin(tmp_path, study=leaving, sites=("leiden", "padua", "turin"))


def test_the_same_patients_over_one_site_fewer_are_refused(tmp_path: Path) -> None:
    asked(tmp_path)
    error = twin(tmp_path, sites=("leiden", "madrid", "turin"))
    assert "padua" in error.what


def test_and_over_one_site_more(tmp_path: Path) -> None:
    asked(tmp_path, sites=("leiden", "madrid", "turin"))
    twin(tmp_path)


def test_a_twin_among_patients_who_are_alike_is_found(tmp_path: Path) -> None:
    """Two patients with the same values: leaving one of them out still shows that one."""
    frames = {site: engine.frame(site) for site in engine.SITES}
    frames[ME] = pd.concat([frames[ME], frames[ME].iloc[:1]], ignore_index=True)
    for k, expected in enumerate(("answered", "refused")):
        bench = Bench(tmp_path, engine.study("odds", id=f"study-{k}"), frames=frames)
        if expected == "answered":
            bench.opened(bench.totals())
        else:
            with pytest.raises(DisclosureRefusal):
                bench.opened(bench.totals())
        bench.close()
        frames[ME] = engine.frame(ME)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6)), st.lists(st.integers(0, 6)))
def test_differing_counts_the_symmetric_difference_of_two_multisets(one: list[int], other: list[int]) -> None:
    expected = sum(abs(one.count(v) - other.count(v)) for v in {*one, *other})
    assert differing(np.sort(np.array(one, np.uint64)), np.sort(np.array(other, np.uint64))) == expected
