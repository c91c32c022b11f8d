"""The network that a study asks for, with its task and the way between its tensors and the vector that is summed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from unisono.errors import StudyError, UnisonoError
from unisono.methods.training.data import Patients, Tensors
from unisono.methods.training.models.base import Batch, Inputs
from unisono.methods.training.models.registry import model_spec
from unisono.methods.training.preprocessing import Columns, Prepared
from unisono.methods.training.spec import TrainingSpec
from unisono.methods.training.tasks import Binary, Cox, Hazard, Multiclass, Number, Task
from unisono.study.document import ImageVariable, NumberVariable, Study
from unisono.study.grid import grids
from unisono.study.problems import Problem, from_pydantic

if TYPE_CHECKING:
    import torch
    from torch import nn

    from unisono.federation.contribution import Facts
    from unisono.methods.training.models.vector import Layout
    from unisono.methods.training.training import Training

Vector = NDArray[np.float32]

SHARED = "shared.safetensors"
"""What is written of a model whose sites keep a part of it."""


@dataclass(frozen=True)
class Network:
    """module: built once, its numbers are set before every use. layout: its tensors in the vector (p,). task: what it is
    trained for. first (p,): its first numbers, drawn from the study's seed."""

    module: nn.Module
    layout: Layout
    inputs: Inputs
    task: Task
    first: Vector

    @staticmethod
    def of(study: Study, spec: TrainingSpec, columns: Columns) -> Network:
        """As the study says. `StudyError` if the model does not fit its inputs."""
        from unisono.methods.training.models.initialise import network
        from unisono.methods.training.models.vector import Layout

        task = task_of(study, spec, columns)
        inputs = inputs_of(study, columns)
        module = network(model_spec(spec.model), inputs, task.outputs, spec.seed)
        layout = Layout.of(module)
        return Network(module, layout, inputs, task, layout.flatten(module))

    @property
    def size(self) -> int:
        """p: numbers in the vector."""
        return self.layout.size

    @property
    def weights(self) -> int:
        """How many of them are trained; they come first, and the norms' running statistics after them."""
        return self.layout.weights

    def fitted(self, prepared: Prepared) -> Network:
        """The same, with the task's scale from the preprocessing."""
        if not isinstance(self.task, Number):
            return self
        centre, scale = prepared.target
        return replace(self, task=self.task.model_copy(update={"centre": centre, "scale": scale}))

    def loaded(self, vector: NDArray[np.floating[Any]]) -> nn.Module:
        """The module with these numbers (p,)."""
        self.layout.load(self.module, vector)
        return self.module

    def tensors(self, vector: Vector) -> list[torch.Tensor]:
        """The trained tensors of a vector (p,), in the order of the module's parameters."""
        import torch

        return [
            torch.from_numpy(np.array(vector[entry.start : entry.stop], np.float32).reshape(entry.shape))
            for entry in self.layout.entries
            if entry.kind == "weight"
        ]

    def tensors_of(self, patients: Patients, prepared: Prepared) -> tuple[Tensors, Tensors]:
        """A site's patients as tensors: those who are trained on, and those who validate."""
        return self._made(patients, prepared, patients.train), self._made(patients, prepared, patients.valid)

    def _made(self, patients: Patients, prepared: Prepared, rows: NDArray[np.bool_]) -> Tensors:
        import torch

        table = patients.table.rows(rows)
        name = prepared.columns.image
        # Copied only where it is the site's own, read-only memory: `rows` has copied what it leaves something out of.
        image = None if name is None else torch.from_numpy(np.require(table.images[name], np.float32, ["C", "W"]))
        numbers, categories = prepared.numbers(table), prepared.categories(table)
        batch = Batch(torch.from_numpy(numbers), torch.from_numpy(categories), image)
        return Tensors(batch, torch.from_numpy(np.array(self.task.targets(table))), table.n)


def model_files(
    method: Training[Any],
    network: Network,
    vector: Vector,
    prepared: Prepared,
    facts: Facts,
    round: int,
    sites: tuple[str, ...],
) -> dict[str, bytes]:
    """``model.safetensors`` and ``model.json`` of a model that predicts."""
    from unisono.methods.training.model_file import write

    module = network.loaded(vector).cpu()
    return write(
        method.study,
        method.analysis,
        facts,
        module=module,
        model=model_spec(method.spec.model),
        inputs=network.inputs,
        task=network.task,
        prepared=prepared,
        rounds=round,
        sites=sites,
    )


def shared_files(method: Training[Any], vector: Vector) -> dict[str, bytes]:
    """``shared.safetensors``: the tensors that the sites share, for a model whose other tensors each has for itself. PyTorch
    loads them with ``load_state_dict(..., strict=False)``."""
    import torch
    from safetensors.torch import save

    entries = [entry for entry in method.network.layout.entries if not method.own(entry)]
    tensors = {e.name: torch.from_numpy(np.array(vector[e.start : e.stop]).reshape(e.shape)) for e in entries}
    return {SHARED: save(tensors)}


def inputs_of(study: Study, columns: Columns) -> Inputs:
    """What the network is given of a patient."""
    image = None
    if columns.image is not None:
        variable = study.variables[columns.image]
        assert isinstance(variable, ImageVariable)
        image = variable.shape
    return Inputs((*columns.numbers, *columns.booleans), columns.cardinalities, image)


def task_of(study: Study, spec: TrainingSpec, columns: Columns) -> Task:
    """The task, before the preprocessing is known."""
    kind = spec.task_of(study)
    if kind in ("cox", "hazard"):
        assert spec.time is not None and spec.event is not None
        if kind == "cox":
            return Cox(time=spec.time, event=spec.event, ties=spec.ties)
        rule, variable = grids(study)[spec.time], study.variables[spec.time]
        assert isinstance(variable, NumberVariable)
        each = -(-rule.points // spec.intervals)
        number = -(-rule.points // each)
        return Hazard(
            time=spec.time,
            event=spec.event,
            unit=variable.unit,
            step=each * rule.step,
            intervals=number,
            resolution=rule.step,
        )
    assert spec.outcome is not None
    if kind == "number":
        variable = study.variables[spec.outcome]
        assert isinstance(variable, NumberVariable)
        return Number(outcome=spec.outcome, unit=variable.unit)
    if kind == "binary":
        return Binary(outcome=spec.outcome)
    return Multiclass(outcome=spec.outcome, classes=columns.classes)


def model_problems(spec: TrainingSpec, study: Study) -> list[Problem]:
    """What is wrong with ``model:``, alone and with these features."""
    try:
        written = model_spec(spec.model)
        wrong = written.check(inputs_of(study, Columns.of(study, spec)))
    except ValidationError as error:
        from unisono.methods.training.models.registry import spec_type

        return from_pydantic(error, ("model",), spec_type(str(spec.model["kind"])), spec.model)
    except StudyError as error:
        return [Problem(("model",), error.what, error.rule, error.remedy)]
    if wrong:
        remedy = "Change the analysis's `model` or `features`."
        return [Problem(("model",), f"{text[:1].upper()}{text[1:]}.", "model-inputs", remedy) for text in wrong]
    try:
        Network.of(study, spec, Columns.of(study, spec))
    except UnisonoError as error:
        return [Problem(("model",), error.what, error.rule, error.remedy)]
    return []
