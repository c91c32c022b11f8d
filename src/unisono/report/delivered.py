"""Results as they are delivered over a network, read back: the files of a run without its journals, which stay with the
coordinator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unisono.engines.embedded.outcome import Outcome
from unisono.errors import StorageError, UnisonoError
from unisono.methods.cohort import CohortResult
from unisono.methods.registry import check, find
from unisono.methods.runner import Answer
from unisono.report.load import JOURNAL, STUDY
from unisono.report.record import AnalysisRecord
from unisono.report.run_record import RunRecord
from unisono.study.document import Study
from unisono.study.load import load as load_study


@dataclass(frozen=True)
class Delivered:
    """A folder of results. outcomes: by analysis, in the study's order; their journals are not here."""

    study: Study
    sites: tuple[str, ...]
    outcomes: dict[str, Outcome]


def read(folder: Path) -> Delivered:
    """The results in a folder. `StorageError` if it holds none or a file cannot be read; `StudyError` if the study's methods
    are not installed here."""
    if not (folder / STUDY).exists():
        raise StorageError(
            f"{folder} holds no results.",
            rule="run-folder",
            remedy="Name the folder that `unisono study result` wrote.",
        )
    study, run = load_study(folder / STUDY, check), RunRecord.read(folder)
    outcomes: dict[str, Outcome] = {}
    for name in study.analyses:
        if name not in run.analyses:
            continue
        entry = run.analyses[name]
        error = None if entry.error is None else UnisonoError.from_dict(entry.error)
        answer = None if error is not None else _answer(study, AnalysisRecord.read(folder / name))
        outcomes[name] = Outcome(name, answer, error, folder / name / JOURNAL, entry.journal_digest, entry.seconds)
    return Delivered(study, tuple(run.sites), outcomes)


def _answer(study: Study, record: AnalysisRecord) -> Answer:
    method = find(record.method)
    result = method.result(
        study, record.analysis, record.estimates, converged=record.converged, notes=tuple(record.notes)
    )
    return Answer(result, CohortResult(study, record.analysis, record.cohort), tuple(record.sites))
