"""Boosting from summed histograms: the trees of the pooled patients, bit for bit, and a model that XGBoost opens."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.boosting import FEATURES, OUTCOMES, RISK, fit, frames, model_of, study, tables
from unisono.errors import MethodError, StorageError
from unisono.methods.boosting import model_file, portable
from unisono.methods.boosting.ensemble import Ensemble
from unisono.methods.boosting.features import Edges, Feature, cell_counts, choose_edges, matrix
from unisono.methods.boosting.growing import Finder, Rules
from unisono.methods.boosting.rows import Layout
from unisono.methods.registry import build, check
from unisono.site.prediction import open_model, predict
from unisono.study.table import Table, stack

OBJECTIVES = list(OUTCOMES)


def booster(model: bytes, folder: Path) -> xgboost.Booster:
    path = folder / "model.xgboost.json"
    path.write_bytes(model)
    opened = xgboost.Booster()
    opened.load_model(path)
    return opened


# -- the same trees as pooled ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_four_sites_grow_the_trees_of_the_pooled_patients_to_the_last_bit(objective: str) -> None:
    """With gaps in every feature, sampled rows and columns, and held-out patients."""
    asked = study(
        objective, subsample={"rows": 0.8, "columns": 0.7}, validate={"fraction": 0.25, "patience": 3}, seed=3
    )
    federated, _ = fit(asked, tables())
    pooled, _ = fit(asked, [stack(tables())])
    assert federated.files()["model.xgboost.json"] == pooled.files()["model.xgboost.json"]
    assert federated.estimates["curve"] == pooled.estimates["curve"]
    assert federated.estimates["importance"] == pooled.estimates["importance"]
    assert len(federated.estimates["curve"]) >= 3


def test_the_order_of_the_patients_does_not_matter() -> None:
    asked, whole = study(subsample={"rows": 0.5}), stack(tables())
    order = np.random.default_rng(0).permutation(whole.n)
    shuffled = Table({k: v[order] for k, v in whole.columns.items()}, whole.n)
    assert (
        fit(asked, [whole])[0].files()["model.xgboost.json"] == fit(asked, [shuffled])[0].files()["model.xgboost.json"]
    )


def test_delayed_entry_counts_a_patient_at_risk_from_the_entry_on() -> None:
    asked = study("cox", entry="start", trees=3)
    late = fit(asked, tables())[0].files()["model.xgboost.json"]
    assert late == fit(asked, [stack(tables())])[0].files()["model.xgboost.json"]
    assert late != fit(study("cox", trees=3), tables())[0].files()["model.xgboost.json"]


@pytest.mark.parametrize("objective", ["logistic", "cox"])
def test_a_run_goes_on_from_its_snapshot_to_the_same_trees(objective: str) -> None:
    asked = study(objective, trees=12, depth=2, validate={"fraction": 0.2, "patience": 12})
    whole, first = fit(asked, tables())
    again, second = fit(asked, tables(), state=first.snapshots[0])
    assert again.files() == whole.files()
    assert again.estimates == whole.estimates
    assert "totals" not in second.steps
    assert len(second.steps) < len(first.steps) / 2


# -- the model file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_xgboost_opens_the_model_and_predicts_the_same(objective: str, tmp_path: Path) -> None:
    """With missing values, and for patients it was not trained on."""
    asked = study(objective)
    result, _ = fit(asked, tables())
    method: Any = build(asked, RISK)
    x = matrix(method.features, stack(tables(2000, gaps=0.3)))
    model = model_of(result, asked)
    ours = method.objective.predict(model.scores(x, method.objective.margin(model.base_score)))
    opened = booster(result.files()["model.xgboost.json"], tmp_path)
    theirs = opened.predict(xgboost.DMatrix(x.T, feature_names=[f.name for f in method.features]))
    assert np.isnan(x).mean() > 0.2
    assert np.std(ours) > 0.05
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert opened.num_boosted_rounds() == 6
    gain = opened.get_score(importance_type="gain")
    listed = {row["feature"]: row["gain"] for row in result.estimates["importance"] if row["splits"]}
    assert gain == pytest.approx(listed, rel=1e-5)


def test_xgboost_on_the_same_bins_grows_the_same_trees(tmp_path: Path) -> None:
    """Its exact method on values that are bin numbers: the same splits, gains and leaf values, missing values too."""
    asked = study(trees=3, bins=16, top={"release": {"min_count": 1}}, min_child_weight=0)
    result, _ = fit(asked, tables())
    method: Any = build(asked, RISK)
    model = model_of(result, asked)
    whole = stack(tables())
    x = matrix(method.features, whole)
    counts = cell_counts(method.features, x)
    edges = choose_edges(method.features, counts, 16, 1)
    codes = edges.codes(x).astype(np.float32)
    codes[np.isnan(x)] = np.nan
    settings_ = {
        "objective": "binary:logistic",
        "max_depth": 3,
        "eta": 0.3,
        "tree_method": "exact",
        "min_child_weight": 0,
    }
    theirs = xgboost.train({**settings_, "base_score": model.base_score}, xgboost.DMatrix(codes.T, whole["ill"]), 3)
    ours = model.scores(x, method.objective.margin(model.base_score))
    np.testing.assert_allclose(ours, theirs.predict(xgboost.DMatrix(codes.T), output_margin=True), atol=2e-5)


def test_the_sidecar_says_what_the_numbers_mean_and_where_they_are_from() -> None:
    asked = study()
    result, _ = fit(asked, tables())
    model, sidecar = (result.files()[name] for name in ("model.xgboost.json", "model.json"))
    said = json.loads(sidecar)
    assert [c["name"] for c in said["columns"]] == json.loads(model)["learner"]["feature_names"]
    assert said["columns"][3] == {"name": "stage=lt 2", "variable": "stage", "one_if": "<2"}
    assert said["columns"][-1]["name"] == "sex=female"  # two levels need one column
    assert said["files"]["model.xgboost.json"] == hashlib.sha256(model).hexdigest()
    assert said["provenance"]["study"] == asked.digest()
    assert said["variables"]["crp"]["unit"] == "mg/L"
    assert {name: hashlib.sha256(data).hexdigest() for name, data in result.files().items()} == result.estimates[
        "model"
    ]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_unisono_predicts_from_the_files_what_xgboost_predicts(objective: str, tmp_path: Path) -> None:
    asked = study(objective)
    result, _ = fit(asked, tables())
    for name, data in result.files().items():
        (tmp_path / name).write_bytes(data)
    model: Any = open_model(tmp_path)
    new = frames(300)["leiden"].source
    found = predict(model, new.drop(columns=list(OUTCOMES[objective].values())[:1]))
    x = matrix(model.features, tables(300)[0])
    opened = booster(result.files()["model.xgboost.json"], tmp_path)
    theirs = opened.predict(xgboost.DMatrix(x.T, feature_names=[f.name for f in model.features]))
    np.testing.assert_allclose(found.values[:, 0], theirs, rtol=1e-6, atol=1e-6)
    assert len(found.columns) == 1
    assert any("learned what to do" in note for note in found.notes)


def test_files_of_a_model_that_do_not_belong_together_are_refused() -> None:
    one, other = (fit(study(trees=k), tables())[0].files() for k in (1, 2))
    model_file.read(one)
    name = "model.xgboost.json"
    card = json.loads(one["model.json"])
    swapped = {**card, "columns": card["columns"][::-1]}
    more = {**card, "provenance": {**card["provenance"], "rounds": 5}}
    none = {**card, "files": {name: hashlib.sha256(b"{}").hexdigest()}}
    cards = [json.dumps(wrong).encode() for wrong in (swapped, more)]
    for files in (
        {**one, name: other[name]},
        {"model.json": one["model.json"]},
        *({**one, "model.json": wrong} for wrong in cards),
        {name: b"{}", "model.json": json.dumps(none).encode()},
    ):
        with pytest.raises(StorageError) as caught:
            model_file.read(files)
        assert caught.value.rule == "model-file"


# -- disclosure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [10, 40])
def test_no_leaf_and_no_bin_holds_fewer_than_min_count_patients(least: int, tmp_path: Path) -> None:
    asked = study(depth=5, rate=0.9, bins=64, top={"release": {"min_count": least}}, min_child_weight=0)
    result, _ = fit(asked, tables())
    method: Any = build(asked, RISK)
    x, model = matrix(method.features, stack(tables())), model_of(result, asked)
    smallest = [np.bincount(model.leaves(x, k))[np.unique(model.leaves(x, k))].min() for k in range(model.trees)]
    assert min(smallest) >= least
    edges = choose_edges(method.features, cell_counts(method.features, x), 64, least)
    for f in range(len(method.features)):
        known = edges.codes(x)[f][~np.isnan(x[f])]
        assert np.bincount(known, minlength=edges.numbers[f] + 1).min() >= least


@given(seed=st.integers(0, 1000), bins=st.integers(2, 40), least=st.integers(1, 30), cells=st.integers(2, 200))
@settings(max_examples=60, deadline=None)
def test_edges_are_boundaries_of_the_declared_range_and_no_values(seed: int, bins: int, least: int, cells: int) -> None:
    rng = np.random.default_rng(seed)
    boundaries = np.unique(np.linspace(0, 1, cells + 1)[1:-1].astype(np.float32))
    feature = Feature("a", "a", None, boundaries)
    x = (rng.random((1, 300)) ** rng.integers(1, 9)).astype(np.float32)
    edges = choose_edges([feature], cell_counts([feature], x), bins, least)
    assert edges.sound(1)
    assert len(edges.values) <= bins - 1
    assert set(edges.values) <= set(boundaries)
    if len(edges.values):
        assert np.bincount(edges.codes(x)[0]).min() >= least


def test_only_the_smaller_of_two_siblings_is_asked_for() -> None:
    _, federation = fit(study(trees=1, depth=4), tables())
    assert federation.steps.count("histograms") == 4  # one sum a level
    method: Any = build(study(depth=4), RISK)
    plan = {ask.contribution.name: ask for ask in method.plan()}
    assert len(plan["histograms"].arguments[5]) == 4  # of the eight nodes above the last level
    assert plan["histograms"].at_most == 6 * 4


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [(0, 1, 99), (0, 2, 999), (0, 4, 0), (1, 4, 2), (0, 4, 500), (0, 0, 3), (0, 3, 7), (1, 1, -2)],
)
def test_trees_from_outside_are_checked_before_anybody_walks_them(row: int, column: int, value: int) -> None:
    edges = Edges(np.array([0.0, 1.0, 0.5], np.float32), np.array([2, 3]))
    splits = np.array(
        [[0, 0, 1, 1, 1], [0, 1, 0, 0, 3], [0, -1, 0, 0, 0], [0, -1, 0, 0, 0], [0, -1, 0, 0, 0]], np.int32
    )
    trees = Ensemble(splits, np.zeros(5, np.float32))
    assert trees.checked(edges, 2) is trees
    changed = splits.copy()
    changed[row, column] = value
    for wrong, depth in ((changed, 2), (splits, 1)):
        with pytest.raises(MethodError) as caught:
            Ensemble(wrong, np.zeros(5, np.float32)).checked(edges, depth)
        assert caught.value.rule == "trees"


def test_histograms_are_given_of_leaves_of_the_growing_tree_alone() -> None:
    method: Any = build(study(), RISK)
    data = method.prepare(tables()[0])
    edges = np.array([0.5], np.float32)
    ends = np.array([1, *[1] * (len(method.features) - 1)])
    splits = np.array([[0, 0, 0, 0, 1], [0, -1, 0, 0, 0], [0, -1, 0, 0, 0]], np.int32)
    forest = (edges, ends, splits, np.zeros(3, np.float32), 0.0)
    none = np.zeros(0)
    found = method.histograms.compute(data, *forest, np.array([1, 2]), none, none)
    assert found["patients"][:, :3].sum() == data.n
    for nodes in ([0], [2, 1], [1, 1], [3], []):
        with pytest.raises(MethodError):
            method.histograms.compute(data, *forest, np.array(nodes, np.int64), none, none)


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_a_contribution_does_not_depend_on_what_was_asked_before() -> None:
    """What is kept between asks saves time and changes nothing."""
    asked = study("cox", trees=3)
    method: Any = build(asked, RISK)
    asks: list[tuple[Any, ...]] = []

    class Recorded:
        def __init__(self, federation: Any) -> None:
            self.federation = federation

        def __getattr__(self, name: str) -> Any:
            return getattr(self.federation, name)

        async def sum(self, contribution: Any, *arguments: Any) -> Any:
            asks.append((contribution, arguments))
            return await self.federation.sum(contribution, *arguments)

    import asyncio

    from tests.support.boosting import Plain

    federation = Plain(method, tables())
    asyncio.run(method.run(Recorded(federation)))
    warm = federation.data[0]
    for k in np.random.default_rng(1).permutation(len(asks)):
        contribution, arguments = asks[k]
        fresh = method.prepare(tables()[0].only(method.variables()))
        before, after = contribution.compute(warm, *arguments), contribution.compute(fresh, *arguments)
        assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_exponential_is_the_same_everywhere_and_right() -> None:
    x = np.concatenate([np.linspace(-30, 30, 20001), [-1000.0, 1000.0, 0.0]])
    np.testing.assert_allclose(portable.exp(x), np.exp(np.clip(x, -700, 700)), rtol=5e-16)
    assert portable.exp(np.array([1.0]))[0].hex() == "0x1.5bf0a8b14576ap+1"
    assert np.array_equal(portable.exp(x[::-1])[::-1], portable.exp(x))


def test_draws_follow_from_the_patient_and_the_seed() -> None:
    x = np.random.default_rng(0).normal(size=(2, 20000)).astype(np.float32)
    key = portable.keys(x, np.zeros((1, 20000)))
    drawn = portable.drawn(key, 0.3, 1, 7)
    assert drawn.mean() == pytest.approx(0.3, abs=0.02)
    assert np.array_equal(portable.drawn(key[::-1], 0.3, 1, 7)[::-1], drawn)
    others = [portable.drawn(key, 0.3, seed, purpose) for seed, purpose in ((2, 7), (1, 8))]
    assert all((drawn & other).mean() == pytest.approx(0.09, abs=0.02) for other in others)
    assert len(portable.chosen(10, 0.35, 1, 1)) == 4


def test_two_shares_draw_independently_so_that_their_difference_is_no_patient() -> None:
    key = portable.keys(np.random.default_rng(0).normal(size=(2, 20000)).astype(np.float32), np.zeros((1, 20000)))
    one, other = (portable.drawn(key, share, 1, 1) for share in (0.200, 0.202))
    assert (one & other).mean() == pytest.approx(0.2 * 0.202, abs=0.01)
    assert (one & ~other).mean() == pytest.approx(0.2 * 0.798, abs=0.02)


def test_a_method_says_which_rows_of_the_cohort_it_holds_out() -> None:
    asked = study(validate={"fraction": 0.3})
    method = build(asked, RISK)
    table = tables()[0].only(method.variables())
    outcome = table[method.variables()[0]].copy()
    outcome[:3] = np.nan  # they are no patients of this analysis, and are not held out
    data = method.prepare(table.having({**table.columns, method.variables()[0]: outcome}))
    rows = method.held_out(data)
    assert rows is not None and rows.shape == (table.n,)
    assert not rows[:3].any() and np.array_equal(rows[3:], data.held_out) and 0 < rows.sum() < table.n
    whole = build(study(), RISK)
    assert not whole.held_out(whole.prepare(table)).any()
    assert method.kin == "boosting"


def test_so_few_held_out_patients_that_they_can_be_told_apart_are_refused() -> None:
    asked = study(validate={"fraction": 0.02}, top={"release": {"min_count": 40}})
    with pytest.raises(MethodError, match="Fewer than 40 patients are held out") as refused:
        fit(asked, tables())
    assert refused.value.rule == "validation-patients"


def test_a_missing_value_goes_where_the_gain_is_larger() -> None:
    """One feature, two values; the patients without it resemble those on the right, then those on the left."""
    edges = Edges(np.array([0.5], np.float32), np.array([1]))
    rules = Rules(3, 1.0, 1.0, 0.0, 0.0, 32.0, 1)
    finder = Finder(edges, Layout.of(edges, np.array([0])), rules)
    for absent, left in ((8.0, False), (-8.0, True)):
        histogram = np.array([[[-10.0, 10.0, absent], [20, 20, 20], [20, 20, 20]]])
        (choice,) = finder.best(histogram, histogram.sum(axis=2))
        assert choice is not None
        assert choice.missing_left is left


def test_early_stopping_keeps_the_trees_up_to_the_best() -> None:
    asked = study(
        trees=60, rate=1.0, depth=5, top={"release": {"min_count": 3}}, validate={"fraction": 0.3, "patience": 4}
    )
    result, _ = fit(asked, tables())
    losses = [row["held_out"] for row in result.estimates["curve"]]
    assert result.estimates["trees"] == int(np.argmin(losses)) + 1
    assert len(losses) == result.estimates["trees"] + 4 < 60
    assert model_of(result, asked).trees == result.estimates["trees"]
    assert any("held-out patients was least" in note for note in result.notes)


def test_patients_without_an_outcome_take_no_part() -> None:
    some = tables()
    some[0].columns["ill"][:40] = np.nan  # type: ignore[index]
    result, _ = fit(study(), some)
    assert result.estimates["n"] == 900 - 40


@pytest.mark.parametrize("rule", ["outcome-varies", "no-split", "enough-patients"])
def test_where_there_is_nothing_to_learn_it_says_so(rule: str) -> None:
    few = [replace(t, columns={**t.columns}) for t in tables()]
    asked = study()
    if rule == "outcome-varies":
        few = [replace(t, columns={**t.columns, "ill": np.ones(t.n)}) for t in few]
    elif rule == "no-split":
        few = [replace(t, columns={**t.columns, **{f: np.full(t.n, np.nan) for f in FEATURES}}) for t in few]
    else:
        few = [t.rows(np.arange(t.n) < 4) for t in few]
    with pytest.raises(MethodError) as caught:
        fit(asked, few)
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    ("objective", "wrong", "rule"),
    [
        ("logistic", {"outcome": "score"}, "variable-type"),
        ("logistic", {"features": ["crp", "ill"]}, "outcome-as-feature"),
        ("logistic", {"features": ["crp", "crp"]}, "distinct-features"),
        ("logistic", {"features": ["age"]}, "known-variables"),
        ("logistic", {"base_score": 2.0}, "base-score"),
        ("poisson", {"outcome": "score"}, "variable-type"),
        ("cox", {"event": None}, "outcome"),
        ("squared-error", {"time": "months"}, "outcome"),
    ],
)
def test_a_study_that_does_not_fit_is_refused(objective: str, wrong: dict[str, Any], rule: str) -> None:
    assert rule in {problem.rule for problem in check(study(objective, **wrong))}


def test_the_result_is_a_table_a_sentence_and_a_figure() -> None:
    for asked in (study(), study("cox", validate={"fraction": 0.2})):
        result, federation = fit(asked, tables())
        json.dumps(result.estimates, allow_nan=False)
        assert result.summary()["share"].sum() == pytest.approx(1)
        assert result.summary().index[0] in result.headline()
        assert "concordance" in result.headline() or "AUROC 0." in result.headline()
        assert len(result.plot().axes) == (2 if "validate" in asked.analyses[RISK].parameters else 1)
        rebuilt = build(asked, RISK).result(asked, RISK, result.estimates)
        assert rebuilt.headline() == result.headline()
        assert rebuilt.files() == {}
        assert len(federation.told[0]) == 4
        assert all("joint" in sheet for sheet in federation.told[0])


def test_the_benefit_sheet_compares_with_what_the_hospital_grows_alone() -> None:
    asked = study(trees=8, validate={"fraction": 0.3})
    some = tables()
    _, federation = fit(asked, some)
    sheet = federation.told[0][1]
    json.dumps(sheet, allow_nan=False)
    alone, _ = fit(asked, [some[1]])
    assert sheet["alone"]["auroc"] == alone.estimates["performance"]["auroc"]
    gap = sheet["joint"]["log_loss"]["value"] - sheet["alone"]["log_loss"]["value"]
    assert sheet["difference"]["loss"] == pytest.approx(gap, abs=1e-6)
    assert sheet["difference"]["low"] < sheet["difference"]["loss"] < sheet["difference"]["high"]
    _, small = fit(asked, [*some[:3], some[3].rows(np.arange(some[3].n) < 12)])
    assert small.told[0][3]["alone"] is None
    assert "too few" in small.told[0][3]["says"]
    _, cox = fit(study("cox", trees=2, validate={"fraction": 0.3}), some)
    assert cox.told[0][0]["alone"]["concordance"]["value"] > 0.5
