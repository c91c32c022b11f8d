"""The benefit sheet: for one hospital alone, the joint trees on its held-out patients against trees that it grows by itself.

By itself it grows them by the same code, with the same settings and seed, on its own training patients: a federation of one,
in which a sum is the hospital's own part. The sheet is made at the site, from its own data, and stays there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MethodError
from unisono.federation.contribution import BoundContribution
from unisono.methods.boosting import training
from unisono.methods.boosting.forest import Forest
from unisono.methods.boosting.measures import measure, target_of
from unisono.methods.boosting.rows import Patients

if TYPE_CHECKING:
    from unisono.federation.federation import Federation
    from unisono.methods.boosting.hist import HistBoosting

T = TypeVar("T")
Vector = NDArray[np.float64]

LEAST = 30
"""Held-out patients below which a sheet says no more than its numbers: an interval from a normal distribution needs as many."""
Z = 1.959963984540054
"""97.5% quantile of the standard normal distribution."""


class _Alone:
    """A federation of one hospital, in its own process: what `training.train` needs of one."""

    def __init__(self, data: Patients) -> None:
        self.data = data

    async def sum(self, contribution: BoundContribution[..., T], *arguments: Any) -> T:
        return contribution.rebuild(contribution.compute(self.data, *arguments))

    def restored(self) -> None:
        return None

    def snapshot(self, state: Any) -> None:
        """Nothing of it is kept."""


def alone(method: HistBoosting, data: Patients) -> Forest | None:
    """The trees that this hospital grows from its own patients; None where it cannot."""
    steps = training.train(method, cast("Federation", _Alone(data)), alone=True)
    try:
        steps.send(None)
    except StopIteration as done:
        return cast(training.Trained, done.value).forest
    except MethodError:
        return None
    raise AssertionError("a federation of one waits for nobody")


def benefit(method: HistBoosting, data: Patients, joint: Vector) -> dict[str, Any]:
    """The sheet, plain JSON. joint: (n,) scores of this hospital's patients at the joint trees."""
    group = data.held_out
    n = int(group.sum())
    sheet: dict[str, Any] = {
        "what": "The joint trees against trees grown here alone, on held-out patients.",
        "patients": {"trained": data.n - n, "held_out": n},
        "joint": _measured(method, data, joint),
        "alone": None,
    }
    forest = alone(method, data) if n else None
    if forest is None:
        return {**sheet, "says": "There are too few patients here to grow trees alone, or to compare on."}
    edges, ends, splits, leaves, base = forest.arguments()
    own = method.standing(data, edges, ends, splits, leaves, base)[0].margin
    sheet["alone"] = _measured(method, data, own)
    if method.axis is not None:
        return {**sheet, "says": "Compare the concordances; risk sets of one hospital give no loss of each patient."}
    losses = [method.objective.loss(score, data.outcome)[group] for score in (joint, own)]
    difference = losses[0] - losses[1]
    value = float(difference.mean())
    half = Z * float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    sheet["difference"] = {"loss": value, "low": value - half, "high": value + half}
    return {**sheet, "says": _says(value, half, n)}


def _measured(method: HistBoosting, data: Patients, score: Vector) -> dict[str, Any]:
    """Everything is shown: it is the hospital's own, to itself."""
    own = measure(method.study, method.spec, method.axis, 1)
    return own.metrics(own.part(*target_of(method.objective, score[data.held_out], data.outcome, data.held_out)))


def _says(value: float, half: float, n: int) -> str:
    if n < LEAST:
        return f"Fewer than {LEAST} held-out patients: too few to say whether the joint trees are of use here."
    if value + half < 0:
        return "The joint trees predict this hospital's patients better than trees grown here alone."
    if value - half > 0:
        return "Trees grown here alone predict this hospital's patients better than the joint trees."
    return "No difference that these held-out patients could show."
