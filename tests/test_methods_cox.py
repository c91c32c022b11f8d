"""Cox regression over hospitals equals the pooled fit (stratified, or with a common baseline), and explains when it cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from scipy.stats import chi2, norm
from statsmodels.duration.hazard_regression import PHReg

from tests.support import lung
from tests.support.plain import PlainFederation, answer
from unisono.errors import MethodError
from unisono.federation.contribution import BoundContribution
from unisono.methods.registry import build, check
from unisono.methods.survival.concordance import pairs
from unisono.methods.survival.cox import CoxRegression, CoxSpec
from unisono.methods.survival.cox_checks import ph_advice
from unisono.methods.survival.cox_result import CoxResult
from unisono.methods.survival.partial_likelihood import (
    event_weight,
    information,
    log_likelihood,
    risk_sums,
    score,
    tie_terms,
)
from unisono.methods.survival.risk_sets import RiskData
from unisono.study.document import Study
from unisono.study.table import Table

EXACT = {"fit_options": {"precision": 1e-14}}
BASELINES = ("per-site", "common")
GRID = {"step": 7, "unit": "d"}


class Strict(PlainFederation):
    """Also checks every argument against its declared limit, and every ask against the plan."""

    async def sum(self, contribution: BoundContribution[..., Any], *arguments: Any) -> Any:
        declared = contribution.declaration(self.facts, *arguments).arguments
        assert tuple(declared) == contribution.contribution.parameters
        for (name, allowed), value in zip(declared.items(), arguments, strict=True):
            assert np.shape(value) == allowed.shape, name
            assert np.abs(value).max(initial=0) <= allowed.limit, name
        planned = {ask.contribution.name: ask for ask in contribution.method.plan()}
        assert self.steps.count(contribution.name) < planned[contribution.name].at_most
        return await super().sum(contribution, *arguments)


def fit(method: CoxRegression, tables: Sequence[Table]) -> CoxResult:
    result = asyncio.run(method.run(Strict(method, tables)))  # type: ignore[arg-type]
    assert isinstance(result, CoxResult)
    return result


def cox(study: Study, **written: object) -> CoxRegression:
    """The study's `effect`, with some of its keys replaced."""
    document = study.model_dump(mode="json")
    effect = {**study.analyses["effect"].model_dump(mode="json"), **written}
    effect.setdefault("grid", GRID)
    method = build(Study.model_validate({**document, "analyses": {"effect": effect}}), "effect")
    assert isinstance(method, CoxRegression)
    return method


def on_lung(**written: object) -> CoxResult:
    return fit(cox(lung.study(), **written), lung.tables(lung.frame()))


def assert_close(result: CoxResult, coef: Any, se: Any, rtol: float = 1e-7) -> None:
    table = result.coefficients
    error = np.abs(table["coef"] - np.asarray(coef))
    # relative, or where a coefficient is next to nothing, 1e-8 of its standard error: lifelines itself stops about there
    assert (error <= np.maximum(rtol * np.abs(table["coef"]), 1e-8 * table["se"])).all()
    np.testing.assert_allclose(result.coefficients["se"], np.asarray(se), rtol=rtol)


# -- equal to pooled ---------------------------------------------------------------------------------------------------


def lifelines_lung(baseline: str) -> CoxPHFitter:
    stratum = ["site"] if baseline == "per-site" else []
    data = lung.frame()[["time", "died", "age", "sex", "ecog", *stratum]]
    return CoxPHFitter().fit(data, "time", "died", strata=stratum or None, **EXACT)


