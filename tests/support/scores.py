"""Patients with scores: hospitals of different size and mix, for the tests of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.methods.evaluation.base import Evaluation
from unisono.protection.encoding import exact

Array = NDArray[Any]


def split(n: int, rng: np.random.Generator, sites: int = 3) -> list[NDArray[np.int64]]:
    """Which patients are where; a site may have none."""
    where = rng.choice(sites, n, p=rng.dirichlet(np.ones(sites)))
    return [np.flatnonzero(where == s) for s in range(sites)]


def opened(kind: Evaluation, predicted: Array, target: Array, places: Sequence[NDArray[np.int64]]) -> dict[str, Array]:
    """The opened sum of the sites' parts, through the encoding that carries it."""
    leaves = kind.leaves(len(target))
    parts = [exact.encode(kind.part(predicted[p], target[p]), leaves) for p in places]
    return exact.decode(np.add.reduce(parts), leaves, len(places))


def binary(seed: int, n: int, strength: float = 1.0, base: float = 0.0) -> tuple[Array, Array]:
    """Predicted probabilities, not well calibrated, and what happened (float 0/1)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(base, 1.0, n)
    happened = rng.random(n) < 1 / (1 + np.exp(-strength * x))
    return 1 / (1 + np.exp(-0.7 * x - 0.2)), happened.astype(np.float64)


def survival(seed: int, n: int, points: int = 40) -> tuple[Array, Array]:
    """Risks, and (n, 2) exits on a grid of `points` with many ties, and events."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(0, 1, n)
    time = np.ceil(rng.exponential(15 * np.exp(-0.6 * risk)))
    censored = rng.integers(1, points, n)
    exits = np.minimum(np.minimum(time, censored), points - 1)
    return risk, np.column_stack([exits, (time <= np.minimum(censored, points - 1)).astype(float)])
