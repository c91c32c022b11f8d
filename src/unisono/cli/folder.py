"""The folder that `--out` names: results are not written over somebody else's files."""

from __future__ import annotations

from pathlib import Path

from unisono.errors import StorageError, UnisonoError
from unisono.report.audience import FILE as FILES
from unisono.report.html import REPORT
from unisono.report.load import COMPARISON, STUDY
from unisono.report.run_record import FILE as RUN
from unisono.study.document import Study
from unisono.study.load import load

_TOP = (STUDY, REPORT, FILES, COMPARISON)
_OF_AN_ANALYSIS = ("result.json", "summary.csv", "figure.svg", "figure.png", "disclosure.csv")


def check_folder(out: Path, study: Study) -> None:
    """`StorageError` (rule ``own-folder``) if `out` holds files that a run would write over, and no run began there.

    A study file of the same id is the run's own: the demo writes it first, and `--out .` beside a study is fine.
    """
    if (out / RUN).exists() or any(out.glob("sites/*/identity.key")) or any(out.glob("*/journal.db")):
        return
    names = [*_TOP, *(f"{name}/{file}" for name in study.analyses for file in _OF_AN_ANALYSIS)]
    foreign = [name for name in names if (out / name).exists() and not (name == STUDY and _same(out / name, study))]
    if foreign:
        raise StorageError(
            f"{out} holds {', '.join(foreign[:3])}, and no run of Unisono: its files would be written over.",
            rule="own-folder",
            remedy="Name a new or an empty folder with --out.",
        )


def _same(path: Path, study: Study) -> bool:
    try:
        return load(path).id == study.id
    except UnisonoError:
        return False
