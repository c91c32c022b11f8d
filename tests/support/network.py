"""A coordinator in this process with its own authority, and sites, researchers and operators that dial it over real mTLS on
loopback. The sites are real `Site` objects behind a small client, which tests can cut, restart, silence and count."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tests.support import engine
from unisono import __version__
from unisono.errors import UnisonoError
from unisono.federation.exchange import SlotLost
from unisono.federation.tree import pack, unpack
from unisono.network import pki
from unisono.network.coordinator.home import CoordinatorHome, Limits, Settings
from unisono.network.coordinator.service import Coordinator
from unisono.network.enrolment.members import Members
from unisono.network.link import SiteEnd
from unisono.network.pki import Credentials, Role
from unisono.network.signing import StudySignature
from unisono.network.wire.envelope import command
from unisono.network.wire.messages import answer_tree, request_from
from unisono.network.wire.outbox import Outbox
from unisono.network.wire.unisono_pb2 import Beat, Frame, Hello, Packed
from unisono.network.wire.version import PROTOCOL
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site.agent import Site
from unisono.site.data.snapshot import freeze
from unisono.site.home import Home
from unisono.site.permit import Permit, propose
from unisono.site.policy import simulation_policy
from unisono.site.worker import LocalWorker
from unisono.study.document import Study
from unisono.study.load import load

SERVICE = "/unisono.wire.v1.Coordinator/"
SITES = ("leiden", "padua", "turin")
LARGE = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


def now() -> datetime:
    """By the machine's clock, which gRPC reads too."""
    return datetime.now(UTC)


def coordinator_home(folder: Path, limits: Limits | None = None, **settings: Any) -> CoordinatorHome:
    """A folder on a free port of loopback."""
    given = {"heartbeat_s": 5.0, "grace_s": 5.0, "listen": "127.0.0.1:0", **settings}
    return CoordinatorHome.create(folder, Settings(name="centre", limits=limits or Limits(), **given), now=now())


def credentials(
    home: CoordinatorHome, role: Role, name: str, *, member: Identity | None = None, **of: Any
) -> Credentials:
    """Of somebody who joined (with `member`'s identity), or only has a certificate. of: more for `Authority.issue`."""
    authority, key = home.authority(), pki.make_key()
    certificate = authority.issue(key.public_key(), role, name, **{"now": now(), **of})
    if member is not None:
        members = Members(home.members)
        members.add(role, name, member.public, certificate, now())
        members.close()
    return Credentials(pki.private_pem(key), pki.pem(certificate), authority.ca_pem)


def channel(port: int, with_: Credentials) -> grpc.aio.Channel:
    """A connection of its own."""
    secure = grpc.ssl_channel_credentials(with_.ca_pem, with_.key_pem, with_.chain_pem)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", secure, options=LARGE)


async def said(port: int, with_: Credentials, tree: Any, method: str = "Call") -> dict[str, Any]:
    """What comes back for a call: {ok: ...} or {error: ...}."""
    async with channel(port, with_) as open_:
        call = open_.unary_unary(SERVICE + method)
        answer = await call(command(tree).SerializeToString(), timeout=20)
    found: dict[str, Any] = unpack(Packed.FromString(answer).tree)
    return found


async def ok(port: int, with_: Credentials, **tree: Any) -> Any:
    """What a call gives; fails on an error."""
    found = await said(port, with_, tree)
    assert "ok" in found, found
    return found["ok"]


async def rule(port: int, with_: Credentials, **tree: Any) -> str:
    """The rule of the error that a call gives."""
    found = await said(port, with_, tree)
    assert "error" in found, found
    return str(found["error"]["rule"])


async def watched(port: int, with_: Credentials, study: str) -> AsyncIterator[dict[str, Any]]:
    """{state, event} of a study."""
    async with channel(port, with_) as open_:
        call = open_.unary_stream(SERVICE + "Watch")
        async for answer in call(command({"call": "watch", "study": study}).SerializeToString()):
            yield unpack(Packed.FromString(answer).tree)["ok"]


