"""What a study says about boosting: outcome and features, the trees, sampling, validation; and what does not fit the study."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unisono.methods.base import Spec
from unisono.methods.design import unknown_variable
from unisono.methods.survival.follow_up import SurvivalSpec
from unisono.study.document import BooleanVariable, CategoryVariable, Grid, Name, NumberVariable, Study
from unisono.study.problems import Problem

ObjectiveName = Literal["logistic", "squared-error", "poisson", "cox"]


class Sampling(BaseModel):
    """rows: share of the patients that each tree is grown on. columns: share of the features that each tree may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    columns: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)


class Validation(BaseModel):
    """fraction: of the patients that are held out of training, in every hospital. patience: trees without a better loss on
    them, after which no more are grown and those after the best are dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fraction: float = Field(default=0.2, gt=0, lt=1, allow_inf_nan=False)
    patience: int = Field(default=20, ge=1)


class BoostingSpec(Spec):
    """What every kind of boosting is told. Names, meanings and scales are those of XGBoost, so that settings can be moved.

    objective: ``logistic`` (a boolean), ``squared-error`` (a number), ``poisson`` (a number of events), ``cox`` (time and event,
    perhaps entry; right-censored). trees: how many at most. depth: of each. rate: the learning rate (eta). lambda: L2 penalty on
    leaf values. gamma: least gain of a split. min_child_weight: least sum of hessians in a leaf. bins: values of a feature that
    splits can tell apart, at most. seed: of held-out patients and samples.
    """

    outcome: Name | None = None
    time: Name | None = None
    event: Name | None = None
    entry: Name | None = None
    grid: Grid | None = None
    objective: ObjectiveName
    features: list[Name] = Field(min_length=1)
    trees: int = Field(default=100, ge=1, le=5000)
    depth: int = Field(default=6, ge=1, le=10)
    rate: float = Field(default=0.1, gt=0, le=1, allow_inf_nan=False)
    reg_lambda: float = Field(default=1.0, ge=0, le=1e6, alias="lambda", allow_inf_nan=False)
    gamma: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    min_child_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    bins: int = Field(default=64, ge=2, le=256)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @property
    def survival(self) -> SurvivalSpec | None:
        """The time axis of the cox objective."""
        if self.objective != "cox" or self.time is None or self.event is None:
            return None
        return SurvivalSpec(time=self.time, event=self.event, entry=self.entry, grid=self.grid)

    def targets(self) -> tuple[str, ...]:
        """The variables of the outcome: a patient without one of them takes no part."""
        names = (self.outcome,) if self.objective != "cox" else (self.time, self.event, self.entry)
        return tuple(name for name in names if name is not None)

    def problems(self, study: Study) -> list[Problem]:
        found = self._outcome_problems(study)
        targets = self.targets()
        for i, name in enumerate(self.features):
            here = ("features", i)
            if name not in study.variables:
                found.append(unknown_variable(here, name, study))
            elif name in targets:
                what = f"{name!r} is the outcome, and so no feature."
                found.append(Problem(here, what, "outcome-as-feature", "Take it out of `features`."))
            elif name in self.features[:i]:
                found.append(Problem(here, f"{name!r} is there twice.", "distinct-features", "Remove one."))
            elif not isinstance(study.variables[name], NumberVariable | BooleanVariable | CategoryVariable):
                what = f"{name!r} is no number, boolean or category."
                found.append(
                    Problem(here, what, "feature-type", "Trees split tabular features; train a network on images.")
                )
        return found

    def _outcome_problems(self, study: Study) -> list[Problem]:
        survival = self.survival
        if self.objective == "cox":
            if survival is None:
                what = "The objective cox needs a `time` and an `event`."
                return [Problem(("objective",), what, "outcome", "Name the two variables, and a `grid`.")]
            if self.outcome is not None:
                return [Problem(("outcome",), "cox has no `outcome`.", "outcome", "Keep `time` and `event` alone.")]
            return survival.problems(study)
        if self.outcome is None or self.time is not None or self.event is not None or self.entry is not None:
            what = f"The objective {self.objective} needs an `outcome`, and no `time`, `event` or `entry`."
            return [Problem(("objective",), what, "outcome", "Name the outcome variable alone, or choose cox.")]
        if self.outcome not in study.variables:
            return [unknown_variable(("outcome",), self.outcome, study)]
        variable = study.variables[self.outcome]
        if self.objective == "logistic" and not isinstance(variable, BooleanVariable):
            what, remedy = f"{self.outcome!r} is not a boolean.", "Name a boolean, or choose another objective."
        elif self.objective != "logistic" and not isinstance(variable, NumberVariable):
            what, remedy = f"{self.outcome!r} is not a number.", "Name a number, or choose the objective logistic."
        elif self.objective == "poisson" and isinstance(variable, NumberVariable) and (variable.min < 0):
            what, remedy = f"{self.outcome!r} may be negative, a number of events may not.", "Declare `min: 0`."
        else:
            return []
        return [Problem(("outcome",), what, "variable-type", remedy)]


class HistSpec(BoostingSpec):
    """Boosting from summed histograms.

    edges: where splits may be: ``quantiles`` (about as many patients in each bin; from counts in `cells` equal cells of the
    declared range) or ``equal`` (equally wide bins). base_score: the prediction before any tree (default: the outcome's mean).
    """

    edges: Literal["quantiles", "equal"] = "quantiles"
    cells: int = Field(default=1024, ge=2, le=65536)
    base_score: float | None = Field(default=None, allow_inf_nan=False)
    subsample: Sampling = Sampling()
    validate_on: Validation | None = Field(default=None, alias="validate")

    def problems(self, study: Study) -> list[Problem]:
        found = super().problems(study)
        score = self.base_score
        bad = {
            "logistic": score is not None and not 0 < score < 1,
            "poisson": score is not None and score <= 0,
            "cox": score is not None,
            "squared-error": score is not None and not _within(study, self.outcome, score),
        }
        if bad.get(self.objective, False):
            what = f"{score:g} is no base score of {self.objective}."
            remedy = "A probability for logistic, a positive mean for poisson, a value within the declared range, none for cox."
            found.append(Problem(("base_score",), what, "base-score", remedy))
        return found


def _within(study: Study, name: str | None, value: float) -> bool:
    variable = study.variables.get(name or "")
    return not isinstance(variable, NumberVariable) or variable.min <= value <= variable.max


class HeldOut(BaseModel):
    """fraction: of the patients that are held out of training, in every hospital, to measure the model on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fraction: float = Field(default=0.2, gt=0, lt=1, allow_inf_nan=False)


class AtSitesSpec(BoostingSpec):
    """Boosting with XGBoost at the sites. trees: that each site grows (in one turn)."""

    validate_on: HeldOut | None = Field(default=None, alias="validate")

    def problems(self, study: Study) -> list[Problem]:
        found = super().problems(study)
        if self.entry is not None:
            what = "XGBoost's cox knows no delayed entry."
            found.append(
                Problem(("entry",), what, "delayed-entry", "Remove `entry`, or use hist-boosting, which does.")
            )
        return found


class BaggingSpec(AtSitesSpec):
    """weights: of the hospitals' models in the common one: by their numbers of ``patients``, or ``equal``."""

    weights: Literal["patients", "equal"] = "patients"


class CyclicSpec(AtSitesSpec):
    """trees: that a hospital adds when it is its turn. cycles: how often each has its turn."""

    trees: int = Field(default=2, ge=1, le=1000)
    cycles: int = Field(default=10, ge=1, le=500)
