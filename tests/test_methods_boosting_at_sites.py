"""Bagged and cyclic boosting: XGBoost at the sites, models collected by permission, read as data, merged into one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from tests.support.boosting import OUTCOMES, RISK, SITES, fit, frames, model_of, study, tables
from unisono.engines.embedded.run import Settings, run_study
from unisono.errors import PolicyRefusal, ProtocolError
from unisono.methods.boosting.at_sites import merge_small
from unisono.methods.boosting.features import matrix
from unisono.methods.boosting.model import FEATURE, Limits, Model, merged, read_model
from unisono.methods.registry import build, check
from unisono.site.policy import Policy
from unisono.study.table import stack

BAGGED, CYCLIC = "bagged-boosting", "cyclic-boosting"


def booster(model: bytes) -> xgboost.Booster:
    opened = xgboost.Booster()
    opened.load_model(bytearray(model))
    return opened


def margins(model: bytes, x: Any, names: list[str]) -> Any:
    return booster(model).predict(xgboost.DMatrix(x.T, feature_names=names), output_margin=True)


@pytest.mark.parametrize("objective", list(OUTCOMES))
def test_the_bagged_score_is_the_mean_of_the_hospitals_scores(objective: str) -> None:
    asked = study(objective, method=BAGGED, trees=4)
    result, federation = fit(asked, tables())
    method: Any = build(asked, RISK)
    base = result.estimates["base_score"]
    x = matrix(method.features, stack(tables(300, gaps=0.3)))
    sites = [method.trees.compute(data, base) for data in federation.data]
    n = np.array([int(site["patients"]) for site in sites])
    each = np.array([margins(site["model"].tobytes(), x, method.names) for site in sites])
    ours = margins(result.files()["model.xgboost.json"], x, method.names)
    np.testing.assert_allclose(ours, n @ each / n.sum(), rtol=2e-5, atol=2e-5)
    assert np.ptp(each, axis=0).max() > 0.05  # the hospitals differ
    model = model_of(result, asked)
    np.testing.assert_allclose(model.scores(x, method.objective.margin(base)), ours, rtol=1e-5, atol=1e-5)
    assert federation.steps == ["totals", "trees", "performance"]


@pytest.mark.parametrize("objective", list(OUTCOMES))
def test_each_hospital_continues_what_those_before_it_made(objective: str) -> None:
    asked = study(objective, method=CYCLIC, trees=2, cycles=2, validate={"fraction": 0.2})
    result, federation = fit(asked, tables())
    turns = [f"more_trees@{site}" for site in SITES] * 2
    assert federation.steps == ["totals", *turns, "performance"]
    assert booster(result.files()["model.xgboost.json"]).num_boosted_rounds() == 2 * 2 * 4 == result.estimates["trees"]
    # The second hospital's trees are fitted to what the first left: alone it would have grown others.
    method: Any = build(asked, RISK)
    base = result.estimates["base_score"]
    first = method.received(method.grown(federation.data[0], base), base)
    alone = method.received(method.grown(federation.data[1], base), base)
    after = method.received(method.grown(federation.data[1], base, first), base)
    together = model_of(result, asked)
    assert np.array_equal(together.conditions[: len(first.conditions)], first.conditions)
    assert np.array_equal(together.conditions[len(first.conditions) :][: len(after.conditions)], after.conditions)
    assert not np.array_equal(alone.conditions, after.conditions)
    assert result.estimates["performance_of"] == "held-out"


def test_no_hospitals_leaf_holds_fewer_than_min_count_of_its_patients() -> None:
    for objective in ("logistic", "cox"):
        asked = study(
            objective, method=BAGGED, trees=5, depth=5, min_child_weight=0, top={"release": {"min_count": 15}}
        )
        _, federation = fit(asked, tables())
        method: Any = build(asked, RISK)
        for data in federation.data:
            part = method.grown(data, 0.5 if objective == "logistic" else 1.0)
            model = method.received(part, 0.5)
            at = [np.bincount(model.leaves(data.x, k)) for k in range(model.trees)]
            assert min(found[found > 0].min() for found in at) >= 15
            assert (model.splits[:, FEATURE] >= 0).any()


def test_merged_leaves_keep_the_mean_of_those_below() -> None:
    splits = np.array([[0, 0, 0, 1], [0, 0, 0, 3], [0, -1, 0, 0], [0, -1, 0, 0], [0, -1, 0, 0]], np.int32)
    conditions = np.array([0.5, 0.1, 9.0, 1.0, 4.0], np.float32)
    hessian = np.array([10, 3, 7, 1, 2], np.float32)
    model = Model(splits, conditions, np.zeros(5, np.float32), hessian, 0.5)
    x = np.array([[0.0] * 2 + [0.2] * 12 + [1.0] * 20], np.float32)
    small = merge_small(model, x, 5)
    assert small.splits.tolist() == [[0, 0, 0, 1], [0, -1, 0, 0], [0, -1, 0, 0]]
    assert small.conditions.tolist() == pytest.approx([0.5, (1 * 1 + 2 * 4) / 3, 9.0])
    assert merge_small(model, x, 30).splits.tolist() == [[0, -1, 0, 0]]
    assert np.array_equal(merge_small(model, x, 2).splits, splits)


def test_a_hospital_with_too_few_patients_sends_no_model() -> None:
    few = tables()
    few[1] = few[1].rows(np.arange(few[1].n) < 8)
    for method in (BAGGED, CYCLIC):
        result, federation = fit(study(method=method, trees=2, **({"cycles": 1} if method == CYCLIC else {})), few)
        assert any("too few patients" in note for note in result.notes)
        method_: Any = build(study(method=BAGGED), RISK)
        part = method_.grown(federation.data[1], 0.5)
        assert (len(part.model), int(part.patients)) == (0, 0)


# -- what comes from a hospital is data, and is not trusted ------------------------------------------------------------


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    x[rng.random(x.shape) < 0.1] = np.nan
    data = xgboost.DMatrix(x, np.nan_to_num(x[:, 0]) > 0, feature_names=["a", "b"])
    grown = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "base_score": 0.5}, data, 3)
    model: dict[str, Any] = json.loads(grown.save_raw("json"))
    return model


LIMITS = Limits(size=1 << 16, trees=3, depth=3, leaf=10.0)


def opened(model: Any, limits: Limits = LIMITS) -> Model:
    return read_model(json.dumps(model).encode(), ["a", "b"], "binary:logistic", limits)


def test_what_xgboost_wrote_is_read_and_written_to_the_same_predictions(good: dict[str, Any]) -> None:
    x = np.random.default_rng(1).normal(size=(2, 500)).astype(np.float32)
    x[:, :100] = np.nan
    model = opened(good)
    theirs = margins(json.dumps(good).encode(), x, ["a", "b"])
    np.testing.assert_allclose(model.scores(x, 0.0), theirs, atol=1e-6)
    np.testing.assert_array_equal(margins(model.written(["a", "b"], "binary:logistic"), x, ["a", "b"]), theirs)
    double = merged([model, model], [0.5, 0.5])
    assert double.trees == 6
    np.testing.assert_allclose(double.scores(x, 0.0), theirs, atol=1e-6)


def trees(model: dict[str, Any]) -> Any:
    return model["learner"]["gradient_booster"]["model"]["trees"]


def deep(model: dict[str, Any]) -> None:
    trees(model)[0]["left_children"][1] = 0


def shared(model: dict[str, Any]) -> None:
    trees(model)[0]["right_children"][0] = trees(model)[0]["left_children"][0]


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a circle": deep,
    "a shared child": shared,
    "a child that is not there": lambda m: trees(m)[0]["left_children"].__setitem__(0, 999),
    "a feature that is not there": lambda m: trees(m)[0]["split_indices"].__setitem__(0, 2),
    "an infinite threshold": lambda m: trees(m)[0]["split_conditions"].__setitem__(0, float("inf")),
    "a leaf without bound": lambda m: trees(m)[0]["split_conditions"].__setitem__(-1, 1e20),
    "text in a column": lambda m: trees(m)[0]["split_conditions"].__setitem__(0, "0.5"),
    "a truth value in a column": lambda m: trees(m)[0]["left_children"].__setitem__(0, True),
    "a short column": lambda m: trees(m)[0]["loss_changes"].pop(),
    "too many trees": lambda m: trees(m).append(trees(m)[0]),
    "categories": lambda m: trees(m)[0]["categories"].append(1),
    "another objective": lambda m: m["learner"]["objective"].__setitem__("name", "reg:squarederror"),
    "other features": lambda m: m["learner"].__setitem__("feature_names", ["a", "c"]),
    "another booster": lambda m: m["learner"]["gradient_booster"].__setitem__("name", "gblinear"),
    "no learner": lambda m: m.pop("learner"),
    "classes": lambda m: m["learner"]["learner_model_param"].__setitem__("num_class", "3"),
    "a base score that is none": lambda m: m["learner"]["learner_model_param"].__setitem__("base_score", "nan"),
    "a tree that is a number": lambda m: trees(m).__setitem__(0, 7),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_model_that_is_none_is_refused(what: str, good: dict[str, Any]) -> None:
    model = copy.deepcopy(good)
    WRONG[what](model)
    with pytest.raises(ProtocolError) as caught:
        opened(model)
    assert caught.value.rule == "received-model"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"\x80\x04\x95", b"{" * 100_000, b'{"learner": NaN}', b"null", b" " * (1 << 17), b'"\\ud800"']
)
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_model(data, ["a", "b"], "binary:logistic", LIMITS)
    assert caught.value.rule == "received-model"


def test_a_damaged_model_is_refused_or_is_a_model(good: dict[str, Any]) -> None:
    """Bytes changed at random: never another error, never a walk without end."""
    data, rng = json.dumps(good).encode(), np.random.default_rng(3)
    x = np.zeros((2, 3), np.float32)
    refused = 0
    for _ in range(300):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            changed[place] = rng.integers(32, 127)
        try:
            read_model(bytes(changed), ["a", "b"], "binary:logistic", LIMITS).scores(x, 0.0)
        except ProtocolError:
            refused += 1
    assert 50 < refused < 300


# -- allowed by permit and policy only ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [BAGGED, CYCLIC])
def test_the_usual_policy_of_a_hospital_refuses_single_models(method: str) -> None:
    asked = study(method=method)
    with pytest.raises(PolicyRefusal):
        Policy().check_study(asked)
    Policy().check_study(study())


@pytest.mark.parametrize("method", [BAGGED, CYCLIC])
def test_hospitals_that_allow_it_make_one_model(method: str, tmp_path: Path) -> None:
    asked = study(method=method, trees=2, **({"cycles": 1} if method == CYCLIC else {}))
    assert check(asked) == []
    outcome = run_study(asked, frames(), tmp_path, Settings()).outcomes[RISK]
    assert outcome.error is None, outcome.error
    assert outcome.answer is not None
    result: Any = outcome.answer.result
    plain, _ = fit(asked, tables())
    assert result.files()["model.xgboost.json"] == plain.files()["model.xgboost.json"]
    assert "saw each hospital's trees" in result.notes[0]


def test_delayed_entry_is_refused_where_xgboost_does_not_know_it() -> None:
    assert "delayed-entry" in {p.rule for p in check(study("cox", method=BAGGED, entry="start"))}
    assert model_of(fit(study(method=BAGGED, trees=1), tables())[0], study(method=BAGGED)).trees == 4
