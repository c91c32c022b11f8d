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


def check_folder(out: Path, study: Study, *, fresh: bool = False) -> None:
    """`StorageError` if a run of `study` in `out` would write over somebody else's files: those of a run of another study (rule
    ``one-run-a-folder``; `fresh` begins anew there), or files that no run wrote (rule ``own-folder``).

    A study file that says the same is the run's own: the demo writes it first, and `--out .` beside a study is fine.
    """
    begun = (out / RUN).exists() or any(out.glob("sites/*/identity.key")) or any(out.glob("*/journal.db"))
    own = not (out / STUDY).exists() or _digest(out / STUDY) == study.digest()
    if begun:
        if own or fresh:
            return
        raise StorageError(
            f"{out} holds a run of another study.",
            rule="one-run-a-folder",
            remedy="Write to another folder with --out; `unisono run --fresh` begins anew in this one.",
        )
    names = [*_TOP, *(f"{name}/{file}" for name in study.analyses for file in _OF_AN_ANALYSIS)]
    foreign = [name for name in names if (out / name).exists() and not (name == STUDY and own)]
    if foreign:
        raise StorageError(
            f"{out} holds {', '.join(foreign[:3])}, and no run of this study: its files would be written over.",
            rule="own-folder",
            remedy="Name a new or an empty folder with --out.",
        )


def _digest(path: Path) -> str | None:
    """Of the study in a file; None if there is none that can be read."""
    try:
        return load(path).digest()
    except UnisonoError:
        return None
