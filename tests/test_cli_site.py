"""`unisono site` as a hospital meets it: join, add data, serve, show, approve, refuse, withdraw; over a real coordinator."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine
from tests.support.network import Net, ok
from unisono.cli.console import out
from unisono.cli.main import main
from unisono.errors import StorageError
from unisono.network.agent.limits import limits_of
from unisono.network.wordcode import word_code
from unisono.site.workers.limits import GIB, Limits

COMMANDS = [
    "join",
    "serve",
    "studies",
    "show",
    "approve",
    "refuse",
    "withdraw",
    "verify",
    "results",
    "data add",
    "data list",
    "map",
    "check",
]
STUDY = engine.study("odds", protection={"threat": "malicious"}, cohort={"include": ["age >= 40"]})

Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Run a command in this process; what it said. The exit code must be `code`."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(out, "_width", 120)  # under xdist COLUMNS is 80 when the console is made

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["site", *arguments])
        heard = capsys.readouterr()
        said = heard.out + heard.err
        assert "Traceback" not in said
        assert stopped.value.code == code, said
        return " ".join(said.split())

    return run


class Centre:
    """A real coordinator with two hospitals that approve by themselves, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.net: Net = self.do(Net.open(path, ("leiden", "turin"), heartbeat_s=5.0))

    def do(self, what: Coroutine[Any, Any, Any], seconds: float = 60.0) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(seconds)

    def token(self, name: str, role: str = "site") -> str:
        address = f"127.0.0.1:{self.net.port}"
        call = ok(self.net.port, self.net.operator, call="invite", role=role, name=name, address=address)
        return str(self.do(call)["token"])

    def close(self) -> None:
        self.do(self.net.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Agent:
    """`unisono site serve` as a process."""

    def __init__(self, home: Path) -> None:
        command = [sys.executable, "-m", "unisono.cli.main", "site", "serve", "--home", str(home)]
        environment = {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
        self.home = home
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.heard = ""

    def until(self, text: str) -> str:
        """What it said, up to these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard += line
            if text in line:
                return self.heard
        raise AssertionError(self.heard)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop it; its exit code."""
        self.process.send_signal(how)
        assert self.process.stdout is not None
        self.heard += self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(20)


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    opened = Centre(tmp_path / "centre")
    yield opened
    opened.close()


@pytest.fixture
def padua(tmp_path: Path, centre: Centre, say: Say) -> Path:
    """A hospital's folder, joined and with data."""
    home = tmp_path / "padua"
    data = engine.files(tmp_path / "data", ("padua",))["padua"].source
    say("join", centre.token("padua"), "--home", str(home))
    say("data", "add", "lung", str(data), "--home", str(home))
    return home


def wait_for(true: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What it gives, once that is something."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def logged(home: Path, event: str) -> list[dict[str, Any]]:
    lines = (home / "log.jsonl").read_text().splitlines() if (home / "log.jsonl").exists() else []
    return [found for found in map(json.loads, lines) if found["event"] == event]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, say: Say) -> None:
    assert "Example" in say(*command.split(), "--help")


def test_a_hospital_joins_and_sees_what_to_compare_and_what_is_next(tmp_path: Path, centre: Centre, say: Say) -> None:
    home = tmp_path / "padua"
    said = say("join", centre.token("padua"), "--home", str(home))
    roster = centre.net.coordinator._members.roster()
    assert "joined as padua" in said
    assert roster.fingerprint("padua") in said
    assert word_code(roster.digest) in said
    assert "site serve" in said
    assert stat.S_IMODE((home / "tls" / "tls.key").stat().st_mode) == 0o600
    again = say("join", centre.token("madrid"), "--home", str(home), code=1)
    assert "already-joined" in again
    assert "no Unisono token" in say("join", "nonsense", "--home", str(tmp_path / "x"), code=1)
    assert "proxy-address" in say("join", "nonsense", "--proxy", "ftp://x", "--home", str(tmp_path / "x"), code=1)


def test_what_is_wrong_is_said_with_a_rule_and_a_remedy(tmp_path: Path, padua: Path, say: Say) -> None:
    nowhere = ("--home", str(tmp_path / "nowhere"))
    for command in (["serve"], ["studies"], ["show", "x"], ["approve", "x", "--yes"], ["withdraw", "x", "--yes"]):
        assert "not-joined" in say(*command, *nowhere, code=1)
    here = ("--home", str(padua))
    assert "known-studies" in say("show", "nothing", *here, code=1)
    assert "None was offered yet" in say("refuse", "nothing", *here, code=1)
    assert "the agent is not serving" in say("studies", *here).lower()
    assert "dataset-names" in say("data", "add", "lung", str(tmp_path / "x.csv"), *here, code=1)
    assert "dataset-names" in say("data", "add", "Lung!", str(tmp_path / "x.csv"), *here, code=1)
    say("data", "add", "other", str(tmp_path / "x.csv"), *here, code=1)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("unisono-mapping: 1\nvariablen: {}\n")
    data = str(tmp_path / "data" / "padua.csv")
    assert "valid-mapping" in say("data", "add", "other", data, "--mapping", str(wrong), *here, code=1)
    listed = say("data", "list", *here)
    assert "lung" in listed
    assert "other" not in listed
    (padua / "coordinator.json").write_text("{}")
    assert "readable-file" in say("studies", *here, code=1)


def test_a_study_is_offered_shown_approved_answered_and_its_results_come(
    tmp_path: Path, centre: Centre, padua: Path, say: Say
) -> None:
    here = ("--home", str(padua))
    agent = Agent(padua)
    try:
        agent.until("connected")
        assert "one-agent-a-home" in say("serve", *here, code=1)
        digest = centre.do(centre.net.submit(STUDY))
        agent.until("a new study waits")
        assert "open" in say("studies", *here)
        sheet = say("show", "lung", *here)
        roster = centre.net.coordinator._members.roster()
        frame = engine.frame("padua")
        old_enough = int((frame["age"] >= 40).sum())
        for words in (
            "rossi, who signed this study",
            "Do women with advanced lung cancer live longer?",
            "purpose: scientific research",
            word_code(roster.digest),
            roster.fingerprint("turin"),
            "1 of 3 sites are verified, this one included; 3 are needed",
            "glm.gradient" if "glm.gradient" in sheet else "glm.",
            "only sums are opened. 3 sites, 1 colluder",
            "it may lie",
            "begun at most 10 times",
            f"odds {old_enough}",
            "It waits for your decision",
        ):
            assert words in sheet, words
        say("verify", "turin", "--study", "lung", "--how", "telephone", "--yes", *here)
        assert "Not verified here: leiden." in say("show", digest[:10], *here)
        assert "known-sites" in say("verify", "rome", "--study", "lung", "--how", "telephone", "--yes", *here, code=1)
        refused = say("approve", "lung", "--yes", *here, code=1)
        assert "2 of 3 sites are verified" in refused
        assert "unisono site verify leiden --study lung" in refused
        words, called = word_code(roster.digest), ("verify", "leiden", "turin", "--study", "lung", "--how", "a call")
        assert "word-code-differs" in say(*called, "--words", words[::-1], *here, code=1)
        say(*called, "--words", words.upper().replace("-", " "), *here)
        assert "No results came yet" in say("results", *here)
        assert "no-results" in say("results", "lung", *here, code=1)
        assert "is approved" in say("approve", "lung", "--yes", *here)
        status = centre.do(centre.net.until(digest, "finished", "failed"))
        assert status["state"] == "finished", status
        found = wait_for(lambda: list((padua / "results" / "lung").glob("odds/result.json")))
        result = json.loads(found[0].read_text())
        assert result["sites"] == ["leiden", "padua", "turin"]
        wait_for(lambda: "finished" in say("studies", *here))
        assert "lung" in say("results", *here)
        assert "report.html for reading" in say("results", digest[:8], *here)
        assert "decided" in say("approve", "lung", "--yes", *here, code=1)
    finally:
        assert agent.end() == 0
    assert "stopped" in agent.heard
    assert not (padua / "agent.sock").exists()


def test_an_agent_that_is_killed_takes_up_what_was_approved_and_a_withdrawal_ends_it(
    centre: Centre, padua: Path, say: Say
) -> None:
    here = ("--home", str(padua))
    agent = Agent(padua)
    try:
        agent.until("connected")
        centre.net.sites["turin"].approving = False
        digest = centre.do(centre.net.submit(STUDY))
        agent.until("a new study waits")
        assert agent.end(signal.SIGKILL) == -signal.SIGKILL
        say("verify", "leiden", "turin", "--study", "lung", "--how", "a call", "--yes", *here)
        assert "told when it does" in say("approve", "lung", "--yes", *here)
        permit = json.loads((padua / "permits" / "lung.json").read_text())
        assert permit["study"] == digest
        agent = Agent(padua)
        agent.until("lung is answered")
        agent.until("connected")
        wait_for(lambda: logged(padua, "told"))
        said = say("withdraw", "lung", "--why", "consent revoked", "--yes", *here)
        assert "lung is withdrawn" in said
        assert "cannot be taken back" in said
        status = centre.do(centre.net.until(digest, "withdrawn"))
        assert "consent revoked" in status["why"]
        assert not (padua / "permits" / "lung.json").exists()
        wait_for(lambda: logged(padua, "stopped"))
    finally:
        agent.end()


def test_a_refusal_and_its_reason_reach_the_researcher(centre: Centre, padua: Path, say: Say) -> None:
    here = ("--home", str(padua))
    agent = Agent(padua)
    try:
        digest = centre.do(centre.net.submit(STUDY))
        agent.until("a new study waits")
        say("refuse", "lung", "--why", "no legal basis", *here)
        status = centre.do(centre.net.until(digest, "refused"))
        assert "no legal basis" in status["why"]
        assert "refused" in say("studies", *here)
        assert "is not approved here" in say("withdraw", "lung", "--yes", *here, code=1)
    finally:
        agent.end(signal.SIGINT)
    log = (padua / "log.jsonl").read_text()
    assert not re.search(r"BEGIN|unisono1\.", log)  # no key, no token


def test_a_preflight_before_joining_reaches_the_board_with_the_first_connection(
    tmp_path: Path, centre: Centre, say: Say
) -> None:
    home, token = tmp_path / "padua", centre.token("padua")
    say("preflight", token, "--home", str(home), "--idle", "0.1")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    say("join", token, "--home", str(home))  # no agent serves yet
    sites = centre.do(ok(centre.net.port, centre.net.operator, call="readiness"))["sites"]
    board = sites["padua"]["about"]["preflight"]
    assert json.loads((home / "preflight.json").read_text())["when"][:19] == board["when"][:19]
    assert board["certificate"] == "ok"


def test_an_agent_whose_site_is_revoked_ends_with_the_error_and_does_not_try_for_ever(
    centre: Centre, padua: Path
) -> None:
    agent = Agent(padua)
    agent.until("connected")
    centre.do(ok(centre.net.port, centre.net.operator, call="revoke", who="padua"))
    for served in (agent, Agent(padua)):  # a live stream ends; and the door stays shut
        assert served.process.wait(30) == 77  # and its unit does not start it again: test_deployment.py
        assert served.process.stdout is not None
        with served.process.stdout as heard:
            assert "certificate-revoked" in heard.read()


def test_an_administrator_chooses_what_a_worker_may_use_and_the_agent_s_workers_are_held_to_it(
    say: Say, centre: Centre, tmp_path: Path, padua: Path
) -> None:
    home = ("--home", str(padua))
    assert "8 GiB of address space" in say("limits", *home)
    assert not (padua / "workers.json").exists()  # shown, not set
    said = say("limits", "--memory", "16GiB", "--cpu-hours", "12", "--threads", "4", *home)
    assert "16 GiB" in said
    assert "12 h" in said
    assert limits_of(padua) == Limits(memory_bytes=16 * GIB, cpu_seconds=43_200.0, threads=4)
    say("limits", "--memory", "none", *home)
    assert limits_of(padua) == Limits(memory_bytes=None, cpu_seconds=43_200.0, threads=4)  # what was not said stays
    for wrong in (("--memory", "16 gigs"), ("--memory", "1MiB"), ("--threads", "0"), ("--cpu-hours", "-1")):
        assert "worker-limits" in say("limits", *wrong, *home, code=1)
    assert limits_of(padua).threads == 4
    say("limits", "--threads", "2", "--home", str(tmp_path / "nobody"), code=1)
    assert not (tmp_path / "nobody").exists()
    for content in ("[]", "{", '{"threads": true}', '{"memory": 1}', '{"threads": 0}'):
        (padua / "workers.json").write_text(content)
        with pytest.raises(StorageError):  # no worker without the limits that somebody meant
            limits_of(padua)
