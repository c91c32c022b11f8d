"""The contract of a method: both halves in one class, a spec that checks itself, and a result that is a view of its estimates."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from unisono.errors import MissingExtra
from unisono.federation.contribution import BoundContribution
from unisono.methods.figures import inline
from unisono.study.document import Study
from unisono.study.problems import Problem
from unisono.study.table import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from unisono.federation.federation import Federation


class Spec(BaseModel):
    """A method's parameters, as written in the study under ``analyses: <name>:``. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def problems(self, study: Study) -> list[Problem]:  # noqa: ARG002  (for methods to override)
        """What does not fit this study (unknown variables, a time that is not a number, ...).
        Paths are relative to the analysis: ``("covariates", 1)``."""
        return []


S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class PlannedAsk:
    """One contribution that a study may ask for, for the disclosure sheet and the permit's limits.

    arguments: an example of the broadcast arguments, of the shapes that will be used.
    at_most: how many times (steps) in one analysis. operation: ``collect`` if the coordinator is to see each site's own part.
    """

    contribution: BoundContribution[..., Any]
    arguments: tuple[Any, ...]
    at_most: int
    operation: Literal["sum", "collect"] = "sum"


@dataclass(frozen=True)
class Result(ABC):
    """What an analysis found. `estimates` (plain JSON values) is all of it; everything else is a view of it."""

    study: Study
    analysis: str
    estimates: dict[str, Any]
    converged: bool = True
    notes: tuple[str, ...] = field(default=())

    @abstractmethod
    def summary(self) -> pd.DataFrame:
        """The table a reader wants first."""

    @abstractmethod
    def headline(self) -> str:
        """The answer in one sentence, with direction and reference group; no ``p = 0.000``."""

    @abstractmethod
    def plot(self) -> Figure:
        """The figure. `MissingExtra` without ``unisono[report]``."""

    def files(self) -> Mapping[str, bytes]:
        """Files for the user's own tools (a model), by name, to be written beside ``result.json``; `estimates` holds the SHA-256 of
        each. A result that was rebuilt from its estimates has none."""
        return {}

    def _repr_html_(self) -> str:
        """For notebooks: the headline, the summary table, the figure (where matplotlib is installed) and the notes."""
        try:
            picture = inline(self.plot())
        except MissingExtra as missing:
            picture = f"<p><em>{html.escape(missing.what)} {html.escape(missing.remedy)}</em></p>"
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        table = self.summary().to_html(border=0, na_rep="–", float_format="{:.3g}".format)
        return f"<p><strong>{html.escape(self.headline())}</strong></p>{table}{picture}<ul>{notes}</ul>"


class Method(ABC, Generic[S]):
    """How one analysis is answered. Instances exist at the coordinator and at every site, built from the same study:
    the coordinator calls `run`, a site calls `prepare` and the contributions."""

    name: ClassVar[str]
    version: ClassVar[int]
    spec_type: ClassVar[type[Spec]]
    rows: ClassVar[Literal["all", "eligible", "cohort"]] = "cohort"
    """Which of a site's rows `prepare` is given: the cohort (eligible, and the missing-data rule applied, so without NaN);
    ``eligible`` where missing values are themselves described (Table 1); ``all`` for the patient flow alone."""

    kin: ClassVar[str] = ""
    """What methods have in common whose sums could be subtracted from each other: two near-twins are found among them. Empty: the
    method alone."""

    pooled: ClassVar[Literal["exact", "same-trees", "none"]] = "none"
    """What computing over the pooled patients would give: the same numbers, but for rounding (``exact``); the same trees, to the
    last bit; or something else (``none``, which is said of a method that does not say)."""

    def __init__(self, study: Study, analysis: str, spec: S) -> None:
        self.study = study
        self.analysis = analysis
        self.spec = spec

    @abstractmethod
    def variables(self) -> tuple[str, ...]:
        """The study's variables that this analysis reads, each once."""

    @abstractmethod
    def prepare(self, table: Table) -> Any:
        """At the site, once: from the cohort's rows of `variables()` to what the contributions take as `data`."""

    def held_out(self, data: Any) -> NDArray[np.bool_] | None:
        """At the site: which rows of the cohort (n,) are kept from fitting, to validate; None where the method splits no cohort.
        data: as `prepare` made it. Two splits that differ by a few patients would show those few (`site/near_twins.py`)."""
        del data
        return None

    @property
    def parameters(self) -> int:
        """Number of fitted parameters, for the rule *parameters against n*; 0 where nothing is fitted."""
        return 0

    @abstractmethod
    def plan(self) -> tuple[PlannedAsk, ...]:
        """Every contribution that may be asked for, and how often at most."""

    @abstractmethod
    async def run(self, federation: Federation) -> Result:
        """The coordinator's half. Deterministic given the sums: no clock, no randomness, no files."""

    @classmethod
    @abstractmethod
    def result(cls, study: Study, analysis: str, estimates: dict[str, Any], **rest: Any) -> Result:
        """The result rebuilt from stored estimates (``rest``: converged, notes)."""