@pytest.mark.parametrize("baseline", BASELINES)
def test_efron_is_lifelines_on_the_pooled_patients(baseline: str) -> None:
    result, pooled = on_lung(baseline=baseline), lifelines_lung(baseline)
    assert_close(result, pooled.params_, pooled.standard_errors_, rtol=1e-9)
    np.testing.assert_allclose(result.estimates["covariance"], pooled.variance_matrix_, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(result.coefficients["p"], pooled.summary["p"], rtol=1e-7)
    np.testing.assert_allclose(result.coefficients["ci_high"], pooled.summary["exp(coef) upper 95%"], rtol=1e-9)
    assert result.estimates["log_likelihood"] == pytest.approx(pooled.log_likelihood_, rel=1e-11)
    test = pooled.log_likelihood_ratio_test()
    mine = result.estimates["tests"]["likelihood_ratio"]
    assert mine["statistic"] == pytest.approx(test.test_statistic, rel=1e-9)
    assert mine["p"] == pytest.approx(test.p_value, rel=1e-8)
    assert result.estimates["aic"] == pytest.approx(pooled.AIC_partial_, rel=1e-10)


@pytest.mark.parametrize("baseline", BASELINES)
def test_breslow_is_statsmodels_on_the_pooled_patients(baseline: str) -> None:
    data = lung.frame()
    strata = data["site"] if baseline == "per-site" else None
    pooled = PHReg(data["time"], data[["age", "sex", "ecog"]], data["died"], ties="breslow", strata=strata)
    fitted = pooled.fit(method="newton", tol=1e-14, maxiter=50, disp=0)
    result = on_lung(baseline=baseline, ties="breslow")
    assert_close(result, fitted.params, fitted.bse)
    assert result.estimates["log_likelihood"] == pytest.approx(fitted.llf, rel=1e-10)


def simulated(seed: int, n: int = 240) -> tuple[Study, pd.DataFrame]:
    """Patients with ties, delayed entry, weights, a three-level category and an interaction to fit."""
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"site": np.array(lung.SITES)[rng.integers(0, 4, n)]})
    data["age"] = rng.normal(60, 10, n).clip(18, 100).round()
    data["stage"] = rng.integers(0, 3, n).astype(float)
    data["treated"] = rng.integers(0, 2, n).astype(float)
    data["weight"] = rng.uniform(0.5, 3, n).round(2)
    eta = 0.03 * (data["age"] - 60) + 0.4 * data["stage"] - 0.5 * data["treated"]
    data["start"] = rng.integers(0, 10, n).astype(float)
    event = rng.exponential(20 * np.exp(-eta))
    end = rng.uniform(1, 60, n)
    data["time"] = data["start"] + np.ceil(np.minimum(event, end)).clip(1, 60)
    data["died"] = (event <= end).astype(float)
    study = Study.model_validate(
        {
            "unisono": 1,
            "id": "sim",
            "question": "?",
            "variables": {
                "time": {"type": "number", "unit": "mo", "min": 0, "max": 80},
                "start": {"type": "number", "unit": "mo", "min": 0, "max": 80},
                "died": {"type": "boolean"},
                "treated": {"type": "boolean"},
                "age": {"type": "number", "unit": "a", "min": 18, "max": 100},
                "stage": {"type": "category", "levels": ["I", "II", "III"], "reference": "II"},
                "weight": {"type": "number", "min": 0, "max": 4},
            },
            "analyses": {
                "effect": {
                    "method": "cox",
                    "time": "time",
                    "event": "died",
                    "covariates": ["age", "stage", "treated", "age:treated"],
                    "grid": {"step": 1, "unit": "mo"},
                }
            },
        }
    )
    return study, data


def columns(data: pd.DataFrame) -> pd.DataFrame:
    """The simulated design, one column a coefficient, in order."""
    stage = {"I": (data["stage"] == 0).astype(float), "III": (data["stage"] == 2).astype(float)}
    return pd.DataFrame(
        {"age": data["age"], **stage, "treated": data["treated"], "inter": data["age"] * data["treated"]}
    )


def month(study: Study, **written: object) -> CoxRegression:
    return cox(study, grid={"step": 1, "unit": "mo"}, **written)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("entry", [None, "start"])
