"""Table 1: equal to pandas on the pooled patients, quantiles within a bin, and no small cell to be had by subtraction."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import lung
from tests.support.plain import answer
from unisono.methods.registry import build, check
from unisono.methods.statistics.describe import Bins, Describe
from unisono.methods.statistics.describe_result import DescribeResult, say_quantile
from unisono.methods.statistics.suppression import hide_cells, hide_groups, hide_values
from unisono.study.document import NumberVariable, Study
from unisono.study.table import Table, stack

VARIABLES = {
    "age": {"type": "number", "unit": "a", "min": 0, "max": 120},
    "falls": {"type": "integer", "min": 0, "max": 20},
    "steps": {"type": "integer", "min": 0, "max": 30000},
    "sex": {"type": "category", "levels": ["male", "female"]},
    "stage": {"type": "category", "levels": ["I", "II", "III"]},
    "died": {"type": "boolean"},
}


def study(min_count: int = 1, declared: dict[str, object] | None = None, **parameters: object) -> Study:
    analysis = {"method": "describe", **parameters}
    return Study.model_validate(
        {
            "unisono": 1,
            "id": "table-one",
            "question": "Who are they?",
            "variables": declared or VARIABLES,
            "analyses": {"one": analysis},
            "release": {"min_count": min_count},
        }
    )


def patients(seed: int, n: int, gaps: float = 0.1) -> list[Table]:
    rng = np.random.default_rng(seed)
    columns = {
        "age": rng.uniform(0, 120, n),
        "falls": rng.poisson(2, n).clip(0, 20).astype(float),
        "steps": rng.integers(0, 30001, n).astype(float),
        "sex": rng.integers(0, 2, n).astype(float),
        "stage": rng.choice(3, n, p=[0.6, 0.3, 0.1]).astype(float),
        "died": (rng.random(n) < 0.3).astype(float),
    }
    for column in columns.values():
        column[rng.random(n) < gaps] = np.nan
    where = rng.integers(0, 3, n)
    return [Table({k: v[where == s] for k, v in columns.items()}, int((where == s).sum())) for s in range(3)]


def assert_plain(value: object) -> None:
    """Nothing but what JSON has: no numpy number hides in the estimates."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            assert_plain(part)
    else:
        assert type(value) in (int, float, str, bool, type(None)), type(value)


def run(document: Study, tables: list[Table]) -> DescribeResult:
    assert check(document) == []
    method = build(document, "one")
    assert isinstance(method, Describe)
    result = answer(method, tables)
    assert isinstance(result, DescribeResult)
    json.dumps(result.estimates, allow_nan=False)
    assert_plain(result.estimates)
    return result


def row(result: DescribeResult, name: str) -> dict:
    return next(v for v in result.estimates["variables"] if v["name"] == name)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(3, 300), gaps=st.sampled_from([0.0, 0.2, 0.9]))
def test_means_deviations_and_counts_equal_pandas_on_the_pooled_patients(seed: int, n: int, gaps: float) -> None:
    tables = patients(seed, n, gaps)
    result = run(study(by="sex"), tables)
    frame = pd.DataFrame(stack(tables).columns)
    frame["group"] = frame["sex"].fillna(2)
    assert result.estimates["group_n"] == [int((frame["group"] == k).sum()) for k in range(3)]
    for name in ("age", "falls", "steps"):
        found = row(result, name)
        for entry, part in [
            *zip(found["by_group"], (frame[frame["group"] == k] for k in range(3)), strict=True),
            (found["overall"], frame),
        ]:
            column = part[name].dropna()
            assert (entry["n"], entry["missing"]) == (len(column), len(part) - len(column))
            if len(column):
                assert entry["mean"] == pytest.approx(column.mean(), rel=1e-9, abs=1e-9)
                for q, value in entry["quantiles"].items():
                    if value is not None:
                        way = "linear" if entry["width"] else "inverted_cdf"
                        assert abs(value - np.quantile(column, float(q), method=way)) <= entry["width"] + 1e-9
            if len(column) > 1:
                half = (VARIABLES[name]["max"] - VARIABLES[name]["min"]) / 2
                noise = 1e-13 * n / (len(column) - 1)  # the encoding's, in the variance of the scaled values
                allowed = half * min(noise * half / max(column.std(), 1e-300), 2 * noise**0.5)
                assert entry["sd"] == pytest.approx(column.std(), rel=1e-9, abs=allowed)
    for k in range(3):
        part = frame[frame["group"] == k]
        entry = row(result, "stage")["by_group"][k]
        assert [level["n"] for level in entry["levels"]] == [int((part["stage"] == c).sum()) for c in range(3)]
        assert entry["missing"] == int(part["stage"].isna().sum())


