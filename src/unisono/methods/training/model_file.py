"""The model file of a network: ``model.safetensors`` (its tensors) and ``model.json`` (everything else), for any tool.

Reading executes nothing: safetensors holds numbers alone, the card is validated JSON, and the network is built from a kind that
is installed here. docs/methods/models.md shows how plain PyTorch opens both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from unisono.errors import UnisonoError
from unisono.federation.contribution import Facts
from unisono.methods.model_card import (
    CARD,
    CardPart,
    Model,
    ModelCard,
    checked_file,
    described,
    digest,
    not_a_model,
    read_card,
)
from unisono.methods.packages import Package
from unisono.methods.training.models.base import Batch, Inputs, ModelSpec
from unisono.methods.training.models.registry import installed, model_spec, need_torch
from unisono.methods.training.preprocessing import Columns, Prepared
from unisono.methods.training.tasks import AnyTask, Task
from unisono.study.document import BooleanVariable, CategoryVariable, ImageVariable, Name, NumberVariable, Study
from unisono.study.table import Table

TENSORS = "model.safetensors"
_ROWS = 1024
"""Patients in one pass of the network."""


class NumberScale(CardPart):
    """The network is given (x - centre) / scale, x in `unit` and within [min, max]."""

    name: Name
    unit: str
    min: float
    max: float
    centre: float
    scale: float = Field(gt=0)


class Vocabulary(CardPart):
    """The network is given the index of a level plus 1, and 0 for a level that is one of `other`."""

    name: Name
    levels: tuple[str, ...] = Field(min_length=2)
    other: tuple[str, ...]


class Target(CardPart):
    """The network's output is (y - centre) / scale of an outcome that is a number."""

    name: Name
    centre: float
    scale: float = Field(gt=0)


class Preprocessing(CardPart):
    """How a patient becomes a `Batch`: numbers and then booleans (0, 1) as `numbers`, categories as `categories`."""

    numbers: tuple[NumberScale, ...]
    booleans: tuple[Name, ...]
    categories: tuple[Vocabulary, ...]
    image: Name | None
    target: Target | None = None


class InputSizes(CardPart):
    """`Inputs`, as it is written."""

    numbers: tuple[str, ...]
    categories: tuple[int, ...]
    image: tuple[int, int, int] | None


class Architecture(CardPart):
    """model: the settings, with `kind`. package: that brings the kind; null for Unisono's own."""

    model: dict[str, Any]
    inputs: InputSizes
    outputs: int = Field(ge=1)
    parameters: int = Field(ge=1)
    package: Package | None


class NetworkCard(ModelCard):
    """``model.json`` of a network."""

    FORMAT: ClassVar[str] = "unisono-network-1"

    format: Literal["unisono-network-1"] = "unisono-network-1"
    task: AnyTask
    architecture: Architecture
    preprocessing: Preprocessing

    @model_validator(mode="after")
    def _fits(self) -> NetworkCard:
        """The preprocessing is of the declared features, and the architecture takes what it gives."""
        p, of = self.preprocessing, self.variables
        for number in p.numbers:
            variable = of.get(number.name)
            fits = isinstance(variable, NumberVariable) and (variable.unit, variable.min, variable.max) == (
                number.unit,
                number.min,
                number.max,
            )
            _need(fits, f"preprocessing.numbers.{number.name}")
        for name in p.booleans:
            _need(isinstance(of.get(name), BooleanVariable), f"preprocessing.booleans.{name}")
        for category in p.categories:
            declared = of.get(category.name)
            fits = isinstance(declared, CategoryVariable) and tuple(declared.levels) == category.levels
            _need(fits and set(category.other) <= set(category.levels), f"preprocessing.categories.{category.name}")
        picture = of.get(p.image) if p.image else None
        _need(p.image is None or isinstance(picture, ImageVariable), "preprocessing.image")
        names = (
            *(n.name for n in p.numbers),
            *p.booleans,
            *(c.name for c in p.categories),
            *([p.image] if p.image else []),
        )
        _need(sorted(names) == sorted(self.features), "features")
        inputs = InputSizes(
            numbers=(*(n.name for n in p.numbers), *p.booleans),
            categories=tuple(len(c.levels) + 1 for c in p.categories),
            image=picture.shape if isinstance(picture, ImageVariable) else None,
        )
        _need(self.architecture.inputs == inputs, "architecture.inputs")
        _need(self.architecture.outputs == self.task.outputs, "architecture.outputs")
        return self

    def prepared(self) -> Prepared:
        """The preprocessing, as it was in training."""
        p, study = self.preprocessing, self.study()
        columns = Columns(
            study=study,
            numbers=tuple(n.name for n in p.numbers),
            booleans=p.booleans,
            categories=tuple(c.name for c in p.categories),
            image=p.image,
            outcome=None,
            classes=(),
            target=None,
        )
        scales = {n.name: (n.centre, n.scale) for n in p.numbers}
        kept = {c.name: np.array([level not in c.other for level in c.levels], np.bool_) for c in p.categories}
        return Prepared(columns, scales, kept, np.zeros(0))


def _need(fits: bool, place: str) -> None:
    if not fits:
        raise ValueError(f"{place} does not fit the rest")


