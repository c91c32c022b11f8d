"""Who gets in at the coordinator's one port, and what becomes of connections that are not as they should be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import engine
from tests.support.network import (
    SERVICE,
    Net,
    channel,
    coordinator_home,
    credentials,
    net,
    now,
    ok,
    rule,
    said,
)
from unisono import __version__
from unisono.errors import NetworkError
from unisono.network import pki
from unisono.network.authority import Authority
from unisono.network.coordinator import sites
from unisono.network.coordinator.home import CoordinatorHome, Limits
from unisono.network.coordinator.service import FRAME_BYTES, Coordinator
from unisono.network.enrolment.joining import Joined, JoinRequest
from unisono.network.enrolment.members import Members
from unisono.network.enrolment.token import Token
from unisono.network.pki import Credentials
from unisono.network.wire.envelope import command
from unisono.network.wire.unisono_pb2 import Beat, Begin, Chunk, Done, Frame, Hello, Progress, Welcome
from unisono.network.wire.version import PROTOCOL
from unisono.protection.secagg.roster import Identity

SHUT = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INTERNAL)
"""How a closed door looks: the second where the refusal overtakes what the caller is still writing."""


def hello(session: str = "s1", **changes: Any) -> bytes:
    given = {"protocol": PROTOCOL, "software": __version__, "session": session, **changes}
    return Frame(hello=Hello(**given)).SerializeToString()


async def spoken(port: int, with_: Credentials, *frames: bytes, seconds: float = 10.0) -> tuple[list[Frame], Any]:
    """What a stream gets for these frames, until it ends; and the status that it ends with. Times out if it does not end."""
    async with channel(port, with_) as open_:
        call = open_.stream_stream(SERVICE + "Connect")()
        found = []
        async with asyncio.timeout(seconds):
            with contextlib.suppress(grpc.aio.AioRpcError):
                for frame in frames:
                    await call.write(frame)
                found = await rest(call)
            return found, await call.code()


async def rest(call: Any) -> list[Frame]:
    """What a stream still gets, until it ends."""
    found = []
    while isinstance(data := await call.read(), bytes):
        found.append(Frame.FromString(data))
    return found


def byes(frames: list[Frame]) -> list[str]:
    return [frame.bye.rule for frame in frames if frame.WhichOneof("kind") == "bye"]


# -- certificates ---------------------------------------------------------------------------------------------------------


def test_only_members_with_a_certificate_of_this_authority_that_still_holds_get_in(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",)) as opened:
            home, mine = opened.home, opened.sites["padua"].credentials
            foreign = Authority.create(tmp_path / "other", "other", now=now())
            key = pki.make_key()
            stranger = foreign.issue(key.public_key(), "site", "padua", now=now())
            old = {"now": now() - timedelta(days=20), "days": 10}
            shut = {
                "another authority": Credentials(pki.private_pem(key), pki.pem(stranger), mine.ca_pem),
                "expired": credentials(home, "site", "padua", **old),
            }
            for why, these in shut.items():
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await said(opened.port, these, {"call": "studies"})
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE, why
            nobody = credentials(home, "site", "padua")  # the authority's, but not the member's
            assert await rule(opened.port, nobody, call="studies") == "member-unknown"
            frames, code = await spoken(opened.port, nobody, hello())
            assert frames == []
            assert code in SHUT

    asyncio.run(go())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_the_port_speaks_tls_1_3_and_nothing_below_1_2(tmp_path: Path) -> None:
    def spoken_version(port: int, at_most: ssl.TLSVersion) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, at_most
        context.set_ciphers("DEFAULT@SECLEVEL=0")  # so that this end would
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as secure:
            return secure.version()

    async def go() -> None:
        async with net(tmp_path, ()) as opened:
            assert await asyncio.to_thread(spoken_version, opened.port, ssl.TLSVersion.MAXIMUM_SUPPORTED) == "TLSv1.3"
            with pytest.raises(OSError):
                await asyncio.to_thread(spoken_version, opened.port, ssl.TLSVersion.TLSv1_1)

    asyncio.run(go())


def test_each_role_has_its_own_doors(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",)) as opened:
            port, site = opened.port, opened.sites["padua"].credentials
            invited = credentials(opened.home, "invited", "turin", invites="site")
            centre = opened.home.credentials()
            for who in (opened.researcher, opened.operator, invited, centre):
                frames, code = await spoken(port, who, hello())
                assert frames == []
                assert code in SHUT
            for who in (invited, centre):
                assert await rule(port, who, call="studies") in ("certificate-role", "member-unknown")
            for who in (site, opened.researcher):
                for call in ("members", "invite", "uninvite", "revoke", "remove", "readiness"):
                    assert await rule(port, who, call=call) == "known-calls"
            assert await rule(port, opened.operator, call="submit") == "known-calls"
            assert await rule(port, site, call="submit") == "known-calls"
            refused = await said(port, site, {}, method="Join")
            assert refused["error"]["rule"] == "certificate-role"

    asyncio.run(go())


def test_revocation_closes_the_live_stream_at_once_and_the_door_for_ever(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path) as opened:
            padua = opened.sites["padua"]
            await padua.until(lambda: padua.connections == 1)
            began = time.monotonic()
            done = await ok(opened.port, opened.operator, call="revoke", who="padua")
            await padua.until(lambda: bool(padua.byes))
            assert time.monotonic() - began < 20
            assert padua.byes[0] == "certificate-revoked"
            assert done["revoked"] == [pki.peer_of(padua.credentials.chain_pem).fingerprint]
            assert await rule(opened.port, padua.credentials, call="studies") == "certificate-revoked"
            _, code = await spoken(opened.port, padua.credentials, hello())
            assert code in SHUT
            found = await ok(opened.port, opened.operator, call="sites")
            assert "padua" not in found["roster"]
            assert found["online"] == ["leiden", "turin"]

    asyncio.run(go())


def test_a_certificate_revoked_or_expired_meanwhile_ends_the_stream_with_the_next_heartbeat(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua", "turin"), heartbeat_s=0.1) as opened:
            padua, turin = opened.sites["padua"], opened.sites["turin"]
            await padua.until(lambda: padua.connections == 1)
            await turin.until(lambda: turin.connections == 1)
            members = Members(opened.home.members)  # another process: `unisono coordinator revoke`
            members.revoke("padua", now())
            members.close()
            await padua.until(lambda: bool(padua.byes), 3)
            assert padua.byes[0] == "certificate-revoked"
            opened.coordinator.clock = lambda: now() + timedelta(days=400)
            await turin.until(lambda: bool(turin.byes), 3)
            assert turin.byes[0] == "certificate-expired"
            opened.coordinator.clock = now

    asyncio.run(go())


# -- one live stream a site -----------------------------------------------------------------------------------------------


def test_another_protocol_version_is_refused_and_both_are_named(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False) as opened:
            site = opened.sites["padua"].credentials
            frames, code = await spoken(opened.port, site, hello(protocol=99, software="9.9.9"))
            assert code == grpc.StatusCode.OK
            (bye,) = (frame.bye for frame in frames)
            assert bye.rule == "protocol-version"
            assert all(text in bye.what for text in ("99", "9.9.9", f"version {PROTOCOL}", __version__))

    asyncio.run(go())


def test_a_second_agent_of_one_site_is_refused_while_the_first_one_lives(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), heartbeat_s=0.2) as opened:
            first = opened.sites["padua"]
            await first.until(lambda: first.connections == 1)
            frames, _ = await spoken(opened.port, first.credentials, hello("another"))
            assert byes(frames) == ["two-agents"]
            assert first.connections == 1
            assert first.byes == []
            assert "two-agents" in {line["event"] for line in opened.log()}

    asyncio.run(go())


def test_a_second_agent_takes_over_if_the_first_gives_no_sign_of_life(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False, heartbeat_s=0.3) as opened:
            padua = opened.sites["padua"]
            async with channel(opened.port, padua.credentials) as open_:
                call = open_.stream_stream(SERVICE + "Connect")()
                await call.write(hello("frozen"))
                assert Frame.FromString(await call.read()).WhichOneof("kind") == "welcome"
                padua.start()
                await padua.until(lambda: padua.connections == 1, 30)
                assert padua.byes == []

    asyncio.run(go())


def test_the_same_agent_on_a_new_connection_replaces_its_half_open_one_at_once(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False) as opened:
            padua = opened.sites["padua"]
            async with channel(opened.port, padua.credentials) as open_:
                call = open_.stream_stream(SERVICE + "Connect")()
                await call.write(hello(padua.session))
                await call.read()
                began = time.monotonic()
                padua.start()
                await padua.until(lambda: padua.connections == 1, 30)
                assert time.monotonic() - began < 20
                assert "connection-replaced" in byes(await rest(call))

    asyncio.run(go())


def test_an_idle_link_lives_by_its_heartbeats(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), heartbeat_s=0.5) as opened:
            padua = opened.sites["padua"]
            await padua.until(lambda: padua.connections == 1)
            await asyncio.sleep(2.5)  # five heartbeats; a link is dead after three that are missing
            assert padua.connections == 1
            assert (await ok(opened.port, opened.operator, call="readiness"))["sites"]["padua"]["online"] is True

    asyncio.run(go())


def test_a_half_open_connection_is_found_dead_after_three_heartbeats(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False, heartbeat_s=0.2) as opened:
            padua = opened.sites["padua"]
            began = time.monotonic()
            frames, _ = await spoken(opened.port, padua.credentials, hello())
            assert 0.5 < time.monotonic() - began < 30
            assert {frame.WhichOneof("kind") for frame in frames} == {"welcome", "begin", "beat"}
            assert [line["why"] for line in opened.log() if line["event"] == "site-left"] == ["silent"]
            assert (await ok(opened.port, opened.operator, call="readiness"))["sites"]["padua"]["online"] is False

    asyncio.run(go())


def test_a_site_that_does_not_read_what_it_is_sent_is_let_go(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False, heartbeat_s=0.2) as opened:
            sites = opened.coordinator.sites
            padua = opened.sites["padua"]
            tree = {"to": "state", "study": "x", "state": "running", "more": np.zeros(20_000_000, np.uint8)}
            large = asyncio.ensure_future(sites.ask("padua", tree))
            async with channel(opened.port, padua.credentials) as open_:
                call = open_.stream_stream(SERVICE + "Connect")()
                await call.write(hello(padua.session))
                await call.read()
                assert sites.line("padua").end.is_online
                async with asyncio.timeout(5):
                    while sites.line("padua").end.is_online:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                assert byes(await rest(call)) == []
                assert await call.code() == grpc.StatusCode.OK
            padua.start()
            assert await large == {"kind": "nothing"}
            assert padua.connections == 1

    asyncio.run(go())


def test_who_says_no_hello_in_time_is_sent_away(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False, limits=Limits(handshake_s=0.3)) as opened:
            frames, _ = await spoken(opened.port, opened.sites["padua"].credentials)
            assert byes(frames) == ["hello-late"]

    asyncio.run(go())


# -- frames that no site sends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([b"\xff\xff\xff\xff"], "message-format"),
        ([hello()[:5]], "message-format"),
        ([Frame(beat=Beat()).SerializeToString()], "message-order"),
        ([hello("")], "message-format"),
        ([hello("s" * 101)], "message-format"),
        ([hello(about=b"x" * 65537)], "message-format"),
        ([hello(about=b"junk")], "tree-format"),
        ([hello(open=[Progress(id=k) for k in range(65)])], "open-requests"),
        ([hello(), hello()], "message-order"),
        ([hello(), b""], "message-order"),
        ([hello(), Frame(welcome=Welcome()).SerializeToString()], "message-order"),
        ([hello(), Frame(done=Done(id=1)).SerializeToString()], "message-order"),
        ([hello(), Frame(chunk=Chunk(id=1, data=b"x")).SerializeToString()], "message-order"),
        ([hello(), Frame(begin=Begin(id=1, size=2**40)).SerializeToString()], "message-size"),
        ([hello(), b"\x0a\xff\xff"], "message-format"),
    ],
)
def test_what_is_no_frame_or_out_of_order_ends_the_connection_with_its_rule(
    tmp_path: Path, frames: list[bytes], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "beginning", lambda: 0)  # the request that is open has number 1

    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False) as opened:
            found, code = await spoken(opened.port, opened.sites["padua"].credentials, *frames)
            assert byes(found) == [expected]
            assert code == grpc.StatusCode.OK
            assert expected in {line.get("rule") for line in opened.log()}
            assert (await ok(opened.port, opened.operator, call="studies"))["studies"] == []

    asyncio.run(go())


def test_an_oversize_frame_is_not_read(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False) as opened:
            large = Frame(chunk=Chunk(id=1, data=bytes(FRAME_BYTES + 1))).SerializeToString()
            found, code = await spoken(opened.port, opened.sites["padua"].credentials, hello(), large)
            assert code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK)
            assert {frame.WhichOneof("kind") for frame in found} <= {"welcome", "begin", "chunk", "bye"}
            assert opened.coordinator.sites.line("padua").end.bytes_in == 0
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await said(opened.port, opened.researcher, {"call": "x" * FRAME_BYTES})
            assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await ok(opened.port, opened.operator, call="studies"))["studies"] == []

    asyncio.run(go())


class Door:
    """A coordinator that stays open over many examples, with one site that says anything."""

    def __init__(self, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.net: Net = self.runner.run(Net.open(folder, ("padua",), dial=False))

    def speak(self, *frames: bytes) -> list[Frame]:
        """What comes back, until a Bye or until it falls silent."""
        return self.runner.run(self._speak(frames))

    async def _speak(self, frames: tuple[bytes, ...]) -> list[Frame]:
        async with channel(self.net.port, self.net.sites["padua"].credentials) as open_:
            call = open_.stream_stream(SERVICE + "Connect")()
            with contextlib.suppress(grpc.aio.AioRpcError):
                for frame in frames:
                    await call.write(frame)
                await call.done_writing()
            return [Frame.FromString(data) async for data in call]

    def close(self) -> None:
        self.runner.run(self.net.close())
        self.runner.close()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    opened = Door(tmp_path_factory.mktemp("door"))
    yield opened
    lines = opened.net.log()
    opened.close()
    assert [line for line in lines if line["event"] == "fault"] == []


numbers = st.one_of(st.integers(0, 8), st.integers(0, 2**64 - 1))
any_frame = st.one_of(
    st.binary(max_size=64),
    st.builds(lambda i, s: Frame(begin=Begin(id=i, size=s)).SerializeToString(), numbers, numbers),
    st.builds(
        lambda i, o, d: Frame(chunk=Chunk(id=i, offset=o, data=d)).SerializeToString(),
        numbers,
        numbers,
        st.binary(max_size=64),
    ),
    st.just(Frame(beat=Beat()).SerializeToString()),
    st.builds(hello, st.text(max_size=5)),
    st.builds(lambda k, n: hello()[k : k + n], st.integers(0, 20), st.integers(0, 20)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(greeted=st.booleans(), frames=st.lists(any_frame, max_size=6))
def test_any_frames_in_any_order_end_in_a_bye_or_do_nothing(door: Door, greeted: bool, frames: list[bytes]) -> None:
    found = door.speak(*([hello()] if greeted else []), *frames)
    assert len(byes(found)) <= 1
    if byes(found):
        assert found[-1].WhichOneof("kind") == "bye"
        assert byes(found)[0] in {"message-format", "message-order", "message-size", "tree-format", "open-requests"}
    assert door.net.coordinator.doors.streams == set()
    assert not door.net.coordinator.doors.live


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda x: b"\x0a" + bytes([len(x)]) + x)))
def test_any_bytes_as_a_call_are_answered_by_an_error(door: Door, request: bytes) -> None:
    async def go() -> bytes:
        async with channel(door.net.port, door.net.operator) as open_:
            found: bytes = await open_.unary_unary(SERVICE + "Call")(request, timeout=10)
            return found

    assert b"error" in door.runner.run(go())


# -- limits ---------------------------------------------------------------------------------------------------------------


def test_one_certificate_has_so_many_calls_at_a_time_and_no_more(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, limits=Limits(per_peer=3)) as opened:
            opened.sites["turin"].approving = False
            digest = await opened.submit(engine.study("table"))
            async with contextlib.AsyncExitStack() as stack:
                calls = []
                for _ in range(4):
                    open_ = await stack.enter_async_context(channel(opened.port, opened.researcher))
                    packed = command({"call": "watch", "study": digest}).SerializeToString()
                    call = open_.unary_stream(SERVICE + "Watch")(packed)
                    calls.append((call, await call.read()))
                assert [b"calls-at-once" in first for _, first in calls] == [False, False, False, True]
            for _ in range(3):  # those that ended count no more
                assert (await opened.status(digest))["state"] == "waiting"

    asyncio.run(go())


def let_go(one: socket.socket) -> bool:
    """Whether the other end has closed a connection."""
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_flood_of_connections_that_say_nothing_is_bounded_and_lets_go(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, (), limits=Limits(connections=8, handshake_s=0.5)) as opened:
            flood = []
            for _ in range(40):
                one = socket.socket()
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.connect(("127.0.0.1", opened.port))
                flood.append(one)
            async with asyncio.timeout(20):  # the time for a handshake is half a second
                while not all(let_go(one) for one in flood):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert (await ok(opened.port, opened.operator, call="studies"))["studies"] == []
            for one in flood:
                one.close()

    asyncio.run(go())


# -- joining --------------------------------------------------------------------------------------------------------------


def test_a_newcomer_joins_over_the_same_port_with_a_token_that_works_once(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",)) as opened:
            text = (await ok(opened.port, opened.operator, call="invite", role="site", name="turin", days=2))["token"]
            token = Token.decode(text, now())
            assert token.address == f"localhost:{opened.port}"
            key, identity = pki.make_key(), Identity.generate()
            request = JoinRequest.make(token, key, identity).model_dump(mode="json")
            answer = (await said(opened.port, token.credentials(), request, method="Join"))["ok"]
            turin = Joined.model_validate(answer).credentials(token, key)
            assert (await ok(opened.port, turin, call="studies"))["studies"] == []
            other = JoinRequest.make(token, pki.make_key(), Identity.generate()).model_dump(mode="json")
            replayed = await said(opened.port, token.credentials(), other, method="Join")
            assert replayed["error"]["rule"] == "identity-pinned"
            assert await rule(opened.port, opened.operator, call="invite", role="site", name="turin") == "member-known"
            listed = await ok(opened.port, opened.operator, call="members")
            assert {m["name"] for m in listed["members"]} == {"ops", "padua", "rossi", "turin"}
            assert listed["invitations"] == []  # the token is used up

            renewed = await ok(opened.port, turin, call="renew", certificate=turin.chain_pem.decode())
            again = Credentials(pki.private_pem(key), renewed["certificate"].encode(), renewed["ca"].encode()).checked()
            assert (await ok(opened.port, again, call="studies"))["studies"] == []
            padua = opened.sites["padua"].credentials
            assert await rule(opened.port, turin, call="renew", certificate=padua.chain_pem.decode()) == "renewal"
            assert await rule(opened.port, turin, call="renew", certificate="hello") == "certificate-form"

    asyncio.run(go())


def test_with_the_authoritys_key_apart_nothing_is_issued_and_everything_else_works(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",)) as opened:
            (opened.home.path / "ca.key").rename(tmp_path / "ca.key")
            await opened.restart()
            assert await rule(opened.port, opened.operator, call="invite", role="site", name="x") == "authority-apart"
            assert (await ok(opened.port, opened.operator, call="readiness"))["sites"].keys() == {"padua"}

    asyncio.run(go())


# -- the process ----------------------------------------------------------------------------------------------------------


def test_sigterm_says_good_bye_closes_everything_and_ends_well(tmp_path: Path) -> None:
    home = coordinator_home(tmp_path / "centre")
    code = (
        "import asyncio, sys; from pathlib import Path;"
        "from unisono.network.coordinator.home import CoordinatorHome;"
        "from unisono.network.coordinator.service import serve;"
        "asyncio.run(serve(CoordinatorHome(Path(sys.argv[1])), lambda port: print(port, flush=True)))"
    )
    site = credentials(home, "site", "padua", member=Identity.generate())
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(home.path)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())

        async def go() -> list[Frame]:
            async with channel(port, site) as open_:
                call = open_.stream_stream(SERVICE + "Connect")()
                await call.write(hello())
                frames = [Frame.FromString(await call.read())]
                process.send_signal(signal.SIGTERM)
                return frames + await rest(call)

        assert byes(asyncio.run(go())) == ["coordinator-stopping"]
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    assert '"stopped"' in home.log.read_text().splitlines()[-1]


def test_settings_that_cannot_be_served_are_refused_with_their_rule(tmp_path: Path) -> None:
    home = coordinator_home(tmp_path / "centre")
    with pytest.raises(NetworkError) as again:
        coordinator_home(tmp_path / "centre")
    assert again.value.rule == "one-coordinator"
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert (home.path / "tls.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(NetworkError) as none:
        CoordinatorHome(tmp_path / "empty").settings()
    assert none.value.rule == "coordinator-folder"
    (home.path / "coordinator.json").write_text('{"name": "centre", "heartbeat_s": "often"}')
    with pytest.raises(NetworkError) as wrong:
        home.settings()
    assert wrong.value.rule == "coordinator-settings"
    assert "heartbeat_s" in wrong.value.what
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = coordinator_home(tmp_path / "busy", listen=f"127.0.0.1:{taken.getsockname()[1]}")

        async def go() -> None:
            with pytest.raises(NetworkError) as listening:
                await Coordinator(busy).start()
            assert listening.value.rule == "listen"

        asyncio.run(go())
