"""``model.json``: what every model file says of itself, whatever the model is; and the study's words, by which new patients are read.

A card is data. It is validated as it is read, names no code but a kind that must be installed here, and holds the SHA-256 of
the files beside it. Each kind of model adds its own part: `training.model_file` (networks), boosted trees theirs.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unisono.errors import StorageError, StudyError
from unisono.federation.contribution import Facts
from unisono.methods.packages import Package
from unisono.methods.registry import packages_for
from unisono.study.cohort import derivation_order, reads
from unisono.study.document import Analysis, Cohort, Name, Protection, Slug, Study, Variable
from unisono.study.table import Table
from unisono.version import VERSION

CARD = "model.json"
MOST_BYTES = 16 * 2**20
"""Of a card."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Missing = Literal["complete-cases", "mean", "mode", "learned"]

C = TypeVar("C", bound="ModelCard")


class CardPart(BaseModel):
    """A part of a card: frozen, unknown keys and wrong types are errors, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Provenance(CardPart):
    """Where a model comes from. study: SHA-256 of the document. packages: that its method and its kind come from. rounds: so many
    (of a boosted model: trees). sites: whose patients it was made of; one hospital's own model names that one. patients: of the
    whole cohort."""

    study: Digest
    study_id: Slug
    question: str
    analysis: Slug
    method: str
    method_version: int
    packages: tuple[Package, ...]
    unisono: str
    rounds: int = Field(ge=0)
    sites: tuple[str, ...]
    patients: int = Field(ge=0)


class ModelCard(CardPart):
    """What all models say.

    format: kind and version of the file. variables: all of the study's, as it declares them, so that a mapping to the study is one
    to the model. features: those that the model reads. missing, imputed: of each feature, what is done with a missing value;
    ``learned``: the model takes it as missing. include: who was in the cohort. files: name -> SHA-256 of what is beside the card.
    protection: how the sums were hidden. privacy_spent: of a privacy budget; null, since no noise was added.
    """

    FORMAT: ClassVar[str] = ""

    format: str
    provenance: Provenance
    protection: Protection
    privacy_spent: None = None
    features: tuple[Name, ...] = Field(min_length=1)
    missing: dict[Name, Missing]
    imputed: dict[Name, float]
    include: tuple[str, ...]
    variables: dict[Name, Variable]
    files: dict[str, Digest] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> ModelCard:
        if self.format != self.FORMAT:
            raise ValueError(f"the format is {self.FORMAT!r}")
        unknown = {*self.features, *self.imputed} - set(self.variables)
        if unknown:
            raise ValueError(f"no variable {', '.join(sorted(unknown))} is declared")
        if set(self.missing) != set(self.features) or len(set(self.features)) != len(self.features):
            raise ValueError("`missing` says something of each feature, once")
        absent = [n for n, rule in self.missing.items() if rule in ("mean", "mode") and n not in self.imputed]
        if absent:
            raise ValueError(f"there is no value to fill the gaps of {', '.join(absent)} with")
        return self

    @property
    def needed(self) -> tuple[str, ...]:
        """The features, and the variables that they are derived from, in the study's order."""
        wanted: set[str] = set()
        waiting = list(self.features)
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                waiting += reads(self.variables[name], self.variables)
        return tuple(name for name in self.variables if name in wanted)

    def study(self, names: Iterable[str] | None = None) -> Study:
        """A study of nothing but these variables (the needed ones), to read new patients by."""
        chosen = {name: self.variables[name] for name in (self.needed if names is None else names)}
        rules = {name: rule for name, rule in self.missing.items() if rule != "learned"}
        return Study(
            unisono=1,
            id=self.provenance.study_id,
            question=self.provenance.question,
            variables=chosen,
            cohort=Cohort(missing={**rules, "default": "complete-cases"}),
            analyses={"predict": Analysis(method=self.provenance.method)},
        )

    def to_bytes(self) -> bytes:
        """The card as JSON text."""
        return (json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n").encode()


class Model(ABC):
    """A model that was read from its files, and predicts."""

    card: ModelCard

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Headings of the predictions."""

    @abstractmethod
    def predict(self, table: Table) -> NDArray[np.float64]:
        """(n, columns) for the patients of a table of the card's features, in the study's units; only features whose gaps are
        ``learned`` may be missing."""


def described(study: Study, analysis: str, features: Iterable[str], facts: Facts, **made: Any) -> dict[str, Any]:
    """What a card says that follows from the study. made: `rounds` and `sites`; `learned`: the model takes missing values as they
    are."""
    from unisono.methods.registry import find

    written, names = study.analyses[analysis], tuple(features)
    learned = made.get("learned", False)
    missing = {name: "learned" if learned else study.cohort.missing_rule(name) for name in names}
    return {
        "provenance": Provenance(
            study=study.digest(),
            study_id=study.id,
            question=study.question,
            analysis=analysis,
            method=written.method,
            method_version=find(written.method).version,
            packages=tuple(packages_for(study).values()),
            unisono=VERSION,
            rounds=made["rounds"],
            sites=tuple(made["sites"]),
            patients=facts.patients,
        ),
        "protection": study.protection,
        "features": names,
        "missing": missing,
        "imputed": {} if learned else {n: float(v) for n, v in facts.imputed.items() if n in names},
        "include": tuple(study.cohort.include),
        "variables": study.variables,
    }


def digest(content: bytes) -> str:
    """SHA-256 (hex)."""
    return hashlib.sha256(content).hexdigest()


def format_of(content: bytes) -> str:
    """The format that a card says it has. `StorageError` (``model-file``) if it says none."""
    try:
        found = json.loads(content) if len(content) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("format"), str):
        raise not_a_model(
            "is not the card of a model of Unisono's", "Name the folder, or the `model.json`, that a run wrote."
        )
    return str(found["format"])


def read_card(kind: type[C], content: bytes) -> C:
    """A card of this kind. `StorageError` (``model-file``) naming the place that is not as it should be."""
    try:
        card = kind.model_validate_json(content)
        derivation_order(card.study())
        return card
    except StudyError as error:
        raise not_a_model(f"derives a variable in a way that cannot be read: {error.what}") from error
    except ValidationError as error:
        places = [".".join(map(str, item["loc"])) or item["msg"] for item in error.errors(include_input=False)[:3]]
        raise not_a_model(f"is not as it was written, at: {'; '.join(places)}") from error


def checked_file(card: ModelCard, files: Mapping[str, bytes], name: str) -> bytes:
    """A file beside the card. `StorageError` (``model-file``) if it is not there, or not the one that the card was written with."""
    if name not in card.files or name not in files:
        raise not_a_model(f"comes without {name}", "Keep the files of a model together in one folder.")
    found = digest(files[name])
    if not hmac.compare_digest(found, card.files[name]):
        raise not_a_model(
            f"was written with another {name}: SHA-256 {card.files[name][:12]}..., and here is {found[:12]}...",
        )
    return files[name]


def not_a_model(
    what: str, remedy: str = "Use the model's files as the run wrote them; copy them again."
) -> StorageError:
    """The error for a card or a file of a model that is damaged, altered, or of another model."""
    return StorageError(f"The {CARD} {what}.", rule="model-file", remedy=remedy)
