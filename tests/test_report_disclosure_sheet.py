"""The disclosure sheet before a run and after it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.support import lung, training
from unisono.engines.embedded.run import Fault
from unisono.engines.verify import verify
from unisono.federation.history import opened_sums, sums_body
from unisono.federation.journal import Journal
from unisono.report import disclosure_sheet as sheet
from unisono.report.participation import participation, sums_taken
from unisono.report.run_record import _bytes
from unisono.report.shown_sum import _shown


def opened(journal: Journal, name: str, step: int, leaves: dict[str, tuple[str, list[int]]], **more: object) -> None:
    words = np.zeros(sum(int(np.prod(shape)) for _, shape in leaves.values()), np.uint64)
    body = {
        "question": "q",
        "name": name,
        "method": "cox",
        "words": words,
        "participants": list(lung.SITES),
        "recovered": [],
        "first_bytes": {},
        "leaves": {k: {"rule": rule, "shape": shape, "meaning": f"{k}."} for k, (rule, shape) in leaves.items()},
    }
    journal.write("opened", {**body, **more}, step=step)


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "journal.db")
    leaves = {"score": ("moment", [3]), "information": ("moment", [6]), "log_likelihood": ("moment", [])}
    opened(made, "totals", 0, {"patients": ("count", []), "entries": ("curve", [0])}, recovered=["turin"])
    opened(made, "derivatives", 1, leaves)
    made.write("waited", {"name": "derivatives", "method": "cox", "sites": {"leiden": "mask"}}, step=2)
    opened(made, "derivatives", 2, leaves)
    yield made
    made.close()


def test_the_planned_sheet_lists_every_leaf_of_every_analysis_and_of_its_cohort_step() -> None:
    rows = sheet.planned(lung.study())
    assert {r.analysis for r in rows} == {"curves", "effect"}
    names = {(r.analysis, r.contribution) for r in rows}
    assert {("curves", "cohort.flow"), ("curves", "kaplan-meier.counts"), ("effect", "cox.derivatives")} <= names
    score = next(r for r in rows if r.contribution == "cox.derivatives" and r.leaf == "score")
    assert (score.rule, score.shape, score.bytes) == ("moment", (3,), 24)
    assert score.times > 1
    assert "masked (secagg)" in score.protection
    assert "3 or more hospitals" in score.protection
    assert all(r.meaning and r.bytes > 0 for r in rows)


def test_leaves_without_elements_are_not_listed() -> None:
    assert not any(0 in r.shape for r in sheet.planned(lung.study()))


def test_the_planned_sheet_says_so_when_nothing_is_hidden() -> None:
    rows = sheet.planned(lung.study(protection={"hide": "none"}))
    assert all(r.protection.startswith("not hidden") for r in rows)


def test_the_actual_sheet_counts_openings_in_declared_order(journal: Journal) -> None:
    rows = sheet.actual(journal, lung.study(), "effect")
    found = [(r.contribution, r.leaf, r.shape, r.bytes, r.times) for r in rows]
    assert found == [
        ("cox.totals", "patients", (), 8, 1),
        ("cox.derivatives", "score", (3,), 24, 2),
        ("cox.derivatives", "information", (6,), 48, 2),
        ("cox.derivatives", "log_likelihood", (), 8, 2),
    ]


def test_the_sheet_reads_as_plain_text_with_nothing_lost() -> None:
    text = sheet.text(sheet.planned_table(sheet.planned(lung.study())), width=180)
    assert "cox.derivatives" in text
    assert "at most" in text
    assert "log_likelihood" in text
    assert "masked (secagg)" in text


def test_the_csv_has_a_line_a_leaf(journal: Journal) -> None:
    rows = sheet.csv_rows(sheet.actual(journal, lung.study(), "effect"))
    assert [(r["leaf"], r["shape"], r["bytes"], r["times"]) for r in rows][:2] == [
        ("patients", "1", 8, 1),
        ("score", "3", 24, 2),
    ]


def test_participation_names_who_was_recovered_and_who_was_waited_for(journal: Journal) -> None:
    found = participation(journal, lung.SITES)
    assert found.sums == 3
    assert [(r.step, r.name, r.site) for r in found.recovered] == [(0, "totals", "turin")]
    assert [(w.step, w.name, w.sites) for w in found.waited] == [(2, "derivatives", ["leiden"])]
    assert found.left == []


def test_a_site_that_left_for_good_is_named_and_absent_from_later_sums(journal: Journal) -> None:
    stayed = [s for s in lung.SITES if s != "madrid"]
    journal.write("epoch", {"stayed": stayed, "left": {"madrid": "deadline"}}, epoch=1)
    opened(journal, "totals", 0, {"patients": ("count", [])}, participants=stayed)
    assert participation(journal, stayed).left == ["madrid"]
    assert sums_taken(journal, lung.SITES)[-1].parts["madrid"] == "absent"


def test_each_sum_says_what_became_of_each_site(journal: Journal) -> None:
    taken = sums_taken(journal, lung.SITES)
    assert [t.parts["turin"] for t in taken] == ["recovered", "counted", "counted"]
    assert [t.parts["leiden"] for t in taken] == ["counted", "counted", "waited"]


@pytest.mark.parametrize("width", [80, 100, 110])
def test_a_narrow_sheet_has_fewer_columns_and_cuts_nothing(width: int) -> None:
    rows = sheet.planned(lung.study())
    text = sheet.text(sheet.planned_table(rows, width), width=width)
    assert "…" not in text
    assert ("Left out here: " in text) is (width < 110)
    assert ("bytes" in text.splitlines()[2]) is (width >= 110)
    said = Counter(c for c in text if c.isalpha())  # folded words keep their letters
    for letter, n in Counter(c for row in rows for c in row.leaf + row.meaning if c.isalpha()).items():
        assert said[letter] >= n


def test_the_sheet_as_csv_has_every_leaf() -> None:
    rows = sheet.planned(lung.study())
    lines = sheet.csv_text(rows).splitlines()
    assert lines[0].startswith("analysis,contribution,leaf,rule,shape,bytes,times")
    assert len(lines) == len(rows) + 1


def test_the_bytes_of_a_model_update_are_those_that_travel(journal: Journal) -> None:
    leaves = {"delta": ("update", [100]), "loss": ("moment", [])}
    words = np.zeros(100 + 2 * 3, np.uint32)  # one word a parameter; three the loss, three the number of clipped values
    opened(journal, "step", 3, leaves, words=words, encoding="fixed32")
    rows = {r.leaf: r for r in sheet.actual(journal, lung.study(), "effect") if r.contribution == "cox.step"}
    assert (rows["delta"].bytes, rows["loss"].bytes) == (400, 12)
    sums = [one for one in opened_sums(journal) if one.step == 3]
    assert _bytes(sums).received == len(lung.SITES) * words.nbytes


def test_a_sum_that_one_hospital_alone_reads_says_so_and_is_nobodys_to_show(journal: Journal) -> None:
    opened(journal, "fitted", 3, {"patients": ("count", [5])}, words=np.zeros(0, np.uint64), to="turin")
    (row,) = [r for r in sheet.actual(journal, lung.study(), "effect") if r.contribution == "cox.fitted"]
    assert row.protection.endswith("and turin alone reads it")
    assert (row.bytes, row.times) == (40, 1)
    sums = [one for one in opened_sums(journal) if one.step == 3]
    assert (_bytes(sums).opened, _bytes(sums).received) == (0, 40 * len(lung.SITES))
    assert _shown(journal.all("opened")[-1], {0}, {"cox.fitted": ("patients",)}) is None


def test_a_run_with_snapshots_shows_all_that_left_as_one_without_does(tmp_path: Path) -> None:
    """A snapshot drops the words of earlier sums, and nothing else of them: also where a run was broken off in between."""
    shown = {}
    for name, every in (("kept", 100), ("snapshots", 2)):
        rounds = {"most": 5, "snapshot": every}
        asked = training.study({"rounds": rounds}, participation={"on_dropout": "abort"})
        if name == "snapshots":
            stops = [Fault("turin", "plain", occurrence=6, seconds=None)]
            assert training.run(asked, tmp_path / name, faults=stops).outcomes["model"].error is not None
        answered = training.result(training.run(asked, tmp_path / name))
        path = tmp_path / name / "model" / "journal.db"
        journal = Journal(path, read_only=True)
        dropped = sum(record.body is None for record in journal.all("opened"))
        taken = [(t.epoch, t.step, t.name, t.words, t.parts) for t in sums_taken(journal, training.SITES)]
        found = participation(journal, training.SITES)
        shown[name] = (sheet.actual(journal, asked, "model"), taken, found.sums, _bytes(opened_sums(journal)))
        stored = {"estimates": answered.estimates, "journal_digest": journal.digest}
        journal.close()
        assert (dropped > 0) is (name == "snapshots")
        verified = verify(asked, "model", path, stored)
        assert (verified.reproduced, verified.sums) == (True, found.sums)
    assert shown["snapshots"] == shown["kept"]


def test_who_took_part_is_known_of_sums_whose_words_were_dropped(journal: Journal) -> None:
    opened(journal, "totals", 3, {"patients": ("count", [])}, participants=["leiden", "padua"])
    before = (sheet.actual(journal, lung.study(), "effect"), participation(journal, lung.SITES), opened_sums(journal))
    journal.write("sums", sums_body(opened_sums(journal)), step=4)
    journal.prune(journal.write("snapshot", {"state": 1}, step=4), from_step=0)
    assert all(record.body is None for record in journal.all("opened"))
    after = (sheet.actual(journal, lung.study(), "effect"), participation(journal, lung.SITES), opened_sums(journal))
    assert after == before
    assert [s.parts["turin"] for s in sums_taken(journal, lung.SITES)] == ["recovered", "counted", "counted", "absent"]


def test_a_journal_of_an_older_unisono_is_read_as_far_as_it_says(journal: Journal) -> None:
    journal.prune(journal.write("snapshot", {"state": 1}, step=2), from_step=1)
    assert [one.step for one in opened_sums(journal)] == [0]
    assert participation(journal, lung.SITES).sums == 3


@pytest.mark.parametrize("width", [80, 90, 100, 120])
def test_names_are_broken_between_their_words_only(width: int) -> None:
    rows = sheet.planned(training.study())
    shown = sheet.text(sheet.planned_table(rows, width), width).split()
    for row in rows:
        assert all(any(word in part for part in shown) for word in re.findall(r"[a-z]+_?", row.leaf))
    assert ("validation_patients" in shown) is (width != 90)  # there the contributions are shown too
