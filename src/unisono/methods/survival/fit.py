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
_NARROW = 1e-4
"""A spread on the scale of the columns below which the declared bounds are far too wide: the limit on coefficients would
then be a hazard ratio next to 1 for a whole standard deviation."""
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
class Scale:
    """What counts as little. patients, events: their (weighted) numbers. numbers: the columns that hold a number.
    crowded: those among them whose values fill next to nothing of the declared range, or are all the same."""

    patients: float
    events: float
    numbers: frozenset[str]
    crowded: frozenset[str]

    def narrow(self, null: Point, names: Sequence[str]) -> list[str]:
        """The numbers whose declared half-range is more than 1e4 times their spread within risk sets."""
        spread = np.sqrt(np.maximum(np.diag(null.information), 0.0) / max(self.events, 1e-300))
        return [name for name, s in zip(names, spread, strict=True) if name in self.numbers and s < _NARROW]


@dataclass(frozen=True)
class Fit:
    """The maximum, the point beta = 0, and how many Newton steps lie between them."""

    best: Point
    null: Point
    iterations: int


Evaluate = Callable[[Vector], Awaitable[Point]]


async def maximise(evaluate: Evaluate, names: Sequence[str], scale: Scale) -> Fit:
    """From beta = 0.

    `MethodError`, rules: ``constant-covariate``, ``collinearity``, ``monotone-likelihood``, ``convergence``.
    A fit that does not converge is an error, never a result that could be mistaken for one.
    """
    point = null = await evaluate(np.zeros(len(names)))
    _refuse_constant(null, names, scale)
    narrow = scale.narrow(null, names)
    at_null = np.sqrt(np.diag(covariance(null.information, names)))
    before, iterations, evaluations = np.inf, 0, 1
    while True:
        step = solve_information(point.information, point.score, names)
        length = max(float(step @ point.score), 0.0) ** 0.5
        if length <= _DONE or (length < _FLOOR and length > before / 2):
            return Fit(point, null, iterations)
        grown = np.abs(step) / (length * at_null)  # at least how many times the standard error at 0
        if 0.3 * before < length < _NEAR and grown.max() > _RUNAWAY:
            raise _monotone(names, grown > max(_RUNAWAY, 0.1 * grown.max()), narrow)
        step *= _room(point.beta, step, names, narrow)
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


def _room(beta: Vector, step: Vector, names: Sequence[str], narrow: Sequence[str]) -> float:
    """The part of the step that stays within the limit on coefficients."""
    reach = np.abs(beta + step)
    outside = reach > LIMIT
    if not outside.any():
        return 1.0
    moving = np.abs(step[outside])
    room = float(((LIMIT - np.sign(step[outside]) * beta[outside]) / moving).min())
    if room < 1e-3:
        raise _monotone(names, outside, narrow)
    return room


def _monotone(
    names: Sequence[str], which: np.ndarray[tuple[int], np.dtype[np.bool_]], narrow: Sequence[str]
) -> MethodError:
    bad = [name for name, out in zip(names, which, strict=True) if out]
    if set(bad) <= set(narrow):
        return _too_wide(bad)
    involved = say_list(bad)
    return MethodError(
        f"The likelihood rises for ever along {involved}: there is no finite hazard ratio (monotone likelihood).",
        rule="monotone-likelihood",
        remedy=f"Probably no event, or every event, is in one group of {involved}: leave it out or merge its levels. "
        "For a number, its declared min/max may also be far wider than its values: declare them tighter.",
    )


def _too_wide(names: Sequence[str]) -> MethodError:
    involved = say_list(names)
    return MethodError(
        f"Nothing can be learnt about {involved}: beside the declared min/max it hardly varies.",
        rule="declared-bounds",
        remedy=f"The declared min/max of {involved} are far too wide: declare what is plausible. "
        "If it is truly the same in every patient, leave it out of `covariates`.",
    )


def _refuse_constant(null: Point, names: Sequence[str], scale: Scale) -> None:
    """A column without variance in any risk set. (Exact zero is blurred by the rounding of sums, ~1e-14 of n.)"""
    flat = np.diag(null.information) <= 1e-12 * scale.patients
    if flat.any():
        constant = [name for name, f in zip(names, flat, strict=True) if f]
        crowded = [name for name in constant if name in scale.crowded]
        if crowded:
            raise _too_wide(crowded)
        involved = say_list(constant)
        raise MethodError(
            f"Nothing can be learnt about {involved}: among the patients at risk together it does not vary.",
            rule="constant-covariate",
            remedy="Leave it out of `covariates`. With `baseline: per-site` it must vary within hospitals, "
            "not only between them; for that comparison use `baseline: common`.",
        )
