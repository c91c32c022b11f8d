"""What a study says of a training: outcome and features, model, local work, rounds, preprocessing, validation, seed.

One spec for all federated optimisers; each adds its own few settings in its own file. Every setting is checked against the
study before anything is asked of a site.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unisono.errors import UnisonoError
from unisono.methods.base import Spec
from unisono.methods.design import unknown_variable
from unisono.methods.training.models.registry import need_torch
from unisono.study.document import BooleanVariable, CategoryVariable, Grid, ImageVariable, Name, NumberVariable, Study
from unisono.study.problems import Path, Problem, Unfit
from unisono.study.units import duration

TaskName = Literal["binary", "multiclass", "number", "cox", "hazard"]
SURVIVAL = ("cox", "hazard")
CLASSES = ("binary", "multiclass")


class Part(BaseModel):
    """A group of settings: frozen, unknown keys are errors, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Schedule(Part):
    """How the learning rate changes over the rounds: not at all; along half a cosine from `rate` to ``least * rate``
    (Loshchilov & Hutter 2017); or times `factor` after `every` so many rounds."""

    kind: Literal["constant", "cosine", "step"] = "constant"
    least: float = Field(default=0.0, ge=0, le=1)
    every: int = Field(default=10, ge=1)
    factor: float = Field(default=0.5, gt=0, le=1)

    def of(self, round_: int, most: int) -> float:
        """What the rate is multiplied by in round `round_` (from 1) of `most`."""
        if self.kind == "cosine":
            done = (round_ - 1) / max(most - 1, 1)
            return self.least + (1 - self.least) * 0.5 * (1 + math.cos(math.pi * done))
        return self.factor ** ((round_ - 1) // self.every) if self.kind == "step" else 1.0


class Local(Part):
    """What a site does in a round. One of `epochs`, `steps`, `seconds` (default: one epoch); with seconds a slow site does
    fewer steps in the same time, and two runs differ. batch: patients in a step, ``all`` for the whole site. clip: of the
    gradient's Euclidean norm. mixed_precision: half precision where the site has a GPU, and nowhere else. threads: of the
    processor, for a step; the last bits of a sum depend on their number, so the study says it."""

    epochs: int | None = Field(default=None, ge=1, le=1000)
    steps: int | None = Field(default=None, ge=1, le=1_000_000)
    seconds: float | None = Field(default=None, gt=0, le=86_400)
    batch: int | Literal["all"] = 32
    optimiser: Literal["sgd", "adam"] = "sgd"
    rate: float = Field(default=0.05, gt=0, le=100)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    clip: float | None = Field(default=None, gt=0)
    schedule: Schedule = Schedule()
    class_weights: Literal["none", "balanced"] = "none"
    mixed_precision: bool = False
    threads: int = Field(default=1, ge=1, le=256)

    @model_validator(mode="before")
    @classmethod
    def _one_epoch(cls, written: Any) -> Any:
        if isinstance(written, dict) and not {"epochs", "steps", "seconds"} & set(written):
            return {**written, "epochs": 1}
        return written

    @model_validator(mode="after")
    def _one_budget(self) -> Local:
        if sum(budget is not None for budget in (self.epochs, self.steps, self.seconds)) != 1:
            raise Unfit(
                "how much a site does in a round is said more than once, or not at all",
                "Give one of `epochs`, `steps` and `seconds`; without any, it is `epochs: 1`.",
            )
        if isinstance(self.batch, int) and self.batch < 1:
            raise Unfit("a batch holds one patient at least", "Write a whole number from 1 on, or `batch: all`.")
        if self.optimiser == "adam" and self.momentum:
            raise Unfit(
                "adam has its own momentum (0.9)", "Remove `momentum`, or write `optimiser: sgd`, which it belongs to."
            )
        return self


class Rounds(Part):
    """most: rounds. deadline: how long a round waits for a site (None: as the study says). snapshot: every so many rounds the
    state is written down, and earlier sums are forgotten."""

    most: int = Field(default=30, ge=1, le=10_000)
    deadline: str | None = None
    snapshot: int = Field(default=5, ge=1)


class Preprocess(Part):
    """numbers: ``standardise`` (mean 0 and variance 1 over all sites' training patients) or ``declared`` ([-1, 1] on the
    declared range)."""

    numbers: Literal["standardise", "declared"] = "standardise"


class Validate(Part):
    """fraction: of each site's patients that are kept from training, drawn from the study's seed. every: so many rounds the
    model is validated. patience: validations without an improvement after which training stops (None: never)."""

    fraction: float = Field(default=0.2, ge=0, le=0.9)
    every: int = Field(default=1, ge=1)
    patience: int | None = Field(default=None, ge=1)
    metric: Literal["loss", "accuracy"] = "loss"


class TrainingSpec(Spec):
    """``{method: fedavg, outcome: malignant, features: [age, size], model: {kind: mlp, hidden: [32]}, local: {epochs: 1},
    rounds: {most: 30}}``; survival: ``time`` and ``event`` with ``task: cox`` or ``hazard`` instead of an outcome.

    update_bound: what a parameter may change by in a round; more is clipped, and counted. grid: of the time, as in every
    survival analysis. ties: of events, for ``cox``. intervals: of time, at most, for ``hazard``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    outcome: Name | None = None
    time: Name | None = None
    event: Name | None = None
    task: TaskName | None = None
    grid: Grid | None = None
    ties: Literal["efron", "breslow"] = "efron"
    intervals: int = Field(default=20, ge=1, le=1000)
    features: list[Name] = Field(min_length=1)
    model: dict[str, Any]
    local: Local = Field(default_factory=lambda: Local(epochs=1))
    rounds: Rounds = Rounds()
    preprocess: Preprocess = Preprocess()
    validation: Validate = Field(default=Validate(), alias="validate")
    update_bound: float = Field(default=1.0, gt=0, le=1e6)
    seed: int = Field(default=0, ge=0, lt=2**53)

    def problems(self, study: Study) -> list[Problem]:
        need_torch()
        found = [*self._outcome_problems(study), *self._feature_problems(study), *self._setting_problems(study)]
        return found or self._model_problems(study)

    def task_of(self, study: Study) -> TaskName:
        """The task: as said, or as the outcome's type says."""
        if self.task is not None:
            return self.task
        variable = study.variables[self.outcome or ""]
        if isinstance(variable, NumberVariable):
            return "number"
        return "binary" if isinstance(variable, BooleanVariable) else "multiclass"

    def outcomes(self) -> tuple[str, ...]:
        """The variables that are predicted."""
        return tuple(name for name in (self.outcome, self.time, self.event) if name is not None)

    # -- what does not fit the study ----------------------------------------------------------------------------------

    def _outcome_problems(self, study: Study) -> list[Problem]:
        survival = self.task in SURVIVAL
        wanted = ("time", "event") if survival else ("outcome",)
        found = [
            Problem((), f"The key {key!r} is missing.", "required-keys", f"Add {key!r}.")
            for key in wanted
            if getattr(self, key) is None
        ]
        for key in ("outcome", "time", "event"):
            name = getattr(self, key)
            if name is None:
                continue
            if key not in wanted:
                remedy = "Add `task: cox` or `task: hazard`." if key != "outcome" else f"Remove {key!r}."
                found.append(Problem((key,), f"{key!r} does not go with this task.", "task", remedy))
            elif name not in study.variables:
                found.append(unknown_variable((key,), name, study))
            else:
                found += self._type_problems(key, name, study)
        return found

    def _type_problems(self, key: str, name: str, study: Study) -> list[Problem]:
        variable, expected = study.variables[name], {"time": NumberVariable, "event": BooleanVariable}.get(key)
        if isinstance(variable, ImageVariable):
            remedy = "Name a boolean, a category or a number as the outcome, and the image among the features."
            return [Problem((key,), f"{name!r} is an image, which no network predicts.", "variable-type", remedy)]
        if key == "outcome" and self.task is not None:
            kinds = {"binary": BooleanVariable, "multiclass": CategoryVariable, "number": NumberVariable}
            expected = kinds[self.task]
        if expected is not None and not isinstance(variable, expected):
            words = {NumberVariable: "a number", BooleanVariable: "a boolean", CategoryVariable: "a category"}
            what = f"{name!r} is not {words[expected]}, as {key} of this task."
            return [Problem((key,), what, "variable-type", f"Name {words[expected]}, or another `task`.")]
        return []

    def _feature_problems(self, study: Study) -> list[Problem]:
        found: list[Problem] = []
        images = []
        for i, name in enumerate(self.features):
            here: Path = ("features", i)
            variable = study.variables.get(name)
            if variable is None:
                found.append(unknown_variable(here, name, study))
            elif name in self.features[:i]:
                found.append(Problem(here, f"{name!r} is there twice.", "distinct-variables", "Remove one."))
            elif name in self.outcomes():
                what = f"{name!r} is part of the outcome and a feature."
                found.append(Problem(here, what, "variable-twice", "Remove it from the features."))
            elif isinstance(variable, ImageVariable):
                images.append(here)
        found += [Problem(at, "A model takes one image.", "one-image", "Remove the others.") for at in images[1:]]
        return found

    def _setting_problems(self, study: Study) -> list[Problem]:
        found: list[Problem] = []
        if self.rounds.deadline is not None:
            try:
                duration(self.rounds.deadline)
            except UnisonoError as error:
                found.append(Problem(("rounds", "deadline"), error.what, error.rule, error.remedy))
        known = not self._outcome_problems(study)
        classes = known and self.task_of(study) in CLASSES
        if known and not classes and self.local.class_weights == "balanced":
            what = "Class weights are for an outcome with classes."
            found.append(Problem(("local", "class_weights"), what, "class-weights", "Remove `class_weights`."))
        if known and not classes and self.validation.metric == "accuracy":
            what = "Accuracy is for an outcome with classes."
            found.append(Problem(("validate", "metric"), what, "validation-metric", "Write `metric: loss`."))
        if self.validation.fraction == 0 and self.validation.patience is not None:
            what = "There are no validation patients to stop early by."
            remedy = "Give `fraction` above 0, or remove `patience`."
            found.append(Problem(("validate", "patience"), what, "validation-patients", remedy))
        return found

    def _model_problems(self, study: Study) -> list[Problem]:
        """Of the model's own spec, and of its fit to these features."""
        from unisono.methods.training.network import model_problems

        return model_problems(self, study)
