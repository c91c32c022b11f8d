"""What a network is trained for: how many outputs, the loss of each patient, and what its outputs mean.

    binary      Bernoulli, logit link               f = log-odds                         -log p(y | f)
    multiclass  categorical, softmax                f_c = log-odds of class c            -log softmax(f)_y
    number      normal, identity link               f = (mean - centre) / scale          ((y - centre) / scale - f)^2 / 2
    cox         DeepSurv (Katzman et al. 2018)      f = log relative hazard              `cox_losses.partial_likelihood`
    hazard      logistic hazard (Gensheimer &       f_j = logit of the hazard in         `Hazard`
                Narasimhan 2019)                    interval j

A task is written into the model file as it is. Importable without PyTorch; only the losses need it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from scipy.special import expit

from unisono.study.table import Table

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]
Outputs = NDArray[np.floating]


class Task(Protocol):
    """n patients, o outputs, t columns of targets."""

    @property
    def kind(self) -> str:
        """``binary``, ``multiclass``, ``number``, ``cox`` or ``hazard``."""
        ...

    @property
    def outputs(self) -> int:
        """o: of the network."""
        ...

    def targets(self, table: Table) -> Array:
        """(n, t) what is learnt of each patient."""
        ...

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """(n,) each patient's loss from outputs (n, o) and targets (n, t). weights (classes,): of a patient by class."""
        ...

    def predict(self, outputs: Outputs) -> dict[str, Array]:
        """What outputs (n, o) mean, by name: (n,), or (n, k) for what has classes or times."""
        ...

    def columns(self) -> tuple[str, ...]:
        """Headings of a table of predictions, in the order of `table`."""
        ...

    def table(self, predicted: Mapping[str, Array]) -> Array:
        """(n, columns) what `predict` gave, side by side."""
        ...


class _Task(BaseModel, ABC):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """As `Task.columns`."""

    def table(self, predicted: Mapping[str, Array]) -> Array:
        """(n, columns) what `predict` gave, side by side."""
        return np.concatenate([part if part.ndim == 2 else part[:, None] for part in predicted.values()], axis=1)


class Binary(_Task):
    """outcome: a boolean variable."""

    kind: Literal["binary"] = "binary"
    outcome: str

    @property
    def outputs(self) -> int:
        return 1

    def targets(self, table: Table) -> Array:
        """(n, 1) 0 or 1."""
        return table[self.outcome].reshape(-1, 1)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        f, y = outputs[:, 0], targets[:, 0].to(outputs)
        losses = binary_cross_entropy_with_logits(f, y, reduction="none")
        return losses if weights is None else losses * weights.to(f)[y.long()]

    def predict(self, outputs: Outputs) -> dict[str, Array]:
        """probability (n,): of yes."""
        return {"probability": _sigmoid(outputs[:, 0])}

    def columns(self) -> tuple[str, ...]:
        return (f"probability[{self.outcome}]",)


class Multiclass(_Task):
    """outcome: a category; classes: its levels."""

    kind: Literal["multiclass"] = "multiclass"
    outcome: str
    classes: tuple[str, ...] = Field(min_length=2)

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def targets(self, table: Table) -> Array:
        """(n, 1) index of the class."""
        return table[self.outcome].reshape(-1, 1)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        from torch.nn.functional import cross_entropy

        y = targets[:, 0].long()
        losses = cross_entropy(outputs, y, reduction="none")
        return losses if weights is None else losses * weights.to(outputs)[y]

    def predict(self, outputs: Outputs) -> dict[str, Array]:
        """probabilities (n, classes), each row summing to 1."""
        f = outputs.astype(np.float64)
        e = np.exp(f - f.max(axis=1, keepdims=True))
        return {"probabilities": e / e.sum(axis=1, keepdims=True)}

    def columns(self) -> tuple[str, ...]:
        return tuple(f"probability[{self.outcome}={level}]" for level in self.classes)


class Number(_Task):
    """outcome: a number, in `unit`. centre, scale: of the preprocessing; the network is trained on (y - centre) / scale."""

    kind: Literal["number"] = "number"
    outcome: str
    unit: str = "1"
    centre: float = 0.0
    scale: float = Field(default=1.0, gt=0)

    @property
    def outputs(self) -> int:
        return 1

    def targets(self, table: Table) -> Array:
        """(n, 1) in the study's unit."""
        return table[self.outcome].reshape(-1, 1)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        y = ((targets[:, 0] - self.centre) / self.scale).to(outputs)
        return 0.5 * (y - outputs[:, 0]) ** 2

    def predict(self, outputs: Outputs) -> dict[str, Array]:
        """mean (n,): in the study's unit."""
        return {"mean": self.centre + self.scale * outputs[:, 0].astype(np.float64)}

    def columns(self) -> tuple[str, ...]:
        return (self.outcome if self.unit == "1" else f"{self.outcome} [{self.unit}]",)


