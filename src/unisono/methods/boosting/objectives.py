"""Objectives: each patient's gradient and hessian at a score, within declared bounds and rounded to whole quanta.

Chen & Guestrin (2016, XGBoost), section 2.2: trees are grown from the first and second derivative of the loss by the score. Here
they are rounded, patient by patient, to multiples of a quantum (2^-22 of the declared bound, rounded up to a power of two) *before* anything is
added. Histograms are then sums of integers, the same in whatever
order and at however many hospitals they are added, and so are the trees. Values beyond the bound are clipped.

| objective | score | gradient, hessian | bounds |
| --- | --- | --- | --- |
| logistic | log-odds | p - y, p (1 - p) | 1, 1/4 |
| squared-error | mean | s - y, 1 | the declared range of y, 1 |
| poisson | log mean | m - y, m e^0.7 (as XGBoost, with its `max_delta_step` 0.7); m is capped at the declared maximum | max, 4 max |
| cox | log hazard ratio | r H(t) - d, r H(t) - r^2 Q(t); r = e^s, s within +-8 | 32, 32 |

A leaf moves a score by at most 32 (logistic), twice the range (squared-error), 0.7 (poisson) or 8 (cox), times the rate.

A leaf moves a score by at most 32 (logistic), twice the range (squared-error), 0.7 (poisson) or 8 (cox), times the rate.

For cox (Breslow 1974), H and Q are the cumulated sums of d / S0 and d / S0^2 along the grid while the patient is at risk, and S0
the sum of r over all patients at risk, of all hospitals: one more sum a tree. Censored patients are at risk until they are censored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError
from unisono.methods.boosting.portable import exp
from unisono.methods.boosting.spec import BoostingSpec
from unisono.methods.survival.follow_up import Axis
from unisono.study.document import NumberVariable, Study
from unisono.study.table import Table

Vector = NDArray[np.float64]
Index = NDArray[np.int64]

BITS = 22
"""A patient's gradient is a whole number within +- 2^22: about the precision of the float32 in which XGBoost adds them up."""
LARGEST = 2.0**BITS
MOST_PATIENTS = 2**24
"""So many such numbers add up to less than 2^46, which the `exact` encoding carries as they are."""
STEEPEST = 8.0
"""Largest |score| of which a relative risk is taken (Cox): a ratio of 1 : 3000 to the average patient."""
HARDEST = 32.0
"""Largest |gradient| and hessian of a patient (Cox)."""
MAX_DELTA_STEP = 0.7
"""Largest change of the score by one tree before shrinkage (Poisson), XGBoost's default."""


@dataclass(frozen=True)
class Scale:
    """Whole numbers for a quantity within +-`bound`, a power of two."""

    bound: float

    @staticmethod
    def of(bound: float) -> Scale:
        """The next power of two."""
        return Scale(2.0 ** math.ceil(math.log2(bound)))

    @property
    def quantum(self) -> float:
        return math.ldexp(self.bound, -BITS)

    def whole(self, values: Vector) -> Vector:
        """(n,) rounded to whole numbers of quanta, clipped to the bound."""
        scaled = np.rint(values / self.quantum)
        return np.asarray(np.clip(scaled, -LARGEST, LARGEST), np.float64)


@dataclass(frozen=True)
class Outcome:
    """A site's patients with an outcome. y: (n,) the outcome; for cox whether the event happened (0/1).
    exit, entry: (n,) grid positions (cox alone; entry None where everybody is at risk from the start)."""

    y: Vector
    exit: Index | None = None
    entry: Index | None = None


@dataclass(frozen=True)
class Hazard:
    """What the opened risk sets say: cumulated d / S0 and d / S0^2, (k,) each along the grid (empty but for cox)."""

    once: Vector
    twice: Vector


class Objective(Protocol):
    """xgboost: its name there. gradient_bound, hessian_bound, loss_bound: of one patient. largest_step: of a leaf before
    shrinkage. margin_bound: of the score before any tree."""

    xgboost: str
    gradient_bound: float
    hessian_bound: float
    loss_bound: float
    largest_step: float
    margin_bound: float

    def derivatives(self, score: Vector, outcome: Outcome, hazard: Hazard) -> tuple[Vector, Vector]:
        """(n,) first and second derivative of each patient's loss by the score."""
        ...

    def loss(self, score: Vector, outcome: Outcome) -> Vector:
        """(n,) each patient's loss (for cox: minus the score where the event happened; risk sets are summed apart)."""
        ...

    def margin(self, base: float) -> float:
        """The score of a base prediction."""
        ...

    def predict(self, score: Vector) -> Vector:
        """(n,) probability, mean, or hazard ratio."""
        ...


class Logistic:
    """Log loss of a boolean."""

    xgboost, gradient_bound, hessian_bound, loss_bound = "binary:logistic", 1.0, 0.25, 64.0
    largest_step, margin_bound = 32.0, 64.0

    def derivatives(self, score: Vector, outcome: Outcome, hazard: Hazard) -> tuple[Vector, Vector]:  # noqa: ARG002
        p = self.predict(score)
        return p - outcome.y, p * (1 - p)

    def loss(self, score: Vector, outcome: Outcome) -> Vector:
        return np.asarray(np.log1p(exp(-np.abs(score))) + np.maximum(score, 0) - outcome.y * score, np.float64)

    def margin(self, base: float) -> float:
        return math.log(base / (1 - base))

    def predict(self, score: Vector) -> Vector:
        return 1 / (1 + exp(-score))


