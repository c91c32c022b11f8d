"""What bagging and cyclic boosting share: XGBoost at a site, on its own patients; and the common model measured by sums.

The hospitals' models are *seen one by one* by the coordinator (`federation.collect`): it must be allowed by each site's policy and
permit. A model of one hospital shows the thresholds and the mean gradients of groups of that hospital's patients. Before a model
leaves, leaves with fewer than the study's `min_count` of the site's patients are merged with their siblings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError, MissingExtra
from unisono.federation.contribution import Argument, Declaration, Facts, contribution, receipt, within
from unisono.methods.base import Method
from unisono.methods.boosting import portable
from unisono.methods.boosting.features import Single, features_of, matrix
from unisono.methods.boosting.measures import measure, target_of
from unisono.methods.boosting.model import FEATURE, LEFT, Limits, Model, read_model
from unisono.methods.boosting.model_file import write
from unisono.methods.boosting.objectives import (
    LARGEST,
    MAX_DELTA_STEP,
    Poisson,
    Scale,
    base_score,
    objective_of,
    outcome_of,
)
from unisono.methods.boosting.result import BoostingResult
from unisono.methods.boosting.rows import Mask, Patients
from unisono.methods.boosting.spec import AtSitesSpec
from unisono.methods.boosting.training import enough_held_out
from unisono.methods.model_card import digest
from unisono.methods.survival.follow_up import Axis
from unisono.protection.leaves import count, moment
from unisono.study.document import Study
from unisono.study.table import Table

if TYPE_CHECKING:
    from unisono.federation.federation import Federation

Vector = NDArray[np.float64]
Bytes = NDArray[np.uint8]
S = TypeVar("S", bound=AtSitesSpec)

_HELD_OUT = 1
_NODE_BYTES = 320
"""Of XGBoost's JSON, at most: nine numbers of a node."""
_FRAME_BYTES = 1 << 16
_SITE_BYTES, _COMMON_BYTES, _COMMON_TREES = 1 << 26, 1 << 28, 1 << 16
"""Of one hospital's model, and of the common one, whatever the study says."""


@dataclass(frozen=True)
class Totals:
    """patients: (2,) trained on, and held out. outcome: (), in whole quanta, over the former."""

    patients: Vector
    outcome: Vector


@dataclass(frozen=True)
class SiteModel:
    """model: XGBoost JSON as bytes (empty: too few patients). patients: that it was trained on."""

    model: Bytes
    patients: NDArray[np.int64]


