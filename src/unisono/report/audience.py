"""`FILES.md`: of each file that a run leaves, what it is and who may see it."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from unisono.study.document import Study

FILE = "FILES.md"

EVERYBODY = "everybody"
OFFICERS = "the researchers of the study, and officers"
HOSPITAL = "this hospital alone"

_KNOWN: tuple[tuple[str, str, str], ...] = (
    ("data/*", "A hospital's data or mapping, in this simulation.", HOSPITAL),
    (
        "sites/*/validation.*",
        "What became of the hospital's data: converted, rounded, out of range, missing.",
        HOSPITAL,
    ),
    ("sites/*/permits/*", "The hospital's signed consent to this study.", HOSPITAL),
    ("sites/*/audit.jsonl", "What the hospital was asked, and what it answered or refused.", HOSPITAL),
    ("sites/*/state.db*", "What the hospital remembers: the parts it sent, and for whom it unmasked.", HOSPITAL),
    ("sites/*/*.key", "The hospital's private keys. Never to be copied.", HOSPITAL),
    ("sites/*/kept/*/*/*", "Of this hospital's own: a personal model.", HOSPITAL),
    ("sites/*/kept/*", "What the hospital was told about its own patients.", HOSPITAL),
    ("sites/*", "Of one hospital.", HOSPITAL),
    ("report.html", "The report: the answer for a clinician, then the protection for a privacy officer.", EVERYBODY),
    (FILE, "This list.", EVERYBODY),
    ("study.yaml", "The study that was answered.", EVERYBODY),
    ("comparison.json", "The answer beside that of pooling the same patients (simulations only).", EVERYBODY),
    ("run.json", "How the run went: times, tries, bytes, environment, refusals.", OFFICERS),
    ("*/result.json", "One analysis: its estimates, who took part, how it was protected. Totals only.", EVERYBODY),
    ("*/summary.csv", "The table of that analysis, for a spreadsheet.", EVERYBODY),
    ("*/model.safetensors", "The trained model's numbers. A model can show something of who trained it.", OFFICERS),
    ("*/model.json", "The trained model: architecture, preprocessing, provenance.", OFFICERS),
    ("*/model.xgboost.json", "The trained trees, in XGBoost's own format.", OFFICERS),
    ("*/figure.svg", "Its figure, for a paper.", EVERYBODY),
    ("*/figure.png", "Its figure, for slides.", EVERYBODY),
    ("*/disclosure.csv", "Its disclosure sheet: every array that left a hospital, as part of a sum.", EVERYBODY),
    (
        "*/journal.db*",
        "Every opened sum, in order, as opened: small numbers are not blanked in it. `unisono verify` reads it.",
        OFFICERS,
    ),
    ("run.lock", "Held while a run goes on, so that no second one begins in this folder.", EVERYBODY),
    ("sites.yaml", "Where each hospital's file was read from, in this simulation.", OFFICERS),
)
"""Pattern, what it is, who may see it; the first that fits counts, so hospitals' folders come first. A pattern's ``*`` stands for any path."""

_UNKNOWN = ("Not written by Unisono.", OFFICERS)


def describe(path: str) -> tuple[str, str]:
    """(what it is, who may see it) of a path relative to the run's folder, with ``/`` between its parts."""
    for pattern, what, who in _KNOWN:
        if path.count("/") >= pattern.count("/") and fnmatchcase(path, pattern):
            return what, who
    return _UNKNOWN


def files_md(out: Path, study: Study, also: Iterable[str] = ()) -> str:
    """The text of ``FILES.md`` for what is in the folder `out`, and for what is about to be written (`also`)."""
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and not p.name.endswith(".new")}
    rows: dict[tuple[str, str], list[str]] = {}
    for path in sorted(found | {FILE} | set(also)):
        rows.setdefault(describe(path), []).append(path)
    order = {EVERYBODY: 0, OFFICERS: 1, HOSPITAL: 2}
    lines = [
        f"# The files of `{study.id}`",
        "",
        f"> {study.question}",
        "",
        "Who may see what. In a real network, what concerns one hospital alone exists only at that hospital; it is here",
        "because this run simulated the hospitals.",
        "",
        "| file | what it is | who may see it |",
        "| --- | --- | --- |",
    ]
    for (what, who), paths in sorted(rows.items(), key=lambda row: (order[row[0][1]], row[1][0])):
        names = "<br>".join(f"`{path}`" for path in paths)
        lines.append(f"| {names} | {what} | **{who}** |")
    return "\n".join(lines) + "\n"
