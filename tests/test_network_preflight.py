"""Preflight on loopback: good and intercepted addresses, proxies of every kind, idle time-outs, and a letter that can be acted on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import re
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.support.network import coordinator_home, credentials
from unisono.cli.main import main
from unisono.errors import EnrolmentError, NetworkError, ProtocolError
from unisono.federation.tree import pack, unpack
from unisono.network import pki
from unisono.network.agent.about import about
from unisono.network.agent.folder import AgentFolder, Settings
from unisono.network.agent.text import hides_something
from unisono.network.authority import Authority
from unisono.network.coordinator.service import Coordinator
from unisono.network.enrolment.token import Token
from unisono.network.pki import Credentials, Peer
from unisono.network.preflight import h2, idle, machine, probe
from unisono.network.preflight.desk import colons
from unisono.network.preflight.report import Check, Report, overall
from unisono.network.preflight.run import CHECKS, preflight
from unisono.network.preflight.service import Probes
from unisono.network.preflight.target import Target, target_of
from unisono.network.preflight.way import answer_of, choose, excluded
from unisono.network.wire.unisono_pb2 import Packed
from unisono.protection.secagg.roster import Identity

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
QUICK = 0.05
"""Seconds of silence where silence is not what a test is about."""


def now() -> datetime:
    return datetime.now(UTC)


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


# -- who answers ------------------------------------------------------------------------------------------------------


@dataclass
class Ends:
    """A federation's authority, its coordinator's certificate, and a firewall's certificate for the same host."""

    folder: Path
    authority: Authority
    firewall: x509.Certificate = field(init=False)

    def context(self, certificate: x509.Certificate, key: pki.PrivateKey, *alpn: str) -> ssl.SSLContext:
        """A server's TLS."""
        path = self.folder / f"{certificate.serial_number:x}.pem"
        path.write_bytes(pki.private_pem(key) + pki.pem(certificate))
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(path)
        if alpn:
            made.set_alpn_protocols(list(alpn))
        return made

    def good(self, *alpn: str, at: datetime | None = None, hosts: tuple[str, ...] = ("127.0.0.1",)) -> ssl.SSLContext:
        """The coordinator's own."""
        key = pki.make_key()
        certificate = self.authority.issue(
            key.public_key(), "coordinator", "centre", now=at or now(), hosts=hosts, days=30
        )
        return self.context(certificate, key, *alpn)

    def intercepting(self, *alpn: str) -> ssl.SSLContext:
        """What a firewall that opens TLS shows."""
        key, issuer = pki.make_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Hospital TLS Inspection")])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator\x1b[2J.example.org")])
        self.firewall = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - timedelta(days=1))
            .not_valid_after(now() + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        return self.context(self.firewall, key, *alpn)

    def token(self, port: int) -> Token:
        return Token.make(self.authority, f"127.0.0.1:{port}", "site", "padua", now=now())


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured again and again is measured on less."""
    monkeypatch.setattr(machine, "AES_BYTES", 2**20)
    monkeypatch.setattr(probe, "MEASURE_BYTES", 2**22)


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path, Authority.create(tmp_path / "ca", "federation", now=now() - timedelta(days=400)))


def http2(close_after_s: float | None = None, *, deaf_after: int | None = None) -> Handler:
    """An HTTP/2 server that answers PINGs only: it hangs up on a request, or after so much silence. deaf_after: PINGs that it
    answers; then it is silent, and open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            answered = 0
            assert await reader.readexactly(len(h2.PREFACE)) == h2.PREFACE
            writer.write(h2.frame(h2.SETTINGS))
            while True:
                head = await asyncio.wait_for(reader.readexactly(h2.HEADER_BYTES), close_after_s)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == 1:  # HEADERS: a request
                    break
                if head[3] == h2.PING and not head[4] & h2.ACK and (deaf_after is None or answered < deaf_after):
                    answered += 1
                    writer.write(h2.frame(h2.PING, 0, b"whoareyo"))
                    writer.write(h2.frame(h2.PING, h2.ACK, payload))
        writer.transport.abort()

    return serve


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port of loopback."""

    def begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(handler(reader, writer)))

    tasks: set[Any] = set()
    server = await asyncio.start_server(begun, "127.0.0.1", 0, ssl=tls)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, touched: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            touched()
            writer.write(data)
            await writer.drain()
    writer.close()


def relay(port: Callable[[], int], idle_s: float = 60.0, *, silently: bool = False) -> Handler:
    """Between, and tired of connections without traffic: it cuts them, or forgets them."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port())
        last = [asyncio.get_running_loop().time()]

        def touched() -> None:
            last[0] = asyncio.get_running_loop().time()

        pumps = [
            asyncio.ensure_future(pump(reader, back, touched)),
            asyncio.ensure_future(pump(there, writer, touched)),
        ]
        try:
            while not all(task.done() for task in pumps):
                await asyncio.wait(pumps, timeout=idle_s / 10, return_when=asyncio.FIRST_COMPLETED)
                if asyncio.get_running_loop().time() - last[0] > idle_s:
                    break
            for task in pumps:
                task.cancel()
            if silently:
                await asyncio.sleep(30)
        finally:
            for end in (writer, back):
                end.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)

    return carry