class AtSites(Method[S], Generic[S]):
    """A method whose trees XGBoost grows at the sites."""

    kin: ClassVar[str] = "boosting"
    rows: ClassVar[Literal["all", "eligible", "cohort"]] = "eligible"  # missing features are learned from

    def __init__(self, study: Study, analysis: str, spec: S) -> None:
        super().__init__(study, analysis, spec)
        self.objective = objective_of(study, spec)
        survival = spec.survival
        self.axis = None if survival is None else Axis.of(study, analysis, survival)
        self.features = features_of(study, spec.features, 2)
        self.names = [feature.name for feature in self.features]
        self.fraction = 0.0 if spec.validate_on is None else spec.validate_on.fraction
        self.evaluation = measure(study, spec, self.axis, study.release.min_count)
        self.outcome_scale = Scale.of(max(self.objective.margin_bound, 1.0))

    def variables(self) -> tuple[str, ...]:
        """The outcome's and the features'."""
        return (*self.spec.targets(), *self.spec.features)

    def prepare(self, table: Table) -> Patients:
        """Patients with an outcome; features may be missing."""
        known = np.ones(table.n, np.bool_)
        for name in self.spec.targets():
            known &= ~np.isnan(table[name])
        table = table.rows(known)
        x, outcome = matrix(self.features, table), outcome_of(table, self.spec, self.axis)
        times = [] if outcome.exit is None else [outcome.exit.astype(np.float64)]
        key = portable.keys(x, np.stack([outcome.y, *times]))
        return Patients(x, outcome, key, ~portable.drawn(key, 1 - self.fraction, self.spec.seed, _HELD_OUT), known)

    def held_out(self, data: Patients) -> Mask:
        return data.held_out_rows

    @property
    def limits(self) -> Limits:
        """What one hospital's trees may be."""
        names = sum(len(name) + 16 for name in self.names)
        size = _FRAME_BYTES + names + self.spec.trees * 2 ** (self.spec.depth + 1) * _NODE_BYTES
        return Limits(min(size, _SITE_BYTES), self.spec.trees, self.spec.depth, 4 * self.objective.largest_step)

    # -- what leaves a hospital, as part of a sum ---------------------------------------------------------------------

    @contribution
    def totals(self, data: Patients) -> Totals:
        """How many patients, and the sum of their outcome: the prediction before any tree is common."""
        mine = data.outcome.y[~data.held_out]
        groups = np.array([len(mine), data.n - len(mine)], np.float64)
        return Totals(groups, np.asarray(self.outcome_scale.whole(mine).sum()))

    @totals.declares
    def _(self, facts: Facts) -> Declaration:
        n = float(max(facts.patients, 1))
        return Declaration(
            {
                "patients": count((2,), n, "Number of patients trained on, and held out."),
                "outcome": moment((), n * LARGEST, f"Sum of the outcome, in steps of {self.outcome_scale.quantum:g}."),
            }
        )

    @contribution
    def performance(self, data: Patients, model: Bytes) -> dict[str, NDArray[Any]]:
        """How good the common model's predictions are: of the patients held out, or of all where none are."""
        return self.evaluation.part(*self._judged(data, model))

    @performance.declares
    def _(self, facts: Facts, model: Bytes) -> Declaration:
        return Declaration(self.evaluation.leaves(max(facts.patients, 1)), {"model": self.a_model(model)})

    @receipt
    def site_sheet(self, data: Patients, model: Bytes) -> dict[str, Any]:
        """For the site's own folder: how good the model is for its own patients (those held out, or all where none are)."""
        predicted, target = self._judged(data, model)
        own = measure(self.study, self.spec, self.axis, 1)
        group = "held_out" if self.fraction else "trained"
        return {"patients": {group: len(target)}, "joint": own.metrics(own.part(predicted, target))}

    # -- at both ends --------------------------------------------------------------------------------------------------

    def a_model(self, model: Bytes) -> Argument:
        """The common model as an argument: bytes."""
        return within((min(len(model), _COMMON_BYTES),), 255.0)

    def common(self, model: Bytes) -> Model:
        """The common model, read strictly."""
        limits = replace(self.limits, size=_COMMON_BYTES, trees=_COMMON_TREES)
        return read_model(model.tobytes(), self.names, self.objective.xgboost, limits)

    def received(self, part: SiteModel, base: float) -> Model:
        """What one hospital sent, read strictly; its base score is the common one. `ProtocolError` if it is no such model."""
        model = read_model(part.model.tobytes(), self.names, self.objective.xgboost, self.limits)
        return replace(model, base_score=base)

    def file_of(self, model: Model) -> Bytes:
        """As XGBoost's JSON, in bytes."""
        return np.frombuffer(model.written(self.names, self.objective.xgboost), np.uint8)

    def _judged(self, data: Patients, model: Bytes) -> tuple[NDArray[Any], NDArray[Any]]:
        group = data.held_out if self.fraction else ~data.held_out
        common = self.common(model)
        score = common.scores(data.x[:, group], self.objective.margin(common.base_score))
        return target_of(self.objective, score, data.outcome, group)

    # -- at a site -----------------------------------------------------------------------------------------------------

    def grown(self, data: Patients, base: float, start: Model | None = None) -> SiteModel:
        """XGBoost's further trees after `start` on this site's patients, small leaves merged; empty for too few patients."""
        rows = ~data.held_out
        least, n = self.study.release.min_count, int(rows.sum())
        if n < 2 * least:
            return SiteModel(np.zeros(0, np.uint8), np.asarray(0))
        before = 0 if start is None else start.trees
        found = self._trained(data, rows, base, None if start is None else self.file_of(start).tobytes(), before)
        model = read_model(found, self.names, self.objective.xgboost, replace(self.limits, leaf=1e6, size=1 << 30))
        large = 4 * self.objective.largest_step
        held = replace(
            model,
            conditions=np.where(model.splits[:, FEATURE] < 0, model.conditions.clip(-large, large), model.conditions),
        )
        whole = replace(merge_small(held, data.x[:, rows], least), base_score=base)
        return SiteModel(self.file_of(whole), np.asarray(n))

    def _trained(self, data: Patients, rows: Mask, base: float, start: bytes | None, before: int) -> bytes:
        """The new trees alone, as XGBoost wrote them."""
        xgboost = _xgboost()
        y = data.outcome.y[rows]
        if data.outcome.exit is not None:
            at = np.maximum(data.outcome.exit[rows], 1e-3)  # XGBoost tells censored times by their sign
            y = np.where(y > 0, at, -at)
        spec = self.spec
        parameters = {
            "objective": self.objective.xgboost,
            "tree_method": "hist",
            "max_bin": spec.bins,
            "max_depth": spec.depth,
            "eta": spec.rate,
            "lambda": spec.reg_lambda,
            "gamma": spec.gamma,
            # So much hessian cannot come from fewer patients, where it is bounded (logistic, squared error).
            "min_child_weight": max(
                spec.min_child_weight, self.study.release.min_count * min(self.objective.hessian_bound, 1.0)
            ),
            "base_score": base,
            "seed": spec.seed,
            "nthread": 1,
        }
        if isinstance(self.objective, Poisson):
            parameters["max_delta_step"] = MAX_DELTA_STEP
        patients = xgboost.DMatrix(data.x[:, rows].T, y, feature_names=self.names)
        begun = None
        if start is not None and before:
            begun = xgboost.Booster()
            begun.load_model(bytearray(start))
        booster = xgboost.train(parameters, patients, spec.trees, xgb_model=begun)
        return bytes(booster[before:].save_raw("json"))

    # -- at the coordinator --------------------------------------------------------------------------------------------

    async def begun(self, federation: Federation) -> tuple[Totals, float]:
        """The totals, and the prediction before any tree. `MethodError` where there is nothing to learn."""
        totals = await federation.sum(self.totals)
        enough_held_out(self.fraction, int(totals.patients[1]), self.study.release.min_count)
        n = max(float(totals.patients[0]), 1.0)
        return totals, base_score(self.objective, float(totals.outcome) * self.outcome_scale.quantum / n)

    async def answered(
        self, federation: Federation, totals: Totals, model: Model, notes: tuple[str, ...]
    ) -> BoostingResult:
        """Measure the common model and write it down."""
        if not model.trees:
            raise MethodError(
                "No hospital has enough patients to grow a tree.",
                rule="enough-patients",
                remedy=f"Each needs {2 * self.study.release.min_count} with an outcome; hist-boosting learns from all of them together.",
            )
        file = self.file_of(model)
        measured: dict[str, NDArray[Any]] = await federation.sum(self.performance, file)
        await federation.tell(self.site_sheet, file)
        trained_on, held_out = (int(n) for n in totals.patients)
        files = write(
            self,
            federation.facts,
            file.tobytes(),
            trees=model.trees,
            base_score=model.base_score,
            patients=(trained_on, held_out),
            sites=federation.sites,
        )
        found: dict[str, Any] = {
            "objective": self.spec.objective,
            "n": trained_on,
            "held_out": held_out,
            "trees": model.trees,
            "nodes": len(model.splits),
            "base_score": model.base_score,
            "min_count": self.study.release.min_count,
            "importance": importance(model, self.names),
            "curve": [],
            "performance": self.evaluation.metrics(measured),
            "performance_of": "held-out" if self.fraction else "trained",
            "model": {name: digest(content) for name, content in files.items()},
        }
        seen = "The coordinator saw each hospital's trees by themselves, and not only the common model."
        if not self.fraction:
            notes = (
                *notes,
                "The performance is on the patients trained on, and so too good; `validate` holds some out.",
            )
        return BoostingResult(self.study, self.analysis, found, True, (seen, *notes), files)

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> BoostingResult:
        """Rebuilt from stored estimates: without the model's files."""
        return BoostingResult(study, analysis, estimates, **rest)


