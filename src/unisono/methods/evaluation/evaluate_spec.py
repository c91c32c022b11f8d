"""What an `evaluate` analysis says: which score or prediction in the hospitals' data is held against which outcome."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from unisono.errors import StudyError
from unisono.methods.base import Spec
from unisono.methods.design import unknown_variable
from unisono.methods.evaluation.survival import MOST_CELLS
from unisono.methods.survival.follow_up import Axis, SurvivalSpec
from unisono.study.document import BooleanVariable, CategoryVariable, Grid, Name, NumberVariable, Study, Variable
from unisono.study.grid import grid_of
from unisono.study.problems import Path, Problem

Kind = Literal["binary", "multiclass", "number", "survival"]


class SurvivalAt(BaseModel):
    """A variable that holds the predicted probability of no event by the time `at` (in the unit of `time`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: float
    variable: Name


class EvaluateSpec(Spec):
    """``{outcome: died30, score: risk_score}``: a boolean against a number; a probability if it is declared from 0 to 1.
    ``{outcome: stage, predicted: stage_by_model}``: a category against a category of the same levels, a boolean against a
    boolean, a number against a number. ``{time: months, event: died, score: risk, survival: [{at: 12, variable: s12}]}``:
    follow-up against a risk (higher: earlier), and perhaps against predicted survival.

    threshold: of the confusion matrix (0.5 for a probability). bins: of the score's histogram (1000; 100 or fewer of a risk)."""

    outcome: Name | None = None
    time: Name | None = None
    event: Name | None = None
    grid: Grid | None = None
    score: Name | None = None
    predicted: Name | None = None
    survival: list[SurvivalAt] = Field(default_factory=list, max_length=50)
    threshold: float | None = None
    bins: int | None = Field(default=None, ge=10, le=10_000)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)

    @property
    def timed(self) -> bool:
        """Whether the outcome is follow-up."""
        return self.time is not None or self.event is not None

    @property
    def follow_up(self) -> SurvivalSpec:
        """Time and event as every survival analysis says them."""
        assert self.time is not None and self.event is not None
        return SurvivalSpec(time=self.time, event=self.event, grid=self.grid, at=[s.at for s in self.survival])

    def kind(self, study: Study) -> Kind:
        """Of a spec without problems."""
        if self.timed:
            return "survival"
        if self.score is not None:
            return "binary"
        return "number" if isinstance(study.variables[str(self.outcome)], NumberVariable) else "multiclass"

    def problems(self, study: Study) -> list[Problem]:
        """What is missing, of the wrong type, or said for another kind of outcome."""
        if self.timed:
            return self._survival_problems(study)
        found = [
            Problem(
                (key,), f"{key!r} is only for follow-up (time and event).", "evaluation-keys", f"Leave out {key!r}."
            )
            for key in ("grid", "survival")
            if getattr(self, key)
        ]
        if self.outcome is None:
            remedy = "Name an 'outcome', or 'time' and 'event'."
            return [*found, Problem((), "There is nothing to hold a score against.", "evaluation-outcome", remedy)]
        if (self.score is None) == (self.predicted is None):
            remedy = "Name a 'score' (a number, against a boolean) or 'predicted' (of the type of the outcome)."
            return [*found, Problem((), "One of 'score' and 'predicted' is needed.", "evaluation-score", remedy)]
        if self.outcome not in study.variables:
            return [*found, unknown_variable(("outcome",), self.outcome, study)]
        return found + (self._score_problems(study) if self.score else self._predicted_problems(study))

    def _score_problems(self, study: Study) -> list[Problem]:
        assert self.outcome is not None and self.score is not None
        found = _number(study, ("score",), self.score)
        if not isinstance(study.variables[self.outcome], BooleanVariable):
            what = f"The outcome {self.outcome!r} of a score is not a boolean."
            remedy = "Declare it as 'type: boolean', or hold it against 'predicted', a variable of its own type."
            found.append(Problem(("outcome",), what, "variable-type", remedy))
        return found + self._threshold_problems(study.variables.get(self.score))

    def _threshold_problems(self, score: Variable | None) -> list[Problem]:
        if self.threshold is None or not isinstance(score, NumberVariable) or score.min < self.threshold < score.max:
            return []
        what = f"The threshold {self.threshold:g} is not between the bounds of {self.score!r}."
        remedy = f"Choose one between {score.min:g} and {score.max:g}."
        return [Problem(("threshold",), what, "threshold", remedy)]

    def _predicted_problems(self, study: Study) -> list[Problem]:
        assert self.outcome is not None and self.predicted is not None
        found: list[Problem] = []
        if self.threshold is not None:
            what, remedy = "A threshold is for a 'score'.", "Leave out 'threshold'."
            found.append(Problem(("threshold",), what, "evaluation-keys", remedy))
        if self.predicted not in study.variables:
            return [*found, unknown_variable(("predicted",), self.predicted, study)]
        truth, guess = study.variables[self.outcome], study.variables[self.predicted]
        if isinstance(truth, CategoryVariable) and isinstance(guess, CategoryVariable):
            if truth.levels != guess.levels:
                what = f"{self.predicted!r} and {self.outcome!r} have different levels."
                remedy = "Declare the same levels, in the same order, for both."
                found.append(Problem(("predicted",), what, "same-levels", remedy))
        elif not any(isinstance(truth, t) and isinstance(guess, t) for t in (NumberVariable, BooleanVariable)):
            what = f"{self.predicted!r} cannot be held against {self.outcome!r}: they are of different types."
            remedy = "Both are numbers, both booleans, or both categories; a number against a boolean is a 'score'."
            found.append(Problem(("predicted",), what, "variable-type", remedy))
        return found

    def _survival_problems(self, study: Study) -> list[Problem]:
        found = [
            Problem((key,), f"{key!r} does not go with follow-up.", "evaluation-keys", f"Leave out {key!r}.")
            for key in ("outcome", "predicted", "threshold")
            if getattr(self, key) is not None
        ]
        for key in ("time", "event", "score"):
            if getattr(self, key) is None:
                what, remedy = f"Follow-up needs {key!r}.", "Name 'time', 'event' and 'score'."
                found.append(Problem((key,), what, "evaluation-keys", remedy))
        if self.score is not None:
            found += _number(study, ("score",), self.score)
        for i, predicted in enumerate(self.survival):
            found += _probability(study, ("survival", i, "variable"), predicted.variable)
        if self.time is None or self.event is None:
            return found
        for problem in self.follow_up.problems(study):
            path = ("survival", problem.path[1], "at") if problem.path[0] == "at" else problem.path
            found.append(Problem(path, problem.what, problem.rule, problem.remedy))
        return found or self._grid_problems(study)

    def _grid_problems(self, study: Study) -> list[Problem]:
        """Evaluation times that fall on one grid time or are not in order; more bins than the grid has room for."""
        try:
            name = next(name for name, a in study.analyses.items() if a.parameters.get("time") == self.time)
            rule = grid_of(study, name)
        except StudyError:
            return []  # the grid's own problem is reported where it is
        found: list[Problem] = []
        if self.bins is not None and 2 * (rule.points + 1) * self.bins > MOST_CELLS:
            what = f"A grid of {rule.points} times and {self.bins} bins of the risk make too large a histogram."
            found.append(Problem(("bins",), what, "histogram-size", "Leave out 'bins', or declare a coarser grid."))
        places = [int(predicted.at / rule.step + 1e-9) for predicted in self.survival]
        return found + [
            Problem(
                ("survival", i, "at"),
                f"The time {self.survival[i].at:g} is not after the one before it on the grid.",
                "increasing-times",
                "Give the times in order, a step of the grid apart at least.",
            )
            for i in range(1, len(places))
            if places[i] <= places[i - 1]
        ]


def axis(study: Study, analysis: str, spec: EvaluateSpec) -> Axis:
    """The grid of a follow-up."""
    return Axis.of(study, analysis, spec.follow_up)


def is_probability(study: Study, name: str) -> bool:
    """Declared from 0 to 1."""
    variable = study.variables[name]
    return isinstance(variable, NumberVariable) and variable.min >= 0 and variable.max <= 1


def _number(study: Study, path: Path, name: str) -> list[Problem]:
    if name not in study.variables:
        return [unknown_variable(path, name, study)]
    if isinstance(study.variables[name], NumberVariable):
        return []
    remedy = "Declare it as 'type: number' with its bounds, or hold it against 'predicted'."
    return [Problem(path, f"The score {name!r} is not a number.", "variable-type", remedy)]


def _probability(study: Study, path: Path, name: str) -> list[Problem]:
    if name not in study.variables:
        return [unknown_variable(path, name, study)]
    if is_probability(study, name):
        return []
    what = f"The predicted survival {name!r} is not declared as a number from 0 to 1."
    return [Problem(path, what, "probabilities", "Declare it as '{type: number, min: 0, max: 1}'.")]
