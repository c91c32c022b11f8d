"""What a run leaves in its folder, who may see it, and the report made from those files alone."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from tests.support import reported
from tests.support.lung import SITES
from unisono.engines.embedded.run import Fault, Run
from unisono.errors import JournalError, StorageError, StudyError
from unisono.report import answers, audience, html
from unisono.report.comparison import Comparison
from unisono.report.disclosure_sheet import planned
from unisono.report.files import write
from unisono.report.load import load
from unisono.report.officer import officer
from unisono.report.run_record import RunRecord
from unisono.study.load import load as load_study

COMPARISON = Comparison(
    (("log hazard ratio, sex", -0.5, -0.5), ("median", None, 9.0), ("zero", 0.0, 0.0)), "Pooled, by lifelines."
)


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = reported.run(tmp_path_factory.mktemp("reported") / "out", faults=reported.FAULTS)
    write(run, COMPARISON)
    return run


@pytest.fixture(scope="module")
def page(completed: Run) -> str:
    return (completed.out / "report.html").read_text("utf-8")


@pytest.fixture
def copy(completed: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(completed.out, tmp_path / "out"))


def words(page: str) -> str:
    """The page's text without its markup."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", page)))


def headline(completed: Run, analysis: str) -> str:
    outcome = completed.outcomes[analysis].answer
    assert outcome is not None
    return outcome.result.headline()


# -- the folder ---------------------------------------------------------------------------------------------------------


def test_every_answered_analysis_has_its_files_and_a_failed_one_its_error(completed: Run) -> None:
    for name in ("patients", "curves", "effect", "odds"):
        for file in ("result.json", "summary.csv", "figure.svg", "figure.png", "disclosure.csv", "journal.db"):
            assert (completed.out / name / file).stat().st_size > 0
    assert not (completed.out / "twice" / "result.json").exists()
    assert RunRecord.read(completed.out).analyses["twice"].error["rule"] == "collinearity"  # type: ignore[index]


def test_the_study_in_the_folder_is_the_study_that_was_run(completed: Run) -> None:
    assert load_study(completed.out / "study.yaml").digest() == completed.study.digest()


def test_a_study_file_that_says_the_same_keeps_its_comments(completed: Run, copy: Path) -> None:
    path = copy / "study.yaml"
    path.write_text("# mine\n" + path.read_text("utf-8"), "utf-8")
    write(Run(completed.study, completed.sites, copy, {}, {}, []))
    assert path.read_text("utf-8").startswith("# mine\n")


def test_participation_in_result_json_tells_who_was_lost_and_when(completed: Run) -> None:
    record = json.loads((completed.out / "effect" / "result.json").read_text("utf-8"))
    taking = record["participation"]
    assert [r["site"] for r in taking["recovered"]] == ["turin"]
    assert [w["sites"] for w in taking["waited"]] == [["leiden"]]
    assert taking["sums"] == len(load(completed.out).analyses[2].sums)
    assert record["protection"]["threshold"] == 3


def test_no_number_of_one_hospital_is_in_what_everybody_may_see(completed: Run) -> None:
    own = {len(s.table.columns["age"]) for s in completed.snapshots.values()}
    assert len(own) > 1

    def numbers(value: object) -> set[float]:
        if isinstance(value, dict):
            return set().union(*(numbers(v) for v in value.values())) if value else set()
        if isinstance(value, list):
            return set().union(*(numbers(v) for v in value)) if value else set()
        return {value} if isinstance(value, int) and not isinstance(value, bool) else set()

    for name in ("patients", "effect", "odds"):
        record = json.loads((completed.out / name / "result.json").read_text("utf-8"))
        for key in ("cohort", "participation"):
            assert not numbers(record[key]) & own
        assert not any(site in json.dumps(record["estimates"]) for site in SITES)


def test_each_hospitals_own_report_lies_in_its_own_folder_and_says_that_it_stays(completed: Run) -> None:
    for site in SITES:
        folder = completed.out / "sites" / site
        document = json.loads((folder / "validation.json").read_text("utf-8"))
        assert "stays at that hospital" in document["notice"]
        assert document["site"] == site
        assert (folder / "validation.txt").read_text("utf-8").startswith("This file concerns one hospital alone")


def test_files_md_explains_every_file_and_keeps_hospitals_files_to_the_hospital(completed: Run) -> None:
    text = (completed.out / "FILES.md").read_text("utf-8")
    for path in completed.out.rglob("*"):
        if path.is_file():
            name = path.relative_to(completed.out).as_posix()
            assert f"`{name}`" in text
            what, who = audience.describe(name)
            assert what != "Not written by Unisono."
            if name.startswith("sites/"):
                assert who == audience.HOSPITAL


