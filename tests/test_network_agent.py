"""The site's agent over real sockets: joining, deciding, answering, broken lines, restarts, and who is kept out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support import engine, steward
from unisono.engines.analysis import Place, answer_analysis
from unisono.errors import (
    DataError,
    DisclosureRefusal,
    EnrolmentError,
    NetworkError,
    PermitError,
    ProtocolError,
    StorageError,
    UnisonoError,
    WorkerError,
)
from unisono.federation.exchange import Close, Closes, LinkLost, Message, SlotLost
from unisono.federation.tree import Tree, pack, unpack
from unisono.methods.registry import versions_for
from unisono.network import pki
from unisono.network.agent import control, datasets, results
from unisono.network.agent.channel import trouble
from unisono.network.agent.dial import Pace
from unisono.network.agent.folder import AgentFolder, proxy_of
from unisono.network.agent.join import join
from unisono.network.agent.serve import Options, serve
from unisono.network.agent.steward import Desk
from unisono.network.agent.studies import MakeWorker, Studies, make_worker
from unisono.network.authority import Authority
from unisono.network.enrolment.accepting import accept
from unisono.network.enrolment.invitations import Invitations
from unisono.network.enrolment.joining import JoinRequest
from unisono.network.enrolment.members import Members
from unisono.network.link import CoordinatorEnd, Restarted
from unisono.network.signing import StudySignature
from unisono.network.wire.messages import answer_from, request_tree
from unisono.network.wire.outbox import Outbox
from unisono.network.wire.unisono_pb2 import Beat, Bye, Frame, Packed, Welcome
from unisono.network.wire.version import PROTOCOL
from unisono.network.wordcode import word_code
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site.permit import Permit
from unisono.site.worker import LocalWorker, Worker
from unisono.site.workers.process import ProcessWorker
from unisono.study.document import Study
from unisono.study.load import dump_json

SITES = ("leiden", "padua", "turin")
QUICK = Pace(first=0.02, longest=0.1, welcome=5.0, steady=0.2)
STUDY = engine.study("odds")
RESEARCHER = Identity.generate()


def now() -> datetime:
    return datetime.now(UTC)


def local_worker(study: Study, dataset: datasets.Dataset, site: str, secret: bytes) -> Worker:
    """In this process: quicker to start than the real one."""
    return LocalWorker(study, dataset.freeze(study, site), secret)


class Relay:
    """The wire between: a TCP relay that can cut every connection, or hold everything back without a word."""

    def __init__(self) -> None:
        self.target = 0
        self.pipes: set[asyncio.StreamWriter] = set()
        self.flows = asyncio.Event()
        self.flows.set()
        self.server: Any = None

    async def start(self) -> int:
        self.server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        for pipe in list(self.pipes):
            pipe.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self.pipes |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self.pipes -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.flows.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


class Coordinator:
    """A small coordinator that speaks the wire, with everything it heard, and faults on request."""

    def __init__(self, path: Path, name: str = "co") -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.authority = Authority.create(path, name, now=now())
        self.invitations, self.members = Invitations(path / "i.db"), Members(path / "m.db")
        self.ends: dict[str, CoordinatorEnd] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.hellos: list[tuple[str, str]] = []
        self.called = asyncio.Condition()
        self.heartbeat_ms, self.protocol = 15_000, PROTOCOL
        self.bye: Bye | None = None
        self.refusal: UnisonoError | None = None
        self.port = 0
        self.relay = Relay()
        self.renew_days = 365.0
        self._server: Any = None

    async def start(self) -> Coordinator:
        key = pki.make_key()
        hosts = ("127.0.0.1", "localhost")
        certificate = self.authority.issue(key.public_key(), "coordinator", "co", now=now(), hosts=hosts)
        secure = grpc.ssl_server_credentials(
            [(pki.private_pem(key), pki.pem(certificate))], self.authority.ca_pem, require_client_auth=True
        )
        unary, read, write = grpc.unary_unary_rpc_method_handler, Packed.FromString, Packed.SerializeToString
        handlers = {
            "Connect": grpc.stream_stream_rpc_method_handler(self._connect, Frame.FromString, Frame.SerializeToString),
            "Join": unary(self._join, read, write),
            "Call": unary(self._call, read, write),
        }
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("unisono.wire.v1.Coordinator", handlers),)
        )
        self.relay.target = self._server.add_secure_port("127.0.0.1:0", secure)
        await self._server.start()
        self.port = self.port or await self.relay.start()
        return self

    async def stop(self) -> None:
        await self._server.stop(0)

    async def close(self) -> None:
        await self.stop()
        self.relay.cut()
        self.relay.server.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def invite(self, name: str, role: pki.Role = "site", *, at: datetime | None = None, address: str = "") -> str:
        made = self.invitations.invite(self.authority, address or self.address, role, name, now=at or now())
        return made.encode()

    def end(self, name: str) -> CoordinatorEnd:
        return self.ends.setdefault(name, CoordinatorEnd())

    async def heard(self, call: str, site: str = "", count: int = 1) -> dict[str, Any]:
        """The last call of that name, once there were so many."""

        def found() -> list[dict[str, Any]]:
            return [body for who, body in self.calls if body["call"] == call and site in ("", who)]

        async with self.called:
            await asyncio.wait_for(self.called.wait_for(lambda: len(found()) >= count), 20)
        return found()[-1]

    async def ask(self, site: str, tree: Tree) -> Any:
        await asyncio.wait_for(self.end(site).online(), 20)
        return await asyncio.wait_for(self.end(site).request(tree), 30)

    # -- the service

    def _peer(self, context: Any) -> pki.Peer:
        return pki.peer_of(context.auth_context()["x509_pem_cert"][0])

    async def _join(self, packed: Packed, context: Any) -> Packed:
        try:
            request = JoinRequest.read(json.dumps(unpack(packed.tree)).encode())
            joined = accept(request, self._peer(context), self.invitations, self.authority, self.members, now())
            return Packed(tree=pack({"ok": joined.model_dump(mode="json")}))
        except UnisonoError as error:
            return Packed(tree=pack({"error": error.to_dict()}))

    async def _call(self, packed: Packed, context: Any) -> Packed:
        peer, body = self._peer(context), unpack(packed.tree)
        try:
            if self.refusal is not None:
                raise self.refusal
            answer: Any = {}
            if body["call"] == "renew":
                present = pki.certificate_of(body["certificate"].encode())
                made = self.authority.renewed(present, now=now(), days=self.renew_days)
                answer = {"certificate": pki.pem(made).decode()}
            return Packed(tree=pack({"ok": answer}))
        except UnisonoError as error:
            return Packed(tree=pack({"error": error.to_dict()}))
        finally:
            async with self.called:
                self.calls.append((peer.name, body))
                self.called.notify_all()

    async def _connect(self, frames: AsyncIterator[Frame], context: Any) -> AsyncIterator[Frame]:
        name = self._peer(context).name
        hello = (await anext(frames)).hello
        self.hellos.append((name, hello.session))
        if self.bye is not None:
            yield Frame(bye=self.bye)
            return
        end, outbox = self.end(name), Outbox()
        opened = end.welcome(hello.session)
        beat, protocol = self.heartbeat_ms, self.protocol
        yield Frame(welcome=Welcome(protocol=protocol, software="test", open=opened, heartbeat_ms=beat))
        end.connected({item.id: item.received for item in hello.open}, outbox)
        roster = {"to": "roster", "roster": self.members.roster().to_tree(), "members": []}
        errands = (self._read(frames, end, outbox), self._beat(outbox), self._tell(end, roster))
        tasks = [asyncio.ensure_future(errand) for errand in errands]
        try:
            async for frame in outbox.frames():
                yield frame
        finally:
            end.disconnected(outbox)
            for task in tasks:
                task.cancel()

    async def _read(self, frames: AsyncIterator[Frame], end: CoordinatorEnd, outbox: Outbox) -> None:
        async for frame in frames:
            end.receive(frame)
        outbox.close()

    async def _tell(self, end: CoordinatorEnd, tree: Tree) -> None:
        with contextlib.suppress(Restarted):
            await end.request(tree)

    async def _beat(self, outbox: Outbox) -> None:
        while True:
            await asyncio.sleep(self.heartbeat_ms / 1000)
            outbox.put(Frame(beat=Beat()))


class World:
    """Hospitals with their data, joined to one coordinator."""

    def __init__(self, path: Path, make: MakeWorker = local_worker) -> None:
        self.path, self.make = path, make
        self.coordinator = Coordinator(path / "coordinator")
        self._agents: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    def folder(self, site: str) -> AgentFolder:
        return AgentFolder(self.path / site)

    async def join(self, *sites: str, data: bool = True) -> Roster:
        files = engine.files(self.path / "data", sites)
        for site in sites:
            await join(self.coordinator.invite(site), self.folder(site), now())
            if data:
                datasets.add(self.folder(site), "lung", Path(str(files[site].source)), None, now())
        return self.coordinator.members.roster()

    def serve(self, site: str, **options: Any) -> tuple[asyncio.Event, asyncio.Task[None]]:
        stop = asyncio.Event()
        chosen = Options(**{"pace": QUICK, "make_worker": self.make, "farewell_s": 5.0, **options})
        agent = stop, asyncio.ensure_future(serve(self.folder(site), stop, chosen))
        self._agents.append(agent)
        return agent

    async def stop(self, agent: tuple[asyncio.Event, asyncio.Task[None]]) -> None:
        agent[0].set()
        await asyncio.wait_for(agent[1], 20)

    async def offer(self, site: str, among: Roster, **changes: Any) -> Any:
        return await self.coordinator.ask(site, {**offer_of(STUDY, among), **changes})

    def desk(self, site: str) -> Desk:
        return Desk(self.folder(site))

    async def decide(self, site: str, what: Callable[[Desk], Any]) -> Any:
        """What the steward does at a terminal, which is another thread here."""

        def do() -> Any:
            desk = self.desk(site)
            try:
                return what(desk)
            finally:
                desk.close()

        return await asyncio.to_thread(do)

    async def approve(self, site: str, study: Study = STUDY) -> Any:
        return await self.decide(site, lambda desk: steward.approve(desk, study.id, now()))

    async def log(self, site: str, event: str, count: int = 1) -> dict[str, Any]:
        """The last line of that kind, once there are so many."""
        async with asyncio.timeout(20):
            while len(found := [e for e in events(self.folder(site)) if e["event"] == event]) < count:  # noqa: ASYNC110  (a file)
                await asyncio.sleep(0.01)
        return found[-1]

    async def close(self) -> None:
        for stop, task in self._agents:
            stop.set()
            with contextlib.suppress(UnisonoError):
                await asyncio.wait_for(task, 20)
        await self.coordinator.close()


def run(path: Path, what: Callable[[World], Awaitable[None]], make: MakeWorker = local_worker) -> None:
    """In a world of its own, which is closed whatever happens."""

    async def go() -> None:
        world = World(path, make)
        await world.coordinator.start()
        try:
            async with asyncio.timeout(60):
                await what(world)
        finally:
            await world.close()

    asyncio.run(go())


def events(folder: AgentFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.log.read_text().splitlines()] if folder.log.exists() else []


def offer_of(study: Study, roster: Roster) -> dict[str, Any]:
    return {
        "to": "offer",
        "study": dump_json(study),
        "signature": StudySignature.make(study, "dr-rossi", RESEARCHER).to_tree(),
        "roster": roster.to_tree(),
        "submitted": "2026-03-01T10:00:00+00:00",
        "methods": versions_for(study),
    }


class Network:
    """An exchange over the coordinator's ends."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.sent: list[tuple[str, str]] = []
        self.before: Callable[[str, Message], Awaitable[None]] | None = None

    async def request(self, site: str, message: Message) -> object:
        self.sent.append((site, message.phase))
        if self.before is not None:
            await self.before(site, message)
        try:
            answer = await self.coordinator.ask(site, {"to": "exchange", "message": request_tree(message)})
        except Restarted:
            raise LinkLost(site, message.phase) from None
        if answer["kind"] == "slot-lost":
            raise SlotLost(site, message.phase)
        if answer["kind"] == "error":
            raise UnisonoError.from_dict(answer["error"])
        return answer_from(answer)

    async def online(self, site: str) -> None:
        await self.coordinator.end(site).online()


