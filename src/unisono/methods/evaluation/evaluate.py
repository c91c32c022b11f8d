"""How good is a score that the hospitals already have? It is held against an outcome, over all patients, in one sum.

Discrimination, calibration and errors are read from histograms and sums (docs/methods/evaluation.md). Each hospital gets the
same of its own patients, in its own folder alone; nobody else sees it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError
from unisono.federation.contribution import Declaration, Facts, contribution, receipt
from unisono.methods.base import Method, PlannedAsk
from unisono.methods.evaluation.base import Evaluation
from unisono.methods.evaluation.evaluate_result import EvaluateResult
from unisono.methods.evaluation.evaluate_spec import EvaluateSpec, axis, is_probability
from unisono.methods.evaluation.kinds import evaluation
from unisono.methods.registry import method
from unisono.study.document import CategoryVariable, NumberVariable, Study
from unisono.study.table import Table

if TYPE_CHECKING:
    from unisono.federation.federation import Federation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """One site's patients: what was predicted and what happened, (n, ...) each, as the evaluation's kind reads them."""

    predicted: Array
    target: Array


@method("evaluate", version=1, spec=EvaluateSpec)
class Evaluate(Method[EvaluateSpec]):
    """An existing score or prediction against an outcome."""

    pooled = "exact"

    def __init__(self, study: Study, analysis: str, spec: EvaluateSpec) -> None:
        super().__init__(study, analysis, spec)
        self.kind = spec.kind(study)
        self.axis = axis(study, analysis, spec) if spec.timed else None
        self.evaluation = self._evaluation(study.release.min_count)

    def _evaluation(self, min_count: int) -> Evaluation:
        spec, study = self.spec, self.study
        common: dict[str, Any] = {"confidence": spec.confidence, "min_count": min_count}
        finer = {} if spec.bins is None else {"bins": spec.bins}
        if self.axis is not None:
            times = tuple(self.axis.position(predicted.at) for predicted in spec.survival)
            grid = {"points": self.axis.length, "times": times, "step": self.axis.step}
            return evaluation("survival", bounds=self._bounds(spec.score), **grid, **finer, **common)
        if self.kind == "binary":
            if is_probability(study, str(spec.score)):
                threshold = 0.5 if spec.threshold is None else spec.threshold
                return evaluation("binary", threshold=threshold, **finer, **common)
            bounds = self._bounds(spec.score)
            return evaluation("binary", bounds=bounds, threshold=spec.threshold, **finer, **common)
        if self.kind == "number":
            low, high = self._bounds(spec.outcome)
            return evaluation("number", low=low, high=high, **common)
        variable = study.variables[str(spec.outcome)]
        classes = tuple(variable.levels) if isinstance(variable, CategoryVariable) else ("no", "yes")
        return evaluation("multiclass", classes=classes, probability=False, **common)

    def _bounds(self, name: str | None) -> tuple[float, float]:
        variable = self.study.variables[str(name)]
        assert isinstance(variable, NumberVariable)
        return variable.min, variable.max

    def variables(self) -> tuple[str, ...]:
        spec = self.spec
        names = (spec.outcome, spec.time, spec.event, spec.score, spec.predicted, *(s.variable for s in spec.survival))
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def prepare(self, table: Table) -> Scored:
        spec = self.spec
        if self.axis is None:
            return Scored(table[str(spec.score or spec.predicted)], table[str(spec.outcome)])
        predicted = [table[str(spec.score)], *(table[s.variable] for s in spec.survival)]
        followed = [self.axis.exits(table).astype(np.float64), self.axis.events(table).astype(np.float64)]
        return Scored(np.column_stack(predicted), np.column_stack(followed))

    # -- what leaves a site -------------------------------------------------------------------------------------------

    @contribution
    def tallies(self, data: Scored) -> dict[str, NDArray[Any]]:
        """Counts of patients by bin of the score and outcome, and sums of losses: what the metrics are read from."""
        return self.evaluation.part(data.predicted, data.target)

    @tallies.declares
    def _(self, facts: Facts) -> Declaration:
        return Declaration(self.evaluation.leaves(facts.patients))

    @receipt
    def own_metrics(self, data: Scored) -> dict[str, Any]:
        """For the site's own folder: the same metrics of its own patients, with every cell shown."""
        alone = self._evaluation(min_count=1)
        return alone.metrics(alone.part(data.predicted, data.target))

    def plan(self) -> tuple[PlannedAsk, ...]:
        return (PlannedAsk(self.tallies, (), 1),)

    # -- what the coordinator does with the sum -----------------------------------------------------------------------

    async def run(self, federation: Federation) -> EvaluateResult:
        """One sum; then each hospital is told to look at its own. `MethodError` if hospitals left cells out."""
        total = await federation.sum(self.tallies)
        self._complete(total, federation.facts.patients)
        found = self.evaluation.metrics(total)
        await federation.tell(self.own_metrics)
        return EvaluateResult(self.study, self.analysis, {**self._about(), **found}, True, self._notes(found))

    def _complete(self, total: dict[str, NDArray[Any]], patients: int) -> None:
        """Unless the sums hold everybody (each kind's counts of patients add up to them)."""
        leaves = ("with_outcome", "without_outcome", "matrix", "patients", "n")
        counted = round(sum(float(np.sum(total[name])) for name in leaves if name in total))
        if counted != patients:
            raise MethodError(
                "The sums do not hold all patients of the cohort: hospitals left out small cells, because nothing hid them.",
                rule="complete-histograms",
                remedy="Set `protection: {hide: secagg}`: a hospital's cells then enter whole, since nobody sees them.",
            )

    def _about(self) -> dict[str, Any]:
        spec = self.spec
        about: dict[str, Any] = {
            "kind": self.kind,
            "outcome": spec.event if self.axis is not None else spec.outcome,
            "predicted": spec.score or spec.predicted,
            "confidence": spec.confidence,
            "min_count": self.study.release.min_count,
        }
        if self.axis is not None:
            about["time"] = {"variable": self.axis.time, "unit": self.axis.unit, "step": self.axis.step}
        return about

    def _notes(self, found: dict[str, Any]) -> tuple[str, ...]:
        least, notes = self.study.release.min_count, []
        if self.kind in ("binary", "survival") and found["events"] is None:
            notes.append(f"Not shown, because fewer than {least} patients had the outcome, or did not: their number.")
        if self.kind == "binary" and found["auroc"]["value"] is None:
            notes.append("Discrimination is not shown: it would be of the few patients on one side.")
        confusion = found.get("confusion") or {}
        if confusion.get("true_positive", 0) is None:
            notes.append(f"The confusion matrix is not shown, because a cell of it has fewer than {least} patients.")
        if any(cell is None for row in confusion.get("matrix", []) for cell in row):
            notes.append(f"Cells of fewer than {least} patients are not shown, nor those that would give one away.")
        scores = found.get("brier") if self.kind == "survival" else None
        unshown = [f"{at['time']:g}" for at in scores or [] if at["value"] is None]
        if unshown:
            notes.append(
                f"No Brier score at {', '.join(unshown)}: fewer than {least} patients were still followed then."
            )
        return tuple(notes)

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> EvaluateResult:
        """Rebuilt from stored estimates."""
        return EvaluateResult(study, analysis, estimates, **rest)
