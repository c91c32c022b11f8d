"""Evaluation of a yes-or-no outcome: scikit-learn's numbers of the binned scores, exactly, from sums of histograms."""

from __future__ import annotations

import json

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    roc_auc_score,
)

from tests.support.scores import binary, opened, split
from unisono.errors import DataError, MethodError
from unisono.methods.evaluation import grouped, ranking
from unisono.methods.evaluation.binary import BinaryEvaluation
from unisono.methods.evaluation.intervals import wilson
from unisono.methods.evaluation.kinds import evaluation
from unisono.methods.evaluation.scale import Scale, histogram

HISTOGRAMS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=2, max_size=40)


def delong(scores: np.ndarray, happened: np.ndarray) -> tuple[float, float]:
    """AUROC and its variance from all pairs, as DeLong, DeLong & Clarke-Pearson (1988) write it."""
    x, y = scores[happened], scores[~happened]
    psi = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    variance = psi.mean(axis=1).var(ddof=1) / len(x) + psi.mean(axis=0).var(ddof=1) / len(y)
    return float(psi.mean()), float(variance)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(60, 500))
def test_discrimination_and_losses_are_scikit_learns_on_the_pooled_patients(seed: int, n: int) -> None:
    p, y = binary(seed, n)
    kind = BinaryEvaluation(min_count=1)
    found = kind.metrics(opened(kind, p, y, split(n, np.random.default_rng(seed))))
    binned = kind.scale.index(p)
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(y, binned), abs=1e-12)
    assert found["average_precision"]["value"] == pytest.approx(average_precision_score(y, binned), abs=1e-12)
    assert found["brier"]["value"] == pytest.approx(brier_score_loss(y, p), abs=1e-9)
    assert found["log_loss"]["value"] == pytest.approx(log_loss(y, p), abs=1e-9)
    assert (found["n"], found["events"]) == (n, int(y.sum()))
    json.dumps(found, allow_nan=False)
    # How far the bins are from the scores themselves: the pairs that they tie, and nothing else.
    tied = (binned[y > 0.5][:, None] == binned[y < 0.5][None, :]).mean()
    assert abs(found["auroc"]["value"] - roc_auc_score(y, p)) <= tied / 2 + 1e-12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(20, 200), bins=st.sampled_from([10, 50, 1000]))
def test_the_interval_is_delongs_of_the_binned_scores(seed: int, n: int, bins: int) -> None:
    p, y = binary(seed, n)
    kind = BinaryEvaluation(bins=bins, min_count=1)
    binned = kind.scale.index(p)
    area, variance = delong(binned, y > 0.5)
    found = kind.metrics(kind.part(p, y))["auroc"]
    assert found["value"] == pytest.approx(area, abs=1e-12)
    assert found["low"] == pytest.approx(max(area - 1.959963984540054 * variance**0.5, 0), abs=1e-12)
    assert found["high"] == pytest.approx(min(area + 1.959963984540054 * variance**0.5, 1), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 300), sites=st.integers(1, 6))
def test_the_part_of_a_pool_is_the_sum_of_the_parts_of_its_sites(seed: int, n: int, sites: int) -> None:
    p, y = binary(seed, n)
    kind = BinaryEvaluation()
    pool, total = kind.part(p, y), opened(kind, p, y, split(n, np.random.default_rng(seed), sites))
    assert set(pool) == set(total) == set(kind.leaves(n))
    for name, value in pool.items():
        exactly = name.endswith("outcome")
        assert np.allclose(total[name], value, rtol=0, atol=0 if exactly else 1e-9 * max(n, 1))


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_what_needs_both_outcomes_is_not_known_where_all_patients_have_one(outcome: float) -> None:
    """As at a small hospital, which sees all of its own numbers."""
    kind = BinaryEvaluation(min_count=1)
    p = np.linspace(0.05, 0.95, 40)
    found = kind.metrics(kind.part(p, np.full(40, outcome)))
    assert found["n"] == 40 and found["events"] == 40 * outcome
    assert found["roc"] is None and found["auroc"]["value"] is None
    assert found["confusion"]["f1"]["value"] == (
        None if outcome == 0 else pytest.approx(f1_score(np.ones(40), p >= 0.5))
    )
    assert found["confusion"]["accuracy"]["value"] == pytest.approx(0.5)


def test_perfect_and_one_sided_orders_have_a_value_and_no_made_up_interval() -> None:
    apart = ranking.auroc(np.array([0, 0, 9]), np.array([9, 0, 0]))
    assert apart == {"value": 1.0, "low": None, "high": None}
    assert ranking.auroc(np.array([0, 0]), np.array([3, 4]))["value"] is None
    assert ranking.average_precision(np.array([0, 0]), np.array([3, 4]))["value"] is None
    assert ranking.average_precision(np.array([0, 2]), np.array([3, 0]))["value"] == 1.0


