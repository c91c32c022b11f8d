"""What a study may say of a training, what is opened before it, and every task and kind of input through a few rounds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines.utils import concordance_index
from numpy.typing import NDArray

from tests.support import training
from tests.support.training import light, study, weights
from unisono.errors import MethodError, StudyError
from unisono.federation.contribution import Facts
from unisono.methods.registry import build, check
from unisono.methods.training.data import split
from unisono.report.disclosure_sheet import planned
from unisono.study.document import Study
from unisono.study.load import load
from unisono.study.table import Table

MIXED: dict[str, Any] = {
    "unisono": 1,
    "id": "mixed",
    "question": "What is predicted from a mixture?",
    "variables": {
        "age": {"type": "number", "unit": "a", "min": 0, "max": 100},
        "marker": {"type": "number", "min": -1e6, "max": 1e6},
        "fixed": {"type": "number", "min": 0, "max": 10},
        "smoker": {"type": "boolean"},
        "stage": {"type": "category", "levels": ["i", "ii", "iii", "iv"]},
        "grade": {"type": "category", "levels": ["low", "middle", "high"]},
        "size": {"type": "number", "unit": "mm", "min": 0, "max": 200},
    },
    "release": {"min_sites": 3, "min_count": 5},
    "protection": {"hide": "none"},
}
SITES = ("leiden", "padua", "turin")


def mixed_tables() -> dict[str, Table]:
    """50 patients at each of three sites; three patients in all have stage iv."""
    draw = np.random.default_rng(3)
    found = {}
    for k, site in enumerate(SITES):
        n = 50
        age, smoker = draw.uniform(20, 90, n), draw.integers(0, 2, n).astype(float)
        stage = draw.integers(0, 3, n).astype(float)
        stage[0] = 3.0
        size = np.clip(20 + 0.5 * age + 20 * stage + 5 * k + draw.normal(0, 5, n), 0, 200)
        columns = {
            "age": age,
            "marker": draw.normal(2, 3, n),
            "fixed": np.full(n, 4.0),
            "smoker": smoker,
            "stage": stage,
            "grade": np.digitize(size, [60, 85]).astype(float),
            "size": size,
        }
        found[site] = Table(columns, n)
    return found


def mixed(**analysis: Any) -> Study:
    base = {
        "method": "fedavg",
        "features": ["age", "smoker", "stage", "marker", "fixed"],
        "model": {"kind": "mlp", "hidden": [8]},
        "local": {"epochs": 2, "batch": 16, "rate": 0.1},
        "rounds": {"most": 3},
        "seed": 2,
    }
    return load({**MIXED, "analyses": {"model": {**base, **analysis}}}, check)


def prepared(found: training.Light) -> Any:
    sums = asyncio.run(found.federation.sum(found.method.preprocessing))
    spec = found.method.spec
    return found.method.columns.read(found.method.columns.prepared(sums, spec.preprocess.numbers, 5))


def trained_on(found: training.Light, name: str) -> NDArray[np.float64]:
    """A variable's values of the patients who are trained on, at all sites."""
    data = [found.data(site) for site in SITES]
    return np.concatenate([d.table[name][d.train] for d in data])


# -- preprocessing ----------------------------------------------------------------------------------------------------------


def test_numbers_are_standardised_by_the_pooled_mean_and_deviation_whatever_their_declared_range() -> None:
    found = light(mixed(outcome="size"), mixed_tables())
    scales = prepared(found).scales
    for name in ("age", "marker", "size"):
        values = trained_on(found, name)
        # marker's range is a million times its deviation: the sums carry 13 digits, its square takes 12
        exact = 1e-3 if name == "marker" else 1e-6
        assert scales[name] == pytest.approx((values.mean(), values.std()), rel=exact)
    numbers = np.concatenate([prepared(found).numbers(found.data(s).table.rows(found.data(s).train)) for s in SITES])
    assert numbers[:, :2].mean(axis=0) == pytest.approx(0, abs=1e-3)
    assert numbers[:, :2].std(axis=0) == pytest.approx(1, abs=1e-3)
    assert (numbers[:, 2] == 0).all()  # a constant number is 0, and no division by 0
    assert set(numbers[:, 3]) == {0.0, 1.0}  # booleans stay


