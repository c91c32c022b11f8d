"""The demo over a real network: five processes with mutual TLS, one killed in the middle, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.test_cli import unisono
from unisono.demo import acts, lung, network
from unisono.demo.stage import Stage
from unisono.errors import NetworkError, StorageError

ANALYSES = ("patients", "curves", "effect")


def left(folder: Path) -> list[int]:
    """Processes of the demo in a folder: they, and whatever they start, have it in their environment."""
    mark = f"UNISONO_DEMO={folder.absolute()}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                environment = (process / "environ").read_bytes()
                state = (process / "stat").read_text().rpartition(") ")[2][0]
            except OSError:
                continue
            if mark in environment.split(b"\0") and state != "Z":
                found.append(int(process.name))
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the demo wrote, and what it said."""
    folder = tmp_path_factory.mktemp("net")
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "unisono.cli.main", "demo", "--network", "--out", "shown"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=220, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "shown", done.stdout + done.stderr


def result(folder: Path, analysis: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / analysis / "result.json").read_text())
    return content


def test_the_estimates_are_those_of_the_embedded_run_bit_for_bit(demo: tuple[Path, str]) -> None:
    out, said = demo
    for name in ANALYSES:
        assert result(out / "results", name)["estimates"] == result(out / "embedded", name)["estimates"]
        assert result(out / "results", name)["sites"] == sorted(lung.HOSPITALS)
    assert "identical, bit for bit" in said
    assert "Largest relative difference" in said


def test_every_command_that_a_person_would_type_is_printed(demo: tuple[Path, str]) -> None:
    _, said = demo
    for line in (
        "operator$ unisono coordinator init centre --address localhost:",
        "operator$ unisono coordinator serve --home centre",
        "operator$ unisono coordinator invite padua --role site --home centre",
        "operator$ unisono coordinator invite rossi --role researcher --home centre",
        "leiden$ unisono site join - --home leiden < centre/tokens/leiden.token",
        "rossi$ unisono study join - --home rossi < centre/tokens/rossi.token",
        "madrid$ unisono site data add lung data/madrid.tsv --mapping data/madrid.mapping.yaml --home madrid",
        "turin$ unisono site serve --home turin",
        "rossi$ unisono study sign study.yaml --home rossi",
        "rossi$ unisono study submit study.yaml --sites padua,turin,leiden,madrid --home rossi",
        "turin$ unisono site approve lung-survival --yes --home turin",
        "rossi$ unisono study watch lung-survival --home rossi",
        "rossi$ unisono study result lung-survival --out results --home rossi",
    ):
        assert line in said
    assert "it does not protect you" in said


