"""Newton-Raphson on the log partial likelihood, with step halving; and what can go wrong with a fit, said in words.

The log partial likelihood is concave, so a fit fails for a reason that can be named: a covariate that does not vary, one
that others determine, or one whose coefficient grows without end because it separates events from non-events.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unisono.errors import MethodError
from unisono.methods.design import Matrix, Vector
from unisono.methods.newton import covariance, solve_information
from unisono.methods.wording import say_list

LIMIT = 20.0
"""Largest |coefficient| on the scale of the columns (within [-1, 1]): a hazard ratio of e^20. Sites refuse larger ones."""
MAX_STEPS = 60
"""Evaluations at most in one fit, halvings included: a bound for the permit. A regular fit takes 5 to 8."""

_DONE = 1e-9
"""Length of a Newton step, in standard errors, at which a fit has converged."""
_FLOOR = 1e-5
"""Below this length, steps that no longer shrink are the rounding of the sums: converged as well."""
_NEAR = 0.1
"""From here on (in standard errors) a regular fit converges quadratically: each step is far shorter than the one before."""
_RUNAWAY = 30.0
"""A standard error this many times that at 0, while steps shrink slowly: the likelihood flattens and rises for ever."""


@dataclass(frozen=True)
class Point:
    """The log partial likelihood at `beta` (p,), with its score (p,) and information (p, p)."""

    beta: Vector
    log_likelihood: float
    score: Vector
    information: Matrix


@dataclass(frozen=True)
class Fit:
    """The maximum, the point beta = 0, and how many Newton steps lie between them."""

    best: Point
    null: Point
    iterations: int


Evaluate = Callable[[Vector], Awaitable[Point]]


async def maximise(evaluate: Evaluate, names: Sequence[str], patients: float) -> Fit:
    """From beta = 0. patients: their (weighted) number, for the scale of what counts as nothing.

    `MethodError`, rules: ``constant-covariate``, ``collinearity``, ``monotone-likelihood``, ``convergence``.
    A fit that does not converge is an error, never a result that could be mistaken for one.
    """
    point = null = await evaluate(np.zeros(len(names)))
    _refuse_constant(null, names, patients)
    at_null = np.sqrt(np.diag(covariance(null.information, names)))
    before, iterations, evaluations = np.inf, 0, 1
    while True:
        step = solve_information(point.information, point.score, names)
        length = max(float(step @ point.score), 0.0) ** 0.5
        if length <= _DONE or (length < _FLOOR and length > before / 2):
            return Fit(point, null, iterations)
        grown = np.abs(step) / (length * at_null)  # at least how many times the standard error at 0
        if 0.3 * before < length < _NEAR and grown.max() > _RUNAWAY:
            raise _monotone(names, grown > max(_RUNAWAY, 0.1 * grown.max()))
        step *= _room(point.beta, step, names)
        point, used = await _uphill(evaluate, point, step, MAX_STEPS - evaluations)
        before, iterations, evaluations = length, iterations + 1, evaluations + used


async def _uphill(evaluate: Evaluate, point: Point, step: Vector, budget: int) -> tuple[Point, int]:
    """The step, halved until the likelihood does not fall (beyond the rounding of its sum)."""
    slack = 1e-10 * (1 + abs(point.log_likelihood))
    for used in range(1, budget + 1):
        trial = await evaluate(point.beta + step)
        if trial.log_likelihood >= point.log_likelihood - slack:
            return trial, used
        step = step / 2
    raise MethodError(
        f"The fit did not converge in {MAX_STEPS} evaluations.",
        rule="convergence",
        remedy="Use fewer covariates, or merge rare levels; and declare min/max of the numbers no wider than they need to be.",
    )


def _room(beta: Vector, step: Vector, names: Sequence[str]) -> float:
    """The part of the step that stays within the limit on coefficients."""
    reach = np.abs(beta + step)
    outside = reach > LIMIT
    if not outside.any():
        return 1.0
    moving = np.abs(step[outside])
    room = float(((LIMIT - np.sign(step[outside]) * beta[outside]) / moving).min())
    if room < 1e-3:
        raise _monotone(names, outside)
    return room


def _monotone(names: Sequence[str], which: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> MethodError:
    involved = say_list([name for name, bad in zip(names, which, strict=True) if bad])
    return MethodError(
        f"The likelihood rises for ever along {involved}: there is no finite hazard ratio (monotone likelihood).",
        rule="monotone-likelihood",
        remedy=f"Probably no event, or every event, is in one group of {involved}: leave it out or merge its levels. "
        "For a number, its declared min/max may also be far wider than its values: declare them tighter.",
    )


def _refuse_constant(null: Point, names: Sequence[str], patients: float) -> None:
    """A column without variance in any risk set. (Exact zero is blurred by the rounding of sums, ~1e-14 of n.)"""
    flat = np.diag(null.information) <= 1e-12 * patients
    if flat.any():
        involved = say_list([name for name, f in zip(names, flat, strict=True) if f])
        raise MethodError(
            f"Nothing can be learnt about {involved}: among the patients at risk together it does not vary.",
            rule="constant-covariate",
            remedy="Leave it out of `covariates`. With `baseline: per-site` it must vary within hospitals, "
            "not only between them; for that comparison use `baseline: common`.",
        )
