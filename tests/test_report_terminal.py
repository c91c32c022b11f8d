"""What the command line shows of answers, tables, errors and sheets."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.support import reported
from tests.support.lung import SITES
from unisono.engines.embedded.run import Run
from unisono.errors import StudyError
from unisono.report.comparison import Comparison
from unisono.report.disclosure_sheet import actual_table
from unisono.report.files import write
from unisono.report.load import load
from unisono.report.terminal import answer_panel, comparison_table, error_panel, frame_table, summary_table
from unisono.site.data.problems import DataProblem, DataProblems

COMPARISON = Comparison(
    (("log hazard ratio, sex", -0.5, -0.5), ("median", None, 9.0), ("zero", 0.0, 0.0)), "Pooled, by lifelines."
)


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return reported.run(tmp_path_factory.mktemp("terminal") / "out", analyses=["patients", "effect", "twice"])


def shown(renderable: object, width: int = 120) -> str:
    from rich.console import Console

    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_the_answer_panel_has_headline_table_notes_and_who_answered(completed: Run) -> None:
    text = shown(answer_panel(completed.outcomes["effect"]))
    answered = completed.outcomes["effect"].answer
    assert answered is not None
    assert answered.result.headline()[:60] in text
    assert "sex[female]" in text
    assert "< 0.001" in text
    assert "4 hospitals, 226 patients" in text
    assert "- Each hospital has its own baseline hazard" in text
    assert "Hidden by secagg, against a semi-honest coordinator. 4 sites, 1 colluder: 3 must stay" in text


def test_the_answer_panel_names_the_hospitals_that_left(completed: Run) -> None:
    assert "4 hospitals (without zurich), 226 patients" in shown(
        answer_panel(completed.outcomes["effect"], [*SITES, "zurich"])
    )
    assert "without" not in shown(answer_panel(completed.outcomes["effect"], SITES))


def test_an_answer_whose_table_fails_is_still_told(completed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise TypeError("61.5")  # could be a patient's value

    monkeypatch.setattr("unisono.methods.survival.cox.CoxResult.summary", broken)
    text = shown(answer_panel(completed.outcomes["effect"]))
    assert "its table could not be made" in text
    assert "61.5" not in text


def test_the_answer_panel_of_a_failed_analysis_says_what_rule_and_remedy(completed: Run) -> None:
    text = shown(answer_panel(completed.outcomes["twice"]))
    assert "twice: no answer" in text
    assert "collinearity" in text
    assert "Leave one of them out" in text


def test_tables_show_a_dash_where_there_is_no_number(completed: Run) -> None:
    outcome = completed.outcomes["patients"].answer
    assert outcome is not None
    assert "226" in shown(summary_table(outcome.result))
    text = shown(comparison_table(COMPARISON))
    assert "median" in text
    assert "–" in text
    assert "Largest relative difference: 0" in text


def test_markup_in_an_error_is_shown_as_it_is() -> None:
    text = shown(error_panel(StudyError("Unknown [bold]x[/].", rule="r", remedy="Do [/this].", where="study.yaml:3")))
    assert "study.yaml:3: Unknown [bold]x[/]." in text
    assert "Do [/this]." in text


def test_row_labels_stay_however_many_columns_of_numbers_there_are() -> None:
    names = ["age (years), mean (SD)", "ECOG performance status"]
    groups = {f"stage {g}: treated (n = 1{g})": ["61.5 (10.2)", "12 (33.3%)"] for g in "12345"}
    table = frame_table(pd.DataFrame(groups, index=names))
    for width in (80, 100):
        text = shown(table, width)
        assert "age (years), mean" in text
        assert "performance" in text
        assert text.count("61.5") == 5
        assert text.count("33.3%") == 5
        assert "…" not in text


def test_an_error_with_several_problems_shows_each() -> None:
    problems = [
        DataProblem("age", "The age is [odd].", "numbers", "Mend it."),
        DataProblem("sex", "No sex.", "codes", "Say it."),
    ]
    text = shown(error_panel(DataProblems.of(problems, "padua.csv")))
    assert "padua.csv: 2 problems" in text
    for said in ("The age is [odd].", "numbers", "Mend it.", "No sex.", "codes", "Say it."):
        assert said in text
    assert text.count("what to do") == 2


def test_the_actual_sheet_prints_in_a_terminal(completed: Run) -> None:
    write(completed)
    text = shown(actual_table(load(completed.out).analyses[1].sheet))
    assert "cox.derivatives" in text