@pytest.mark.parametrize(
    ("path", "who"),
    [
        ("sites/padua/result.json", audience.HOSPITAL),
        ("sites/padua/anything/else", audience.HOSPITAL),
        ("data/padua.csv", audience.HOSPITAL),
        ("effect/result.json", audience.EVERYBODY),
        ("effect/journal.db-wal", audience.OFFICERS),
        ("unknown.bin", audience.OFFICERS),
    ],
)
def test_who_may_see_a_file(path: str, who: str) -> None:
    assert audience.describe(path)[1] == who


def test_run_json_holds_times_tries_bytes_and_environment(completed: Run) -> None:
    effect = RunRecord.read(completed.out).analyses["effect"]
    assert effect.seconds > 0
    assert effect.environment["python"]
    assert effect.bytes.received == 4 * effect.bytes.opened > 0
    waited = next(s for s in effect.steps if s.waited)
    assert waited.waited == ["leiden"]
    assert waited.attempts == 2
    assert any(s.recovered == ["turin"] for s in effect.steps)


def test_what_left_was_on_the_planned_sheet_and_not_more_often(completed: Run) -> None:
    plan = {(r.analysis, r.contribution, r.leaf): r for r in planned(completed.study)}
    for analysis in load(completed.out).analyses:
        assert analysis.sheet
        for row in analysis.sheet:
            promised = plan[row.analysis, row.contribution, row.leaf]
            assert (row.rule, row.shape) == (promised.rule, promised.shape)
            assert row.times <= promised.times


# -- again --------------------------------------------------------------------------------------------------------------


def test_the_report_made_again_from_the_files_is_the_same(completed: Run, page: str) -> None:
    assert html.write_report(load(completed.out)).read_text("utf-8") == page


def test_the_results_are_rebuilt_from_the_files(completed: Run) -> None:
    for analysis in load(completed.out).answered:
        outcome = completed.outcomes[analysis.name].answer
        assert outcome is not None
        assert analysis.result is not None
        assert analysis.result.headline() == outcome.result.headline()
        assert analysis.result.notes == outcome.result.notes


def test_the_same_command_again_writes_the_same_results_and_keeps_the_first_runs_times(
    completed: Run, copy: Path
) -> None:
    before = {p: p.read_bytes() for p in copy.glob("*/result.json")}
    steps = RunRecord.read(copy).analyses["effect"].steps
    write(reported.run(copy, analyses=["effect"]))
    assert {p: p.read_bytes() for p in copy.glob("*/result.json")} == before
    again = RunRecord.read(copy)
    assert again.analyses["effect"].steps == steps
    assert again.analyses["effect"].replayed == again.analyses["effect"].sums
    assert set(again.analyses) == set(reported.ANALYSES)


def test_beginning_one_analysis_anew_forgets_the_others(copy: Path) -> None:
    write(reported.run(copy, analyses=["odds"], fresh=True))
    assert [a.name for a in load(copy).analyses] == ["odds"]
    assert load(copy).comparison is None


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no run"):
        load(tmp_path)


def test_a_result_that_is_not_its_journals_is_refused(copy: Path) -> None:
    path = copy / "effect" / "result.json"
    document = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**document, "journal_digest": "0" * 64}), "utf-8")
    with pytest.raises(JournalError, match="do not belong together"):
        load(copy)


def test_a_missing_journal_is_told(copy: Path) -> None:
    (copy / "effect" / "journal.db").unlink()
    with pytest.raises(JournalError, match="is not there"):
        load(copy)


def test_another_study_in_the_folder_is_refused(copy: Path) -> None:
    path = copy / "study.yaml"
    path.write_text(path.read_text("utf-8").replace("live longer", "live less long"), "utf-8")
    with pytest.raises(StudyError, match="not the study"):
        load(copy)