def test_quantiles_of_an_integer_with_a_bin_for_each_value_are_exact() -> None:
    tables = patients(1, 400)
    entry = row(run(study(quantiles=[0.1, 0.33, 0.5, 0.9]), tables), "falls")["overall"]
    falls = stack(tables)["falls"]
    assert entry["width"] == 0.0
    for q, value in entry["quantiles"].items():
        assert value == np.nanquantile(falls, float(q), method="inverted_cdf")


@pytest.mark.parametrize(("bins", "top", "number"), [(2, 199, 200), (50, 20, 21), (50, 200, 41), (7, 30000, 7)])
def test_an_integer_of_few_values_has_a_bin_for_each_and_of_many_has_bins_of_whole_width(
    bins: int, top: int, number: int
) -> None:
    made = Bins.of(NumberVariable(type="integer", min=0, max=top), bins)
    assert made.number == number
    assert made.exact == (top < 200)
    assert made.width == int(made.width)
    assert made.edges[-1] > top


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(0, 20), min_size=1, max_size=60), q=st.floats(0.01, 0.99))
def test_a_quantile_of_an_integer_is_one_of_its_values(values: list[int], q: float) -> None:
    made = Bins.of(NumberVariable(type="integer", min=0, max=20), 5)
    found = made.quantile(np.bincount(made.index(np.array(values, float)), minlength=made.number), q)
    assert found in values
    assert np.mean(np.array(values) <= found) >= q - 1e-9
    assert np.mean(np.array(values) < found) <= q + 1e-9


def test_a_quantile_of_an_integer_in_wide_bins_is_never_above_its_declared_maximum() -> None:
    made = Bins.of(NumberVariable(type="integer", min=0, max=1000), 8)
    assert made.edges[-1] > 1000.5
    assert made.quantile(np.array([0, 0, 0, 0, 0, 0, 0, 100]), 0.999) == 1000


@pytest.mark.parametrize(
    ("value", "width", "said"),
    [
        (45.2, 1.44, "45"),
        (45.26, 0.1, "45.3"),
        (45.0, 0.0, "45"),
        (14523.4, 600.0, "15000"),
        (0.01234, 0.001, "0.012"),
        (-0.3, 1.0, "0"),
    ],
)
def test_a_quantile_is_printed_with_the_digits_that_its_bins_support(value: float, width: float, said: str) -> None:
    assert say_quantile(value, width) == said


def test_a_quantile_with_few_patients_beyond_it_is_not_reported() -> None:
    quantiles = row(run(study(min_count=10, quantiles=[0.01, 0.5, 0.99]), patients(2, 300, 0.0)), "age")["overall"][
        "quantiles"
    ]
    assert quantiles["0.01"] is None and quantiles["0.99"] is None and quantiles["0.5"] is not None


def test_a_lone_group_too_small_hides_another_so_that_the_total_does_not_give_it_away() -> None:
    assert hide_groups(np.array([90, 130, 3]), 10).tolist() == [True, False, True]
    assert hide_groups(np.array([90, 130, 0]), 10).tolist() == [False, False, False]


def test_a_mean_is_hidden_where_overall_minus_the_others_would_be_a_few_patients() -> None:
    hidden, overall = hide_values(np.array([4, 60, 80]), np.zeros(3, bool), 10)
    assert hidden.tolist() == [True, True, False] and not overall
    hidden, overall = hide_values(np.array([4, 0]), np.zeros(2, bool), 10)
    assert hidden.tolist()[0] and overall


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), min_size=2, max_size=4), min_size=2, max_size=4).filter(
        lambda t: len({len(r) for r in t}) == 1
    )
)
def test_no_small_cell_follows_from_the_shown_cells_and_totals_by_linear_algebra(table: list[list[int]]) -> None:
    cells = np.array(table)
    hidden = hide_groups(cells.sum(axis=0), 10)
    blank, overall = hide_cells(cells, hidden, 10)
    r, g = cells.shape
    equations = []  # unknowns: cells (r * g), then overall cells (r); one row an equation with a public right-hand side
    for i in range(r):
        line = np.zeros(r * g + r)
        line[i * g : (i + 1) * g], line[r * g + i] = 1, -1
        equations.append(line)
        if not overall[i]:
            equations.append(np.eye(r * g + r)[r * g + i])
        for j in range(g):
            if not blank[i, j]:
                equations.append(np.eye(r * g + r)[i * g + j])
    for j in range(g):
        if not hidden[j]:
            equations.append(np.array([1.0 if k < r * g and k % g == j else 0.0 for k in range(r * g + r)]))
    equations.append(np.array([0.0] * (r * g) + [1.0] * r))
    system = np.array(equations)
    rank = np.linalg.matrix_rank(system)
    for i in range(r):
        for j in range(g):
            if 0 < cells[i, j] < 10 and cells.sum() >= 10 and np.count_nonzero(cells) > 1:
                assert blank[i, j]
                known = np.linalg.matrix_rank(np.vstack([system, np.eye(r * g + r)[i * g + j]])) == rank
                assert not known, (cells, blank, overall)


