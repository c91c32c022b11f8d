"""Generalised linear models over four hospitals equal statsmodels' GLM on the pooled patients; and what cannot be fitted
is explained."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from tests.support import lung
from tests.support.plain import PlainFederation, answer
from unisono.errors import MethodError
from unisono.methods.design import column_labels, say_adjusted
from unisono.methods.figures import ratio_ticks
from unisono.methods.newton import covariance, solve_information
from unisono.methods.registry import build, check
from unisono.methods.statistics.glm import GeneralisedLinearModel
from unisono.methods.statistics.glm_result import GlmResult
from unisono.methods.statistics.irls import LIMIT
from unisono.methods.wording import direction, say_interval, say_list, say_number, say_p
from unisono.study.document import Study
from unisono.study.table import Table

VARIABLES = {
    "age": {"type": "number", "unit": "a", "min": 18, "max": 100},
    "bmi": {"type": "number", "unit": "kg/m2", "min": 10, "max": 70},
    "sex": {"type": "category", "levels": ["male", "female"]},
    "stage": {"type": "category", "levels": ["I", "II", "III"], "reference": "II"},
    "treated": {"type": "boolean"},
    "sbp": {"type": "number", "unit": "mm[Hg]", "min": 50, "max": 280, "label": "systolic blood pressure"},
    "died": {"type": "boolean"},
    "falls": {"type": "integer", "min": 0, "max": 100},
    "years": {"type": "number", "unit": "a", "min": 0.05, "max": 20},
    "shift": {"type": "number", "min": -3, "max": 3},
    "weight": {"type": "number", "min": 0.1, "max": 5},
}
COVARIATES = ["age", "sex", "stage", "treated", "age:sex"]
OUTCOME = {"gaussian": "sbp", "binomial": "died", "poisson": "falls"}
FAMILY = {"gaussian": sm.families.Gaussian, "binomial": sm.families.Binomial, "poisson": sm.families.Poisson}


def patients(n: int = 800, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age, sex, stage = rng.uniform(20, 95, n), rng.integers(0, 2, n) * 1.0, rng.integers(0, 3, n) * 1.0
    treated, years = (rng.random(n) < 0.4) * 1.0, rng.uniform(0.1, 10, n)
    shift = rng.normal(0, 0.5, n).clip(-3, 3)
    risk = -3 + 0.04 * age - 0.5 * sex + 0.4 * (stage == 2) - 0.3 * treated
    return pd.DataFrame(
        {
            "age": age,
            "bmi": rng.normal(26, 4, n).clip(10, 70),
            "sex": sex,
            "stage": stage,
            "treated": treated,
            "sbp": (120 + 0.3 * age - 4 * sex + rng.normal(0, 12, n)).clip(50, 280),
            "died": (rng.random(n) < 1 / (1 + np.exp(-risk - shift))) * 1.0,
            "falls": rng.poisson(np.exp(-2 + 0.02 * age - 0.2 * sex) * years).clip(0, 100) * 1.0,
            "years": years,
            "shift": shift,
            "weight": rng.uniform(0.2, 4, n),
        }
    )


def tables(data: pd.DataFrame, sites: int = 4) -> list[Table]:
    parts = [data.iloc[k::sites] for k in range(sites)]
    return [Table({c: p[c].to_numpy(float) for c in p}, len(p)) for p in parts]


def design(data: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "intercept": 1.0,
            "age": data["age"],
            "sex[female]": data["sex"],
            "stage[I]": (data["stage"] == 0) * 1.0,
            "stage[III]": (data["stage"] == 2) * 1.0,
            "treated": data["treated"],
            "age:sex[female]": data["age"] * data["sex"],
        }
    )


def study(family: str = "binomial", declared: dict | None = None, **parameters: object) -> Study:
    written = {"method": "glm", "outcome": OUTCOME[family], "family": family, "covariates": COVARIATES, **parameters}
    return Study.model_validate(
        {
            "unisono": 1,
            "id": "models",
            "question": "What matters?",
            "variables": {**VARIABLES, **(declared or {})},
            "analyses": {"effect": written},
        }
    )


def fit(document: Study, data: pd.DataFrame, sites: int = 4) -> GlmResult:
    assert check(document) == []
    result = answer(build(document, "effect"), tables(data, sites))
    assert isinstance(result, GlmResult)
    json.dumps(result.estimates, allow_nan=False)
    return result


def pooled(family: str, data: pd.DataFrame, x: pd.DataFrame, **keywords: object):
    model = sm.GLM(data[OUTCOME[family]], x, family=FAMILY[family](), **keywords)
    return model.fit(tol=1e-14, tol_criterion="params", maxiter=200)


def assert_equal(result: GlmResult, reference, rel: float = 1e-9) -> None:
    table, found = result.coefficients, result.estimates
    assert list(table.index) == list(reference.params.index)
    near = {"rtol": rel, "atol": 1e-12}
    np.testing.assert_allclose(table["coef"], reference.params, **near)
    np.testing.assert_allclose(table["se"], reference.bse, **near)
    np.testing.assert_allclose(table["p"], reference.pvalues, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(table[["ci_low", "ci_high"]], reference.conf_int(), rtol=10 * rel, atol=1e-11)
    np.testing.assert_allclose(result.covariance, reference.cov_params(), rtol=10 * rel, atol=1e-12)
    for name, value in {
        "deviance": reference.deviance,
        "null_deviance": reference.null_deviance,
        "log_likelihood": reference.llf,
        "aic": reference.aic,
        "dispersion": reference.scale,
        "pearson_chi2": reference.pearson_chi2,
        "df_residual": reference.df_resid,
    }.items():
        assert found[name] == pytest.approx(value, rel=rel), name


@pytest.mark.parametrize("family", ["gaussian", "binomial", "poisson"])
def test_four_hospitals_equal_statsmodels_on_the_pooled_patients(family: str) -> None:
    data = patients()
    assert_equal(fit(study(family), data), pooled(family, data, design(data)))


@pytest.mark.parametrize(
    ("family", "parameters", "keywords"),
    [
        ("gaussian", {"offset": "shift", "weights": "weight"}, {"offset": "shift", "var_weights": "weight"}),
        ("binomial", {"offset": "shift", "weights": "weight"}, {"offset": "shift", "var_weights": "weight"}),
        ("poisson", {"exposure": "years"}, {"exposure": "years"}),
        ("poisson", {"offset": "shift", "weights": "weight"}, {"offset": "shift", "var_weights": "weight"}),
    ],
)
def test_offsets_exposures_and_weights_equal_statsmodels(family: str, parameters: dict, keywords: dict) -> None:
    data = patients(seed=1)
    reference = pooled(family, data, design(data), **{k: data[v] for k, v in keywords.items()})
    assert_equal(fit(study(family, **parameters), data), reference)


def test_pseudo_r_squared_is_cox_and_snells_and_r_squared_for_a_linear_model() -> None:
    data = patients(seed=2)
    reference = pooled("binomial", data, design(data))
    assert fit(study("binomial"), data).estimates["pseudo_r2"] == pytest.approx(
        reference.pseudo_rsquared("cs"), rel=1e-9
    )
    least_squares = sm.OLS(data["sbp"], design(data)).fit()
    assert fit(study("gaussian"), data).estimates["pseudo_r2"] == pytest.approx(least_squares.rsquared, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    family=st.sampled_from(["gaussian", "binomial", "poisson"]),
    sites=st.integers(1, 6),
    confidence=st.sampled_from([0.9, 0.95, 0.99]),
)
def test_any_patients_split_over_any_hospitals_equal_the_pooled_fit(
    seed: int, family: str, sites: int, confidence: float
) -> None:
    data = patients(n=500, seed=seed)
    result = fit(study(family, covariates=["age", "bmi", "sex"], confidence=confidence), data, sites)
    x = pd.DataFrame({"intercept": 1.0, "age": data["age"], "bmi": data["bmi"], "sex[female]": data["sex"]})
    reference = pooled(family, data, x)
    np.testing.assert_allclose(result.coefficients["coef"], reference.params, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(result.coefficients["se"], reference.bse, rtol=1e-9)
    limits = result.coefficients[["ci_low", "ci_high"]]
    np.testing.assert_allclose(limits, reference.conf_int(1 - confidence), rtol=1e-7, atol=1e-10)


def test_ridge_regression_equals_scikit_learn() -> None:
    data = patients(seed=3)
    x = design(data).drop(columns="intercept")
    result = fit(study("binomial", ridge=2.5), data)
    reference = LogisticRegression(C=1 / 2.5, tol=1e-12, solver="newton-cholesky", max_iter=1000).fit(x, data["died"])
    np.testing.assert_allclose(result.coefficients["coef"], [*reference.intercept_, *reference.coef_[0]], rtol=1e-8)
    assert "biased towards 0" in result.notes[0]
    result = fit(study("gaussian", ridge=2.5), data)
    least = Ridge(alpha=2.5, tol=1e-14, solver="cholesky").fit(x, data["sbp"])
    np.testing.assert_allclose(result.coefficients["coef"], [least.intercept_, *least.coef_], rtol=1e-9)


def test_strong_effects_over_wide_declared_ranges_stay_exact_and_never_leave_the_limits() -> None:
    rng = np.random.default_rng(40)
    data = patients(seed=4)
    data["bmi"] = rng.uniform(11, 69, len(data))
    data["falls"] = rng.poisson(np.exp(-4 + 0.11 * data["bmi"])).clip(0, 5000) * 1.0
    document = study("poisson", {"falls": {"type": "integer", "min": 0, "max": 5000}}, covariates=["bmi", "age"])
    method = build(document, "effect")
    federation = Watching(method, tables(data))
    result = asyncio.run(method.run(federation))  # type: ignore[arg-type]
    x = pd.DataFrame({"intercept": 1.0, "bmi": data["bmi"], "age": data["age"]})
    assert_equal(result, pooled("poisson", data, x))  # type: ignore[arg-type]
    asked = [a for name, a in federation.asked if name == "normal_equations"]
    assert 4 <= len(asked) <= 16
    assert all(np.abs(beta).max() <= LIMIT for beta, _ in asked)


class Watching(PlainFederation):
    """Remembers the arguments that hospitals were asked with."""

    asked: list[tuple[str, tuple]]

    async def sum(self, contribution, *arguments):
        self.asked = [*getattr(self, "asked", []), (contribution.name, arguments)]
        declared = contribution.declaration(self.facts, *arguments).arguments
        for name, value in zip(contribution.contribution.parameters, arguments, strict=True):
            assert np.shape(value) == declared[name].shape
            assert np.abs(value).max() <= declared[name].limit
        return await super().sum(contribution, *arguments)


def test_a_hospital_whose_every_sum_is_declared_is_never_refused_by_the_encoding() -> None:
    for family in ("gaussian", "binomial", "poisson"):
        method = build(study(family), "effect")
        asyncio.run(method.run(Watching(method, tables(patients(seed=5)))))  # type: ignore[arg-type]


# -- what cannot be fitted --------------------------------------------------------------------------------------------


def refusal(document: Study, data: pd.DataFrame) -> MethodError:
    with pytest.raises(MethodError) as refused:
        fit(document, data)
    assert refused.value.remedy
    return refused.value


def test_perfect_separation_is_explained() -> None:
    data = patients(seed=6)
    data["died"] = (data["age"] > 60) * 1.0
    error = refusal(study("binomial", covariates=["age", "sex"]), data)
    assert error.rule == "separation" and "age" in error.what and "sex" not in error.what


def test_a_level_without_an_event_is_explained_and_ridge_mends_it() -> None:
    data = patients(seed=7)
    data.loc[data["stage"] == 0, "died"] = 0.0
    error = refusal(study("binomial", covariates=["age", "stage"]), data)
    assert error.rule == "separation" and "stage[I]" in error.what
    assert (
        fit(study("binomial", covariates=["age", "stage"], ridge=1.0), data).coefficients.loc["stage[I]", "coef"] < -1
    )

    data.loc[data["stage"] == 0, "falls"] = 0.0
    error = refusal(study("poisson", covariates=["age", "stage"]), data)
    assert error.rule == "separation" and "stage[I]" in error.what


def test_collinear_covariates_are_named() -> None:
    data = patients(seed=8)
    data["bmi"] = data["age"] / 2 + 10
    error = refusal(study("gaussian", covariates=["age", "bmi", "sex"]), data)
    assert error.rule == "collinearity"
    assert "age and bmi" in error.what and "sex" not in error.what


def test_a_covariate_that_does_not_vary_is_named() -> None:
    data = patients(seed=9)
    data["bmi"] = 25.0
    error = refusal(study("gaussian", covariates=["age", "bmi"]), data)
    assert (error.rule, error.what.split()[0]) == ("constant-covariate", "bmi")
    data["sex"] = 1.0
    error = refusal(study("gaussian", covariates=["age", "sex"]), data)
    assert error.rule == "constant-covariate" and "Every patient has sex[female]" in error.what


@pytest.mark.parametrize(
    ("family", "value"), [("gaussian", 120.0), ("binomial", 0.0), ("binomial", 1.0), ("poisson", 0.0)]
)
def test_an_outcome_that_does_not_vary_is_explained(family: str, value: float) -> None:
    data = patients(seed=10)
    data[OUTCOME[family]] = value
    assert refusal(study(family), data).rule == "constant-outcome"


def test_a_level_or_reference_held_by_few_patients_is_refused() -> None:
    data = patients(seed=11)
    data["stage"] = np.r_[np.zeros(4), np.ones(400), np.full(396, 2.0)]
    error = refusal(study("gaussian", covariates=["stage"]), data)
    assert error.rule == "small-cells" and "stage[I]" in error.what
    data["stage"] = np.r_[np.zeros(400), np.ones(4), np.full(396, 2.0)]
    error = refusal(study("gaussian", covariates=["stage"]), data)
    assert "stage[II] (the reference)" in error.what


def test_few_outcomes_are_refused_without_saying_how_few() -> None:
    data = patients(seed=12)
    data["died"] = np.r_[np.ones(4), np.zeros(796)]
    error = refusal(study("binomial"), data)
    assert error.rule == "small-cells" and "Fewer than 10 patients have 'died'" in error.what


def test_more_parameters_than_a_fifth_of_the_patients_are_refused() -> None:
    error = refusal(study("gaussian"), patients(n=30))
    assert error.rule == "parameters-against-patients" and "35 patients" in error.remedy


def test_a_covariate_that_copies_the_outcome_is_explained() -> None:
    data = patients(seed=13)
    data["bmi"] = data["sbp"] / 10 + 10
    assert refusal(study("gaussian", covariates=["age", "bmi"]), data).rule == "perfect-fit"


def test_bounds_declared_far_too_wide_are_explained() -> None:
    declared = {"age": {"type": "number", "unit": "a", "min": 0, "max": 1e8}}
    assert refusal(study("gaussian", declared, covariates=["age"]), patients(seed=14)).rule == "constant-covariate"


@pytest.mark.parametrize(
    ("family", "parameters", "rule"),
    [
        ("binomial", {"outcome": "sbp"}, "outcome-type"),
        ("gaussian", {"outcome": "died"}, "outcome-type"),
        ("poisson", {"outcome": "sbp"}, "outcome-type"),
        ("poisson", {"outcome": "change"}, "outcome-type"),
        ("binomial", {"outcome": "dead"}, "known-variables"),
        ("binomial", {"covariates": ["age", "died"]}, "outcome-apart"),
        ("binomial", {"covariates": ["age", "age"]}, "distinct-covariates"),
        ("binomial", {"covariates": ["aeg"]}, "known-variables"),
        ("poisson", {"offset": "sex"}, "number-variable"),
        ("poisson", {"exposure": "shift"}, "positive"),
        ("gaussian", {"weights": "shift"}, "positive"),
        ("gaussian", {"exposure": "years"}, "exposure-of-counts"),
        ("poisson", {"exposure": "years", "offset": "shift"}, "exposure-of-counts"),
        ("poisson", {"offset": "nothing"}, "known-variables"),
    ],
)
def test_a_wrong_parameter_is_found_when_the_study_is_checked(family: str, parameters: dict, rule: str) -> None:
    declared = {"change": {"type": "integer", "min": -5, "max": 5}}
    assert [problem.rule for problem in check(study(family, declared, **parameters))] == [rule]


# -- how it is said ---------------------------------------------------------------------------------------------------


def test_the_headline_says_direction_reference_and_interval() -> None:
    document = lung.study(
        analyses={
            "effect": {"method": "glm", "outcome": "died", "family": "binomial", "covariates": ["sex", "age", "ecog"]}
        }
    )
    data = lung.frame()
    result = answer(build(document, "effect"), lung.tables(data))
    text = result.headline()
    assert text.startswith("For sex female, compared with male, the odds of died were lower: odds ratio 0.")
    assert "95% CI" in text and "adjusted for age and ecog" in text and "in 226 patients" in text
    assert list(result.summary().columns) == ["odds ratio", "95% CI", "p"]


def assert_plain(value: object) -> None:
    """Nothing but what JSON has: no numpy number hides in the estimates."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            assert_plain(part)
    else:
        assert type(value) in (int, float, str, bool, type(None)), type(value)


