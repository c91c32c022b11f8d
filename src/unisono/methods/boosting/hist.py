"""Gradient-boosted trees from sums of histograms (Chen & Guestrin 2016, XGBoost, with the `hist` tree method), federated exactly.

Every patient's gradient and hessian are rounded to integers at the hospital, before anything is added (`objectives.py`). A
histogram over all hospitals is then a sum of integers, exact under every protection, and the trees are, to the last bit, those
that this library grows on the pooled patients with the same edges: `model.xgboost.json` is the same file.

What leaves a hospital, as part of a sum: once `totals` (numbers of patients in the cells of each feature, and the outcome); for
each level of a tree `histograms` (gradients, hessians and patients by bin of each feature, in the smaller of each two sibling
nodes); for cox once a tree `risk_sets`; with `validate` once a tree `losses`; at the end `performance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError
from unisono.federation.contribution import Argument, Declaration, Facts, contribution, receipt, within
from unisono.methods.base import Method, PlannedAsk
from unisono.methods.boosting import portable, training
from unisono.methods.boosting.benefit import benefit
from unisono.methods.boosting.ensemble import Ensemble, Rows
from unisono.methods.boosting.features import Edges, Single, cell_counts, features_of, matrix
from unisono.methods.boosting.measures import measure, target_of
from unisono.methods.boosting.objectives import (
    LARGEST,
    MOST_PATIENTS,
    RISK,
    RISK_BOUND,
    Hazard,
    Scale,
    objective_of,
    outcome_of,
    over_risk_sets,
    relative_risk,
)
from unisono.methods.boosting.result import BoostingResult
from unisono.methods.boosting.rows import Layout, Mask, Patients, Standing, histograms
from unisono.methods.boosting.spec import HistSpec
from unisono.methods.registry import method
from unisono.methods.survival.follow_up import Axis
from unisono.protection.leaves import Leaf, count, curve, moment
from unisono.study.document import NumberVariable, Study
from unisono.study.table import Table

if TYPE_CHECKING:
    from unisono.federation.federation import Federation

Vector = NDArray[np.float64]
Index = NDArray[np.int64]

_HELD_OUT, _ROWS, _COLUMNS = 1, 1 << 16, 1 << 17
"""What draws are for: held-out patients; with the tree's number, the patients and the features of that tree."""


@dataclass(frozen=True)
class Totals:
    """patients: (2,) trained on, and held out. outcome: (), whole quanta, over the former. cells: numbers of them in the cells
    of each feature. deaths: (2, k) events at each grid time, of both (cox; else empty)."""

    patients: Vector
    outcome: Vector
    cells: Vector
    deaths: Vector


@dataclass(frozen=True)
class Histograms:
    """(q, bins of the features in use) each: sums of gradients and hessians in whole quanta, and patients."""

    gradient: Vector
    hessian: Vector
    patients: Vector


@dataclass(frozen=True)
class Losses:
    """loss: (2,) of those trained on, and those held out, in whole quanta. at_risk: (2, k) relative risks (cox; else empty)."""

    loss: Vector
    at_risk: Vector