@pytest.mark.parametrize("weights", [None, "weight"])
@pytest.mark.filterwarnings("ignore:It appears your weights")
def test_entry_and_weights_categories_and_interactions_are_lifelines(
    baseline: str, entry: str | None, weights: str | None
) -> None:
    study, data = simulated(7)
    written = {k: v for k, v in {"entry": entry, "weights": weights}.items() if v}
    result = fit(month(study, baseline=baseline, **written), lung.tables(data))
    frame = columns(data).assign(**{c: data[c] for c in ("time", "died", "start", "weight", "site")})
    used = [*columns(data), "time", "died", *written.values(), *(["site"] if baseline == "per-site" else [])]
    pooled = CoxPHFitter().fit(
        frame[used],
        "time",
        "died",
        entry_col=entry,
        weights_col=weights,
        strata=["site"] if baseline == "per-site" else None,
        **EXACT,
    )
    assert list(result.coefficients.index) == ["age", "stage[I]", "stage[III]", "treated", "age:treated"]
    assert_close(result, pooled.params_, np.sqrt(np.diag(pooled.variance_matrix_)))
    assert result.estimates["log_likelihood"] == pytest.approx(pooled.log_likelihood_, rel=1e-9)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_with_a_common_baseline_it_does_not_matter_where_patients_are(ties: str) -> None:
    study, data = simulated(3)
    method = month(study, baseline="common", entry="start", ties=ties)
    apart, together = fit(method, lung.tables(data)), fit(method, [lung.table(data)])
    np.testing.assert_allclose(apart.coefficients, together.coefficients, rtol=1e-9)
    np.testing.assert_allclose(apart.ph_check, together.ph_check, rtol=1e-7)
    pd.testing.assert_frame_equal(apart.baseline, together.baseline, rtol=1e-9)


def test_one_hospital_has_one_baseline_whichever_way_it_is_fitted() -> None:
    study, data = simulated(4)
    one = [lung.table(data)]
    mine = [fit(month(study, baseline=b, entry="start", weights="weight", at=[12, 24]), one) for b in BASELINES]
    np.testing.assert_allclose(mine[0].coefficients, mine[1].coefficients, rtol=1e-9)
    np.testing.assert_allclose(mine[0].ph_check, mine[1].ph_check, rtol=1e-7)
    pd.testing.assert_frame_equal(mine[0].survival_at, mine[1].survival_at, rtol=1e-8)


def test_patients_with_weight_zero_are_left_out() -> None:
    study, data = simulated(5)
    data.loc[::3, "weight"] = 0.0
    whole, kept = (fit(month(study, weights="weight"), lung.tables(d)) for d in (data, data[data["weight"] > 0]))
    assert whole.estimates["n"] == kept.estimates["n"] == int((data["weight"] > 0).sum())
    np.testing.assert_allclose(whole.coefficients, kept.coefficients, rtol=1e-9)


# -- the kernel ---------------------------------------------------------------------------------------------------------


def kernel(method: CoxRegression, data: RiskData, beta: np.ndarray[Any, Any]) -> tuple[float, Any, Any]:
    sums = risk_sums(data, beta)
    terms = tie_terms(sums.s0, sums.t0, data.deaths, event_weight(data), efron=method.efron)
    return log_likelihood(data, sums, terms), score(data, sums, terms), information(data, sums, terms)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), ties=st.sampled_from(["efron", "breslow"]))
def test_score_and_information_are_the_derivatives_of_the_likelihood(seed: int, ties: str) -> None:
    study, data = simulated(seed, 60)
    method = month(study, entry="start", weights="weight", ties=ties)
    risk = method.prepare(lung.table(data)).risk
    beta = np.random.default_rng(seed).normal(0, 0.5, method.p)
    _, slope, curvature = kernel(method, risk, beta)
    h = 1e-5
    ahead, behind = ([kernel(method, risk, beta + s * h * e) for e in np.eye(method.p)] for s in (1, -1))
    np.testing.assert_allclose(
        slope, [(a[0] - b[0]) / (2 * h) for a, b in zip(ahead, behind, strict=True)], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        curvature, [-(a[1] - b[1]) / (2 * h) for a, b in zip(ahead, behind, strict=True)], rtol=1e-5, atol=1e-5
    )


def test_extreme_coefficients_do_not_overflow() -> None:
    study, data = simulated(1)
    method = month(study)
    for corner in (20.0, -20.0):
        value = method.derivatives.compute(method.prepare(lung.table(data)), np.full(method.p, corner))
        assert all(np.isfinite(leaf).all() for leaf in value.values())


# -- proportional hazards ------------------------------------------------------------------------------------------------