def test_a_small_cell_that_follows_from_two_rows_and_two_columns_together_is_protected() -> None:
    cells = np.array([[0, 0, 2, 8], [0, 1, 8, 2], [0, 5, 0, 0], [0, 5, 0, 0]])
    blank, overall = hide_cells(cells, hide_groups(cells.sum(axis=0), 10), 10)
    assert overall[1]  # else: rows 0 and 1 less columns 2 and 3 are the one patient of row 1, column 1
    assert blank[1, 1]


def test_small_cells_are_blank_in_the_estimates_and_said_as_less_than_ten() -> None:
    tables = [
        Table(
            {
                "sex": np.repeat([0.0, 1.0], [90, 60]),
                "stage": np.r_[np.repeat([0.0, 2.0], [86, 4]), np.repeat([0.0, 1.0], 30)],
            },
            150,
        )
    ]
    names = {k: VARIABLES[k] for k in ("sex", "stage")}
    result = run(study(min_count=10, declared=names, by="sex"), tables)
    male = row(result, "stage")["by_group"][0]
    assert [level["n"] for level in male["levels"]] == [None, 0, None]
    assert [level["percent"] for level in male["levels"]] == [None, 0.0, None]
    table = result.summary()
    assert table.loc["stage: III, n (%)", "male"] == "<10"
    assert table.loc["stage: I, n (%)", "male"] == "not shown"
    assert table.loc["stage: II, n (%)", "female"] == "30 (50.0%)"


def test_no_percentage_gives_away_a_hidden_number_of_missing_values() -> None:
    tables = [Table({"stage": np.r_[np.zeros(86), np.ones(40), np.full(30, 2.0), np.full(4, np.nan)]}, 160)]
    result = run(study(min_count=10, declared={"stage": VARIABLES["stage"]}), tables)
    overall = row(result, "stage")["overall"]
    assert (overall["n"], overall["missing"]) == (None, None)
    assert [level["n"] for level in overall["levels"]] == [86, 40, None]
    assert [level["percent"] for level in overall["levels"]] == [None, None, None]
    assert result.summary().loc["stage: I, n (%)", "overall"] == "86"


def test_a_hidden_group_shows_nothing_and_a_note_says_how_to_get_the_others_back() -> None:
    sex = np.repeat([0.0, 1.0, np.nan], [90, 130, 3])
    tables = [Table({"sex": sex, "age": np.linspace(20, 90, 223)}, 223)]
    names = {k: VARIABLES[k] for k in ("sex", "age")}
    result = run(study(min_count=10, declared=names, by="sex"), tables)
    assert result.estimates["group_n"] == [None, 130, None]
    small = row(result, "age")["by_group"][2]
    assert (small["n"], small["mean"], small["sd"], small["quantiles"]) == (
        None,
        None,
        None,
        {"0.25": None, "0.5": None, "0.75": None},
    )
    assert "male, missing" in result.notes[0] and "inclusion rule" in result.notes[0]


def test_the_table_looks_like_a_table_one() -> None:
    data = lung.frame()
    document = lung.study(
        analyses={"one": {"method": "describe", "variables": ["age", "sex", "died", "weight_loss"], "by": "sex"}}
    )
    result = run(document, lung.tables(data))
    table = result.summary()
    women = data[data["sex"] == 1]
    assert list(table.columns) == ["male", "female", "overall"]
    assert table.loc["n", "female"] == str(len(women))
    assert table.loc["age (years), mean (SD)", "female"] == f"{women['age'].mean():.1f} ({women['age'].std():.1f})"
    assert table.loc["died, n (%)", "female"] == f"{int(women['died'].sum())} ({100 * women['died'].mean():.1f}%)"
    assert "weight_loss: missing" in table.index
    assert f"{len(data)} patients described in 3 variables, by sex" in result.headline()


def test_the_result_is_rebuilt_from_its_estimates_and_drawn() -> None:
    result = run(study(min_count=10, by="sex"), patients(3, 500))
    again = Describe.result(result.study, "one", json.loads(json.dumps(result.estimates)), notes=result.notes)
    assert again.summary().equals(result.summary())
    figure = again.plot()
    assert len(figure.axes) == 5
    for variable in result.estimates["variables"]:
        if "histogram" in variable:
            assert abs(sum(variable["histogram"]["shares"]) - 1) < 0.03


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ({"variables": ["agee"]}, "known-variables"),
        ({"variables": ["age", "age"]}, "distinct-variables"),
        ({"by": "age"}, "groups"),
        ({"by": "sexe"}, "known-variables"),
        ({"variables": ["sex"], "by": "sex"}, "described-variables"),
        ({"quantiles": [0.5, 1.0]}, "limits"),
        ({"bin": 20}, "known-keys"),
    ],
)
def test_a_wrong_parameter_is_found_when_the_study_is_checked(parameters: dict, rule: str) -> None:
    assert [problem.rule for problem in check(study(**parameters))] == [rule]
