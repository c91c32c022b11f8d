"""Kaplan-Meier over hospitals is Kaplan-Meier over all patients; and what is written belongs to no small group."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import median_survival_times

from tests.support import lung
from tests.support.plain import PlainFederation, answer
from unisono.errors import DataError, MethodError
from unisono.methods.survival.kaplan_meier import KaplanMeier, KaplanMeierSpec
from unisono.methods.survival.kaplan_meier_result import KaplanMeierResult
from unisono.methods.survival.product_limit import logrank, number_at_risk, product_limit
from unisono.methods.survival.released import Counts, round_positions, shown
from unisono.study.document import Study
from unisono.study.table import Table, stack

GRID = {"step": 7, "unit": "d"}
OPEN = {"min_sites": 3, "min_count": 1}
"""Nothing is hidden: for comparing every point."""


def lung_study(min_count: int = 10) -> Study:
    return lung.study(release={"min_sites": 3, "min_count": min_count})


def method(study: Study, **changes: object) -> KaplanMeier:
    written = {"time": "time", "event": "died", "by": "sex", "grid": GRID, **changes}
    return KaplanMeier(
        study, "curves", KaplanMeierSpec.model_validate({k: v for k, v in written.items() if v is not None})
    )


def on_lung(min_count: int = 10, **changes: object) -> KaplanMeierResult:
    result = answer(method(lung_study(min_count), **changes), lung.tables(lung.frame()))
    assert isinstance(result, KaplanMeierResult)
    return result


def fitted(data: pd.DataFrame, flip: bool = False) -> KaplanMeierFitter:
    return KaplanMeierFitter().fit(data["time"], 1 - data["died"] if flip else data["died"])


def by_sex() -> dict[str, pd.DataFrame]:
    data = lung.frame()
    return {"male": data[data["sex"] == 0], "female": data[data["sex"] == 1]}


@pytest.mark.parametrize("min_count", [1, 10])
def test_every_shown_point_of_every_curve_is_the_pooled_one(min_count: int) -> None:
    result = on_lung(min_count)
    for name, data in by_sex().items():
        mine = result.curve[result.curve["group"] == name]
        pooled = fitted(data)
        at = mine["time"].to_numpy()
        limits = pooled.confidence_interval_
        assert len(at) > 4
        np.testing.assert_allclose(mine["survival"], pooled.survival_function_at_times(at), rtol=1e-9)
        np.testing.assert_allclose(mine["low"], limits.iloc[:, 0].reindex(at, method="ffill"), rtol=1e-9)
        np.testing.assert_allclose(mine["high"], limits.iloc[:, 1].reindex(at, method="ffill"), rtol=1e-9)
        assert [int((data["time"] >= t).sum()) for t in at] == mine["at_risk"].tolist()


def test_without_a_release_rule_every_time_with_a_change_is_shown() -> None:
    result = on_lung(1)
    for name, data in by_sex().items():
        times = set(result.curve.loc[result.curve["group"] == name, "time"])
        assert set(data["time"]) <= times


def test_medians_with_their_limits_and_follow_up_are_the_pooled_ones() -> None:
    summary = on_lung(1).summary()
    for name, data in by_sex().items():
        pooled = fitted(data)
        low, high = median_survival_times(pooled.confidence_interval_).iloc[0]
        expected = [pooled.median_survival_time_, low, high, fitted(data, flip=True).median_survival_time_]
        assert summary.loc[name, ["median", "median_low", "median_high", "follow_up_median"]].tolist() == expected


def test_the_log_rank_test_is_the_pooled_one() -> None:
    test = on_lung().estimates["logrank"]
    data = lung.frame()
    pooled = multivariate_logrank_test(data["time"], data["sex"], data["died"])
    assert test["statistic"] == pytest.approx(pooled.test_statistic, rel=1e-9)
    assert test["p"] == pytest.approx(pooled.p_value, rel=1e-9)
    assert test["df"] == 1


def test_survival_at_chosen_times_is_the_pooled_one_also_off_the_grid() -> None:
    at = on_lung(at=[180, 364]).at()
    for name, data in by_sex().items():
        mine = at[at["group"] == name]
        np.testing.assert_allclose(mine["survival"], fitted(data).survival_function_at_times([180, 364]), rtol=1e-9)


def test_survival_where_few_are_at_risk_is_blank_and_said_so() -> None:
    result = on_lung(at=[364, 1000])
    late = result.at()[lambda t: t["time"] == 1000]
    assert late[["survival", "low", "high", "at_risk"]].isna().all(axis=None)
    assert any("1000 d is not shown" in note for note in result.notes)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), groups=st.integers(2, 4))
def test_with_delayed_entry_and_several_groups_as_lifelines(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    n = 80
    entry = rng.integers(0, 6, n)
    time = entry + rng.integers(1, 15, n)
    event = rng.integers(0, 2, n)
    exits, late = np.bincount(time, minlength=30).astype(float), np.bincount(entry, minlength=30).astype(float)
    deaths = np.bincount(time[event == 1], minlength=30).astype(float)
    curve = product_limit(deaths, number_at_risk(exits, late))
    pooled = KaplanMeierFitter().fit(time, event, entry=entry)
    if (number_at_risk(exits, late)[1:] > deaths[1:]).all():
        np.testing.assert_allclose(curve.survival, pooled.survival_function_at_times(np.arange(30)), rtol=1e-9)
    group = rng.integers(0, groups, n)
    flat = group * 30 + time
    exits_by = np.bincount(flat, minlength=groups * 30).reshape(groups, 30).astype(float)
    deaths_by = np.bincount(flat[event == 1], minlength=groups * 30).reshape(groups, 30).astype(float)
    test = logrank(deaths_by, number_at_risk(exits_by))
    expected = multivariate_logrank_test(time, group, event)
    assert test is not None
    assert test.statistic == pytest.approx(expected.test_statistic, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_however_patients_are_spread_over_hospitals_the_estimates_are_the_same_bit_for_bit(seed: int) -> None:
    data = lung.frame()
    spread = data.assign(site=np.array(lung.SITES)[np.random.default_rng(seed).integers(0, 4, len(data))])
    here, there = (answer(method(lung_study()), lung.tables(d)) for d in (data, spread))
    pooled = answer(method(lung_study()), [stack(lung.tables(data))])
    assert here.estimates == there.estimates == pooled.estimates


@settings(max_examples=60, deadline=None)
@given(
    exits=st.lists(st.integers(0, 9), min_size=5, max_size=40),
    wanted=st.sets(st.integers(0, 39), max_size=5),
    min_count=st.integers(2, 12),
)
def test_between_two_shown_points_nobody_or_enough_patients_changed(
    exits: list[int], wanted: set[int], min_count: int
) -> None:
    changes = np.array(exits, float)
    at_risk = number_at_risk(changes)
    wanted = {k for k in wanted if k < len(exits)}
    points, fixed = shown(Counts(changes, at_risk, min_count), wanted)
    assert points == sorted(set(points))
    assert fixed <= wanted & set(points)
    before = -1
    for k in points:
        moved, left = changes[before + 1 : k + 1].sum(), at_risk[max(before, 0)] - at_risk[k]
        assert at_risk[k] >= min_count
        assert moved >= min_count or (moved == 0 and k in fixed)
        assert left >= min_count or left == 0
        before = k


def test_times_of_the_study_come_before_round_times_and_those_before_the_datas_own_steps() -> None:
    changes = np.array([0.0, *[4.0] * 8, 60.0])
    counts = Counts(changes, number_at_risk(changes), 10)
    assert shown(counts, [4, 9], [0, 3, 5, 8])[1] == {0, 4, 9}
    assert shown(counts, [], [0, 3, 5, 8])[1] == {0, 5, 8}
    assert shown(counts, [9], [])[0][-1] == 9


@settings(max_examples=60, deadline=None)
@given(
    exits=st.lists(st.integers(0, 9), min_size=5, max_size=40),
    wanted=st.sets(st.integers(0, 39), max_size=5),
    ticks=st.sets(st.integers(0, 39), max_size=8),
)
def test_no_round_time_takes_the_place_of_a_time_of_the_study(
    exits: list[int], wanted: set[int], ticks: set[int]
) -> None:
    counts = Counts(np.array(exits, float), number_at_risk(np.array(exits, float)), 5)
    wanted, ticks = ({k for k in some if k < len(exits)} for some in (wanted, ticks))
    _, alone = shown(counts, wanted)
    points, fixed = shown(counts, wanted, ticks)
    assert alone <= fixed <= (wanted | ticks) & set(points)
    assert wanted & fixed - ticks <= alone
    before = -1
    for k in points:
        assert counts.between(before, k, none_too=k in fixed)
        before = k


def test_a_last_time_where_everybody_leaves_is_shown_if_enough_were_at_risk() -> None:
    time = np.r_[np.repeat(7.0 * np.arange(1, 53), 1), np.full(60, 364.0)]
    table = Table({"time": time, "died": (time < 364).astype(float)}, len(time))
    (group,) = answer(method(lung_study(), by=None, at=[180, 364]), [table]).estimates["groups"]
    pooled = KaplanMeierFitter().fit(time, time < 364).survival_function_at_times([180, 364])
    assert [row["survival"] for row in group["at"]] == pytest.approx(list(pooled))
    assert group["curve"]["time"][-1] == 364


def test_the_note_says_why_a_time_is_not_shown() -> None:
    notes = on_lung(at=[182, 189, 1000]).notes
    too_near = "fewer than 10 patients changed between it and a neighbouring shown time (or the start)."
    assert f"female: survival at 189 d is not shown: {too_near}" in notes
    assert "female: survival at 1000 d is not shown: fewer than 10 patients were at risk." in notes


@pytest.mark.filterwarnings("error")
def test_where_all_times_are_0_the_figure_is_drawn_and_a_note_says_so() -> None:
    table = Table({"time": np.zeros(60), "died": np.repeat([0.0, 1.0], 30)}, 60)
    result = answer(method(lung_study(), by=None), [table])
    assert any("All times are 0 on this grid" in note for note in result.notes)
    low, high = result.plot().axes[0].get_xlim()
    assert low < 0 < high
    assert not any("All times are 0" in note for note in on_lung().notes)


def test_a_curve_never_goes_on_where_fewer_than_min_count_are_at_risk() -> None:
    curve = on_lung().curve
    assert curve["at_risk"].min() >= 10
    for at_risk in [g["at_risk"] for g in on_lung().estimates["groups"]]:
        assert all(n is None or n >= 10 for n in at_risk)


def with_groups(sizes: dict[str, int]) -> tuple[Study, Table]:
    """A study with a category `arm` of these sizes, and its patients."""
    variables = {**lung.DOCUMENT["variables"], "arm": {"type": "category", "levels": list(sizes)}}
    study = lung.study(variables=variables)
    arm = np.repeat(np.arange(len(sizes)), list(sizes.values())).astype(float)
    rng = np.random.default_rng(1)
    columns = {
        "time": 7.0 * rng.integers(1, 40, len(arm)),
        "died": rng.integers(0, 2, len(arm)).astype(float),
        "arm": arm,
    }
    return study, Table(columns, len(arm))


def test_a_small_group_is_blank_and_so_is_the_group_it_could_be_told_from() -> None:
    study, table = with_groups({"a": 60, "b": 20, "c": 4})
    result = answer(method(study, by="arm"), [table])
    a, b, c = result.estimates["groups"]
    assert a["n"] == 60
    assert a["curve"]["time"]
    assert b["n"] is c["n"] is b["median"] is c["events"] is None
    assert b["curve"]["time"] == c["curve"]["time"] == []
    assert any("b and c" in note for note in result.notes)
    result.plot()


def test_two_groups_of_which_one_is_small_cannot_be_shown() -> None:
    study, table = with_groups({"a": 60, "b": 4})
    with pytest.raises(MethodError) as error:
        answer(method(study, by="arm"), [table])
    assert error.value.rule == "min-count"
    assert "'arm'" in error.value.remedy


def test_a_group_without_patients_is_said_to_be_empty() -> None:
    study, table = with_groups({"a": 60, "b": 30, "c": 0})
    result = answer(method(study, by="arm"), [table])
    assert result.estimates["groups"][2]["n"] == 0
    assert "Nobody is in the group 'c'." in result.notes
    assert result.estimates["logrank"]["df"] == 1


def test_a_median_in_a_tail_that_is_not_shown_is_not_shown_either() -> None:
    result = on_lung()
    male = by_sex()["male"]
    hidden = fitted(male, flip=True).median_survival_time_
    assert (male["time"] >= hidden).sum() < 10
    assert result.estimates["groups"][0]["follow_up_median"] is None
    assert any("male: the median follow-up" in note for note in result.notes)


def test_a_curve_that_halves_exactly_has_its_median_there() -> None:
    curve = product_limit(np.array([0.0, 1, 1, 1, 1, 1, 1]), np.array([10.0, 10, 9, 8, 7, 6, 5]))
    assert curve.survival[5] == pytest.approx(0.5)
    study = lung.study(release=OPEN)
    table = Table({"time": 7.0 * np.arange(1, 11), "died": np.ones(10)}, 10)
    assert answer(method(study, by=None), [table]).estimates["groups"][0]["median"] == 35.0


def test_only_counts_along_the_grid_leave_in_one_step() -> None:
    asked = method(lung_study())
    federation = PlainFederation(asked, lung.tables(lung.frame()))
    asyncio.run(asked.run(federation))  # type: ignore[arg-type]
    (planned,) = asked.plan()
    assert federation.steps == [planned.contribution.name] == ["counts"]
    assert {leaf.rule for leaf in planned.contribution.declaration(federation.facts).leaves.values()} == {"curve"}


def test_entry_at_or_after_the_end_of_follow_up_is_explained() -> None:
    variables = {**lung.DOCUMENT["variables"], "start": {"type": "number", "unit": "d", "min": 0, "max": 1100}}
    study = lung.study(
        variables=variables,
        analyses={
            "curves": {"method": "kaplan-meier", "time": "time", "event": "died", "entry": "start", "grid": GRID}
        },
    )
    table = Table({"time": np.array([7.0, 14.0]), "died": np.ones(2), "start": np.array([0.0, 14.0])}, 2)
    with pytest.raises(DataError) as error:
        method(study, by=None, entry="start").prepare(table)
    assert error.value.rule == "entry-before-exit"


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        ({"time": "tim"}, ("time",), "known-variables"),
        ({"time": "sex"}, ("time",), "variable-type"),
        ({"event": "age"}, ("event",), "variable-type"),
        ({"event": "dead"}, ("event",), "known-variables"),
        ({"by": "age"}, ("by",), "variable-type"),
        ({"by": "gender"}, ("by",), "known-variables"),
        ({"entry": "time"}, ("entry",), "variable-twice"),
        ({"at": [100, 5000]}, ("at", 1), "times-in-follow-up"),
    ],
)
def test_what_does_not_fit_the_study_is_reported_with_its_place(
    changes: dict[str, object], path: tuple[object, ...], rule: str
) -> None:
    spec = KaplanMeierSpec.model_validate({"time": "time", "event": "died", "grid": GRID, **changes})
    assert (path, rule) in [(p.path, p.rule) for p in spec.problems(lung_study())]


def assert_plain(value: object) -> None:
    """Nothing but what JSON has: no numpy number hides in the estimates."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            assert_plain(part)
    else:
        assert type(value) in (int, float, str, bool, type(None)), type(value)