@method("hist-boosting", version=1, spec=HistSpec)
class HistBoosting(Method[HistSpec]):
    """Boosted trees from federated histograms."""

    pooled = "same-trees"

    kin: ClassVar[str] = "boosting"
    rows: ClassVar[Literal["all", "eligible", "cohort"]] = "eligible"  # missing features are learned from

    def __init__(self, study: Study, analysis: str, spec: HistSpec) -> None:
        super().__init__(study, analysis, spec)
        self.objective = objective_of(study, spec)
        survival = spec.survival
        self.axis = None if survival is None else Axis.of(study, analysis, survival)
        self.k = 0 if self.axis is None else self.axis.length
        self.features = features_of(study, spec.features, spec.cells if spec.edges == "quantiles" else spec.bins)
        self.scales = Scale.of(self.objective.gradient_bound), Scale.of(self.objective.hessian_bound)
        self.outcome_scale = Scale.of(max(self.objective.margin_bound, 1.0))
        self.loss_scale = Scale.of(self.objective.loss_bound)
        self.fraction = 0.0 if spec.validate_on is None else spec.validate_on.fraction
        self.evaluation = measure(study, spec, self.axis, study.release.min_count)
        self.most_nodes = spec.trees * (2 ** (spec.depth + 1) - 1)

    def variables(self) -> tuple[str, ...]:
        return (*self.spec.targets(), *self.spec.features)

    def prepare(self, table: Table) -> Patients:
        """Patients with an outcome; features may be missing."""
        known = np.ones(table.n, np.bool_)
        for name in self.spec.targets():
            known &= ~np.isnan(table[name])
        table = table.rows(known)
        x, outcome = matrix(self.features, table), outcome_of(table, self.spec, self.axis)
        times = [v.astype(np.float64) for v in (outcome.exit, outcome.entry) if v is not None]
        key = portable.keys(x, np.stack([outcome.y, *times]))
        return Patients(x, outcome, key, ~portable.drawn(key, 1 - self.fraction, self.spec.seed, _HELD_OUT), known)

    def held_out(self, data: Patients) -> Mask:
        return data.held_out_rows

    # -- what leaves a hospital, as part of a sum ---------------------------------------------------------------------

    @contribution
    def totals(self, data: Patients) -> Totals:
        """How many patients are in each cell of the declared range of each feature, and the sum of the outcome."""
        groups = (~data.held_out, data.held_out)
        deaths = [
            np.bincount(data.outcome.exit[g], data.outcome.y[g], self.k)
            for g in groups
            if data.outcome.exit is not None
        ]
        return Totals(
            patients=np.array([g.sum() for g in groups], np.float64),
            outcome=np.asarray(self.outcome_scale.whole(data.outcome.y[groups[0]]).sum()),
            cells=cell_counts(self.features, data.x[:, groups[0]]).astype(np.float64),
            deaths=np.array(deaths, np.float64).reshape(2, self.k),
        )

    @totals.declares
    def _(self, facts: Facts) -> Declaration:
        n, cells = float(max(facts.patients, 1)), sum(f.cells for f in self.features)
        return Declaration(
            {
                "patients": count((2,), n, "Number of patients trained on, and held out."),
                "outcome": moment((), n * LARGEST, f"Sum of the outcome, in steps of {self.outcome_scale.quantum:g}."),
                "cells": count((cells,), n, "Number of patients in each cell of each feature's declared range."),
                "deaths": curve((2, self.k), n, "Number of events at each time of the grid."),
            }
        )

    @contribution
    def histograms(
        self,
        data: Patients,
        edges: Single,
        ends: Index,
        splits: Rows,
        leaves: Single,
        base: float,
        nodes: Index,
        once: Vector,
        twice: Vector,
    ) -> Histograms:
        """Gradients, hessians and patients in each bin of each feature, of this tree's patients at `nodes` of the tree."""
        standing, cut = self.standing(data, edges, ends, splits, leaves, base)
        tree = standing.ensemble.trees - 1
        if not standing.ensemble.grows_at(nodes):
            raise MethodError(
                "Histograms were asked for at what is no leaf of the tree that grows.",
                rule="trees",
                remedy="Coordinator and site run different versions of the method; or report the coordinator.",
            )
        sums = data.gradients(standing, Hazard(once, twice), self.objective, self.scales)
        taking_part = ~data.held_out & portable.drawn(data.key, self.spec.subsample.rows, self.spec.seed, _ROWS + tree)
        found = histograms(data.codes(cut), standing.at, taking_part, nodes, sums, self.layout(cut, tree))
        return Histograms(*found)

    @histograms.declares
    def _(self, facts: Facts, *arguments: Any) -> Declaration:
        edges, ends, splits, leaves, base, nodes, *_ = arguments
        n = float(max(facts.patients, 1))
        self._countable(facts)
        shape = (min(len(nodes), 2**self.spec.depth), self.layout(Edges(edges, ends), int(splits[-1, 0])).length)
        steps = [f"in steps of {scale.quantum:g}" for scale in self.scales]
        return Declaration(
            {
                "gradient": moment(
                    shape, n * LARGEST, f"Sum of gradients by node and bin of each feature, {steps[0]}."
                ),
                "hessian": moment(shape, n * LARGEST, f"Sum of hessians by node and bin of each feature, {steps[1]}."),
                "patients": count(shape, n, "Number of patients by node and bin of each feature."),
            },
            {
                **self._of_forest(edges, ends, splits, leaves, base),
                "nodes": within((shape[0],), self.most_nodes),
                "once": within((self.k,), max(self.k, 1) * RISK_BOUND),
                "twice": within((self.k,), max(self.k, 1) * RISK_BOUND**2),
            },
        )

    @contribution
    def risk_sets(
        self, data: Patients, edges: Single, ends: Index, splits: Rows, leaves: Single, base: float
    ) -> dict[str, Vector]:
        """The sum of relative risks of the patients at risk at each time of the grid."""
        standing, _ = self.standing(data, edges, ends, splits, leaves, base)
        return {"at_risk": self._at_risk(data, standing.margin, ~data.held_out)}

    @risk_sets.declares
    def _(self, facts: Facts, *forest: Any) -> Declaration:
        self._countable(facts)
        meaning = f"Sum of relative risks of the patients at risk at each time, in steps of {RISK.quantum:g}."
        leaf = moment((self.k,), max(facts.patients, 1) * LARGEST, meaning)
        return Declaration({"at_risk": leaf}, self._of_forest(*forest))

    @contribution
    def losses(self, data: Patients, edges: Single, ends: Index, splits: Rows, leaves: Single, base: float) -> Losses:
        """The loss at these trees, of the patients trained on and of those held out."""
        standing, _ = self.standing(data, edges, ends, splits, leaves, base)
        loss = self.loss_scale.whole(self.objective.loss(standing.margin, data.outcome))
        groups = (~data.held_out, data.held_out)
        at_risk = [self._at_risk(data, standing.margin, group) for group in groups]
        return Losses(np.array([loss[group].sum() for group in groups]), np.array(at_risk).reshape(2, self.k))

    @losses.declares
    def _(self, facts: Facts, *forest: Any) -> Declaration:
        self._countable(facts)
        bound = max(facts.patients, 1) * LARGEST
        loss, risk = (f"in steps of {scale.quantum:g}" for scale in (self.loss_scale, RISK))
        return Declaration(
            {
                "loss": moment((2,), bound, f"Loss of patients trained on and held out, {loss}."),
                "at_risk": moment((2, self.k), bound, f"Relative risks at risk at each time, {risk}."),
            },
            self._of_forest(*forest),
        )

    @contribution
    def performance(
        self, data: Patients, edges: Single, ends: Index, splits: Rows, leaves: Single, base: float
    ) -> dict[str, NDArray[Any]]:
        """How good the model's predictions are: of the patients held out, or of all where none are."""
        standing, _ = self.standing(data, edges, ends, splits, leaves, base)
        return self.evaluation.part(*self._judged(data, standing))

    @performance.declares
    def _(self, facts: Facts, *forest: Any) -> Declaration:
        leaves: dict[str, Leaf] = self.evaluation.leaves(max(facts.patients, 1))
        return Declaration(leaves, self._of_forest(*forest))

    @receipt
    def site_sheet(
        self, data: Patients, edges: Single, ends: Index, splits: Rows, leaves: Single, base: float
    ) -> dict[str, Any]:
        """For the site's own folder: with held-out patients the joint trees against trees grown here alone, on them; without, how
        good the model is for its own patients."""
        standing, _ = self.standing(data, edges, ends, splits, leaves, base)
        if self.fraction:
            return benefit(self, data, standing.margin)
        predicted, target = self._judged(data, standing)
        own = measure(self.study, self.spec, self.axis, 1)
        return {"patients": {"trained": len(target)}, "joint": own.metrics(own.part(predicted, target))}

    # -- what both ends know ------------------------------------------------------------------------------------------

    def layout(self, edges: Edges, tree: int) -> Layout:
        """The histogram of one tree: of the features that it may use."""
        used = portable.chosen(len(self.features), self.spec.subsample.columns, self.spec.seed, _COLUMNS + tree)
        return Layout.of(edges, used)

    def _of_forest(self, edges: Single, ends: Index, splits: Rows, leaves: Single, base: float) -> dict[str, Argument]:
        """What the trees so far may be, as arguments."""
        del ends, base
        declared = [v for name in self.spec.features if isinstance(v := self.study.variables[name], NumberVariable)]
        widest = max([1.0, *(max(abs(v.min), abs(v.max)) for v in declared)])
        most = sum(f.cells - 1 for f in self.features)
        rows = min(len(leaves), self.most_nodes)
        return {
            "edges": within((min(len(edges), most),), widest * (1 + 1e-6)),
            "ends": within((len(self.features),), max(most, 1)),
            "splits": within((min(len(splits), rows), 5), max(self.most_nodes, most, len(self.features))),
            "leaves": within((rows,), self.objective.largest_step * self.spec.rate * (1 + 1e-6)),
            "base": within((), self.objective.margin_bound),
        }

    def _countable(self, facts: Facts) -> None:
        """`MethodError` where sums of whole numbers would not be exact any more."""
        if facts.patients > MOST_PATIENTS:
            raise MethodError(
                f"Histograms of gradients are exact for at most {MOST_PATIENTS:,} patients.",
                rule="countable-patients",
                remedy="Narrow the cohort.",
            )

    # -- at the site ---------------------------------------------------------------------------------------------------

    def standing(
        self, data: Patients, edges: Single, ends: Index, splits: Rows, leaves: Single, base: float
    ) -> tuple[Standing, Edges]:
        """Where the patients stand at what was broadcast, once it is seen to be trees over edges of this study's features."""
        cut = Edges(np.asarray(edges, np.float32), np.asarray(ends, np.int64))
        if not cut.sound(len(self.features)):
            raise MethodError(
                "What was sent are no edges of this study's features.",
                rule="trees",
                remedy="Coordinator and site run different versions of the method; or report the coordinator.",
            )
        trees = Ensemble(np.asarray(splits, np.int32), np.asarray(leaves, np.float32)).checked(cut, self.spec.depth)
        return data.standing(trees, cut, float(base)), cut

    def _at_risk(self, data: Patients, margin: Vector, group: Mask) -> Vector:
        if self.axis is None:
            return np.zeros(0)
        return over_risk_sets(np.where(group, relative_risk(margin), 0.0), data.outcome, self.k)

    def _judged(self, data: Patients, standing: Standing) -> tuple[NDArray[Any], NDArray[Any]]:
        """Predictions and outcomes of those on whom the model is judged."""
        group = data.held_out if self.fraction else ~data.held_out
        return target_of(self.objective, standing.margin[group], data.outcome, group)

    # -- what the coordinator does with the sums ---------------------------------------------------------------------------

    def plan(self) -> tuple[PlannedAsk, ...]:
        """The totals; for each tree its levels, and what goes with it; the performance."""
        trees, each = self.spec.trees, [min(self.spec.bins, f.cells) - 1 for f in self.features]
        edges, ends = np.zeros(sum(each), np.float32), np.cumsum(each)
        forest = (edges, ends, np.zeros((1, 5), np.int32), np.zeros(1, np.float32), 0.0)
        nodes = np.zeros(2 ** max(self.spec.depth - 2, 0), np.int64)
        asks = [
            PlannedAsk(self.totals, (), 1),
            PlannedAsk(self.histograms, (*forest, nodes, np.zeros(self.k), np.zeros(self.k)), trees * self.spec.depth),
        ]
        asks += [PlannedAsk(self.risk_sets, forest, trees)] if self.axis is not None else []
        asks += [PlannedAsk(self.losses, forest, trees)] if self.fraction else []
        return (*asks, PlannedAsk(self.performance, forest, 1))

    async def run(self, federation: Federation) -> BoostingResult:
        """Grow the trees (`training.py`), then measure them. `MethodError` where there is nothing to learn."""
        trained = await training.train(self, federation)
        forest = trained.forest.arguments()
        measured: dict[str, NDArray[Any]] = await federation.sum(self.performance, *forest)
        await federation.tell(self.site_sheet, *forest)
        return training.result_of(self, federation, trained, self.evaluation.metrics(measured))

    @classmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> BoostingResult:
        """Rebuilt from stored estimates: without the model's files."""
        return BoostingResult(study, analysis, estimates, **rest)
