"""The command line as a user meets it: every command, and wrong input without a traceback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.support import lung

DOCUMENT: dict[str, Any] = lung.DOCUMENT

COMMANDS = [[], ["demo"], ["run"], ["report"], ["verify"], ["methods"], ["study"], ["study", "check"], ["study", "schema"],
            ["study", "sheet"], ["site"], ["site", "map"], ["site", "check"]]  # fmt: skip


def unisono(*arguments: str, cwd: Path, code: int = 0, width: int = 200) -> str:
    """Run the installed command as a process; its output and errors. The exit code must be `code`."""
    environment = {**os.environ, "COLUMNS": str(width), "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "unisono.cli.main", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env=environment, check=False)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert done.returncode == code, said
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study and four hospitals' files that need no mapping."""
    here = tmp_path_factory.mktemp("cli")
    (here / "study.yaml").write_text(yaml.safe_dump(lung.DOCUMENT, sort_keys=False))
    data = lung.frame(step=None)
    data["sex"] = data["sex"].map({0.0: "male", 1.0: "female"})
    data["died"] = data["died"].map({0.0: "false", 1.0: "true"})
    data["ecog"] = data["ecog"].astype(int)
    for name in lung.SITES:
        data[data["site"] == name].drop(columns="site").to_csv(here / f"{name}.csv", index=False)
    (here / "sites.yaml").write_text(yaml.safe_dump({"sites": {s: {"data": f"{s}.csv"} for s in lung.SITES}}))
    return here


def changed(folder: Path, name: str, **changes: object) -> Path:
    """A copy of the study under another name, with top-level keys replaced."""
    path = folder / name
    path.write_text(yaml.safe_dump({**DOCUMENT, **changes}, sort_keys=False))
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "unisono")
def test_every_command_has_help_with_an_example(command: list[str], tmp_path: Path) -> None:
    said = unisono(*command, "--help", cwd=tmp_path)
    assert "unisono" in said
    if command not in ([], ["study"], ["site"]):
        assert "Example" in said


def test_run_writes_results_that_verify_and_report_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    said = unisono("run", "study.yaml", "--sites", "sites.yaml", "--out", str(out), cwd=folder)
    assert "does not protect you" in said
    stored = json.loads((out / "effect" / "result.json").read_text())
    assert {"method", "sites", "participation", "converged", "protection", "journal_digest", "estimates"} <= set(stored)
    assert {"n", "events", "log_likelihood", "iterations", "coefficients"} <= set(stored["estimates"])
    assert {"name", "coef", "se", "hr", "ci_low", "ci_high", "p"} <= set(stored["estimates"]["coefficients"][0])
    assert "identical, bit for bit" in unisono("verify", str(out), cwd=folder)
    (out / "report.html").unlink()
    unisono("report", str(out), cwd=folder)
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=.https?:", page)
    stored["estimates"]["coefficients"][0]["coef"] += 1e-6
    (out / "effect" / "result.json").write_text(json.dumps(stored))
    said = unisono("verify", str(out), cwd=folder, code=1)
    assert "Not reproduced" in said
    assert "reproducible-results" in said


def test_run_of_one_analysis_only(folder: Path, tmp_path: Path) -> None:
    unisono("run", "study.yaml", "--sites", "sites.yaml", "--out", str(tmp_path), "--analysis", "curves", cwd=folder)
    assert (tmp_path / "curves" / "result.json").exists()
    assert not (tmp_path / "effect").exists()


def test_study_check_names_the_line_and_the_remedy(folder: Path) -> None:
    assert "2 analyses" in unisono("study", "check", "study.yaml", cwd=folder)
    analyses = {"effect": {**DOCUMENT["analyses"]["effect"], "covariates": ["age", "sexx"]}}
    changed(folder, "typo.yaml", analyses={**DOCUMENT["analyses"], **analyses})
    said = unisono("study", "check", "typo.yaml", cwd=folder, code=1)
    line = next(k for k, text in enumerate((folder / "typo.yaml").read_text().splitlines(), 1) if "sexx" in text)
    assert f"typo.yaml:{line}" in said
    assert "Did you mean 'sex'?" in said


