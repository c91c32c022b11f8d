"""A site's patients for training: which are trained on and which validate, and both as tensors.

Importable without PyTorch; tensors are made when a contribution first needs them, and kept for the next round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unisono.methods.seeded import generator
from unisono.study.table import Table

if TYPE_CHECKING:
    import torch

    from unisono.methods.training.models.base import Batch


@dataclass(frozen=True)
class Tensors:
    """n patients as a network is given them: inputs, and targets (n, ...) as the task made them."""

    batch: Batch
    target: torch.Tensor
    n: int

    def take(self, rows: torch.Tensor | slice) -> Tensors:
        """Some of the patients: indices (m,), or a slice."""
        batch = self.batch
        image = None if batch.image is None else batch.image[rows]
        target = self.target[rows]
        return Tensors(type(batch)(batch.numbers[rows], batch.categories[rows], image), target, len(target))

    def to(self, device: torch.device) -> Tensors:
        """The same patients on a device."""
        return Tensors(self.batch.to(device), self.target.to(device), self.n)


@dataclass(frozen=True)
class Patients:
    """One site's cohort of an analysis. train, valid (n,): who is trained on, who validates. made: tensors, by what they were
    made from."""

    table: Table = field(repr=False)
    train: NDArray[np.bool_] = field(repr=False)
    valid: NDArray[np.bool_] = field(repr=False)
    made: dict[bytes, Any] = field(default_factory=dict, repr=False)


def split(n: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """(n,) true for the patients that validate: `fraction` of them, one at least and not all, if it is not 0.

    Drawn from the study's seed, the fraction and the number of patients alone, so that every round, and every method with these,
    has the same patients on the same side. Two fractions choose independently of each other: if one were a part of the other, the
    difference of two answers would be a few patients.
    """
    chosen = np.zeros(n, np.bool_)
    if fraction > 0 and n > 1:
        number = min(max(round(fraction * n), 1), n - 1)
        chosen[generator("split", seed, fraction).permutation(n)[:number]] = True
    return chosen
