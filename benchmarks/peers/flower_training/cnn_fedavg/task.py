"""The network, its local training and its evaluation, in plain PyTorch: the same architecture, optimiser and batches as ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

CHANNELS, HIDDEN, CLASSES = (16, 32), 64, 10
SIDE = 28


def network() -> nn.Module:
    """Two convolutions, each halving the image, a dense layer and the head (`unisono.methods.training.models.cnn`)."""
    first, second = CHANNELS
    return nn.Sequential(
        *(nn.Conv2d(1, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(second * (SIDE // 4) ** 2, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)),
    )


def patients(folder: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 28, 28) from 0 to 1 and classes (n,)."""
    with np.load(Path(folder) / f"{name}.npz") as stored:
        images = torch.from_numpy(stored["images"].astype(np.float32) / 255.0)
        return images[:, None], torch.from_numpy(stored["classes"].astype(np.int64))


def train(module: nn.Module, images: torch.Tensor, classes: torch.Tensor, epochs: int, batch: int, rate: float) -> None:
    """Stochastic gradient descent; one thread, as a site of three on this machine has."""
    torch.set_num_threads(1)
    optimiser = torch.optim.SGD(module.parameters(), lr=rate)
    module.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for start in range(0, len(images), batch):
            rows = order[start : start + batch]
            optimiser.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(module(images[rows]), classes[rows]).backward()
            optimiser.step()


def accuracy(module: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> float:
    """Share of images that are classified rightly."""
    module.eval()
    with torch.no_grad():
        return float((module(images).argmax(dim=1) == classes).float().mean())
