"""The contract of an evaluation: what a site counts of its own patients' predictions, and the metrics of the opened sum.

The same object is at both ends: `leaves` types what `part` returns at a site, and `metrics` reads the sum of all parts. The
part of a pool is the sum of the parts of its sites, so every metric is the pooled one (of the binned scores, where it
is read from a histogram).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unisono.errors import DataError
from unisono.protection.leaves import Leaf

Array = NDArray[Any]
Vector = NDArray[np.float64]
Counts = NDArray[np.int64]
Total = Mapping[str, Array]

_ROUNDING = 1e-5
"""A softmax of single precision may be this much outside [0, 1]."""


@dataclass(frozen=True)
class Rules:
    """confidence: of intervals. min_count: patients in a released cell; 1 shows everything (at a site, to itself)."""

    confidence: float = 0.95
    min_count: int = 10


class Evaluation(ABC):
    """One evaluation, the same at the coordinator and at every site. No array of a patient is kept."""

    kind: ClassVar[str]

    @abstractmethod
    def leaves(self, patients: int) -> dict[str, Leaf]:
        """What leaves a site, as part of a sum over at most `patients` patients."""

    @abstractmethod
    def part(self, predicted: Array, target: Array) -> dict[str, Array]:
        """At a site: its own patients' part. (n, ...) each; what they hold is said by the kind."""

    @abstractmethod
    def metrics(self, total: Total) -> dict[str, Any]:
        """Plain JSON. A metric is ``{value, low, high}``, None where it may not be shown or cannot be known."""


def probabilities(predicted: Array) -> Vector:
    """As float64 within [0, 1]; `DataError` if they are not probabilities."""
    values = finite(predicted)
    if values.size and (values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING):
        raise DataError(
            "Some predictions are no probabilities: they are below 0 or above 1.",
            rule="probabilities",
            remedy="Declare the score as a number from 0 to 1, or evaluate it as a score with bounds of its own.",
        )
    return np.clip(values, 0.0, 1.0)


def finite(predicted: Array) -> Vector:
    """As float64; `DataError` if one is NaN or infinite."""
    values = np.asarray(predicted, np.float64)
    if not np.isfinite(values).all():
        raise DataError(
            "Some predictions are not finite numbers.",
            rule="finite-predictions",
            remedy="Look for a model that diverged, or for missing scores in the data.",
        )
    return values


def whole(values: Array) -> Counts:
    """Opened counts come as float64."""
    counts: Counts = np.rint(np.asarray(values)).astype(np.int64)
    return counts
