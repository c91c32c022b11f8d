"""The linear algebra of a Newton step, checked: an information matrix without inverse is explained by its columns.

Used by every likelihood method, on columns within [-1, 1] (`unisono.methods.design`). The matrix is first scaled to a
unit diagonal, so that what counts as singular does not depend on how much a column spreads. Columns are named, because
"singular matrix" helps nobody at a hospital.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from unisono.errors import MethodError
from unisono.methods.wording import say_list

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

SINGULAR = 1e-9
"""Smallest eigenvalue of the unit-diagonal information that is still inverted. The `exact` encoding carries entries
to about 1e-14 of their bound, so below this the digits of a coefficient would be the encoding's and not the data's."""
EMPTY = 1e-12
"""A diagonal element below this part of the largest one: the column carries no information at all."""


def solve_information(information: Matrix, score: Vector, names: Sequence[str]) -> Vector:
    """The Newton step ``information^-1 score`` (q,), for `information` (q, q) positive definite.

    names: of the q columns, for the error.
    `MethodError` (rules ``finite-fit``, ``constant-covariate``, ``collinearity``) if the
    matrix is not finite, a column carries no information, or columns cannot be told apart.
    """
    scale, unit = _checked(information, names)
    if not scale.size:
        return np.zeros(0)
    step = cho_solve(cho_factor(unit, lower=True), np.asarray(score, np.float64) * scale)
    return np.asarray(step * scale, np.float64)


def covariance(information: Matrix, names: Sequence[str]) -> Matrix:
    """The inverse (q, q) of the information, symmetric; errors as in `solve_information`."""
    scale, unit = _checked(information, names)
    if not scale.size:
        return np.zeros((0, 0))
    inverse = cho_solve(cho_factor(unit, lower=True), np.eye(len(scale)))
    inverse = (inverse + inverse.T) / 2
    return np.asarray(inverse * np.outer(scale, scale), np.float64)


def _checked(information: Matrix, names: Sequence[str]) -> tuple[Vector, Matrix]:
    """``diagonal^-1/2`` (q,) and the unit-diagonal information (q, q), or the reason why there is no inverse."""
    information = np.asarray(information, np.float64)
    if not np.isfinite(information).all():
        raise MethodError(
            "The fit left the numbers: its information matrix is not finite.",
            rule="finite-fit",
            remedy="Look for a covariate that predicts the outcome perfectly, or for min/max declared far too wide.",
        )
    diagonal = np.diag(information)
    if not diagonal.size:
        return np.zeros(0), information
    largest = float(diagonal.max())
    empty = [name for name, value in zip(names, diagonal, strict=True) if not value > EMPTY * largest or largest <= 0]
    if empty:
        raise MethodError(
            f"Nothing can be learnt about {say_list(empty)}: it does not vary among the patients who count.",
            rule="constant-covariate",
            remedy="Leave it out of `covariates`, or widen the cohort so that it varies.",
        )
    scale = 1 / np.sqrt(diagonal)
    unit = information * np.outer(scale, scale)
    unit = (unit + unit.T) / 2
    values, vectors = np.linalg.eigh(unit)
    small = vectors[:, values <= SINGULAR]
    if small.size:
        raise _collinear(small, names)
    return scale, unit


def _collinear(null: Matrix, names: Sequence[str]) -> MethodError:
    """Names the columns that take part in the null directions `null` (q, k)."""
    share = np.abs(null).max(axis=1)
    involved = [name for name, s in zip(names, share, strict=True) if s > 0.05 * share.max()]
    return MethodError(
        f"{say_list(involved)} cannot be told apart: given the others, one of them is (almost) determined.",
        rule="collinearity",
        remedy="Leave one of them out of `covariates`. If none is redundant, declare tighter min/max for the numbers.",
    )
