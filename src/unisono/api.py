"""Unisono from Python: `run` a study over sites in this process, and read what came back."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unisono.engines.embedded.run import Outcome, Run, Settings, SiteData, run_study
from unisono.errors import StudyError, UnisonoError
from unisono.methods.base import Result
from unisono.methods.registry import check
from unisono.report.comparison import Comparison
from unisono.report.files import write
from unisono.study.document import Study
from unisono.study.load import load

if TYPE_CHECKING:
    import pandas as pd

    SiteArgument = SiteData | pd.DataFrame | Path | str | tuple[Any, Any]
else:
    SiteArgument = Any


@dataclass(frozen=True)
class StudyResult(Mapping[str, Result]):
    """The results by analysis: ``answer["effect"].summary()``. An analysis that failed raises its error when asked for."""

    completed: Run
    folder: Path
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()

    def __getitem__(self, analysis: str) -> Result:
        outcome = self._outcome(analysis)
        if outcome.error is not None:
            raise outcome.error
        assert outcome.answer is not None
        return outcome.answer.result

    def __iter__(self) -> Iterator[str]:
        return iter(self.completed.outcomes)

    def __len__(self) -> int:
        return len(self.completed.outcomes)

    @property
    def errors(self) -> dict[str, UnisonoError]:
        """The analyses that could not be answered, and why."""
        return {name: o.error for name, o in self.completed.outcomes.items() if o.error is not None}

    @property
    def report(self) -> Path:
        """The self-contained HTML report."""
        return self.folder / "report.html"

    def __repr__(self) -> str:
        """What was asked and what came back; no data."""
        said = [
            f"{name}: {o.answer.result.headline()}" if o.answer is not None else f"{name}: no answer"
            for name, o in self.completed.outcomes.items()
        ]
        return "\n".join([f"StudyResult of {self.completed.study.id!r} in {self.folder}", *said])

    def _outcome(self, analysis: str) -> Outcome:
        if analysis not in self.completed.outcomes:
            raise StudyError(
                f"There is no analysis {analysis!r} in this run.",
                rule="known-analyses",
                remedy=f"There are: {', '.join(self.completed.outcomes)}.",
            )
        return self.completed.outcomes[analysis]

    def _repr_html_(self) -> str:
        parts = [f"<h3>{html.escape(self.completed.study.question)}</h3>"]
        for name, outcome in self.completed.outcomes.items():
            parts.append(f"<h4>{html.escape(name)}</h4>")
            if outcome.answer is not None:
                parts.append(outcome.answer.result._repr_html_())
            else:
                parts.append(f"<pre>{html.escape(str(outcome.error))}</pre>")
        return "".join(parts)


def run(
    study: Study | Mapping[str, Any] | Path | str,
    sites: Mapping[str, SiteArgument],
    *,
    out: Path | str | None = None,
    analyses: Sequence[str] | None = None,
    fresh: bool = False,
    settings: Settings | None = None,
    compare: Callable[[StudyResult], Comparison] | None = None,
) -> StudyResult:
    """Answer a study over sites in this process, and write its results.

    study: a path (YAML or JSON), a mapping, or a `Study`.
    sites: by name; a DataFrame or a file, or a pair (data, mapping) where the data does not speak the study's words.
    out: the folder of results; the same folder again goes on with what is there. A new temporary folder by default.
    analyses: only these. fresh: forget what the folder holds. compare: makes the report's comparison with a pooled fit.

    Errors of the study, of a site's data or of the folder are raised (`UnisonoError`, with rule and remedy); an analysis
    that cannot be answered raises when it is read from the result.
    """
    checked = load(study, check)
    if not isinstance(sites, Mapping) or not all(isinstance(name, str) for name in sites):
        raise StudyError(
            "The sites are not a mapping from names to data.",
            rule="site-form",
            remedy='Write unisono.run(study, {"padua": frame, "turin": "turin.csv"}).',
        )
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="unisono-"))
    settings = settings or Settings(analyses=analyses, fresh=fresh)
    completed = run_study(checked, {name: site_data(given) for name, given in sites.items()}, folder, settings)
    found = StudyResult(completed, folder)
    comparison = compare(found) if compare is not None else None
    written = write(completed, comparison)
    return replace(found, comparison=comparison, notes=written.notes)


def site_data(given: SiteArgument) -> SiteData:
    """What `run` was given for one site, as `SiteData`."""
    if isinstance(given, SiteData):
        return given
    if isinstance(given, tuple):
        source, mapping = given
        return SiteData(Path(source) if isinstance(source, str) else source, mapping)
    return SiteData(Path(given) if isinstance(given, str) else given)
