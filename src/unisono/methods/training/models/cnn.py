"""``cnn``: a small convolutional network for 2-D images (LeCun et al. 1998), with numbers and categories beside the image if any.

m_0 = image
m_k = maxpool_2(relu(norm(conv_3x3(m_{k-1}))))         k = 1 .. len(channels)
x   = [flatten(m_last), numbers, embeddings]
f   = W_head dropout(relu(W x + b)) + b_head
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from unisono.methods.training.models.base import Batch, Inputs, ModelSpec
from unisono.methods.training.models.layers import Dropout, Embeddings, image_of, norm_2d

Channels = Annotated[int, Field(ge=1, le=1024)]
MOST_FEATURES = 8192
"""Of the last feature map, flattened: beyond this the dense layer behind it is nearly all of the model."""


class CNN(ModelSpec):
    """channels: of each convolution; after each the image is half as wide and high. hidden: width of the dense layer.
    dropout: before the head. norm: ``group`` is the safe one over hospitals that differ (Hsieh et al. 2020)."""

    kind: Literal["cnn"] = "cnn"
    channels: tuple[Channels, ...] = Field(default=(16, 32), min_length=1, max_length=8)
    hidden: int = Field(default=64, ge=1, le=4096)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    norm: Literal["none", "batch", "group"] = "none"

    def map_size(self, image: tuple[int, int, int]) -> tuple[int, int]:
        """(height, width) of the last feature map."""
        halvings = len(self.channels)
        return image[1] >> halvings, image[2] >> halvings

    def check(self, inputs: Inputs) -> list[str]:
        if inputs.image is None:
            return ["a cnn needs an image among the features: use kind mlp for a table"]
        height, width = self.map_size(inputs.image)
        if min(height, width) < 1:
            return [f"{len(self.channels)} halvings leave nothing of an image of {inputs.image[1]} x {inputs.image[2]}"]
        features = self.channels[-1] * height * width
        if features > MOST_FEATURES:
            return [
                f"{features} features would go into the dense layer, at most {MOST_FEATURES} may: add to `channels`, "
                "resample the image smaller, or use kind resnet"
            ]
        return []

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        return CNNNetwork(self, inputs, outputs)


class CNNNetwork(nn.Module):
    """convolutions.k.0 (conv), convolutions.k.1 (norm), embeddings.j, body.0 (linear), head."""

    def __init__(self, spec: CNN, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        assert inputs.image is not None
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1), norm_2d(spec.norm, b), nn.ReLU(), nn.MaxPool2d(2))
                for a, b in pairwise((inputs.image[0], *spec.channels))
            )
        )
        self.embeddings = Embeddings(inputs.categories)
        height, width = spec.map_size(inputs.image)
        features = spec.channels[-1] * height * width + len(inputs.numbers) + self.embeddings.width
        self.body = nn.Sequential(nn.Linear(features, spec.hidden), nn.ReLU(), Dropout(spec.dropout))
        self.head = nn.Linear(spec.hidden, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        maps = self.convolutions(image_of(batch)).flatten(1)
        x = self.embeddings.beside(maps, batch.numbers, categories=batch.categories)
        found: torch.Tensor = self.head(self.body(x))
        return found
