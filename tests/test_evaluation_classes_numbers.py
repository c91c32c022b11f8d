"""Evaluation of classes and of numbers: scikit-learn's metrics of the pooled patients, and no small cell to be had by algebra."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_score,
    r2_score,
    recall_score,
    roc_auc_score,
)

from tests.support.scores import opened, split
from unisono.methods.evaluation.confusion import hidden_cells
from unisono.methods.evaluation.multiclass import MulticlassEvaluation
from unisono.methods.evaluation.number import NumberEvaluation

CLASSES = ("naevus", "melanoma", "other", "none of these")


def patients(seed: int, n: int, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 1.5, (n, k)) + np.linspace(1, 0, k)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return p, np.array([rng.choice(k, p=row) for row in p])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(80, 400))
def test_metrics_of_classes_are_scikit_learns_on_the_pooled_patients(seed: int, n: int) -> None:
    p, y = patients(seed, n)
    kind = MulticlassEvaluation(classes=CLASSES, min_count=1)
    found = kind.metrics(opened(kind, p, y, split(n, np.random.default_rng(seed))))
    guess, labels = p.argmax(axis=1), range(4)
    confusion = found["confusion"]
    assert confusion["matrix"] == confusion_matrix(y, guess, labels=labels).T.tolist()
    assert found["accuracy"]["value"] == pytest.approx(accuracy_score(y, guess), abs=1e-12)
    for average in ("macro", "weighted"):
        present = sorted(set(y))
        reference = f1_score(y, guess, average=average, labels=present, zero_division=0)
        assert confusion[f"{average}_f1"]["value"] == pytest.approx(reference, abs=1e-12)
    recall = recall_score(y, guess, average=None, labels=labels, zero_division=0)
    precision = precision_score(y, guess, average=None, labels=labels, zero_division=0)
    for k, row in enumerate(confusion["per_class"]):
        assert (row["recall"]["value"] or 0) == pytest.approx(recall[k], abs=1e-12)
        assert (row["precision"]["value"] or 0) == pytest.approx(precision[k], abs=1e-12)
    assert found["log_loss"]["value"] == pytest.approx(log_loss(y, p, labels=list(labels)), abs=1e-9)
    assert found["brier"]["value"] == pytest.approx(((p - np.eye(4)[y]) ** 2).sum(axis=1).mean(), abs=1e-9)
    for k, name in enumerate(CLASSES):
        if 0 < (y == k).sum() < n:
            reference = roc_auc_score(y == k, kind.scale.index(p[:, k]))
            assert found["auroc_per_class"][name]["value"] == pytest.approx(reference, abs=1e-12)
    json.dumps(found, allow_nan=False)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 200), sites=st.integers(1, 5))
def test_the_part_of_a_pool_is_the_sum_of_the_parts_of_its_sites(seed: int, n: int, sites: int) -> None:
    p, y = patients(seed, n)
    number = NumberEvaluation(low=-5, high=5)
    for kind, guess, truth in (
        (MulticlassEvaluation(classes=CLASSES, bins=50), p, y),
        (MulticlassEvaluation(classes=CLASSES, probability=False), p.argmax(axis=1), y),
        (number, np.log(p[:, 0]), y.astype(float)),
    ):
        pool = kind.part(guess, truth)
        total = opened(kind, guess, truth, split(n, np.random.default_rng(seed), sites))
        for name, value in pool.items():
            assert np.allclose(total[name], value, rtol=0, atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 4)
    .flatmap(lambda k: st.lists(st.lists(st.integers(0, 30), min_size=k, max_size=k), min_size=k, max_size=k))
    .filter(lambda m: np.sum(m) >= 10 and np.count_nonzero(m) > 1)
)
def test_no_small_cell_follows_from_what_is_shown_and_the_accuracy(written: list[list[int]]) -> None:
    matrix = np.array(written)
    k = len(matrix)
    blank, rows, columns, tells = hidden_cells(matrix, 10)
    cells = np.arange(k * k).reshape(k, k)
    one = np.eye(k * k)
    shown = [one[cells[i, j]] for i in range(k) for j in range(k) if not blank[i, j]]
    shown += [one[cells[i]].sum(axis=0) for i in range(k) if not rows[i]]
    shown += [one[cells[:, j]].sum(axis=0) for j in range(k) if not columns[j]]
    shown += [one[i] for i in cells[:, matrix.sum(axis=0) == 0].ravel()]  # a class that nobody has
    shown += [] if tells else [one[np.diag(cells)].sum(axis=0)]
    system = np.array([*shown, np.ones(k * k)])
    rank = np.linalg.matrix_rank(system)
    for i in range(k):
        for j in range(k):
            if 0 < matrix[i, j] < 10:
                assert blank[i, j]
                told = np.linalg.matrix_rank(np.vstack([system, one[cells[i, j]]])) == rank
                assert not told, (matrix, blank, rows, columns)


def test_rates_that_would_give_a_hidden_cell_away_are_hidden_and_the_accuracy_is_shown() -> None:
    truth = np.repeat([0, 0, 1, 1, 2, 2], [200, 4, 150, 30, 80, 15])
    guess = np.repeat([0, 1, 1, 2, 2, 0], [200, 4, 150, 30, 80, 15])
    kind = MulticlassEvaluation(classes=("a", "b", "c"), probability=False)
    found = kind.metrics(kind.part(guess, truth))["confusion"]
    matrix = found["matrix"]
    assert matrix[1][0] is None and matrix[0][0] is None
    assert found["per_class"][0]["recall"]["value"] is None and found["per_class"][0]["f1"]["value"] is None
    assert found["accuracy"]["value"] == pytest.approx(430 / 479)
    assert found["macro_f1"]["value"] == round(f1_score(truth, guess, average="macro"), 2)


def test_a_class_that_nobody_has_has_no_f1() -> None:
    kind = MulticlassEvaluation(classes=("a", "b", "c"), probability=False, min_count=1)
    truth, guess = np.repeat([0, 1], [20, 20]), np.repeat([0, 1, 2], [20, 15, 5])
    found = kind.metrics(kind.part(guess, truth))["confusion"]
    assert [row["f1"]["value"] for row in found["per_class"]] == [1.0, pytest.approx(30 / 35), None]
    assert found["macro_f1"]["value"] == pytest.approx((1 + 30 / 35) / 2)


def test_the_accuracy_is_hidden_where_it_alone_tells_a_small_cell() -> None:
    nobody_has_the_second = np.array([[97, 0], [3, 0]])
    assert hidden_cells(nobody_has_the_second, 10)[3]
    blank, rows, _, tells = hidden_cells(np.array([[97, 0], [3, 100]]), 10)
    assert blank.all() and rows.all() and not tells  # three are wrong, and nobody can tell of which class
    blank, _, _, tells = hidden_cells(np.array([[97, 20], [30, 100]]), 10)
    assert not blank.any() and not tells


def test_fewer_patients_than_may_be_shown_show_nothing() -> None:
    p, y = patients(1, 6)
    kind = MulticlassEvaluation(classes=CLASSES)
    found = kind.metrics(kind.part(p, y))
    assert found["n"] is None and found["accuracy"]["value"] is None and found["confusion"] is None
    number = NumberEvaluation(low=0, high=4)
    assert number.metrics(number.part(p[:, 0], y.astype(float)))["r2"]["value"] is None


def test_calibration_of_the_largest_probability_is_over_groups_of_patients() -> None:
    p, y = patients(7, 2000)
    kind = MulticlassEvaluation(classes=CLASSES)
    found = kind.metrics(kind.part(p, y))["calibration"]
    sure, right = p.max(axis=1), p.argmax(axis=1) == y
    order, at = np.argsort(kind.scale.index(sure), kind="stable"), 0
    for group in found["reliability"]:
        members = order[at : at + group["n"]]
        assert group["outcomes"] == right[members].sum()
        assert group["predicted"] == pytest.approx(sure[members].mean(), abs=2.5e-3)
        at += group["n"]
    assert at == 2000 and found["ece"]["value"] < 0.06


# -- numbers ------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 300), noise=st.sampled_from([0.1, 3.0, 20.0]))
def test_errors_are_scikit_learns_on_the_pooled_patients_with_intervals(seed: int, n: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(60, 12, n).clip(0, 120)
    guess = (y + rng.normal(1, noise, n)).clip(0, 120)
    kind = NumberEvaluation(low=0, high=120)
    found = kind.metrics(opened(kind, guess, y, split(n, rng)))
    error, z = guess - y, 1.959963984540054
    assert found["mse"]["value"] == pytest.approx(mean_squared_error(y, guess), rel=1e-9)
    assert found["mae"]["value"] == pytest.approx(mean_absolute_error(y, guess), rel=1e-9)
    assert found["rmse"]["value"] == pytest.approx(mean_squared_error(y, guess) ** 0.5, rel=1e-9)
    assert found["bias"]["value"] == pytest.approx(error.mean(), rel=1e-9, abs=1e-9)
    assert found["r2"]["value"] == pytest.approx(r2_score(y, guess), abs=1e-9)
    for name, values in (("mse", error**2), ("mae", abs(error)), ("bias", error)):
        assert found[name]["high"] - found[name]["value"] == pytest.approx(z * values.std(ddof=1) / n**0.5, rel=1e-3)
    a, b = (error**2).mean(), y.var()
    influence = -(error**2 - a) / b + a / b**2 * ((y - y.mean()) ** 2 - b)
    assert found["r2"]["value"] - found["r2"]["low"] == pytest.approx(z * influence.std() / n**0.5, rel=1e-3)


def test_predictions_beyond_the_declared_bounds_count_as_the_nearer_bound_and_are_told() -> None:
    y, guess = np.linspace(0, 10, 100), np.linspace(-5, 15, 100)
    kind = NumberEvaluation(low=0, high=10)
    found = kind.metrics(kind.part(guess, y))
    assert found["outside"] == 50
    assert found["mse"]["value"] == pytest.approx(mean_squared_error(y, guess.clip(0, 10)), rel=1e-9)


def test_r2_of_values_that_are_all_the_same_is_none() -> None:
    kind = NumberEvaluation(low=0, high=10)
    found = kind.metrics(kind.part(np.linspace(0, 10, 50), np.full(50, 3.0)))
    assert found["r2"]["value"] is None and found["mse"]["value"] is not None
