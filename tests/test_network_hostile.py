"""Hostile and broken ends over real sockets: nonsense by the thousand at the coordinator and at a site, floods, slow-loris,
certificates and clocks that are not what they should be. Nothing crashes, nothing leaks, every refusal has a rule, and who is
honest is not disturbed. The faults and where each is tested: docs/network.md."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError

from tests.support import engine, freeze
from tests.support.network import SERVICE, SITES, Net, channel, coordinator_home, net, now, ok, rule, said
from tests.test_network_agent import QUICK, Coordinator, World, events, run
from tests.test_network_coordinator_doors import SHUT, byes, hello, rest, spoken
from unisono.errors import PermitError, UnisonoError
from unisono.federation.ask import Circle
from unisono.federation.tree import pack
from unisono.network import pki
from unisono.network.agent.control import ask
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.join import join
from unisono.network.agent.serve import Options, serve
from unisono.network.clock import LaterClock, wrong_clock
from unisono.network.coordinator.home import Limits
from unisono.network.enrolment.token import Token
from unisono.network.link import CoordinatorEnd, SiteEnd
from unisono.network.pki import Credentials
from unisono.network.wire.outbox import Outbox
from unisono.network.wire.parcel import Incoming
from unisono.network.wire.unisono_pb2 import Begin, Chunk, Frame, Packed, Welcome
from unisono.network.wire.version import PROTOCOL
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site.agent import Site
from unisono.site.permit import propose
from unisono.site.policy import simulation_policy

STUDY = engine.study("odds")
RULES = {
    "message-format",
    "message-order",
    "message-size",
    "tree-format",
    "open-requests",
    "protocol-version",
    "two-agents",
    "connection-replaced",
    "hello-late",
}
_SPARE_FDS = 24
_SPARE_MIB = 48


def recorded(name: str) -> list[bytes]:
    """Frames of a real run."""
    return freeze.frames(freeze.folder(1) / name)


def mutated(rng: random.Random, corpus: list[bytes]) -> bytes:
    """A frame, every other time a short one, that was cut, lengthened, changed, or put together with another."""
    short = [data for data in corpus if len(data) < 40]
    found = bytearray(rng.choice(short if rng.random() < 0.5 else corpus))
    for _ in range(rng.choice((1, 1, 2, 6))):
        at = rng.randrange(len(found) + 1)
        how = rng.randrange(6)
        if how == 0:
            del found[at:]
        elif how == 1:
            found[at:at] = rng.randbytes(rng.choice((1, 4, 40)))
        elif how == 2 and found:
            found[at % len(found)] ^= 1 << rng.randrange(8)
        elif how == 3:
            del found[at : at + rng.choice((1, 3, 30))]
        elif how == 4:
            found += rng.choice(corpus)
        else:
            found[at : at + 8] = rng.choice((b"\xff" * 8, b"\x00" * 8, b"\x80" * 8 + b"\x7f"))
    return bytes(found[:200_000])


def fds() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def resident_mib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def until(true: Any, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  (files, and counts of the kernel's, do not call)
            await asyncio.sleep(0.02)


# -- nonsense at the coordinator --------------------------------------------------------------------------------------------


def test_two_thousand_mutated_frames_leave_the_coordinator_as_it_was(tmp_path: Path) -> None:
    corpus, rng = recorded("to-coordinator.frames"), random.Random(4)

    async def stream(open_: Any, greet: bool) -> tuple[int, str]:
        call = open_.stream_stream(SERVICE + "Connect")()
        sent = 0
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            if greet:
                await call.write(hello())
            for _ in range(rng.randrange(1, 8)):
                await call.write(mutated(rng, corpus))
                sent += 1
            await call.done_writing()
        found: list[Frame] = []
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with asyncio.timeout(120):
                found = await rest(call)
        return sent, next(iter(byes(found)), "")

    async def go() -> None:
        async with net(tmp_path, ("padua", "turin")) as opened:
            turin, padua = opened.sites["turin"], opened.sites["padua"]
            await turin.until(lambda: turin.connections == 1)
            await padua.stop()
            end, total, heard = opened.coordinator.sites.line("padua").end, 0, set()
            baseline: tuple[int, float] = (0, 0.0)
            async with channel(opened.port, padua.credentials) as open_:
                asked = asyncio.ensure_future(opened.coordinator.sites.ask("turin", {"to": "state", "state": "x"}))
                while total < 2000:
                    sent, bye = await stream(open_, greet=rng.random() < 0.7)
                    total += sent
                    heard.add(bye)
                    if baseline == (0, 0.0) and total > 600:
                        baseline = fds(), resident_mib()
                assert (await asked)["kind"] == "nothing"
            assert heard - {""} <= RULES
            assert {"message-format", "message-order"} <= heard
            await until(lambda: opened.coordinator.doors.live.total() == len(opened.coordinator.doors.streams) == 1)
            assert fds() <= baseline[0] + _SPARE_FDS
            assert resident_mib() <= baseline[1] + _SPARE_MIB
            assert end.open_requests <= 1  # the roster, which padua never took
            assert turin.connections == 1
            lines = opened.log()
            left = [line for line in lines if line["event"] == "site-left" and line["site"] == "padua"]
            assert {line["rule"] for line in left} <= RULES | {"closed", "silent"}
            assert not [line for line in lines if line["event"] in ("fault", "connection-broken")]

    asyncio.run(go())


def test_a_thousand_mutated_commands_get_an_error_with_a_rule_or_what_they_ask(tmp_path: Path) -> None:
    rng = random.Random(5)
    seeds = [(freeze.folder(1) / "command").read_bytes(), b"\x10\x01"]

    async def go() -> None:
        async with net(tmp_path, (), dial=False) as opened:
            rules = set()
            async with channel(opened.port, opened.operator) as open_:
                call = open_.unary_unary(SERVICE + "Call")
                for _ in range(1000):
                    answer = await call(mutated(rng, seeds), timeout=20)
                    found = json.loads(Packed.FromString(answer).tree[8:])
                    rules.add(found["error"]["rule"] if "error" in found else "")
            assert rules <= {"", "message-format", "tree-format", "protocol-version", "known-calls", "known-studies"}
            assert "fault" not in {line["event"] for line in opened.log()}

    asyncio.run(go())


def nested(depth: int) -> bytes:
    """A packed tree that is so deep."""
    skeleton = b"[" * depth + b"]" * depth
    return b"UNI1" + len(skeleton).to_bytes(4, "little") + skeleton


@pytest.mark.parametrize("depth", [2_000, 400_000])
def test_a_tree_without_a_bottom_is_refused_at_both_ends(tmp_path: Path, depth: int) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False) as opened:
            async with channel(opened.port, opened.operator) as open_:
                deep = Packed(tree=nested(depth), protocol=PROTOCOL).SerializeToString()
                assert b"tree-format" in await open_.unary_unary(SERVICE + "Call")(deep, timeout=20)
            about = nested(depth) if depth < 10_000 else nested(30_000)
            frames, _ = await spoken(opened.port, opened.sites["padua"].credentials, hello(about=about))
            assert byes(frames) == ["tree-format"]
        end = SiteEnd(nobody, "s")
        outbox = Outbox()
        end.connected({}, outbox)
        give(end, 1, nested(depth))
        await end._open[1].work  # type: ignore[misc]
        assert end._open[1].answer is not None
        assert b"tree-format" in end._open[1].answer.chunk(0)

    asyncio.run(go())


async def nobody(tree: Any) -> Any:
    return {"kind": "nothing"}


def give(end: SiteEnd, number: int, data: bytes) -> None:
    """A whole request."""
    end.receive(Frame(begin=Begin(id=number, size=len(data))))
    for offset in range(0, len(data), 2**20):
        end.receive(Frame(chunk=Chunk(id=number, offset=offset, data=data[offset : offset + 2**20])))


def test_who_only_announces_large_messages_takes_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = os.pwrite
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "pwrite", lambda handle, data, at: taken.append(len(data)) or real(handle, data, at))  # type: ignore[func-returns-value]
    before = fds()
    announced = [Incoming(2**31, 2**31) for _ in range(60)]
    assert taken == []
    announced[0].append(0, bytes(100))
    assert taken == [100]
    announced.clear()
    gc.collect()
    assert fds() <= before


# -- nonsense at a site -----------------------------------------------------------------------------------------------------


def test_thousands_of_mutated_frames_end_in_a_rule_at_either_end_of_the_link() -> None:
    rng = random.Random(6)
    rules: set[str] = set()
    huge = [Frame(begin=Begin(id=number, size=2**40)).SerializeToString() for number in (1, 2)]

    async def go() -> None:
        for corpus, make in (
            (recorded("to-site.frames") + huge, lambda: SiteEnd(nobody, "s", limit=2**20)),
            (recorded("to-coordinator.frames") + huge, lambda: CoordinatorEnd(limit=2**20)),
        ):
            for _ in range(1500):
                end: Any = make()
                asked = (
                    [] if isinstance(end, SiteEnd) else [asyncio.ensure_future(end.request({"to": "x"})) for _ in "123"]
                )
                end.connected({}, Outbox())
                await asyncio.sleep(0)
                try:
                    for _ in range(rng.randrange(1, 12)):
                        end.receive(parsed(mutated(rng, corpus)))
                except UnisonoError as error:
                    rules.add(error.rule)
                end.close() if isinstance(end, SiteEnd) else end.give_up()
                await asyncio.gather(*asked, return_exceptions=True)

    def parsed(data: bytes) -> Frame:
        with contextlib.suppress(DecodeError):  # the services refuse it before the link sees it
            return Frame.FromString(data)
        return Frame()

    asyncio.run(go())
    assert rules <= RULES
    assert {"message-order", "message-size"} <= rules


class Hostile(Coordinator):
    """A coordinator whose words are made from a real one's, until it is told to be good. sessions: open files, at each hello."""

    good = False

    def __init__(self, path: Path, rng: random.Random) -> None:
        super().__init__(path)
        self.rng, self.corpus = rng, recorded("to-site.frames")
        self.sessions: list[int] = []

    async def _connect(self, frames: AsyncIterator[Frame], context: Any) -> AsyncIterator[Frame]:
        if self.good:
            async for frame in super()._connect(frames, context):
                yield frame
            return
        self.sessions.append(fds())
        await anext(frames)
        if self.rng.random() < 0.8:
            yield Frame(welcome=Welcome(protocol=PROTOCOL, software="\x1b[2J" * 9, heartbeat_ms=60_000, time_ms=2**63))
        for _ in range(self.rng.randrange(1, 9)):
            with contextlib.suppress(DecodeError):  # what is no frame at all, this library would not let us send
                yield Frame.FromString(mutated(self.rng, self.corpus))


