"""The service: one port, gRPC over mutual TLS, for sites' streams, for joining, and for calls (`doors`); what it opens, and closes in
the opposite order; who is told of what changes.

gRPC takes TLS 1.2 and 1.3 and lets no Python program raise the floor (its C core's default is 1.2); both of our ends then agree on 1.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from unisono.errors import NetworkError, UnisonoError
from unisono.methods.registry import methods
from unisono.network.coordinator.calls import Calls, Service, member_tree
from unisono.network.coordinator.certificate import ServerCertificate
from unisono.network.coordinator.course import stopping
from unisono.network.coordinator.doors import Doors
from unisono.network.coordinator.home import CoordinatorHome, Settings
from unisono.network.coordinator.marks import Marks
from unisono.network.coordinator.monitor import Monitor, Parts
from unisono.network.coordinator.sites import Sites
from unisono.network.coordinator.store import Store
from unisono.network.coordinator.studies import Studies
from unisono.network.enrolment.invitations import Invitations
from unisono.network.enrolment.members import Members
from unisono.network.enrolment.renewals import Renewals
from unisono.network.library import grpc_
from unisono.network.link import Restarted
from unisono.network.log import Listener as LogListener
from unisono.network.log import Log, both, nobody
from unisono.network.monitoring.address import chosen
from unisono.network.monitoring.listener import Listener
from unisono.network.stopping import asked_by_signals
from unisono.network.wire.parcel import MOST_CHUNK_BYTES

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[bytes, bytes]

FRAME_BYTES = MOST_CHUNK_BYTES + 64 * 1024
"""The largest message that is taken: a chunk with its frame, a call."""
_IDLE_MS = 60_000
_STOP_S = 2.0
_PARTING_S = 1.0


def utc_now() -> datetime:
    """The service's clock."""
    return datetime.now(UTC)


