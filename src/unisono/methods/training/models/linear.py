"""``linear`` (``logistic``): one linear layer. With the task ``binary`` it is logistic regression, with ``cox`` a linear Cox model.

f(x) = W [numbers, one-hot(category 1), one-hot(category 2), ...] + b
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.functional import one_hot

from unisono.methods.training.models.base import Batch, Inputs, ModelSpec


class Linear(ModelSpec):
    """``model: {kind: linear}``: no settings."""

    kind: Literal["linear", "logistic"] = "linear"

    def check(self, inputs: Inputs) -> list[str]:
        image = ["a linear model reads no image: use kind cnn or resnet"] if inputs.image else []
        return super().check(inputs) + image

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        return LinearNetwork(inputs, outputs)


class LinearNetwork(nn.Module):
    """head: (outputs, numbers + all cardinalities)."""

    def __init__(self, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        self.cardinalities = inputs.categories
        self.head = nn.Linear(len(inputs.numbers) + sum(inputs.categories), outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        hot = [one_hot(batch.categories[:, j], c).to(batch.numbers) for j, c in enumerate(self.cardinalities)]
        found: torch.Tensor = self.head(torch.cat([batch.numbers, *hot], dim=1))
        return found
