"""A network as one vector of float32 numbers, and back: what is summed over hospitals.

layout = Layout.of(network)
before = layout.flatten(network)                   # (p,)
layout.load(network, before + mean_update)
layout.select(lambda entry: entry.is_norm)         # [slice(...), ...]: what FedBN keeps at the site
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unisono.errors import ProtocolError
from unisono.methods.training.models.layers import NORMS

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """One tensor in the vector. kind: ``weight`` is trained, ``buffer`` is a running mean or variance. is_norm: it belongs to a
    normalisation layer; is_head: to the last layer."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["weight", "buffer"]
    start: int
    stop: int
    is_norm: bool
    is_head: bool


@dataclass(frozen=True)
class Layout:
    """The tensors of a network in their order, weights before buffers. Integer buffers (how many batches a norm has seen) are
    left out: nothing depends on them."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """The layout of a network, or of another that was built from the same settings."""
        norms = {path for path, part in module.named_modules() if isinstance(part, NORMS)}
        found: list[Entry] = []
        at = 0
        for kind, name, tensor in _tensors(module):
            owner = name.rpartition(".")[0]
            is_head = name.startswith("head.")
            found.append(Entry(name, tuple(tensor.shape), kind, at, at + tensor.numel(), owner in norms, is_head))
            at += tensor.numel()
        return cls(tuple(found))

    @property
    def size(self) -> int:
        """p: numbers in the vector, buffers included."""
        return self.entries[-1].stop if self.entries else 0

    @cached_property
    def weights(self) -> int:
        """How many of the numbers are trained; they come first."""
        return max((entry.stop for entry in self.entries if entry.kind == "weight"), default=0)

    def flatten(self, module: nn.Module) -> Vector:
        """(p,) a copy of the network's numbers."""
        vector = np.empty(self.size, np.float32)
        for entry, (_, _, tensor) in zip(self.entries, _tensors(module), strict=True):
            vector[entry.start : entry.stop] = tensor.detach().to("cpu", torch.float32).numpy().ravel()
        return vector

    def load(self, module: nn.Module, vector: NDArray[np.floating]) -> None:
        """Set the network's numbers. `ProtocolError` (``model-shape``) for a vector of another length."""
        if vector.shape != (self.size,):
            raise ProtocolError(
                f"The model has {self.size} parameters, the vector has the shape {vector.shape}.",
                rule="model-shape",
                remedy="Install the same version of the model at both ends.",
            )
        with torch.no_grad():
            for entry, (_, _, tensor) in zip(self.entries, _tensors(module), strict=True):
                part = vector[entry.start : entry.stop].astype(np.float32).reshape(entry.shape)
                tensor.copy_(torch.from_numpy(part))

    def select(self, predicate: Callable[[Entry], bool]) -> list[slice]:
        """Where the tensors are that the predicate chooses; neighbours are one slice."""
        slices: list[slice] = []
        for entry in self.entries:
            if not predicate(entry):
                continue
            if slices and slices[-1].stop == entry.start:
                slices[-1] = slice(slices[-1].start, entry.stop)
            else:
                slices.append(slice(entry.start, entry.stop))
        return slices

    def mask(self, predicate: Callable[[Entry], bool]) -> NDArray[np.bool_]:
        """(p,) true where the predicate chooses."""
        chosen = np.zeros(self.size, np.bool_)
        for where in self.select(predicate):
            chosen[where] = True
        return chosen


def _tensors(module: nn.Module) -> Iterator[tuple[Literal["weight", "buffer"], str, torch.Tensor]]:
    for name, parameter in module.named_parameters():
        yield "weight", name, parameter
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            yield "buffer", name, buffer
