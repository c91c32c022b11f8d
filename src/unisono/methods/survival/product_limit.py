"""The product-limit estimator and the log-rank test from counts along a grid: pure functions of opened totals.

Everything needs only, at each grid time, how many patients were at risk just before it and how many had the event.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtri  # not scipy.stats, which takes long to import

Float = NDArray[np.float64]

_SAME = 1e-12
"""A product of ratios that should be exactly 1/2 may miss it by rounding; within this it is 1/2."""


def number_at_risk(exits: Float, entries: Float | None = None) -> Float:
    """(..., k) at risk just before each grid time: those with entry < t <= exit.

    exits, entries: (..., k) how many leave, and how many come under observation, at each grid time.
    Without `entries` everybody is at risk from the start.
    """
    waiting = exits if entries is None else exits - entries
    return np.asarray(np.cumsum(waiting[..., ::-1], axis=-1)[..., ::-1], np.float64)


@dataclass(frozen=True)
class ProductLimit:
    """One estimated curve. survival: (k,) just after each grid time. greenwood: (k,) variance of log survival."""

    survival: Float
    greenwood: Float

    def band(self, confidence: float) -> tuple[Float, Float]:
        """Pointwise limits (k,), (k,) from the log(-log) transform: inside [0, 1] by construction.

        1 where the curve is still 1; NaN where it is 0, for there the variance is not defined.
        Kalbfleisch & Prentice (2002), section 1.4.1.
        """
        z = float(ndtri(0.5 + confidence / 2))
        inside = (self.survival > 0) & (self.survival < 1)
        log_s = np.log(np.where(inside, self.survival, 0.5))
        reach = z * np.sqrt(self.greenwood) / -log_s
        edge = np.where(self.survival >= 1, 1.0, np.nan)
        low = np.where(inside, np.exp(log_s * np.exp(reach)), edge)
        high = np.where(inside, np.exp(log_s * np.exp(-reach)), edge)
        return low, high


def product_limit(events: Float, at_risk: Float) -> ProductLimit:
    """Kaplan & Meier (1958), with Greenwood's variance. events, at_risk: (k,)."""
    some = at_risk > 0
    n = np.where(some, at_risk, 1.0)
    d = np.where(some, events, 0.0)
    left = n - d
    term = np.divide(d, n * left, out=np.zeros_like(n), where=left > 0)
    return ProductLimit(np.asarray(np.cumprod(left / n), np.float64), np.cumsum(term))


def first_at_or_below(curve: Float, level: float) -> int | None:
    """The first position where a curve is at or below `level`; None where it never is (or is not defined there)."""
    hit = np.flatnonzero(curve <= level + _SAME)
    return int(hit[0]) if hit.size else None


@dataclass(frozen=True)
class LogRank:
    """A chi-squared test that all groups share one hazard."""

    statistic: float
    df: int
    p: float


def logrank(events: Float, at_risk: Float) -> LogRank | None:
    """The k-sample log-rank test (Mantel 1966; Peto & Peto 1972), hypergeometric variance.

    events, at_risk: (g, k). None where fewer than two groups were ever at risk at an event.
    """
    present = at_risk.max(axis=1, initial=0.0) > 0
    d_g, n_g = events[present], at_risk[present]
    d, n = d_g.sum(axis=0), n_g.sum(axis=0)
    at = (d > 0) & (n > 0)
    d_g, n_g, d, n = d_g[:, at], n_g[:, at], d[at], n[at]
    if d_g.shape[0] < 2 or not n.size:
        return None
    share = n_g / n
    difference = (d_g - share * d).sum(axis=1)
    spread = d * np.divide(n - d, n - 1, out=np.zeros_like(n), where=n > 1)
    variance = np.diag((share * spread).sum(axis=1)) - (share * spread) @ share.T
    u, v = difference[:-1], variance[:-1, :-1]
    if np.linalg.matrix_rank(v) < len(u):
        return None
    statistic = float(u @ np.linalg.solve(v, u))
    return LogRank(statistic, len(u), float(chdtrc(len(u), statistic)))
