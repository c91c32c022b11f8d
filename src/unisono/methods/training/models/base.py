"""The contract of a model: what goes in, what a study may set, and the network it builds. Importable without PyTorch.

A package brings its own with the entry point group ``unisono.models``: the entry's name is the `kind`, its object a `ModelSpec`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch

MOST_PARAMETERS = 2**27
"""A network of more is refused: 512 MiB of weights, each of which every site masks and sends in every round."""


@dataclass(frozen=True)
class Inputs:
    """What a network is given of a patient.

    numbers: names of the numeric columns in order, indicators of booleans and of missing values included.
    categories: cardinality of each embedded category; index 0 is "other or unknown", so one more than its levels.
    image: (channels, height, width), or None.
    """

    numbers: tuple[str, ...] = ()
    categories: tuple[int, ...] = ()
    image: tuple[int, int, int] | None = None


class Batch(NamedTuple):
    """n patients: numbers (n, k) float32; categories (n, m) int64; image (n, c, h, w) float32 or None."""

    numbers: torch.Tensor
    categories: torch.Tensor
    image: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same patients on a device."""
        image = None if self.image is None else self.image.to(device)
        return Batch(self.numbers.to(device), self.categories.to(device), image)


class ModelSpec(BaseModel, ABC):
    """The settings of one architecture, as written in the study under ``model:``. Unknown keys are errors.

    What `build` returns is a plain `torch.nn.Module` whose ``forward(Batch)`` gives (n, outputs), without any activation at the
    end, whose last layer is called ``head``, and which draws from no global random generator (`layers.Dropout`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: str

    def check(self, inputs: Inputs) -> list[str]:
        """What does not fit these inputs, each a sentence; empty if it can be built."""
        return [] if inputs.numbers or inputs.categories or inputs.image else ["the model has no input"]

    @abstractmethod
    def build(self, inputs: Inputs, outputs: int) -> torch.nn.Module:
        """The network, with whatever weights; `initialise` sets them."""
