"""``mlp``: a multilayer perceptron over numbers, with an embedding for each category (Guo & Berkhahn 2016).

    x_0 = [numbers, E_1(category 1), E_2(category 2), ...]
    x_k = dropout(relu(norm(W_k x_{k-1} + b_k)))          k = 1 .. len(hidden)
    f   = W_head x_last + b_head

With the task ``cox`` this is DeepSurv (Katzman et al. 2018), with ``hazard`` the logistic-hazard net (Gensheimer & Narasimhan
2019, Kvamme & Borgan 2021).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from unisono.methods.training.models.base import Batch, Inputs, ModelSpec
from unisono.methods.training.models.layers import Dropout, Embeddings, norm_1d

Width = Annotated[int, Field(ge=1, le=4096)]


class MLP(ModelSpec):
    """hidden: widths of the hidden layers. dropout: probability in [0, 1). norm: after each hidden layer's linear map."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Width, ...] = Field(default=(64, 32), min_length=1, max_length=16)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    norm: Literal["none", "batch", "layer"] = "none"

    def check(self, inputs: Inputs) -> list[str]:
        image = ["an mlp reads no image: use kind cnn or resnet"] if inputs.image else []
        return super().check(inputs) + image

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        return MLPNetwork(self, inputs, outputs)


class MLPNetwork(nn.Module):
    """embeddings.j, body.k.0 (linear), body.k.1 (norm), head."""

    def __init__(self, spec: MLP, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(inputs.categories)
        widths = (len(inputs.numbers) + self.embeddings.width, *spec.hidden)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(a, b), norm_1d(spec.norm, b), nn.ReLU(), Dropout(spec.dropout))
                for a, b in pairwise(widths)
            )
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.embeddings.beside(batch.numbers, categories=batch.categories)
        found: torch.Tensor = self.head(self.body(x))
        return found
