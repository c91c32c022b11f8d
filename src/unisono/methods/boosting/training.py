"""The coordinator's loop of `hist-boosting`: edges, then tree after tree from opened sums, until enough or no better."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError
from unisono.methods.boosting.features import choose_edges
from unisono.methods.boosting.forest import Forest
from unisono.methods.boosting.growing import Finder, Rules, Tree
from unisono.methods.boosting.model_file import write
from unisono.methods.boosting.objectives import RISK, Hazard, base_score, hazard_of
from unisono.methods.boosting.result import BoostingResult
from unisono.methods.boosting.xgboost_json import written
from unisono.methods.model_card import digest

if TYPE_CHECKING:
    from unisono.federation.federation import Federation
    from unisono.methods.boosting.hist import HistBoosting, Losses, Totals

Vector = NDArray[np.float64]

SNAPSHOT = 10
"""Trees between two snapshots, after which the journal drops the opened histograms before."""


@dataclass(frozen=True)
class Trained:
    """forest: all trees so far; base: the prediction before any. patients: (2,) trained on, held out. deaths: (2, k).
    curve: (t, 2) the mean losses after each tree (empty without held-out patients)."""

    forest: Forest
    base: float
    patients: Vector
    deaths: Vector
    curve: Vector
    notes: tuple[str, ...] = field(default=())

    @property
    def best(self) -> int:
        """How many trees have the least loss on the held-out patients; the first of equals."""
        return int(np.argmin(self.curve[:, 1])) + 1

    @property
    def state(self) -> dict[str, Any]:
        """For a snapshot."""
        own = {"base_score": self.base, "patients": self.patients, "deaths": self.deaths, "curve": self.curve}
        return {**self.forest.state, **own}

    @staticmethod
    def from_state(state: dict[str, Any]) -> Trained:
        """From a snapshot."""
        forest = Forest.from_state(state)
        return Trained(forest, state["base_score"], state["patients"], state["deaths"], state["curve"])


async def train(method: HistBoosting, federation: Federation, *, alone: bool = False) -> Trained:
    """All trees of an analysis. `MethodError` if there is nothing to learn. alone: one hospital, for itself, with however few
    patients held out."""
    saved = federation.restored()
    now = Trained.from_state(saved) if saved is not None else begun(method, await federation.sum(method.totals))
    if not alone:
        enough_held_out(method.fraction, int(now.patients[1]), method.study.release.min_count)
    spec, patience = method.spec, method.spec.validate_on.patience if method.spec.validate_on else 0
    sampled = spec.subsample.rows < 1 or spec.subsample.columns < 1
    for number in range(now.forest.ensemble.trees, spec.trees):
        if patience and len(now.curve) and number - now.best >= patience:
            break
        tree = await grown(method, federation, now, number)
        if len(tree.nodes) == 1 and not sampled:
            why = "no split is left that gains anything and leaves min_count patients on both sides"
            now = replace(now, notes=(f"Training ended after {number} of {spec.trees} trees: {why}.",))
            break
        now = replace(now, forest=now.forest.then(tree))
        if patience:
            losses = await federation.sum(method.losses, *now.forest.arguments())
            now = replace(now, curve=np.concatenate([now.curve, [mean_losses(method, now, losses)]]))
        if (number + 1) % SNAPSHOT == 0:
            federation.snapshot(now.state)
    return finished(now)


def finished(now: Trained) -> Trained:
    """With held-out patients: only the trees up to the best. `MethodError` if there is no tree at all."""
    if len(now.curve):
        kept, grown_in_all = now.best, now.forest.ensemble.trees
        note = f"The loss on held-out patients was least after {kept} trees; those up to {grown_in_all} were dropped."
        notes = now.notes if kept == grown_in_all else (*now.notes, note)
        now = replace(now, forest=now.forest.first(kept), notes=notes)
    if not now.forest.ensemble.trees:
        raise MethodError(
            "No tree has a split: no feature separates groups of min_count patients with a gain.",
            rule="no-split",
            remedy="Ask more hospitals, lower `gamma`, `min_child_weight` or `lambda`, or add features.",
        )
    return now


def begun(method: HistBoosting, totals: Totals) -> Trained:
    """Edges and the base score, from the first sum."""
    least, patients = method.study.release.min_count, int(totals.patients[0])
    if patients < 2 * least:
        raise MethodError(
            f"Fewer than {2 * least} patients with an outcome are there to learn from.",
            rule="enough-patients",
            remedy="Widen the cohort, ask more hospitals, or hold fewer patients out.",
        )
    if method.axis is not None and not totals.deaths[0].sum():
        raise MethodError(
            "No patient had the event.",
            rule="outcome-varies",
            remedy="Check the mapping of the event, or wait for longer follow-up.",
        )
    spec = method.spec
    edges = choose_edges(method.features, np.rint(totals.cells).astype(np.int64), spec.bins, least)
    mean = float(totals.outcome) * method.outcome_scale.quantum / patients
    base = base_score(method.objective, mean)
    base = base if spec.base_score is None else float(np.float32(spec.base_score))
    forest = Forest.bare(edges, method.objective.margin(base))
    return Trained(forest, base, totals.patients, totals.deaths, np.zeros((0, 2)))


def enough_held_out(fraction: float, patients: int, least: int) -> None:
    """`MethodError` for so few held-out patients that what is said of all of them is said of each."""
    if fraction and patients < least:
        raise MethodError(
            f"Fewer than {least} patients are held out over all hospitals (a share of {fraction:g} was asked for).",
            rule="validation-patients",
            remedy="Raise `validate: fraction`, leave `validate` out, or ask more hospitals.",
        )


async def grown(method: HistBoosting, federation: Federation, now: Trained, number: int) -> Tree:
    """One tree: a sum a level, and for cox one more before them."""
    spec, forest = method.spec, now.forest
    hazard = Hazard(np.zeros(0), np.zeros(0))
    if method.axis is not None:
        at_risk = (await federation.sum(method.risk_sets, *forest.arguments()))["at_risk"]
        hazard = hazard_of(now.deaths[0], at_risk * RISK.quantum)
    rules = Rules(
        depth=spec.depth,
        rate=spec.rate,
        penalty=spec.reg_lambda,
        gamma=spec.gamma,
        min_child_weight=spec.min_child_weight,
        largest_step=method.objective.largest_step,
        least=method.study.release.min_count,
    )
    finder = Finder(forest.edges, method.layout(forest.edges, number), rules)
    quanta = method.scales[0].quantum, method.scales[1].quantum
    tree = Tree(number, forest.ensemble.nodes, finder, rules, quanta)
    while tree.asked:
        nodes = np.array(tree.asked, np.int64) + tree.offset
        asked = forest.arguments(tree)
        sums = await federation.sum(method.histograms, *asked, nodes, hazard.once, hazard.twice)
        tree.grow(np.stack([sums.gradient, sums.hessian, sums.patients], axis=1))
    return tree


def mean_losses(method: HistBoosting, now: Trained, losses: Losses) -> list[float]:
    """Of those trained on, and held out: the loss a patient; for cox minus the log partial likelihood an event."""
    totals = losses.loss * method.loss_scale.quantum
    if method.axis is None:
        return [float(value) for value in totals / np.maximum(now.patients, 1)]
    found = []
    for total, deaths, at_risk in zip(totals, now.deaths, losses.at_risk * RISK.quantum, strict=True):
        happened = deaths > 0
        logs = deaths[happened] @ np.log(np.maximum(at_risk[happened], RISK.quantum))
        found.append(float(total + logs) / max(float(deaths.sum()), 1.0))
    return found


def result_of(
    method: HistBoosting, federation: Federation, trained: Trained, performance: dict[str, Any]
) -> BoostingResult:
    """The answer, with its model files."""
    forest, spec = trained.forest, method.spec
    trained_on, held_out = (int(n) for n in trained.patients)
    files = write(
        method,
        federation.facts,
        written(forest, method.features, method.objective.xgboost, trained.base),
        trees=forest.ensemble.trees,
        base_score=trained.base,
        patients=(trained_on, held_out),
        sites=federation.sites,
    )
    found: dict[str, Any] = {
        "objective": spec.objective,
        "n": trained_on,
        "held_out": held_out,
        "trees": forest.ensemble.trees,
        "nodes": forest.ensemble.nodes,
        "base_score": trained.base,
        "min_count": method.study.release.min_count,
        "importance": forest.importance(method.features),
        "curve": [{"trees": k + 1, "trained": a, "held_out": b} for k, (a, b) in enumerate(trained.curve.tolist())],
        "performance": performance,
        "performance_of": "held-out" if method.fraction else "trained",
        "model": {name: digest(content) for name, content in files.items()},
    }
    notes = trained.notes
    if not method.fraction:
        notes = (*notes, "The performance is on the patients trained on, and so too good; `validate` holds some out.")
    return BoostingResult(method.study, method.analysis, found, True, notes, files)
