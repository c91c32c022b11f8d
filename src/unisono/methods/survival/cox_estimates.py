"""From the opened sums of a Cox regression to its estimates: coefficients in the study's units, tests, baseline, concordance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import chdtrc, ndtr, ndtri  # not scipy.stats, which takes long to import

from unisono.methods.design import Design, Matrix, Vector
from unisono.methods.newton import covariance, solve_information
from unisono.methods.survival.baseline import Baseline, Reference, curve_estimates, profiles, survival_estimates
from unisono.methods.survival.concordance import Pairs
from unisono.methods.survival.cox_checks import advice, ph_advice
from unisono.methods.survival.cox_result import CoxResult
from unisono.methods.survival.cox_sums import Totals
from unisono.methods.survival.fit import Fit
from unisono.methods.survival.proportional_hazards import TimeInformation, score_test
from unisono.methods.survival.released import Counts
from unisono.protection.disclosure import blank_cells

if TYPE_CHECKING:
    from unisono.methods.survival.cox import CoxRegression


@dataclass(frozen=True)
class Found:
    """Everything that was opened, and the fit."""

    totals: Totals
    fit: Fit
    time: TimeInformation | None
    hazard: Baseline | None
    pairs: Pairs


def estimates_of(method: CoxRegression, found: Found) -> CoxResult:
    """The result. Counts below `min_count` are blanked; curves are shown at release points only."""
    names, best, spec = method.design.names, found.fit.best, method.spec
    cov = covariance(best.information, names)
    notes = advice(method, found.totals)
    (events,) = blank_cells([int(found.totals.events)], method.study.release.min_count, total_known=False)
    ph_check = None
    if found.time is not None:
        tests = score_test(best.information, found.time, _terms(method))
        ph_check = {"transform": spec.ph_check, "tests": tests}
        notes += ph_advice(method.study, tests)
        if any(row["p"] is None for row in tests):
            notes.append(
                "Proportional hazards could not be checked for some covariates: events hardly differ in time there."
            )
    half = method.design.half
    estimates = {
        "n": int(found.totals.patients),
        "events": events,
        "log_likelihood": best.log_likelihood,
        "log_likelihood_null": found.fit.null.log_likelihood,
        "aic": -2 * best.log_likelihood + 2 * method.p,
        "iterations": found.fit.iterations,
        "confidence": spec.confidence,
        "coefficients": _coefficients(method.design, best.beta, cov, spec.confidence),
        "covariance": (cov / np.outer(half, half)).tolist(),
        "tests": _tests(found.fit, names),
        "ph_check": ph_check,
        "c_index": found.pairs.index,
        "time": {"variable": method.axis.time, "unit": method.axis.unit, "step": method.axis.step},
        **_absolute(method, found, cov, notes),
        "ties": spec.ties,
        "baseline_kind": spec.baseline,
    }
    return CoxResult(method.study, method.analysis, estimates, notes=tuple(notes))


def _coefficients(design: Design, beta: Vector, cov: Matrix, confidence: float) -> list[dict[str, Any]]:
    """One row a column of the design; the log hazard ratio for one unit of the study's unit."""
    reach = float(ndtri(0.5 + confidence / 2))
    coef, se = beta / design.half, np.sqrt(np.diag(cov)) / design.half
    return [
        {
            "name": name,
            "coef": float(b),
            "se": float(s),
            "hr": float(np.exp(b)),
            "ci_low": float(np.exp(b - reach * s)),
            "ci_high": float(np.exp(b + reach * s)),
            "z": float(b / s),
            "p": float(2 * ndtr(-abs(b / s))),
        }
        for name, b, s in zip(design.names, coef, se, strict=True)
    ]


def _tests(fit: Fit, names: tuple[str, ...]) -> dict[str, dict[str, float | int]]:
    """Likelihood-ratio, Wald and score tests that all coefficients are 0."""
    best, null = fit.best, fit.null
    statistics = {
        "likelihood_ratio": 2 * (best.log_likelihood - null.log_likelihood),
        "wald": float(best.beta @ best.information @ best.beta),
        "score": float(null.score @ solve_information(null.information, null.score, names)),
    }
    df = len(best.beta)
    return {name: {"statistic": s, "df": df, "p": float(chdtrc(df, s))} for name, s in statistics.items()}


def _terms(method: CoxRegression) -> dict[str, list[int]]:
    """The columns of each covariate as written in the study: the levels of a category are tested together."""
    terms: dict[str, list[int]] = {}
    at = 0
    for term in method.spec.covariates:
        width = Design(method.study, [term]).p
        terms[term] = list(range(at, at + width))
        at += width
    return terms


def _absolute(method: CoxRegression, found: Found, cov: Matrix, notes: list[str]) -> dict[str, Any]:
    """Baseline hazard and absolute survival of reference patients, where they may be shown."""
    if found.hazard is None:
        notes.append(
            "No absolute survival: relative risks differ too much between patients for the pooled hazard to keep its digits."
        )
        return {"baseline": None, "survival_at": []}
    totals, spec = found.totals, method.spec
    counts = Counts(totals.exits, totals.at_risk, method.study.release.min_count)
    fit = Reference(found.fit.best.beta, cov, counts, spec.confidence)
    means = {
        name: (v.min + v.max) / 2 + (v.max - v.min) / 2 * float(total) / float(totals.patients)
        for (name, v), total in zip(method.numbers, totals.numbers, strict=True)
    }
    everyone = profiles(method.study, method.design, spec.covariates, means)
    return {
        "baseline": curve_estimates(method.axis, found.hazard, everyone[0], fit, method.at),
        "survival_at": survival_estimates(found.hazard, everyone, fit, spec.at, method.at),
    }