async def answered(world: World, roster: Roster, network: Network | None = None) -> dict[str, Any]:
    """The estimates of the study's one analysis, over the network."""
    place = Place(world.path / "run", roster)
    outcome = await answer_analysis(STUDY, "odds", place, network or Network(world.coordinator))
    if outcome.error is not None:
        raise outcome.error
    assert outcome.answer is not None
    return outcome.answer.result.estimates


async def three_approved(world: World) -> Roster:
    roster = await world.join(*SITES)
    for site in SITES:
        world.serve(site)
        await world.offer(site, roster)
        await world.approve(site)
    return roster


# -- joining ----------------------------------------------------------------------------------------------------------


def test_joining_makes_keys_that_stay_here_and_credentials_that_open_the_port(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        token = world.coordinator.invite("padua")
        found = await join(token, world.folder("padua"), now())
        home = world.folder("padua")
        assert (found.name, home.settings().name) == ("padua", "padua")
        assert found.words == word_code(world.coordinator.members.roster().digest)
        member = world.coordinator.members.find("padua")
        assert member.identity == home.home.identity().public
        assert found.fingerprint == world.coordinator.members.roster().fingerprint("padua")
        for private in ("identity.key", "tls/tls.key", "coordinator.json"):
            assert stat.S_IMODE((home.path / private).stat().st_mode) == 0o600
        assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
        world.serve("padua")
        await world.log("padua", "connected")

    run(tmp_path, go)


def test_a_token_is_good_for_one_hospital_and_the_same_one_may_ask_again(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        token = world.coordinator.invite("padua")
        await join(token, world.folder("padua"), now())
        await join(token, world.folder("padua"), now())  # the answer was lost on its way: the same keys ask again
        with pytest.raises(EnrolmentError) as replayed:
            await join(token, world.folder("thief"), now())
        assert replayed.value.rule in ("token-used", "identity-pinned")
        with pytest.raises(EnrolmentError) as other:
            await join(world.coordinator.invite("turin"), world.folder("padua"), now())
        assert other.value.rule == "already-joined"

    run(tmp_path, go)


def test_a_token_that_expired_is_another_role_s_or_is_no_token_is_refused_before_anything_is_made(
    tmp_path: Path,
) -> None:
    async def go(world: World) -> None:
        old = world.coordinator.invite("padua", at=now() - timedelta(days=30))
        role = world.coordinator.invite("dr-rossi", "researcher")
        for text, rule in ((old, "token-expired"), (role, "token-role"), ("hello", "token-form")):
            with pytest.raises(EnrolmentError) as refused:
                await join(text, world.folder("padua"), now())
            assert refused.value.rule == rule
        assert not world.folder("padua").path.exists()

    run(tmp_path, go)


def test_another_federation_s_coordinator_at_the_address_is_not_trusted(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        other = await Coordinator(tmp_path / "other", "other").start()
        token = world.coordinator.invite("padua", address=other.address)
        with pytest.raises(NetworkError) as refused:
            await join(token, world.folder("padua"), now())
        assert refused.value.rule == "untrusted-coordinator"
        assert not world.folder("padua").joined
        await other.close()

    run(tmp_path, go)


# -- deciding and answering -------------------------------------------------------------------------------------------


def test_three_hospitals_approve_and_the_answer_is_the_embedded_engine_s_bit_for_bit(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await three_approved(world)
        permit = Permit.model_validate_json((await world.coordinator.heard("approve", "padua"))["permit"])
        assert (permit.study, permit.roster) == (STUDY.digest(), roster.to_tree())
        roster.verify("padua", permit.body(), bytes.fromhex(permit.signature))
        network = Network(world.coordinator)
        found = await answered(world, roster, network)
        finished = await asyncio.to_thread(engine.run, STUDY, tmp_path / "embedded", data=engine.hospitals(SITES))
        assert found == engine.estimates(finished)["odds"]

    run(tmp_path, go)


def test_before_approval_and_after_withdrawal_nothing_is_answered(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await world.join(*SITES)
        for site in SITES:
            world.serve(site)
            await world.offer(site, roster)
        for site in SITES[:2]:
            await world.approve(site)
        with pytest.raises(PermitError) as unapproved:
            await answered(world, roster)
        assert unapproved.value.rule == "permit-study"
        await world.approve(SITES[2])
        network = Network(world.coordinator)

        async def withdrawn_in_the_middle(site: str, message: Message) -> None:
            if message.phase == "mask" and network.sent.count(("padua", "mask")) == 2:
                network.before = None
                _, done = await world.decide("padua", lambda desk: desk.withdraw("lung", "consent revoked", now()))
                assert (done.served, done.told) == (True, True)

        network.before = withdrawn_in_the_middle
        with pytest.raises(PermitError):
            await answered(world, roster, network)
        assert (await world.coordinator.heard("withdraw"))["why"] == "consent revoked"
        assert not (world.folder("padua").path / "permits" / "lung.json").exists()
        audit = (world.folder("padua").path / "audit.jsonl").read_text()
        assert '"event": "withdrawn"' in audit
        with pytest.raises(PermitError):
            await answered(world, roster)

    run(tmp_path, go)


def test_what_is_decided_while_no_agent_serves_is_told_when_one_does(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await world.join("padua", "turin", "leiden")
        agent = world.serve("padua")
        await world.offer("padua", roster)
        await world.stop(agent)
        done = await world.approve("padua")
        assert (done.served, done.told) == (False, False)
        assert not world.coordinator.calls
        world.serve("padua")
        await world.coordinator.heard("approve", "padua")
        await world.log("padua", "taken-up")
        await world.log("padua", "told")
        entry = await world.decide("padua", lambda desk: desk.inbox.find("lung"))
        assert entry.told

    run(tmp_path, go)


def test_a_decision_that_the_coordinator_does_not_take_is_shown_and_told_again(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await world.join("padua", "turin", "leiden")
        world.serve("padua")
        await world.offer("padua", roster)
        world.coordinator.refusal = StorageError("The disk is full.", rule="durable-storage", remedy="Wait.")
        done = await world.approve("padua")
        assert done.served
        assert not done.told
        assert done.trouble.rule == "durable-storage"
        assert "disk is full" in (await world.decide("padua", lambda desk: desk.inbox.find("lung"))).trouble
        world.coordinator.refusal = None
        world.coordinator.relay.cut()
        await world.log("padua", "told")

    run(tmp_path, go)


def test_a_refusal_is_told_and_a_study_submitted_anew_waits_anew(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await world.join("padua", "turin", "leiden")
        world.serve("padua")
        await world.offer("padua", roster)
        await world.decide("padua", lambda desk: desk.refuse("lung", "no legal basis", now()))
        assert (await world.coordinator.heard("refuse"))["why"] == "no legal basis"
        await world.offer("padua", roster)  # a coordinator that lost its memory of the answer hears it again
        await world.coordinator.heard("refuse", count=2)
        with pytest.raises(PermitError) as decided:
            await world.approve("padua")
        assert decided.value.rule == "decided"
        await world.offer("padua", roster, submitted="2026-03-02T10:00:00+00:00")
        assert (await world.approve("padua")).told

    run(tmp_path, go)


def test_an_offer_that_is_not_what_it_says_is_not_shown_to_the_steward(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await world.join("padua", "turin", "leiden")
        world.serve("padua")
        other = Roster({**roster, "padua": Identity.generate().public})
        stranger = StudySignature.make(engine.study("table"), "dr-rossi", RESEARCHER).to_tree()
        for changes, rule in (
            ({"signature": stranger}, "study-signature"),
            ({"roster": other.to_tree()}, "pinned-roster"),
            ({"roster": {name: key for name, key in roster.to_tree().items() if name != "padua"}}, "pinned-roster"),
            ({"study": "{"}, "message-format"),
            ({"study": dump_json(STUDY).replace('"glm"', '"glmm"')}, "known-methods"),
            ({"submitted": "yesterday"}, "message-format"),
            ({"signature": None}, "study-signature"),
            ({"study": dump_json(STUDY).replace("Do women", "\\u001b[2JDo women")}, "message-format"),
            ({"study": dump_json(STUDY).replace("Do women", "\\u202eDo women")}, "message-format"),
        ):
            answer = await world.offer("padua", roster, **changes)
            assert (answer["kind"], answer["error"]["rule"]) == ("error", rule)
        for nonsense in ({"to": "shell"}, [1], {"to": "exchange", "message": 3}, {"to": "state", "study": 1}):
            assert (await world.coordinator.ask("padua", nonsense))["kind"] == "error"
        assert await world.decide("padua", lambda desk: desk.inbox.all()) == []

    run(tmp_path, go)


def test_too_few_patients_are_said_before_anything_is_signed(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await world.join("padua", "turin", "leiden")
        few = tmp_path / "few.csv"
        engine.frame("padua").head(5).to_csv(few, index=False)
        datasets.add(world.folder("padua"), "lung", few, None, now(), replace=True)
        world.serve("padua")
        await world.offer("padua", roster)
        with pytest.raises(DisclosureRefusal):
            await world.approve("padua")
        few.unlink()
        with pytest.raises(DataError):
            await world.approve("padua")
        assert not (world.folder("padua").path / "permits").exists()

    run(tmp_path, go)


def test_results_are_written_into_the_site_s_own_folder_and_nowhere_else(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await world.join("padua", "turin", "leiden")
        world.serve("padua")
        await world.offer("padua", roster)
        files = {"report.html": np.frombuffer(b"<html>", np.uint8), "odds/result.json": np.frombuffer(b"{}", np.uint8)}
        message = {"to": "result", "study": STUDY.digest(), "files": files}
        assert (await world.coordinator.ask("padua", message))["error"]["rule"] == "result-files"  # not approved
        await world.approve("padua")
        assert (await world.coordinator.ask("padua", message))["kind"] == "nothing"
        kept = world.folder("padua").path / "results" / "lung"
        assert (kept / "odds" / "result.json").read_bytes() == b"{}"
        await world.coordinator.ask("padua", {"to": "state", "study": STUDY.digest(), "state": "finished", "why": ""})
        entry = await world.decide("padua", lambda desk: desk.inbox.find(STUDY.digest()[:8]))
        assert (entry.state, entry.is_active) == ("finished", False)

    run(tmp_path, go)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "a//b", ".hidden", "a\\..\\b", "", "x.new", "a/b/c/d/e/f/g", "a\x00b"]
)
def test_a_result_s_name_that_leads_elsewhere_stops_all_of_them(tmp_path: Path, name: str) -> None:
    content = np.zeros(3, np.uint8)
    with pytest.raises(ProtocolError):
        results.keep(tmp_path / "r", {"good.json": content, name: content})
    assert not (tmp_path / "r").exists()
    with pytest.raises(ProtocolError):
        results.keep(tmp_path / "r", {"good.json": np.zeros(3)})


# -- the line ---------------------------------------------------------------------------------------------------------


def test_a_line_that_breaks_again_and_again_loses_nothing_and_computes_nothing_twice(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await three_approved(world)
        network = Network(world.coordinator)

        async def cut_often(site: str, _: Message) -> None:
            if len(network.sent) % 5 == 0:
                asyncio.get_running_loop().call_later(0.002, world.coordinator.relay.cut)

        network.before = cut_often
        found = await answered(world, roster, network)
        sessions = [session for name, session in world.coordinator.hellos if name == "padua"][1:]  # one at joining
        assert len(sessions) > 4
        assert len(set(sessions)) == 1
        finished = await asyncio.to_thread(engine.run, STUDY, tmp_path / "embedded", data=engine.hospitals(SITES))
        assert found == engine.estimates(finished)["odds"]
        audit = [json.loads(line) for line in (world.folder("padua").path / "audit.jsonl").read_text().splitlines()]
        steps = [tuple(line["step"]) for line in audit if line["event"] == "answered"]
        assert len(steps) == len(set(steps))

    run(tmp_path, go)


def test_a_coordinator_that_is_away_at_first_is_waited_for(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        await world.join("padua", data=False)
        await world.coordinator.stop()
        world.serve("padua")
        await world.log("padua", "unreachable", 3)
        assert (await world.decide("padua", lambda desk: desk.status()))["trouble"]["rule"] == "unreachable"
        await world.coordinator.start()
        await world.log("padua", "connected")
        status = await world.decide("padua", lambda desk: desk.status())
        assert (status["connected"], status["trouble"]) == (True, None)

    run(tmp_path, go)


def test_an_answer_that_takes_many_heartbeats_comes_over_the_connection_it_was_asked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local training takes minutes: forty heartbeats of the usual 15 seconds."""

    def trained(_: Studies, message: Message) -> object:
        time.sleep(4.0)
        return None

    monkeypatch.setattr(Studies, "answer", trained)

    async def go(world: World) -> None:
        world.coordinator.heartbeat_ms = 100
        await world.join("padua")
        world.serve("padua")
        asked = {"to": "exchange", "message": request_tree(Close(Closes(("run", "risk", 0, 1))))}
        assert (await world.coordinator.ask("padua", asked))["kind"] == "nothing"
        sessions = [session for _, session in world.coordinator.hellos]
        assert sessions.count(sessions[-1]) == 1  # the agent's; joining has one of its own

    run(tmp_path, go)


def test_a_connection_on_which_nothing_comes_for_three_heartbeats_is_dead(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        world.coordinator.heartbeat_ms = 100
        await world.join("padua", data=False)
        world.serve("padua")
        await world.log("padua", "connected")
        world.coordinator.relay.flows.clear()  # half-open: the sockets are alive, and nothing comes
        assert (await world.log("padua", "unreachable"))["rule"] == "dead-connection"
        world.coordinator.heartbeat_ms = 400  # slow enough for a machine that has other things to do
        world.coordinator.relay.flows.set()
        await world.log("padua", "connected", 2)
        before = len(world.coordinator.hellos)
        await asyncio.sleep(2.0)  # five heartbeats, and not one new connection
        assert len(world.coordinator.hellos) <= before + 1

    run(tmp_path, go)


def test_a_good_bye_and_another_protocol_are_said_in_the_coordinator_s_words(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        await world.join("padua", data=False)
        world.coordinator.bye = Bye(rule="two-agents", what="Another agent is connected.", remedy="Stop one.")
        world.serve("padua")
        said = await world.log("padua", "unreachable")
        assert (said["rule"], said["what"]) == ("two-agents", "Another agent is connected.")
        world.coordinator.bye, world.coordinator.protocol = None, PROTOCOL + 1
        async with asyncio.timeout(10):
            while (said := await world.log("padua", "unreachable"))["rule"] != "protocol-version":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert f"version {PROTOCOL + 1}" in said["what"]

    run(tmp_path, go)


def test_a_site_whose_certificate_is_another_authority_s_is_not_let_in(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        await world.join("padua", data=False)
        folder = world.folder("padua")
        other = Authority.create(tmp_path / "other", "other", now=now())
        key = pki.private_key_of(folder.credentials().key_pem)
        wrong = other.issue(key.public_key(), "site", "padua", now=now())
        (folder.tls / "tls.pem").write_bytes(pki.pem(wrong))
        with pytest.raises(NetworkError) as refused:
            await serve(folder, asyncio.Event(), Options(pace=QUICK))
        assert refused.value.rule == "certificate-authority"

    run(tmp_path, go)


async def connect_proxy(seen: list[bytes], refuse: bool = False) -> asyncio.Server:
    """An HTTP CONNECT proxy."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readline()
        seen.append(first)
        while (line := await reader.readline()).strip():
            seen.append(line)
        if refuse:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        host, port = first.split()[1].decode().split(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, back), pump(there, writer))

    return await asyncio.start_server(serve_one, "127.0.0.1", 0)


def test_a_site_joins_and_connects_through_an_http_connect_proxy(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        seen: list[bytes] = []
        proxy = await connect_proxy(seen)
        address = proxy_of(f"user:secret@127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        await join(world.coordinator.invite("padua"), world.folder("padua"), now(), proxy=address)
        asked = f"CONNECT 127.0.0.1:{world.coordinator.port} HTTP/1.1".encode()
        assert seen[0].startswith(asked)
        assert any(line.lower().startswith(b"proxy-authorization: basic") for line in seen)
        joined = seen.count(seen[0])
        world.serve("padua")
        await world.log("padua", "connected")
        assert seen.count(seen[0]) == joined + 1
        assert "secret" not in world.folder("padua").log.read_text()
        proxy.close()

    run(tmp_path, go)


def test_a_proxy_that_refuses_and_one_that_is_none_are_said(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        proxy = await connect_proxy([], refuse=True)
        address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        with pytest.raises(NetworkError) as refused:
            await join(world.coordinator.invite("padua"), world.folder("padua"), now(), proxy=address)
        assert refused.value.rule == "proxy-refused"
        proxy.close()
        for text in ("ftp://proxy:1", "proxy", "http://proxy:port", "http://proxy:80/path"):
            with pytest.raises(NetworkError) as wrong:
                proxy_of(text)
            assert wrong.value.rule == "proxy-address"

    run(tmp_path, go)


# -- the process ------------------------------------------------------------------------------------------------------


def test_after_a_restart_approved_studies_are_taken_up_before_the_first_word(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await three_approved(world)
        network = Network(world.coordinator)

        async def restart_once(site: str, message: Message) -> None:
            if message.phase == "mask" and network.sent.count(("padua", "mask")) == 2:
                network.before = None
                agent = world._agents[SITES.index("padua")]
                await world.stop(agent)
                world.serve("padua")
                await world.coordinator.end("padua").online()

        network.before = restart_once
        found = await answered(world, roster, network)
        finished = await asyncio.to_thread(engine.run, STUDY, tmp_path / "embedded", data=engine.hospitals(SITES))
        assert found == engine.estimates(finished)["odds"]
        names = [event["event"] for event in events(world.folder("padua"))]
        again = names[names.index("stopped-serving") :]
        assert again.index("taken-up") < again.index("connected")

    run(tmp_path, go)


def test_a_study_whose_file_is_away_does_not_stop_the_agent_and_is_taken_up_when_it_is_back(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        await three_approved(world)
        file = tmp_path / "data" / "padua.csv"
        await world.stop(world._agents[SITES.index("padua")])
        file.rename(tmp_path / "aside.csv")
        world.serve("padua")
        await world.log("padua", "not-taken-up")
        entry = await world.decide("padua", lambda desk: desk.inbox.find("lung"))
        assert entry.trouble
        with pytest.raises(PermitError):
            await answered(world, world.coordinator.members.roster())
        (tmp_path / "aside.csv").rename(file)
        await answered(world, world.coordinator.members.roster())
        assert not (await world.decide("padua", lambda desk: desk.inbox.find("lung"))).trouble

    run(tmp_path, go)


def test_the_real_worker_process_answers_and_is_gone_at_the_end(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        workers: list[ProcessWorker] = []

        def noted(study: Study, dataset: datasets.Dataset, site: str, secret: bytes) -> Worker:
            worker = make_worker(study, dataset, site, secret)
            assert isinstance(worker, ProcessWorker)
            workers.append(worker)
            return worker

        world.make = noted
        roster = await three_approved(world)
        found = await answered(world, roster)
        finished = await asyncio.to_thread(engine.run, STUDY, tmp_path / "embedded", data=engine.hospitals(SITES))
        assert found == engine.estimates(finished)["odds"]
        pids = [worker.pid for worker in workers]
        assert len(set(pids)) == 3
        for agent in world._agents:
            await world.stop(agent)
        for pid in pids:
            assert pid is not None
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    run(tmp_path, go)


def test_a_second_agent_in_one_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        await world.join("padua", data=False)
        world.serve("padua")
        await world.log("padua", "connected")
        with pytest.raises(StorageError) as second:
            await serve(world.folder("padua"), asyncio.Event(), Options(pace=QUICK))
        assert second.value.rule == "one-agent-a-home"
        assert (await world.decide("padua", lambda desk: desk.status()))["connected"]

    run(tmp_path, go)


def test_an_agent_listens_on_nothing_but_its_private_socket_and_leaves_it_tidy(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        await world.join("padua", data=False)
        path = world.folder("padua").socket
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(path))  # what a killed agent leaves
        left.close()
        assert control.ask(path, {"do": "status"}) is None
        agent = world.serve("padua")
        await world.log("padua", "connected")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        def bad(line: bytes) -> dict[str, Any]:
            with socket.socket(socket.AF_UNIX) as talk:
                talk.settimeout(10)
                talk.connect(str(path))
                talk.sendall(line)
                with talk.makefile("rb") as stream:
                    found: dict[str, Any] = json.loads(stream.readline())
                    return found

        for line in (b"junk\n", b"[1]\n", b'{"do": "shell"}\n', b'{"do": "decided"}\n'):
            answer = await asyncio.to_thread(bad, line)
            assert "error" in answer or answer["ok"]["told"] is False
        await world.stop(agent)
        assert not path.exists()

    run(tmp_path, go)


def test_a_certificate_is_renewed_in_the_last_third_of_its_life_and_used(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        await world.join("padua", data=False)
        folder = world.folder("padua")
        key = pki.private_key_of(folder.credentials().key_pem)
        issued = world.coordinator.authority.issue(
            key.public_key(), "site", "padua", now=now() - timedelta(days=9), days=10
        )
        replace(folder.credentials(), chain_pem=pki.pem(issued)).save(folder.tls)
        world.serve("padua")
        await world.log("padua", "renewed")
        await world.log("padua", "connected", 2)
        renewed = pki.peer_of(folder.credentials().chain_pem)
        assert renewed.not_after > now() + timedelta(days=300)
        assert folder.credentials().checked()

    run(tmp_path, go)


def test_a_certificate_that_is_over_or_a_clock_that_is_wrong_is_said(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        await world.join("padua", data=False)
        folder, coordinator = world.folder("padua"), world.coordinator
        key = pki.private_key_of(folder.credentials().key_pem)
        past = now() - timedelta(days=9)
        issued = coordinator.authority.issue(key.public_key(), "site", "padua", now=past, days=8)
        replace(folder.credentials(), chain_pem=pki.pem(issued)).save(folder.tls)
        agent = world.serve("padua")
        assert (await world.log("padua", "unreachable"))["rule"] == "certificate-expired"
        await world.stop(agent)
        assert (
            trouble(None, "CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", "x:1").rule == "certificate-time"
        )

    run(tmp_path, go)


def test_an_agent_can_be_stopped_while_it_takes_a_study_up(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        roster = await world.join(*SITES)
        agent = world.serve("padua")
        await world.offer("padua", roster)
        await world.stop(agent)
        await world.approve("padua")

        class Slow(ProcessWorker):
            """Reads its data until it is closed."""

            over = threading.Event()
            reading = threading.Event()

            def start(self) -> Any:
                self.reading.set()
                assert self.over.wait(20)
                raise WorkerError("It was closed.", rule="worker-closed", remedy="None.")

            def close(self) -> None:
                self.over.set()

        def slow(study: Study, dataset: datasets.Dataset, site: str, secret: bytes) -> Worker:
            return Slow(study, dataset.file, dataset.mapping, site, secret)

        agent = world.serve("padua", make_worker=slow)
        await asyncio.to_thread(Slow.reading.wait, 20)
        await world.stop(agent)
        assert [e["event"] for e in events(world.folder("padua"))][-1] == "stopped-serving"

    run(tmp_path, go)


def test_a_folder_that_did_not_join_and_one_with_a_broken_policy_do_not_serve(tmp_path: Path) -> None:
    async def go(world: World) -> None:
        with pytest.raises(NetworkError) as early:
            await serve(world.folder("padua"), asyncio.Event())
        assert early.value.rule == "not-joined"
        await world.join("padua", data=False)
        (world.folder("padua").path / "policy.json").write_text('{"min_patients": "many"}')
        with pytest.raises(StorageError):
            await serve(world.folder("padua"), asyncio.Event(), Options(pace=QUICK))

    run(tmp_path, go)