def test_numbers_may_stay_on_their_declared_range_and_the_outcome_does_not() -> None:
    found = light(mixed(outcome="size", preprocess={"numbers": "declared"}), mixed_tables())
    scales = prepared(found).scales
    assert scales["age"] == (50.0, 50.0) and scales["marker"] == (0.0, 1e6)
    assert scales["size"] == pytest.approx((trained_on(found, "size").mean(), trained_on(found, "size").std()))


def test_a_level_of_few_patients_becomes_other() -> None:
    found = light(mixed(outcome="size"), mixed_tables())
    ready = prepared(found)
    assert ready.to_json()["categories"] == [
        {"name": "stage", "levels": ["i", "ii", "iii", "iv"], "other": ["iv"]},
    ]
    codes = ready.categories(Table({"stage": np.array([0.0, 1.0, 2.0, 3.0])}, 4))
    assert codes[:, 0].tolist() == [1, 2, 3, 0]


def test_class_balance_shows_no_class_smaller_than_the_smallest_cell() -> None:
    tables = mixed_tables()
    first = int(np.flatnonzero(~split(50, 0.2, 2))[0])
    for table in tables.values():
        table.columns["grade"][:] = np.where(np.arange(table.n) == first, 2.0, 0.0)  # 3 high, 0 middle
    found = light(mixed(outcome="grade"), tables)
    n = len(trained_on(found, "grade"))
    high = int((trained_on(found, "grade") == 2).sum())
    assert high == 3
    assert prepared(found).shares == pytest.approx(np.array([n - high, 0, 5]) / (n - high + 5))
    balance = prepared(found).class_weights("balanced")
    assert balance[1] == 0.0 and balance[2] > balance[0] > 0  # nobody has the middle one


def test_the_split_is_the_studys_and_the_same_for_every_method() -> None:
    assert split(50, 0.2, 1).sum() == 10
    assert (split(50, 0.2, 1) == split(50, 0.2, 1)).all() and (split(50, 0.2, 1) != split(50, 0.2, 2)).any()
    assert split(2, 0.01, 1).sum() == 1 and split(1, 0.5, 1).sum() == 0 and split(9, 0.0, 1).sum() == 0


# -- tasks and inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "metric", "least"), [("size", "r2", 0.3), ("grade", "accuracy", 0.5), ("smoker", "auroc", 0.2)]
)
def test_numbers_classes_and_booleans_are_learned_from_numbers_booleans_and_categories(
    outcome: str, metric: str, least: float
) -> None:
    features = [name for name in ("age", "smoker", "stage", "marker", "fixed") if name != outcome]
    asked = mixed(
        outcome=outcome, features=features, rounds={"most": 12}, local={"epochs": 3, "rate": 0.1, "batch": 16}
    )
    found = light(asked, mixed_tables()).run()
    evaluation = found.estimates["evaluation"]
    assert evaluation[metric]["value"] > least
    losses = [entry["validation"] for entry in found.estimates["rounds"]]
    assert outcome == "smoker" or min(losses) < 0.8 * losses[0]
    assert found.summary().shape[1] == 3 and "round" in found.headline()


@pytest.mark.parametrize("task", ["cox", "hazard"])
def test_survival_is_learned_and_its_concordance_is_lifelines_on_the_pooled_validation_patients(task: str) -> None:
    """Of the German Breast Cancer Study Group's 686 patients; the risk's bins (100) tie a few that it tells apart."""
    asked, tables = gbsg2(task)
    found = light(asked, tables)
    estimates = found.run().estimates
    losses = [entry["validation"] for entry in estimates["rounds"]]
    assert estimates["task"] == task and min(losses) < losses[0]
    assert ("integrated_brier" in estimates["evaluation"]) == (task == "hazard")
    reached = estimates["evaluation"]["concordance"]["value"]
    model, _, prepared = found.federation.asked["evaluation"]
    risks, times, died = [], [], []
    for site in SITES:
        data = found.data(site)
        predicted, table = found.method.workplace(data, prepared).predicted(model), data.table.rows(data.valid)
        risks.append(predicted["risk"])
        times.append(table["time"])
        died.append(table["died"])
    pooled = concordance_index(np.concatenate(times), -np.concatenate(risks), np.concatenate(died))
    assert reached == pytest.approx(pooled, abs=0.005)
    assert reached > 0.6