class Cox(_Task):
    """DeepSurv: the network is the log relative hazard of a Cox model without baseline. time, event: as in the study. ties: of
    events at one time, by Efron (1977) or Breslow (1974). A patient's risk set is its batch, so that `batch: all` is the
    exact partial likelihood of a hospital, stratified by hospital."""

    kind: Literal["cox"] = "cox"
    time: str
    event: str
    ties: Literal["efron", "breslow"] = "efron"

    @property
    def outputs(self) -> int:
        return 1

    def targets(self, table: Table) -> Array:
        """(n, 2) time, and 1 for an event or 0 for a censoring."""
        return np.stack([table[self.time], table[self.event]], axis=1)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        """(n,) an event's part of the batch's negative log partial likelihood; 0 for a censored patient."""
        from unisono.methods.training.cox_losses import partial_likelihood

        return partial_likelihood(outputs[:, 0], targets[:, 0], targets[:, 1], self.ties)

    def predict(self, outputs: Outputs) -> dict[str, Array]:
        """risk (n,): log relative hazard; larger is sooner."""
        return {"risk": outputs[:, 0].astype(np.float64)}

    def columns(self) -> tuple[str, ...]:
        return ("risk",)


class Hazard(_Task):
    """Logistic hazard: discrete time, intervals (0, u_1], (u_1, u_2], ..., (u_{m-1}, u_m] of length `step`, and

        h_j(x) = sigmoid(f_j(x)) = P(event in interval j | event-free before it, x)

    A patient whose event is in interval k adds -log h_k - sum_{j<k} log(1 - h_j); one who was censored adds
    -sum_{j<=k} log(1 - h_j) over the k intervals that it is *known to have survived whole* (Kvamme & Borgan 2021, section
    2.3: events are moved to the end of their interval, censorings to its beginning). The study's grid has rounded a time up
    to a multiple of `resolution`, so a censoring at t is known of only until t - resolution. Whoever is event-free at u_m is
    censored there.

    step, resolution: in `unit`, the time variable's. intervals: m.
    """

    kind: Literal["hazard"] = "hazard"
    time: str
    event: str
    unit: str = "1"
    step: float = Field(gt=0)
    intervals: int = Field(ge=1, le=1000)
    resolution: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _whole(self) -> Hazard:
        if self.resolution > self.step * (1 + _SAME):
            raise ValueError("an interval is at least as long as the study's grid")
        return self

    @property
    def outputs(self) -> int:
        return self.intervals

    @property
    def times(self) -> Array:
        """(m,) the ends of the intervals."""
        return np.asarray(self.step * np.arange(1, self.intervals + 1), np.float64)

    def targets(self, table: Table) -> Array:
        """(n, 2) how many intervals were survived whole, and 1 if the event was in the next one."""
        time, event = table[self.time], table[self.event] == 1.0
        events = np.maximum(np.ceil(time / self.step - _SAME) - 1.0, 0.0)
        known = np.maximum(np.floor((time - self.resolution) / self.step + _SAME), 0.0)
        survived = np.minimum(np.where(event, events, known), self.intervals)
        return np.stack([survived, np.where(event & (survived < self.intervals), 1.0, 0.0)], axis=1)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG002
        import torch
        from torch.nn.functional import logsigmoid

        survived, event = targets[:, 0].long(), targets[:, 1].to(outputs)
        whole = torch.arange(self.intervals, device=outputs.device) < survived[:, None]
        losses = -(logsigmoid(-outputs) * whole).sum(dim=1)
        last = survived.clamp(max=self.intervals - 1)[:, None]
        return losses - logsigmoid(outputs.gather(1, last))[:, 0] * event

    def predict(self, outputs: Outputs) -> dict[str, Array]:
        """survival (n, m): the probability to be event-free at each of `times`. risk (n,): minus the expected event-free time
        until the last of them, in `unit`; larger is sooner."""
        survival = np.cumprod(_sigmoid(-outputs), axis=1)
        before = np.concatenate([np.ones((len(survival), 1)), survival[:, :-1]], axis=1)
        return {"survival": survival, "risk": -self.step * 0.5 * (before + survival).sum(axis=1)}

    def columns(self) -> tuple[str, ...]:
        return (*(f"survival[{time:g} {self.unit}]" for time in self.times), "risk")


AnyTask = Annotated[Binary | Multiclass | Number | Cox | Hazard, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Binary | Multiclass | Number | Cox | Hazard] = TypeAdapter(AnyTask)
_SAME = 1e-9
"""Relative distance within which a time is on an interval's end, as on the study's grid (`unisono.study.grid`)."""


def task_from(written: Mapping[str, Any]) -> Binary | Multiclass | Number | Cox | Hazard:
    """The task that was written with `model_dump`; pydantic's `ValidationError` if there is none such."""
    return _ADAPTER.validate_python({k: tuple(v) if isinstance(v, list) else v for k, v in written.items()})


def _sigmoid(f: Outputs) -> Array:
    """1 / (1 + exp(-f)), accurate in both tails."""
    return np.asarray(expit(f.astype(np.float64)))