def test_run_shows_every_problem_of_a_study_and_of_the_data(folder: Path, tmp_path: Path) -> None:
    effect = {**DOCUMENT["analyses"]["effect"], "covariates": ["agee", "sexx"]}
    bad = changed(folder, "bad.yaml", analyses={**DOCUMENT["analyses"], "effect": effect}).name
    said = unisono("run", bad, "--sites", "sites.yaml", "--out", str(tmp_path), cwd=folder, code=1)
    assert "2 problems" in said
    assert "Did you mean 'age'?" in said
    assert "Did you mean 'sex'?" in said
    padua = pd.read_csv(folder / "padua.csv", dtype=str)
    padua.loc[0, "age"], padua.loc[1, "sex"] = "old", "m"
    padua.to_csv(folder / "wrong.csv", index=False)
    others = ["--site", "turin=turin.csv", "--site", "leiden=leiden.csv"]
    said = unisono(
        "run", "study.yaml", "--site", "padua=wrong.csv", *others, "--out", str(tmp_path), cwd=folder, code=1
    )
    assert "site padua, wrong.csv: 2 problems" in said
    assert said.count("what to do") == 2


def test_a_failed_analysis_has_a_cross_and_no_result_is_promised(folder: Path, tmp_path: Path) -> None:
    twice = {**DOCUMENT["variables"], "again": {"type": "number", "min": 20, "max": 200, "derive": "2 * age"}}
    twice["again"]["unit"] = twice["age"].get("unit", "1")
    effect = {**DOCUMENT["analyses"]["effect"], "covariates": ["age", "again"], "grid": {"step": 7, "unit": "d"}}
    bad = changed(folder, "twice.yaml", variables=twice, analyses={"effect": effect}).name
    said = unisono("run", bad, "--sites", "sites.yaml", "--out", str(tmp_path), cwd=folder, code=1)
    assert "✗ effect" in said
    assert "✓" not in said
    assert "No analysis has an answer" in said
    assert "result.json" not in said


def test_a_folder_with_somebody_elses_files_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    for command in (["run", "study.yaml", "--sites", "sites.yaml"], ["demo"]):
        said = unisono(*command, "--out", str(tmp_path), cwd=folder, code=1)
        assert "report.html" in said
        assert "Name a new or an empty folder" in said
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.html", "mine")]


def test_ctrl_c_says_that_the_same_command_goes_on(folder: Path, tmp_path: Path) -> None:
    # Ctrl-C is to be heeded also where the tests themselves run in the background, which ignores it.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    arguments = ["run", "study.yaml", "--sites", "sites.yaml", "--out", str(tmp_path)]
    code = f"{heed}; from unisono.cli.entry import main; main({arguments!r})"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        began = time.monotonic()
        while not any(tmp_path.glob("*/journal.db")) and running.poll() is None and time.monotonic() - began < 60:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "the same command goes on where it stopped" in " ".join(said.split())
    assert "Traceback" not in said
    unisono("run", "study.yaml", "--sites", "sites.yaml", "--out", str(tmp_path), cwd=folder)


def test_ctrl_c_during_imports_shows_no_traceback(tmp_path: Path) -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from unisono.cli.entry import main
main([])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "the same command goes on" in done.stderr
    assert "Traceback" not in done.stderr


def test_study_schema_is_json_with_every_method(folder: Path) -> None:
    schema = json.loads(unisono("study", "schema", cwd=folder))
    assert all(name in json.dumps(schema) for name in ("kaplan-meier", "cox", "glm", "describe"))


def test_study_sheet_lists_every_leaf_and_its_protection(folder: Path) -> None:
    said = unisono("study", "sheet", "study.yaml", cwd=folder)
    for word in ("score", "information", "secagg", "scientific research"):
        assert word in said


def test_study_sheet_writes_a_csv_and_shows_a_question_as_it_is_written(folder: Path, tmp_path: Path) -> None:
    asked = changed(folder, "marked.yaml", question="Is [bold]x[/] larger in [mo]?").name
    assert "Is [bold]x[/] larger in [mo]?" in unisono("study", "sheet", asked, cwd=folder)
    unisono("study", "sheet", asked, "--csv", str(tmp_path / "sheet.csv"), cwd=folder)
    assert "score" in set(pd.read_csv(tmp_path / "sheet.csv")["leaf"])
    assert "ends in .csv" in unisono("study", "sheet", asked, "--csv", asked, cwd=folder, code=1)


def test_methods_lists_what_a_study_may_name(folder: Path) -> None:
    said = unisono("methods", cwd=folder)
    assert all(name in said for name in ("describe", "kaplan-meier", "cox", "glm"))


