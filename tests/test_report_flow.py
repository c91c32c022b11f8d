"""The patient flow says what may be said of a blanked number, and nothing that gives it away."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support import lung
from unisono.methods.cohort import released_flow
from unisono.report.flow import flow_of

STUDY = lung.study(cohort={"include": ["age >= 18"], "missing": "complete-cases"})


def cohort(read: int | None, eligible: int | None, complete: int, **missing: int | None) -> dict[str, Any]:
    return {
        "read": read,
        "flow": [{"rule": "age >= 18", "n": eligible}, {"rule": "complete", "n": complete}],
        "missing": missing,
        "patients": complete,
        "imputed": {},
    }


def test_known_numbers_and_exclusions_are_shown() -> None:
    flow = flow_of(STUDY, cohort(300, 260, 220, age=0, ecog=40))
    assert [s.patients for s in flow.steps] == ["300", "260", "220"]
    assert [s.excluded for s in flow.steps] == ["", "40 left out", "40 left out"]
    assert flow.missing == (("age", "none"), ("ecog", "40"))


def test_a_small_exclusion_is_said_to_be_small() -> None:
    flow = flow_of(STUDY, cohort(None, None, 227, age=0, ecog=None))
    assert [s.patients for s in flow.steps] == ["227 and fewer than 10 more"] * 2 + ["227"]
    assert flow.steps[2].excluded == "fewer than 10 left out"
    assert flow.missing == (("age", "none"), ("ecog", "<10"))


def test_a_number_blanked_for_anothers_sake_is_not_called_small() -> None:
    flow = flow_of(STUDY, cohort(300, None, 220, age=None, ecog=None))
    assert flow.steps[1].patients == "not shown"
    assert dict(flow.missing) == {"age": "not shown", "ecog": "not shown"}


def test_the_missing_rule_is_stated() -> None:
    assert any("complete cases" in s for s in flow_of(STUDY, cohort(300, 260, 220, age=0)).sentences)


def test_an_imputation_is_stated_with_its_value() -> None:
    study = lung.study(cohort={"include": [], "missing": {"ecog": "mean", "default": "complete-cases"}})
    estimates = {
        "read": 300,
        "flow": [{"rule": "complete", "n": 300}],
        "missing": {"age": 0, "ecog": 20},
        "patients": 300,
        "imputed": {"ecog": {"rule": "mean", "value": 0.954}},
    }
    flow = flow_of(study, estimates)
    assert flow.steps[1].label == "With a value of every variable of the analysis, after filling in missing values"
    said = " ".join(flow.sentences)
    assert "the mean over all hospitals was filled in (0.95" in said
    assert "without a value of age were left out" in said


def test_an_analysis_without_a_missing_rule_ends_with_those_analysed() -> None:
    estimates = {
        "read": 300,
        "flow": [{"rule": "age >= 18", "n": 260}],
        "missing": {"age": 12},
        "patients": 260,
        "imputed": {},
    }
    flow = flow_of(STUDY, estimates)
    assert [s.patients for s in flow.steps] == ["300", "260"]
    assert not any("complete cases" in s for s in flow.sentences)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=2), st.integers(10, 200))
def test_no_blanked_number_and_no_small_difference_is_ever_written(drops: list[int], last: int) -> None:
    eligible = last + drops[1]
    read = eligible + drops[0]
    shown = released_flow([read, eligible, last, last], 10)[:3]
    flow = flow_of(STUDY, cohort(shown[0], shown[1], last))
    allowed = {n for n in shown if n is not None} | {10, 18}
    allowed |= {a - b for a in allowed for b in allowed if a - b >= 10}
    text = " ".join(f"{s.label} {s.patients} {s.excluded}" for s in flow.steps)
    assert {int(n) for n in re.findall(r"\d+", text)} <= allowed