def test_a_comparison_of_other_answers_is_left_out(copy: Path) -> None:
    path = copy / "comparison.json"
    assert load(copy).comparison == COMPARISON
    document = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**document, "journals": {}}), "utf-8")
    assert load(copy).comparison is None


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_the_report_extra_everything_else_is_written_and_a_note_says_so(
    completed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    copied = tmp_path / "out"
    shutil.copytree(completed.out, copied, ignore=shutil.ignore_patterns("report.html", "result.json", "figure.*"))
    written = write(
        Run(completed.study, completed.sites, copied, completed.outcomes, completed.snapshots, completed.events)
    )
    assert written.report is None
    assert missing in written.notes[0]
    assert "unisono[report]" in written.notes[0]
    assert (copied / "effect" / "result.json").exists()
    assert not (copied / "report.html").exists()


# -- the page -----------------------------------------------------------------------------------------------------------


def test_the_page_opens_with_the_question_and_the_answer_with_direction_and_reference(
    completed: Run, page: str
) -> None:
    text = words(page)
    answer = headline(completed, "effect")
    assert "male" in answer
    assert "<h1>Do women with advanced lung cancer live longer?</h1>" in page
    assert text.index(answer) < text.index("Who was studied")
    assert "4 hospitals, 226 patients" in text


def test_the_page_says_that_a_simulation_protects_nobody(page: str) -> None:
    assert "All hospitals ran in this process; this shows the protocol, it does not protect you." in page


def test_the_page_is_self_contained_and_runs_nothing(page: str) -> None:
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert page.count('src="data:image/svg+xml;base64,') == 3


def test_no_p_value_is_zero(page: str) -> None:
    assert "0.000<" not in page
    assert not re.search(r"p\s*=\s*0\.000\b", words(page))
    assert "p < 0.001" in words(page)


def test_the_clinician_finds_flow_events_curves_ratios_absolute_survival_and_checks(page: str) -> None:
    text = words(page)
    for phrase in (
        "Patients read at the hospitals",
        "Table 1. The patients, by sex.",
        "Events and follow-up.",
        "number at risk",
        "Hazard ratios.",
        "Absolute survival.",
        "The reference patient: sex male",
        "Are the hazard ratios constant over time?",
        "C-index",
        "Odds ratios.",
        "complete cases",
        "was rounded up to the next multiple of 7 d",
        "It does not by itself say what causes what",
    ):
        assert phrase in text, phrase


def test_a_failed_analysis_is_shown_with_its_rule_and_remedy(page: str) -> None:
    text = words(page)
    assert "“twice” has no answer" in text
    assert "age and age_again cannot be told apart" in text
    assert "collinearity" in text


def test_the_officer_finds_who_took_part_and_what_left(page: str) -> None:
    text = words(page)
    assert "effect: turin lost its link after its masked part for “totals” was in" in text
    assert "effect: leiden lost the link before the masked part for “derivatives” was in" in text
    assert "↻●" in text
    assert "◆" in text
    for fact in (
        "a semi-honest coordinator and 1 colluding hospital",
        "complete graph: every hospital with every other",
        "3 hospitals must answer before a sum opens",
        "Must stay 3 hospitals; with fewer no sum is opened",
        "May be lost after masking 1 hospital",
        "4 sites, 1 colluder: 3 must stay; 1 drop-out after masking is tolerated.",
    ):
        assert fact in text, fact
    assert "log_likelihood" in text
    assert "unisono verify" in text


def test_the_officer_is_told_of_a_random_graph_and_a_coordinator_that_may_lie(completed: Run) -> None:
    loaded = load(completed.out)
    protection = {"hide": "secagg+", "threat": "malicious", "colluding": 1}
    asked = reported.study(protection=protection)
    forty = [f"h{k:02d}" for k in range(40)]
    analyses = tuple(
        replace(a, record=None if a.record is None else a.record.model_copy(update={"sites": forty}))
        for a in loaded.analyses
    )
    facts = {f.label: f.value for f in officer(replace(loaded, study=asked, analyses=analyses)).facts}
    assert facts["Hidden by"] == "secure aggregation (secagg+)"
    assert facts["Against"] == "a malicious coordinator and 1 colluding hospital"
    assert facts["Who masks with whom"] == "10-regular graph: drawn at random from what every hospital put in"
    assert facts["Threshold"] == "6 of each hospital's neighbours must answer before a sum opens"
    assert facts["Must stay"] == "32 hospitals; with fewer no sum is opened"
    assert facts["May be lost after masking"] == "4 hospitals"


def test_one_sum_is_shown_as_bytes_beside_what_it_opened_to(completed: Run, page: str) -> None:
    shown = RunRecord.read(completed.out).analyses["effect"].shown_sum
    assert shown is not None
    assert (shown.contribution, shown.leaf, shown.opened) == ("cox.totals", "patients", 226)
    assert set(shown.received) == set(SITES)
    assert all(re.fullmatch("[0-9a-f]{16}", sent) for sent in shown.received.values())
    text = words(page)
    assert "e2 00 00 00 00 00 00 00 226" in text
    assert all(re.sub("(..)", r"\1 ", sent).strip() in text for sent in shown.received.values())


def test_the_comparison_is_shown_with_its_largest_difference(page: str) -> None:
    text = words(page)
    assert "Compared with the pooled fit" in text
    assert "Pooled, by lifelines. The largest relative difference is 0 ." in text


def test_words_of_a_study_cannot_become_markup(copy: Path) -> None:
    asked = reported.study(question="Is <script>alert(1)</script> & <b>bold</b> harmless?")
    run = reported.run(copy.parent / "other", asked, analyses=["odds"])
    write(run)
    page = (run.out / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert "<b>bold" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;bold" in page


def test_without_protection_no_hospitals_part_is_repeated(tmp_path: Path) -> None:
    asked = reported.study(protection={"hide": "none"})
    run = reported.run(tmp_path / "out", asked, analyses=["odds"])
    assert run.outcomes["odds"].error is None
    write(run)
    assert RunRecord.read(run.out).analyses["odds"].shown_sum is None
    text = words((run.out / "report.html").read_text("utf-8"))
    assert "Nothing hid the hospitals' parts in this run" in text
    assert "It is not repeated here" in text
    assert "sent in the clear" in text
    assert "semi-honest" not in text
    assert "sealed shares" not in text


def test_curves_without_groups_are_reported(tmp_path: Path) -> None:
    alone = {k: v for k, v in reported.ANALYSES["curves"].items() if k != "by"}
    run = reported.run(tmp_path / "out", reported.study(analyses={"alone": alone}))
    written = write(run)
    assert written.notes == ()
    text = words((run.out / "report.html").read_text("utf-8"))
    assert "all patients" in text
    assert "Log-rank" not in text
    assert "steps between them are not shown where they would be of fewer than 10 patients" in text


def test_an_analysis_that_cannot_be_shown_leaves_the_others_as_they_are(
    completed: Run, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise TypeError("61.5")  # could be a patient's value

    monkeypatch.setattr("unisono.methods.survival.cox.CoxResult.plot", broken)
    monkeypatch.setattr("unisono.methods.survival.cox.CoxResult.summary", broken)
    monkeypatch.setitem(answers._VIEWS, "kaplan-meier", broken)
    (copy / "FILES.md").unlink()
    written = write(Run(completed.study, completed.sites, copy, completed.outcomes, completed.snapshots, []))
    assert written.report is not None
    assert [re.findall("“(.*?)”", note) for note in written.notes] == [["effect"], ["effect"]]
    assert all("TypeError" in note and "61.5" not in note for note in written.notes)
    text = words((copy / "report.html").read_text("utf-8"))
    assert "Its figure could not be drawn" in text
    assert "its tables could not be laid out" in text
    assert "Odds ratios." in text
    assert "61.5" not in text
    assert (copy / "FILES.md").exists()
    assert (copy / "effect" / "result.json").exists()


def test_a_report_that_fails_as_a_whole_leaves_results_and_list_of_files(
    completed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("unisono.report.html.checks_and_limits", broken)
    copied = tmp_path / "out"
    shutil.copytree(completed.out, copied, ignore=shutil.ignore_patterns("report.html", "FILES.md"))
    written = write(Run(completed.study, completed.sites, copied, completed.outcomes, completed.snapshots, []))
    assert written.report is None
    assert "unisono report" in written.notes[0]
    assert (copied / "FILES.md").exists()


def test_a_hospital_that_left_is_named_and_every_analysis_says_how_many_it_has(tmp_path: Path) -> None:
    asked = reported.study(
        participation={"on_dropout": "continue", "deadline": "1 s"},
        analyses={"odds": reported.ANALYSES["odds"], "effect": {**reported.ANALYSES["effect"], "grid": reported.GRID}},
    )
    gone = Fault("leiden", "mask", analysis="effect", occurrence=3, seconds=None)
    run = reported.run(tmp_path / "out", asked, faults=(gone,))
    assert run.outcomes["effect"].error is None
    write(run)
    page = (run.out / "report.html").read_text("utf-8")
    text = words(page)
    assert "3 hospitals" in text
    assert "leiden left before the end of “effect” and is not in its numbers." in text
    assert "Hospitals in each analysis: 4 in “odds”; 3 in “effect”." in text
    for phrase in ("Threshold of 4", "Threshold of 3", "In words, with 3"):
        assert phrase in text
    result = run.outcomes["effect"].answer
    assert result is not None
    clinical = text[: text.index("For the privacy officer")]
    assert all(note in clinical for note in result.result.notes)
