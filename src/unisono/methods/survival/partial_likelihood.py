"""Cox's partial likelihood with tied events (Breslow 1974; Efron 1977), its score and its information.

At a time with d tied events of total weight W, and with S0, T0 the sums of w exp(eta) over the risk set and over the tied
events, both approximations are sums over l = 0 .. d-1 of terms in ``phi_l = S0 - f_l T0``, with f_l = l/d (Efron) or 0
(Breslow), each weighted W/d (Therneau & Grambsch 2000, section 3.3, for case weights). Everything that the sums over
patients need of them are five numbers a time (`TieTerms`). The information is then

    sum_i w_i exp(eta_i) a_i z_i z_i^T  -  sum_k (c S1 S1^T - d (S1 T1^T + T1 S1^T) + f T1 T1^T)

where a_i cumulates the times' `a` while patient i is at risk: one weighted cross-product of the covariates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.methods.design import Matrix, Vector
from unisono.methods.survival.risk_sets import RiskData, weighted_gram


@dataclass(frozen=True)
class TieTerms:
    """(k,) at each grid time, with u = W/d: a = sum u/phi, b = sum u f/phi, c = sum u/phi^2, d = sum u f/phi^2,
    f = sum u f^2/phi^2; and ``log_phi`` = sum over all times of u log(phi)."""

    a: Vector
    b: Vector
    c: Vector
    d: Vector
    f: Vector
    log_phi: float

    def times(self, g: Vector) -> TieTerms:
        """Each time's terms multiplied by g (k,)."""
        return TieTerms(self.a * g, self.b * g, self.c * g, self.d * g, self.f * g, self.log_phi)


def tie_terms(s0: Vector, t0: Vector, deaths: NDArray[Any], weight: Vector, *, efron: bool) -> TieTerms:
    """From the sums over risk sets (`s0`) and tied events (`t0`), all (k,); `deaths` counts events, `weight` is theirs."""
    d = np.rint(deaths).astype(np.int64)
    if not efron:
        at = d > 0
        a, c, zero = np.zeros_like(s0), np.zeros_like(s0), np.zeros_like(s0)
        a[at] = weight[at] / s0[at]
        c[at] = a[at] / s0[at]
        return TieTerms(a, zero, c, zero, zero, float(weight[at] @ np.log(s0[at])))
    k = np.repeat(np.arange(len(d)), d)
    f = (np.arange(len(k)) - (np.cumsum(d) - d)[k]) / d[k]
    # Mathematically s0 >= t0; with delayed entry s0 is a difference, and may miss it by its rounding.
    phi = np.maximum(s0, t0)[k] - f * t0[k]
    u = weight[k] / d[k]
    log_phi = float(u @ np.log(phi))

    def over_ties(values: Vector) -> Vector:
        return np.asarray(np.bincount(k, values, len(d)), np.float64)

    u /= phi
    a, b = over_ties(u), over_ties(u * f)
    u /= phi
    once = u * f
    return TieTerms(a, b, over_ties(u), over_ties(once), over_ties(once * f), log_phi)


@dataclass(frozen=True)
class RiskSums:
    """At one beta: relative risks times case weights (n,), and their sums S over risk sets and T over tied events.

    s0, t0: (k,). s1, t1: (p, k). `shift` was subtracted from every eta, so that no exponential overflows.
    """

    risk: Vector
    eta: Vector
    shift: float
    s0: Vector
    t0: Vector
    s1: Matrix
    t1: Matrix


def risk_sums(data: RiskData, beta: Vector, *, centred: bool = True) -> RiskSums:
    """One pass over the patients for each covariate; no second array of the size of `z`."""
    eta = beta @ data.z
    shift = float(eta.max() + eta.min()) / 2 if centred and data.n else 0.0
    eta -= shift
    risk = data.weighted(np.exp(eta))
    s1, t1 = np.empty((len(beta), data.length)), np.empty((len(beta), data.length))
    part = np.empty_like(risk)
    for j, z in enumerate(data.z):
        np.multiply(risk, z, out=part)
        s1[j], t1[j] = data.over_risk_sets(part), data.over_events(part)
    return RiskSums(risk, eta, shift, data.over_risk_sets(risk), data.over_events(risk), s1, t1)


def event_weight(data: RiskData) -> Vector:
    """(k,) total case weight of the events at each grid time."""
    return data.deaths.astype(np.float64) if data.weight is None else data.over_events(data.weight)


def information(data: RiskData, sums: RiskSums, terms: TieTerms) -> Matrix:
    """(p, p) sum over times of the weighted covariance of covariates in the risk set; `terms` may carry time factors."""
    first = weighted_gram(data.z, sums.risk * data.spread(terms.a, terms.b))
    return first - outer_part(sums.s1, sums.t1, terms)


def outer_part(s1: Matrix, t1: Matrix, terms: TieTerms) -> Matrix:
    """(p, p) what the squares of the risk-set means contribute."""
    cross = (s1 * terms.d) @ t1.T
    part = (s1 * terms.c) @ s1.T - cross - cross.T + (t1 * terms.f) @ t1.T
    return np.asarray(part, np.float64)


def score(data: RiskData, sums: RiskSums, terms: TieTerms, g: Vector | None = None) -> Vector:
    """(p,) sum over events of g(t) (z - risk-set mean); g (k,), 1 by default; `terms` without time factors."""
    scaled = terms if g is None else terms.times(g)
    u = sums.risk * data.spread(scaled.a, scaled.b)
    np.negative(u, out=u)
    u[data.rows] += event_values(data, g)
    return np.asarray(data.z @ u, np.float64)


def event_values(data: RiskData, g: Vector | None = None) -> Vector:
    """(d,) case weight of each event, times g (k,) at its time."""
    weight = np.ones(len(data.rows)) if data.weight is None else data.weight[data.rows]
    return weight if g is None else weight * g[data.at]


def log_likelihood(data: RiskData, sums: RiskSums, terms: TieTerms) -> float:
    """The log partial likelihood (the shift cancels)."""
    return float(event_values(data) @ sums.eta[data.rows]) - terms.log_phi


def relative_risk(data: RiskData, beta: Vector) -> Vector:
    """(n,) case weight times exp(eta), not centred: the same scale at every site."""
    eta = beta @ data.z
    return data.weighted(np.exp(eta, out=eta))


def products(data: RiskData, risk: Vector, at_risk: Vector, at_event: Vector) -> Matrix:
    """(p, p) ``sum_i risk_i a_i z_i z_i^T`` with a_i from factors (k,) of the times at risk and of the event."""
    return weighted_gram(data.z, risk * data.spread(at_risk, at_event))
