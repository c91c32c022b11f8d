"""``resnet``: a small residual network for 2-D images (He et al. 2016, section 4.2), numbers and categories beside it if any.

    m   = relu(norm(conv_3x3(image)))                                                       `width` channels
    m   = relu(norm(conv_3x3(relu(norm(conv_3x3(m))))) + shortcut(m))                       a block; stage s has width 2^s
    x   = [mean over the map, numbers, embeddings]
    f   = W_head x + b_head

The first block of every stage but the first has stride 2; where a block changes the shape, its shortcut is a 1 x 1 convolution
with a norm. Batch statistics of one hospital are not another's: ``group`` (Wu & He 2018) is the default.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from unisono.methods.training.models.base import Batch, Inputs, ModelSpec
from unisono.methods.training.models.layers import Dropout, Embeddings, Norm, image_of, norm_2d

Blocks = Annotated[int, Field(ge=1, le=8)]


class ResNet(ModelSpec):
    """blocks: in each stage. width: channels of the first stage, doubled at each further one. dropout: before the head."""

    kind: Literal["resnet"] = "resnet"
    blocks: tuple[Blocks, ...] = Field(default=(1, 1, 1), min_length=1, max_length=5)
    width: int = Field(default=16, ge=1, le=256)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    norm: Literal["batch", "group"] = "group"

    def check(self, inputs: Inputs) -> list[str]:
        if inputs.image is None:
            return ["a resnet needs an image among the features: use kind mlp for a table"]
        if min(inputs.image[1:]) < 2 ** (len(self.blocks) - 1):
            return [f"{len(self.blocks)} stages leave nothing of an image of {inputs.image[1]} x {inputs.image[2]}"]
        return []

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        return ResNetNetwork(self, inputs, outputs)


class Block(nn.Module):
    """conv1, norm1, conv2, norm2; shortcut.0 (conv) and shortcut.1 (norm) where the shape changes."""

    def __init__(self, a: int, b: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(a, b, 3, stride, padding=1, bias=False)
        self.norm1 = norm_2d(norm, b)
        self.conv2 = nn.Conv2d(b, b, 3, padding=1, bias=False)
        self.norm2 = norm_2d(norm, b)
        same = a == b and stride == 1
        changed = [] if same else [nn.Conv2d(a, b, 1, stride, bias=False), norm_2d(norm, b)]
        self.shortcut = nn.Sequential(*changed)

    def forward(self, m: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.norm1(self.conv1(m)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(m))


class ResNetNetwork(nn.Module):
    """stem.0 (conv), stem.1 (norm), stages.s.b (blocks), embeddings.j, head."""

    def __init__(self, spec: ResNet, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        assert inputs.image is not None
        conv = nn.Conv2d(inputs.image[0], spec.width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, norm_2d(spec.norm, spec.width), nn.ReLU())
        widths = [spec.width * 2**s for s in range(len(spec.blocks))]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    Block(a, b, 1 if s == 0 else 2, spec.norm), *(Block(b, b, 1, spec.norm) for _ in range(n - 1))
                )
                for s, (n, (a, b)) in enumerate(zip(spec.blocks, pairwise((spec.width, *widths)), strict=True))
            )
        )
        self.embeddings = Embeddings(inputs.categories)
        self.dropout = Dropout(spec.dropout)
        self.head = nn.Linear(widths[-1] + len(inputs.numbers) + self.embeddings.width, outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        maps = self.stages(self.stem(image_of(batch))).mean((2, 3))
        x = self.embeddings.beside(maps, batch.numbers, categories=batch.categories)
        found: torch.Tensor = self.head(self.dropout(x))
        return found