def brute_force(method: CoxRegression, tables: Sequence[Table], beta: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Score and information of (z, z g(t)) at (beta, 0), Efron, by loops over hospitals, times and ties; g(t) = t."""
    q = 2 * method.p
    u, info = np.zeros(q), np.zeros((q, q))
    for table in tables:
        z, time, died = method.design.matrix(table), table["time"], table["died"] > 0.5
        r = np.exp(z @ beta)
        for t in np.unique(time[died]):
            x = np.hstack([z, z * t])
            risk, tied = time >= t, died & (time == t)
            for fraction in np.arange(tied.sum()) / tied.sum():
                w = r * (risk - fraction * tied)
                mean = w @ x / w.sum()
                u += x[tied].mean(axis=0) - mean
                info += (x * w[:, None]).T @ x / w.sum() - np.outer(mean, mean)
    return u, info


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_check_of_proportional_hazards_is_the_pooled_score_test(baseline: str) -> None:
    study, data = simulated(11, 120)
    method = month(study, baseline=baseline)
    result = fit(method, lung.tables(data))
    tables = lung.tables(data) if baseline == "per-site" else [lung.table(data)]
    p = method.p
    u, info = brute_force(method, tables, result.coefficients["coef"].to_numpy() * method.design.half)
    u[:p] = 0
    terms = {"age": [0], "stage": [1, 2], "treated": [3], "age:treated": [4], "global": list(range(p))}
    for name, js in terms.items():
        keep = [*range(p), *(p + j for j in js)]
        statistic = u[keep] @ np.linalg.solve(info[np.ix_(keep, keep)], u[keep])
        row = result.ph_check.loc[name]
        assert row["chi2"] == pytest.approx(statistic, rel=1e-6)
        assert row["df"] == len(js)
        assert row["p"] == pytest.approx(chi2.sf(statistic, len(js)), rel=1e-5)


def crossing(n: int = 400) -> pd.DataFrame:
    """Patients whose treatment helps early and harms late."""
    rng = np.random.default_rng(0)
    data = simulated(12, n)[1]
    treated = data["treated"] == 1
    data["time"] = np.where(treated, rng.integers(20, 30, n), rng.integers(1, 40, n)).astype(float)
    return data.assign(died=1.0)


def test_a_failed_check_of_proportional_hazards_is_a_note_that_names_the_covariate() -> None:
    study, data = simulated(12)[0], crossing()
    result = fit(month(study, covariates=["age", "treated"]), lung.tables(data))
    assert result.ph_check.loc["treated", "p"] < 0.001
    assert result.ph_check.loc["age", "p"] > 0.05
    assert (
        "The hazard ratio of treated may change with time (p < 0.001): one number is an average over time."
        in result.notes
    )
    assert not any("change with time" in note for note in on_lung(covariates=["age", "sex"]).notes)


def test_notes_of_the_check_name_every_covariate_or_say_that_none_stands_out() -> None:
    def said(**p: float | None) -> list[str]:
        return ph_advice(lung.study(), [{"name": name, "p": value} for name, value in p.items()])

    assert said(age=0.2, sex=None, **{"global": 0.06}) == []
    both = said(age=0.012, sex=0.0001, ecog=0.5, **{"global": 0.3})
    assert both == [
        "The hazard ratios of age (p = 0.012) and sex (p < 0.001) may change with time: "
        "one number for each is an average over time."
    ]
    (alone,) = said(age=0.2, sex=0.3, **{"global": 0.03})
    assert "no covariate stands out" in alone and "p = 0.030" in alone


def test_the_check_can_be_on_the_logarithm_of_time_or_left_out() -> None:
    assert on_lung(ph_check="log").estimates["ph_check"]["transform"] == "log"
    assert on_lung(ph_check="none").ph_check.empty
    assert not np.allclose(on_lung(ph_check="log").ph_check["chi2"], on_lung().ph_check["chi2"])


# -- concordance -----------------------------------------------------------------------------------------------------------


def patients(rng: np.random.Generator, n: int, entry: bool) -> tuple[RiskData, Any]:
    study, data = simulated(int(rng.integers(10**6)), n)
    data["time"] = data["start"] + rng.integers(1, 8, n)
    method = month(study, **({"entry": "start"} if entry else {}))
    return method.prepare(lung.table(data)).risk, rng.integers(0, 6, n).astype(float)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_concordance_is_lifelines_with_ties_in_time_and_score(seed: int) -> None:
    risk, scores = patients(np.random.default_rng(seed), 40, entry=False)
    expected = concordance_index(risk.exit, -scores, risk.event)
    assert pairs(risk, scores).index == pytest.approx(expected, rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_with_delayed_entry_only_patients_at_risk_together_are_compared(seed: int) -> None:
    risk, scores = patients(np.random.default_rng(seed), 30, entry=True)
    assert risk.entry is not None
    counts = np.zeros(3)
    for i in np.flatnonzero(risk.event):
        later = (risk.exit > risk.exit[i]) | ((risk.exit == risk.exit[i]) & ~risk.event)
        others = scores[later & (risk.entry < risk.exit[i])]
        counts += [(others < scores[i]).sum(), (others > scores[i]).sum(), (others == scores[i]).sum()]
    found = pairs(risk, scores)
    assert [found.concordant, found.discordant, found.tied] == counts.tolist()


def test_pairs_are_counted_within_hospitals_as_a_stratified_fit_needs() -> None:
    assert on_lung().estimates["c_index"] == pytest.approx(lifelines_lung("per-site").concordance_index_, rel=1e-12)


def test_each_hospital_keeps_a_sheet_of_its_own() -> None:
    method = cox(lung.study())
    tables = lung.tables(lung.frame())
    federation = Strict(method, tables)
    result = asyncio.run(method.run(federation))  # type: ignore[arg-type]
    beta = np.array([row["coef"] for row in result.estimates["coefficients"]])
    (sheets,) = federation.told
    for sheet, table in zip(sheets, tables, strict=True):
        score = beta @ np.array([table["age"], table["sex"], table["ecog"]])
        assert sheet["n"] == table.n
        assert sheet["events"] == table["died"].sum()
        assert sheet["c_index"] == pytest.approx(concordance_index(table["time"], -np.round(score, 9), table["died"]))


# -- absolute survival -------------------------------------------------------------------------------------------------------


def test_the_baseline_with_a_common_fit_is_that_of_lifelines() -> None:
    result, pooled = on_lung(baseline="common"), lifelines_lung("common")
    who = result.estimates["baseline"]["of"]
    assert who["sex"] == "male"
    assert who["age"] == pytest.approx(lung.frame()["age"].mean(), rel=1e-12)
    patient = pd.DataFrame({"age": [who["age"]], "sex": [0.0], "ecog": [who["ecog"]]})
    shown = result.baseline[result.baseline["time"] > 0]
    expected = pooled.predict_survival_function(patient, times=shown["time"])
    np.testing.assert_allclose(shown["survival"], expected.iloc[:, 0], rtol=1e-8)


def test_the_pooled_baseline_of_a_stratified_fit_is_breslows_at_its_estimate() -> None:
    result, data = on_lung(at=[364]), lung.frame()
    beta = result.coefficients["coef"].to_numpy()
    who = result.estimates["baseline"]["of"]
    x = data[["age", "sex", "ecog"]].to_numpy() - [who["age"], 0, who["ecog"]]
    r, time = np.exp(x @ beta), data["time"].to_numpy()
    deaths = time[(data["died"] == 1) & (time <= 364)]
    s0 = np.array([r[time >= t].sum() for t in deaths])
    slope = sum((x * r[:, None])[time >= t].sum(axis=0) / s**2 for t, s in zip(deaths, s0, strict=True))
    hazard = (1 / s0).sum()
    se = np.sqrt((1 / s0**2).sum() + slope @ np.array(result.estimates["covariance"]) @ slope)
    row = result.survival_at.iloc[0]
    assert (row["profile"], row["time"], row["at_risk"]) == ("reference", 364, (time >= 364).sum())
    assert row["survival"] == pytest.approx(np.exp(-hazard), rel=1e-9)
    assert row["low"] == pytest.approx(np.exp(-hazard * np.exp(norm.ppf(0.975) * se / hazard)), rel=1e-7)
    assert row["high"] == pytest.approx(np.exp(-hazard * np.exp(-norm.ppf(0.975) * se / hazard)), rel=1e-7)


def test_absolute_survival_is_given_for_each_level_and_blank_where_few_are_at_risk() -> None:
    table = on_lung(at=[364, 1000]).survival_at
    assert table["profile"].tolist() == ["reference", "reference", "sex = female", "sex = female"]
    assert table.loc[table["time"] == 1000, ["survival", "low", "high", "at_risk"]].isna().all(axis=None)
    assert table.loc[2, "survival"] > table.loc[0, "survival"]


def test_the_baseline_is_shown_at_release_points_only() -> None:
    shown = on_lung().baseline
    time = lung.frame()["time"]
    assert shown["at_risk"].min() >= 10
    assert len(shown) < time.nunique() / 2
    assert np.diff(shown["at_risk"]).max() <= -10


# -- what leaves ----------------------------------------------------------------------------------------------------------------


def test_one_sum_an_iteration_with_a_baseline_per_hospital() -> None:
    method = cox(lung.study(), at=[364])
    federation = Strict(method, lung.tables(lung.frame()))
    result = asyncio.run(method.run(federation))  # type: ignore[arg-type]
    iterations = ["derivatives"] * (result.estimates["iterations"] + 1)
    after = ["time_derivatives", "hazard_sums", "hazard_slopes", "concordance"]
    assert federation.steps == ["totals", *iterations, *after]


def test_with_a_common_baseline_no_risk_set_is_opened_where_nobody_died_and_no_lone_event_as_a_tie() -> None:
    study, data = simulated(2)
    method = month(study, baseline="common")
    prepared = method.prepare(lung.table(data))
    deaths = prepared.risk.deaths.astype(float)
    leaves = method.risk_sets.compute(prepared, np.zeros(method.p), np.full(len(deaths), 240.0), deaths)
    assert (leaves["s0"][deaths == 0] == 0).all()
    assert (leaves["s1"][:, deaths == 0] == 0).all()
    assert (deaths == 1).any()
    assert (leaves["t1"][:, deaths <= 1] == 0).all()


# -- refusals, explained -----------------------------------------------------------------------------------------------------------


def refused(method: CoxRegression, data: pd.DataFrame) -> MethodError:
    with pytest.raises(MethodError) as error:
        fit(method, lung.tables(data))
    assert error.value.remedy
    return error.value


@pytest.mark.parametrize("baseline", BASELINES)
def test_perfect_separation_is_explained_by_the_covariates_name(baseline: str) -> None:
    data = lung.frame()
    data.loc[data["sex"] == 1, "died"] = 0.0
    error = refused(cox(lung.study(), baseline=baseline), data)
    assert error.rule == "monotone-likelihood"
    assert "sex[female]" in error.what
    assert "age" not in error.what


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("baseline", BASELINES)
def test_separation_by_a_number_or_by_a_level_is_always_noticed(baseline: str, seed: int) -> None:
    study, data = simulated(seed, 400)
    data.loc[data["stage"] == 0, "died"] = 0.0
    error = refused(month(study, baseline=baseline, covariates=["age", "stage", "treated"]), data)
    assert error.rule == "monotone-likelihood"
    assert "stage[I]" in error.what
    by_age = simulated(seed, 400)[1].sort_values("age", ascending=False)
    by_age["time"], by_age["died"] = np.minimum(np.arange(400) // 6 + 1.0, 60.0), 1.0  # the older, the earlier
    assert refused(month(study, baseline=baseline, covariates=["age"]), by_age).rule in {
        "monotone-likelihood",
        "steep-coefficients",
    }


def test_a_strong_effect_with_few_events_is_not_taken_for_separation() -> None:
    study, data = simulated(9, 4000)
    lucky = data["treated"] == 1
    data.loc[lucky, "died"] = 0.0
    data.loc[data.index[lucky][:1], ["died", "time", "start"]] = [1.0, 5.0, 0.0]
    result = fit(month(study, covariates=["age", "treated"]), lung.tables(data))
    pooled = CoxPHFitter().fit(
        data[["time", "died", "age", "treated", "site"]], "time", "died", strata=["site"], **EXACT
    )
    assert result.coefficients.loc["treated", "hr"] < 0.002
    assert_close(result, pooled.params_, pooled.standard_errors_)


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_constant_covariate_is_explained(baseline: str) -> None:
    error = refused(cox(lung.study(), baseline=baseline), lung.frame().assign(ecog=1.0))
    assert error.rule == "constant-covariate"
    assert "ecog" in error.what


def test_a_covariate_that_varies_only_between_hospitals_needs_a_common_baseline() -> None:
    data = lung.frame()
    data["ecog"] = data["site"].map({s: float(i) for i, s in enumerate(lung.SITES)})
    assert "baseline: common" in refused(cox(lung.study()), data).remedy
    assert fit(cox(lung.study(), baseline="common"), lung.tables(data)).converged


@pytest.mark.parametrize("baseline", BASELINES)
def test_collinear_covariates_are_named(baseline: str) -> None:
    data = lung.frame()
    data["weight_loss"] = 2.0 * data["ecog"] - 1.0
    error = refused(cox(lung.study(), baseline=baseline, covariates=["age", "ecog", "weight_loss"]), data)
    assert error.rule == "collinearity"
    assert "ecog and weight_loss" in error.what


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"died": 0.0}, "no-events"),
        ({"died": [1.0] * 9}, "few-events"),
        ({"sex": [1.0] * 9}, "rare-level"),
    ],
)
def test_too_little_to_fit_is_explained(change: dict[str, Any], rule: str) -> None:
    data = lung.frame()
    for name, value in change.items():
        values = value if isinstance(value, list) else [value]
        data[name] = [*values, *[0.0] * (len(data) - len(values))]
    assert refused(cox(lung.study()), data).rule == rule


def test_more_coefficients_than_events_are_refused() -> None:
    data = lung.frame().assign(died=0.0)
    data.loc[:2, "died"] = 1.0
    study = lung.study(release={"min_sites": 3, "min_count": 2})
    assert refused(cox(study), data).rule == "parameters-against-events"


def test_few_events_are_refused_without_saying_how_few() -> None:
    errors = []
    for events in (4, 9):
        data = lung.frame().assign(died=0.0)
        data.loc[: events - 1, "died"] = 1.0
        errors.append(refused(cox(lung.study(), covariates=["age"]), data))
    assert errors[0].rule == "few-events"
    assert str(errors[0]) == str(errors[1])
    assert "Fewer than 10 patients had the event 'died'" in errors[0].what


def test_more_coefficients_than_a_fifth_of_the_patients_are_refused() -> None:
    data = lung.frame().groupby("site").head(3)
    assert refused(cox(lung.study()), data).rule == "parameters-against-patients"


def test_declared_bounds_a_thousand_times_too_wide_are_named_as_the_reason() -> None:
    variables = {**lung.DOCUMENT["variables"], "ecog": {"type": "integer", "min": 0, "max": 4000}}
    error = refused(cox(lung.study(variables=variables)), lung.frame())
    assert error.rule == "monotone-likelihood"
    assert "ecog" in error.what
    assert "declare them tighter" in error.remedy


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("bounds", [(0, 1e300), (-1e12, 1e12), (0, 2e7)])
def test_absurdly_wide_declared_bounds_are_named_and_not_the_baseline(
    baseline: str, bounds: tuple[float, float]
) -> None:
    wide = {"type": "number", "unit": "a", "min": bounds[0], "max": bounds[1]}
    study = lung.study(variables={**lung.DOCUMENT["variables"], "age": wide})
    error = refused(cox(study, baseline=baseline), lung.frame())
    assert error.rule == "declared-bounds"
    assert "The declared min/max of age are far too wide" in error.remedy
    assert "baseline" not in error.remedy
    assert "sex" not in error.what


def test_bounds_that_leave_a_spread_but_no_room_for_the_coefficient_are_named() -> None:
    wide = {"type": "integer", "min": 0, "max": 100_000}
    study = lung.study(variables={**lung.DOCUMENT["variables"], "ecog": wide})
    error = refused(cox(study), lung.frame())
    assert error.rule == "declared-bounds"
    assert "The declared min/max of ecog are far too wide" in error.remedy


def test_a_common_baseline_says_when_wide_bounds_leave_no_digits() -> None:
    variables = {**lung.DOCUMENT["variables"], "ecog": {"type": "integer", "min": 0, "max": 80}}
    study = lung.study(variables=variables)
    error = refused(cox(study, baseline="common"), lung.frame())
    assert error.rule == "steep-coefficients"
    per_site = fit(cox(study), lung.tables(lung.frame()))
    pooled = lifelines_lung("per-site")
    assert_close(per_site, pooled.params_, pooled.standard_errors_)


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        ({"covariates": ["age", "sx"]}, ("covariates", 1), "known-variables"),
        ({"covariates": ["age", "age"]}, ("covariates", 1), "distinct-covariates"),
        ({"covariates": ["age", "died"]}, ("covariates",), "variable-twice"),
        ({"weights": "sex"}, ("weights",), "variable-type"),
        ({"weights": "weight_loss"}, ("weights",), "variable-type"),
        ({"weights": "wt"}, ("weights",), "known-variables"),
        ({"covariates": []}, ("covariates",), None),
        ({"ties": "exact"}, ("ties",), None),
    ],
)
def test_what_does_not_fit_the_study_is_reported_with_its_place(
    changes: dict[str, object], path: tuple[object, ...], rule: str | None
) -> None:
    written = {**lung.DOCUMENT["analyses"]["effect"], "grid": GRID, **changes}
    found = check(lung.study(analyses={"effect": written}))
    assert any(p.path == ("analyses", "effect", *path) and (rule is None or p.rule == rule) for p in found)


# -- the result ------------------------------------------------------------------------------------------------------------------------


def assert_plain(value: object) -> None:
    """Nothing but what JSON has: no numpy number hides in the estimates."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            assert_plain(part)
    else:
        assert type(value) in (int, float, str, bool, type(None)), type(value)


def test_the_result_is_rebuilt_from_its_stored_estimates() -> None:
    result = on_lung(at=[364])
    stored = json.loads(json.dumps(result.estimates, allow_nan=False))
    assert_plain(result.estimates)
    again = CoxRegression.result(result.study, "effect", stored, notes=result.notes)
    assert again == result
    pd.testing.assert_frame_equal(again.summary(), result.summary())


def test_the_headline_says_direction_reference_and_p() -> None:
    about_sex = on_lung(covariates=["sex", "age", "ecog"]).headline()
    assert about_sex.startswith("For sex female (against male) the hazard (died) was lower: 0.56 times as high")
    assert "(95% CI 0.40 to 0.78, p < 0.001), adjusted for age and ecog, in 226 patients." in about_sex
    about_age = on_lung().headline()
    assert about_age.startswith("For each year more of age the hazard (died) was higher: 1.01 times as high")
    assert "compatible with no difference" in about_age
    assert "0.000" not in about_age + about_sex


def test_the_headline_says_where_the_effect_holds_when_it_interacts() -> None:
    crossed = on_lung(covariates=["sex", "age", "ecog", "sex:age"]).headline()
    assert ", adjusted for age and ecog, at the reference (or 0) of age, in 226 patients." in crossed
    assert "at the reference" not in on_lung(covariates=["sex", "age", "ecog", "age:ecog"]).headline()


def test_headline_and_figure_speak_of_variables_by_their_labels() -> None:
    sex = {"type": "category", "levels": ["male", "female"], "label": "sex at birth"}
    study = lung.study(variables={**lung.DOCUMENT["variables"], "sex": sex})
    result = fit(cox(study, covariates=["sex", "age"]), lung.tables(lung.frame()))
    assert result.headline().startswith("For sex at birth female (against male)")
    (ax,) = result.plot().axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["sex at birth: female", "age, per year"]


def test_the_baseline_and_its_meaning_are_always_said() -> None:
    assert any("own baseline hazard (stratified)" in note for note in on_lung().notes)
    assert any("the coordinator saw sums" in note for note in on_lung(baseline="common").notes)


def test_the_figure_has_a_row_for_each_coefficient() -> None:
    (ax,) = on_lung().plot().axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["age, per year", "sex: female", "ecog, per 1"]


def test_lung_by_the_public_helper_has_no_problems_and_is_found_by_its_name() -> None:
    study = lung.study()
    assert check(study) == []
    result = answer(build(study, "effect"), lung.tables(lung.frame()))
    assert isinstance(result, CoxResult)
    assert isinstance(CoxSpec.model_validate(study.analyses["effect"].parameters), CoxSpec)