def gbsg2(task: str, events: bool = True) -> tuple[Study, dict[str, Table]]:
    """A study of recurrence-free survival over three sites, on a grid of 30 days. events: whether anybody had one."""
    from lifelines.datasets import load_gbsg2

    names, whole = ("age", "tsize", "tgrade", "pnodes", "progrec"), load_gbsg2()
    columns = {name: whole[name].to_numpy(float) for name in (*names, "time") if name != "tgrade"}
    columns |= {"tgrade": whole["tgrade"].str.len().to_numpy(float), "died": whole["cens"].to_numpy(float) * events}
    limits = {"age": 100, "tsize": 200, "tgrade": 3, "pnodes": 60, "progrec": 3000}
    document = {
        **MIXED,
        "variables": {
            **{name: {"type": "number", "min": 0, "max": most} for name, most in limits.items()},
            "time": {"type": "number", "unit": "d", "min": 0, "max": 2700},
            "died": {"type": "boolean"},
        },
        "analyses": {
            "model": {
                "method": "fedavg",
                "task": task,
                "time": "time",
                "event": "died",
                "features": list(names),
                "grid": {"step": 30, "unit": "d"},
                "model": {"kind": "mlp", "hidden": [8]},
                "local": {"epochs": 10, "batch": "all", "rate": 0.2},
                "rounds": {"most": 8},
                "validate": {"fraction": 0.4},
            }
        },
    }
    whole_table = Table(columns, len(whole))
    tables = {site: whole_table.rows(np.arange(len(whole)) % 3 == k) for k, site in enumerate(SITES)}
    return load(document, check), tables


# -- nothing to learn ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["smoker", "stage", "fixed", "cox", "hazard"])
def test_an_outcome_that_is_everywhere_the_same_is_refused(outcome: str) -> None:
    """As by boosting; a model of it would be right about everybody."""
    if outcome in ("cox", "hazard"):
        asked, tables = gbsg2(outcome, events=False)
    else:
        analysis = {**training.BASE, "outcome": outcome, "features": ["age"]}
        asked = load({**MIXED, "analyses": {"model": analysis}}, check)
        tables = {
            site: Table({**table.columns, outcome: np.full(table.n, 1.0)}, table.n)
            for site, table in mixed_tables().items()
        }
    with pytest.raises(MethodError) as caught:
        light(asked, tables).run()
    assert caught.value.rule == "outcome-varies"


def test_a_hospital_that_learns_alone_to_be_compared_with_is_refused_nothing() -> None:
    """Hospitals that see one class, or few patients, are why others are asked; what is compared stays in the simulation."""
    analysis = {**training.BASE, "outcome": "smoker", "features": ["age"], "validate": {"fraction": 0.04}}
    asked = load({**MIXED, "analyses": {"model": analysis}}, check)
    table = mixed_tables()["turin"]
    found = light(asked, {"turin": Table({**table.columns, "smoker": np.zeros(table.n)}, table.n)})
    found.method.alone = True
    assert found.run().estimates["rounds"][0].keys() == {"round", "validation", "accuracy"}


@pytest.mark.parametrize(("outcome", "classes"), [("smoker", True), ("stage", True), ("age", False), ("cox", False)])
def test_what_is_classified_rightly_is_told_where_there_are_classes_and_nothing_in_its_place_elsewhere(
    outcome: str, classes: bool
) -> None:
    features = ["marker"]
    asked = (
        gbsg2("cox")[0]
        if outcome == "cox"
        else load({**MIXED, "analyses": {"model": {**training.BASE, "outcome": outcome, "features": features}}}, check)
    )
    method = build(asked, "model")
    for ask in method.plan()[1:]:
        leaves = ask.contribution.declaration(Facts(100), *ask.arguments).leaves
        assert any(name.endswith("correct") for name in leaves) == classes