def write(
    study: Study,
    analysis: str,
    facts: Facts,
    *,
    module: Any,
    model: ModelSpec,
    inputs: Inputs,
    task: Task,
    prepared: Prepared,
    rounds: int,
    sites: tuple[str, ...],
) -> dict[str, bytes]:
    """The two files of a network, by name.

    module: with the weights to be written. model: the settings it was built from. prepared: the preprocessing. rounds: after
    which of them these are the weights. sites: whose patients they were learnt from (of a personal model: that site alone).
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in module.state_dict().items()}
    for name, tensor in tensors.items():
        if name.endswith(".num_batches_tracked"):  # nothing depends on it, and it differs between machines
            tensors[name] = tensor.new_zeros(())
    content = save(tensors)
    preprocessing = Preprocessing.model_validate_json(_json(prepared.to_json()))
    features = tuple(
        n
        for n in (
            *(x.name for x in preprocessing.numbers),
            *preprocessing.booleans,
            *(c.name for c in preprocessing.categories),
            preprocessing.image,
        )
        if n is not None
    )
    card = NetworkCard(
        **described(study, analysis, features, facts, rounds=rounds, sites=sites),
        task=cast(AnyTask, task),  # validated here
        architecture=Architecture(
            model=model.model_dump(mode="json"),
            inputs=InputSizes(numbers=inputs.numbers, categories=inputs.categories, image=inputs.image),
            outputs=task.outputs,
            parameters=sum(tensor.numel() for name, tensor in tensors.items() if tensor.is_floating_point()),
            package=installed().get(model.kind),
        ),
        preprocessing=preprocessing,
        files={TENSORS: digest(content)},
    )
    return {TENSORS: content, CARD: card.to_bytes()}


def _json(value: Any) -> str:
    import json

    return json.dumps(value, allow_nan=False)


class NetworkModel(Model):
    """A network that was read. module: in evaluation mode. prepared: its preprocessing."""

    def __init__(self, card: NetworkCard, module: Any) -> None:
        self.card: NetworkCard = card
        self.module = module.eval()
        self.prepared = card.prepared()

    def columns(self) -> tuple[str, ...]:
        return self.card.task.columns()

    def outputs(self, table: Table) -> NDArray[np.float32]:
        """(n, outputs) of the network."""
        import torch

        image = None if self.prepared.columns.image is None else table.images[self.prepared.columns.image]
        numbers, categories = self.prepared.numbers(table), self.prepared.categories(table)
        found = [np.zeros((0, self.card.architecture.outputs), np.float32)]
        with torch.inference_mode():
            for start in range(0, table.n, _ROWS):
                rows = slice(start, start + _ROWS)
                picture = None if image is None else torch.from_numpy(np.array(image[rows], np.float32))
                batch = Batch(torch.from_numpy(numbers[rows]), torch.from_numpy(categories[rows]), picture)
                found.append(self.module(batch).numpy())
        return np.concatenate(found)

    def predict(self, table: Table) -> NDArray[np.float64]:
        return self.card.task.table(self.card.task.predict(self.outputs(table)))


def read(files: Mapping[str, bytes]) -> NetworkModel:
    """The network in these files. `StorageError` (``model-file``) if they are not as they were written, or do not belong together;
    `MissingExtra` without PyTorch; `StudyError` if the kind of model is not installed here, or by another package."""
    need_torch()
    from safetensors import SafetensorError
    from safetensors.torch import load

    if CARD not in files:
        raise not_a_model("is missing", "Keep the files of a model together in one folder.")
    card = read_card(NetworkCard, files[CARD])
    content = checked_file(card, files, TENSORS)
    module = _built(card)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise not_a_model(f"comes with a {TENSORS} that cannot be read") from error
    expected = module.state_dict()
    wrong = sorted(set(tensors) ^ set(expected)) or [
        name
        for name, tensor in tensors.items()
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype
    ]
    if wrong:
        raise not_a_model(f"does not fit its tensors: {', '.join(wrong[:3])}")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise not_a_model("comes with tensors that are not finite")
    module.load_state_dict(tensors)
    return NetworkModel(card, module)


def _built(card: NetworkCard) -> Any:
    """The network, with first weights."""
    from unisono.methods.training.models.initialise import network

    a = card.architecture
    kind = str(a.model.get("kind"))
    here = installed().get(kind)
    if a.package != here and (a.package is not None or here is not None):
        raise not_a_model(
            f"needs the model {kind!r} of {_said(a.package)}; here it is of {_said(here)}",
            "Install the package that the model was trained with: unisono site install, or pip.",
        )
    inputs = Inputs(a.inputs.numbers, a.inputs.categories, a.inputs.image)
    try:
        return network(model_spec(a.model), inputs, a.outputs, 0)
    except (ValidationError, UnisonoError) as error:
        if isinstance(error, UnisonoError) and error.rule in ("known-models", "missing-extra"):
            raise
        raise not_a_model("describes no network that can be built, at: architecture.model") from error


def _said(package: Package | None) -> str:
    return f"the package {package.name!r} {package.said()}" if package else "no package"
