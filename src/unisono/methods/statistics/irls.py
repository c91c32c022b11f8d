"""Newton's method on federated sums: climb a concave log-likelihood, halve steps that go down, say why it fails.

For a canonical GLM this is iteratively reweighted least squares (McCullagh & Nelder 1989, section 2.5). All columns are
within [-1, 1] (`unisono.methods.design`), so coefficients here are *per half of the declared range*.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError
from unisono.methods.newton import solve_information
from unisono.methods.wording import say_list

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

LIMIT = 30.0
"""Largest |coefficient| per half-range that sites are asked about; no study supports an odds ratio of exp(30)."""
ITERATIONS = 30
HALVINGS = 12
NEAR = 1e-10
"""Squared Newton decrement (steps in standard errors, squared) from which one more full step is the last: Newton's
error squares, so what is left is about 1e-10 standard errors."""
THERE = 1e-20
"""Squared Newton decrement at which no further step is worth an ask."""
RUNAWAY = 8.0
"""A coefficient per half-range beyond this, after ten steps and still on its way, is running to infinity."""


@dataclass(frozen=True)
class NormalEquations:
    """Sums over patients at one vector of coefficients (q,), on the scaled columns.

    information (q, q): sum w V(mu) z z'. score (q,): sum w (y - mu) z. deviance, pearson: ().
    over (2,): sites that added nothing to these sums, and to `pearson` alone, because theirs passed the cap.
    """

    information: Matrix
    score: Vector
    deviance: Vector
    pearson: Vector
    over: Vector


@dataclass(frozen=True)
class Climb:
    """Where a climb ended: coefficients (q,), the sums there, and the Newton steps taken."""

    beta: Vector
    sums: NormalEquations
    iterations: int


Ask = Callable[[Vector], Awaitable[NormalEquations]]


async def climb(ask: Ask, start: Climb, free: Sequence[int], penalty: Vector, names: Sequence[str]) -> Climb:
    """The maximum of ``-deviance/2 - sum(penalty * beta^2)/2`` over the coefficients `free`, from `start`.

    penalty (q,): 0 where a coefficient is not penalised. names (q,): for errors.
    `MethodError`: ``collinearity``, ``constant-covariate``, ``separation``, ``declared-bounds``, ``convergence``.
    """
    at = replace(start, iterations=0)
    last = False
    index = np.asarray(free)
    for iteration in range(ITERATIONS):
        step, decrement = _newton_step(at, index, penalty, names)
        if last or decrement <= THERE:
            return at
        _not_running(at, step, iteration, names)
        last = decrement <= NEAR
        limit = _longest(at, step, float(start.sums.deviance), names)
        at = await _walk(ask, at, step * limit, penalty, names)
    raise _no_convergence(names, step)


def objective(beta: Vector, sums: NormalEquations, penalty: Vector) -> float:
    """What is minimised: half the deviance and half the penalty."""
    return float(sums.deviance) / 2 + float(penalty @ beta**2) / 2


def _newton_step(at: Climb, index: NDArray[np.intp], penalty: Vector, names: Sequence[str]) -> tuple[Vector, float]:
    """The step (q,) (0 where not free) and its squared decrement."""
    score = (at.sums.score - penalty * at.beta)[index]
    information = at.sums.information[np.ix_(index, index)] + np.diag(penalty[index])
    step = np.zeros(len(at.beta))
    try:
        step[index] = solve_information(information, score, [names[int(k)] for k in index])
    except MethodError as error:
        running = np.flatnonzero(np.abs(at.beta) > RUNAWAY / 2)
        if at.iterations == 0 or not running.size:
            raise
        raise _separation([names[int(k)] for k in running]) from error
    return step, float(score @ step[index])


async def _walk(ask: Ask, at: Climb, step: Vector, penalty: Vector, names: Sequence[str]) -> Climb:
    """One step, halved until the objective does not get worse."""
    here = objective(at.beta, at.sums, penalty)
    for _ in range(HALVINGS):
        beta = np.clip(at.beta + step, -LIMIT, LIMIT)
        sums = await ask(beta)
        if sums.over[0] == 0 and objective(beta, sums, penalty) <= here + 1e-10 * abs(here):
            return Climb(beta, sums, at.iterations + 1)
        step = step / 2
    raise _no_convergence(names, step)


def _longest(at: Climb, step: Vector, first: float, names: Sequence[str]) -> float:
    """The part of the step, in (0, 1], that keeps every coefficient within the limit. first: deviance at the start."""
    moving = np.flatnonzero(step)
    if not moving.size:
        return 1.0
    room = (LIMIT - np.sign(step[moving]) * at.beta[moving]) / np.abs(step[moving])
    if room.min() > 1e-6:
        return min(1.0, float(room.min()))
    stuck = [names[int(k)] for k in moving[room <= 1e-6]]
    if float(at.sums.deviance) < 0.05 * first:  # nearly every outcome is predicted
        raise _separation([name for name in stuck if name != names[0]] or stuck)
    raise MethodError(
        f"The coefficient of {say_list(stuck)} is out of range (over {LIMIT:g} per half of the declared range).",
        rule="declared-bounds",
        remedy="Declare min/max close to the values that really occur, for the covariate and the outcome; or it predicts "
        "the outcome perfectly for some patients: merge levels, leave it out, or set `ridge` above 0.",
    )


def _not_running(at: Climb, step: Vector, iteration: int, names: Sequence[str]) -> None:
    """Refuse to chase a coefficient to infinity: under separation Newton steps do not shrink."""
    if iteration < 10:
        return
    running = (np.abs(at.beta) > RUNAWAY) & (np.abs(step) > 0.3) & (np.sign(step) == np.sign(at.beta))
    if running[1:].any():
        raise _separation([name for name, r in zip(names[1:], running[1:], strict=True) if r])


def _separation(names: Sequence[str]) -> MethodError:
    return MethodError(
        f"{say_list(names)} predicts the outcome perfectly for some patients (separation): no estimate is finite.",
        rule="separation",
        remedy="Merge rare levels, leave the covariate out, or set `ridge` above 0 to shrink the coefficients.",
    )


def _no_convergence(names: Sequence[str], step: Vector) -> MethodError:
    unsettled = [name for name, s in zip(names, step, strict=True) if abs(s) >= 0.5 * np.abs(step).max()]
    return MethodError(
        f"The fit does not settle; the least settled coefficients are those of {say_list(unsettled)}.",
        rule="convergence",
        remedy="Use fewer covariates, merge rare levels, set `ridge` above 0, or declare tighter min/max bounds.",
    )
