"""How a model is measured on validation patients: its loss, and the evaluation that fits its task, as sums.

The same object at the coordinator and at the sites. Importable without PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unisono.methods.evaluation.base import Evaluation
from unisono.methods.evaluation.kinds import evaluation
from unisono.methods.training.data import Patients
from unisono.methods.training.preprocessing import Columns
from unisono.methods.training.progress import MOST_LOSS
from unisono.methods.training.spec import SURVIVAL, TrainingSpec
from unisono.protection.leaves import Leaf, count, moment
from unisono.study.document import NumberVariable, Study
from unisono.study.grid import grids
from unisono.study.table import Table

if TYPE_CHECKING:
    from unisono.methods.training.workplace import Workplace

_PREFIX = "evaluation_"
_WHOLE = (
    (("with_outcome", "without_outcome"), False),
    (("matrix",), False),
    (("of_class", "of_others"), True),
    (("right", "wrong"), False),
    (("patients",), False),
    (("n",), False),
)
"""Leaves of evaluations that together count every patient once; or once for each class."""


class Scoring:
    """Of one analysis."""

    def __init__(self, study: Study, spec: TrainingSpec, columns: Columns) -> None:
        self.spec = spec
        self.study = study
        self.columns = columns
        self.kind = spec.task_of(study)
        self.grid = grids(study)[spec.time] if self.kind in SURVIVAL and spec.time is not None else None
        self.evaluation = self.of(study.release.min_count)

    def of(self, min_count: int) -> Evaluation:
        """The evaluation that fits the task. min_count: 1 shows everything, as a site does to itself."""
        if self.grid is not None:
            settings: dict[str, Any] = {"points": self.grid.points + 1, "times": self._times(), "step": self.grid.step}
            if self.kind == "hazard":  # its risk is minus an event-free time, of its whole intervals at most
                each = self._times()[0]
                intervals = -(-self.grid.points // each)
                settings["bounds"] = (-intervals * each * self.grid.step, 0.0)
            return evaluation("survival", min_count=min_count, **settings)
        if self.kind == "multiclass":
            return evaluation("multiclass", min_count=min_count, classes=self.columns.classes)
        if self.kind == "number":
            variable = self.study.variables[self.spec.outcome or ""]
            assert isinstance(variable, NumberVariable)
            return evaluation("number", min_count=min_count, low=variable.min, high=variable.max)
        return evaluation("binary", min_count=min_count)

    def _times(self) -> tuple[int, ...]:
        """Grid positions at which ``hazard`` predicts survival, up to the last one of the grid."""
        if self.kind != "hazard" or self.grid is None:
            return ()
        each = -(-self.grid.points // self.spec.intervals)
        return tuple(range(each, self.grid.points + 1, each))

    def leaves(self, patients: int) -> dict[str, Leaf]:
        """What an `evaluation` sends."""
        n = float(max(patients, 1))
        found = {
            "loss": moment((), n * MOST_LOSS, "Sum of the losses of validation patients."),
            "patients": count((), n, "Number of validation patients."),
        }
        if self.columns.classes:
            found["correct"] = count((), n, "Number of validation patients classified rightly.")
        return found | {f"{_PREFIX}{name}": leaf for name, leaf in self.evaluation.leaves(patients).items()}

    def part(self, place: Workplace, data: Patients, model: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """At a site: its validation patients' part."""
        tree = {name: np.asarray(total) for name, total in place.validation(model).items()}
        scored = self.evaluation.part(*self.scored(place, data, model))
        return tree | {f"{_PREFIX}{name}": value for name, value in scored.items()}

    def scored(
        self, place: Workplace, data: Patients, model: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """At a site: what the model predicts of its validation patients, and what is true, as the evaluation wants them."""
        predicted = place.predicted(model)
        table = data.table.rows(data.valid)
        return self._columns(predicted), self._truth(table)

    def _columns(self, predicted: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        if self.kind == "hazard":
            survival = predicted["survival"][:, : len(self._times())]
            return np.concatenate([predicted["risk"][:, None], survival], axis=1)
        return next(iter(predicted.values()))

    def _truth(self, table: Table) -> NDArray[np.float64]:
        if self.grid is None:
            return table[self.spec.outcome or ""]
        assert self.spec.time is not None and self.spec.event is not None
        position = np.minimum(self.grid.index(table[self.spec.time]), self.grid.points)
        return np.stack([position.astype(np.float64), table[self.spec.event]], axis=1)

    def complete(self, total: Mapping[str, NDArray[Any]], patients: int) -> bool:
        """Whether an opened `evaluation` holds all the validation patients, so many: with ``hide: none`` hospitals may leave out
        their small cells, and then it tells nothing."""
        counted = [float(total["patients"])]
        for names, each in _WHOLE:
            parts = [float(np.sum(total[_PREFIX + name])) for name in names if _PREFIX + name in total]
            counted += [sum(parts) / (len(self.columns.classes) if each else 1)] if parts else []
        return all(round(number) == patients for number in counted)

    def losses(self, total: Mapping[str, NDArray[Any]]) -> tuple[float | None, float | None]:
        """Mean loss and share classified rightly, from an opened `evaluation`."""
        n = float(total["patients"])
        if not n:
            return None, None
        correct = float(total["correct"]) / n if self.columns.classes else None
        return float(total["loss"]) / n, correct

    def metrics(self, total: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """With intervals, from an opened `evaluation`; and the mean loss."""
        opened = {name.removeprefix(_PREFIX): value for name, value in total.items() if name.startswith(_PREFIX)}
        loss, correct = self.losses(total)
        found: dict[str, Any] = {"loss": loss, **({} if correct is None else {"accuracy": correct})}
        return {**found, **self.evaluation.metrics(opened)}
