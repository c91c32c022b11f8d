"""Many trials beside each other: means with intervals over seeds, rounds to a target, the gain of each site over learning alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy import stats

from unisono.workbench.trial import ALONE, POOLED, REFERENCES, Point, Trial

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with a t interval of 95% (None where there is one seed only)."""

    mean: float
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(values: Sequence[float]) -> Estimate | None:
        """None where there is no value."""
        known = np.asarray([v for v in values if np.isfinite(v)], np.float64)
        if not len(known):
            return None
        mean = float(known.mean())
        if len(known) < 2:
            return Estimate(mean)
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
        return Estimate(mean, mean - half, mean + half)

    def said(self, scale: float = 1.0, digits: int = 1, *, share: bool = False) -> str:
        """``93.1 (92.0 to 94.2)``. share: of something, so that its interval ends at 0 and at `scale`."""
        text = f"{self.mean * scale:.{digits}f}"
        if self.low is None or self.high is None:
            return text
        low, high = (max(self.low, 0.0), min(self.high, 1.0)) if share else (self.low, self.high)
        return f"{text} ({low * scale:.{digits}f} to {high * scale:.{digits}f})"


@dataclass(frozen=True)
class Aim:
    """What is compared. metric: its name in a trial's `metrics`. higher: whether more is better. share: of what the pooled reference
    reaches that counts as reached."""

    metric: str
    higher: bool = True
    share: float = 0.95

    @property
    def by_metric(self) -> bool:
        """Whether rounds are counted by the metric: accuracy is validated in every round. Otherwise they are counted by the loss."""
        return self.metric == "accuracy"

    def target(self, pooled: Trial) -> float | None:
        """The value to reach: `share` of the pooled reference's final accuracy; or its least validation loss, divided by `share`."""
        if self.by_metric:
            return pooled.metrics[self.metric] * self.share if self.metric in pooled.metrics else None
        losses = [point.loss for point in pooled.curve if point.loss is not None]
        return min(losses) / self.share if losses else None

    def reached(self, point: Point, target: float) -> bool:
        """Whether a curve is there."""
        if self.by_metric:
            return point.metric is not None and point.metric >= target
        return point.loss is not None and point.loss <= target

    def gain(self, value: float, alone: float) -> float:
        """How much better than alone; negative where it is worse."""
        return value - alone if self.higher else alone - value


@dataclass(frozen=True)
class Standing:
    """One contestant over all seeds. rounds: to the target, the median over those seeds that reached it; reached: how many did, of
    `seeds`. gain: over learning alone, mean over sites; worst: at the site that gains least (mean over seeds)."""

    method: str
    seeds: int
    metric: Estimate | None
    others: dict[str, Estimate]
    rounds: float | None
    reached: int
    seconds: float
    sent_bytes: float
    gain: Estimate | None
    worst: tuple[str, float] | None
    failed: tuple[str, ...]


def standings(trials: Sequence[Trial], aim: Aim) -> list[Standing]:
    """The references first, then the contestants from the best to the worst."""
    names = list(dict.fromkeys(trial.method for trial in trials))
    found = [_standing(name, trials, aim) for name in names]
    sign = -1.0 if aim.higher else 1.0

    def rank(standing: Standing) -> tuple[int, float]:
        if standing.method in REFERENCES:
            return REFERENCES.index(standing.method), 0.0
        return len(REFERENCES), sign * standing.metric.mean if standing.metric else np.inf

    return sorted(found, key=rank)


def targets(trials: Sequence[Trial], aim: Aim) -> dict[int, float]:
    """By seed, the value to reach: from the pooled reference of that seed."""
    found = {t.seed: aim.target(t) for t in trials if t.method == POOLED and not t.failed}
    return {seed: target for seed, target in found.items() if target is not None}


def rounds_to(trial: Trial, aim: Aim, target: float | None) -> int | None:
    """The first round after which the target was reached on the validation patients; None if it never was."""
    if target is None:
        return None
    return next((point.round for point in trial.curve if aim.reached(point, target)), None)


def gains(trial: Trial, trials: Sequence[Trial], aim: Aim) -> dict[str, float]:
    """By site, how much better than that site alone with the same seed."""
    alone = next((t for t in trials if t.method == ALONE and t.seed == trial.seed and not t.failed), None)
    if alone is None:
        return {}
    found = {}
    for site, metrics in trial.by_site.items():
        mine, theirs = metrics.get(aim.metric), alone.by_site.get(site, {}).get(aim.metric)
        if mine is not None and theirs is not None:
            found[site] = aim.gain(mine, theirs)
    return found


def _standing(method: str, trials: Sequence[Trial], aim: Aim) -> Standing:
    mine = [t for t in trials if t.method == method]
    done = [t for t in mine if not t.failed]
    goals = targets(trials, aim)
    rounds = [r for t in done if (r := rounds_to(t, aim, goals.get(t.seed))) is not None]
    by_trial = [gains(t, trials, aim) for t in done]
    sites = sorted({site for found in by_trial for site in found})
    by_site = {site: float(np.mean([found[site] for found in by_trial if site in found])) for site in sites}
    others = sorted({name for t in done for name in t.metrics} - {aim.metric})
    estimated = {name: Estimate.of([t.metrics[name] for t in done if name in t.metrics]) for name in others}
    worst = min(by_site.items(), key=lambda item: item[1]) if by_site and method != ALONE else None
    return Standing(
        method=method,
        seeds=len(mine),
        metric=Estimate.of([t.metrics[aim.metric] for t in done if aim.metric in t.metrics]),
        others={name: value for name, value in estimated.items() if value is not None},
        rounds=float(median(rounds)) if rounds else None,
        reached=len(rounds),
        seconds=float(np.mean([t.seconds for t in done])) if done else 0.0,
        sent_bytes=float(np.mean([t.sent_bytes for t in done])) if done else 0.0,
        gain=Estimate.of([float(np.mean(list(found.values()))) for found in by_trial if found])
        if method != ALONE
        else None,
        worst=worst,
        failed=tuple(t.failed for t in mine if t.failed),
    )
