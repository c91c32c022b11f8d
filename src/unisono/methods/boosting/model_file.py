"""The files of boosted trees: `model.xgboost.json` for XGBoost; `model.json`, which says what its columns mean and where it is from.

Read again (`unisono predict`) without XGBoost: the trees as data, evaluated in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from unisono.errors import ProtocolError
from unisono.federation.contribution import Facts
from unisono.methods.base import Method
from unisono.methods.boosting.features import Feature, features_of, matrix
from unisono.methods.boosting.model import Limits, Model, read_model
from unisono.methods.boosting.objectives import Cox, Logistic, Objective, Poisson, SquaredError
from unisono.methods.boosting.spec import BoostingSpec
from unisono.methods.model_card import (
    CARD,
    CardPart,
    ModelCard,
    checked_file,
    described,
    digest,
    not_a_model,
    read_card,
)
from unisono.methods.model_card import Model as Predictor
from unisono.study.document import CategoryVariable, Name, NumberVariable, Study
from unisono.study.table import Table

TREES = "model.xgboost.json"

OBJECTIVES: dict[str, Objective] = {o.xgboost: o for o in (Logistic(), SquaredError(0.0, 1.0), Poisson(1.0), Cox())}
"""By XGBoost's name: for scores and predictions, which depend on no bounds."""
PREDICTS = {
    "binary:logistic": "probability of the outcome",
    "reg:squarederror": "mean of the outcome",
    "count:poisson": "expected number of events",
    "survival:cox": "hazard ratio to a patient of score 0; no survival probability",
}
_LIMITS = Limits(size=2**28, trees=2**16, depth=16, leaf=1e30)
"""Of our own file, whose SHA-256 is in the card."""


class Column(CardPart):
    """A column of the trees. one_if: the level whose indicator (1 or 0) it is; null for the variable itself (a boolean: 1 or 0)."""

    name: str
    variable: Name
    one_if: str | None


class TreesCard(ModelCard):
    """``model.json`` of boosted trees. predicts: what a prediction is. base_score: the prediction before any tree. columns: in the
    order of the trees' features. trained_on, held_out: numbers of patients."""

    FORMAT: ClassVar[str] = "unisono-trees-1"

    format: Literal["unisono-trees-1"] = "unisono-trees-1"
    outcome: tuple[Name, ...] = Field(min_length=1)
    objective: Literal["binary:logistic", "reg:squarederror", "count:poisson", "survival:cox"]
    predicts: str
    base_score: float
    columns: tuple[Column, ...]
    trained_on: int = Field(ge=0)
    held_out: int = Field(ge=0)

    @model_validator(mode="after")
    def _columns_of_features(self) -> TreesCard:
        unfit = [name for name in self.features if self.variables[name].type == "image"]
        if unfit or columns_of(self.study(), features_of(self.study(), self.features, 2)) != self.columns:
            raise ValueError("the columns are not those of the features")
        return self


def columns_of(study: Study, features: tuple[Feature, ...]) -> tuple[Column, ...]:
    """How each column is made."""
    found = []
    for feature in features:
        variable = study.variables[feature.variable]
        level = (
            variable.levels[feature.level]
            if isinstance(variable, CategoryVariable) and feature.level is not None
            else None
        )
        found.append(Column(name=feature.name, variable=feature.variable, one_if=level))
    return tuple(found)


class TreesModel(Predictor):
    """Boosted trees that were read."""

    def __init__(self, card: TreesCard, trees: Model) -> None:
        self.card: TreesCard = card
        self.trees = trees
        self.features = features_of(card.study(), card.features, 2)
        self.objective = OBJECTIVES[card.objective]

    def columns(self) -> tuple[str, ...]:
        """``probability[outcome]``, the outcome in its unit, or the hazard ratio."""
        card = self.card
        if card.objective in ("binary:logistic", "survival:cox"):
            return ((f"probability[{card.outcome[0]}]" if card.objective == "binary:logistic" else "hazard_ratio"),)
        variable = card.variables[card.outcome[0]]
        unit = variable.unit if isinstance(variable, NumberVariable) else "1"
        return (card.outcome[0] if unit == "1" else f"{card.outcome[0]} [{unit}]",)

    def predict(self, table: Table) -> NDArray[np.float64]:
        score = self.trees.scores(matrix(self.features, table), self.objective.margin(self.trees.base_score))
        return self.objective.predict(score)[:, None]


def write(
    method: Method[Any],
    facts: Facts,
    model: bytes,
    *,
    trees: int,
    base_score: float,
    patients: tuple[int, int],
    sites: tuple[str, ...],
) -> dict[str, bytes]:
    """Both files, by name. model: in XGBoost's form. patients: trained on, and held out."""
    spec, study = method.spec, method.study
    assert isinstance(spec, BoostingSpec)
    objective = {"logistic": "binary:logistic", "squared-error": "reg:squarederror", "poisson": "count:poisson"}
    name: Any = objective.get(spec.objective, "survival:cox")
    card = TreesCard(
        **described(study, method.analysis, spec.features, facts, rounds=trees, sites=sites, learned=True),
        outcome=spec.targets(),
        objective=name,
        predicts=PREDICTS[name],
        base_score=base_score,
        columns=columns_of(study, features_of(study, spec.features, 2)),
        trained_on=patients[0],
        held_out=patients[1],
        files={TREES: digest(model)},
    )
    return {TREES: model, CARD: card.to_bytes()}


def read(files: Mapping[str, bytes]) -> TreesModel:
    """The trees in these files. `StorageError` (``model-file``) if they are not as they were written, or do not belong together."""
    if CARD not in files:
        raise not_a_model("is missing", "Keep the files of a model together in one folder.")
    card = read_card(TreesCard, files[CARD])
    content = checked_file(card, files, TREES)
    try:
        trees = read_model(content, [column.name for column in card.columns], card.objective, _LIMITS)
    except ProtocolError as error:
        raise not_a_model(f"comes with a {TREES} that cannot be read") from error
    same = np.float32(trees.base_score) == np.float32(card.base_score)  # the file holds it in single precision
    if trees.trees != card.provenance.rounds or not same:
        raise not_a_model(f"does not fit its {TREES}")
    return TreesModel(card, trees)