def test_a_coordinator_that_talks_nonsense_is_left_and_dialled_again_and_the_agent_lives(tmp_path: Path) -> None:
    async def go() -> None:
        world = World(tmp_path)
        hostile = world.coordinator = Hostile(tmp_path / "hostile", random.Random(7))
        await hostile.start()
        try:
            await world.join("padua", data=False)
            agent = world.serve("padua")[1]
            await until(lambda: len(hostile.sessions) >= 20, 120)
            settled = fds(), resident_mib()
            await until(lambda: len(hostile.sessions) >= 100, 240)
            assert not agent.done()
            assert fds() <= settled[0] + _SPARE_FDS
            assert resident_mib() <= settled[1] + _SPARE_MIB
            hostile.good = True
            assert (await hostile.ask("padua", {"to": "nothing"}))["error"]["rule"] == "message-format"
        finally:
            await world.close()
        lines = events(world.folder("padua"))
        refused = [line for line in lines if line["event"] in ("unreachable", "request-refused")]
        assert all(line["rule"] and line["what"] and line["remedy"] for line in refused)
        assert {line["rule"] for line in refused} & {"message-order", "message-size", "message-format", "tree-format"}
        assert "fault" not in {line["event"] for line in lines}
        assert "\x1b" not in json.dumps(lines, ensure_ascii=False)

    asyncio.run(go())