def merge_small(model: Model, x: Single, least: int) -> Model:
    """Without splits that leave fewer than `least` of the patients (f, n) on a side: such a node becomes a leaf, with the mean of
    the leaves below it, weighted by their hessians (or by patients, where there is none)."""
    splits, conditions = model.splits.copy(), model.conditions.copy()
    patients = np.zeros(len(splits))
    for tree in range(model.trees):
        patients += np.bincount(model.leaves(x, tree), minlength=len(splits))
    weight = np.where(model.hessian > 0, model.hessian, patients).astype(np.float64)
    mean = conditions.astype(np.float64)
    for row in range(len(splits) - 1, -1, -1):  # children come after their parents
        if splits[row, FEATURE] < 0:
            continue
        left, right = splits[row, LEFT], splits[row, LEFT] + 1
        patients[row] = patients[left] + patients[right]
        both = weight[left] + weight[right]
        mean[row] = (weight[left] * mean[left] + weight[right] * mean[right]) / both if both > 0 else 0.0
        weight[row] = both
        if min(patients[left], patients[right]) < least:
            splits[row], conditions[row] = (splits[row, 0], -1, 0, 0), mean[row]
    return _reached(replace(model, splits=splits, conditions=conditions))


def _reached(model: Model) -> Model:
    """Without the rows that no tree reaches any more."""
    kept: list[int] = []
    place: dict[int, int] = {}
    for start in model.starts[:-1]:
        queue = [int(start)]
        for row in queue:
            place[row] = len(kept) + queue.index(row)
            if model.splits[row, FEATURE] >= 0:
                queue += [int(model.splits[row, LEFT]), int(model.splits[row, LEFT]) + 1]
        kept += queue
    rows = np.array(kept, np.int64)
    splits = model.splits[rows]
    inner = splits[:, FEATURE] >= 0
    splits[inner, LEFT] = [place[int(left)] for left in splits[inner, LEFT]]
    gain = np.where(inner, model.gain[rows], np.float32(0))
    return replace(model, splits=splits, conditions=model.conditions[rows], gain=gain, hessian=model.hessian[rows])


def importance(model: Model, names: list[str]) -> list[dict[str, Any]]:
    """By feature: splits, mean gain and mean cover, as the hospitals' models say."""
    inner = model.splits[:, FEATURE] >= 0
    where = model.splits[inner, FEATURE]
    number = np.bincount(where, minlength=len(names)).tolist()
    gain, cover = (np.bincount(where, v[inner], len(names)).tolist() for v in (model.gain, model.hessian))
    return [
        {"feature": name, "splits": n, "gain": g / n if n else 0.0, "cover": h / n if n else 0.0}
        for name, n, g, h in zip(names, number, gain, cover, strict=True)
    ]


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise MissingExtra(
            "This analysis grows trees with XGBoost, which is not installed at this site.",
            rule="optional-extra",
            remedy="Install it with: pip install 'unisono[boosting]'; hist-boosting needs no XGBoost.",
        ) from error
    return xgboost
