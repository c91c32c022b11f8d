"""The study document: the question, its variables, the cohort, the analyses, the protection and the release rules.

Pure pydantic models; reading files is `unisono.study.load`, expressions are `unisono.study.expressions`. An analysis's
own parameters are kept as written here and validated by its method's spec, one floor up (`unisono.methods.registry`).
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = r"^[a-z][a-z0-9_]{0,62}$"
"""Variables, and the names that appear in expressions."""
SLUG = r"^[a-z0-9][a-z0-9._-]{0,62}$"
"""Studies, analyses and sites: names that become folders."""

LATER = (("participation", "quorum"), ("participation", "approve_within"))
"""Added to version 1 of the format after studies had been signed."""

Name = Annotated[str, Field(pattern=NAME)]
Slug = Annotated[str, Field(pattern=SLUG)]


class Strict(BaseModel):
    """Frozen; an unknown key is an error, a wrong type is never converted silently, a number is finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Cut(Strict):
    """A category from a number: ``{variable: age, at: [50, 65]}`` gives below 50, 50 to below 65, and 65 and above."""

    variable: Name
    at: list[float] = Field(min_length=1)


class NumberVariable(Strict):
    """A quantity. `min` and `max` are the declared bounds: values outside are reported and treated as the mapping says,
    and the bounds (not the data) fix how sums are encoded."""

    type: Literal["number", "integer"]
    unit: str = "1"
    min: float
    max: float
    label: str | None = None
    derive: str | None = None

    @model_validator(mode="after")
    def _ordered(self) -> NumberVariable:
        if not self.min < self.max:
            raise ValueError(f"min {self.min:g} must be below max {self.max:g}")
        return self


class BooleanVariable(Strict):
    """Yes or no, stored as 1 and 0."""

    type: Literal["boolean"]
    label: str | None = None
    derive: str | None = None


class CategoryVariable(Strict):
    """One of `levels`; `reference` is the level the others are compared with (the first by default)."""

    type: Literal["category"]
    levels: list[str] = Field(min_length=2)
    reference: str = ""
    label: str | None = None
    derive: Cut | None = None

    @field_validator("levels")
    @classmethod
    def _distinct(cls, levels: list[str]) -> list[str]:
        if len(set(levels)) != len(levels):
            raise ValueError("levels must be distinct")
        if any(sign in level for level in levels for sign in "[]:"):
            raise ValueError("a level's name cannot hold [, ] or :, which stand in the names of coefficients")
        return levels

    @model_validator(mode="before")
    @classmethod
    def _default_reference(cls, data: Any) -> Any:
        if (
            isinstance(data, dict)
            and "reference" not in data
            and isinstance(data.get("levels"), list)
            and data["levels"]
        ):
            return {**data, "reference": data["levels"][0]}
        return data

    @model_validator(mode="after")
    def _known_reference(self) -> CategoryVariable:
        if self.reference not in self.levels:
            raise ValueError(f"reference {self.reference!r} is not one of the levels {self.levels}")
        if self.derive is not None and len(self.levels) != len(self.derive.at) + 1:
            raise ValueError(
                f"{len(self.derive.at)} cut points make {len(self.derive.at) + 1} levels, not {len(self.levels)}"
            )
        return self


class Intensity(Strict):
    """Which of a picture's values become 0 and 1; what is beyond becomes 0 or 1, and a picture of one value becomes 0.

    `window`: these values, in the file's own quantity (grey levels of a PNG, Hounsfield units of a CT after its rescale slope).
    `percentiles`: of each picture's own values, for quantities without a unit, such as MRI.
    """

    window: list[float] | None = Field(default=None, min_length=2, max_length=2)
    percentiles: list[Annotated[float, Field(ge=0, le=100)]] | None = Field(default=None, min_length=2, max_length=2)

    @model_validator(mode="after")
    def _one(self) -> Intensity:
        if (self.window is None) == (self.percentiles is None):
            raise ValueError("say one of 'window' and 'percentiles', as in {window: [0, 255]}")
        low, high = self.window or self.percentiles or [0.0, 0.0]
        if not low < high:
            raise ValueError(f"the first value ({low:g}) must be below the second ({high:g})")
        return self


class Slice(Strict):
    """One plane of a volume, `at` a fraction of the way through it: 0 is the lowest (axial), hindmost (coronal) or leftmost
    (sagittal), 1 the highest, foremost or rightmost; a fraction, because hospitals' volumes differ in how many planes they have."""

    plane: Literal["axial", "coronal", "sagittal"]
    at: float = Field(default=0.5, ge=0, le=1)


