"""A run read back from the files it left: study.yaml, run.json, every result.json and journal. Needs no hospital and no data.

The report is always made from what is read here, so that `unisono report OUT` gives the same report again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unisono.errors import JournalError, StorageError, StudyError, UnisonoError
from unisono.federation.journal import Journal
from unisono.methods.base import Result
from unisono.methods.registry import check, find
from unisono.report import plain_json
from unisono.report.comparison import Comparison
from unisono.report.disclosure_sheet import ActualRow, actual
from unisono.report.participation import SumTaken, sums_taken
from unisono.report.record import FILE as RESULT
from unisono.report.record import AnalysisRecord
from unisono.report.run_record import AnalysisRun, RunRecord
from unisono.study.document import Study
from unisono.study.load import load as load_study

STUDY = "study.yaml"
JOURNAL = "journal.db"
COMPARISON = "comparison.json"


@dataclass(frozen=True)
class LoadedAnalysis:
    """One analysis: its record and result, or the error that stopped it; and what its journal says was opened."""

    name: str
    record: AnalysisRecord | None
    result: Result | None
    error: UnisonoError | None
    run: AnalysisRun
    sums: tuple[SumTaken, ...]
    sheet: tuple[ActualRow, ...]


@dataclass(frozen=True)
class LoadedRun:
    """A whole run. `analyses` are in the study's order; those that were never run are not among them."""

    out: Path
    study: Study
    run: RunRecord
    analyses: tuple[LoadedAnalysis, ...]
    comparison: Comparison | None = None

    @property
    def answered(self) -> tuple[LoadedAnalysis, ...]:
        """The analyses that have a result."""
        return tuple(a for a in self.analyses if a.result is not None)


def load(out: Path) -> LoadedRun:
    """The run in the folder `out`.

    `StorageError` if the folder holds no run or a file of it cannot be read; `JournalError` if a journal is missing,
    damaged, or not the one that a result came from; `StudyError` if the study's methods are not installed here.
    """
    if not (out / STUDY).exists():
        raise StorageError(
            f"{out} holds no run.", rule="run-folder", remedy="Name the folder that `unisono run --out` wrote."
        )
    study = load_study(out / STUDY, check)
    run = RunRecord.read(out)
    if run.study != study.digest():
        raise StudyError(
            f"{out / STUDY} is not the study that this folder's results answer.",
            rule="one-run-a-folder",
            remedy="Put the study back as it was run; a changed study is run in another folder.",
        )
    analyses = tuple(_analysis(out, study, run, name) for name in study.analyses if name in run.analyses)
    return LoadedRun(out, study, run, analyses, _comparison(out, run))


def _analysis(out: Path, study: Study, run: RunRecord, name: str) -> LoadedAnalysis:
    folder, entry = out / name, run.analyses[name]
    record = None
    if entry.error is None:
        record = AnalysisRecord.read(folder)
    if not (folder / JOURNAL).exists():
        raise JournalError(
            f"{folder / JOURNAL} is not there.",
            rule="complete-journal",
            remedy="Report on the whole folder that the run wrote, journals included.",
        )
    journal = Journal(folder / JOURNAL, read_only=True)
    try:
        if record is not None and record.journal_digest != journal.digest:
            raise JournalError(
                f"{folder / RESULT} and its journal do not belong together.",
                rule="journal-integrity",
                remedy="Restore both from a back-up, or run the same command again: it writes the results anew.",
            )
        return LoadedAnalysis(
            name,
            record,
            None if record is None else _result(study, record),
            None if entry.error is None else UnisonoError.from_dict(entry.error),
            entry,
            tuple(sums_taken(journal, run.sites)),
            tuple(actual(journal, study, name)),
        )
    finally:
        journal.close()


def _result(study: Study, record: AnalysisRecord) -> Result:
    method = find(record.method)
    return method.result(
        study, record.analysis, record.estimates, converged=record.converged, notes=tuple(record.notes)
    )


def _comparison(out: Path, run: RunRecord) -> Comparison | None:
    """The comparison with a pooled fit, if there is one and it is of these very answers."""
    path = out / COMPARISON
    if not path.exists():
        return None
    data = plain_json.read(path, "comparison")
    journals = {name: entry.journal_digest for name, entry in run.analyses.items()}
    if data.get("journals") != journals:
        return None
    try:
        return Comparison.from_dict(data)
    except (KeyError, TypeError) as error:
        raise plain_json.unreadable(path, "comparison", "it has another form") from error
