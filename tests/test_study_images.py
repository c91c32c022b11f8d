"""Images in a study: declared and checked there, refused where a number or a group is needed; older studies stay signed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from unisono.methods.cohort import CohortFlow, CohortSpec
from unisono.methods.registry import build
from unisono.methods.registry import check as method_checks
from unisono.site.data.snapshot import freeze
from unisono.study import checks
from unisono.study.cohort import derive, select
from unisono.study.document import ImageVariable, Study
from unisono.study.load import StudyProblems, dump_json, dump_yaml, load
from unisono.study.table import Table, stack

SCAN = {"type": "image", "size": [28, 20], "channels": 3, "intensity": {"percentiles": [1, 99]}}
BASE: dict[str, Any] = {
    "unisono": 1,
    "id": "scans",
    "question": "?",
    "variables": {
        "scan": SCAN,
        "age": {"type": "number", "unit": "a", "min": 0, "max": 110},
        "months": {"type": "number", "unit": "mo", "min": 0, "max": 60},
        "ill": {"type": "boolean"},
    },
    "analyses": {"a": {"method": "describe"}},
}


def study(analysis: dict[str, Any] | None = None, **parts: Any) -> Study:
    return Study.model_validate({**BASE, **parts, "analyses": {"a": analysis or {"method": "describe"}}})


def whole(n: int = 6) -> Table:
    """n patients; the fourth has no image."""
    content = np.arange(1.0, n + 1)
    content[3] = np.nan
    images = np.arange(n, dtype=np.float32)[:, None, None, None] * np.ones((n, 1, 2, 2), np.float32)
    columns = {"scan": content, "age": 10.0 * np.arange(n), "months": np.arange(float(n)), "ill": np.arange(n) % 2.0}
    return Table(columns, n, {"scan": images})


# --- the document ----------------------------------------------------------------------------------------------------


def test_an_image_declares_size_channels_intensities_and_how_it_is_resampled() -> None:
    scan = study().variables["scan"]
    assert isinstance(scan, ImageVariable)
    assert scan.shape == (3, 28, 20)
    assert (scan.resample, scan.slice, scan.frame, scan.derive) == ("linear", None, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"size": [28]},
        {"size": [28, 0]},
        {"size": [28, 2000]},
        {"channels": 2},
        {"resample": "cubic"},
        {"intensity": {}},
        {"intensity": {"window": [0, 255], "percentiles": [1, 99]}},
        {"intensity": {"window": [255, 0]}},
        {"intensity": {"percentiles": [1, 101]}},
        {"slice": {"plane": "oblique"}},
        {"slice": {"plane": "axial", "at": 1.5}},
        {"frame": 0},
        {"derive": "age > 3"},
        {"unit": "mm"},
    ],
    ids=str,
)
def test_what_makes_no_image_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        study(variables={**BASE["variables"], "scan": {**SCAN, **change}})


@pytest.mark.parametrize("scan", [SCAN, {**SCAN, "slice": {"plane": "axial"}, "frame": 2, "label": "CT"}], ids=str)
def test_a_study_with_images_is_written_and_read_back_to_the_same_digest(scan: dict[str, Any], tmp_path: Any) -> None:
    first = study(variables={**BASE["variables"], "scan": scan})
    for name, text in (("s.yaml", dump_yaml(first)), ("s.json", dump_json(first))):
        (tmp_path / name).write_text(text)
        assert load(tmp_path / name).digest() == first.digest()


def test_every_setting_of_an_image_counts_in_the_digest() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"size": [20, 28]}, {"channels": 1}, {"resample": "nearest"}, {"intensity": {"window": [1, 99]}},
        {"intensity": {"percentiles": [0, 99]}}, {"slice": {"plane": "axial"}}, {"frame": 1},
    ]  # fmt: skip
    digests = {study(variables={**BASE["variables"], "scan": {**SCAN, **change}}).digest() for change in changes}
    assert len(digests) == len(changes)


def test_studies_and_data_without_images_keep_the_digests_that_were_signed_before_there_were_images() -> None:
    """Pinned to what commit 5f3c071 computes."""
    before = load(
        {
            "unisono": 1,
            "id": "signed",
            "question": "?",
            "variables": {
                "age": {"type": "integer", "unit": "a", "min": 18, "max": 110},
                "w": {"type": "number", "min": 0, "max": 1.5, "label": "weight"},
                "died": {"type": "boolean"},
                "old": {"type": "boolean", "derive": "age >= 65"},
                "sex": {"type": "category", "levels": ["female", "male"]},
                "band": {"type": "category", "levels": ["a", "b"], "derive": {"variable": "age", "at": [50]}},
            },
            "cohort": {"include": ["known(w)"], "missing": {"age": "mean", "default": "complete-cases"}},
            "analyses": {"d": {"method": "describe", "by": "sex"}},
        }
    )
    assert before.digest() == "b090691b50a149a2e23467c707454c1c06f0550b5729f00db677a3a254ec9d93"
    frame = pd.DataFrame(
        {"age": [20, 30, 70], "w": [1, 0.5, 1.25], "died": [0, 1, 0], "sex": ["female", "male", "male"]}
    )
    frozen = freeze(frame, None, before, "x").digest
    assert frozen == "559ab4a5c46694d2db1b44b3826e8388331e174fe8027fd4e5e60f22635026cd"


# --- where an image cannot stand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["scan > 3", "scan == scan", "abs(scan) > 1", "not scan", "scan in [1, 2]"])
def test_an_expression_cannot_compute_with_an_image(text: str) -> None:
    (problem,) = checks.problems(study(cohort={"include": [text]}))
    assert (problem.rule, problem.path) == ("expression-type", ("cohort", "include", 0))
    assert "'scan' is an image" in problem.what
    assert "known(scan)" in problem.remedy


def test_an_expression_may_ask_whether_there_is_an_image() -> None:
    asked = study(cohort={"include": ["known(scan)"]})
    assert checks.problems(asked) == []
    assert select(whole(), asked, ["age"]).keep.tolist() == [True, True, True, False, True, True]


@pytest.mark.parametrize(
    "missing",
    ["mean", "mode", {"scan": "mean"}, {"scan": "mode"}, {"default": "mode", "age": "mean", "months": "mean"}],
)
def test_no_picture_is_made_up_for_one_that_is_missing(missing: Any) -> None:
    (problem,) = checks.problems(study(cohort={"missing": missing}))
    assert problem.rule == "missing-rule"
    assert "scan" in problem.what
    assert "write `complete-cases` for images" in problem.remedy


def test_a_cut_needs_a_number_and_an_image_is_none() -> None:
    variables = {
        **BASE["variables"],
        "g": {"type": "category", "levels": ["a", "b"], "derive": {"variable": "scan", "at": [1]}},
    }
    (problem,) = checks.problems(study(variables=variables))
    assert problem.rule == "cut-points"


@pytest.mark.parametrize(
    ("analysis", "path", "rule"),
    [
        ({"method": "describe", "variables": ["age", "scan"]}, ("variables", 1), "variable-type"),
        ({"method": "describe", "by": "scan"}, ("by",), "variable-type"),
        ({"method": "glm", "family": "binomial", "outcome": "ill", "covariates": ["scan"]}, ("covariates", 0), "variable-type"),
        ({"method": "glm", "family": "binomial", "outcome": "ill", "covariates": ["age:scan"]}, ("covariates", 0), "variable-type"),
        ({"method": "glm", "family": "gaussian", "outcome": "scan", "covariates": ["age"]}, ("outcome",), "outcome-type"),
        ({"method": "cox", "time": "months", "event": "ill", "covariates": ["scan"]}, ("covariates", 0), "variable-type"),
        ({"method": "cox", "time": "months", "event": "ill", "covariates": ["age"], "weights": "scan"}, ("weights",), "variable-type"),
        ({"method": "kaplan-meier", "time": "months", "event": "scan"}, ("event",), "variable-type"),
        ({"method": "kaplan-meier", "time": "scan", "event": "ill"}, ("time",), "variable-type"),
        ({"method": "kaplan-meier", "time": "months", "event": "ill", "by": "scan"}, ("by",), "variable-type"),
    ],
    ids=str,
)  # fmt: skip
def test_a_statistic_of_an_image_is_refused_with_what_to_do(
    analysis: dict[str, Any], path: tuple[Any, ...], rule: str
) -> None:
    if "time" in analysis and analysis["time"] == "months":
        analysis = {**analysis, "grid": {"step": 1, "unit": "mo"}}
    (problem,) = [p for p in method_checks(study(analysis)) if "scan" in p.what]
    assert (problem.path, problem.rule) == (("analyses", "a", *path), rule)
    assert problem.remedy


def test_all_problems_of_a_file_with_an_image_in_a_regression_are_found_at_their_lines(tmp_path: Any) -> None:
    bad = study({"method": "glm", "family": "binomial", "outcome": "ill", "covariates": ["age", "scan"]})
    (tmp_path / "s.yaml").write_text(dump_yaml(bad))
    with pytest.raises(StudyProblems) as refused:
        load(tmp_path / "s.yaml", method_checks)
    (problem,) = refused.value.problems
    assert (tmp_path / "s.yaml").read_text().splitlines()[(problem.line or 0) - 1].strip() == "- scan"


def test_describe_passes_over_images_that_nobody_named() -> None:
    method = build(study(), "a")
    assert method.variables() == ("age", "months", "ill")
    only_images = {"scan": SCAN}
    (problem,) = method_checks(study(variables=only_images))
    assert problem.rule == "described-variables"


# --- the table -------------------------------------------------------------------------------------------------------


def test_images_go_with_their_patients() -> None:
    table = whole()
    keep = np.array([True, False, True, True, False, False])
    some = table.rows(keep)
    assert some.images["scan"][:, 0, 0, 0].tolist() == [0, 2, 3]
    assert table.rows(np.ones(6, np.bool_)) is table
    assert table.only(["age"]).images == {}
    assert table.only(["age", "scan"]).images["scan"] is table.images["scan"]
    both = stack([some, table])
    assert both.n == 9 and both.images["scan"].shape == (9, 1, 2, 2)
    assert "array" not in repr(table)


def test_complete_cases_leaves_out_who_has_no_image_and_images_follow_the_selection() -> None:
    chosen = select(whole(), study(cohort={"include": ["age >= 10"]}), ["scan", "ill"])
    assert chosen.flow == (6, 5, 4)
    assert chosen.missing == {"scan": 1, "ill": 0}
    assert chosen.table.images["scan"][:, 0, 0, 0].tolist() == [1, 2, 4, 5]
    assert chosen.table["scan"].tolist() == [2, 3, 5, 6]
    everyone = whole()
    assert select(everyone, study(), ["scan"], "all").table.images["scan"] is everyone.images["scan"]


def test_derived_and_imputed_variables_keep_the_images() -> None:
    variables = {**BASE["variables"], "old": {"type": "boolean", "derive": "age > 30"}}
    derived = derive(whole(), study(variables=variables))
    assert derived["old"].tolist() == [0, 0, 0, 0, 1, 1]
    assert derived.images["scan"].shape == (6, 1, 2, 2)
    table = whole()
    table["age"][5] = np.nan
    filled = select(table, study(cohort={"missing": {"age": "mean"}}), ["scan", "age"], imputed={"age": 7.0}).table
    assert filled["age"].tolist() == [0, 10, 20, 40, 7]
    assert filled.images["scan"][:, 0, 0, 0].tolist() == [0, 1, 2, 4, 5]


def test_the_cohort_step_counts_whether_images_are_there_and_holds_none() -> None:
    training = study({"method": "describe", "variables": ["age"]}, cohort={"include": ["known(scan)"]})
    flow = CohortFlow(training, "a", CohortSpec())
    held = flow.prepare(whole().only(flow.variables()))
    assert "scan" in held.columns and held.images == {}
    assert flow.flow.compute(held)["eligible"].tolist() == [5.0]