LARGEST_SIDE = 1024
"""Pixels, of an image after resampling."""

Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class ImageVariable(Strict):
    """A picture of each patient, as float32 within [0, 1] of shape (channels, height, width).

    `size` is [height, width] in pixels after resampling. `slice` chooses a plane where a file is a volume, `frame` (from 1) one of
    a DICOM file of several, or of a NIfTI file's fourth dimension; without them such a file is refused.
    """

    derive: ClassVar[None] = None

    type: Literal["image"]
    size: list[Side] = Field(min_length=2, max_length=2)
    channels: Literal[1, 3] = 1
    resample: Literal["linear", "nearest"] = "linear"
    intensity: Intensity
    slice: Slice | None = None
    frame: int | None = Field(default=None, ge=1)
    label: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        height, width = self.size
        return self.channels, height, width


Variable = Annotated[NumberVariable | BooleanVariable | CategoryVariable | ImageVariable, Field(discriminator="type")]

MissingRule = Literal["complete-cases", "mean", "mode"]


class Cohort(Strict):
    """Who is in: every expression of `include` must hold. `missing` is one rule for all variables, or a rule for each
    (with ``default`` for the rest): ``complete-cases``, or impute by the federated ``mean`` / ``mode``."""

    include: list[str] = Field(default_factory=list)
    missing: MissingRule | dict[str, MissingRule] = "complete-cases"

    def missing_rule(self, variable: str) -> MissingRule:
        """The rule for one variable."""
        if isinstance(self.missing, str):
            return self.missing
        return self.missing.get(variable, self.missing.get("default", "complete-cases"))


class Grid(Strict):
    """The declared time grid of a survival analysis: times rounded up, entries down, to multiples of `step` `unit`."""

    step: float = Field(gt=0)
    unit: str


class Analysis(BaseModel):
    """One analysis: the method's name and the method's own parameters (validated by the method's spec)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything but `method`, as written."""
        return dict(self.__pydantic_extra__ or {})


Hide = Literal["secagg", "secagg+", "ckks", "paillier", "none"]


class Protection(Strict):
    """How every sum is hidden. `hide`: ``secagg`` (every site masks with every other), ``secagg+`` (above 32 sites with some
    neighbours, drawn at random) or ``none``; ``ckks`` and ``paillier`` are reserved. `threat`: the coordinator follows the
    protocol and is curious, or may also lie (``malicious``: sites sign who is in a sum before it is opened). `colluding`: so
    many sites may conspire with the coordinator and see no other site's part. How many must stay, and how many may be
    lost, follows from these and the number of sites."""

    hide: Hide = "secagg"
    threat: Literal["semi-honest", "malicious"] = "semi-honest"
    colluding: int = Field(default=1, ge=0)


class Release(Strict):
    """What may be opened and written: sites in a sum (one's own included) and patients in a released cell."""

    min_sites: int = Field(default=3, ge=1)
    min_count: int = Field(default=10, ge=1)


class Participation(Strict):
    """What happens when a site is lost *before* its masked input: ``wait`` for it until `deadline` and then stop
    (resumable), ``abort`` at once, or ``continue`` without it, everything recomputed on those who stayed (which
    discloses the leaving site's aggregate). A site lost after its masked input is counted in any case.

    Before that, over a network: the stewards have `approve_within` to decide. `quorum` is how many of the named sites suffice to
    begin (all of them, if it is not said); those who approved are then asked anew, over themselves alone."""

    on_dropout: Literal["wait", "abort", "continue"] = "wait"
    deadline: str = "10 min"
    quorum: int | None = Field(default=None, ge=1)
    approve_within: str = "30 d"


class Study(Strict):
    """A whole study document (``unisono: 1``)."""

    unisono: Literal[1]
    id: Slug
    question: str = Field(min_length=1)
    purpose: str = "scientific research"
    variables: dict[Name, Variable] = Field(min_length=1)
    cohort: Cohort = Cohort()
    analyses: dict[Slug, Analysis] = Field(min_length=1)
    protection: Protection = Protection()
    release: Release = Release()
    participation: Participation = Participation()

    @field_validator("unisono", mode="before")
    @classmethod
    def _a_number(cls, version: Any) -> Any:
        if isinstance(version, bool):
            raise ValueError("the version of the study format is the number 1")
        return version

    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the document with every default written out: the same for YAML and JSON,
        for any order of keys within a mapping, and for any spelling of a default or of a number (1 and 1.0). What later versions
        of the format added counts only where it is said, so that what was signed before stays signed."""
        document = canonical(self.model_dump(mode="json"))
        for part, name in LATER:
            default = type(getattr(self, part)).model_fields[name].default
            if document[part][name] == canonical(default):
                del document[part][name]
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: Any) -> Any:
    """Whole numbers without a decimal point, everywhere: an analysis's own parameters are kept as written."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