@dataclass
class Client:
    """A site: dials, answers, approves what it is offered, and dials again when the link is lost.

    cut_after: frames after which it cuts its own connection, once. answered: how many messages `Site.answer` was asked, by
    phase. silent: it neither writes nor reads from now on, and its socket stays open.
    """

    name: str
    port: int
    credentials: Credentials
    home: Home
    approving: bool = True
    session: str = field(default_factory=lambda: secrets.token_hex(8))
    cut_after: int | None = None
    answered: Counter[str] = field(default_factory=Counter)
    offers: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    byes: list[str] = field(default_factory=list)
    connections: int = 0
    data: Callable[[str], Any] = engine.frame

    def __post_init__(self) -> None:
        policy = simulation_policy().model_copy(update={"trust": "verified"})
        self.site = Site(self.name, self.home.path, self.home.identity(), policy)
        self.end = SiteEnd(self._handle, self.session)
        self.changed = asyncio.Event()
        self.permits: dict[str, Permit] = {}
        self._task: asyncio.Task[None] | None = None
        self._call: Any = None
        self._errands: set[asyncio.Task[Any]] = set()

    def start(self) -> Client:
        """Dial, again and again."""
        self._task = asyncio.ensure_future(self._keep())
        return self

    async def stop(self) -> None:
        """Dial no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for errand in self._errands:
            errand.cancel()
        await asyncio.gather(*self._errands, return_exceptions=True)
        self.end.close()
        await asyncio.to_thread(self.site.close)

    def cut(self) -> None:
        """Cut the connection there is."""
        if self._call is not None:
            self._call.cancel()

    async def until(self, true: Callable[[], bool], seconds: float = 30.0) -> None:
        """Until something that happens here is so."""
        async with asyncio.timeout(seconds):
            while not true():
                self.changed.clear()
                await self.changed.wait()

    async def approve(self, digest: str) -> dict[str, Any]:
        """Sign a permit, take the study up, and tell the coordinator."""
        offer = self.offers[digest]
        study = load(json.loads(offer["study"]))
        roster = Roster.from_tree(offer["roster"])
        # Its steward has telephoned everybody.
        permit = propose(study, roster, self.name, now(), roster.sites).signed(self.site.identity)
        await self.take_up(study, permit, roster)
        return await said(
            self.port, self.credentials, {"call": "approve", "study": digest, "permit": permit.model_dump_json()}
        )

    async def take_up(self, study: Study, permit: Permit, roster: Roster) -> None:
        """Answer a study from now on."""
        data = await asyncio.to_thread(freeze, self.data(self.name), None, study, self.name)
        self.site.admit(study, permit, roster, LocalWorker(study, data, self.home.secret()))
        self.permits[study.digest()] = permit

    async def _keep(self) -> None:
        while True:
            async with channel(self.port, self.credentials) as open_:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                    await self._connection(open_)
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError
            await asyncio.sleep(0.02)

    async def _connection(self, open_: grpc.aio.Channel) -> None:
        self._call = open_.stream_stream(SERVICE + "Connect", Frame.SerializeToString, Frame.FromString)()
        await self._call.write(
            Frame(
                hello=Hello(
                    protocol=PROTOCOL,
                    software=__version__,
                    session=self.session,
                    open=self.end.progress(),
                    about=pack({"methods": {"cox": 1}}),
                )
            )
        )
        first = await self._call.read()
        if not isinstance(first, Frame):
            raise asyncio.CancelledError
        if first.WhichOneof("kind") == "bye":
            self._bye(first)
            return
        outbox = Outbox()
        self.end.connected({p.id: p.received for p in first.welcome.open}, outbox)
        self.connections += 1
        self.changed.set()
        beat_s = first.welcome.heartbeat_ms / 1000
        tasks = [asyncio.ensure_future(w) for w in (self._write(outbox), self._read(), self._beat(outbox, beat_s))]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.end.disconnected(outbox)
            self._call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.changed.set()

    async def _write(self, outbox: Outbox) -> None:
        async for frame in outbox.frames():
            if self._spent():
                return
            await self._call.write(frame)

    async def _read(self) -> None:
        while isinstance(frame := await self._call.read(), Frame):
            if frame.WhichOneof("kind") == "bye":
                self._bye(frame)
                return
            if self._spent():
                return
            self.end.receive(frame)

    def _spent(self) -> bool:
        if self.cut_after is None:
            return False
        self.cut_after -= 1
        if self.cut_after > 0:
            return False
        self.cut_after = None
        return True

    async def _beat(self, outbox: Outbox, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            outbox.put(Frame(beat=Beat()))

    def _bye(self, frame: Frame) -> None:
        self.byes.append(frame.bye.rule)
        self.changed.set()

    async def _handle(self, tree: Any) -> Any:
        try:
            return await self._answer(tree)
        except SlotLost:
            return {"kind": "slot-lost"}
        except UnisonoError as error:
            return {"kind": "error", "error": error.to_dict()}
        finally:
            self.changed.set()

    async def _answer(self, tree: Any) -> Any:
        if tree["to"] == "exchange":
            message = request_from(tree["message"])
            self.answered[message.phase] += 1
            return answer_tree(await asyncio.to_thread(self.site.answer, message))
        if tree["to"] == "offer":
            digest = load(json.loads(tree["study"])).digest()
            self.offers[digest] = tree
            if self.approving:
                errand = asyncio.ensure_future(self.approve(digest))
                self._errands.add(errand)
                errand.add_done_callback(self._errands.discard)
        elif tree["to"] == "state":
            self.states.append(tree["state"])
            if tree["state"] in ("withdrawn", "cancelled"):
                self.site.withdraw(tree["study"])
        elif tree["to"] == "result":
            self.results[tree["study"]] = {name: bytes(content) for name, content in tree["files"].items()}
        return {"kind": "nothing"}


@dataclass
class Net:
    """A coordinator and those who joined it."""

    folder: Path
    home: CoordinatorHome
    coordinator: Coordinator
    port: int
    researcher: Credentials
    operator: Credentials
    identity: Identity
    sites: dict[str, Client] = field(default_factory=dict)

    @classmethod
    async def open(cls, folder: Path, sites: tuple[str, ...] = SITES, *, dial: bool = True, **settings: Any) -> Net:
        """Start the coordinator; let a researcher, an operator and the sites join. dial: the sites connect."""
        home = coordinator_home(folder / "centre", **settings)
        identity = Identity.generate()
        researcher = credentials(home, "researcher", "rossi", member=identity)
        operator = credentials(home, "operator", "ops", member=Identity.generate())
        coordinator = Coordinator(home)
        port = await coordinator.start()
        home.keep(coordinator.settings.model_copy(update={"listen": f"127.0.0.1:{port}"}))
        net = cls(folder, home, coordinator, port, researcher, operator, identity)
        for name in sites:
            net.join(name)
        if dial:
            for client in net.sites.values():
                client.start()
        return net

    def join(self, name: str) -> Client:
        """A site joins."""
        home = Home(self.folder / name)
        home.make()
        given = credentials(self.home, "site", name, member=home.identity())
        self.sites[name] = Client(name, self.port, given, home)
        return self.sites[name]

    async def close(self) -> None:
        """Everybody stops."""
        for client in self.sites.values():
            await client.stop()
        await self.coordinator.stop()

    async def restart(self) -> None:
        """The coordinator stops, and starts again from its folder."""
        await self.coordinator.stop()
        self.coordinator = Coordinator(self.home)
        await self.coordinator.start()

    async def submit(self, study: Study, sites: tuple[str, ...] = SITES) -> str:
        """The study's digest, once it is submitted."""
        found = await ok(
            self.port,
            self.researcher,
            call="submit",
            document=study.model_dump_json(),
            signature=StudySignature.make(study, "rossi", self.identity).to_tree(),
            sites=list(sites),
        )
        return str(found["study"])

    async def until(self, digest: str, *states: str, seconds: float = 60.0) -> dict[str, Any]:
        """The study's status, once it is in one of these states."""
        async with asyncio.timeout(seconds):
            async for seen in watched(self.port, self.researcher, digest):
                if seen["state"]["state"] in states:
                    return dict(seen["state"])
        raise AssertionError(f"it ended otherwise: {await self.status(digest)}")

    async def status(self, digest: str) -> dict[str, Any]:
        """Where a study stands."""
        return dict(await ok(self.port, self.researcher, call="status", study=digest))

    async def files(self, digest: str) -> dict[str, bytes]:
        """The results."""
        found = await ok(self.port, self.researcher, call="result", study=digest)
        return {name: await self.file(digest, name, about["size"]) for name, about in found["files"].items()}

    async def file(self, digest: str, name: str, size: int) -> bytes:
        """One file of the results, fetched in pieces."""
        content = b""
        while len(content) < size:
            piece = await ok(self.port, self.researcher, call="result", study=digest, file=name, offset=len(content))
            content += bytes(piece["data"])
        return content

    def log(self) -> list[dict[str, Any]]:
        """The coordinator's log."""
        return [json.loads(line) for line in self.home.log.read_text("utf-8").splitlines()]


@contextlib.asynccontextmanager
async def net(folder: Path, sites: tuple[str, ...] = SITES, **settings: Any) -> AsyncIterator[Net]:
    """A `Net`, closed at the end."""
    opened = await Net.open(folder, sites, **settings)
    try:
        yield opened
    finally:
        await opened.close()
