"""One point of the likelihood from sums, in two ways: each hospital's own baseline hazard, or one baseline for all.

Both give the same four things: the likelihood with its derivatives at a beta, what the check of proportional hazards needs,
and the pooled baseline hazard at the estimate.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from unisono.errors import MethodError
from unisono.methods.design import Vector
from unisono.methods.survival.baseline import Baseline
from unisono.methods.survival.cox_sums import RiskSets, Totals
from unisono.methods.survival.fit import Point
from unisono.methods.survival.partial_likelihood import TieTerms, outer_part, tie_terms
from unisono.methods.survival.proportional_hazards import TimeInformation
from unisono.methods.survival.risk_sets import unpack_symmetric

if TYPE_CHECKING:
    from unisono.federation.federation import Federation
    from unisono.methods.survival.cox import CoxRegression

_FINITE = 600.0
_QUANTUM = 2.0**-46
"""Of the bound of a sum: the last place in which the `exact` encoding carries it."""
_LOST = 1e-6
"""Largest part of a sum over a risk set that its last place may be."""


def steep(beta: Vector) -> float:
    """Largest relative risk that any patient can have at `beta`."""
    return math.exp(min(float(np.abs(beta).sum()), _FINITE))


def _digits_lost(method: CoxRegression, totals: Totals, beta: Vector, s0: Vector) -> bool:
    """Whether sums of relative risks, whose bounds must allow for the steepest patient that the declared min/max allow, are
    left with too few digits at some event time."""
    at = totals.deaths > 0
    last_place = totals.at_risk[at] * method.heaviest * steep(beta) * _QUANTUM
    return bool((last_place > _LOST * s0[at]).any())


class PerSiteBaseline:
    """Stratified by hospital: the likelihood is a sum over hospitals, and so are its derivatives."""

    def __init__(self, method: CoxRegression, federation: Federation, totals: Totals) -> None:
        self.method = method
        self.federation = federation
        self.totals = totals

    async def evaluate(self, beta: Vector) -> Point:
        """One sum."""
        total = await self.federation.sum(self.method.derivatives, beta)
        return Point(beta, float(total.log_likelihood), total.score, unpack_symmetric(total.information, self.method.p))

    async def time_information(self, best: Point) -> TimeInformation:
        """One sum."""
        total = await self.federation.sum(self.method.time_derivatives, best.beta)
        p = self.method.p
        return TimeInformation(total.score, unpack_symmetric(total.cross, p), unpack_symmetric(total.square, p))

    async def hazard(self, best: Point) -> Baseline | None:
        """One sum, and one more if survival is wanted at some times. None where the sums would have no digits left."""
        method, totals = self.method, self.totals
        opened = await self.federation.sum(method.hazard_sums, best.beta, totals.at_risk, totals.deaths)
        if _digits_lost(method, totals, best.beta, opened["s0"]):
            return None
        pooled = Baseline.breslow(totals.weight, opened["s0"], np.zeros((method.p, 0)))
        if not method.at:
            return pooled
        slopes = await self.federation.sum(method.hazard_slopes, best.beta, pooled.increments, pooled.s0)
        return Baseline(pooled.increments, pooled.s0, slopes["slopes"])


class CommonBaseline:
    """One baseline: risk sets are pooled, so their sums are opened first, and come back as factors for the second sum."""

    def __init__(self, method: CoxRegression, federation: Federation, totals: Totals) -> None:
        self.method = method
        self.federation = federation
        self.totals = totals
        self._sums = RiskSets(np.zeros(0), np.zeros((0, 0)), np.zeros(0), np.zeros((0, 0)))
        self._terms = TieTerms(*(np.zeros(0),) * 5, 0.0)

    async def evaluate(self, beta: Vector) -> Point:
        """Two sums: over the risk sets; then products of covariates with the factors that follow from them."""
        totals, method = self.totals, self.method
        sums = await self.federation.sum(method.risk_sets, beta, totals.at_risk, totals.deaths)
        if not method.efron:
            sums = RiskSets(sums.s0, sums.s1, np.zeros_like(sums.s0), np.zeros_like(sums.s1))
        if _digits_lost(method, totals, beta, sums.s0):
            raise _no_digits()
        self._sums = sums
        self._terms = tie_terms(sums.s0, sums.t0, totals.deaths, totals.weight, efron=method.efron)
        score = totals.event_sum - self._expected(self._terms)
        value = float(beta @ totals.event_sum) - self._terms.log_phi
        return Point(beta, value, score, await self._information(beta, self._terms))

    async def time_information(self, best: Point) -> TimeInformation:
        """Two sums: the information with each time's factors multiplied by g, and by g squared."""
        g = self.method.g
        assert g is not None
        once, twice = self._terms.times(g), self._terms.times(g**2)
        return TimeInformation(
            self.totals.event_time_sum - self._expected(once),
            await self._information(best.beta, once),
            await self._information(best.beta, twice),
        )

    async def hazard(self, best: Point) -> Baseline | None:
        """No sum: the last point's risk sets hold all of it."""
        del best
        pooled = Baseline.breslow(self.totals.weight, self._sums.s0, np.zeros((self.method.p, 0)))
        slopes = np.cumsum(self._sums.s1 * pooled.multipliers, axis=1)[:, self.method.at]
        return Baseline(pooled.increments, pooled.s0, slopes)

    def _expected(self, terms: TieTerms) -> Vector:
        """(p,) sum over events of the risk-set mean."""
        return np.asarray(self._sums.s1 @ terms.a - self._sums.t1 @ terms.b, np.float64)

    async def _information(self, beta: Vector, terms: TieTerms) -> Vector:
        opened = await self.federation.sum(self.method.information, beta, terms.a, terms.b)
        first = unpack_symmetric(opened["products"], self.method.p)
        return first - outer_part(self._sums.s1, self._sums.t1, terms)


def _no_digits() -> MethodError:
    return MethodError(
        "Relative risks differ so much between patients that sums over risk sets lose their digits.",
        rule="steep-coefficients",
        remedy="Declare min/max of the numbers no wider than they need to be, leave out a covariate that separates events "
        "from non-events, or use `baseline: per-site`, whose sums do not grow.",
    )
