"""Are hazards proportional? A score test of x * g(t) beside x at the estimate, from sums (Grambsch & Therneau 1994).

The exact score test that R's `survival` (3.0 and later) computes in ``cox.zph``: no residuals, which would be single
patients, only a score and three information matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import chdtrc  # not scipy.stats, which takes long to import

from unisono.methods.design import Matrix, Vector

TimeFunction = Literal["identity", "log"]


@dataclass(frozen=True)
class TimeInformation:
    """At the estimate: the score (p,) of x * g(t), the information (p, p) between x and x * g(t), and of x * g(t)."""

    score: Vector
    cross: Matrix
    square: Matrix


def time_function(kind: TimeFunction, length: int) -> Vector:
    """g (k,) at each grid time, from 0 to 1. The test does not change with the origin and scale of g; its sums stay bounded."""
    k = np.arange(length, dtype=np.float64)
    if kind == "log":
        k = np.log(np.maximum(k, 1.0))
    return k / k[-1] if k[-1] > 0 else k


def score_test(information: Matrix, time: TimeInformation, terms: Mapping[str, list[int]]) -> list[dict[str, Any]]:
    """One row for each term (its columns together) and one, ``global``, for all: {name, chi2, df, p}.

    information: (p, p) of the coefficients. chi2 and p are None where g(t) hardly varies among the events.
    """
    through = np.linalg.solve(information, time.cross)
    remaining = time.square - time.cross @ through
    groups = {**terms, "global": list(range(len(time.score)))}
    rows = []
    for name, columns in groups.items():
        block = remaining[np.ix_(columns, columns)]
        statistic = _quadratic(block, time.score[columns], np.diag(time.square)[columns])
        p = None if statistic is None else float(chdtrc(len(columns), statistic))
        rows.append({"name": name, "chi2": statistic, "df": len(columns), "p": p})
    return rows


def _quadratic(block: Matrix, u: Vector, size: Vector) -> float | None:
    """``u^T block^-1 u``; None where the block is not clearly positive beside the diagonal it was reduced from."""
    if not (size > 0).all():
        return None
    scale = 1 / np.sqrt(size)
    unit = block * np.outer(scale, scale)
    if np.linalg.eigvalsh(unit).min() < 1e-9:
        return None
    scaled = u * scale
    return float(scaled @ cho_solve(cho_factor(unit), scaled))
