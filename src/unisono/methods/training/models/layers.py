"""Layers that several models share: embeddings, norms, and a dropout that draws from a generator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from unisono.errors import MethodError
from unisono.methods.training.models.base import Batch

Norm = Literal["none", "batch", "layer", "group"]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
"""What FedBN keeps at the site, statistics and affine parameters alike (Li et al. 2021)."""


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014). In training it draws from `generator`, which the training loop sets
    (`set_generator`); in evaluation it is the identity, as `torch.nn.Dropout` is. Holds no parameter."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0.0:
            return x
        if self.generator is None:
            raise MethodError(
                "Dropout has no generator to draw from.",
                rule="declared-randomness",
                remedy="Call `set_generator` on the network before it is trained.",
            )
        draws = torch.rand(x.shape, generator=self.generator, device=self.generator.device, dtype=torch.float32)
        return x * (draws >= self.p).to(x) / (1.0 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def set_generator(network: nn.Module, generator: torch.Generator) -> None:
    """Every `Dropout` of a network draws from this generator from now on."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.generator = generator


def embedding_width(cardinality: int) -> int:
    """Components of a category's embedding: half its cardinality rounded up, at most 50 (Guo & Berkhahn 2016's rule of thumb)."""
    return min(50, (cardinality + 1) // 2)


class Embeddings(nn.ModuleList):
    """One table a category; together (n, width)."""

    def __init__(self, cardinalities: Sequence[int]) -> None:
        super().__init__(nn.Embedding(c, embedding_width(c)) for c in cardinalities)
        self.width = sum(embedding_width(c) for c in cardinalities)

    def beside(self, *parts: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """(n, ...) the parts, and each category's embedding, side by side."""
        return torch.cat([*parts, *(table(categories[:, j]) for j, table in enumerate(self))], dim=1)


def norm_2d(norm: Norm, channels: int, groups: int = 8) -> nn.Module:
    """For feature maps (n, channels, h, w). Group norm (Wu & He 2018) has `groups` groups, fewer where they do not divide."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(next(g for g in range(min(groups, channels), 0, -1) if channels % g == 0), channels)
    return nn.Identity()


def norm_1d(norm: Norm, width: int) -> nn.Module:
    """For features (n, width)."""
    if norm == "batch":
        return nn.BatchNorm1d(width)
    if norm == "layer":
        return nn.LayerNorm(width)
    return nn.Identity()


def image_of(batch: Batch) -> torch.Tensor:
    """The image of a batch that must have one."""
    assert batch.image is not None, "the model was built for images"
    return batch.image
