"""The cohort step: patients along the inclusion rules, imputation values equal to pooled, and no small group by subtraction."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plain import PlainFederation
from unisono.errors import DisclosureRefusal, MethodError
from unisono.methods.cohort import CohortFlow, CohortResult, CohortSpec, establish, released_flow
from unisono.study.cohort import derive, select
from unisono.study.document import Study
from unisono.study.table import Table, stack

VARIABLES = {
    "age": {"type": "number", "unit": "a", "min": 0, "max": 120},
    "sex": {"type": "category", "levels": ["male", "female"]},
    "stage": {"type": "category", "levels": ["I", "II", "III"]},
    "ecog": {"type": "integer", "min": 0, "max": 4},
    "died": {"type": "boolean"},
    "old": {"type": "boolean", "derive": "age >= 65"},
}
GLM = {"method": "glm", "outcome": "died", "family": "binomial", "covariates": ["age", "sex", "stage", "ecog"]}


def study(analysis: dict | None = None, min_count: int = 10, **cohort: object) -> Study:
    return Study.model_validate(
        {
            "unisono": 1,
            "id": "who",
            "question": "Who is in?",
            "variables": VARIABLES,
            "cohort": cohort,
            "analyses": {"effect": analysis or GLM},
            "release": {"min_count": min_count},
        }
    )


def patients(n: int = 600, gaps: float = 0.1, seed: int = 0) -> list[Table]:
    rng = np.random.default_rng(seed)
    columns = {
        "age": rng.uniform(10, 100, n),
        "sex": rng.integers(0, 2, n).astype(float),
        "stage": rng.choice(3, n, p=[0.2, 0.5, 0.3]).astype(float),
        "ecog": rng.integers(0, 5, n).astype(float),
        "died": (rng.random(n) < 0.4).astype(float),
    }
    for column in columns.values():
        column[rng.random(n) < gaps] = np.nan
    where = rng.integers(0, 3, n)
    return [Table({k: v[where == s] for k, v in columns.items()}, int((where == s).sum())) for s in range(3)]


def opened(document: Study, tables: list[Table]) -> tuple[CohortResult, PlainFederation]:
    derived = [derive(table, document) for table in tables]
    federation = PlainFederation(CohortFlow(document, "effect", CohortSpec()), derived)
    result = asyncio.run(establish(federation, document, "effect"))  # type: ignore[arg-type]
    json.dumps(result.estimates, allow_nan=False)
    return result, federation


def test_counts_along_the_inclusion_rules_equal_the_pooled_selection() -> None:
    document = study(include=["age >= 18", "old or sex == 'female'"])
    tables = patients()
    result, federation = opened(document, tables)
    pooled = select(derive(stack(tables), document), document, ("died", "age", "sex", "stage", "ecog"), "cohort")
    assert [result.estimates["read"], *(step["n"] for step in result.estimates["flow"])] == list(pooled.flow)
    assert [step["rule"] for step in result.estimates["flow"]] == ["age >= 18", "old or sex == 'female'", "complete"]
    assert result.facts.patients == pooled.table.n
    assert result.estimates["missing"] == {**pooled.missing, "age": 0}
    assert federation.steps == ["flow"]


def test_imputed_values_equal_pooled_and_are_asked_only_when_something_is_missing() -> None:
    rules = {"default": "complete-cases", "age": "mean", "stage": "mode", "ecog": "mode"}
    document = study(include=["sex == 'female' or sex == 'male'"], missing=rules)
    tables = patients()
    result, federation = opened(document, tables)
    assert federation.steps == ["flow", "observed"]
    whole = stack(tables)
    known = whole.rows(~np.isnan(whole["sex"]))
    assert result.facts.imputed["age"] == pytest.approx(np.nanmean(known["age"]), rel=1e-13)
    assert result.facts.imputed["stage"] == 1.0
    assert result.estimates["imputed"]["stage"] == {"rule": "mode", "value": 1.0, "level": "II"}
    counts = np.bincount(known["ecog"][~np.isnan(known["ecog"])].astype(int))
    assert result.facts.imputed["ecog"] == float(counts.argmax())
    filled = [
        select(derive(t, document), document, ("died", *GLM["covariates"]), "cohort", result.facts.imputed)
        for t in tables
    ]
    assert sum(s.table.n for s in filled) == result.facts.patients
    assert not any(np.isnan(s.table[name]).any() for s in filled for name in ("died", "age", "stage"))

    _, without = opened(document, patients(gaps=0.0))
    assert without.steps == ["flow"]


def test_table_one_keeps_patients_with_missing_values() -> None:
    document = study({"method": "describe", "variables": ["age", "sex"]}, include=["died or not died"])
    tables = patients()
    result, _ = opened(document, tables)
    assert result.facts.patients == int((~np.isnan(stack(tables)["died"])).sum())
    assert [step["rule"] for step in result.estimates["flow"]] == ["died or not died"]


def test_an_empty_cohort_names_the_rule_after_which_nobody_is_left() -> None:
    with pytest.raises(MethodError, match="after `age > 110`") as refused:
        opened(study(include=["age >= 18", "age > 110", "sex == 'male'"]), patients())
    assert refused.value.rule == "empty-cohort"
    tables = patients()
    for table in tables:
        table["stage"][:] = np.nan
    with pytest.raises(MethodError, match="with a value of every one of died, age, sex, stage, ecog"):
        opened(study(), tables)


def test_fewer_patients_than_may_be_shown_are_refused() -> None:
    with pytest.raises(DisclosureRefusal, match="Fewer than 10 patients") as refused:
        opened(study(), [table.rows(np.arange(table.n) < 3) for table in patients(gaps=0.0)])
    assert refused.value.rule == "enough-patients"


def test_a_mean_over_fewer_patients_than_may_be_shown_fills_no_gap() -> None:
    tables = patients(gaps=0.0)
    for table in tables:
        table["age"][2:] = np.nan
    with pytest.raises(DisclosureRefusal, match="fills the gaps of 'age'"):
        opened(study(missing={"age": "mean"}), tables)


def test_a_rule_that_excludes_three_patients_does_not_show_them() -> None:
    tables = patients(300, gaps=0.0)
    whole = np.sort(stack(tables)["age"])
    document = study(include=[f"age > {float(whole[2])!r}", "sex == 'male'"])
    result, _ = opened(document, tables)
    assert result.estimates["read"] == 300
    assert result.estimates["flow"][0]["n"] is None
    assert result.estimates["flow"][2]["n"] == result.estimates["patients"]
    assert "not shown" in result.summary()["patients"].tolist()


def test_a_small_number_of_missing_values_is_blank_and_so_is_the_one_that_would_give_it_away() -> None:
    tables = patients(300, gaps=0.0)
    tables[0]["age"][:4] = np.nan
    tables[1]["ecog"][:20] = np.nan
    tables[2]["sex"][:40] = np.nan
    missing = opened(study(), tables)[0].estimates["missing"]
    assert missing == {"died": 0, "age": None, "sex": 40, "stage": 0, "ecog": None}


@given(st.lists(st.integers(0, 300), min_size=1, max_size=8), st.integers(10, 60))
def test_shown_numbers_of_a_flow_are_equal_or_far_apart_and_the_last_is_shown(steps: list[int], last: int) -> None:
    flow = [*sorted((n + last for n in steps), reverse=True), last]
    shown = released_flow(flow, 10)
    known = [n for n in shown if n is not None]
    assert shown[-1] == last
    assert all(a == b or abs(a - b) >= 10 for a in known for b in known)
    assert all(s is None or s == n for s, n in zip(shown, flow, strict=True))


def test_the_result_is_rebuilt_from_its_estimates() -> None:
    result, _ = opened(study(missing={"age": "mean"}), patients())
    again = CohortFlow.result(result.study, "effect", json.loads(json.dumps(result.estimates)))
    assert again.facts == result.facts
    assert again.summary().equals(result.summary())
    assert f"{result.facts.patients} patients of the 600 read" in again.headline()
    assert len(again.plot().axes) == 1


def test_the_plan_lists_the_second_sum_only_when_the_study_fills_gaps() -> None:
    plain, filling = (CohortFlow(d, "effect", CohortSpec()) for d in (study(), study(missing={"age": "mean"})))
    assert [ask.contribution.name for ask in plain.plan()] == ["flow"]
    assert [ask.contribution.name for ask in filling.plan()] == ["flow", "observed"]


def test_the_variables_read_include_those_of_the_rules_and_the_sources_of_derived_ones() -> None:
    document = study({"method": "describe", "variables": ["sex"]}, include=["old"])
    assert CohortFlow(document, "effect", CohortSpec()).variables() == ("sex", "old", "age")
