"""What a site works with in a round: the network, its patients as tensors, and the study's settings for local work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unisono.methods.training import local
from unisono.methods.training.data import Patients, Tensors
from unisono.methods.training.local import Pull, Trained, Work
from unisono.methods.training.models.vector import Entry
from unisono.methods.training.network import Network
from unisono.methods.training.preprocessing import Prepared
from unisono.methods.training.progress import MOST_LOSS
from unisono.methods.training.spec import CLASSES, Local, TrainingSpec

if TYPE_CHECKING:
    from unisono.methods.training.training import Training

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Workplace:
    """One site's, with its training and validation patients. shared: which numbers of the model leave it (`Training.shared`)."""

    spec: TrainingSpec
    network: Network
    prepared: Prepared
    train: Tensors
    valid: Tensors

    shared: tuple[NDArray[np.bool_], NDArray[np.bool_]]

    @staticmethod
    def of(method: Training[Any], patients: Patients, prepared: NDArray[np.float64]) -> Workplace:
        """Made anew only when the preprocessing changes: once in an analysis."""
        local.use_threads(method.spec.local.threads)
        key = prepared.tobytes()
        if key not in patients.made:
            read = method.columns.read(prepared)
            fitted = method.network.fitted(read)
            patients.made.clear()
            tensors = fitted.tensors_of(patients, read)
            patients.made[key] = Workplace(method.spec, fitted, read, *tensors, method.shared)
        found: Workplace = patients.made[key]
        return found

    def rate(self, round: int) -> float:
        """The learning rate of a round (from 1)."""
        return self.spec.local.rate * self.spec.local.schedule.of(round, self.spec.rounds.most)

    def trained(
        self,
        start: Vector,
        round: int,
        *,
        pull: Pull | None = None,
        chosen: Callable[[Entry], bool] | None = None,
        settings: Local | None = None,
        purpose: str = "",
    ) -> Trained:
        """Local work of one round from the model `start`. pull: the method's own term. chosen: tensors that are trained, if
        not all. settings: other ones than the study's `local`. purpose: keeps the draws of a second piece of work apart."""
        settings = settings or self.spec.local
        weights = self.prepared.class_weights(settings.class_weights)
        key = (self.spec.seed, "round", round, purpose)
        work = Work(settings, self.rate(round), key, weights, chosen)
        return local.train(self.network, start, self.train, work, pull)

    def validation(self, model: Vector) -> dict[str, float]:
        """On the validation patients, as sums: loss, how many there are, and where there are classes how many were classified
        rightly."""
        predicted = local.outputs(self.network, model, self.valid)
        loss = np.minimum(local.losses(self.network, predicted, self.valid), MOST_LOSS).sum()
        return {"loss": float(loss), "patients": float(self.valid.n)} | self._correct(predicted.numpy())

    def _correct(self, outputs: NDArray[np.float32]) -> dict[str, float]:
        if self.network.task.kind not in CLASSES:
            return {}
        chosen = outputs.argmax(axis=1) if outputs.shape[1] > 1 else outputs[:, 0] > 0
        return {"correct": float((chosen == self.valid.target[:, 0].numpy()).sum())}

    def part(self, model: Vector, trained: Trained, validated: dict[str, float] | None) -> dict[str, NDArray[Any]]:
        """This site's part of a round's mean: the change of the model, and beside it means over its patients. validated:
        `validation` of the model that was broadcast, or None in a round without one."""
        change, (weights, statistics) = trained.vector - model, self.shared
        tree: dict[str, NDArray[Any]] = {"update": change[weights]}
        if statistics.any():
            tree["statistics"] = change[statistics]
        clipped = float((np.abs(tree["update"]) > self.spec.update_bound).mean())
        n = self.train.n + self.valid.n
        names = ("loss", "patients", *(["correct"] if self.network.task.kind in CLASSES else []))
        sums = validated or dict.fromkeys(names, 0.0)
        tree |= {f"validation_{name}": np.asarray(total / n) for name, total in sums.items()}
        told = {"loss": min(trained.loss, MOST_LOSS), "steps": float(trained.steps), "clipped": clipped}
        return tree | {name: np.asarray(value) for name, value in told.items()}

    def predicted(self, model: Vector) -> dict[str, NDArray[np.float64]]:
        """What the model says of the validation patients, by name."""
        return self.network.task.predict(local.outputs(self.network, model, self.valid).numpy())
