"""Grids: times up, entries down, one grid for each time variable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.errors import StudyError
from unisono.study.document import Study
from unisono.study.grid import MAX_POINTS, GridRule, grid_of, grid_problems, grids

VARIABLES: dict[str, Any] = {
    "months": {"type": "number", "unit": "mo", "min": 0, "max": 60},
    "relapse": {"type": "number", "unit": "a", "min": 0, "max": 5},
    "entered": {"type": "number", "unit": "d", "min": 0, "max": 700},
    "weight": {"type": "number", "unit": "kg", "min": 0, "max": 300},
    "died": {"type": "boolean"},
}
MONTHLY = {"step": 1, "unit": "mo"}


def study(variables: dict[str, Any] | None = None, **analyses: dict[str, Any]) -> Study:
    return Study.model_validate(
        {
            "unisono": 1,
            "id": "g",
            "question": "q",
            "variables": {**VARIABLES, **(variables or {})},
            "analyses": {name: {"method": "kaplan-meier", **written} for name, written in analyses.items()},
        }
    )


def only_problem(made: Study) -> Any:
    (problem,) = grid_problems(made)
    assert problem.what
    assert problem.remedy
    with pytest.raises(StudyError, match="rule: " + problem.rule):
        grids(made)
    return problem


def test_times_go_up_entries_down_and_the_grid_stays() -> None:
    values = np.array([0.0, 0.1, 7.0, 7.1, 13.9, 14.0, np.nan])
    time, entry = GridRule("t", 7.0, 100.0, "time"), GridRule("t", 7.0, 100.0, "entry")
    np.testing.assert_array_equal(time.round_to(values), [0, 7, 7, 14, 14, 14, np.nan])
    np.testing.assert_array_equal(entry.round_to(values), [0, 0, 7, 7, 7, 14, np.nan])
    assert time.index(values).tolist() == [0, 1, 1, 2, 2, 2, -1]
    assert time.index(values).dtype == np.int64


@settings(deadline=None)
@given(
    st.sampled_from([1.0, 7.0, 0.1, 1 / 12, 30.4375, 365.25]), st.integers(0, 5000), st.sampled_from(["time", "entry"])
)
def test_a_value_a_rounding_error_beside_the_grid_is_on_it(step: float, k: int, role: Any) -> None:
    rule = GridRule("t", step, step * 6000, role)
    beside = np.array([k * step, k * step * (1 + 1e-12), k * step * (1 - 1e-12)])
    assert rule.index(beside).tolist() == [k, k, k]
    assert (rule.round_to(beside) == k * step).all()


@settings(deadline=None)
@given(st.floats(0.01, 400), st.lists(st.floats(0, 5000), min_size=1, max_size=20))
def test_rounding_moves_less_than_a_step_in_its_direction_and_only_once(step: float, values: list[float]) -> None:
    raw = np.array(values)
    slack = 1e-8 * np.maximum(raw, step)
    for role in ("time", "entry"):
        rule = GridRule("t", step, 5000.0, role)  # type: ignore[arg-type]
        moved = rule.round_to(raw) - raw if role == "time" else raw - rule.round_to(raw)
        assert (moved >= -slack).all()
        assert (moved < step + slack).all()
        np.testing.assert_array_equal(rule.round_to(rule.round_to(raw)), rule.round_to(raw))
        assert rule.index(raw).max() <= rule.points


@pytest.mark.parametrize(
    ("step", "last", "points"), [(1.0, 60.0, 60), (7.0, 1100.0, 158), (0.1, 0.3, 3), (1 / 12, 5.0, 60), (90.0, 60.0, 1)]
)
def test_the_points_reach_the_variables_maximum(step: float, last: float, points: int) -> None:
    assert GridRule("t", step, last, "time").points == points


def test_the_step_is_in_the_variables_own_unit() -> None:
    made = study(a={"time": "relapse", "event": "died", "grid": MONTHLY})
    assert grids(made) == {"relapse": GridRule("relapse", 1 / 12, 5.0, "time")}
    assert grids(made)["relapse"].points == 60


def test_an_analysis_without_a_grid_inherits_it() -> None:
    made = study(curves={"time": "months", "grid": MONTHLY}, effect={"time": "months"})
    assert grid_of(made, "effect") == grid_of(made, "curves") == GridRule("months", 1.0, 60.0, "time")


def test_an_entry_is_rounded_down_on_the_times_grid_in_its_own_unit() -> None:
    made = study(a={"time": "months", "entry": "entered", "grid": MONTHLY})
    assert grids(made)["entered"] == GridRule("entered", 30.4375, 700.0, "entry")


def test_the_same_grid_in_two_spellings_is_one_grid() -> None:
    made = study(a={"time": "relapse", "grid": MONTHLY}, b={"time": "relapse", "grid": {"step": 30.4375, "unit": "d"}})
    assert grid_problems(made) == []


def test_an_analysis_without_time_needs_no_grid() -> None:
    made = study(a={"outcome": "died"})
    assert grids(made) == {}
    with pytest.raises(StudyError, match="no time variable"):
        grid_of(made, "a")


def test_what_is_no_number_variable_is_left_to_the_method() -> None:
    assert grid_problems(study(a={"time": "died"}, b={"time": "nobody"}, c={"time": ["months"]})) == []


def test_survival_needs_a_declared_grid() -> None:
    problem = only_problem(study(a={"time": "months"}))
    assert (problem.path, problem.rule) == (("analyses", "a"), "survival-grid")
    assert "declared grid" in problem.what


def test_two_grids_for_one_time_are_refused() -> None:
    problem = only_problem(
        study(a={"time": "months", "grid": MONTHLY}, b={"time": "months", "grid": {"step": 3, "unit": "mo"}})
    )
    assert (problem.path, problem.rule) == (("analyses", "b", "grid"), "one-grid")


@pytest.mark.parametrize(
    ("analysis", "path", "rule"),
    [
        ({"time": "months", "grid": {"step": 1, "unit": "kg"}}, ("grid", "unit"), "grid-unit"),
        ({"time": "months", "grid": {"step": 1, "unit": "month"}}, ("grid", "unit"), "known-units"),
        ({"time": "months", "grid": {"step": 0, "unit": "mo"}}, ("grid", "step"), "limits"),
        ({"time": "months", "grid": {"stepp": 1, "step": 1, "unit": "mo"}}, ("grid", "stepp"), "known-keys"),
        ({"time": "months", "grid": 1}, ("grid",), "types"),
        ({"time": "months", "entry": "weight", "grid": MONTHLY}, ("entry",), "grid-unit"),
        ({"time": "months", "entry": "months", "grid": MONTHLY}, ("entry",), "one-grid"),
    ],
)
def test_an_impossible_grid_is_named_where_it_stands(
    analysis: dict[str, Any], path: tuple[str, ...], rule: str
) -> None:
    problem = only_problem(study(a=analysis))
    assert (problem.path, problem.rule) == (("analyses", "a", *path), rule)


def test_one_entry_of_two_times_on_two_grids_is_refused() -> None:
    made = study(
        a={"time": "months", "entry": "entered", "grid": MONTHLY},
        b={"time": "relapse", "entry": "entered", "grid": {"step": 1, "unit": "a"}},
    )
    assert only_problem(made).path == ("analyses", "b", "entry")


@pytest.mark.parametrize(("low", "high", "path"), [(-1, 60, "min"), (0, 2 * MAX_POINTS, "max"), (-5, -1, "min")])
def test_a_time_begins_at_zero_and_its_grid_is_no_finer_than_it_must_be(low: float, high: float, path: str) -> None:
    variables = {"months": {"type": "number", "unit": "mo", "min": low, "max": high}}
    found = grid_problems(study(variables, a={"time": "months", "grid": MONTHLY}))
    assert (found[0].path, found[0].rule) == (("variables", "months", path), "grid-range")
