"""What a site does in a round: a number of steps of stochastic gradient descent from the model that was broadcast.

A step: the gradient of the mean loss of a batch, clipped by its norm, plus the method's own term (`Pull`), then SGD with
momentum and weight decay, or Adam (Kingma & Ba 2015). The optimiser begins anew in every round. Everything that is drawn
(batches, dropout) comes from generators keyed by the study's seed and the round: the same site, study and round give the same
model. On a GPU sums inside a step may be ordered differently; there two runs differ in the last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unisono.errors import Abstention
from unisono.methods.seeded import number
from unisono.methods.training.data import Tensors
from unisono.methods.training.models.layers import set_generator
from unisono.methods.training.models.vector import Entry
from unisono.methods.training.network import Network
from unisono.methods.training.pace import Pace
from unisono.methods.training.spec import Local

Vector = NDArray[np.float32]
Pull = Callable[[list[nn.Parameter]], None]
"""Adds a method's own term to the gradients of all parameters, in the layout's order."""

_MOST_AT_ONCE = 4096
"""Patients that are evaluated at once, and images far fewer: what does not fit is halved by nobody."""


@dataclass(frozen=True)
class Work:
    """One piece of local work. rate: of this round, after the schedule. key: what its random draws are keyed by. chosen: which
    tensors are trained (None: all)."""

    local: Local
    rate: float
    key: tuple[object, ...]
    class_weights: NDArray[np.float64] | None = None
    chosen: Callable[[Entry], bool] | None = None


@dataclass(frozen=True)
class Trained:
    """vector (p,): the model after local work. loss: mean training loss over the patients of all steps. steps: how many."""

    vector: Vector
    loss: float
    steps: int


def train(network: Network, start: Vector, data: Tensors, work: Work, pull: Pull | None = None) -> Trained:
    """Local work from the model `start` (p,). `Abstention` if it leaves finite numbers, or memory does not suffice: in fixed
    words, because everybody in the study reads them."""
    if data.n == 0:
        raise Abstention(
            "There is no patient to train on.",
            rule="training-patients",
            remedy="Choose a smaller `validate: fraction`.",
        )
    device = _device()
    with _enough_memory():
        module = network.loaded(start).to(device)
        data = data.to(device)
        parameters = _chosen(network, module, work)
        optimiser = _optimiser(parameters, work)
        generator = torch.Generator(device).manual_seed(number(*work.key, "dropout"))
        set_generator(module, generator)
        module.train()
        if 1 in (data.n, work.local.batch):
            _without_batch(module)
        loss, seen, steps = 0.0, 0, 0
        weights = _weights(work, device)
        for rows in _batches(data.n, work):
            part = data.take(rows.to(device))
            optimiser.zero_grad(set_to_none=True)
            with _precision(work.local, device):
                each = network.task.loss(module(part.batch), part.target, weights)
            mean = each.float().mean()
            mean.backward()  # type: ignore[no-untyped-call]
            if work.local.clip is not None:
                nn.utils.clip_grad_norm_(parameters, work.local.clip)
            if pull is not None:
                pull(parameters)
            optimiser.step()
            loss, seen, steps = loss + float(mean.detach()) * part.n, seen + part.n, steps + 1
            if not np.isfinite(loss):
                break
        vector = network.layout.flatten(module)
    if not (np.isfinite(loss) and np.isfinite(vector).all()):
        raise Abstention(
            "The loss or the model is not finite any more after local steps.",
            rule="finite-contribution",
            remedy="Use a smaller `local: rate`, or `local: {clip: 1.0}`; look for extreme values in the features.",
        )
    return Trained(vector, loss / seen, steps)


def load_pytorch() -> None:
    """PyTorch loads much of itself, for seconds, at the first step of an optimiser: take one, on nothing."""
    weight = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([weight])
    optimiser.zero_grad()
    optimiser.step()


def use_threads(number: int) -> None:
    """Processor threads of a step, in this process: the last bits of a sum depend on their number."""
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


def outputs(network: Network, vector: Vector, data: Tensors) -> torch.Tensor:
    """(n, outputs) of a model on patients, without dropout and with the norms' running statistics."""
    device = _device()
    with _enough_memory(), torch.no_grad():
        module = network.loaded(vector).to(device)
        module.eval()
        size = _MOST_AT_ONCE if data.batch.image is None else _MOST_AT_ONCE // 32
        parts = [module(data.take(slice(at, at + size)).to(device).batch) for at in range(0, data.n, size)]
        return torch.cat(parts).float().cpu() if parts else torch.zeros((0, network.task.outputs))


