"""The first weights of a network: from the study's seed alone, the same on every machine, whatever was drawn before.

Every tensor is drawn from a counter-based generator of its own (Philox, Salmon et al. 2011), keyed by the seed and the tensor's
name, so that adding a layer changes no other layer's weights.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from unisono.errors import StudyError
from unisono.methods.seeded import generator
from unisono.methods.training.models.base import MOST_PARAMETERS, Inputs, ModelSpec
from unisono.methods.training.models.vector import Layout

EMBEDDING_SD = 0.1


def network(spec: ModelSpec, inputs: Inputs, outputs: int, seed: int) -> nn.Module:
    """The network of these settings with its first weights. `StudyError` if it does not fit its inputs, or is too large."""
    wrong = spec.check(inputs)
    if wrong:
        raise StudyError(
            f"The model {spec.kind!r} does not fit its inputs: {'; '.join(wrong)}.",
            rule="model-inputs",
            remedy="Change the analysis's `model` or `features`.",
        )
    with torch.random.fork_rng(devices=[]):  # torch's own first weights, which are written over
        built = spec.build(inputs, outputs)
    size = Layout.of(built).size
    if size > MOST_PARAMETERS:
        raise StudyError(
            f"The model has {size:,} parameters, at most {MOST_PARAMETERS:,} are allowed.",
            rule="model-size",
            remedy="Use smaller layers.",
        )
    initialise(built, seed)
    return built


def initialise(module: nn.Module, seed: int) -> None:
    """Set every parameter and buffer: weights normal with variance 2 / fan-in (He et al. 2015), the head's 1 / fan-in;
    embeddings normal with deviation 0.1; biases 0; norms 1 and 0, their running statistics 0 and 1."""
    with torch.no_grad():
        for path, part in module.named_modules():
            if hasattr(part, "reset_running_stats"):
                part.reset_running_stats()
            for name, tensor in part.named_parameters(recurse=False):
                whole = f"{path}.{name}" if path else name
                deviation = _deviation(part, whole, tensor)
                if deviation is None:
                    tensor.fill_(1.0 if name == "weight" else 0.0)
                else:
                    drawn = generator("first-weights", seed, whole).standard_normal(tuple(tensor.shape)) * deviation
                    tensor.copy_(torch.from_numpy(drawn.astype(np.float32)))


def _deviation(part: nn.Module, name: str, tensor: torch.Tensor) -> float | None:
    """Standard deviation of a tensor's first values; None for what begins at 1 or 0."""
    if tensor.ndim < 2:
        return None
    if isinstance(part, nn.Embedding):
        return EMBEDDING_SD
    fan_in = tensor[0].numel()
    return math.sqrt((1.0 if name.startswith("head.") else 2.0) / fan_in)