def test_rare_outcomes_keep_their_order_in_the_finer_bins_of_the_tails() -> None:
    rng = np.random.default_rng(5)
    logit = rng.normal(-6, 1.2, 40_000)
    p = 1 / (1 + np.exp(-logit))
    y = (rng.random(40_000) < p).astype(float)
    kind = BinaryEvaluation()
    found = kind.metrics(kind.part(p, y))
    assert y.mean() < 0.01
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(y, p), abs=2e-4)
    assert found["calibration"]["slope"]["value"] == pytest.approx(1.0, abs=0.15)


# -- calibration --------------------------------------------------------------------------------------------------------


def test_recalibration_is_the_logistic_regression_of_the_binned_and_nearly_of_the_unbinned_probabilities() -> None:
    p, y = binary(3, 4000)
    kind = BinaryEvaluation()
    found = kind.metrics(kind.part(p, y))["calibration"]
    middles = kind.scale.middles[kind.scale.index(p)]
    for probability, within in ((middles, 1e-8), (p, 2e-4)):
        x = np.log(probability / (1 - probability))
        fit = sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial()).fit(tol=1e-14)
        limits = fit.conf_int()
        for k, name in enumerate(("intercept", "slope")):
            assert found[name]["value"] == pytest.approx(fit.params[k], abs=within)
            assert found[name]["low"] == pytest.approx(limits[k][0], abs=within)
            assert found[name]["high"] == pytest.approx(limits[k][1], abs=within)
        large = sm.GLM(y, np.ones(len(y)), family=sm.families.Binomial(), offset=x).fit(tol=1e-14)
        assert found["in_the_large"]["value"] == pytest.approx(large.params[0], abs=within)
    assert found["expected"] == pytest.approx(p.mean(), abs=5e-4)
    assert found["observed"]["value"] == y.mean()


def test_calibration_error_is_that_of_the_groups_shown_and_within_half_a_bin_of_the_unbinned() -> None:
    p, y = binary(8, 3000)
    kind = BinaryEvaluation()
    found = kind.metrics(kind.part(p, y))["calibration"]
    groups, order = found["reliability"], np.argsort(kind.scale.index(p), kind="stable")
    assert 8 <= len(groups) <= 10 and sum(g["n"] for g in groups) == 3000
    at, error = 0, 0.0
    for group in groups:
        members = order[at : at + group["n"]]
        assert group["outcomes"] == y[members].sum()
        assert group["predicted"] == pytest.approx(p[members].mean(), abs=5e-4)
        error += abs(p[members].mean() - y[members].mean()) * len(members) / 3000
        at += group["n"]
    assert found["ece"]["value"] == pytest.approx(error, abs=5e-4)


def test_a_slope_that_does_not_exist_is_none() -> None:
    kind = BinaryEvaluation(min_count=1)
    apart = kind.metrics(kind.part(np.repeat([0.2, 0.8], 20), np.repeat([0.0, 1.0], 20)))["calibration"]
    alike = kind.metrics(kind.part(np.full(40, 0.3), np.repeat([0.0, 1.0], 20)))["calibration"]
    assert apart["slope"]["value"] is None and alike["slope"]["value"] is None
    assert alike["in_the_large"]["value"] == pytest.approx(np.log(0.7 / 0.3), abs=1e-2)


# -- confusion ----------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.5, 0.3, 0.123456, 0.731]))
def test_the_confusion_matrix_at_any_threshold_is_scikit_learns(seed: int, threshold: float) -> None:
    p, y = binary(seed, 300)
    kind = BinaryEvaluation(threshold=threshold, min_count=1)
    found = kind.metrics(kind.part(p, y))["confusion"]
    tn, fp, fn, tp = confusion_matrix(y, p >= threshold, labels=[0, 1]).ravel()
    names = ("true_negative", "false_positive", "false_negative", "true_positive")
    assert [found[name] for name in names] == [tn, fp, fn, tp]
    assert found["sensitivity"] == wilson(int(tp), int(tp + fn), 0.95)
    assert found["f1"]["value"] == pytest.approx(f1_score(y, p >= threshold), abs=1e-12)


def test_wilson_is_statsmodels() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for k, n in ((0, 12), (3, 12), (12, 12), (431, 1000)):
        low, high = proportion_confint(k, n, method="wilson")
        assert wilson(k, n, 0.95)["low"] == pytest.approx(low, abs=1e-9)
        assert wilson(k, n, 0.95)["high"] == pytest.approx(high, abs=1e-9)


# -- what is shown ------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(HISTOGRAMS, st.integers(1, 10), st.integers(1, 39))
def test_no_group_between_two_cuts_is_small(table: list[tuple[int, int]], least: int, fixed: int) -> None:
    positive, negative = np.array(table).T
    edges = grouped.cuts(positive, negative, least, (fixed,))
    assert edges == sorted(set(edges)) and all(0 < e < len(positive) for e in edges)
    for cells in (grouped.summed(positive, edges), grouped.summed(negative, edges)):
        if edges:
            assert ((cells == 0) | (cells >= least)).all()


