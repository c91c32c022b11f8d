"""A folder, a file or an answer that is not what the command needs: said before anything is read, signed, written or changed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine
from tests.support.network import coordinator_home, credentials
from unisono.cli.console import out
from unisono.cli.folder import check_folder
from unisono.cli.main import main
from unisono.errors import StorageError
from unisono.network.agent.folder import AgentFolder, Settings
from unisono.network.agent.inbox import Entry
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.folders import Owner, owner_of
from unisono.network.pki import Role
from unisono.network.researcher import PersonFolder
from unisono.protection.secagg.roster import Identity
from unisono.study.load import dump_yaml

Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Run a command in this process; what it said. The exit code must be `code`; answer: what is typed."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(out, "_width", 200)

    def run(*arguments: str, code: int = 1, answer: str = "") -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        heard = capsys.readouterr()
        said = " ".join((heard.out + heard.err).replace("│", " ").split())
        assert stopped.value.code == code, said
        return said

    return run


@pytest.fixture
def centre(tmp_path: Path) -> CoordinatorHome:
    return coordinator_home(tmp_path / "centre")


def member(centre: CoordinatorHome, path: Path, role: Role) -> Path:
    """The folder of somebody who joined."""
    folder = AgentFolder(path)
    folder.home.make()
    credentials(centre, role, role, member=Identity.generate()).save(folder.tls)
    folder.keep(Settings(name=role, address="127.0.0.1:9", ca_fingerprint=centre.authority().fingerprint))
    return path


def test_a_folder_says_whose_it_is(tmp_path: Path, centre: CoordinatorHome) -> None:
    assert owner_of(centre.path) == Owner("coordinator")
    assert owner_of(tmp_path / "nowhere") is None
    for role in ("site", "researcher", "operator"):
        path = member(centre, tmp_path / role, role)
        assert owner_of(path) == Owner(role, role)
    (tmp_path / "site" / "tls" / "tls.pem").write_text("no certificate")
    assert owner_of(tmp_path / "site") is None
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "ca.pem").write_text("")
    assert owner_of(tmp_path / "vault") == Owner("authority")


def test_a_command_in_another_s_folder_is_refused_and_makes_no_file(
    tmp_path: Path, centre: CoordinatorHome, say: Say
) -> None:
    site = member(centre, tmp_path / "site", "site")
    researcher = member(centre, tmp_path / "researcher", "researcher")
    study = tmp_path / "study.yaml"
    study.write_text(dump_yaml(engine.study("odds")))
    wrong = {
        ("study", "sign", str(study)): (site, "unisono site"),
        ("site", "serve"): (researcher, "unisono study"),
        ("site", "data", "add", "x", str(study)): (researcher, "unisono study"),
        ("site", "preflight", "localhost"): (researcher, "unisono study"),
        ("site", "studies"): (centre.path, "unisono coordinator"),
        ("coordinator", "members"): (site, "unisono site"),
        ("coordinator", "serve"): (site, "unisono site"),
    }
    before = sorted(tmp_path.rglob("*"))
    for command, (folder, right) in wrong.items():
        said = say(*command, "--home", str(folder))
        assert "folder-role" in said, command
        assert right in said
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(Exception, match="not of an operator"):
        PersonFolder(researcher, "operator").settings()


def test_without_a_yes_nothing_is_changed_and_the_exit_code_says_so(tmp_path: Path, say: Say) -> None:
    for noun in ("site", "coordinator"):
        for answer in ("", "\n", "n\n"):
            said = say(noun, "restore", "--home", str(tmp_path), answer=answer)
            assert "Nothing was changed. Without a terminal, say --yes." in said
            assert "Stopped" not in said


def test_facts_are_checked_before_anybody_is_asked(tmp_path: Path, centre: CoordinatorHome, say: Say) -> None:
    home = ("--home", str(member(centre, tmp_path / "site", "site")))
    for command in (["withdraw", "nothing"], ["verify", "turin", "--study", "nothing", "--how", "telephone"]):
        said = say("site", *command, *home)
        assert "known-studies" in said
        assert "y/N" not in said


@pytest.mark.parametrize("noun", ["site", "study", "coordinator"])
def test_a_token_s_file_is_not_the_token(tmp_path: Path, say: Say, noun: str) -> None:
    file = tmp_path / "token.txt"
    file.write_text("unisono1.x")
    for name in (str(file), "padua.token"):
        said = say(noun, "join", name, "--home", str(tmp_path / "new"))
        assert "token-form" in said
        assert f"unisono {noun} join - <" in said
    assert not (tmp_path / "new").exists()
    assert "unisono site preflight - < padua.token" in say("site", "preflight", "padua.token")


def test_nobody_is_asked_about_a_study_that_is_over() -> None:
    values: dict[str, Any] = {field.name: "" for field in fields(Entry)}
    waiting = Entry(**{**values, "decision": "open", "state": "waiting"})
    over = Entry(**{**values, "decision": "open", "state": "finished"})
    assert waiting.waits
    assert waiting.shown == "open"
    assert not over.waits
    assert over.shown == "none, and it is over"


def test_results_are_not_written_over_another_study_or_its_run(tmp_path: Path) -> None:
    asked, other = engine.study("odds"), engine.study("odds", release={"min_sites": 4, "min_count": 20})
    assert asked.id == other.id
    check_folder(tmp_path, asked)
    (tmp_path / "study.yaml").write_text("# mine\n" + dump_yaml(asked))
    check_folder(tmp_path, asked)  # beside the study that is run
    for there in (dump_yaml(other), "no study"):
        (tmp_path / "study.yaml").write_text(there)
        with pytest.raises(StorageError, match="and no run of this study") as raised:
            check_folder(tmp_path, asked)
        assert raised.value.rule == "own-folder"
        with pytest.raises(StorageError):
            check_folder(tmp_path, asked, fresh=True)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(StorageError, match="a run of another study") as raised:
        check_folder(tmp_path, asked)
    assert raised.value.rule == "one-run-a-folder"
    check_folder(tmp_path, asked, fresh=True)
    (tmp_path / "study.yaml").write_text(dump_yaml(asked))
    check_folder(tmp_path, asked)


def test_a_split_is_not_a_folder_of_results(tmp_path: Path, say: Say) -> None:
    split, study = tmp_path / "split", tmp_path / "s.yaml"
    say("simulate", "partition", "breast-cancer", "--sites", "3", "--out", str(split), code=0)
    written = (split / "study.yaml").read_bytes()
    study.write_text(re.sub(r"question: .*", "question: Something else?", (split / "study.yaml").read_text(), count=1))
    said = say("run", str(study), "--sites", str(split / "sites.yaml"), "--out", str(split))
    assert "own-folder" in said
    assert (split / "study.yaml").read_bytes() == written
    assert not (split / "sites").exists()
