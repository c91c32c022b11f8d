"""The exponential families of a GLM with their canonical links, and the bounds of what a site sums for each.

McCullagh & Nelder, *Generalized Linear Models*, 2nd ed. (1989), sections 2.2-2.5. With a canonical link the observed
and the expected information are the same, so iteratively reweighted least squares *is* Newton's method, and the
log-likelihood is concave.

Outcomes here are as the contributions see them: for the gaussian family scaled to [-1, 1] by the declared bounds, for
the binomial 0/1, for the poisson counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln, xlogy

Vector = NDArray[np.float64]
FamilyName = Literal["gaussian", "binomial", "poisson"]

EXPECTED_CAP = 4.0
"""A poisson site whose own expected count passes this many times everybody's observed count says so and adds nothing:
at the maximum (where both totals are equal) that cannot be, so the step was too long. This keeps the quantum fine."""
PEARSON_CAP = 65536.0
"""A site's Pearson chi-squared is summed up to this many times its weight (its expectation is about 1 a patient)."""


@dataclass(frozen=True)
class Room:
    """What the bounds of a site's part depend on.

    mass: patients times the largest weight. low, high: of the linear predictor, over everything that is declared.
    most: the largest declared outcome. expected: the opened weighted sum of the outcome (poisson; else 0).
    """

    mass: float
    low: float
    high: float
    most: float
    expected: float

    @property
    def size(self) -> float:
        """Largest |linear predictor|."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Bounds:
    """Largest absolute value of one site's part of each sum."""

    score: float
    information: float
    deviance: float
    pearson: float


class Family(Protocol):
    """A family with its canonical link; arrays are (n,)."""

    name: FamilyName
    link: str
    ratio: str | None
    """What exp(coefficient) is called, if it is anything."""

    def mean(self, eta: Vector) -> Vector:
        """mu, at the linear predictor."""

    def variance(self, eta: Vector) -> Vector:
        """The variance function V(mu), which is also d mu / d eta."""

    def deviance(self, y: Vector, eta: Vector) -> Vector:
        """Twice the log-likelihood lost against a perfect fit, for each patient."""

    def pearson(self, y: Vector, eta: Vector) -> Vector:
        """(y - mu)^2 / V(mu), for each patient."""

    def saturated(self, y: Vector) -> Vector:
        """Log-likelihood of a perfect fit, for each patient (dispersion 1, constants included; 0 for the gaussian)."""

    def bounds(self, room: Room) -> Bounds:
        """Of one site's sums."""


class Gaussian:
    """Normal errors, identity link; y in [-1, 1]."""

    name: FamilyName = "gaussian"
    link = "identity"
    ratio: str | None = None

    def mean(self, eta: Vector) -> Vector:
        return eta

    def variance(self, eta: Vector) -> Vector:
        return np.ones_like(eta)

    def deviance(self, y: Vector, eta: Vector) -> Vector:
        return np.square(y - eta)

    def pearson(self, y: Vector, eta: Vector) -> Vector:
        return np.square(y - eta)

    def saturated(self, y: Vector) -> Vector:
        return np.zeros_like(y)

    def bounds(self, room: Room) -> Bounds:
        residual = max(1.0 - room.low, room.high + 1.0)
        squares = room.mass * residual**2
        return Bounds(room.mass * residual, room.mass, squares, squares)


class Binomial:
    """Yes or no, logit link. Every function is written in exp(+-eta), so that it stays exact far from 0."""

    name: FamilyName = "binomial"
    link = "logit"
    ratio: str | None = "odds ratio"

    def mean(self, eta: Vector) -> Vector:
        return np.asarray(expit(eta), np.float64)

    def variance(self, eta: Vector) -> Vector:
        return np.asarray(expit(eta) * expit(-eta), np.float64)

    def deviance(self, y: Vector, eta: Vector) -> Vector:
        return np.asarray(2.0 * np.logaddexp(0.0, np.where(y == 1, -eta, eta)), np.float64)

    def pearson(self, y: Vector, eta: Vector) -> Vector:
        return np.exp(np.where(y == 1, -eta, eta))

    def saturated(self, y: Vector) -> Vector:
        return np.zeros_like(y)

    def bounds(self, room: Room) -> Bounds:
        odds = math.exp(min(room.size, math.log(PEARSON_CAP)))
        return Bounds(room.mass, room.mass / 4, 2 * room.mass * (room.size + 1), room.mass * odds)


class Poisson:
    """Counts, log link; an exposure enters as an offset of its logarithm."""

    name: FamilyName = "poisson"
    link = "log"
    ratio: str | None = "rate ratio"

    def mean(self, eta: Vector) -> Vector:
        return np.exp(eta)

    def variance(self, eta: Vector) -> Vector:
        return np.exp(eta)

    def deviance(self, y: Vector, eta: Vector) -> Vector:
        return np.asarray(2.0 * (xlogy(y, y) - y * eta - y + np.exp(eta)), np.float64)

    def pearson(self, y: Vector, eta: Vector) -> Vector:
        return np.square(y - np.exp(eta)) * np.exp(-eta)

    def saturated(self, y: Vector) -> Vector:
        return np.asarray(xlogy(y, y) - y - gammaln(y + 1.0), np.float64)

    def bounds(self, room: Room) -> Bounds:
        seen, fitted = room.expected, EXPECTED_CAP * room.expected
        deviance = 2.0 * (seen * (math.log(max(room.most, 1.0)) + room.size + 1.0) + fitted)
        return Bounds(seen + fitted, fitted, deviance, PEARSON_CAP * room.mass)


FAMILIES: dict[FamilyName, Family] = {"gaussian": Gaussian(), "binomial": Binomial(), "poisson": Poisson()}
