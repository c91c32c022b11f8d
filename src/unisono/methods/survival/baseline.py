"""The pooled baseline hazard at the estimate, and the absolute survival of reference patients that follows from it.

Breslow (1974): at each grid time, events over the sum of relative risks of all patients at risk in all hospitals. Variances
by the delta method (Tsiatis 1981; Therneau & Grambsch 2000, section 10.2). Also where the fit is stratified by hospital this
curve is pooled: it is that of the average hospital.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri  # not scipy.stats, which takes long to import

from unisono.methods.design import Design, Matrix, Vector, variables_of
from unisono.methods.survival.follow_up import Axis
from unisono.methods.survival.released import Counts, shown
from unisono.study.document import CategoryVariable, NumberVariable, Study
from unisono.study.table import Table


@dataclass(frozen=True)
class Profile:
    """A patient to speak of: every covariate's `values`, and their columns z (p,)."""

    name: str
    values: Mapping[str, float | str]
    z: Vector


def profiles(study: Study, design: Design, covariates: list[str], means: Mapping[str, float]) -> list[Profile]:
    """The reference patient (numbers at their federated mean, categories at their reference, booleans no), and that patient
    with each other level of each category and boolean in turn."""
    names = variables_of(covariates)
    reference: dict[str, float] = {}
    for name in names:
        variable = study.variables[name]
        if isinstance(variable, NumberVariable):
            reference[name] = means[name]
        else:
            reference[name] = (
                float(variable.levels.index(variable.reference)) if isinstance(variable, CategoryVariable) else 0.0
            )
    found = [_profile(study, design, "reference", reference)]
    for name in names:
        levels = _levels(study, name)
        for level, word in enumerate(levels):
            if level != reference[name]:
                found.append(_profile(study, design, f"{name} = {word}", {**reference, name: float(level)}))
    return found


def _levels(study: Study, name: str) -> Sequence[str]:
    variable = study.variables[name]
    if isinstance(variable, NumberVariable):
        return ()
    return variable.levels if isinstance(variable, CategoryVariable) else ("no", "yes")


def _profile(study: Study, design: Design, name: str, values: Mapping[str, float]) -> Profile:
    row = Table({k: np.array([v]) for k, v in values.items()}, 1)
    said = {k: _levels(study, k)[int(v)] if _levels(study, k) else float(v) for k, v in values.items()}
    return Profile(name, said, design.matrix(row)[0])


@dataclass(frozen=True)
class Baseline:
    """What the opened sums say of the hazard at z = 0.

    increments: (k,) of the cumulative hazard. s0: (k,) sums of relative risks at event times, 0 elsewhere.
    slopes: (p, m) minus the derivative of the cumulative hazard by beta, at the m times of `at`.
    """

    increments: Vector
    s0: Vector
    slopes: Matrix

    @staticmethod
    def breslow(deaths: Vector, s0: Vector, slopes: Matrix) -> Baseline:
        """deaths: (k,) total weight of the events at each time."""
        return Baseline(np.divide(deaths, s0, out=np.zeros_like(s0), where=s0 > 0), s0, slopes)

    @property
    def multipliers(self) -> Vector:
        """(k,) deaths / S0^2: what one patient's relative risk takes from the cumulative hazard."""
        return np.divide(self.increments, self.s0, out=np.zeros_like(self.s0), where=self.s0 > 0)


@dataclass(frozen=True)
class Reference:
    """What is needed to speak of reference patients: the fit on the scale of the columns, and the release rule."""

    beta: Vector
    covariance: Matrix
    counts: Counts
    confidence: float


def curve_estimates(axis: Axis, baseline: Baseline, who: Profile, fit: Reference, at: Sequence[int]) -> dict[str, Any]:
    """The reference patient's cumulative hazard and survival, at the grid times that may be shown."""
    points, _ = shown(fit.counts, at, [0])
    times = axis.times
    hazard = np.cumsum(baseline.increments) * np.exp(fit.beta @ who.z)
    return {
        "of": dict(who.values),
        "time": [float(times[k]) for k in points],
        "cumulative_hazard": [float(hazard[k]) for k in points],
        "survival": [float(np.exp(-hazard[k])) for k in points],
        "at_risk": [int(fit.counts.at_risk[k]) for k in points],
    }


def survival_estimates(
    baseline: Baseline, everyone: Sequence[Profile], fit: Reference, times: Sequence[float], at: Sequence[int]
) -> list[dict[str, Any]]:
    """Absolute survival of each profile at each of `times` (grid positions `at`), with limits on the scale of log hazard.
    None where too few patients were at risk."""
    _, fixed = shown(fit.counts, at, [0])
    hazard, noise = np.cumsum(baseline.increments), np.cumsum(baseline.multipliers)
    z = float(ndtri(0.5 + fit.confidence / 2))
    rows: list[dict[str, Any]] = []
    for who in everyone:
        for m, (time, k) in enumerate(zip(times, at, strict=True)):
            row: dict[str, Any] = {
                "profile": who.name,
                "time": time,
                "survival": None,
                "low": None,
                "high": None,
                "at_risk": None,
            }
            if k in fixed:
                tilt = who.z * hazard[k] - baseline.slopes[:, m]
                variance = noise[k] + tilt @ fit.covariance @ tilt
                h = float(hazard[k] * np.exp(fit.beta @ who.z))
                reach = float(np.exp(z * np.sqrt(variance) / hazard[k])) if hazard[k] > 0 else 1.0
                row |= {
                    "survival": float(np.exp(-h)),
                    "low": float(np.exp(-h * reach)),
                    "high": float(np.exp(-h / reach)),
                    "at_risk": int(fit.counts.at_risk[k]),
                }
            rows.append(row)
    return rows
