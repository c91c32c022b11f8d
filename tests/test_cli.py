"""The command line as a user meets it: every command, and wrong input without a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import lung

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
    path.write_text(yaml.safe_dump({**lung.DOCUMENT, **changes}, sort_keys=False))
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
    assert "Not reproduced" in unisono("verify", str(out), cwd=folder, code=1)


def test_run_of_one_analysis_only(folder: Path, tmp_path: Path) -> None:
    unisono("run", "study.yaml", "--sites", "sites.yaml", "--out", str(tmp_path), "--analysis", "curves", cwd=folder)
    assert (tmp_path / "curves" / "result.json").exists()
    assert not (tmp_path / "effect").exists()


def test_study_check_names_the_line_and_the_remedy(folder: Path) -> None:
    assert "2 analyses" in unisono("study", "check", "study.yaml", cwd=folder)
    analyses = {"effect": {**lung.DOCUMENT["analyses"]["effect"], "covariates": ["age", "sexx"]}}
    changed(folder, "typo.yaml", analyses={**lung.DOCUMENT["analyses"], **analyses})
    said = unisono("study", "check", "typo.yaml", cwd=folder, code=1)
    line = next(k for k, text in enumerate((folder / "typo.yaml").read_text().splitlines(), 1) if "sexx" in text)
    assert f"typo.yaml:{line}" in said
    assert "Did you mean 'sex'?" in said


def test_study_schema_is_json_with_every_method(folder: Path) -> None:
    schema = json.loads(unisono("study", "schema", cwd=folder))
    assert all(name in json.dumps(schema) for name in ("kaplan-meier", "cox", "glm", "describe"))


def test_study_sheet_lists_every_leaf_and_its_protection(folder: Path) -> None:
    said = unisono("study", "sheet", "study.yaml", cwd=folder)
    for word in ("score", "information", "secagg", "scientific research"):
        assert word in said


def test_methods_lists_what_a_study_may_name(folder: Path) -> None:
    said = unisono("methods", cwd=folder)
    assert all(name in said for name in ("describe", "kaplan-meier", "cox", "glm"))


def test_site_check_reports_and_site_map_proposes(folder: Path, tmp_path: Path) -> None:
    assert "stays at the hospital" in unisono("site", "check", "padua.csv", "study.yaml", cwd=folder)
    mapping = tmp_path / "padua.mapping.yaml"
    unisono("site", "map", "padua.csv", "study.yaml", "--out", str(mapping), cwd=folder)
    unisono("site", "check", "padua.csv", "study.yaml", "--mapping", str(mapping), cwd=folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "study.yaml"], "No site was named"),
        (["run", "study.yaml", "--site", "padua"], "names no data"),
        (["run", "study.yaml", "--site", "padua=padua.csv", "--site", "padua=turin.csv"], "Two sites are called"),
        (["run", "study.yaml", "--site", "Padua!=padua.csv"], "cannot be a site's name"),
        (["run", "study.yaml", "--site", "padua=nowhere.csv", "--site", "b=turin.csv", "--site", "c=leiden.csv"], "nowhere.csv"),
        (["run", "study.yaml", "--site", "padua=padua.csv"], "1 site cannot add up without showing a part"),
        (["run", "study.yaml", "--site", "padua=padua.csv", "--site", "turin=turin.csv"], "2 sites cannot add up without showing a part"),
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
