"""The cohort: derived variables, inclusion rules one by one, the missing-data rule, and nothing copied in vain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.errors import DataError, StudyError
from unisono.study.cohort import derivation_order, derive, derive_and_count, flow_labels, select, source_variables
from unisono.study.document import Study
from unisono.study.table import Table

NAN = math.nan
VARIABLES: dict[str, Any] = {
    "height": {"type": "number", "unit": "m", "min": 1, "max": 2.5},
    "weight": {"type": "number", "unit": "kg", "min": 20, "max": 300},
    "age": {"type": "integer", "unit": "a", "min": 0, "max": 110},
    "sex": {"type": "category", "levels": ["male", "female"]},
    # declared before what they are made of: the order in the document does not matter
    "obese": {"type": "boolean", "derive": "bmi >= 30"},
    "bmi": {"type": "number", "unit": "kg/m2", "min": 10, "max": 80, "derive": "weight / height ** 2"},
    "decade": {"type": "integer", "min": 0, "max": 11, "derive": "age / 10"},
    "group": {"type": "category", "levels": ["young", "middle", "old"], "derive": {"variable": "age", "at": [50, 65]}},
}


def study(variables: dict[str, Any] | None = None, **cohort: Any) -> Study:
    return Study.model_validate(
        {
            "unisono": 1,
            "id": "c",
            "question": "q",
            "variables": VARIABLES if variables is None else variables,
            "cohort": cohort,
            "analyses": {"a": {"method": "describe"}},
        }
    )


def table(**columns: list[float]) -> Table:
    return Table({name: np.array(values, float) for name, values in columns.items()}, len(next(iter(columns.values()))))


def people() -> Table:
    return table(
        height=[2.0, 1.5, NAN, 2.0, 1.0],
        weight=[80, 90, 70, NAN, 300],
        age=[49, 50, 64, 65, NAN],
        sex=[0, 1, NAN, 1, 0],
    )


def test_derived_variables_come_after_what_they_are_made_of() -> None:
    order = derivation_order(study())
    assert order.index("bmi") < order.index("obese")
    assert set(order) == {"bmi", "obese", "decade", "group"}
    assert source_variables(study()) == ("height", "weight", "age", "sex")


def test_derived_values_are_their_expressions() -> None:
    full, outside = derive_and_count(people(), study())
    np.testing.assert_array_equal(full["bmi"], [20, 40, NAN, NAN, NAN])
    np.testing.assert_array_equal(full["obese"], [0, 1, NAN, NAN, NAN])
    np.testing.assert_array_equal(full["decade"], [5, 5, 6, 6, NAN])
    assert outside == {"bmi": 1, "decade": 0}
    assert full["height"] is not None


def test_a_cut_counts_its_points_to_the_upper_level() -> None:
    np.testing.assert_array_equal(derive(people(), study())["group"], [0, 1, 1, 2, NAN])


def test_a_circle_of_derived_variables_is_refused() -> None:
    number = {"type": "number", "min": 0, "max": 1}
    circle = study({"a": {**number, "derive": "b + 1"}, "b": {**number, "derive": "a + 1"}, "c": number})
    with pytest.raises(StudyError, match="a, b") as refused:
        derivation_order(circle)
    assert refused.value.rule == "derivation-order"


def test_deriving_leaves_the_given_table_as_it_was() -> None:
    given_table = people()
    derive(given_table, study())
    assert set(given_table.columns) == {"height", "weight", "age", "sex"}


def test_the_flow_counts_every_rule_and_unknown_excludes() -> None:
    made = study(include=["age >= 50", 'sex == "female" or weight > 60'])
    chosen = select(people(), made, ["height", "sex"])
    assert chosen.flow == (5, 3, 3, 2)
    assert flow_labels(made) == ("read", "age >= 50", 'sex == "female" or weight > 60', "complete")
    assert chosen.keep.tolist() == [False, True, False, True, False]
    assert chosen.missing == {"height": 1, "sex": 1}
    np.testing.assert_array_equal(chosen.table["height"], [1.5, 2.0])
    assert set(chosen.table.columns) == {"height", "sex"}


def test_eligible_keeps_missing_values_and_all_keeps_everyone() -> None:
    made = study(include=["age >= 50"])
    eligible = select(people(), made, ["height"], "eligible")
    np.testing.assert_array_equal(eligible.table["height"], [1.5, NAN, 2.0])
    assert eligible.flow == (5, 3)
    everyone = select(people(), made, ["height"], "all")
    assert everyone.table.n == 5
    assert everyone.flow == (5,)
    assert everyone.missing == {"height": 1}


def test_missing_values_are_filled_with_the_federated_value_where_the_rule_says_so() -> None:
    made = study(missing={"weight": "mean", "sex": "mode", "default": "complete-cases"})
    chosen = select(people(), made, ["weight", "sex", "age"], imputed={"weight": 75.0, "sex": 1.0})
    np.testing.assert_array_equal(chosen.table["weight"], [80, 90, 70, 75])
    np.testing.assert_array_equal(chosen.table["sex"], [0, 1, 1, 1])
    assert chosen.keep.tolist() == [True, True, True, True, False]
    assert chosen.missing == {"weight": 1, "sex": 1, "age": 1}
    assert chosen.flow == (5, 4)


def test_a_fill_without_its_federated_value_is_refused() -> None:
    made = study(missing={"weight": "mean"})
    with pytest.raises(DataError, match="weight") as refused:
        select(people(), made, ["weight"])
    assert refused.value.rule == "imputation"
    assert select(people(), made, ["height"]).table.n == 4


def test_nothing_is_copied_where_nothing_is_dropped_or_filled() -> None:
    million = Table({"age": np.full(10**6, 60.0), "sex": np.zeros(10**6)}, 10**6)
    chosen = select(million, study(include=["age >= 18"], missing={"sex": "mode"}), ["age", "sex"])
    assert chosen.table["age"] is million["age"]
    assert chosen.table["sex"] is million["sex"]
    assert chosen.flow == (10**6, 10**6, 10**6)


values = st.one_of(st.just(NAN), st.sampled_from([0.0, 17.0, 18.0, 40.0, 90.0]))


@settings(deadline=None)
@given(st.lists(st.tuples(values, values, st.sampled_from([0.0, 1.0, NAN])), min_size=1, max_size=30))
def test_who_is_in_is_decided_patient_by_patient(rows: list[tuple[float, float, float]]) -> None:
    given_table = table(age=[r[0] for r in rows], weight=[r[1] for r in rows], sex=[r[2] for r in rows])
    made = study(include=["age >= 18", "weight < 90"], missing={"sex": "mode"})
    chosen = select(given_table, made, ["sex", "weight"], imputed={"sex": 0.0})
    assert chosen.keep.tolist() == [r[0] >= 18 and r[1] < 90 for r in rows]
    assert chosen.table.n == chosen.flow[-1] == int(chosen.keep.sum())
    assert not np.isnan(chosen.table["sex"]).any()
    assert list(chosen.flow) == sorted(chosen.flow, reverse=True)
