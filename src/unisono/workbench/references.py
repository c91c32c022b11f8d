"""The two references of a comparison, by the same code and on the same validation patients: everybody's patients at one site, and
each site by itself.

Pooling is what no network of hospitals could do. Here it can be done, because this is a simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.federation.contribution import Facts
from unisono.methods.base import Result
from unisono.methods.registry import build
from unisono.methods.training.data import Patients
from unisono.methods.training.scoring import Scoring
from unisono.methods.training.training import Training
from unisono.study.document import Study
from unisono.study.table import stack
from unisono.workbench.light import Cohort, LightFederation, LightSite, answer
from unisono.workbench.trial import ALONE, POOLED, Point, Trial

EVERYWHERE = "_everywhere"
Heard = Callable[[str], None]
Part = dict[str, NDArray[Any]]


def federated(study: Study, analysis: str, cohort: Cohort, *, seed: int = 0, heard: Heard = lambda _: None) -> Trial:
    """A method over the cohort's sites, in a light federation. seed: the trial's, and that of the rounding."""
    method, patients = _ready(study, analysis, cohort)
    federation, result, seconds = _ran(method, patients, cohort.facts, seed, heard)
    parts = federation.parts["evaluation"]
    return Trial(
        method=method.name,
        seed=seed,
        metrics=metrics_of(method.scoring, list(parts.values())),
        by_site=by_site(method.scoring, parts),
        curve=curve_of(result),
        seconds=seconds,
        sent_bytes=federation.sent_bytes,
    )


def pooled(study: Study, analysis: str, cohort: Cohort, *, seed: int = 0, heard: Heard = lambda _: None) -> Trial:
    """Everybody's patients at one site: each patient trains or validates there as at their own site."""
    method, patients = _ready(study, analysis, cohort)
    federation, result, seconds = _ran(method, {POOLED: merged(list(patients.values()))}, cohort.facts, seed, heard)
    asked = federation.asked["evaluation"]
    parts = {name: method.evaluation.part(data, {}, *asked).tree for name, data in patients.items()}
    return Trial(
        method=POOLED,
        seed=seed,
        metrics=metrics_of(method.scoring, list(parts.values())),
        by_site=by_site(method.scoring, parts),
        curve=curve_of(result),
        seconds=seconds,
    )


def alone(study: Study, analysis: str, cohort: Cohort, *, seed: int = 0, heard: Heard = lambda _: None) -> Trial:
    """Each site by itself. Its metrics are those of all validation patients, each predicted by their own site's model; and, with
    `EVERYWHERE` after their names, the mean over sites of what a site's model is worth on everybody's patients. Where sites see
    different patients the first flatters: a site that only has healthy patients is right about them without any model."""
    method, patients = _ready(study, analysis, cohort)
    method.alone = True
    parts: dict[str, Part] = {}
    curves: list[tuple[Point, ...]] = []
    away: list[dict[str, float]] = []
    seconds = 0.0
    for name, data in patients.items():
        facts = Facts(data.table.n, cohort.facts.imputed)
        federation, result, took = _ran(method, {name: data}, facts, seed, heard)
        parts[name] = federation.parts["evaluation"][name]
        curves.append(curve_of(result))
        asked = federation.asked["evaluation"]
        away.append(metrics_of(method.scoring, [method.evaluation.part(d, {}, *asked).tree for d in patients.values()]))
        seconds += took
    weights = [float(data.valid.sum()) for data in patients.values()]
    everywhere = {f"{name}{EVERYWHERE}": float(np.mean([found[name] for found in away])) for name in shared_names(away)}
    return Trial(
        method=ALONE,
        seed=seed,
        metrics=metrics_of(method.scoring, list(parts.values())) | everywhere,
        by_site=by_site(method.scoring, parts),
        curve=_mean_curve(curves, weights),
        seconds=seconds,
    )


def shared_names(found: Sequence[Mapping[str, float]]) -> list[str]:
    """The metrics that all have."""
    return [name for name in found[0] if all(name in other for other in found)]


def merged(sites: Sequence[Patients]) -> Patients:
    """Everybody's patients, each on the side (training, validation) of their own site."""
    train, valid = (np.concatenate([getattr(site, side) for site in sites]) for side in ("train", "valid"))
    return Patients(stack([site.table for site in sites]), train, valid)


def curve_of(result: Result) -> tuple[Point, ...]:
    """The learning curve of a training's result, from round 0."""
    rounds = result.estimates["rounds"]
    return tuple(Point(entry["round"], entry.get("validation"), entry.get("accuracy")) for entry in rounds)


def metrics_of(scoring: Scoring, parts: Sequence[Part]) -> dict[str, float]:
    """The metrics of the patients behind these parts together, those that are numbers."""
    total = {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}
    return plain(scoring.metrics(total))


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Of evaluated metrics the values: ``{value, low, high}`` as its value, and what is not shown left out."""
    confusion = metrics.get("confusion")
    if "accuracy" not in metrics and isinstance(confusion, Mapping):
        metrics = {**metrics, "accuracy": confusion.get("accuracy")}
    values = {name: found.get("value") if isinstance(found, Mapping) else found for name, found in metrics.items()}
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float) and name != "n"}


def by_site(scoring: Scoring, parts: Mapping[str, Part]) -> dict[str, dict[str, float]]:
    """By site, its own metrics."""
    return {name: metrics_of(scoring, [part]) for name, part in parts.items()}


def _ready(study: Study, analysis: str, cohort: Cohort) -> tuple[Training[Any], dict[str, Patients]]:
    method = build(study, analysis)
    assert isinstance(method, Training)  # the contest has checked it
    return method, {name: method.prepare(table) for name, table in sorted(cohort.tables.items())}


def _ran(
    method: Training[Any], patients: Mapping[str, Patients], facts: Facts, seed: int, heard: Heard
) -> tuple[LightFederation, Result, float]:
    """Run without `tell`: what sites keep for themselves costs them another training."""
    members = [LightSite(name, data, data.table.n) for name, data in patients.items()]
    federation = LightFederation(members, facts, seed, heard, tells=False)
    began = perf_counter()
    result = answer(method, federation)
    return federation, result, perf_counter() - began


def _mean_curve(curves: Sequence[tuple[Point, ...]], weights: Sequence[float]) -> tuple[Point, ...]:
    """By round, the mean over sites, weighted by validation patients; a site that stopped keeps its last value."""
    points = []
    for round_ in range(max(len(curve) for curve in curves)):
        here = [curve[min(round_, len(curve) - 1)] for curve in curves]
        points.append(Point(round_, _mean([p.loss for p in here], weights), _mean([p.metric for p in here], weights)))
    return tuple(points)


def _mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
