"""The main job: four hospitals, four dialects, one answer, with two faults on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_cli import unisono
from unisono.demo import lung


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, unisono("demo", "--out", "shown", cwd=folder)


def test_the_demo_tells_what_happens_and_what_it_is_not(demo: tuple[Path, str]) -> None:
    _, said = demo
    assert "it does not protect you" in said
    assert "turin's part counts" in said
    assert "leiden is back" in said
    assert "Largest relative difference" in said
    assert "p = 0.000" not in said


def test_the_demo_equals_the_pooled_fit_to_1e_7(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    comparison = json.loads((folder / "shown" / "comparison.json").read_text())
    rows = comparison["rows"]
    assert len(rows) == 9
    for row in rows:
        assert row["federated"] == pytest.approx(row["pooled"], rel=1e-7)


def test_the_faults_are_on_record(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    result = json.loads((folder / "shown" / "effect" / "result.json").read_text())
    took_part = result["participation"]
    assert [r["site"] for r in took_part["recovered"]] == ["turin"]
    assert [w["sites"] for w in took_part["waited"]] == [["leiden"]]
    assert result["sites"] == sorted(lung.HOSPITALS)
    assert result["protection"]["hide"] == "secagg"


def test_no_number_of_one_hospital_is_in_a_result_and_files_say_who_may_see_them(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    shown = folder / "shown"
    for name in ("patients", "curves", "effect"):
        estimates = json.dumps(json.loads((shown / name / "result.json").read_text())["estimates"])
        assert not [site for site in lung.HOSPITALS if site in estimates]
    for site in lung.HOSPITALS:
        assert "stays at" in next((shown / "sites" / site / "kept").glob("*/effect.json")).read_text()
    listed = (shown / "FILES.md").read_text()
    for path in shown.rglob("*"):
        if path.is_file():
            assert str(path.relative_to(shown)) in listed


def test_the_printed_command_runs_the_study_again_without_faults_and_gives_the_same_estimates(
    demo: tuple[Path, str],
) -> None:
    folder, said = demo
    line = next(text.strip() for text in said.splitlines() if text.strip().startswith("unisono run"))
    unisono(*line.split()[1:], cwd=folder)
    for name in ("patients", "curves", "effect"):
        with_faults, without = (
            json.loads((folder / f / name / "result.json").read_text()) for f in ("shown", "shown-again")
        )
        assert with_faults["estimates"] == without["estimates"]
    assert "identical, bit for bit" in unisono("verify", "shown-again", cwd=folder)


def test_the_demo_again_changes_nothing(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    before = (folder / "shown" / "effect" / "result.json").read_bytes()
    unisono("demo", "--out", "shown", cwd=folder)
    assert (folder / "shown" / "effect" / "result.json").read_bytes() == before
