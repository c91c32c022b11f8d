"""Evaluation of predicted survival: lifelines' concordance of the pooled patients, and Graf's Brier score written by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index

from tests.support.scores import opened, split, survival
from unisono.errors import MethodError
from unisono.methods.evaluation.concordance import comparable_pairs, concordance, table
from unisono.methods.evaluation.survival import SurvivalEvaluation

POINTS, TIMES = 40, (3, 8, 15, 25)


def predicted(risk: np.ndarray) -> np.ndarray:
    """Survival at TIMES by a model that is not quite the one that made the data."""
    return np.exp(-np.outer(np.exp(0.5 * risk) / 18, TIMES))


def uncensored(exits: np.ndarray, event: np.ndarray) -> KaplanMeierFitter:
    """lifelines' curve of censoring; censorings half a step later, so that events of the same time come before them."""
    return KaplanMeierFitter().fit(exits + 0.5 * (event < 0.5), event < 0.5)


def brier_by_hand(s: np.ndarray, exits: np.ndarray, event: np.ndarray, t: int) -> float:
    """Graf et al. (1999), equation 8, patient by patient."""
    g = uncensored(exits, event)
    before, beyond = g.predict(exits).to_numpy(), float(g.predict(t + 0.5))  # censorings are half a step later
    total = 0.0
    for survived, exit_, happened, weight in zip(s, exits, event, before, strict=True):
        if exit_ <= t and happened:
            total += survived**2 / weight
        elif exit_ > t:
            total += (1 - survived) ** 2 / beyond
    return total / len(s)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(30, 300), bins=st.sampled_from([3, 20, 100]))
def test_concordance_over_pairs_of_all_hospitals_is_lifelines_of_the_binned_risk(seed: int, n: int, bins: int) -> None:
    risk, target = survival(seed, n, POINTS)
    kind = SurvivalEvaluation(points=POINTS, bins=bins, min_count=1)
    found = kind.metrics(opened(kind, risk, target, split(n, np.random.default_rng(seed))))
    reference = concordance_index(target[:, 0], -kind.scale.index(risk), target[:, 1])
    assert found["concordance"]["value"] == pytest.approx(reference, abs=1e-12)
    assert (found["n"], found["events"]) == (n, int(target[:, 1].sum()))
    json.dumps(found, allow_nan=False)


def test_the_bins_of_the_risk_cost_little() -> None:
    risk, target = survival(1, 3000, POINTS)
    kind = SurvivalEvaluation(points=POINTS)
    found = kind.metrics(kind.part(risk, target))
    assert found["concordance"]["value"] == pytest.approx(
        concordance_index(target[:, 0], -risk, target[:, 1]), abs=1e-3
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 40))
def test_pairs_are_counted_as_by_looking_at_each(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    time, event, risk = rng.integers(0, 6, n), rng.integers(0, 2, n), rng.integers(0, 4, n)
    right = comparable = 0.0
    for i in range(n):
        for j in range(n):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j] and i != j)):
                comparable += 1
                right += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
    cells = table(time, event, risk, 6, 4)
    assert comparable_pairs(cells) == comparable
    value = concordance(cells)["value"]
    assert value is None if comparable == 0 else value == pytest.approx(right / comparable, abs=1e-12)


def test_the_interval_of_the_concordance_is_that_of_the_jackknife() -> None:
    risk, target = survival(5, 400, POINTS)
    kind = SurvivalEvaluation(points=POINTS)
    index = kind.scale.index(risk)
    position, event = target[:, 0].astype(int), target[:, 1]

    def value(keep: np.ndarray) -> float:
        found = concordance(table(position[keep], event[keep], index[keep], POINTS, kind.scale.bins))["value"]
        assert found is not None
        return found

    everyone = np.ones(400, bool)
    left_out = []
    for i in range(400):
        everyone[i] = False
        left_out.append(value(everyone))
        everyone[i] = True
    error = np.sqrt(399 * np.var(left_out))
    found = kind.metrics(kind.part(risk, target))["concordance"]
    assert (found["high"] - found["low"]) / 2 / 1.959963984540054 == pytest.approx(error, rel=0.02)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(60, 200))
