"""Two questions that differ by a few patients, or by a hospital, would show those few: the site refuses the second."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import engine
from tests.support.bench import Bench
from tests.support.methods import OfOne, installed
from unisono.errors import DisclosureRefusal, UnisonoError
from unisono.federation.contribution import Declaration, Facts, contribution
from unisono.methods.base import PlannedAsk, Result
from unisono.methods.registry import check
from unisono.protection.leaves import moment
from unisono.site.near_twins import differing
from unisono.site.policy import simulation_policy
from unisono.study.document import Study
from unisono.study.load import load

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


# -- splits of a cohort ---------------------------------------------------------------------------------------------------


class Splitting(OfOne):
    """Holds out, at `ME`, the rows that `chosen` says for its analysis; elsewhere the first twelve."""

    name = "test-splitting"
    kin = "test-splitting"
    chosen: ClassVar[dict[str, list[int] | range]] = {}

    def held_out(self, data: NDArray[np.float64]) -> NDArray[np.bool_]:
        mask = np.zeros(len(data), np.bool_)
        mask[list(Splitting.chosen[self.analysis] if len(data) == len(engine.frame(ME)) else range(12))] = True
        return mask

    @contribution
    def total(self, data: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The sum over those who are not held out."""
        return {"x": np.asarray(data[~self.held_out(data)].sum())}

    @total.declares
    def _(self, facts: Facts) -> Declaration:
        return Declaration({"x": moment((), 1e9, "sum")})

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.total, (), 1),)

    async def run(self, federation: Any) -> Result:
        found = await federation.sum(self.total)
        return self.result(self.study, self.analysis, {"x": float(found["x"])})


def split_in_turn(folder: Path, **chosen: list[int] | range) -> list[UnisonoError | None]:
    """The errors of analyses that hold out one choice of rows after the other."""
    Splitting.chosen = dict(chosen)
    variables = ("age", "time")
    analyses = {n: {"method": Splitting.name, "variable": variables[k % 2]} for k, n in enumerate(chosen)}
    with installed(Splitting):
        finished = engine.run(load({**engine.lung.DOCUMENT, "analyses": analyses}, check), folder)
    return [finished.outcomes[name].error for name in chosen]


def test_the_same_split_is_answered_for_other_variables_and_another_that_differs_by_a_few_is_refused(
    tmp_path: Path,
) -> None:
    first, again, near, far = split_in_turn(tmp_path, a=range(12), b=range(12), c=[*range(11), 12], d=range(20, 32))
    assert first is again is far is None
    assert isinstance(near, DisclosureRefusal)
    assert near.rule == "near-twin"
    assert near.where == f"site {ME}"


def test_a_few_held_out_after_all_were_fitted_on_are_refused_and_many_are_not(tmp_path: Path) -> None:
    none, few, many = split_in_turn(tmp_path, a=[], b=range(4), c=range(12))
    assert none is many is None
    assert isinstance(few, DisclosureRefusal)


def test_data_is_split_in_so_many_ways_and_no_more(tmp_path: Path) -> None:
    ways = {f"a{k:02}": sorted((11 * k + i) % len(engine.frame(ME)) for i in range(11)) for k in range(3)}
    strict = simulation_policy().model_copy(update={"splits": 2})
    Splitting.chosen = dict(ways)
    analyses = {name: {"method": Splitting.name, "variable": "age"} for name in ways}
    with installed(Splitting):
        study = load({**engine.lung.DOCUMENT, "analyses": analyses}, check)
        finished = engine.run(study, tmp_path, policy=strict)
    *answered, last = (finished.outcomes[name].error for name in ways)
    assert answered == [None, None]
    assert isinstance(last, DisclosureRefusal)
    assert last.rule == "splits"