def test_requests_that_are_nonsense_are_refused_with_a_rule_and_the_link_stays(tmp_path: Path) -> None:
    rng = random.Random(8)

    async def go(world: World) -> None:
        roster = await world.join("padua", "turin", "leiden", data=False)
        looked = len(world.coordinator.hellos)
        world.serve("padua")
        good = {
            "to": "offer",
            "study": "{}",
            "signature": {},
            "roster": roster.to_tree(),
            "submitted": "x",
            "methods": {},
        }
        values: list[Any] = [None, True, -1, 2**70, "x" * 5000, [], {}, {"a": [1]}, np.zeros(3), "\u202e", ["y"] * 99]
        trees: list[Any] = [{**good, rng.choice(list(good)): rng.choice(values)} for _ in range(150)]
        phases = ["commit", "advertise", "share", "mask", "agree", "unmask", "deliver", "plain", "tell", "close"]
        keys = ["circle", "ask", "key", "slot", "inbox", "next", "closes", "unmask", "keys", "words", "commitments"]
        for _ in range(150):
            message = {"kind": rng.choice(phases), **{key: rng.choice(values) for key in keys}}
            trees.append({"to": "exchange", "message": message, "begun": rng.choice(values)})
        for kind in ("state", "result", "roster", "status", ""):
            trees += [
                {"to": kind, key: value} for key in ("study", "files", "members", "state") for value in values[:6]
            ]
        for tree in trees:
            answer = await world.coordinator.ask("padua", tree)
            assert answer["kind"] in ("error", "nothing")
            if answer["kind"] == "error":
                assert answer["error"]["rule"]
                assert answer["error"]["rule"] != "site-fault", tree
        assert len(world.coordinator.hellos) == looked + 1
        assert "fault" not in {line["event"] for line in events(world.folder("padua"))}

    run(tmp_path, go)


