"""The expression language: Python's meaning on complete data, three-valued logic where values are missing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.errors import StudyError
from unisono.study.document import BooleanVariable, CategoryVariable, NumberVariable, Variable
from unisono.study.expressions import MAX_LENGTH, Expression
from unisono.study.table import Table

NAN = math.nan
VARIABLES: dict[str, Variable] = {
    "age": NumberVariable(type="number", unit="a", min=0, max=120),
    "bmi": NumberVariable(type="number", unit="kg/m2", min=10, max=80),
    "died": BooleanVariable(type="boolean"),
    "smoker": BooleanVariable(type="boolean"),
    "onset": CategoryVariable(type="category", levels=["spinal", "bulbar", "other"]),
    "later": CategoryVariable(type="category", levels=["spinal", "bulbar", "other"]),
    "sex": CategoryVariable(type="category", levels=["male", "female"]),
}


def evaluate(text: str, **columns: list[float]) -> list[float]:
    n = len(next(iter(columns.values()))) if columns else 1
    table = Table({name: np.array(values, float) for name, values in columns.items()}, n)
    result = Expression.parse(text, VARIABLES).evaluate(table)
    assert result.shape == (n,)
    assert result.dtype == np.float64
    return result.tolist()


def same(a: list[float], b: list[float]) -> bool:
    return np.array_equal(np.array(a), np.array(b), equal_nan=True)


numbers = st.recursive(
    st.one_of(st.sampled_from(["age", "bmi"]), st.integers(0, 90).map(lambda i: f"{i}.5")),
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from(["+", "-", "*"]), part).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        part.map(lambda t: f"(-{t})"),
        part.map(lambda t: f"abs({t})"),
        st.tuples(st.sampled_from(["min", "max"]), part, part).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
    ),
    max_leaves=5,
)
comparisons = st.one_of(
    st.tuples(numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers).map(" ".join),
    st.tuples(numbers, numbers, numbers).map(lambda t: f"{t[0]} < {t[1]} <= {t[2]}"),
    numbers.map(lambda t: f"{t} not in [20.5, -3, 40.5]"),
    st.sampled_from(
        ["died", "smoker", 'onset == "bulbar"', 'onset in ["spinal", "other"]', "onset != later", "died == smoker"]
    ),
)
booleans = st.recursive(
    comparisons.map(lambda t: f"({t})"),
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from(["and", "or"]), part).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        part.map(lambda t: f"(not {t})"),
    ),
    max_leaves=5,
)
rows = st.fixed_dictionaries(
    {
        "age": st.sampled_from([0.0, 20.5, 40.5, 90.0]),
        "bmi": st.sampled_from([10.0, 20.5, 35.25]),
        "died": st.sampled_from([0.0, 1.0]),
        "smoker": st.sampled_from([0.0, 1.0]),
        "onset": st.sampled_from([0.0, 1.0, 2.0]),
        "later": st.sampled_from([0.0, 1.0, 2.0]),
    }
)
LEVELS = ["spinal", "bulbar", "other"]


def in_python(text: str, row: dict[str, float]) -> float:
    named = {
        k: LEVELS[int(v)] if k in ("onset", "later") else bool(v) if k in ("died", "smoker") else v
        for k, v in row.items()
    }
    functions = {"abs": abs, "min": min, "max": max}
    return float(eval(text, {"__builtins__": {}}, {**functions, **named}))


@settings(deadline=None)
@given(numbers, st.lists(rows, min_size=1, max_size=4))
def test_numbers_are_pythons_on_complete_data(text: str, data: list[dict[str, float]]) -> None:
    columns = {name: [row[name] for row in data] for name in data[0]}
    assert same(evaluate(text, **columns), [in_python(text, row) for row in data])
    assert Expression.parse(text, VARIABLES).kind == "number"


@settings(deadline=None)
@given(booleans, st.lists(rows, min_size=1, max_size=4))
def test_truth_is_pythons_on_complete_data(text: str, data: list[dict[str, float]]) -> None:
    columns = {name: [row[name] for row in data] for name in data[0]}
    assert evaluate(text, **columns) == [in_python(text, row) for row in data]
    assert Expression.parse(text, VARIABLES).kind == "boolean"


@settings(deadline=None, max_examples=60)
@given(booleans, rows, st.sets(st.sampled_from(["age", "died", "smoker", "onset"]), min_size=1, max_size=3))
def test_what_is_known_in_spite_of_missing_values_holds_whatever_they_are(
    text: str, row: dict[str, float], missing: set[str]
) -> None:
    (known,) = evaluate(text, **{name: [NAN if name in missing else value] for name, value in row.items()})
    if math.isnan(known):
        return
    possible = {"age": [0.0, 20.5, 90.0], "died": [0.0, 1.0], "smoker": [0.0, 1.0], "onset": [0.0, 1.0, 2.0]}
    for values in itertools.product(*(possible[name] for name in sorted(missing))):
        filled = {**row, **dict(zip(sorted(missing), values, strict=True))}
        assert evaluate(text, **{name: [value] for name, value in filled.items()}) == [known]


def test_the_truth_tables_are_kleenes() -> None:
    a, b = [1.0, 1, 1, 0, 0, 0, NAN, NAN, NAN], [1.0, 0, NAN, 1, 0, NAN, 1, 0, NAN]
    assert same(evaluate("died and smoker", died=a, smoker=b), [1, 0, NAN, 0, 0, 0, NAN, 0, NAN])
    assert same(evaluate("died or smoker", died=a, smoker=b), [1, 1, 1, 1, 0, NAN, 1, NAN, NAN])
    assert same(evaluate("not died", died=[1, 0, NAN]), [0, 1, NAN])


@pytest.mark.parametrize(
    "text", ["age > 5", "age == 5", "age != 5", "age in [5]", "age not in [5]", "0 < age < 9", "age ** 0", "1 ** age"]
)
def test_missing_makes_a_comparison_and_arithmetic_unknown(text: str) -> None:
    assert same(evaluate(text, age=[NAN]), [NAN])


@pytest.mark.parametrize(
    "text", ["1 / (age - 3)", "log(age - 4)", "sqrt(age - 4)", "exp(age * 1000)", "(age - 5) ** 0.5", "log(age - 3)"]
)
def test_arithmetic_without_a_finite_answer_is_missing(text: str) -> None:
    assert same(evaluate(text, age=[3.0]), [NAN])


def test_everything_together() -> None:
    text = 'age >= 18 and not (onset == "other") and 20 < bmi <= 40 and min(bmi, age, 50) > sqrt(4) ** 2'
    assert evaluate(text, age=[30, 10, 30, 30], onset=[0, 0, 2, 1], bmi=[25, 25, 25, 50]) == [1, 0, 0, 0]
    assert Expression.parse(text, VARIABLES).variables == ("age", "onset", "bmi")


def test_yes_counts_as_one_and_no_as_none() -> None:
    assert evaluate("died + smoker >= 2", died=[1, 1, 0], smoker=[1, 0, 0]) == [1, 0, 0]
    assert evaluate("died == 1", died=[1, 0]) == [1, 0]
    assert evaluate("died == true", died=[1, 0]) == [1, 0]
    assert same(evaluate("died != false", died=[1, 0, NAN]), [1, 0, NAN])


def test_a_constant_fills_the_table() -> None:
    assert evaluate("2 ** 3 + 1", age=[1, 2, 3]) == [9, 9, 9]


def test_a_level_may_stand_on_either_side() -> None:
    assert evaluate('"bulbar" == onset', onset=[0, 1]) == [0, 1]
    assert evaluate('onset not in ["bulbar"]', onset=[0, 1]) == [1, 0]


@pytest.mark.parametrize(
    ("text", "rule", "says"),
    [
        ("agee > 18", "known-variables", "'age'"),
        ('onset == "bulber"', "known-levels", "'bulbar'"),
        ('onset in ["spinal", "x"]', "known-levels", "spinal"),
        ("onset == bulbar", "known-variables", '"bulbar"'),
        ('age == "bulbar"', "expression-type", "Compare numbers with numbers"),
        ("age > onset", "expression-type", "=="),
        ('onset > "spinal"', "expression-type", "in ["),
        ("onset == sex", "expression-type", "Compare"),
        ("onset + 1", "expression-type", "Compare"),
        ("onset", "expression-type", "Compare"),
        ('"bulbar"', "expression-type", "Compare"),
        ("age and died", "expression-type", "age >= 18"),
        ("not age", "expression-type", "age >= 18"),
        ("died in [1]", "expression-type", "number or a category"),
        ("age in [died]", "expression-type", "numbers"),
        ('age in ["a"]', "expression-type", "numbers"),
        ("age in []", "expression-syntax", "in ["),
        ("age in bmi", "expression-syntax", "in ["),
        ("1 < age in [2]", "expression-syntax", "and"),
        ("logg(age)", "known-functions", "'log'"),
        ("log(age, 2)", "expression-syntax", "log(a)"),
        ("max(age)", "expression-syntax", "max(a, b)"),
        ("age = 18", "expression-syntax", "=="),
        ("(age > 18) & died", "expression-syntax", "'and'"),
        ("age >", "expression-syntax", "Allowed"),
        ("", "expression-syntax", "Allowed"),
        ("age is 3", "expression-syntax", "=="),
        ("age // 2", "expression-syntax", "Allowed"),
        ("__import__('os').system('ls')", "known-functions", "functions"),
        ("().__class__", "expression-syntax", "Allowed"),
        ("[x for x in age]", "expression-syntax", "Allowed"),
        ("lambda: 1", "expression-syntax", "Allowed"),
        ("age if died else bmi", "expression-syntax", "Allowed"),
        ("(age := 3)", "expression-syntax", "Allowed"),
        ("f'{age}'", "expression-syntax", "Allowed"),
        ("b'x' == 1", "expression-syntax", "Allowed"),
        ("1j + age", "expression-syntax", "Allowed"),
        ("1e999 + age", "expression-syntax", "Allowed"),
        ("None == age", "expression-syntax", "Allowed"),
        ("age\0", "expression-syntax", "Allowed"),
        ("(" * 300 + "age" + ")" * 300, "expression-syntax", "Allowed"),
        ("-" * 900 + "age", "expression", ""),
        ("+".join(["age"] * 100), "expression-size", "Split"),
        ("a" * (MAX_LENGTH + 1), "expression-size", "Split"),
    ],
)
def test_a_wrong_expression_is_refused_with_a_rule_and_a_remedy(text: str, rule: str, says: str) -> None:
    with pytest.raises(StudyError) as refused:
        Expression.parse(text, VARIABLES)
    assert refused.value.rule.startswith(rule)
    assert says in refused.value.remedy


def test_the_position_is_where_the_reader_counts_it() -> None:
    with pytest.raises(StudyError, match="at character 13 of"):
        Expression.parse("  age > 1 + bmii", VARIABLES)
    levels: dict[str, Variable] = {"ort": CategoryVariable(type="category", levels=["Köln", "Århus"])}
    with pytest.raises(StudyError, match="at character 19 of"):
        Expression.parse('ort == "Köln" and x', levels)


def test_a_variable_called_like_a_reserved_word_says_so() -> None:
    with pytest.raises(StudyError) as refused:
        Expression.parse("class == 1", {"class": NumberVariable(type="number", min=0, max=1)})
    assert "reserved word" in refused.value.remedy


@settings(deadline=None)
@given(st.text(alphabet="age<>=!()[]+-*/.,:'\"\\ 0123456789andornotin#{}@%~^&|\n", max_size=40))
def test_no_text_makes_the_reader_stumble(text: str) -> None:
    try:
        made = Expression.parse(text, VARIABLES)
    except StudyError as refused:
        assert refused.remedy
    else:
        assert made.evaluate(Table({name: np.ones(2) for name in VARIABLES}, 2)).shape == (2,)


def test_known_is_true_where_a_variable_has_a_value_and_never_unknown() -> None:
    table = Table({name: np.array([1.0, np.nan, 0.0]) for name in VARIABLES}, 3)
    for name in VARIABLES:
        np.testing.assert_array_equal(Expression.parse(f"known({name})", VARIABLES).evaluate(table), [1.0, 0.0, 1.0])
        np.testing.assert_array_equal(
            Expression.parse(f"not known({name})", VARIABLES).evaluate(table), [0.0, 1.0, 0.0]
        )


@pytest.mark.parametrize("text", ["known()", "known(1)", "known(age, age)", "known(age + 1)", "known(agee)"])
def test_known_takes_one_variable(text: str) -> None:
    with pytest.raises(StudyError) as refused:
        Expression.parse(text, VARIABLES)
    assert refused.value.remedy
