"""The certificate authority's key on a machine of its own: only files go to and fro. And the server's certificate, renewed while it
serves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.network import credentials, net, now, ok, rule, said
from unisono.cli.console import out
from unisono.cli.main import main
from unisono.errors import EnrolmentError, NetworkError
from unisono.network import pki, renewing
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.join import join
from unisono.network.authority import Authority
from unisono.network.coordinator import apart
from unisono.network.coordinator.home import CoordinatorHome
from unisono.network.coordinator.service import Coordinator
from unisono.network.enrolment.carried import Answers, Requests, sign
from unisono.network.pki import Credentials
from unisono.network.researcher import Client, PersonFolder

Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Say:
    """Run a command in this process, in the test's folder; what it said. The exit code must be `code`."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(out, "_width", 200)
    monkeypatch.chdir(tmp_path)

    def run(command: str, *more: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([*command.split(), *more])
        heard = capsys.readouterr()
        assert "Traceback" not in heard.out + heard.err
        assert stopped.value.code == code, heard.out + heard.err
        return " ".join((heard.out + heard.err).replace("│", " ").split())

    return run


@contextlib.asynccontextmanager
async def serving(home: CoordinatorHome) -> AsyncIterator[Coordinator]:
    """The coordinator of a folder, and its port written where its operator dials."""
    coordinator = Coordinator(home)
    port = await coordinator.start()
    operator = home.path / "operator" / "coordinator.json"
    settings = json.loads(operator.read_text())
    operator.write_text(json.dumps({**settings, "address": f"localhost:{port}"}))
    try:
        yield coordinator
    finally:
        await coordinator.stop()


def carried(say: Say) -> str:
    """There, signed, and back; what `accept` said."""
    say("coordinator pending --out stick/requests.json --home centre")
    say("authority sign stick/requests.json --out stick/answers.json --home vault --yes")
    return say("coordinator accept stick/answers.json --home centre")


def founded(say: Say) -> CoordinatorHome:
    """An authority in ``vault``, and the coordinator in ``centre``, which got its certificate from there."""
    say("authority init vault --name als")
    made = say("coordinator init centre --address localhost:9 --authority-elsewhere vault/ca.pem")
    assert "where the authority's key is" in made
    home = CoordinatorHome(Path("centre"))
    settings = home.settings()
    home.keep(settings.model_copy(update={"listen": "127.0.0.1:0"}))
    return home


# -- by commands, with files between two folders --------------------------------------------------------------------------


def test_a_federation_is_founded_joined_and_renewed_with_files_carried_between_two_folders(
    say: Say, tmp_path: Path
) -> None:
    home = founded(say)
    assert not (home.path / "ca.key").exists()
    with pytest.raises(NetworkError) as early:
        asyncio.run(Coordinator(home).start())
    assert early.value.rule == "certificate-pending"
    assert "authority-apart" in say("coordinator invite padua --home centre", code=1)
    shown = say("coordinator pending --out stick/requests.json --home centre")
    assert "coordinator coordinator at localhost, 127.0.0.1" in shown
    assert "first certificate operator operator" in shown
    assert "PRIVATE" not in (tmp_path / "stick" / "requests.json").read_text()
    taken = carried(say)
    assert "the server's certificate, until" in taken
    assert "the operator's certificate, until" in taken
    assert "Nothing waits" in say("coordinator pending --home centre")

    async def joined() -> None:
        async with serving(home) as coordinator:
            address = f"localhost:{coordinator.port}"
            await asyncio.to_thread(say, f"authority invite padua --address {address} --home vault")
            token = (tmp_path / "vault" / "tokens" / "padua.token").read_text()
            folder = AgentFolder(tmp_path / "padua")
            with pytest.raises(EnrolmentError) as unknown:
                await join(token, folder, now())
            assert unknown.value.rule == "token-unknown"
            assert "unisono coordinator accept FILE" in unknown.value.remedy
            assert "is invited" in await asyncio.to_thread(
                say, "coordinator accept padua.invitation.json --home centre"
            )
            with pytest.raises(EnrolmentError) as waits:
                await join(token, folder, now())
            assert waits.value.rule == "join-pending"
            assert "Run the same command again" in waits.value.remedy
            assert "site padua has joined" in await asyncio.to_thread(carried, say)
            membership = await join(token, folder, now())
            assert (membership.name, membership.words != "") == ("padua", True)
            listed = await asyncio.to_thread(say, "coordinator members --home centre")
            assert "padua" in listed

    asyncio.run(joined())
    record = [json.loads(line) for line in (tmp_path / "vault" / "authority.jsonl").read_text().splitlines()]
    assert [(line["event"], line["name"]) for line in record] == [
        ("signed", "coordinator"),
        ("signed", "operator"),
        ("invited", "padua"),
        ("signed", "padua"),
    ]


def test_a_file_of_another_federation_is_neither_signed_nor_taken(say: Say) -> None:
    founded(say)
    say("authority init other")
    say("coordinator pending --home centre")
    assert "other-authority" in say("authority sign requests.json --home other --yes", code=1)
    say("authority sign requests.json --home vault --yes")
    for command in ("authority sign answers.json --home vault --yes", "coordinator accept requests.json --home centre"):
        swapped = say(command, code=1)
        assert "other-file" in swapped
        assert "same version" not in swapped
    answers = Answers.read(Path("answers.json").read_bytes())
    Path("answers.json").write_bytes(answers.model_copy(update={"authority": "0" * 64}).encode())
    assert "other-authority" in say("coordinator accept answers.json --home centre", code=1)
    Path("answers.json").write_text("hello")
    assert "join-message" in say("coordinator accept answers.json --home centre", code=1)
    assert not CoordinatorHome(Path("centre")).certified


def test_signing_shows_what_is_asked_and_asks_a_person(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    founded(say)
    say("coordinator pending --home centre")
    monkeypatch.setattr("typer.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    shown = say("authority sign requests.json --home vault", code=130)
    assert "coordinator coordinator at localhost" in shown
    assert not Path("answers.json").exists()


def test_a_certificate_for_another_key_or_host_does_not_become_the_servers(say: Say) -> None:
    home, vault = founded(say), Authority.open(Path("vault"))
    requests = apart.pending(home, now())
    asked = next(one for one in requests.first if one.role == "coordinator")
    other_key = vault.issue(pki.make_key().public_key(), "coordinator", "coordinator", now=now(), hosts=asked.hosts)
    request = pki.csr_of(asked.csr.encode())
    other_host = vault.issue(request, "coordinator", "coordinator", now=now(), hosts=["evil.example.org"])
    for certificate, broken in ((other_key, "key-mismatch"), (other_host, "server-certificate")):
        answers = Answers(authority=vault.fingerprint, first=(pki.pem(certificate).decode(),))
        taken = apart.take(home, answers, now())
        assert [one.rule for one in taken.refused] == [broken] and not taken.done
    assert not home.certified


# -- renewal ----------------------------------------------------------------------------------------------------------------


def test_a_members_renewal_waits_for_the_key_and_is_picked_up_when_it_came_back(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",)) as opened:
            (tmp_path / "vault").mkdir()
            for name in ("ca.key", "ca.pem"):
                (tmp_path / "vault" / name).write_bytes((opened.home.path / name).read_bytes())
            (opened.home.path / "ca.key").unlink()
            await opened.restart()
            vault, padua = Authority.open(tmp_path / "vault"), opened.sites["padua"].credentials
            assert await rule(opened.port, padua, call="renew", **renewing.body(padua)) == renewing.PENDING
            assert await rule(opened.port, padua, call="renew", **renewing.body(padua)) == renewing.PENDING
            requests = Requests.read(apart.pending(opened.home, now()).encode())
            assert requests.renewals == (padua.chain_pem.decode(),)
            later = now() + timedelta(days=1)
            answers = sign(requests, vault, later)
            taken = apart.take(opened.home, Answers.read(answers.encode()), now())
            assert [line.split(",")[0] for line in taken.done] == ["site padua is renewed"] and not taken.refused
            answer = await ok(opened.port, padua, call="renew", **renewing.body(padua))
            found = renewing.renewed(padua, answer, now())
            assert pki.peer_of(found.chain_pem).not_after > pki.peer_of(padua.chain_pem).not_after
            assert not apart.pending(opened.home, now()).count
            again = apart.take(opened.home, answers, now())
            assert [one.rule for one in again.refused] == ["unasked-certificate"]

    asyncio.run(go())


def test_a_persons_command_goes_on_while_the_renewal_waits(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",)) as opened:
            old = credentials(
                opened.home, "operator", "anna", member=PersonFolder(tmp_path / "anna", "operator").identity()
            )
            folder = PersonFolder(tmp_path / "anna", "operator")
            old.save(folder.tls)
            (folder.path / "coordinator.json").write_text(
                json.dumps({"name": "anna", "address": f"localhost:{opened.port}", "ca_fingerprint": "0" * 64})
            )
            (opened.home.path / "ca.key").unlink()
            await opened.restart()

            def call() -> bool:
                with Client(folder) as client:
                    renewed = client.renew_if_due(now() + timedelta(days=300))
                    assert client.call("members")["members"]
                    return renewed

            assert await asyncio.to_thread(call) is False
            assert len(apart.pending(opened.home, now()).renewals) == 1

    asyncio.run(go())


def test_an_answer_that_is_no_later_certificate_of_ones_own_is_refused(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "als", now=now())

    def made(name: str, days: float) -> bytes:
        return pki.pem(authority.issue(key.public_key(), "site", name, now=now(), days=days))

    key = pki.make_key()
    mine = Credentials(pki.private_pem(key), made("padua", 100), authority.ca_pem)
    for answer in ({"certificate": made("turin", 200).decode()}, {"certificate": made("padua", 50).decode()}, {}, None):
        with pytest.raises(EnrolmentError) as refused:
            renewing.renewed(mine, answer, now())
        assert refused.value.rule == "renewal"
    with pytest.raises(NetworkError):
        renewing.renewed(
            mine, {"certificate": pki.pem(Authority.create(tmp_path / "x", "y", now=now()).certificate).decode()}, now()
        )


# -- the server's own certificate, while it serves ---------------------------------------------------------------------------


def shown_by(port: int, with_: Credentials, folder: Path) -> str:
    """The fingerprint of the certificate that the server shows in a new handshake."""
    for name, content in (("c.pem", with_.chain_pem), ("c.key", with_.key_pem)):
        (folder / name).write_bytes(content)
    context = ssl.create_default_context(cadata=with_.ca_pem.decode())
    context.load_cert_chain(folder / "c.pem", folder / "c.key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        return hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()


def test_a_server_certificate_that_nears_its_end_is_renewed_while_it_serves_and_no_site_is_dropped(
    tmp_path: Path,
) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",)) as opened:
            padua, home = opened.sites["padua"], opened.home
            await padua.until(lambda: padua.connections == 1)
            first = await asyncio.to_thread(shown_by, opened.port, padua.credentials, tmp_path)
            held = home.credentials()
            old = home.authority().issue(
                pki.private_key_of(held.key_pem).public_key(),
                "coordinator",
                "centre",
                now=now() - timedelta(days=300),
                hosts=home.settings().hosts,
            )
            Credentials(held.key_pem, pki.pem(old), held.ca_pem).save(home.path)
            assert await asyncio.to_thread(shown_by, opened.port, padua.credentials, tmp_path) == pki.fingerprint(old)
            opened.coordinator.certificate.look()
            newest = await asyncio.to_thread(shown_by, opened.port, padua.credentials, tmp_path)
            assert newest not in (first, pki.fingerprint(old))
            assert newest == pki.fingerprint(pki.certificate_of(home.credentials().chain_pem))
            assert (await said(opened.port, padua.credentials, {"call": "studies"}))["ok"]
            assert padua.connections == 1 and not padua.byes
            (home.path / "tls.pem").write_text("damaged")
            assert await asyncio.to_thread(shown_by, opened.port, padua.credentials, tmp_path) == newest
            events = [line["event"] for line in opened.log()]
            assert events.count("server-renewed") == 2 and events.count("server-not-renewed") == 1

    asyncio.run(go())


def test_the_operator_is_warned_of_a_certificate_that_only_the_key_elsewhere_can_renew_and_of_the_authoritys_end(
    tmp_path: Path,
) -> None:
    async def go() -> None:
        async with net(tmp_path, ()) as opened:
            (opened.home.path / "ca.key").unlink()
            shifted = Coordinator(opened.home, clock=lambda: now() + timedelta(days=300))
            await opened.coordinator.stop()
            await shifted.start()
            await shifted.stop()
            late = Coordinator(opened.home, clock=lambda: now() + timedelta(days=3400))
            await late.start()
            await late.stop()
            await opened.coordinator.start()
            events = [line["event"] for line in opened.log()]
            assert "server-expires" in events and "authority-expires" in events

    asyncio.run(go())