def test_the_result_is_rebuilt_from_its_estimates_and_drawn() -> None:
    result = fit(study("poisson"), patients())
    again = GeneralisedLinearModel.result(result.study, "effect", json.loads(json.dumps(result.estimates)))
    assert again.summary().equals(result.summary())
    assert again.headline() == result.headline()
    assert_plain(result.estimates)
    (ax,) = again.plot().axes
    assert ax.get_xscale() == "log"
    labels = column_labels(result.study, result.study.analyses["effect"].parameters["covariates"])
    assert [label.get_text() for label in ax.get_yticklabels()] == list(labels.values())


def test_labels_of_columns_are_those_of_the_study() -> None:
    age = {"type": "number", "unit": "a", "min": 18, "max": 100, "label": "age at entry"}
    document = lung.study(variables={**lung.DOCUMENT["variables"], "age": age})
    assert column_labels(document, ["age", "sex", "age:sex", "weight_loss"]) == {
        "age": "age at entry, per year",
        "sex[female]": "sex: female",
        "age:sex[female]": "age at entry, per year × sex: female",
        "weight_loss": "weight_loss, per 1 kg",
    }


def test_the_headline_says_where_the_effect_holds_when_it_interacts() -> None:
    said = say_adjusted(lung.study(), ["sex", "age", "ecog", "sex:age"])
    assert said == ", adjusted for age and ecog, at the reference (or 0) of age"
    assert say_adjusted(lung.study(), ["sex"]) == ""