def test_the_brier_score_in_one_sum_is_grafs_of_the_pooled_patients(seed: int, n: int) -> None:
    risk, target = survival(seed, n, POINTS)
    kind = SurvivalEvaluation(points=POINTS, times=TIMES, step=0.5, min_count=2)
    columns = np.column_stack([risk, predicted(risk)])
    found = kind.metrics(opened(kind, columns, target, split(n, np.random.default_rng(seed))))
    scores, exits, event = [], target[:, 0], target[:, 1]
    for j, t in enumerate(TIMES):
        assert found["brier"][j]["time"] == t * 0.5
        if found["brier"][j]["value"] is None:
            assert (exits > t).sum() < 2 or float(uncensored(exits, event).predict(t + 0.5)) == 0
            continue
        expected = brier_by_hand(columns[:, 1 + j], exits, event, t)
        assert found["brier"][j]["value"] == pytest.approx(expected, abs=1e-9)
        scores.append((t, expected))
    t, value = np.array(scores).T
    if len(t) > 1:
        assert found["integrated_brier"]["value"] == pytest.approx(np.trapezoid(value, t) / (t[-1] - t[0]), abs=1e-9)


def test_without_censoring_the_brier_score_is_the_mean_squared_error() -> None:
    risk, target = survival(2, 300, POINTS)
    target[:, 1] = 1.0
    kind = SurvivalEvaluation(points=POINTS, times=TIMES)
    columns = np.column_stack([risk, predicted(risk)])
    for j, found in enumerate(kind.metrics(kind.part(columns, target))["brier"]):
        error = ((target[:, 0] > TIMES[j]) - columns[:, 1 + j]) ** 2
        assert found["value"] == pytest.approx(error.mean(), abs=1e-12)
        assert found["high"] == pytest.approx(error.mean() + 1.959963984540054 * error.std() / 300**0.5, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 200), sites=st.integers(1, 5))
def test_the_part_of_a_pool_is_the_sum_of_the_parts_of_its_sites(seed: int, n: int, sites: int) -> None:
    risk, target = survival(seed, n, POINTS)
    kind = SurvivalEvaluation(points=POINTS, times=TIMES, bins=20)
    columns = np.column_stack([risk, predicted(risk)])
    pool = kind.part(columns, target)
    total = opened(kind, columns, target, split(n, np.random.default_rng(seed), sites))
    for name, value in pool.items():
        assert np.allclose(total[name], value, rtol=0, atol=0 if name == "patients" else 1e-9)


def test_a_time_beyond_which_few_are_followed_has_no_score() -> None:
    risk, target = survival(3, 60, POINTS)
    kind = SurvivalEvaluation(points=POINTS, times=(2, 38))
    columns = np.column_stack([risk, np.full((60, 2), 0.5)])
    first, last = kind.metrics(kind.part(columns, target))["brier"]
    assert first["value"] is not None and last["value"] is None


def test_few_events_hide_concordance_and_scores() -> None:
    risk, target = survival(3, 100, POINTS)
    target[:, 1] = np.arange(100) < 4
    kind = SurvivalEvaluation(points=POINTS, times=(2,))
    found = kind.metrics(kind.part(np.column_stack([risk, np.full(100, 0.5)]), target))
    assert (found["n"], found["events"], found["pairs"]) == (100, None, None)
    assert found["concordance"]["value"] is None and found["brier"][0]["value"] is None


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({"points": 50_000, "bins": 100}, "histogram-size"),
        ({"points": 10, "times": (3, 2)}, "times-in-follow-up"),
        ({"points": 10, "times": (3, 10)}, "times-in-follow-up"),
    ],
)
def test_a_grid_that_cannot_be_used_is_refused(said: dict, rule: str) -> None:
    with pytest.raises(MethodError) as refused:
        SurvivalEvaluation(**said)
    assert refused.value.rule == rule


def test_a_long_grid_has_fewer_bins_of_the_risk() -> None:
    assert SurvivalEvaluation(points=1000).scale.bins == 100
    assert SurvivalEvaluation(points=50_000).scale.bins == 10
