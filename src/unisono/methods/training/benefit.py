"""The benefit sheet: for one hospital alone, the joint model on its patients against what it could have learned by itself.

Both start from the same first model, see the same training patients and preprocessing, are given the same local work in as many
rounds, and are chosen by the loss on the same validation patients, on which they are then compared. (Chosen and compared on
the same patients, both look a little better than they are.) The sheet is made at the site, from its own data, and stays there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import Abstention
from unisono.methods.training import local
from unisono.methods.training.data import Patients
from unisono.methods.training.scoring import Scoring
from unisono.methods.training.workplace import Workplace

Vector = NDArray[np.float32]

LEAST = 30
"""Validation patients below which a sheet says no more than its numbers: an interval from a normal distribution needs as many."""
Z = 1.959963984540054
"""97.5% quantile of the standard normal distribution."""


def benefit(
    place: Workplace, scoring: Scoring, data: Patients, model: Vector, rounds: int, *, personal: bool = False
) -> dict[str, Any]:
    """The sheet, plain JSON. model (p,): what this site predicts with. rounds: how many were trained. personal: whether the
    model is this site's own version of the joint one."""
    who = {"trained": place.train.n, "validated": place.valid.n}
    sheet: dict[str, Any] = {"what": "The joint model against one learned here alone.", "patients": who}
    sheet |= {"personal": personal, "rounds": rounds}
    if place.valid.n == 0:
        return {**sheet, "enough": False, "says": "There are no validation patients here to compare on."}
    single, round_ = alone(place, rounds)
    losses = [_losses(place, vector) for vector in (model, single)]
    difference = losses[0] - losses[1]
    value, error = float(difference.mean()), _error(difference)
    enough = place.valid.n >= LEAST
    return {
        **sheet,
        "joint": _metrics(place, scoring, data, model, losses[0]),
        "alone": {**_metrics(place, scoring, data, single, losses[1]), "round": round_},
        "difference": {"loss": value, "low": value - Z * error, "high": value + Z * error},
        "enough": enough,
        "says": _says(value, Z * error, enough),
    }


def alone(place: Workplace, rounds: int) -> tuple[Vector, int]:
    """The model (p,) that this site learns from its own patients in so many rounds, and the round it is from."""
    model = best = place.network.first
    best_loss, best_round = _mean(place, model), 0
    for round_ in range(1, rounds + 1):
        try:
            model = place.trained(model, round_).vector
        except Abstention:  # it exploded: what it was before is what the site would have had
            break
        if round_ % place.spec.validation.every == 0 or round_ == rounds:
            loss = _mean(place, model)
            if loss < best_loss:
                best, best_loss, best_round = model, loss, round_
    return best, best_round


def _mean(place: Workplace, model: Vector) -> float:
    return float(_losses(place, model).mean())


def _losses(place: Workplace, model: Vector) -> NDArray[np.float64]:
    return local.losses(place.network, local.outputs(place.network, model, place.valid), place.valid)


def _error(difference: NDArray[np.float64]) -> float:
    """Standard error of the mean difference of paired losses."""
    n = len(difference)
    return float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0


def _metrics(
    place: Workplace, scoring: Scoring, data: Patients, model: Vector, losses: NDArray[np.float64]
) -> dict[str, Any]:
    """Everything is shown: it is the site's own, to itself."""
    evaluation = scoring.of(min_count=1)
    return {"loss": float(losses.mean()), **evaluation.metrics(evaluation.part(*scoring.scored(place, data, model)))}


def _says(value: float, half: float, enough: bool) -> str:
    if not enough:
        return f"Fewer than {LEAST} validation patients: too few to say whether the joint model is of use here."
    if value + half < 0:
        return "The joint model predicts this hospital's patients better than one learned here alone."
    if value - half > 0:
        return "A model learned here alone predicts this hospital's patients better than the joint model."
    return "No difference that these validation patients could show."