def proxy(answer: str = "", heads: list[str] | None = None) -> Handler:
    """An HTTP CONNECT proxy: open, or with this answer for everybody."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if heads is not None:
            heads.append(head)
        port = int(re.search(r":([0-9]+) HTTP", head)[1])  # type: ignore[index]
        if not answer:
            writer.write(b"HTTP/1.1 200 Connection established\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\n\r\n")
            await relay(lambda: port)(reader, writer)
            return
        writer.write(answer.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        await writer.drain()
        writer.close()

    return serve


def look(
    target: Target, tmp_path: Path, idle_s: float = QUICK, env: dict[str, str] | None = None, **more: Any
) -> Coroutine[Any, Any, Report]:
    return preflight(target, tmp_path / "home", more.pop("clock", now), env or {}, idle_s=idle_s, **more)


def statuses(report: Report) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


NETWORK = ("proxy", "dns", "route", "certificate", "http2", "mutual", "clock", "bandwidth", "message", "idle")


# -- a real coordinator -----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def coordinator(folder: Path, **settings: Any) -> AsyncIterator[tuple[Coordinator, int]]:
    made = Coordinator(coordinator_home(folder / "centre", **settings))
    port = await made.start()
    try:
        yield made, port
    finally:
        await made.stop()


def invited(made: Coordinator, port: int) -> Target:
    token = Token.make(made.home.authority(), f"127.0.0.1:{port}", "site", "padua", now=now())
    return target_of(token.encode(), now())


@in_a_loop
async def test_with_a_token_everything_is_measured_against_the_real_coordinator_and_the_token_stays_unused(
    tmp_path: Path,
) -> None:
    async with coordinator(tmp_path) as (made, port):
        target = invited(made, port)
        report = await look(target, tmp_path)
        assert {name: statuses(report)[name] for name in NETWORK} == dict.fromkeys(NETWORK, "ok")
        assert report.authority == made.home.authority().fingerprint
        assert report.check("mutual").details["name"] == "padua"
        assert report.check("mutual").details["role"] == "invited"
        assert abs(float(report.check("clock").details["seconds_ahead"])) < 5  # type: ignore[arg-type]
        assert float(report.check("bandwidth").details["up_mbits"]) > 1  # type: ignore[arg-type]
        assert float(report.check("bandwidth").details["down_mbits"]) > 1  # type: ignore[arg-type]
        assert report.request == ""
        again = await look(target, tmp_path)
        assert again.check("mutual").status == "ok"


@in_a_loop
async def test_a_site_that_has_joined_uses_its_own_certificate(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as (made, port):
        folder = AgentFolder(tmp_path / "home")
        folder.home.make()
        credentials(made.home, "site", "padua", member=Identity.generate()).save(folder.tls)
        address = f"127.0.0.1:{port}"
        folder.keep(Settings(name="padua", address=address, ca_fingerprint=made.home.authority().fingerprint))
        target = target_of(address, now(), folder.path)
        assert target.kind == "site"
        report = await look(target, tmp_path)
        assert report.check("mutual").details["role"] == "site"
        assert target_of("127.0.0.1:9", now(), folder.path).kind == "address"


@in_a_loop
async def test_a_site_that_is_no_member_and_a_researcher_are_not_let_in(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as (made, port):
        stranger = Target("127.0.0.1", port, credentials(made.home, "site", "padua"))
        researcher = Target(
            "127.0.0.1", port, credentials(made.home, "researcher", "rossi", member=Identity.generate())
        )
        for who in (stranger, researcher):
            found = (await look(who, tmp_path)).check("mutual")
            assert found.status == "fail"
            assert found.details["rule"] == "certificate-refused"


@in_a_loop
async def test_a_bare_address_says_what_it_could_not_verify(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as (_, port):
        report = await look(target_of(f"127.0.0.1:{port}", now()), tmp_path)
    assert report.check("certificate").status == "warn"
    assert "token" in report.check("certificate").todo
    for name in ("mutual", "bandwidth", "message", "idle"):
        assert report.check(name).status == "skipped"
        assert "token" in report.check(name).found
    assert report.status == "warn"


@pytest.mark.parametrize(("ahead", "status"), [(0, "ok"), (120, "warn"), (-3600, "fail")])
@in_a_loop
async def test_a_wrong_clock_is_measured_to_the_second(tmp_path: Path, ahead: int, status: str) -> None:
    async with coordinator(tmp_path) as (made, port):
        report = await look(invited(made, port), tmp_path, clock=lambda: now() + timedelta(seconds=ahead))
    found = report.check("clock")
    assert found.status == status
    assert float(found.details["seconds_ahead"]) == pytest.approx(ahead, abs=5)  # type: ignore[arg-type]


# -- silence ----------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_a_way_that_cuts_idle_connections_but_lets_the_heartbeat_through_is_a_warning(tmp_path: Path) -> None:
    async with coordinator(tmp_path, heartbeat_s=0.5) as (made, port), serving(relay(lambda: port, 1.0)) as between:
        report = await look(invited(made, between), tmp_path, idle_s=2)
    found = report.check("idle")
    assert found.status == "warn"
    assert 0.8 <= float(found.details["seconds"]) < 2  # type: ignore[arg-type]
    assert "60 s" in report.request


@in_a_loop
async def test_a_way_that_cuts_before_the_next_heartbeat_fails(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as (made, port), serving(relay(lambda: port, 1.0)) as between:
        report = await look(invited(made, between), tmp_path, idle_s=2)
    assert report.check("idle").status == "fail"
    assert report.status == "fail"


@in_a_loop
async def test_a_way_that_forgets_idle_connections_without_a_word_is_found_by_using_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "_AGAIN_S", 0.5)
    async with (
        coordinator(tmp_path, heartbeat_s=0.3) as (made, port),
        serving(relay(lambda: port, 0.6, silently=True)) as between,
    ):
        report = await look(invited(made, between), tmp_path, idle_s=1.2)
    found = report.check("idle")
    assert found.status == "warn"
    assert found.details["seconds"] == pytest.approx(
        0.4
    )  # what a second connection was held for: a heartbeat and a third


@pytest.mark.parametrize("known", [True, False])
@in_a_loop
async def test_an_http2_server_that_closes_after_one_second_of_silence_fails_with_and_without_a_token(
    tmp_path: Path, ends: Ends, known: bool
) -> None:
    async with serving(http2(1.0), ends.good("h2")) as port:
        target = target_of(ends.token(port).encode() if known else f"127.0.0.1:{port}", now())
        report = await look(target, tmp_path, idle_s=2)
    found = report.check("idle")
    assert found.status == "fail"
    assert 0.8 <= float(found.details["seconds"]) < 2  # type: ignore[arg-type]
    assert report.check("mutual").status == ("fail" if known else "skipped")


@in_a_loop
async def test_an_http2_server_that_stays_is_held_by_ping_alone(tmp_path: Path, ends: Ends) -> None:
    async with serving(http2(), ends.good("h2")) as port:
        report = await look(target_of(f"127.0.0.1:{port}", now()), tmp_path)
    assert report.check("idle").status == "ok"


@in_a_loop
async def test_an_http2_server_that_turns_deaf_is_found(
    tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "_AGAIN_S", 0.3)
    async with serving(http2(deaf_after=1), ends.good("h2")) as port:
        report = await look(target_of(f"127.0.0.1:{port}", now()), tmp_path)
    assert report.check("idle").status == "fail"


@in_a_loop
async def test_a_server_that_says_goodbye_itself_is_not_taken_for_a_proxy(tmp_path: Path, ends: Ends) -> None:
    async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(h2.PREFACE))
        writer.write(h2.frame(h2.SETTINGS))
        while (head := await reader.readexactly(h2.HEADER_BYTES))[3] != h2.PING:
            await reader.readexactly(int.from_bytes(head[:3], "big"))
        writer.write(h2.frame(h2.PING, h2.ACK, await reader.readexactly(8)) + h2.frame(h2.GOAWAY, 0, bytes(8)))
        await reader.read(100)
        writer.close()

    async with serving(polite, ends.good("h2")) as port:
        report = await look(target_of(f"127.0.0.1:{port}", now()), tmp_path)
    assert report.check("idle").status == "skipped"
    assert "itself" in report.check("idle").found


@given(st.binary(max_size=100))
def test_whatever_bytes_come_as_http2_end_in_an_answer_or_one_of_two_errors(data: bytes) -> None:
    class Sink:
        def write(self, _: bytes) -> None: ...

    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        connection = h2.Connection(reader, Sink())  # type: ignore[arg-type]
        await connection.begin()
        await connection.ping()

    with pytest.raises((h2.Ended, ValueError)):
        asyncio.run(read())


# -- certificates -----------------------------------------------------------------------------------------------------


@in_a_loop
async def test_interception_shows_whose_certificate_answered_and_writes_the_letter(tmp_path: Path, ends: Ends) -> None:
    async with serving(http2(), ends.intercepting("h2")) as port:
        report = await look(target_of(ends.token(port).encode(), now()), tmp_path)
    found = report.check("certificate")
    assert found.status == "fail"
    assert found.details["intercepted"] is True
    assert "Hospital TLS Inspection" in found.found
    assert "\x1b" not in report.encode()
    assert "\x1b" not in found.found
    assert report.check("mutual").status == "skipped"  # our certificate is not shown to a stranger
    assert "with the interceptor, and not with the coordinator" in report.check("http2").found
    expected, answered = ends.authority.fingerprint, pki.fingerprint(ends.firewall)
    assert report.authority == expected
    assert found.details["fingerprint"] == answered
    lines = [line.strip() for line in report.request.splitlines()]
    assert lines.index(colons(expected)) < lines.index(colons(answered))
    assert bytes.fromhex(colons(expected).replace(":", "")).hex() == expected
    for word in (f"127.0.0.1:{port}", f"port {port}", "Hospital TLS Inspection", "TLS inspection", "outbound"):
        assert word in report.request


@in_a_loop
async def test_without_a_token_a_certificate_that_names_no_coordinator_fails(tmp_path: Path, ends: Ends) -> None:
    async with serving(http2(), ends.intercepting("h2")) as port:
        report = await look(target_of(f"127.0.0.1:{port}", now()), tmp_path)
    assert report.check("certificate").status == "fail"
    assert colons(pki.fingerprint(ends.firewall)) in report.request
    assert "known to the coordinator's operator" in report.request


@in_a_loop
async def test_another_federation_is_not_taken_for_a_firewall(tmp_path: Path, ends: Ends) -> None:
    other = Ends(tmp_path, Authority.create(tmp_path / "other", "elsewhere", now=now()))
    async with serving(http2(), other.good("h2")) as port:
        report = await look(target_of(ends.token(port).encode(), now()), tmp_path)
    assert report.check("certificate").details["intercepted"] is False
    assert "another federation" in report.check("certificate").found
    assert "telephone" in report.check("certificate").todo


@in_a_loop
async def test_an_expired_certificate_and_one_for_another_name_are_said_to_be_so(tmp_path: Path, ends: Ends) -> None:
    cases = (
        (ends.good("h2", at=now() - timedelta(days=40)), "expired on"),
        (ends.good("h2", hosts=("elsewhere.example.org",)), "for elsewhere.example.org, not for 127.0.0.1"),
    )
    for tls, words in cases:
        async with serving(http2(), tls) as port:
            found = (await look(target_of(ends.token(port).encode(), now()), tmp_path)).check("certificate")
        assert found.status == "fail"
        assert words in found.found


@in_a_loop
async def test_without_http2_the_check_fails_and_asks_for_it(tmp_path: Path, ends: Ends) -> None:
    async with serving(http2(), ends.good("http/1.1")) as port:
        report = await look(target_of(ends.token(port).encode(), now()), tmp_path)
    assert report.check("certificate").status == "ok"
    assert report.check("http2").status == "fail"
    assert "ALPN h2" in report.request


@in_a_loop
async def test_tls_1_2_is_a_warning(tmp_path: Path, ends: Ends) -> None:
    tls = ends.good("h2")
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(http2(), tls) as port:
        report = await look(target_of(f"127.0.0.1:{port}", now()), tmp_path)
    assert report.check("http2").status == "warn"
    assert report.check("http2").details["tls"] == "TLSv1.2"


@in_a_loop
async def test_a_port_without_tls_is_said_to_be_so(tmp_path: Path) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await reader.read(1000)
        writer.close()

    async with serving(rude) as port:
        report = await look(target_of(f"127.0.0.1:{port}", now()), tmp_path)
    assert report.check("route").status == "ok"
    assert report.check("certificate").status == "fail"
    assert "no TLS" in report.check("certificate").found


# -- no way -----------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_an_unknown_host_and_a_closed_port_skip_what_depends_on_them(tmp_path: Path) -> None:
    unknown = await look(target_of("coordinator.unisono.invalid:443", now()), tmp_path)
    assert statuses(unknown)["dns"] == "fail"
    assert statuses(unknown)["route"] == "skipped"
    assert "coordinator.unisono.invalid" in unknown.request
    async with serving(http2()) as port:
        pass
    closed = await look(target_of(f"127.0.0.1:{port}", now()), tmp_path)
    assert statuses(closed)["route"] == "fail"
    assert "refused" in closed.check("route").found
    for name in ("certificate", "http2", "clock", "idle"):
        assert statuses(closed)[name] == statuses(unknown)[name] == "skipped"
    assert f"127.0.0.1:{port}" in closed.request


# -- proxies ----------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_an_open_proxy_carries_everything_also_what_is_not_known_here(tmp_path: Path) -> None:
    heads: list[str] = []
    async with coordinator(tmp_path) as (made, port), serving(proxy(heads=heads)) as at:
        target = invited(made, port)
        report = await look(target, tmp_path, env={"https_proxy": f"http://padua:s3cret@127.0.0.1:{at}"})
    assert {statuses(report)[name] for name in NETWORK} == {"ok"}
    assert report.check("proxy").details["kind"] == "open"
    assert "s3cret" not in report.encode()
    assert all("Proxy-Authorization: Basic cGFkdWE6czNjcmV0" in head for head in heads)
    assert len(heads) > 5


@in_a_loop
async def test_a_proxy_in_capitals_is_used_here_and_said_to_be_unread_by_the_agent(tmp_path: Path, ends: Ends) -> None:
    async with serving(http2(), ends.good("h2")) as port, serving(proxy()) as at:
        report = await look(
            target_of(f"127.0.0.1:{port}", now()), tmp_path, env={"HTTPS_PROXY": f"http://127.0.0.1:{at}"}
        )
    found = report.check("proxy")
    assert found.status == "warn"
    assert "--proxy" in found.todo
    assert report.check("certificate").status == "warn"  # it was reached
    assert report.check("clock").details["compared_with"] == "the proxy"
    assert report.check("clock").status == "fail"  # this proxy lives in the year 2000


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ("HTTP/1.1 407 Proxy Authentication Required\nProxy-Authenticate: NTLM", "relay", "NTLM"),
        (
            "HTTP/1.1 407 Authenticate\nProxy-Authenticate: Negotiate\nProxy-Authenticate: NTLM",
            "relay",
            "Negotiate and NTLM",
        ),
        ("HTTP/1.1 407 Authenticate\nProxy-Authenticate: Digest realm=a, nonce=b", "unknown", "Digest"),
        ('HTTP/1.1 407 Authenticate\nProxy-Authenticate: Basic realm="x"', "basic", "Basic"),
        ("HTTP/1.1 403 Forbidden\x1b[2J", "refuses", "403 Forbidden"),
    ],
)
@in_a_loop
async def test_a_proxy_that_refuses_is_told_by_its_kind(tmp_path: Path, answer: str, kind: str, words: str) -> None:
    async with serving(proxy(answer)) as at:
        env = {"https_proxy": f"http://127.0.0.1:{at}"}
        report = await look(target_of("coordinator.unisono.invalid:443", now()), tmp_path, env=env)
    found = report.check("proxy")
    assert (found.status, found.details["kind"]) == ("fail", kind)
    assert words in found.found
    assert "\x1b" not in report.encode()
    assert f"127.0.0.1:{at}" in report.request
    assert ("docs/preflight.md" in found.todo) == (kind in ("relay", "unknown"))
    assert report.check("certificate").status == "skipped"


@in_a_loop
async def test_a_password_that_a_proxy_refuses_is_never_shown(tmp_path: Path) -> None:
    async with serving(proxy("HTTP/1.1 407 Authenticate\nProxy-Authenticate: Basic")) as at:
        target = target_of("127.0.0.1:9", now())
        report = await look(target, tmp_path, proxy=f"http://padua:s3cret@127.0.0.1:{at}")
    assert "does not accept the name and password" in report.check("proxy").found
    assert "s3cret" not in report.encode() + report.request


@in_a_loop
async def test_a_proxy_that_is_away_or_no_proxy_at_all_fails(tmp_path: Path, ends: Ends) -> None:
    async with serving(proxy("SSH-2.0-OpenSSH_9.6")) as at:
        env = {"https_proxy": f"127.0.0.1:{at}"}
        odd = await look(target_of("127.0.0.1:9", now()), tmp_path, env=env)
    away = await look(target_of("127.0.0.1:9", now()), tmp_path, env=env)
    socks = await look(target_of("127.0.0.1:9", now()), tmp_path, env={"https_proxy": "socks5://127.0.0.1:1080"})
    assert "no HTTP proxy" in odd.check("proxy").found
    assert "refused" in away.check("proxy").found
    assert "http://host:port" in socks.check("proxy").todo
    assert {odd.status, away.status, socks.status} == {"fail"}


@given(
    st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(b"HTTP/1.1 407 x\r\nProxy-Authenticate: ".__add__))
)
def test_whatever_a_proxy_says_is_an_answer_or_a_refusal_and_fit_for_a_terminal(head: bytes) -> None:
    try:
        said = answer_of(head)
    except NetworkError as error:
        assert error.rule == "proxy-answer"
    else:
        assert 100 <= said.status <= 599
        assert all(re.fullmatch("[A-Za-z][A-Za-z0-9-]*", scheme) for scheme in said.schemes)
        assert not hides_something(said.reason)


@in_a_loop
async def test_a_proxy_whose_name_is_no_name_is_told_like_an_unknown_one(tmp_path: Path) -> None:
    report = await look(target_of("127.0.0.1:9", now()), tmp_path, env={"https_proxy": "http://a..b:3128"})
    assert "unknown" in report.check("proxy").found


@in_a_loop
async def test_a_proxy_that_refuses_what_is_open_directly_may_not_be_needed(tmp_path: Path, ends: Ends) -> None:
    async with serving(http2(), ends.good("h2")) as port, serving(proxy("HTTP/1.1 403 No")) as at:
        report = await look(
            target_of(f"127.0.0.1:{port}", now()), tmp_path, env={"https_proxy": f"http://127.0.0.1:{at}"}
        )
    assert report.check("route").status == "warn"
    assert "no_proxy=127.0.0.1" in report.check("route").todo


def test_which_proxy_is_decided_as_grpc_does() -> None:
    one, two = "http://one:3128", "http://two:3128"
    assert choose("h", {}) is None
    assert choose("h", {"https_proxy": one, "http_proxy": two}).name == "one:3128"  # type: ignore[union-attr]
    assert choose("h", {"grpc_proxy": two, "https_proxy": one}).name == "two:3128"  # type: ignore[union-attr]
    assert choose("h", {"https_proxy": one}, two).name == "two:3128"  # type: ignore[union-attr]
    assert choose("c.example.org", {"https_proxy": one, "no_proxy": "example.org"}) is None
    assert choose("c.example.org", {"https_proxy": one, "no_proxy": "*"}) is not None  # gRPC knows no star
    assert choose("c.example.org", {"https_proxy": one, "NO_PROXY": "example.org"}) is not None  # and no capitals
    assert choose("c.example.org", {"HTTPS_PROXY": one, "NO_PROXY": "example.org"}) is None
    assert not choose("h", {"HTTPS_PROXY": one}).by_agent  # type: ignore[union-attr]
    assert excluded("10.1.2.3", {"no_proxy": "127.0.0.1, 10.0.0.0/8"})
    assert not excluded("11.1.2.3", {"no_proxy": "10.0.0.0/8"})


# -- the target -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("coordinator.example.org", "coordinator.example.org:443"),
        ("https://Coordinator.Example.org:8443/", "coordinator.example.org:8443"),
        ("unisono1.example.org", "unisono1.example.org:443"),
        ("[2001:DB8:0::1]:443", "[2001:db8::1]:443"),
        ("192.0.2.7:7443\n", "192.0.2.7:7443"),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, address: str) -> None:
    assert target_of(text, now()).address == address


@pytest.mark.parametrize("text", ["", "a b", "host:0", "host:65536", "host:port", "http//x", "::1", "unisono1.abc!"])
def test_what_is_neither_a_token_nor_an_address_is_refused(text: str) -> None:
    with pytest.raises(NetworkError) as refused:
        target_of(text, now())
    assert refused.value.rule == "preflight-target"


def test_a_token_that_a_mail_broke_into_lines_is_read_and_a_mistyped_one_refused(ends: Ends) -> None:
    text = ends.token(7443).encode()
    target = target_of("\n ".join(text[k : k + 60] for k in range(0, len(text), 60)), now())
    assert target.address == "127.0.0.1:7443"
    assert target.authority == ends.authority.fingerprint
    assert "PRIVATE KEY" not in repr(target)
    with pytest.raises(EnrolmentError):
        target_of(text[:-4] + "AAAA", now())
    with pytest.raises(EnrolmentError) as late:
        target_of(text, now() + timedelta(days=30))
    assert late.value.rule == "token-expired"


# -- the coordinator's half is bounded --------------------------------------------------------------------------------

PEER = Peer("invited", "padua", "00", "00", datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC), "site")


async def talk(probes: Probes, *asked: Any) -> list[dict[str, Any]]:
    """What one probe is told."""
    queue = [
        message if isinstance(message, bytes) else Packed(tree=pack(message)).SerializeToString() for message in asked
    ]
    heard: list[dict[str, Any]] = []

    async def read() -> bytes | None:
        return queue.pop(0) if queue else None

    async def write(data: bytes) -> None:
        heard.append(unpack(Packed.FromString(data).tree))

    await probes.serve(PEER, read, write)
    return heard


@in_a_loop
async def test_a_probe_moves_no_more_than_its_limit_and_says_so() -> None:
    probes = Probes(15, most_bytes=300_000)
    piece = {"probe": "sink", "data": np.zeros(100_000, np.uint8)}
    assert (await talk(probes, piece, piece, piece))[-1]["error"]["rule"] == "probe-limit"
    assert (await talk(probes, {"probe": "source", "bytes": 300_001}))[-1]["error"]["rule"] == "probe-limit"
    came = await talk(probes, {"probe": "source", "bytes": 150_000})
    assert sum(answer["ok"]["data"].size for answer in came) == 150_000
    echo = {"probe": "echo", "data": np.zeros(140_000, np.uint8)}
    assert [set(answer) for answer in await talk(probes, echo, echo, echo)] == [{"ok"}, {"ok"}, {"error"}]


@in_a_loop
async def test_only_so_many_probes_are_open_at_a_time_and_an_ended_one_makes_room() -> None:
    probes, gate = Probes(15, most_at_once=1), asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    first = asyncio.ensure_future(probes.serve(PEER, wait, lambda _: wait()))
    await asyncio.sleep(0)
    assert (await talk(probes, {"probe": "hello"}))[0]["error"]["rule"] == "probes-at-once"
    gate.set()
    await first
    assert (await talk(probes, {"probe": "hello"}))[0]["ok"]["name"] == "padua"


@given(st.binary(max_size=200))
def test_whatever_bytes_come_to_a_probe_an_answer_or_a_refusal_comes_back(data: bytes) -> None:
    heard = asyncio.run(talk(Probes(15), data, {"probe": "unheard-of"}, {"probe": "source", "bytes": True}))
    assert len(heard) == 1
    assert heard[0]["error"]["rule"] in ("message-format", "tree-format")


@in_a_loop
async def test_an_answer_that_is_none_is_an_error_with_words(tmp_path: Path) -> None:
    class Call:
        async def write(self, _: Any) -> None: ...

        async def read(self) -> Any:
            return Packed(tree=pack(["odd"]))

    with pytest.raises(ProtocolError):
        await probe.Stream(Call(), "a:1").ask(probe="hello")


# -- the report -------------------------------------------------------------------------------------------------------


@in_a_loop
async def test_the_json_is_whole_reads_back_and_fits_its_schema(tmp_path: Path) -> None:
    report = await look(target_of("coordinator.unisono.invalid", now()), tmp_path)
    path = tmp_path / "report.json"
    report.save(path)
    assert Report.model_validate_json(path.read_text("utf-8")) == report
    said = json.loads(path.read_text("utf-8"))
    schema = Report.model_json_schema()
    assert set(said) == set(schema["properties"])
    assert said["unisono"] == "preflight/1"
    assert [check["name"] for check in said["checks"]] == [name for name, _, _ in CHECKS]
    for check in said["checks"]:
        assert set(check) == set(schema["$defs"]["Check"]["properties"])
        assert check["status"] in ("ok", "warn", "fail", "skipped")
        assert check["found"]
        assert check["status"] in ("ok", "skipped") or check["todo"], check
    assert report.board()["dns"] == "fail"


def test_what_was_skipped_does_not_count_and_the_worst_does() -> None:
    def check(status: Any) -> Check:
        return Check(name="x", title="X", status=status, found="f", seconds=0)

    assert overall((check("ok"), check("skipped"))) == "ok"
    assert overall((check("ok"), check("warn"))) == "warn"
    assert overall((check("fail"), check("warn"))) == "fail"


@in_a_loop
async def test_the_machine_is_looked_at_and_a_full_or_closed_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA A100, 81920 MiB, 550.54'\n")
    smi.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/bin:/usr/bin"}
    report = await look(target_of("x.unisono.invalid", now()), tmp_path, env=env)
    assert report.check("gpu").details["cards"] == ["NVIDIA A100, 81920 MiB, 550.54"]
    assert int(report.check("memory").details["bytes"]) > 2**28  # type: ignore[arg-type]
    assert int(report.check("cpu").details["aes_bytes_per_s"]) > 1e6  # type: ignore[arg-type]
    assert report.check("versions").details["grpcio"]
    assert report.check("disk").details["folder"] == str(tmp_path)  # where the folder will be
    smi.write_text("#!/bin/sh\nexit 9\n")
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    report = await look(target_of("x.unisono.invalid", now()), tmp_path, env=env)
    assert report.check("disk").status == "fail"
    assert report.check("gpu").status == "warn"
    assert "disk" not in report.request.lower()  # that is not the IT desk's firewall


@in_a_loop
async def test_a_folder_where_files_cannot_be_locked_is_no_place_for_a_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")  # Lustre, mounted without flock

    monkeypatch.setattr("fcntl.lockf", no_locks)
    report = await look(target_of("x.unisono.invalid", now()), tmp_path)
    assert report.check("disk").status == "fail"
    assert "locked" in report.check("disk").found


# -- the command ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def elsewhere(handler: Handler, tls: ssl.SSLContext) -> Iterator[int]:
    """A server in another thread: the command has an event loop of its own."""
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), [0]

    async def run() -> None:
        over.append(asyncio.Event())
        async with serving(handler, tls) as port[0]:
            ready.set()
            await over[0].wait()

    over: list[asyncio.Event] = []
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield port[0]
    finally:
        loop.call_soon_threadsafe(over[0].set)
        thread.join(10)
        loop.close()


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["site", "preflight", *arguments])
    return int(ended.value.code or 0)


def test_the_command_shows_the_table_what_to_do_and_the_letter_and_fails_on_interception(
    tmp_path: Path, ends: Ends, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "http_proxy", "grpc_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    home, report = str(tmp_path / "home"), tmp_path / "r.json"
    with elsewhere(http2(), ends.intercepting("h2")) as port:
        token = ends.token(port).encode()
        code = command(token, "--home", home, "--idle", "0.2", "--json", str(report))
    said = capsys.readouterr()
    assert code == 1
    assert "… Certificate" in said.err
    for words in ("What to do", "To send to the IT desk", colons(ends.authority.fingerprint), "Not ready yet"):
        assert words in said.out
    assert json.loads(report.read_text("utf-8"))["status"] == "fail"
    assert token[:40] not in said.out + said.err + report.read_text("utf-8")
    assert [path.name for path in (tmp_path / "home").iterdir()] == [
        "preflight.json"
    ]  # for the board, once it has joined
    folder = AgentFolder(tmp_path / "home")
    assert not folder.joined
    hello: Any = about(folder, 0, now())
    assert hello["preflight"]["certificate"] == "fail"


def test_the_command_ends_well_on_a_good_address(
    tmp_path: Path, ends: Ends, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "http_proxy", "grpc_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with elsewhere(http2(), ends.good("h2")) as port:
        code = command(f"127.0.0.1:{port}", "--home", str(tmp_path / "home"), "--idle", "0.2")
    assert code == 0
    assert "IT desk" not in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("a b",), ("host.invalid", "--idle", "0"), ("host.invalid", "--idle", "nan")])
def test_wrong_arguments_are_told_without_a_traceback(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == 1
    said = capsys.readouterr()
    assert "what to do" in said.err.lower()
    assert "Traceback" not in said.err


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    assert "unisono site preflight" in capsys.readouterr().out


def test_numbers_are_shown_without_exponents() -> None:
    shown = [probe._plainly(value) for value in (1e-9, 0.00123, 1.5, 99.96, 999.9, 1390.0, 1_234_567.8)]
    assert shown == ["0.001", "0.00123", "1.5", "100", "1,000", "1,390", "1,234,568"]


@in_a_loop
async def test_after_a_strange_certificate_nothing_is_held_and_the_token_is_not_asked_for_again(
    tmp_path: Path, ends: Ends
) -> None:
    async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serving(rude, ends.intercepting("h2")) as port:
        report = await look(target_of(ends.token(port).encode(), now()), tmp_path)
    found = report.check("idle")
    assert found.status == "skipped"
    assert "the certificate that answered is not the coordinator's" in found.found


def test_credentials_are_never_part_of_what_is_printed() -> None:
    target = Target("h", 1, Credentials(b"KEY", b"", b""), proxy="http://u:s3cret@p:1")
    assert "KEY" not in repr(target)
    assert "s3cret" not in repr(target)