def test_the_killed_hospital_is_on_record_and_counts(demo: tuple[Path, str]) -> None:
    out, said = demo
    assert "kill -9" in said
    assert said.count("turin$ unisono site serve") == 2
    waited = [who for name in ANALYSES for who in json.dumps(result(out / "results", name)["participation"]).split('"')]
    assert "turin" in waited
    run = json.loads((out / "results" / "run.json").read_text())
    assert run["exchange"] == "grpc"
    lost = [site for entry in run["analyses"].values() for step in entry["steps"] for site in step["lost"]]
    assert "turin" in lost
    starts = [json.loads(line) for line in (out / "turin" / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in starts].count("started") == 2


def test_the_researcher_and_every_hospital_have_the_results_and_nobody_has_the_journals(demo: tuple[Path, str]) -> None:
    out, _ = demo
    for folder in (out / "results", *(out / name / "results" / "lung-survival" for name in lung.HOSPITALS)):
        assert "<html" in (folder / "report.html").read_text()
        assert result(folder, "effect") == result(out / "results", "effect")
        assert (folder / "effect" / "figure.svg").exists()
        assert not list(folder.rglob("journal.db*"))


def test_no_process_is_left(demo: tuple[Path, str]) -> None:
    out, _ = demo
    assert left(out) == []
    assert not list(out.glob("*/agent.sock"))


def test_no_patient_value_and_no_token_is_in_any_log(demo: tuple[Path, str]) -> None:
    out, said = demo
    secret = [path.read_text().strip() for path in (out / "centre" / "tokens").iterdir()]
    padua = pd.read_csv(out / "data" / "padua.csv", sep=";", dtype=str)
    madrid = pd.read_csv(out / "data" / "madrid.tsv", sep="\t", dtype=str)
    turin = pd.read_csv(out / "data" / "turin.csv", dtype=str)
    leiden = pd.read_parquet(out / "data" / "leiden.parquet")
    values = [*padua["paziente"], *padua["sopravvivenza_mesi"], *madrid["inclusion"], *madrid["ultima_noticia"]]
    values += [str(weeks) for weeks in leiden["overleving_weken"] if weeks % 1]
    values += [",".join(row) for row in turin.dropna().itertuples(index=False, name=None)]
    assert len(values) > 300
    logs = [*out.glob("logs/*.log"), *out.glob("*/log.jsonl"), *out.glob("*/audit.jsonl")]
    assert len(logs) >= 6 + 5 + 4
    texts = {str(path): path.read_text() for path in logs} | {"said": said}
    for where, text in texts.items():
        assert not [value for value in values if value in text], where
        assert not [token for token in secret if token in text], where
        assert "Traceback" not in text, where


def test_private_keys_are_their_owners_only(demo: tuple[Path, str]) -> None:
    out, _ = demo
    keys = [*out.rglob("*.key"), *out.glob("centre/tokens/*")]
    assert len(keys) >= 4 * 3 + 2 + 2 + 2
    assert [path for path in keys if path.stat().st_mode & 0o077] == []
    assert len({path.read_bytes() for path in keys}) == len(keys)


def test_a_finished_demo_is_not_begun_anew_unasked(demo: tuple[Path, str]) -> None:
    out, _ = demo
    assert "--fresh" in unisono("demo", "--network", "--out", str(out), cwd=out, code=1)
    with pytest.raises(StorageError):
        network.begin(out, fresh=False)
    assert (out / "results" / "report.html").exists()


# -- when it goes wrong -------------------------------------------------------------------------------------------------


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(StorageError, match="not a demo"):
            network.begin(tmp_path, fresh=fresh)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_unfinished_demo_is_begun_anew(tmp_path: Path) -> None:
    network.begin(tmp_path / "d", fresh=False)
    (tmp_path / "d" / "centre").mkdir()
    network.begin(tmp_path / "d", fresh=False)
    assert not (tmp_path / "d" / "centre").exists()


def test_a_folder_too_deep_for_a_socket_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="too long"):
        network.begin(tmp_path / ("d" * 90), fresh=False)
    assert not list(tmp_path.iterdir())


def test_a_demo_that_is_stopped_leaves_no_process_and_keeps_its_logs(tmp_path: Path) -> None:
    # Ctrl-C is to be heeded also where the tests themselves run in the background, which ignores it.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from unisono.cli.entry import main; main(['demo', '--network', '--out', 'd'])"
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    said = ""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            said += line
            if "coordinator invite" in line:
                break
        assert left(tmp_path / "d")
        running.send_signal(signal.SIGINT)
        said += running.stdout.read()
        assert running.wait(60) == 130, said
    assert "Traceback" not in said
    assert left(tmp_path / "d") == []
    assert "listening on" in (tmp_path / "d" / "logs" / "operator.log").read_text()


def test_sigterm_is_heeded_as_ctrl_c_is() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), acts.terminated():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_step_that_fails_names_the_log_and_ends_everything(tmp_path: Path) -> None:
    with pytest.raises(NetworkError) as told, Stage(tmp_path, lambda _, __: None) as stage:
        service = stage.serve("ops", "coordinator", "serve", "--home", "nowhere")
        assert not service.wait_for("listening on", 30)
        assert service.wait(30) == 1
        stage.run("rossi", "study", "status", "--home", "nowhere")
    assert told.value.rule == "demo-step"
    assert "rossi.log" in told.value.remedy
    assert "not-joined" in (tmp_path / "logs" / "rossi.log").read_text()
    assert left(tmp_path) == []
