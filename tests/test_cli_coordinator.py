"""`unisono coordinator` and `unisono study` in the network, as an operator and a researcher meet them."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support import engine
from tests.support.network import Client as Hospital
from tests.test_cli_site import Centre, wait_for
from unisono.cli.console import out
from unisono.cli.main import main
from unisono.cli.study_watch import WatchView
from unisono.demo.stage import Service, Stage
from unisono.errors import NetworkError, StorageError
from unisono.network import pki
from unisono.network.coordinator import operator as first_operator
from unisono.network.coordinator.certificate import ServerCertificate
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.enrolment.members import Members
from unisono.network.enrolment.token import Token
from unisono.network.log import Log
from unisono.network.pki import Credentials
from unisono.network.researcher import Client, PersonFolder, Seen, sign, signature_file, signature_of
from unisono.protection.secagg.roster import Roster
from unisono.report import delivered
from unisono.study.load import dump_json, dump_yaml

SITES = ("leiden", "padua", "turin")
STUDY = engine.study("odds")
COMMANDS = [
    *(f"coordinator {name}" for name in ("init", "serve", "join", "invite", "uninvite", "members")),
    *(f"coordinator {name}" for name in ("revoke", "remove", "readiness")),
    *("coordinator pending", "coordinator accept", "authority init", "authority invite", "authority sign"),
    *(f"study {name}" for name in ("join", "sign", "submit", "status", "watch", "result", "cancel")),
]
Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Run a command in this process; what it said. The exit code must be `code`. only: ``out`` or ``err``."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(out, "_width", 200)  # under xdist COLUMNS is 80 when the console is made

    def run(*arguments: str, code: int = 0, only: str = "") -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        heard = capsys.readouterr()
        assert "Traceback" not in heard.out + heard.err
        assert stopped.value.code == code, heard.out + heard.err
        return {"": " ".join((heard.out + heard.err).replace("│", " ").split()), "out": heard.out, "err": heard.err}[
            only
        ]

    return run


def now() -> datetime:
    return datetime.now(UTC)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(say: Say, command: str) -> None:
    said = say(*command.split(), "--help")
    assert "Example" in said
    assert f"unisono {command}" in said


# -- without a running coordinator --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, say: Say) -> Path:
    """A coordinator that is not serving, on a port where nobody listens."""
    say("coordinator", "init", str(tmp_path / "centre"), "--address", "localhost:9")
    return tmp_path / "centre"


def test_init_makes_an_authority_a_server_certificate_settings_and_an_operator(tmp_path: Path, say: Say) -> None:
    home = CoordinatorHome(tmp_path / "centre")
    said = say("coordinator", "init", str(home.path), "--address", "unisono.example.org:443")
    assert "It can be reached from this machine alone" in said
    assert mode(home.path) == 0o700
    for private in ("ca.key", "tls.key", "operator/identity.key", "operator/tls/tls.key"):
        assert mode(home.path / private) == 0o600
    settings = home.settings()
    assert (settings.listen, settings.address) == ("127.0.0.1:443", "unisono.example.org:443")
    assert settings.hosts == ("unisono.example.org", "127.0.0.1", "localhost")
    peer = pki.peer_of(Credentials.load(home.path / "operator" / "tls").chain_pem)
    assert (peer.role, peer.name) == ("operator", "operator")
    assert pki.grouped(home.authority().fingerprint) in said
    assert "There is a coordinator" in say("coordinator", "init", str(home.path), "--address", "x.org:443", code=1)


def test_init_listens_where_it_is_told_and_the_operator_dials_loopback(tmp_path: Path, say: Say) -> None:
    home = CoordinatorHome(tmp_path / "centre")
    said = say("coordinator", "init", str(home.path), "--address", "example.org:443", "--listen", "0.0.0.0:7443")
    assert "from this machine alone" not in said
    assert home.settings().listen == "0.0.0.0:7443"
    assert PersonFolder(home.path / "operator", "operator").settings().address == "127.0.0.1:7443"


@pytest.mark.parametrize("address", ["example.org", "example.org:0", "example.org:70000", "http://example.org:443", ""])
def test_init_refuses_what_is_no_address(tmp_path: Path, say: Say, address: str) -> None:
    said = say("coordinator", "init", str(tmp_path / "centre"), "--address", address, code=1)
    assert "coordinator-address" in said
    assert not (tmp_path / "centre").exists()


def test_invite_prints_one_line_and_keeps_it_for_its_owner_only(folder: Path, say: Say) -> None:
    said = say("coordinator", "invite", "padua", "--days", "2", "--home", str(folder), only="out")
    token = Token.decode(said, now())
    assert said.count("\n") == 1
    assert (token.address, token.peer.name, token.peer.invites) == ("localhost:9", "padua", "site")
    assert timedelta(days=1.9) < token.peer.not_after - now() <= timedelta(days=2)
    kept = folder / "tokens" / "padua.token"
    assert kept.read_text() == said
    assert mode(kept) == 0o600


@pytest.mark.parametrize(("name", "role"), [("Padua!", "site"), ("padua", "king"), ("padua", "coordinator")])
def test_invite_refuses_names_and_roles_that_are_none(folder: Path, say: Say, name: str, role: str) -> None:
    assert "what to do" in say("coordinator", "invite", name, "--role", role, "--home", str(folder), code=1)
    assert not (folder / "tokens").exists()


def test_members_and_revoke_work_on_the_files_of_a_coordinator_that_is_not_serving(folder: Path, say: Say) -> None:
    say("coordinator", "invite", "rossi", "--role", "researcher", "--home", str(folder))
    said = say("coordinator", "members", "--home", str(folder))
    assert "invited: the researcher rossi" in said
    assert "not serving" in said
    home = CoordinatorHome(folder)
    members = Members(home.members)
    key = Roster({"operator": members.find("operator").identity}).fingerprint("operator")
    assert key in said
    assert f"{now() + timedelta(days=365):%Y-%m-%d}" in said
    assert "operator is revoked" in say("coordinator", "revoke", key, "--yes", "--home", str(folder))
    assert members.find("operator").revoked is not None
    members.close()
    assert "revoked" in say("coordinator", "members", "--home", str(folder))
    assert "member-unknown" in say("coordinator", "revoke", "nobody", "--yes", "--home", str(folder), code=1)


def test_who_is_nobody_is_not_asked_about(folder: Path, say: Say) -> None:
    for command in ("revoke", "remove"):
        said = say("coordinator", command, "nobody", "--home", str(folder), code=1)
        assert "member-unknown" in said
        assert "?" not in said
    assert "own-operator" in say("coordinator", "remove", "operator", "--home", str(folder), code=1)


def test_an_invitation_is_cancelled_or_replaced_and_its_file_goes(folder: Path, say: Say) -> None:
    home = ("--home", str(folder))
    say("coordinator", "invite", "padua", *home)
    newer = say("coordinator", "invite", "padua", *home, only="out")
    assert (folder / "tokens" / "padua.token").read_text() == newer
    assert say("coordinator", "members", *home).count("invited: the site padua") == 1
    assert "not invited any more" in say("coordinator", "uninvite", "padua", *home)
    assert not (folder / "tokens" / "padua.token").exists()
    assert "invited:" not in say("coordinator", "members", *home)
    said = say("coordinator", "uninvite", "padua", *home, code=1)
    assert "invitation-unknown" in said
    assert "member-known" in say("coordinator", "invite", "operator", "--role", "operator", *home, code=1)
    assert say("authority", "invite", "--help").count("[default: 7]") == 1


def test_commands_on_a_folder_that_is_none_say_so(tmp_path: Path, say: Say) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert "coordinator-folder" in say("coordinator", "serve", "--home", nowhere, code=1)
    assert "not-joined" in say("coordinator", "members", "--home", nowhere, code=1)
    said = say("study", "status", "--home", nowhere, code=1)
    assert "not-joined" in said
    assert "unisono study join" in said


def test_what_needs_a_running_coordinator_says_that_it_cannot_be_reached(folder: Path, say: Say) -> None:
    said = say("coordinator", "readiness", "--home", str(folder), code=1)
    assert "unreachable" in said
    assert "ask the operator whether the coordinator serves" in said


def test_the_servers_certificate_is_renewed_in_the_last_third_of_its_life(folder: Path) -> None:
    home = CoordinatorHome(folder)
    before = pki.certificate_of(home.credentials().chain_pem)
    ServerCertificate(home, Log(home.log, now), now)
    assert pki.certificate_of(home.credentials().chain_pem) == before
    ServerCertificate(home, Log(home.log, now), lambda: now() + timedelta(days=300))
    after = pki.certificate_of(home.credentials().chain_pem)
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert after.public_key() == before.public_key()


def test_serve_says_where_it_listens_and_sigterm_ends_it_in_order(tmp_path: Path, say: Say) -> None:
    from unisono.demo.acts import free_port

    port = free_port()
    with Stage(tmp_path, lambda _, __: None) as stage:
        stage.run("ops", "coordinator", "init", "centre", "--address", f"localhost:{port}")
        service: Service = stage.serve("ops", "coordinator", "serve", "--home", "centre")
        assert service.wait_for(f"listening on 127.0.0.1:{port}", 30)
        said = say("coordinator", "members", "--home", str(tmp_path / "centre"))
        assert "not serving" not in said
        second = stage.serve("ops2", "coordinator", "serve", "--home", "centre")
        assert second.wait(30) == 1
        service.process.terminate()
        assert service.wait(30) == 0
    events = [json.loads(line)["event"] for line in (tmp_path / "centre" / "log.jsonl").read_text().splitlines()]
    assert events[0] == "serving"
    assert events[-1] == "stopped"
    assert "one-coordinator" in (tmp_path / "logs" / "ops2.log").read_text()


# -- with one -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    """A coordinator with three hospitals that approve by themselves."""
    opened = Centre(tmp_path / "c")
    first_operator.make(opened.net.home, f"127.0.0.1:{opened.net.port}", now())

    async def dial() -> None:
        opened.net.join("padua").start()

    opened.do(dial())
    yield opened
    opened.close()


@pytest.fixture
def operator(centre: Centre) -> str:
    """The coordinator's folder."""
    return str(centre.net.home.path)