def test_roc_reliability_and_threshold_are_cut_at_the_same_places() -> None:
    """Else the two could be subtracted, and a patient be left between them."""
    p, y = binary(4, 800)
    kind = BinaryEvaluation()
    found = kind.metrics(kind.part(p, y))
    m, n = y.sum(), len(y) - y.sum()
    hits = {round(r * m) for r in found["roc"]["true_positive_rate"]}
    above = 0
    for group in reversed(found["calibration"]["reliability"]):
        above += group["outcomes"]
        assert above in hits
    assert found["confusion"]["true_positive"] in hits
    alarms = sorted(round(r * n) for r in found["roc"]["false_positive_rate"])
    assert all(step == 0 or step >= 10 for step in np.diff(alarms))


def test_few_outcomes_hide_everything_but_the_losses() -> None:
    p, y = np.linspace(0.01, 0.9, 200), np.r_[np.zeros(196), np.ones(4)]
    kind = BinaryEvaluation()
    found = kind.metrics(kind.part(p, y))
    assert (found["n"], found["events"], found["auroc"]["value"], found["confusion"]) == (200, None, None, None)
    assert found["brier"]["value"] == pytest.approx(brier_score_loss(y, p), abs=1e-12)
    assert kind.metrics(kind.part(p[:5], y[:5]))["brier"]["value"] is None
    assert kind.metrics(kind.part(p[:0], y[:0]))["n"] is None


def test_a_small_cell_of_the_matrix_hides_the_matrix_and_its_rates() -> None:
    p, y = (
        np.r_[np.full(97, 0.9), np.full(3, 0.1), np.full(60, 0.8), np.full(140, 0.2)],
        np.repeat([1.0, 0.0], [100, 200]),
    )
    kind = BinaryEvaluation()
    found = kind.metrics(kind.part(p, y))["confusion"]
    assert found["false_negative"] is None and found["sensitivity"]["value"] is None
    assert found["accuracy"]["value"] == pytest.approx(237 / 300)


# -- bins and bad input -------------------------------------------------------------------------------------------------


def test_every_probability_has_a_bin_and_bins_are_in_order() -> None:
    scale = Scale.probabilities()
    values = np.array([0.0, 1e-9, 1e-6, 0.0099, 0.01, 0.5, 0.9999999, 1.0])
    index = scale.index(values)
    assert index.min() == 0 and index.max() == scale.bins - 1
    assert (np.diff(index) >= 0).all() and index[0] == index[1] < index[2]
    assert (np.diff(scale.middles) > 0).all() and len(scale.middles) == scale.bins
    inside = scale.middles[scale.index(np.linspace(0, 1, 5001))]
    assert np.abs(inside - np.linspace(0, 1, 5001)).max() <= 5e-4 + 1e-12
    assert histogram(index, scale.bins).sum() == len(values)


def test_a_risk_of_any_size_keeps_its_order() -> None:
    scale = Scale.unbounded(100)
    risk = np.array([-1e9, -3.0, -0.1, 0.0, 0.1, 3.0, 1e9])
    assert (np.diff(scale.index(risk)) > 0).all()


def test_a_bounded_score_is_ranked_and_not_taken_for_a_probability() -> None:
    p, y = binary(2, 400)
    kind = BinaryEvaluation(bounds=(0, 20), threshold=10, min_count=1)
    found = kind.metrics(opened(kind, 20 * p, y, split(400, np.random.default_rng(1))))
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(y, kind.scale.index(20 * p)), abs=1e-12)
    assert "brier" not in found and "calibration" not in found
    assert found["confusion"]["true_positive"] == int(((p >= 0.5) & (y > 0.5)).sum())


@pytest.mark.parametrize(
    ("value", "rule"), [(1.2, "probabilities"), (-0.3, "probabilities"), (np.nan, "finite-predictions")]
)
def test_what_is_no_probability_is_refused_at_the_site(value: float, rule: str) -> None:
    with pytest.raises(DataError) as refused:
        BinaryEvaluation().part(np.array([0.5, value]), np.array([0.0, 1.0]))
    assert refused.value.rule == rule and str(value) not in str(refused.value)


def test_a_softmax_of_single_precision_is_a_probability() -> None:
    BinaryEvaluation().part(np.array([1 + 1e-6, -1e-7], np.float32), np.array([0.0, 1.0]))


def test_an_evaluation_that_is_not_there_is_named() -> None:
    with pytest.raises(MethodError) as refused:
        evaluation("ranking")
    assert refused.value.rule == "known-evaluations"
    with pytest.raises(MethodError):
        Scale.between(3, 3)