class SquaredError:
    """Half the squared difference from a number within [low, high]."""

    xgboost, hessian_bound = "reg:squarederror", 1.0

    def __init__(self, low: float, high: float) -> None:
        self.largest_step = 2 * (high - low)
        self.margin_bound = max(abs(low), abs(high))
        self.gradient_bound = high - low
        self.loss_bound = (high - low) ** 2 / 2

    def derivatives(self, score: Vector, outcome: Outcome, hazard: Hazard) -> tuple[Vector, Vector]:  # noqa: ARG002
        return score - outcome.y, np.ones_like(score)

    def loss(self, score: Vector, outcome: Outcome) -> Vector:
        return (score - outcome.y) ** 2 / 2

    def margin(self, base: float) -> float:
        return base

    def predict(self, score: Vector) -> Vector:
        return score


class Poisson:
    """Minus the Poisson log-likelihood of a number of events, at most `most`, without the terms of the number alone."""

    xgboost, largest_step, margin_bound = "count:poisson", MAX_DELTA_STEP, 64.0

    def __init__(self, most: float) -> None:
        self.most = most
        self.gradient_bound = most
        self.hessian_bound = 4 * most
        self.loss_bound = 64.0 * max(most, 1.0)

    def derivatives(self, score: Vector, outcome: Outcome, hazard: Hazard) -> tuple[Vector, Vector]:  # noqa: ARG002
        mean = np.minimum(exp(score), self.most)
        return mean - outcome.y, mean * math.exp(MAX_DELTA_STEP)

    def loss(self, score: Vector, outcome: Outcome) -> Vector:
        return exp(score) - outcome.y * score

    def margin(self, base: float) -> float:
        return math.log(base)

    def predict(self, score: Vector) -> Vector:
        return exp(score)


class Cox:
    """Minus the log partial likelihood (Breslow ties) over the risk sets of all hospitals."""

    xgboost, gradient_bound, hessian_bound, loss_bound = "survival:cox", HARDEST, HARDEST, 64.0
    largest_step, margin_bound = STEEPEST, 64.0

    def derivatives(self, score: Vector, outcome: Outcome, hazard: Hazard) -> tuple[Vector, Vector]:
        assert outcome.exit is not None
        risk = exp(np.clip(score, -STEEPEST, STEEPEST))
        once, twice = hazard.once[outcome.exit], hazard.twice[outcome.exit]
        if outcome.entry is not None:
            once, twice = once - hazard.once[outcome.entry], twice - hazard.twice[outcome.entry]
        expected = risk * once
        return expected - outcome.y, np.maximum(expected - risk * risk * twice, 0.0)

    def loss(self, score: Vector, outcome: Outcome) -> Vector:
        return -outcome.y * score

    def margin(self, base: float) -> float:
        return math.log(base)

    def predict(self, score: Vector) -> Vector:
        return exp(score)


RISK_BOUND = math.exp(STEEPEST)
"""Largest relative risk."""
RISK = Scale.of(RISK_BOUND)


def relative_risk(score: Vector) -> Vector:
    """(n,) e^score in whole quanta of `RISK`."""
    return RISK.whole(exp(np.clip(score, -STEEPEST, STEEPEST)))


def hazard_of(deaths: Vector, at_risk: Vector) -> Hazard:
    """Breslow: from the events (k,) and the sums of relative risks at risk (k,) of all hospitals."""
    once = np.divide(deaths, at_risk, out=np.zeros_like(deaths), where=(deaths > 0) & (at_risk > 0))
    twice = np.divide(once, at_risk, out=np.zeros_like(deaths), where=at_risk > 0)
    # Who has the event is at risk, with a relative risk of e^-8 at least, but for its rounding.
    return Hazard(np.cumsum(np.minimum(once, RISK_BOUND)), np.cumsum(np.minimum(twice, RISK_BOUND**2)))


def over_risk_sets(values: Vector, outcome: Outcome, length: int) -> Vector:
    """(k,) sum of `values` (n,) over the patients at risk (entry < k <= exit) at each grid time."""
    assert outcome.exit is not None
    by_time = np.bincount(outcome.exit, values, length)
    if outcome.entry is not None:
        by_time = by_time - np.bincount(outcome.entry, values, length)
    return np.asarray(np.cumsum(by_time[::-1])[::-1], np.float64)


def objective_of(study: Study, spec: BoostingSpec) -> Objective:
    """The objective that an analysis names, with the bounds that its outcome declares."""
    if spec.objective == "logistic":
        return Logistic()
    if spec.objective == "cox":
        return Cox()
    variable = study.variables[str(spec.outcome)]
    assert isinstance(variable, NumberVariable)
    return SquaredError(variable.min, variable.max) if spec.objective == "squared-error" else Poisson(variable.max)


def outcome_of(table: Table, spec: BoostingSpec, axis: Axis | None) -> Outcome:
    """A site's patients, all of whom have an outcome."""
    if axis is None:
        return Outcome(table[str(spec.outcome)].astype(np.float64))
    entry = axis.entries(table)
    return Outcome(
        axis.events(table).astype(np.float64),
        axis.exits(table).astype(np.int64),
        None if entry is None else entry.astype(np.int64),
    )


def base_score(objective: Objective, mean: float) -> float:
    """The prediction before any tree: the outcome's mean (cox: 1). `MethodError` where it has no score."""
    if isinstance(objective, Cox):
        return 1.0
    if (isinstance(objective, Logistic) and not 0 < mean < 1) or (isinstance(objective, Poisson) and mean <= 0):
        raise MethodError(
            "Every patient has the same outcome: there is nothing to learn.",
            rule="outcome-varies",
            remedy="Check the mapping of the outcome, or widen the cohort.",
        )
    return float(np.float32(mean))