def test_site_check_reports_and_site_map_proposes(folder: Path, tmp_path: Path) -> None:
    assert "stays at the hospital" in unisono("site", "check", "padua.csv", "study.yaml", cwd=folder)
    mapping = tmp_path / "padua.mapping.yaml"
    unisono("site", "map", "padua.csv", "study.yaml", "--out", str(mapping), cwd=folder)
    unisono("site", "check", "padua.csv", "study.yaml", "--mapping", str(mapping), cwd=folder)
    mapping.write_text("mine")
    assert "--force" in unisono("site", "map", "padua.csv", "study.yaml", "--out", str(mapping), cwd=folder, code=1)
    assert mapping.read_text() == "mine"
    unisono("site", "map", "padua.csv", "study.yaml", "--out", str(mapping), "--force", cwd=folder)
    assert mapping.read_text() != "mine"


def test_a_file_of_excels_can_be_mapped_with_its_encoding(folder: Path, tmp_path: Path) -> None:
    data = pd.read_csv(folder / "padua.csv", dtype=str).rename(columns={"age": "âge"})
    data.to_csv(tmp_path / "x.csv", index=False, encoding="cp1252")
    map_ = ["site", "map", str(tmp_path / "x.csv"), "study.yaml"]
    assert "--encoding cp1252" in " ".join(unisono(*map_, cwd=folder, code=1).replace("│", " ").split())
    said = unisono(*map_, "--encoding", "cp1252", cwd=folder)
    assert 'encoding: "cp1252"' in said
    assert 'column: "âge"' in said
    assert "no text encoding" in unisono(*map_, "--encoding", "cp99999", cwd=folder, code=1)


def test_units_in_brackets_are_shown(folder: Path, tmp_path: Path) -> None:
    study = changed(
        tmp_path,
        "s.yaml",
        variables={**DOCUMENT["variables"], "age": {**DOCUMENT["variables"]["age"], "unit": "mo"}},
    )
    assert "age [mo]" in unisono("site", "check", "padua.csv", str(study), cwd=folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "study.yaml"], "No site was named"),
        (["run", "study.yaml", "--site", "padua"], "names no data"),
        (["run", "study.yaml", "--site", "padua=padua.csv", "--site", "padua=turin.csv"], "Two sites are called"),
        (["run", "study.yaml", "--site", "Padua!=padua.csv"], "cannot be a site's name"),
        (["run", "study.yaml", "--site", "padua=nowhere.csv", "--site", "b=turin.csv", "--site", "c=leiden.csv"], "nowhere.csv"),
        (["run", "study.yaml", "--site", "padua=padua.csv"], "1 site can take part (padua)"),
        (["run", "study.yaml", "--site", "padua=padua.csv", "--site", "turin=turin.csv"], "2 sites can take part (padua, turin)"),
        (["run", "nowhere.yaml", "--site", "padua=padua.csv"], "nowhere.yaml"),
        (["run", "study.yaml", "--sites", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "study.yaml", "--sites", "sites.yaml", "--analysis", "efect"], "no analysis 'efect'"),
        (["verify", "nowhere"], "holds no run"),
        (["report", "nowhere"], "holds no run"),
        (["demo", "no-such-demo"], "There is no demo"),
        (["site", "check", "nowhere.csv", "study.yaml"], "nowhere.csv"),
        (["study", "check", "padua.csv"], "padua.csv"),
    ],
)  # fmt: skip
def test_wrong_input_says_what_and_what_to_do(folder: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    extra = ["--out", str(tmp_path)] if arguments[0] in ("run", "demo") else []
    output = " ".join(unisono(*arguments, *extra, cwd=folder, code=1).replace("│", " ").split())
    assert said in output
    assert "what to do" in output


def test_wrong_usage_has_exit_code_two(folder: Path) -> None:
    assert "No such option" in unisono("run", "study.yaml", "--bogus", cwd=folder, code=2)


def test_a_folder_of_another_study_is_refused_and_fresh_is_offered(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path)
    unisono("run", "study.yaml", "--sites", "sites.yaml", "--out", out, "--analysis", "curves", cwd=folder)
    other = changed(folder, "other.yaml", question="Another question?").name
    said = unisono("run", other, "--sites", "sites.yaml", "--out", out, "--analysis", "curves", cwd=folder, code=1)
    assert "another study" in said
    assert "--fresh" in said
    unisono("run", other, "--sites", "sites.yaml", "--out", out, "--analysis", "curves", "--fresh", cwd=folder)