# -- floods and slow-loris --------------------------------------------------------------------------------------------------


def secure(opened: Net, with_: Credentials, folder: Path) -> ssl.SSLContext:
    """TLS as a member, without HTTP/2 behind it."""
    with_.save(folder)
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    return context


def drip(one: Any, data: bytes, seconds: float) -> float:
    """A byte at a time. After how long the other end hung up."""
    began = time.monotonic()
    one.settimeout(0.05)
    for k in range(10**6):
        if time.monotonic() - began > seconds:
            break
        try:
            one.send(data[k % len(data) : k % len(data) + 1])
            if one.recv(4096) == b"":
                break
        except (TimeoutError, ssl.SSLWantReadError):
            continue
        except OSError:
            break
    return time.monotonic() - began


def test_handshakes_and_prefaces_that_trickle_are_cut_off_and_a_study_runs_beside_them(tmp_path: Path) -> None:
    record = b"\x16\x03\x01\x40\x00" + bytes(0x4000)  # the beginning of a ClientHello that never ends

    async def go() -> None:
        async with net(tmp_path, limits=Limits(handshake_s=2.0, connections=24)) as opened:
            for client in opened.sites.values():
                await client.until(lambda client=client: client.connections == 1)  # type: ignore[misc]
            before = fds()
            context = secure(opened, opened.researcher, tmp_path / "tls")

            def loris() -> float:
                with socket.create_connection(("127.0.0.1", opened.port), 10) as plain:
                    return drip(plain, record, 60)

            def preface() -> float:
                plain = socket.create_connection(("127.0.0.1", opened.port), 10)
                with contextlib.suppress(OSError), context.wrap_socket(plain) as one:
                    return drip(one, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"[:-1], 60)
                return 0.0

            flood = [asyncio.to_thread(which) for which in (loris, preface, loris, preface)]
            flooding = asyncio.ensure_future(asyncio.gather(*flood))
            digest = await opened.submit(STUDY)
            await opened.until(digest, "finished")
            assert max(await flooding) < 45
            await until(lambda: fds() <= before + 6)
            assert all(client.connections == 1 and client.byes == [] for client in opened.sites.values())

    asyncio.run(go())


def test_a_flood_of_connections_is_bounded_and_hospitals_that_are_there_stay(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, limits=Limits(handshake_s=2.0, connections=12)) as opened:
            for client in opened.sites.values():
                await client.until(lambda client=client: client.connections == 1)  # type: ignore[misc]
            before = fds()
            flood = [socket.socket() for _ in range(150)]
            for one in flood:
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.connect(("127.0.0.1", opened.port))
            asked = [opened.coordinator.sites.ask(name, {"to": "state", "state": "x"}) for name in SITES]
            assert [answer["kind"] for answer in await asyncio.gather(*asked)] == ["nothing"] * 3
            held = fds() - before - len(flood)
            assert held <= 12 + 6, "more of them are open at this end than the limit"
            for one in flood:
                one.close()
            await until(lambda: fds() <= before + 3)

            async def answered() -> bool:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    return "ok" in await said(opened.port, opened.operator, {"call": "studies"})
                return False

            async with asyncio.timeout(30):
                while not await answered():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert all(client.connections == 1 for client in opened.sites.values())

    asyncio.run(go())


# -- certificates that are another's ----------------------------------------------------------------------------------------


def test_with_swapped_certificates_no_permit_counts_and_nothing_runs(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, dial=False) as opened:
            padua, turin = opened.sites["padua"], opened.sites["turin"]
            padua.credentials, turin.credentials = turin.credentials, padua.credentials
            digest = await opened.submit(STUDY)
            roster = opened.coordinator.studies.course.known(digest).roster
            for client, rule_ in ((padua, "permit-roster"), (turin, "permit-roster")):
                permit = propose(STUDY, roster, client.name, now()).signed(client.site.identity)
                call = {"call": "approve", "study": digest, "permit": permit.model_dump_json()}
                assert (await said(opened.port, client.credentials, call))["error"]["rule"] == rule_
                name = pki.peer_of(client.credentials.chain_pem).name
                forged = propose(STUDY, roster, name, now()).signed(client.site.identity)
                call["permit"] = forged.model_dump_json()
                assert (await said(opened.port, client.credentials, call))["error"]["rule"] == "permit-signature"
            state = await opened.status(digest)
            assert (state["state"], sorted(state["waiting_for"])) == ("waiting", sorted(SITES))

    asyncio.run(go())


def test_a_certificate_without_its_own_key_and_one_of_another_role_open_nothing(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua", "turin"), dial=False) as opened:
            padua, turin = (opened.sites[name].credentials for name in ("padua", "turin"))
            with pytest.raises((grpc.aio.AioRpcError, UnisonoError)):
                await said(opened.port, Credentials(padua.key_pem, turin.chain_pem, padua.ca_pem), {"call": "studies"})
            frames, code = await spoken(opened.port, opened.researcher, hello())
            assert (frames, code in SHUT) == ([], True)
            assert await rule(opened.port, padua, call="submit") == "known-calls"

    asyncio.run(go())


# -- clocks -----------------------------------------------------------------------------------------------------------------

DAY = timedelta(days=1)


@pytest.mark.parametrize(("by", "words"), [(DAY, "24 hours ahead of"), (-DAY, "24 hours behind")])
def test_a_site_whose_clock_is_wrong_by_a_day_says_so_with_what_to_do(
    tmp_path: Path, by: timedelta, words: str
) -> None:
    async def go() -> None:
        async with net(tmp_path, ()) as opened:
            token = (await ok(opened.port, opened.operator, call="invite", role="site", name="padua"))["token"]
            folder, stop = AgentFolder(tmp_path / "padua"), asyncio.Event()
            await join(token, folder, now())
            agent = asyncio.ensure_future(serve(folder, stop, Options(pace=QUICK, clock=lambda: now() + by)))
            try:
                await until(lambda: any(line["event"] == "clock-wrong" for line in events(folder)))
                status = await asyncio.to_thread(ask, folder.socket, {"do": "status"})
            finally:
                stop.set()
                await agent
            (line,) = (line for line in events(folder) if line["event"] == "clock-wrong")
            assert line["rule"] == "clock-skew"
            assert f"The clock of this machine is {words} that of the coordinator" in line["what"]
            assert "NTP" in line["remedy"]
            assert status is not None
            assert status["clock"]["what"] == line["what"]
            (other,) = (line for line in opened.log() if line["event"] == "clock-wrong")
            assert (other["site"], "24 hours" in other["what"]) == ("padua", True)

    asyncio.run(go())


def test_a_coordinator_logs_whose_clock_is_not_like_its_own(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path, ("padua",), dial=False) as opened:
            late = round((now() - DAY).timestamp() * 1000)
            for about in ({"time_ms": late}, {"time_ms": 2**63}, {"time_ms": "noon"}):
                await spoken(opened.port, opened.sites["padua"].credentials, hello(about=pack(about)), b"\xff")
            wrong = [line for line in opened.log() if line["event"] == "clock-wrong"]
            assert len(wrong) == 2
            assert "The clock of the coordinator is 24 hours ahead of that of padua" in wrong[0]["what"]
            assert not [line for line in opened.log() if line["event"] == "connection-broken"]

    asyncio.run(go())


def test_clocks_that_differ_by_minutes_are_nobodys_business() -> None:
    assert wrong_clock(now(), 599, "here", "there") is None
    assert wrong_clock(now(), -3 * 86_400, "here", "there") is not None
    assert "3 days" in wrong_clock(now(), -3 * 86_400, "here", "there").what  # type: ignore[union-attr]
    assert wrong_clock(now(), 1e300, "here", "there") is not None


def test_an_expired_permit_stays_expired_by_whichever_clock_says_so(tmp_path: Path) -> None:
    """The site's clock was set back by a day; the permit ended an hour ago."""
    identity = Identity.generate()
    roster = engine_roster(identity)
    ended = propose(STUDY, roster, "padua", now()).model_copy(update={"expires": now() - timedelta(hours=1)})
    back = LaterClock(lambda: now() - DAY)
    site = Site("padua", tmp_path, identity, simulation_policy(), clock=lambda: now() - DAY, permits_until=back)
    try:
        assert ended.expires > site.permits_until()  # by its own clock alone it would hold
        assert back.hear(DAY.total_seconds()) is not None
        assert ended.expires <= site.permits_until()
        back.hear(-DAY.total_seconds())  # a coordinator that is behind brings nothing back
        assert site.permits_until() <= now() - DAY + timedelta(seconds=5)
        ahead = LaterClock(now)
        ahead.hear(float(2**62))  # nor does nonsense break it
        assert ahead() > now() + 365 * DAY
        with pytest.raises(PermitError) as error:
            ended.check_among(circle(roster), roster, now())
        assert error.value.rule == "permit-expired"
    finally:
        site.close()


def engine_roster(identity: Identity) -> Any:
    return Roster({name: identity.public if name == "padua" else Identity.generate().public for name in SITES})


def circle(roster: Any) -> Any:
    return Circle("run", STUDY.digest(), "odds", 0, roster.sites, "secagg")


def test_a_coordinator_whose_clock_is_a_day_ahead_refuses_what_ended_and_names_both_times(tmp_path: Path) -> None:
    async def go() -> None:
        async with net(tmp_path) as opened:
            for client in opened.sites.values():
                client.approving = False
            digest = await opened.submit(STUDY)
            padua = opened.sites["padua"]
            await padua.until(lambda: digest in padua.offers)
            roster = opened.coordinator.studies.course.known(digest).roster
            ending = propose(STUDY, roster, "padua", now()).model_copy(update={"expires": now() + timedelta(hours=12)})
            call = {"call": "approve", "study": digest, "permit": ending.signed(padua.site.identity).model_dump_json()}
            opened.coordinator.clock = lambda: now() + DAY  # members, tokens
            opened.coordinator.studies.course._clock = opened.coordinator.studies._clock = opened.coordinator.clock
            error = (await said(opened.port, padua.credentials, call))["error"]
            assert error["rule"] == "permit-expired"
            assert f"{ending.expires:%Y-%m-%d %H:%M}" in error["what"]
            assert f"{now() + DAY:%Y-%m-%d}" in error["what"]
            assert "NTP" in error["remedy"]

    asyncio.run(go())


def test_a_token_from_the_future_and_one_from_the_past_are_refused_with_both_times(tmp_path: Path) -> None:
    home = coordinator_home(tmp_path / "centre")
    for at, there, expected in ((now() + DAY, now(), "token-not-yet-valid"), (now() - 9 * DAY, now(), "token-expired")):
        text = Token.make(home.authority(), "localhost:443", "site", "padua", now=at).encode()
        with pytest.raises(UnisonoError) as error:
            Token.decode(text, there)
        assert error.value.rule == expected
    with pytest.raises(UnisonoError) as early:
        Token.decode(Token.make(home.authority(), "h:443", "site", "padua", now=now() + DAY).encode(), now())
    assert "clock" in early.value.remedy
