"""The answer of a GLM: coefficients in the study's units, goodness of fit, a forest plot and one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri  # not scipy.stats, which takes long to import

from unisono.errors import MethodError
from unisono.methods.base import Result
from unisono.methods.design import column_labels, label_of, say_adjusted
from unisono.methods.figures import COLOURS, FAINT, INK, new_figure, ratio_axis
from unisono.methods.newton import covariance
from unisono.methods.statistics.families import FAMILIES
from unisono.methods.wording import direction, say_interval, say_number, say_one, say_p
from unisono.study.document import BooleanVariable, CategoryVariable, NumberVariable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from unisono.methods.statistics.glm import GeneralisedLinearModel, Totals
    from unisono.methods.statistics.irls import Climb

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class GlmResult(Result):
    """A fitted GLM. `estimates` holds coefficients in study units and their covariance; see docs/methods/glm.md."""

    @property
    def coefficients(self) -> pd.DataFrame:
        """One row a coefficient: coef, se, z, p, ci_low, ci_high (and ratio, ratio_low, ratio_high), as numbers."""
        return pd.DataFrame(self.estimates["coefficients"]).set_index("name")

    @property
    def covariance(self) -> pd.DataFrame:
        """(q, q), of the coefficients in study units."""
        names = [row["name"] for row in self.estimates["coefficients"]]
        return pd.DataFrame(self.estimates["covariance"], index=names, columns=names)

    def summary(self) -> pd.DataFrame:
        """The table for a reader: estimate with its interval, and p."""
        family = FAMILIES[self.estimates["family"]]
        value, low, high = _columns_of(family.ratio)
        percent = f"{100 * self.estimates['confidence']:.10g}% CI"
        rows = [
            {
                "": row["name"],
                family.ratio or "coefficient": say_number(row[value], _digits(row, family.ratio)),
                percent: " to ".join(say_number(row[end], _digits(row, family.ratio)) for end in (low, high)),
                "p": say_p(row["p"]).removeprefix("p ").removeprefix("= "),
            }
            for row in self.estimates["coefficients"]
        ]
        return pd.DataFrame(rows).set_index("")

    def headline(self) -> str:
        """The first covariate's effect, in one sentence."""
        row = self.estimates["coefficients"][1]
        family = FAMILIES[self.estimates["family"]]
        value, low, high = _columns_of(family.ratio)
        said = {"gaussian": "mean of {} was", "binomial": "odds of {} were", "poisson": "rate of {} was"}[family.name]
        digits = _digits(row, family.ratio)
        interval = say_interval(row[low], row[high], self.estimates["confidence"], digits)
        found = f"{family.ratio or 'difference'} {say_number(row[value], digits)} ({interval}, {say_p(row['p'])})"
        return (
            f"{self._contrast()} the {said.format(self._label(self.estimates['outcome']))} {direction(row['coef'])}: "
            f"{found}{say_adjusted(self.study, self._covariates())}, in {self.estimates['n']} patients."
        )

    def plot(self) -> Figure:
        """A forest plot: one line a covariate, on a logarithmic axis for ratios."""
        family = FAMILIES[self.estimates["family"]]
        value, low, high = _columns_of(family.ratio)
        rows = [row for row in self.estimates["coefficients"][1:] if row[value] is not None]
        labels = column_labels(self.study, self._covariates())
        figure, (ax,) = new_figure(height=1.4 + 0.36 * max(len(rows), 2))
        null = 0.0 if family.ratio is None else 1.0
        ax.axvline(null, color=FAINT, linewidth=1)
        for place, row in enumerate(rows):
            ends = [null if row[end] is None else row[end] for end in (low, high)]
            ax.plot(ends, [place, place], color=INK, linewidth=1.2)
            ax.plot(row[value], place, "s", color=COLOURS[0], markersize=5)
        ax.set_yticks(range(len(rows)), [labels[row["name"]] for row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        if family.ratio is not None:
            ratio_axis(ax)
        percent = f"{100 * self.estimates['confidence']:.10g}% CI"
        ax.set_xlabel(f"{family.ratio or 'coefficient (study units)'} with {percent}", color=INK, fontsize=9)
        return figure

    def _label(self, name: str) -> str:
        return label_of(self.study, name)

    def _covariates(self) -> list[str]:
        return list(self.study.analyses[self.analysis].parameters["covariates"])

    def _contrast(self) -> str:
        """Who is compared with whom, for the first coefficient."""
        term = self._covariates()[0].strip()
        if ":" in term:
            return f"For the interaction {self.estimates['coefficients'][1]['name']}"
        variable = self.study.variables[term]
        if isinstance(variable, NumberVariable):
            return f"For each {say_one(variable.unit)} more of {self._label(term)}"
        if isinstance(variable, BooleanVariable):
            return f"With {self._label(term)}, compared with without,"
        assert isinstance(variable, CategoryVariable)
        level = next(level for level in variable.levels if level != variable.reference)
        return f"For {self._label(term)} {level}, compared with {variable.reference},"


def estimates(
    method: GeneralisedLinearModel, totals: Totals, null: Climb, fit: Climb
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The estimates (plain JSON values, study units) and notes of a fit."""
    spec, family, scale = method.spec, method.family, method.scale
    n, q = int(totals.patients), method.q
    free = n - q
    sums = fit.sums
    gaussian = family.name == "gaussian"
    squared = scale.half**2 if gaussian else 1.0
    deviance, null_deviance = float(sums.deviance) * squared, float(null.sums.deviance) * squared
    if gaussian and deviance <= 1e-12 * null_deviance:
        raise MethodError(
            f"The covariates determine {spec.outcome!r} exactly, so there is no error to estimate.",
            rule="perfect-fit",
            remedy="Leave out the covariate that is a copy of the outcome.",
        )
    dispersion = deviance / free if gaussian else 1.0
    information = sums.information + np.diag(method.penalty())
    spread = covariance(information, method.names) * (float(sums.deviance) / free if gaussian else 1.0)
    coefficients, spread = _study_units(method, fit.beta, spread)
    likelihood = _log_likelihood(method, totals, deviance)
    pearson = None if sums.over[1] else float(sums.pearson) * squared
    found = {
        "n": n,
        **({} if gaussian else {"events": int(totals.events)}),
        "outcome": spec.outcome,
        "family": family.name,
        "link": family.link,
        "confidence": spec.confidence,
        "ridge": spec.ridge,
        "iterations": fit.iterations,
        "coefficients": _rows(method.names, coefficients, np.sqrt(np.diag(spread)), spec.confidence, family.ratio),
        "covariance": spread.tolist(),
        "deviance": deviance,
        "null_deviance": null_deviance,
        "log_likelihood": likelihood,
        "aic": 2 * q - 2 * likelihood,
        "dispersion": dispersion,
        "pearson_chi2": pearson,
        "df_residual": free,
        "pseudo_r2": 1 - deviance / null_deviance if gaussian else 1 - math.exp((deviance - null_deviance) / n),
    }
    return found, _notes(method, pearson, free)


def _study_units(method: GeneralisedLinearModel, beta: Vector, spread: Matrix) -> tuple[Vector, Matrix]:
    """Coefficients (q,) and covariance (q, q) from the scaled columns and outcome to the study's units."""
    back = np.diag([1.0, *(1 / method.design.half)])
    back[0, 1:] = -method.design.centre / method.design.half
    back *= method.scale.half
    coefficients = back @ beta
    coefficients[0] += method.scale.centre
    spread = back @ spread @ back.T
    return coefficients, (spread + spread.T) / 2


def _log_likelihood(method: GeneralisedLinearModel, totals: Totals, deviance: float) -> float:
    """As statsmodels' ``llf``: for the gaussian with the variance profiled out, deviance / n."""
    if method.family.name != "gaussian":
        return float(totals.saturated) - deviance / 2
    n = int(totals.patients)
    return -0.5 * (n * (1 + math.log(2 * math.pi * deviance / n)) - float(totals.log_weight))


def _rows(
    names: tuple[str, ...], coefficients: Vector, errors: Vector, confidence: float, ratio: str | None
) -> list[dict[str, Any]]:
    reach = float(ndtri(0.5 + confidence / 2))
    rows = []
    for name, coef, se in zip(names, coefficients.tolist(), errors.tolist(), strict=True):
        z = coef / se
        low, high = coef - reach * se, coef + reach * se
        row: dict[str, Any] = {
            "name": name,
            "coef": coef,
            "se": se,
            "z": z,
            "p": float(2 * ndtr(-abs(z))),
            "ci_low": low,
            "ci_high": high,
        }
        if ratio is not None:
            row |= {"ratio": _exp(coef), "ratio_low": _exp(low), "ratio_high": _exp(high)}
        rows.append(row)
    return rows


def _exp(value: float) -> float | None:
    """None where the ratio is too large for a number (a coefficient per unit of a very small quantity)."""
    return math.exp(value) if value < 700 else None


def _digits(row: dict[str, Any], ratio: str | None) -> int:
    """A ratio for one unit of a number is often close to 1: ``1.004`` says more than ``1.00``."""
    return 4 if ratio is not None and abs(row["coef"]) < 0.05 else 3


def _columns_of(ratio: str | None) -> tuple[str, str, str]:
    return ("coef", "ci_low", "ci_high") if ratio is None else ("ratio", "ratio_low", "ratio_high")


def _notes(method: GeneralisedLinearModel, pearson: float | None, free: int) -> tuple[str, ...]:
    notes = []
    if method.spec.ridge > 0:
        notes.append(
            f"Coefficients are shrunk by a ridge penalty of {method.spec.ridge:g}: they are biased towards 0, and "
            "standard errors, intervals and p-values are conditional on the penalty."
        )
    if pearson is None:
        notes.append("The Pearson chi-squared is not reported: a patient's outcome was far too unlikely under the fit.")
    elif method.family.name == "poisson" and pearson > 1.5 * free:
        notes.append(
            "The counts vary more than a poisson variable does (Pearson chi-squared / degrees of freedom = "
            f"{pearson / free:.2f}): standard errors are too small."
        )
    return tuple(notes)
