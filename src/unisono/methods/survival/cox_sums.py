"""What leaves a hospital in a Cox regression: the opened sums, as the coordinator reads them."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.methods.design import Matrix, Vector
from unisono.methods.survival.product_limit import number_at_risk


@dataclass(frozen=True)
class Totals:
    """Opened once, first. holders: (q,) of indicator columns. numbers: (v,) sums within [-1, 1] of number covariates.
    exits, deaths, entries: (k,) along the grid. death_weight: (k,) with case weights. event_sum, event_time_sum: (p,) sums
    over events of z and z g(t), for a common baseline. What a study does not need has no elements."""

    patients: Vector
    events: Vector
    holders: Vector
    numbers: Vector
    exits: Vector
    deaths: Vector
    entries: Vector
    death_weight: Vector
    event_sum: Vector
    event_time_sum: Vector

    @property
    def weight(self) -> Vector:
        """(k,) total case weight of the events at each time."""
        return self.death_weight if self.death_weight.size else self.deaths

    @property
    def at_risk(self) -> Vector:
        """(k,) just before each grid time."""
        return number_at_risk(self.exits, self.entries if self.entries.size else None)


@dataclass(frozen=True)
class Derivatives:
    """score: (p,). information: (p (p + 1) / 2,) its upper triangle. log_likelihood: ()."""

    score: Vector
    information: Vector
    log_likelihood: Vector


@dataclass(frozen=True)
class TimeDerivatives:
    """Of x * g(t) at the estimate. score: (p,). cross, square: (p (p + 1) / 2,) upper triangles."""

    score: Vector
    cross: Vector
    square: Vector


@dataclass(frozen=True)
class RiskSets:
    """Sums of w exp(eta) and w exp(eta) z over risk sets (s0 (k,), s1 (p, k)), where somebody had the event; and over the
    events (t0, t1), where several tie (Efron)."""

    s0: Vector
    s1: Matrix
    t0: Vector
    t1: Matrix