@pytest.fixture
def researcher(tmp_path: Path, centre: Centre, say: Say) -> Path:
    """A researcher's folder, joined."""
    home = tmp_path / "anna"
    said = say("study", "join", centre.token("anna", "researcher"), "--home", str(home))
    assert PersonFolder(home).fingerprint() in said
    return home


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file."""
    path = tmp_path / "study.yaml"
    path.write_text(dump_yaml(STUDY))
    return path


def hold(centre: Centre) -> dict[str, Hospital]:
    """The stewards decide nothing by themselves."""
    for hospital in centre.net.sites.values():
        hospital.approving = False
    return centre.net.sites


def submit(say: Say, study: Path, home: Path) -> str:
    say("study", "sign", str(study), "--home", str(home))
    return say("study", "submit", str(study), "--sites", ",".join(SITES), "--home", str(home))


def test_a_study_is_signed_submitted_watched_and_its_results_fetched(
    centre: Centre, researcher: Path, study: Path, say: Say, tmp_path: Path
) -> None:
    home = ("--home", str(researcher))
    said = submit(say, study, researcher)
    assert "lung is submitted" in said
    assert STUDY.digest() in said
    said = say("study", "watch", "lung", *home)
    assert "lung finished" in said
    assert "unisono study result lung" in said
    assert "3 of 3" in say("study", "status", *home)
    assert STUDY.digest() in say("study", "status", STUDY.digest()[:8], *home)
    out = tmp_path / "results"
    said = say("study", "result", "lung", "--out", str(out), *home)
    assert "odds" in said
    assert "report.html for reading" in said
    there = centre.net.home.folder("lung", STUDY.digest())
    for name in ("odds/result.json", "report.html", "run.json", "FILES.md"):
        assert (out / name).read_bytes() == (there / name).read_bytes()
    assert not list(out.rglob("journal.db*"))
    read = delivered.read(out)
    assert read.sites == SITES
    assert read.outcomes["odds"].answer is not None
    say("study", "result", "lung", "--out", str(out), *home)


def test_results_are_not_written_over_other_peoples_files(
    centre: Centre, researcher: Path, study: Path, say: Say, tmp_path: Path
) -> None:
    submit(say, study, researcher)
    say("study", "watch", "lung", "--home", str(researcher))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("mine")
    said = say("study", "result", "lung", "--out", str(tmp_path / "mine"), "--home", str(researcher), code=1)
    assert "own-folder" in said
    assert (tmp_path / "mine" / "report.html").read_text() == "mine"


def test_a_study_that_is_not_signed_or_was_changed_since_is_not_sent(
    centre: Centre, researcher: Path, study: Path, say: Say
) -> None:
    home = ("--sites", ",".join(SITES), "--home", str(researcher))
    assert "is not signed" in say("study", "submit", str(study), *home, code=1)
    say("study", "sign", str(study), "--home", str(researcher))
    study.write_text(dump_yaml(engine.study("odds", question="Another question?")))
    assert "was changed since" in say("study", "submit", str(study), *home, code=1)
    signature_file(study).write_text("[]")
    assert "is no signature" in say("study", "submit", str(study), *home, code=1)
    assert "No study was submitted yet" in say("study", "status", "--home", str(researcher))


def test_a_study_signed_by_somebody_else_is_refused_by_the_coordinator(
    centre: Centre, researcher: Path, study: Path, say: Say, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    say("study", "join", centre.token("bruno", "researcher"), "--home", str(other))
    say("study", "sign", str(study), "--home", str(other))
    said = say("study", "submit", str(study), "--sites", ",".join(SITES), "--home", str(researcher), code=1)
    assert "study-signature" in said


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        ("padua,rome", "Sites that joined: leiden, padua, turin"),
        ("padua,padua", "distinct-sites"),
        (",", "distinct-sites"),
        ("padua,turin", "2 sites can take part (padua, turin)"),
    ],
)
def test_wrong_sites_are_refused_with_the_right_ones(
    centre: Centre, researcher: Path, study: Path, say: Say, sites: str, words: str
) -> None:
    say("study", "sign", str(study), "--home", str(researcher))
    assert words in say("study", "submit", str(study), "--sites", sites, "--home", str(researcher), code=1)


def test_a_cancelled_study_ends_the_watch_with_exit_code_one(
    centre: Centre, researcher: Path, study: Path, say: Say
) -> None:
    hold(centre)
    assert "waiting for leiden, padua and turin, 30 d more" in submit(say, study, researcher)
    assert "waiting for leiden, padua and turin" in say("study", "status", "lung", "--home", str(researcher))
    assert "lung: cancelled. Cancelled by the researcher anna." in say(
        "study", "cancel", "lung", "--home", str(researcher)
    )
    assert "cancelled" in say("study", "watch", "lung", "--home", str(researcher), code=1)
    assert "no results" in say("study", "result", "lung", "--home", str(researcher), code=1)
    assert "known-studies" in say("study", "watch", "no-such", "--home", str(researcher), code=1)


def test_a_watch_goes_on_over_a_restart_of_the_coordinator(
    centre: Centre, researcher: Path, study: Path, say: Say
) -> None:
    hold(centre)
    submit(say, study, researcher)
    with Client(PersonFolder(researcher)) as client:
        watching = client.watch("lung")
        first = next(watching)
        assert first.state["state"] == "waiting"
        restarting = threading.Thread(target=lambda: centre.do(centre.net.restart()))
        restarting.start()
        seen: list[Seen] = []
        for seen_now in watching:
            seen.append(seen_now)
            if seen_now.away is None and any(s.away is not None for s in seen):
                break
        restarting.join()
        away = next(s for s in seen if s.away is not None)
        assert away.away is not None
        assert away.away.rule in ("coordinator-stopping", "unreachable")
        assert away.state["state"] == "waiting"
        say("study", "cancel", "lung", "--home", str(researcher))
        assert [s.state["state"] for s in watching][-1] == "cancelled"


def test_tokens_are_for_one_role_and_a_folder_is_one_member(
    centre: Centre, researcher: Path, say: Say, tmp_path: Path
) -> None:
    new = ("--home", str(tmp_path / "new"))
    assert "token-role" in say("study", "join", centre.token("rome"), *new, code=1)
    assert "token-role" in say("coordinator", "join", centre.token("x", "researcher"), *new, code=1)
    assert "token-form" in say("study", "join", "hello", *new, code=1)
    second = centre.token("bruno", "researcher")
    assert "already-joined" in say("study", "join", second, "--home", str(researcher), code=1)
    assert "operator bo" in say("coordinator", "join", centre.token("bo", "operator"), *new)
    assert "leiden" in say("coordinator", "members", *new)
    token = say("coordinator", "invite", "rome", *new, only="out")
    assert Token.decode(token, now()).peer.name == "rome"
    assert "not invited any more" in say("coordinator", "uninvite", "rome", *new)
    assert not (tmp_path / "new" / "tokens" / "rome.token").exists()
    (tmp_path / "new" / "tokens" / "used.token").write_text("of somebody who has joined since")
    say("coordinator", "invite", "bern", *new)
    say("coordinator", "members", *new)
    assert [file.stem for file in (tmp_path / "new" / "tokens").iterdir()] == ["bern"]


def test_members_and_readiness_show_who_is_there(centre: Centre, operator: str, researcher: Path, say: Say) -> None:
    wait_for(lambda: all(hospital.connections for hospital in centre.net.sites.values()))
    said = say("coordinator", "members", "--home", operator)
    assert "anna researcher" in said
    for name, hospital in centre.net.sites.items():
        key = Roster({name: hospital.site.identity.public}).fingerprint(name)
        assert f"{name} site {key} yes" in said
    centre.do(centre.net.sites["turin"].stop())
    wait_for(lambda: "turin site" in (said := say("coordinator", "members", "--home", operator)) and said.count(" yes ") == 2)  # fmt: skip
    said = say("coordinator", "readiness", "--home", operator)
    assert "turin no" in said
    assert "padua yes" in said
    assert "describe missing (here 1)" in said  # the test's hospitals say that they have one method


def test_revoking_closes_live_connections_at_once(centre: Centre, operator: str, researcher: Path, say: Say) -> None:
    padua = centre.net.sites["padua"]
    wait_for(lambda: padua.connections)
    said = say("coordinator", "revoke", "padua", "--yes", "--home", operator)
    assert "padua is revoked: 1 certificate" in said
    assert "live connections were closed" in said
    wait_for(lambda: "certificate-revoked" in padua.byes, 5)
    wait_for(lambda: "revoked" in say("coordinator", "members", "--home", operator))
    say("coordinator", "revoke", "anna", "--yes", "--home", operator)
    said = say("study", "status", "--home", str(researcher), code=1)
    assert "certificate-revoked" in said or "revoked" in said


def test_a_member_that_was_revoked_is_removed_and_joins_anew_with_another_key(
    centre: Centre, operator: str, say: Say, tmp_path: Path
) -> None:
    padua = centre.net.sites["padua"]
    wait_for(lambda: padua.connections)
    say("coordinator", "revoke", "padua", "--yes", "--home", operator)
    wait_for(lambda: "certificate-revoked" in padua.byes, 5)
    said = say("coordinator", "invite", "padua", "--home", operator, code=1)
    assert "member-revoked" in said
    assert "unisono coordinator remove padua" in said
    assert "padua is removed" in say("coordinator", "remove", "padua", "--yes", "--home", operator)
    members = Members(centre.net.home.members)
    assert pki.fingerprint(pki.certificate_of(padua.credentials.chain_pem)) in members.revoked()
    members.close()
    token = say("coordinator", "invite", "padua", "--home", operator, only="out")
    assert "joined" in say("site", "join", token.strip(), "--home", str(tmp_path / "again"))
    assert "padua site" in say("coordinator", "members", "--home", operator)
    assert not (Path(operator) / "tokens" / "padua.token").exists()


def test_a_certificate_is_renewed_in_the_last_third_of_its_life(centre: Centre, researcher: Path) -> None:
    folder = PersonFolder(researcher)
    before = Credentials.load(folder.tls)
    with Client(folder) as client:
        assert not client.renew_if_due(now())
        old = pki.certificate_of(before.chain_pem)
        wait_for(lambda: now() > old.not_valid_before_utc + pki.SKEW + timedelta(seconds=1.5))
        assert client.renew_if_due(now() + timedelta(days=300))
        assert client.call("studies") == {"studies": []}
    after = Credentials.load(folder.tls)
    assert after.key_pem == before.key_pem
    assert after.chain_pem != before.chain_pem


def test_a_lost_answer_to_join_is_asked_for_again_with_the_same_keys(centre: Centre, say: Say, tmp_path: Path) -> None:
    token, home = centre.token("anna", "researcher"), tmp_path / "anna"
    say("study", "join", token, "--home", str(home))
    key = (home / "tls" / "tls.key").read_bytes()
    (home / "coordinator.json").unlink()
    (home / "tls" / "tls.pem").unlink()
    say("study", "join", token, "--home", str(home))
    assert (home / "tls" / "tls.key").read_bytes() == key
    assert "identity-pinned" in say("study", "join", token, "--home", str(tmp_path / "thief"), code=1)


def status(**changes: Any) -> dict[str, Any]:
    """As a coordinator tells it."""
    site = {"online": True, "decision": "approved", "why": "", "bytes_in": 1200, "bytes_out": 250_000}
    progress = {
        "analysis": "effect",
        "step": 2,
        "name": "cox.derivatives",
        "opened": 4,
        "seconds": 1.0,
        "waiting_for": ["turin"],
    }
    return {"study": "ab" * 32, "id": "lung", "researcher": "anna", "submitted": "2026-11-21T22:52", "state": "running", "why": "",
            "sites": {"padua": site, "turin": {**site, "online": False}}, "waiting_for": ["turin"], "progress": progress, **changes}  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
def test_a_watch_shows_sites_step_who_is_late_and_bytes(terminal: bool) -> None:
    text = StringIO()
    console = Console(file=text, force_terminal=terminal, width=120, color_system=None)
    event = {
        "kind": "waiting",
        "analysis": "effect",
        "step": 2,
        "name": "cox.derivatives",
        "site": "turin",
        "seconds": 1.0,
    }
    with WatchView(console) as view:
        view.show(Seen(status(), None))
        view.show(Seen(status(), event))
        view.show(Seen(status(), None, NetworkError("It is away.", rule="unreachable", remedy="")))
    view.last(status())
    shown = text.getvalue()
    for words in ("waiting for turin: its part was not in", "effect, step 3: cox.derivatives; 4 sums opened", "1.2 kB", "0.2 MB",
                  "It is away. It is asked again"):  # fmt: skip
        assert words in shown


def test_words_from_elsewhere_cannot_rewrite_the_terminal() -> None:
    text = StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    console.print(WatchView.panel(status(why="no\x1b[2J\x1b[31m \u202eevil")))
    assert "\x1b[2J" not in text.getvalue()
    assert "\u202e" not in text.getvalue()


# -- signatures, and results without journals ---------------------------------------------------------------------------


def test_a_signature_is_of_one_study_by_one_key(tmp_path: Path, folder: Path) -> None:
    person = PersonFolder(folder / "operator", "operator")
    path = tmp_path / "s.json"
    made = sign(STUDY, person, path)
    assert signature_of(STUDY, path) == made
    forged = {**json.loads(path.read_text()), "identity": "00" * 32}
    path.write_text(json.dumps(forged))
    with pytest.raises(NetworkError, match="not signed by the researcher"):
        signature_of(STUDY, path)
    assert json.loads(dump_json(STUDY))["id"] == "lung"


def test_a_folder_without_results_is_no_delivery(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no results"):
        delivered.read(tmp_path)


def test_damaged_settings_are_told(tmp_path: Path) -> None:
    (tmp_path / "coordinator.json").write_text("{}")
    with pytest.raises(StorageError) as told:
        PersonFolder(tmp_path).settings()
    assert told.value.rule == "readable-file"
