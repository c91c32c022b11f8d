"""Confidence intervals of metrics, and how a metric is written: ``{value, low, high}``."""

from __future__ import annotations

import math
from typing import Any

from scipy.special import expit, logit, ndtri  # not scipy.stats, which takes long to import

Metric = dict[str, float | None]

HIDDEN: Metric = {"value": None, "low": None, "high": None}
"""May not be shown, or cannot be known."""


def quantile(confidence: float) -> float:
    """Of the standard normal: 1.96 for 0.95."""
    return float(ndtri(0.5 + confidence / 2))


def metric(value: float | None, low: float | None = None, high: float | None = None) -> Metric:
    """Plain numbers; what is not finite is None."""
    return {"value": _plain(value), "low": _plain(low), "high": _plain(high)}


def wald(value: float, error: float, confidence: float, least: float = -math.inf, most: float = math.inf) -> Metric:
    """value +- z error, cut to [least, most]; no interval where the error is 0 or not known."""
    if not math.isfinite(error) or error <= 0:
        return metric(value)
    reach = quantile(confidence) * error
    return metric(value, max(value - reach, least), min(value + reach, most))


def mean_of(total: float, squares: float, n: int, confidence: float, least: float = -math.inf) -> Metric:
    """The mean of n values with their sum and their sum of squares, by the central limit theorem."""
    if n == 0:
        return dict(HIDDEN)
    mean = total / n
    if n == 1:
        return metric(mean)
    variance = max(squares / n - mean**2, 0.0) / (n - 1)
    return wald(mean, math.sqrt(variance), confidence, least)


def wilson(successes: int, n: int, confidence: float) -> Metric:
    """A proportion with Wilson's score interval (Wilson 1927; Brown, Cai & DasGupta 2001)."""
    if n == 0:
        return dict(HIDDEN)
    z2 = quantile(confidence) ** 2
    p = successes / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if successes == 0 else centre - reach
    high = 1.0 if successes == n else centre + reach
    return metric(p, low, high)


def on_logit(value: float, error: float, confidence: float) -> Metric:
    """A value inside (0, 1) whose logit has the standard error `error`."""
    if not 0 < value < 1 or not math.isfinite(error):
        return metric(value)
    reach = quantile(confidence) * error
    return metric(value, float(expit(logit(value) - reach)), float(expit(logit(value) + reach)))


def _plain(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
