"""Evaluations by kind: what a training analysis, or `evaluate`, asks for by name."""

from __future__ import annotations

from typing import Any

from unisono.errors import MethodError
from unisono.methods.evaluation.base import Evaluation
from unisono.methods.evaluation.binary import BinaryEvaluation
from unisono.methods.evaluation.multiclass import MulticlassEvaluation
from unisono.methods.evaluation.number import NumberEvaluation
from unisono.methods.evaluation.survival import SurvivalEvaluation

KINDS: dict[str, type[Evaluation]] = {
    cls.kind: cls for cls in (BinaryEvaluation, MulticlassEvaluation, NumberEvaluation, SurvivalEvaluation)
}


def evaluation(kind: str, **settings: Any) -> Evaluation:
    """``evaluation("binary", min_count=10)``; the settings are those of the kind's class. `MethodError` for another kind."""
    if kind not in KINDS:
        raise MethodError(
            f"There is no evaluation {kind!r}.",
            rule="known-evaluations",
            remedy=f"Ask for one of {', '.join(KINDS)}.",
        )
    return KINDS[kind](**settings)
