"""Where a training stands at the coordinator between two rounds: what a snapshot holds, and what the next round begins from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.federation.tree import Tree

Vector = NDArray[np.float32]

WORSE = 10.0
"""A loss so many times its first value is an explosion. The first value is that of a model that knows nothing (log 2 for two
classes); ten times that is a model that is confidently wrong of the average patient, from which descent seldom returns."""
NOTHING = math.log(2)
"""The least first value that a loss is compared with: a first round of much local work may begin to count at nearly 0."""
MOST_LOSS = 1e4
"""Of a mean loss that a site tells; more is told as this."""
LIMIT = 1e4
"""Of every number of a model that is broadcast: a weight on standardised inputs is of order 1, a norm's variance of order 100;
a model beyond this has exploded, and one with extreme weights could single out a patient."""


@dataclass(frozen=True)
class Answered:
    """What a round's sum said beside the update. loss: mean training loss of the round. steps: mean local steps. validation:
    mean loss of the model that was broadcast on the validation patients, and correct: the share it classified rightly; None
    where there are none, or it was not validated. counted: sites in the sum. clipped: share of the
    changes of weights."""

    loss: float
    steps: float
    validation: float | None
    correct: float | None
    counted: tuple[str, ...]
    clipped: float = 0.0


@dataclass(frozen=True)
class Progress:
    """After `round` rounds: the `model` (p,); `memory`, what the method carries beside it (moments, control variates);
    `prepared`, the preprocessing. best: the best model so far, after round `best_round`, of `best_value` (smaller is better).
    first: of the training loss and the validation loss. since: validations without an improvement. history: one entry a
    round, from round 0 (the first model). stopped: why no round follows (early, diverged, abstained; empty after the last one),
    and `why` in words. validating: patients of all sites who validate."""

    round: int
    model: Vector
    memory: Mapping[str, NDArray[Any]]
    prepared: NDArray[np.float64]
    best: Vector
    best_round: int = 0
    best_value: float = math.inf
    first_loss: float = math.inf
    first_validation: float = math.inf
    since: int = 0
    history: tuple[Mapping[str, Any], ...] = ({"round": 0},)
    stopped: str = ""
    why: str = ""
    validating: int = 0

    def to_tree(self) -> Tree:
        """For a snapshot: no number in it is infinite."""
        plain = {
            name: None if not math.isfinite(getattr(self, name)) else getattr(self, name)
            for name in ("best_value", "first_loss", "first_validation")
        }
        rest = {name: getattr(self, name) for name in ("round", "best_round", "since", "stopped", "why", "validating")}
        arrays = {"model": self.model, "memory": dict(self.memory), "prepared": self.prepared, "best": self.best}
        return {**plain, **rest, **arrays, "history": [dict(entry) for entry in self.history]}

    @staticmethod
    def from_tree(tree: Tree) -> Progress:
        """What `to_tree` made."""
        plain: dict[str, Any] = {key: math.inf if value is None else value for key, value in tree.items()}
        return Progress(**{**plain, "history": tuple(tree["history"])})

    def validated(self, value: float | None, validation: float | None, correct: float | None) -> Progress:
        """With what is known by now of the model after `round` rounds. value: by which models are compared; None where
        nothing was measured: then the last model that did not explode is the best."""
        history = list(self.history)
        found = {"validation": validation, "accuracy": correct}
        history[-1] = {**history[-1], **{key: number for key, number in found.items() if number is not None}}
        known = replace(self, history=tuple(history))
        if validation is not None and not math.isfinite(self.first_validation):
            known = replace(known, first_validation=validation)
        if value is None:
            return known
        if value < self.best_value:
            return replace(known, best=self.model, best_round=self.round, best_value=value, since=0)
        return replace(known, since=self.since + 1)

    def next(self, model: Vector, memory: Mapping[str, NDArray[Any]], answered: Answered) -> Progress:
        """One round further."""
        first = answered.loss if not math.isfinite(self.first_loss) else self.first_loss
        entry: dict[str, Any] = {
            "round": self.round + 1,
            "loss": answered.loss,
            "steps": answered.steps,
            "counted": list(answered.counted),
        }
        if answered.clipped:
            entry["clipped"] = answered.clipped
        history = (*self.history, entry)
        return replace(self, round=self.round + 1, model=model, memory=memory, first_loss=first, history=history)

    def exploded(self, answered: Answered, model: Vector) -> str | None:
        """Why the round that was answered is no progress but an explosion, in words; None if it is none."""
        if answered.validation is not None and answered.validation > WORSE * max(self.first_validation, NOTHING):
            return f"the validation loss is more than {WORSE:g} times its first value"
        if answered.loss > WORSE * max(self.first_loss, NOTHING):
            return f"the training loss is more than {WORSE:g} times its first value"
        if not (np.isfinite(model).all() and float(np.abs(model).max(initial=0.0)) <= LIMIT):
            return f"a number of the model is not finite, or beyond {LIMIT:g}"
        return None