@settings(max_examples=100, deadline=None)
@given(low=st.floats(1e-6, 1.0), factor=st.floats(1.02, 1e9))
def test_the_axis_of_ratios_has_a_handful_of_round_ticks_within_it(low: float, factor: float) -> None:
    high = low * factor
    ticks = ratio_ticks(low, high)
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    assert all(low * (1 - 1e-6) <= tick <= high * (1 + 1e-6) for tick in ticks)


def test_the_axis_of_ratios_does_not_crowd_one() -> None:
    assert ratio_ticks(0.3, 6.0) == [0.5, 1.0, 2.0, 5.0]
    assert ratio_ticks(0.38, 1.12) == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert ratio_ticks(0.985, 1.032) == pytest.approx([0.99, 1.0, 1.01, 1.02, 1.03])


def test_overdispersed_counts_carry_a_note() -> None:
    data = patients(seed=15)
    data["falls"] = np.random.default_rng(0).negative_binomial(1, 0.2, len(data)).clip(0, 100) * 1.0
    assert "standard errors are too small" in fit(study("poisson"), data).notes[0]


def test_words_for_numbers() -> None:
    assert [say_p(p) for p in (0.0, 0.0004, 0.0124, 0.9999, None)] == [
        "p < 0.001",
        "p < 0.001",
        "p = 0.012",
        "p > 0.999",
        "p not available",
    ]
    assert [say_number(x) for x in (0.584, 12.44, 1234.4, 0.00213, 0, 2e-7, None)] == [
        "0.58",
        "12.4",
        "1234",
        "0.0021",
        "0",
        "2.00e-07",
        "-",
    ]
    assert say_interval(0.42, 0.81) == "95% CI 0.42 to 0.81"
    assert (direction(0.3), direction(0.3, 1.0), direction(1.0, 1.0)) == ("higher", "lower", "the same")
    assert say_list(["a", "b", "c"]) == "a, b and c"


def test_the_newton_step_does_not_depend_on_units_and_names_what_is_singular() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)) * np.array([1e-2, 1.0, 1e2])
    information, score = x.T @ x, rng.normal(size=3)
    np.testing.assert_allclose(
        solve_information(information, score, "abc"), np.linalg.solve(information, score), rtol=1e-7
    )
    np.testing.assert_allclose(covariance(information, "abc") @ information, np.eye(3), atol=1e-7)
    x[:, 2] = x[:, 0] * 3
    with pytest.raises(MethodError, match="a and c cannot be told apart"):
        covariance(x.T @ x, "abc")
    with pytest.raises(MethodError, match="about b"):
        solve_information(np.diag([1.0, 0.0, 2.0]), score, "abc")
    with pytest.raises(MethodError, match="not finite"):
        solve_information(np.diag([1.0, np.nan, 2.0]), score, "abc")
    assert solve_information(np.zeros((0, 0)), np.zeros(0), []).shape == (0,)
