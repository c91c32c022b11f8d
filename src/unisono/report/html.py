"""`report.html`: one self-contained page. The answer for a clinician first, then the protection for a privacy officer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unisono.errors import MissingExtra, UnisonoError
from unisono.methods.wording import say_list
from unisono.report import plain_json, words
from unisono.report.answers import ORDER, TELLING, Section, headline, section
from unisono.report.comparison import Comparison
from unisono.report.figures import Drawn, draw
from unisono.report.flow import Flow, flow_of
from unisono.report.isolated import fault
from unisono.report.limits import checks_and_limits
from unisono.report.load import LoadedAnalysis, LoadedRun
from unisono.report.officer import officer
from unisono.report.views import grid
from unisono.report.who import who_answered

REPORT = "report.html"
SIMULATED = "All hospitals ran in this process; this shows the protocol, it does not protect you."


@dataclass(frozen=True)
class Failed:
    """An analysis without an answer."""

    name: str
    error: UnisonoError


def write_report(run: LoadedRun) -> Path:
    """Draw every figure and write ``report.html`` into the run's folder.

    `MissingExtra` without ``unisono[report]``; `StorageError` if the disk is full.
    """
    return write_noted(run)[0]


def write_noted(run: LoadedRun) -> tuple[Path, tuple[str, ...]]:
    """`write_report`, with a note on every analysis whose figure could not be drawn."""
    figures: dict[str, Drawn] = {}
    notes = []
    for analysis in run.answered:
        assert analysis.result is not None
        try:
            figures[analysis.name] = drawn = draw(analysis.result)
        except Exception as error:  # noqa: BLE001  (the other analyses are drawn)
            notes.append(f"The figure of “{analysis.name}” could not be drawn. {fault(error)}")
            continue
        plain_json.write_bytes(run.out / analysis.name / "figure.svg", drawn.svg, "figure")
        plain_json.write_bytes(run.out / analysis.name / "figure.png", drawn.png, "figure")
    path = run.out / REPORT
    plain_json.write_text(path, render(run, figures), "report")
    return path, tuple(notes)


def render(run: LoadedRun, figures: Mapping[str, Drawn]) -> str:
    """The page as text. figures: by analysis, of those that could be drawn."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra(
            "The HTML report needs jinja2, which is not installed.",
            rule="optional-extra",
            remedy="Install it with: pip install 'unisono[report]', then run: unisono report OUT",
        ) from error
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**view(run, figures))


def view(run: LoadedRun, figures: Mapping[str, Drawn]) -> dict[str, Any]:
    """Everything the template lays out."""
    telling = most_telling(run)
    sections = _sections(run, figures)
    return {
        "version": version("unisono"),
        "study": run.study,
        "answer": None if telling is None or telling.result is None else words.together(headline(telling.result)),
        "telling": telling.name if telling is not None else None,
        "converged": telling is None or telling.result is None or telling.result.converged,
        "who": who_answered(run, telling),
        "simulated": SIMULATED if run.run.exchange == "embedded" else None,
        "flow": _flow(run, telling),
        "cohorts": _cohorts(run, telling),
        "sections": sections,
        "failed": [Failed(a.name, a.error) for a in run.analyses if a.error is not None],
        "limits": checks_and_limits(run),
        "comparison": _comparison(run.comparison),
        "officer": officer(run, None if telling is None else telling.name),
    }


def most_telling(run: LoadedRun) -> LoadedAnalysis | None:
    """The analysis whose headline answers the question: a regression, else curves, else the first that has an answer."""
    answered = sorted(run.answered, key=lambda a: a.result is not None and not a.result.converged)
    for methods in (TELLING[:2], TELLING[2:]):
        for analysis in answered:
            if analysis.record is not None and analysis.record.method in methods:
                return analysis
    return answered[0] if answered else None


def _in_order(run: LoadedRun) -> list[LoadedAnalysis]:
    def place(analysis: LoadedAnalysis) -> int:
        method = analysis.record.method if analysis.record is not None else ""
        return ORDER.index(method) if method in ORDER else len(ORDER)

    return sorted(run.answered, key=place)


def _sections(run: LoadedRun, figures: Mapping[str, Drawn]) -> list[Section]:
    """A section an analysis; two with one title are told apart by their names."""
    sections = []
    for analysis in _in_order(run):
        assert analysis.record is not None
        assert analysis.result is not None
        sections.append((analysis.name, section(analysis.result, analysis.record.method, figures.get(analysis.name))))
    titles = [s.title for _, s in sections]
    return [replace(s, title=f"{s.title}: {name}") if titles.count(s.title) > 1 else s for name, s in sections]


def _flow(run: LoadedRun, telling: LoadedAnalysis | None) -> Flow | None:
    return None if telling is None or telling.record is None else flow_of(run.study, telling.record.cohort)


def _cohorts(run: LoadedRun, telling: LoadedAnalysis | None) -> str | None:
    """How many patients the other analyses have, where that differs from the flow's. Fewer than `min_count` are not
    counted out: the flow takes care not to say how many had no value."""
    if telling is None or telling.record is None:
        return None
    mine, least = telling.record.cohort["patients"], run.study.release.min_count
    said = []
    for analysis in run.answered:
        other = mine if analysis.record is None else analysis.record.cohort["patients"]
        if abs(other - mine) >= least:
            said.append(f"“{analysis.name}” has {words.plural(other, 'patient')}")
        elif other != mine:
            way = "more" if other > mine else "fewer"
            said.append(f"“{analysis.name}” has a few {way} (not more than {least - 1})")
    if not said:
        return None
    why = "Analyses differ where their variables are missing for different patients."
    return f"This is the flow of “{telling.name}”; {say_list(said)}. {why}"


def _comparison(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None

    rows = [
        (name, words.digits(federated), words.digits(pooled), words.gap(apart))
        for (name, federated, pooled), apart in zip(comparison.rows, comparison.differences, strict=True)
    ]
    head = ("", "federated", "pooled", "relative difference")
    return {
        "sentence": comparison.sentence,
        "table": grid(head, rows),
        "largest": words.gap(comparison.largest),
    }
