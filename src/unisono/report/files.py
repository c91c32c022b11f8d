"""What a run leaves in its folder: results, figures, disclosure sheets, each hospital's own sheets, and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unisono.errors import MissingExtra, StorageError, UnisonoError
from unisono.federation.journal import Journal
from unisono.federation.storage import write_whole
from unisono.report import audience, plain_json
from unisono.report.comparison import Comparison
from unisono.report.disclosure_sheet import actual, csv_text
from unisono.report.html import REPORT, write_noted
from unisono.report.isolated import fault
from unisono.report.load import COMPARISON, JOURNAL, STUDY, load
from unisono.report.record import AnalysisRecord
from unisono.report.run_record import FILE as RUN
from unisono.report.run_record import AnalysisRun, RunRecord, analysis_run
from unisono.report.shown_sum import shown_sum
from unisono.site.sheets import NOTICE
from unisono.study.load import dump_yaml
from unisono.study.load import load as load_study

if TYPE_CHECKING:
    from unisono.engines.embedded.run import Outcome, Run
    from unisono.study.document import Study

EXCHANGE = "embedded"


@dataclass(frozen=True)
class Written:
    """What `write` left. report: the report's path, None where it could not be made. notes: what could not be written or
    drawn, and why."""

    out: Path
    report: Path | None
    notes: tuple[str, ...] = ()


def write(run: Run, comparison: Comparison | None = None, *, exchange: str = EXCHANGE) -> Written:
    """Write a run's folder, and the report from it.

    What an earlier command answered in the same folder stays and is reported on too. comparison: with the pooled fit, in
    simulations. exchange: how asks travelled. Without ``unisono[report]`` everything but figures and report is written, and a note says so; what goes
    wrong with one analysis, or with the report, is noted and leaves the rest as it is.
    `StorageError` if the disk is full or a folder cannot be written.
    """
    out, study = run.out, run.study
    _write_study(out, study)
    before = _before(out, study)
    failed: list[str] = []
    entries = {name: _write_analysis(run, outcome, before.get(name), failed) for name, outcome in run.outcomes.items()}
    everything = {name: entry for name in study.analyses if (entry := entries.get(name, before.get(name))) is not None}
    RunRecord(exchange=exchange, study=study.digest(), sites=sorted(run.sites), analyses=everything).write(out)
    _write_sites(run)
    if comparison is not None:
        journals = {name: entry.journal_digest for name, entry in everything.items()}
        text = plain_json.dumps({**comparison.to_dict(), "journals": journals})
        plain_json.write_text(out / COMPARISON, text, "comparison")
    report, notes = _write_report(out)
    plain_json.write_text(out / audience.FILE, audience.files_md(out, study), "list of files")
    return Written(out, report, (*failed, *notes))


def _write_study(out: Path, study: Study) -> None:
    """`study.yaml`; one that is there already and says the same is left as it was written, comments and all."""
    path = out / STUDY
    try:
        same = path.exists() and load_study(path).digest() == study.digest()
    except UnisonoError:
        same = False
    if not same:
        plain_json.write_text(path, dump_yaml(study), "study")


def _before(out: Path, study: Study) -> dict[str, AnalysisRun]:
    """What an earlier command in this folder said of its analyses; nothing if it was of another study."""
    if not (out / RUN).exists():
        return {}
    try:
        record = RunRecord.read(out)
    except UnisonoError:
        return {}  # times of an earlier run, at most: what was answered is in the journals
    if record.study != study.digest():
        return {}
    # `--fresh` forgets journals: what is not journalled any more is no answer of this folder.
    return {name: entry for name, entry in record.analyses.items() if (out / name / JOURNAL).exists()}


def _write_analysis(run: Run, outcome: Outcome, before: AnalysisRun | None, failed: list[str]) -> AnalysisRun:
    """The files of one analysis. What cannot be made of them is said in `failed`; `result.json` comes first."""
    folder = run.out / outcome.analysis
    events = [event for event in run.events if event.analysis == outcome.analysis]
    journal = Journal(outcome.journal)
    try:
        record, shown = None, None
        if outcome.answer is not None:
            record = AnalysisRecord.of(run.study, outcome.analysis, outcome.answer, journal)
            record.write(folder)
            for file, content in outcome.answer.result.files().items():
                write_whole(folder / file, content, "model")
            try:
                summary = outcome.answer.result.summary().to_csv(lineterminator="\n")
                plain_json.write_text(folder / "summary.csv", summary, "summary")
                shown = shown_sum(journal, run.study, record)
            except Exception as error:  # noqa: BLE001  (the other analyses are written)
                failed.append(f"The table of “{outcome.analysis}” could not be written. {fault(error)}")
        sheet = csv_text(actual(journal, run.study, outcome.analysis))
        plain_json.write_text(folder / "disclosure.csv", sheet, "disclosure sheet")
        why = None if outcome.error is None else outcome.error.to_dict()
        return analysis_run(journal, events, seconds=outcome.seconds, shown_sum=shown, error=why, before=before)
    finally:
        journal.close()


def _write_sites(run: Run) -> None:
    """Each hospital's report on its own data, marked as staying there."""
    for name, snapshot in run.snapshots.items():
        folder = run.out / "sites" / name
        document = plain_json.dumps({"notice": NOTICE, **snapshot.report.to_dict()})
        plain_json.write_text(folder / "validation.json", document, "hospital's own report")
        text = f"{NOTICE}\n\n{snapshot.report.render()}"
        plain_json.write_text(folder / "validation.txt", text, "hospital's own report")


def _write_report(out: Path) -> tuple[Path | None, tuple[str, ...]]:
    try:
        return write_noted(load(out))
    except MissingExtra as missing:
        return None, (f"No figures and no {REPORT}: {missing.what} {missing.remedy}",)
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001  (results and FILES.md do not depend on the report)
        remedy = error.remedy if isinstance(error, UnisonoError) else "The results are written."
        return None, (f"No {REPORT}: {fault(error)} {remedy} `unisono report {out}` tries again.",)