class Coordinator:
    """One coordinator: `start` it, and `stop` it. Both in one event loop, which is the service's.

    metrics: where metrics and health are shown, in the place of the setting (`NetworkError` unless on loopback). listener: is told the log's events.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        *,
        clock: Callable[[], datetime] = utc_now,
        metrics: str = "",
        listener: LogListener = nobody,
    ) -> None:
        self.home = home
        self.settings: Settings = home.settings()
        self.clock = clock
        self.port = 0
        self._errands: set[asyncio.Task[None]] = set()
        self._rosters: dict[str, asyncio.Task[None]] = {}
        self._metrics = chosen(metrics, self.settings.metrics)
        self._listener = listener
        self._monitor = Monitor()

    async def start(self) -> int:
        """Listen; go on with what a restart interrupted. The port. `NetworkError` if it cannot be listened on, `StorageError`
        if another coordinator serves this folder; nothing is then left open."""
        async with AsyncExitStack() as opened:
            await self._open(opened)
            self._opened = opened.pop_all()
        self._log.write("serving", listen=self.settings.listen, port=self.port)
        return self.port

    async def _open(self, opened: AsyncExitStack) -> None:
        """Everything, in the order opposite to that in which `opened` closes it."""
        home, limits = self.home, self.settings.limits
        methods()  # imported now, and not while the first study is submitted
        # As in the embedded engine: sums must not depend on how many threads happen to be free.
        opened.callback(threadpool_limits(limits=1).restore_original_limits)
        self._log = Log(home.log, self.clock, both(self._monitor.tally, self._listener))
        opened.callback(self._log.close)
        self._store = Store(home.store)
        opened.callback(self._store.close)
        self._members = Members(home.members)
        opened.callback(self._members.close)
        self._invitations = Invitations(home.invitations)
        opened.callback(self._invitations.close)
        self._renewals = Renewals(home.renewals)
        opened.callback(self._renewals.close)
        opened.push_async_callback(self._end_errands)
        self.certificate = ServerCertificate(home, self._log, self.clock)
        self._errand(self.certificate.keep())
        self.sites = Sites(self.settings.grace_s, limits.message_bytes, self._site_changed)
        opened.callback(self.sites.close)
        observed = self._monitor.steps.see
        self.marks = Marks(
            self._store,
            self._log,
            lambda name: self._members.find(name).identity,
            self._site_restored,
            self._rolled_back,
        )
        self.sites.heard = self.marks.heard
        self.studies = Studies(
            home, self._store, self.sites, self._log, self.clock, limits, observed, self.marks.opened
        )
        self.doors = Doors(self.settings, self._members, self.sites, self.marks, self._log, self._now)
        await self._monitored(opened)
        server = self._listening()
        opened.push_async_callback(server.stop, _STOP_S)
        opened.push_async_callback(self.studies.stop)
        self.doors.calls = Calls(
            Service(
                self.studies,
                self.sites,
                self._members,
                self._invitations,
                self._renewals,
                home.authority(),
                self.settings.address or f"{self.settings.hosts[0]}:{self.port}",
                self.clock,
                self._members_changed,
                self._revoked,
            )
        )
        await server.start()
        self.studies.start()

    async def stop(self) -> None:
        """Say good-bye to every site, close every journal, and listen no more. What ran goes on at the next start."""
        for stream in list(self.doors.streams):
            stream.close(stopping())
        self._monitor.is_stopping = True
        self._log.write("stopping", studies=self.studies.course.running, calls=self.doors.live.total())
        await self._opened.aclose()

    async def _monitored(self, opened: AsyncExitStack) -> None:
        """Show metrics and health, where they are asked for; until everything that was opened after them is closed."""
        if self._metrics is not None:
            parts = Parts(
                self.home,
                self.settings.name,
                self._store,
                self._members,
                self.sites,
                self.studies,
                self._log,
                self.clock,
                lambda: len(self.doors.streams),
                self.doors.live.total,
            )
            shown = Listener(self._monitor.shown(parts), self._log)
            await shown.start(self._metrics)
            opened.push_async_callback(shown.stop)

    def _now(self) -> datetime:
        return self.clock()

    def late(self) -> None:
        """It was to stop, and has not in time: say so. From any thread."""
        self._log.write("stop-late")

    async def _end_errands(self) -> None:
        for errand in list(self._errands):
            errand.cancel()
        await asyncio.gather(*self._errands, return_exceptions=True)
        self._log.write("stopped")

    def _listening(self) -> Any:
        grpc, settings = grpc_(), self.settings
        limits, beat_ms = settings.limits, round(settings.heartbeat_s * 1000)
        options = [
            ("grpc.max_receive_message_length", FRAME_BYTES),
            ("grpc.max_send_message_length", -1),  # results; who asked has a limit of their own
            ("grpc.max_concurrent_streams", limits.per_peer),
            ("grpc.max_allowed_incoming_connections", limits.connections),
            ("grpc.server_handshake_timeout_ms", round(limits.handshake_s * 1000)),
            ("grpc.max_connection_idle_ms", _IDLE_MS),  # connected, and asks for nothing
            ("grpc.keepalive_time_ms", max(3 * beat_ms, 1000)),  # frees what a dead machine left behind
            ("grpc.keepalive_timeout_ms", max(beat_ms, 1000)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.compression_enabled_algorithms_bitset", 1),  # none: nothing can grow after its size was checked
            ("grpc.so_reuseport", 0),  # a second coordinator on the port is an error, not a coin to toss
        ]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=limits.streams)
        server.add_generic_rpc_handlers((self.doors.handler(),))
        try:
            self.port = server.add_secure_port(settings.listen, self.certificate.secure(grpc))
        except RuntimeError as error:
            self.port = 0
            raise NetworkError(
                f"The coordinator cannot listen on {settings.listen}.",
                rule="listen",
                remedy="Another program listens there, or the address is not this machine's. Change `listen` in "
                "coordinator.json.",
            ) from error
        return server

    # -- what changes -------------------------------------------------------------------------------------------------

    def _site_changed(self, name: str) -> None:
        self.studies.course.site_changed(name)
        if self.sites.line(name).end.is_online:
            self._tell_roster(name)

    def _site_restored(self, site: str, made: str) -> None:
        self.studies.site_restored(site, made)

    def _rolled_back(self, site: str) -> None:
        self.studies.rolled_back(site)

    def _members_changed(self) -> None:
        for line in self.sites.lines():
            if line.end.is_online:
                self._tell_roster(line.name)

    def _tell_roster(self, name: str) -> None:
        """Who the members are now; a site that misses it is told when it comes back. What was still on its way says no news: a
        link that breaks again and again must not gather open requests."""
        members = [member_tree(member) for member in self._members.all()]
        tree = {"to": "roster", "roster": self._members.roster().to_tree(), "members": members}

        async def tell() -> None:
            try:
                await self.sites.ask(name, tree)
            except (Restarted, UnisonoError):
                self._log.write("roster-missed", site=name)

        if name in self._rosters:
            self._rosters[name].cancel()
        self._rosters[name] = self._errand(tell())

    def _errand(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Something that is done beside everything else, until the service ends."""
        task = asyncio.ensure_future(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    def _revoked(self, marks: tuple[str, ...]) -> None:
        """Live streams of these certificates end at once."""
        self._log.write("revoked", fingerprints=list(marks))
        for stream in list(self.doors.streams):
            if stream.fingerprint in marks:
                try:
                    self.doors.checked(stream.peer, ("site",))
                except UnisonoError as error:
                    stream.close(error)
                    stream.leave()


async def serve(
    home: CoordinatorHome,
    ready: Callable[[int], None] = lambda _: None,
    *,
    metrics: str = "",
    listener: LogListener = nobody,
) -> None:
    """Serve until SIGTERM or SIGINT, and then stop in order (`unisono.network.stopping`). ready: called with the port."""
    coordinator = Coordinator(home, metrics=metrics, listener=listener)
    with asked_by_signals(coordinator.late) as over:
        ready(await coordinator.start())
        try:
            await over.wait()
        finally:
            await coordinator.stop()
            # gRPC's own tasks end some turns of the loop later; cancelled by the loop's end, they would print a traceback.
            others = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
            if others:
                await asyncio.wait(others, timeout=_PARTING_S)