def test_images_are_learned_by_a_small_convolutional_network() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = digits.target < 3
    pictures = (digits.images[chosen] / 16).astype(np.float32)[:, None]
    classes = digits.target[chosen].astype(float)
    document = {
        **MIXED,
        "variables": {
            "picture": {"type": "image", "size": [8, 8], "intensity": {"window": [0, 16]}},
            "digit": {"type": "category", "levels": ["zero", "one", "two"]},
        },
        "analyses": {
            "model": {
                "method": "fedprox",
                "outcome": "digit",
                "features": ["picture"],
                "model": {"kind": "cnn", "channels": [4]},
                "local": {"epochs": 2, "batch": 16, "rate": 0.05, "momentum": 0.9},
                "rounds": {"most": 3},
            }
        },
    }
    asked = load(document, check)
    given = {}
    for k, site in enumerate(SITES):
        rows = np.arange(k, len(classes), 3)[:80]
        columns = {"picture": np.zeros(len(rows)), "digit": classes[rows]}
        given[site] = Table(columns, len(rows), {"picture": pictures[rows]})
    found = light(asked, given).run()
    assert found.estimates["evaluation"]["accuracy"]["value"] > 0.8
    assert {"model.safetensors", "model.json"} == set(found.files()) and len(weights(found)) >= 4


# -- the study --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("analysis", "said"),
    [
        ({"outcome": "radus"}, "Did you mean 'radius'"),
        ({"features": ["radius", "radius"]}, "there twice"),
        ({"features": ["malignant"]}, "part of the outcome and a feature"),
        ({"outcome": None}, "'outcome' is missing"),
        ({"task": "cox"}, "'time' is missing"),
        ({"task": "multiclass"}, "not a category"),
        ({"model": {"kind": "mpl"}}, "Did you mean 'mlp'"),
        ({"model": {"kind": "mlp", "hiden": [3]}}, "hidden"),
        ({"model": {"kind": "cnn"}}, "image"),
        ({"local": {"epochs": 1, "steps": 3}}, "Give one of `epochs`, `steps` and `seconds`"),
        ({"local": {"epochs": 1, "batch": 0}}, "one patient at least"),
        ({"local": {"epochs": 1, "rat": 0.1}}, "'rate'"),
        ({"local": {"epochs": 1, "optimiser": "adam", "momentum": 0.9}}, "its own momentum"),
        ({"rounds": {"deadline": "5 parsecs"}}, "not a duration"),
        ({"validate": {"fraction": 0, "patience": 3}}, "no validation patients"),
        ({"validate": {"metric": "auc"}}, "'loss'"),
        ({"update_bound": 0}, "above 0"),
        ({"method": "fedprox", "proximal": -1}, "at least 0"),
        ({"method": "fedadam", "server": {"beta": 1}}, "beta2"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_asked(analysis: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError) as caught:
        study(analysis)
    assert said in str(caught.value)


def test_what_goes_only_with_classes_is_refused_for_a_number() -> None:
    for analysis in ({"validate": {"metric": "accuracy"}}, {"local": {"epochs": 1, "class_weights": "balanced"}}):
        with pytest.raises(StudyError, match="with classes"):
            mixed(outcome="size", **analysis)


def test_the_disclosure_sheet_lists_what_a_training_sends_and_how_often() -> None:
    sheet = {leaf.leaf: leaf for leaf in planned(study({"method": "scaffold"}))}
    assert (sheet["update"].times, sheet["update"].element_bytes) == (3, 4)
    assert {"control", "loss", "validation_loss", "evaluation_with_outcome", "classes"} <= set(sheet)


def test_variables_that_are_missing_are_filled_as_the_study_says_and_the_model_file_remembers() -> None:
    frames = training.frames()
    frames["padua"].loc[:9, "radius"] = np.nan
    asked = study(cohort={"missing": {"default": "complete-cases", "radius": "mean"}})
    found = light(asked, training.tables(asked, frames))
    result = found.run()
    known = pd.concat(frames.values())["radius"].mean()
    card = json.loads(result.files()["model.json"])
    assert card["imputed"]["radius"] == pytest.approx(known)


def test_two_fractions_of_one_seed_choose_independently_and_one_choice_is_always_the_same() -> None:
    """If the smaller were a part of the larger, the difference of two answers would be a few patients."""
    one, other = split(113, 0.198, 3), split(113, 0.1995, 3)
    assert one.sum() == 22
    assert abs(int(one.sum()) - int(other.sum())) <= 1
    assert int((one ^ other).sum()) >= 20
    assert (split(113, 0.198, 3) == one).all()
    assert int((split(113, 0.198, 4) ^ one).sum()) >= 20