def losses(network: Network, predicted: torch.Tensor, data: Tensors) -> NDArray[np.float64]:
    """(n,) each patient's loss, without class weights, from `outputs`."""
    if data.n == 0:
        return np.zeros(0)
    with torch.no_grad():
        found: NDArray[np.float64] = network.task.loss(predicted, data.target, None).double().numpy()
    return found


def proximal(network: Network, anchor: Vector, weight: float) -> Pull:
    """The gradient of ``weight / 2 * |w - anchor|^2``."""
    tensors = [tensor.to(_device()) for tensor in network.tensors(anchor)]

    def add(parameters: list[nn.Parameter]) -> None:
        for parameter, centre in zip(parameters, tensors, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - centre, alpha=weight)

    return add


def constant(network: Network, correction: Vector) -> Pull:
    """The same vector (p,) added to every gradient."""
    tensors = [tensor.to(_device()) for tensor in network.tensors(correction)]

    def add(parameters: list[nn.Parameter]) -> None:
        for parameter, term in zip(parameters, tensors, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(term)

    return add


def _batches(n: int, work: Work) -> Iterator[torch.Tensor]:
    """Rows of each step: every epoch in a new order; a last batch of one patient joins the one before it, because a norm
    over a batch needs two."""
    local = work.local
    size = n if local.batch == "all" else min(local.batch, n)
    generator = torch.Generator().manual_seed(number(*work.key, "batches"))
    pace = Pace(local.seconds) if local.seconds is not None else None
    starts = list(range(0, n, size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    stops = [*starts[1:], n]
    epoch, step = 0, 0
    while local.epochs is None or epoch < local.epochs:
        order = torch.arange(n) if size == n else torch.randperm(n, generator=generator)
        for start, stop in zip(starts, stops, strict=True):
            yield order[start:stop]
            step += 1
            if step == local.steps or (pace is not None and not pace.left()):
                return
        epoch += 1


def _chosen(network: Network, module: nn.Module, work: Work) -> list[nn.Parameter]:
    """The parameters that are trained; the others keep their values."""
    found = []
    entries = [entry for entry in network.layout.entries if entry.kind == "weight"]
    for parameter, entry in zip(module.parameters(), entries, strict=True):
        parameter.requires_grad_(work.chosen is None or work.chosen(entry))
        parameter.grad = None
        found.append(parameter)
    return found


def _without_batch(module: nn.Module) -> None:
    """A batch of one patient has no variance: norms over a batch use their running statistics."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.eval()


def _optimiser(parameters: list[nn.Parameter], work: Work) -> torch.optim.Optimizer:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    decay = work.local.weight_decay
    if work.local.optimiser == "adam":
        return torch.optim.Adam(trained, lr=work.rate, weight_decay=decay)
    return torch.optim.SGD(trained, lr=work.rate, momentum=work.local.momentum, weight_decay=decay)


def _weights(work: Work, device: torch.device) -> torch.Tensor | None:
    if work.class_weights is None:
        return None
    return torch.from_numpy(work.class_weights.astype(np.float32)).to(device)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _precision(local: Local, device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where it is asked for and there is a GPU: it has float32's range, so that no loss needs to be scaled."""
    if local.mixed_precision and device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Memory that does not suffice, on the GPU or beside it, is a reason to sit this round out."""
    try:
        yield
    except (MemoryError, torch.cuda.OutOfMemoryError) as error:
        raise _too_little() from error
    except RuntimeError as error:  # PyTorch's own for the CPU
        if "allocate memory" in str(error):
            raise _too_little() from error
        raise


def _too_little() -> Abstention:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Abstention(
        "The memory of this site's machine, or of its GPU, does not suffice for a step.",
        rule="memory",
        remedy="Use a smaller `local: batch` or a smaller model; or close what else uses the GPU at this site.",
    )