def test_the_result_is_rebuilt_from_its_stored_estimates() -> None:
    result = on_lung(at=[180])
    stored = json.loads(json.dumps(result.estimates, allow_nan=False))
    assert_plain(result.estimates)
    again = KaplanMeier.result(result.study, "curves", stored, notes=result.notes)
    assert again == result
    assert again.headline() == result.headline()


def test_the_headline_says_medians_by_group_and_the_test() -> None:
    assert on_lung().headline() == (
        "Median time: 273 days for sex male (95% CI 210 to 308); 427 days for sex female (95% CI 350 to 525); log-rank p = 0.002."
    )


def test_the_figure_has_a_curve_and_a_row_of_numbers_for_each_group() -> None:
    figure = on_lung(at=[180]).plot()
    main, below = figure.axes
    assert [line.get_label() for line in main.get_lines()] == ["male", "female"]
    assert [label.get_text() for label in below.get_yticklabels()] == ["male", "female"]
    assert {text.get_text() for text in below.texts} >= {"136", "90", "–"}


@pytest.mark.parametrize(
    ("last", "step", "unit", "times"), [(60, 1, "mo", [0, 12, 24, 36, 48, 60]), (100, 7, "d", [0, 203, 406, 609])]
)
def test_numbers_at_risk_are_given_at_round_times(last: int, step: float, unit: str, times: list[float]) -> None:
    assert [k * step for k in round_positions(last, step, unit)] == times
