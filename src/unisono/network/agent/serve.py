"""The agent process of a hospital: its line to the coordinator, the studies that it answers, and the socket for its own commands.

A decision in the inbox becomes what the site does, and is told to the coordinator: now, or as soon as there is a connection.
After a restart the agent takes up what is approved before it dials. It ends on request: the answer that is being made is
finished and sent, keys are forgotten, files closed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from unisono.errors import NetworkError, ProtocolError, UnisonoError
from unisono.federation.tree import Tree
from unisono.network import pki, renewing
from unisono.network.agent import control
from unisono.network.agent.about import about
from unisono.network.agent.dial import Line, Pace
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.inbox import Entry, Inbox
from unisono.network.agent.limits import limits_of
from unisono.network.agent.marks import Marks
from unisono.network.agent.monitor import Answers, Monitor, Parts
from unisono.network.agent.requests import Requests
from unisono.network.agent.studies import MakeWorker, Studies, make_worker
from unisono.network.clock import LaterClock
from unisono.network.library import grpc_
from unisono.network.link import SiteEnd
from unisono.network.log import Clock, Listener, Log, both, nobody
from unisono.network.monitoring.address import Loopback, chosen
from unisono.network.monitoring.listener import Listener as Monitoring
from unisono.network.stopping import asked_by_signals
from unisono.site import packages
from unisono.site.agent import Site, utc_now
from unisono.site.workers.limits import check_platform

_LOOK_AGAIN = timedelta(hours=6)
"""How often the certificate's age is looked at, at least: a machine that slept, or whose clock was set, is noticed."""
_TRY_AGAIN_S = 600.0


@dataclass(frozen=True)
class Options:
    """How to serve. make_worker: None for a process of its own. farewell_s: how long the last answers may take to be sent when the
    agent is stopped. metrics: where metrics and health are shown, in the place of the setting."""

    pace: Pace = field(default_factory=Pace)
    clock: Clock = utc_now
    make_worker: MakeWorker | None = None
    listener: Listener = nobody
    proxy: str | None = None
    farewell_s: float = 10.0
    metrics: str = ""


async def serve_until_signalled(folder: AgentFolder, options: Options | None = None) -> None:
    """As `serve`, until SIGTERM or SIGINT (`unisono.network.stopping`)."""
    how = options or Options()

    def late() -> None:
        Log(folder.log, how.clock, how.listener).write("stop-late")

    with asked_by_signals(late) as stop:
        await serve(folder, stop, how)


async def serve(folder: AgentFolder, stop: asyncio.Event, options: Options | None = None) -> None:
    """Be a site's agent until `stop` is set. Raises what keeps it from beginning: not joined, another agent, a damaged file; a
    coordinator that is away is waited for."""
    grpc_()
    check_platform()
    options = options or Options()
    metrics = chosen(options.metrics, folder.settings().metrics)  # says "join first" before anything is made
    with folder.held():
        agent = Agent(folder, options)
        try:
            async with agent.monitored(metrics):
                await agent.run(stop)
        finally:
            agent.close()


class Agent:
    """One site's agent, in this process. The folder is held by the caller."""

    def __init__(self, folder: AgentFolder, options: Options) -> None:
        self._folder = folder
        self._options = options
        self._settings = folder.settings()
        installed = packages.activate(folder.path)  # before anything asks for methods or models
        make = options.make_worker or partial(make_worker, packages=installed, limits=limits_of(folder.path))
        self._monitor = Monitor()
        self._log = Log(folder.log, options.clock, both(self._monitor.hear, options.listener))
        self._credentials = folder.credentials()
        name, home = self._settings.name, folder.home
        policy = folder.policy()
        self._inbox = Inbox(folder.inbox)
        self._later = LaterClock(options.clock)
        self._site = Site(name, folder.path, home.identity(), policy, clock=options.clock, permits_until=self._later)
        self._clock_trouble: NetworkError | None = None
        self._studies = Studies(folder, self._site, self._inbox, self._log, make)
        self._requests = Requests(name, folder, self._inbox, self._studies, self._log, options.clock)
        self._requests.offered = lambda _: self._news.set()
        self._answers = Answers(self._requests)
        self._end = SiteEnd(self._answers, secrets.token_hex(16))
        proxy = options.proxy or self._settings.proxy
        self._line = Line(
            self._settings.address,
            self._credentials,
            proxy,
            self._end,
            self._about,
            self._observed,
            options.pace,
            options.clock,
            Marks(name, self._site.state.lineage, self._log),
        )
        self._news = asyncio.Event()
        self._telling = asyncio.Lock()

    @asynccontextmanager
    async def monitored(self, address: Loopback | None) -> AsyncIterator[None]:
        """Show metrics and health meanwhile, if anywhere. `NetworkError` if they cannot be shown there."""
        if address is None:
            yield
            return
        parts = Parts(
            self._folder,
            self._settings.name,
            self._line,
            self._end,
            self._answers,
            self._inbox,
            self._studies,
            self._log,
            self._options.clock,
        )
        shown = Monitoring(self._monitor.shown(parts), self._log)
        await shown.start(address)
        try:
            yield
        finally:
            await shown.stop()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        self._log.write("started", site=self._settings.name, coordinator=self._settings.address, pid=os.getpid())
        asyncio.get_running_loop().set_exception_handler(self._fault)
        server = await control.listen(self._folder.socket, self._commanded)
        stopped = asyncio.ensure_future(stop.wait())
        taking = asyncio.ensure_future(asyncio.to_thread(self._studies.take_up_all))
        tasks: list[asyncio.Task[None]] = []
        try:
            await asyncio.wait([taking, stopped], return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                self._stopping()
                return
            await taking
            kept = asyncio.ensure_future(self._line.keep())
            tasks = [kept, asyncio.ensure_future(self._tell_always()), asyncio.ensure_future(self._renew_always())]
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # none of them ends by itself: a fault of ours is not hidden
            self._stopping()
            await self._farewell(kept)
        finally:
            server.close()
            self._folder.socket.unlink(missing_ok=True)
            stopped.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # Last: while there is a connection, a study without its worker would be refused rather than waited for.
            await asyncio.to_thread(self._studies.close)
            await asyncio.wait([taking])
            self._log.write("stopped-serving", site=self._settings.name)

    def _fault(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What went wrong in a task that nobody waits for: its kind, without the values that a traceback could show."""
        self._log.write("fault", to="", kind=type(context.get("exception")).__name__)

    def _stopping(self) -> None:
        self._monitor.is_stopping = True
        self._log.write("stopping", answers=self._requests.busy, within_s=self._options.farewell_s)

    async def _farewell(self, kept: asyncio.Task[None]) -> None:
        """What is being answered is finished and sent, within bounds; then the connection ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.farewell_s):
                await self._requests.idle()
                self._line.stop()
                await asyncio.shield(kept)

    def close(self) -> None:
        """End the workers, forget key material, close the files."""
        self._end.close()
        self._studies.close()
        self._requests.close()
        self._site.close()
        self._inbox.close()
        self._log.close()

    # -- what the line needs ------------------------------------------------------------------------------------------

    def _about(self) -> Tree:
        """For the hello: versions, and what this machine has."""
        return about(self._folder, len(self._studies.taken_up), self._options.clock())

    def _observed(self, event: str, facts: dict[str, Any]) -> None:
        self._log.write(event, **facts)
        if event == "connected":
            self._news.set()
            self._clock_trouble = self._later.hear(facts["clock_skew_s"])
            if self._clock_trouble is not None:
                self._log.refused("clock-wrong", self._clock_trouble)

    # -- decisions ----------------------------------------------------------------------------------------------------

    async def _tell_always(self) -> None:
        """Tell the coordinator every decision that it does not know: at each connection, and when there is a new one."""
        while True:
            await self._news.wait()
            await self._line.online()
            self._news.clear()
            try:
                for entry in self._inbox.untold():
                    await self._tell(entry)
            except UnisonoError as error:  # a full disk, say: told again at the next connection
                self._log.refused("not-told", error, study="", decision="")

    async def _tell(self, entry: Entry) -> UnisonoError | None:
        """One decision; the error if the coordinator does not take it or is away. It is told again at the next connection."""
        body: dict[str, Any] = {"call": _CALLS[entry.decision], "study": entry.digest}
        body |= {"permit": entry.permit} if entry.decision == "approved" else {"why": entry.why}
        async with self._telling:
            try:
                await self._line.call(body)
            except UnisonoError as error:
                self._log.refused("not-told", error, study=entry.digest, decision=entry.decision)
                if not isinstance(error, NetworkError):
                    self._inbox.trouble(entry.digest, f"The coordinator did not take the decision: {error.what}")
                return error
        self._inbox.told(entry)
        self._log.write("told", study=entry.digest, decision=entry.decision)
        return None

    async def _commanded(self, command: dict[str, Any]) -> dict[str, Any]:
        """A command over the socket."""
        known: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "status": self._status,
            "decided": self._decided,
        }
        do = str(command.get("do"))
        if do not in known:
            raise ProtocolError(
                f"The agent has no command {do[:40]!r}.",
                rule="message-format",
                remedy="Agent and command are of different versions of Unisono: start the agent anew.",
            )
        return await known[do](command)

    async def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        trouble = self._line.trouble
        return {
            "name": self._settings.name,
            "coordinator": self._settings.address,
            "connected": self._line.is_online,
            "trouble": None if trouble is None else trouble.to_dict(),
            "clock": None if self._clock_trouble is None else self._clock_trouble.to_dict(),
            "studies": list(self._studies.taken_up),
            "pid": os.getpid(),
        }

    async def _decided(self, command: dict[str, Any]) -> dict[str, Any]:
        """The steward decided: do it here, then tell the coordinator. An approval that cannot be kept is taken back."""
        entry = self._inbox.get(str(command.get("study")))
        if entry is None or entry.decision == "open":
            return {"told": False, "trouble": None}
        self._log.write("decided", study=entry.digest, id=entry.id, decision=entry.decision)
        if entry.decision == "approved":
            try:
                await asyncio.to_thread(self._studies.take_up, entry)
            except UnisonoError as error:
                self._log.refused("not-taken-up", error, study=entry.digest)
                self._inbox.decide(entry.digest, "open", self._options.clock())
                raise
        else:
            await asyncio.to_thread(self._studies.stop, entry.digest)
        trouble = await self._tell(entry)
        return {"told": trouble is None, "trouble": None if trouble is None else trouble.to_dict()}

    # -- the certificate ----------------------------------------------------------------------------------------------

    async def _renew_always(self) -> None:
        """In the last third of the certificate's life, ask for the next one."""
        while True:
            certificate = pki.certificate_of(self._credentials.chain_pem)
            now = self._options.clock()
            if not pki.expires_soon(certificate, now):
                life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
                due = certificate.not_valid_after_utc - life / 3 - now
                await asyncio.sleep(max(min(due, _LOOK_AGAIN).total_seconds(), 1.0))
                continue
            await self._line.online()
            try:
                await self._renew(now)
            except UnisonoError as error:
                self._log.refused("not-renewed", error, expires=certificate.not_valid_after_utc.isoformat())
                pending = error.rule == renewing.PENDING  # a person carries files
                await asyncio.sleep(_LOOK_AGAIN.total_seconds() if pending else _TRY_AGAIN_S)

    async def _renew(self, now: datetime) -> None:
        """A new certificate for the same key, checked; and a new connection with it."""
        answer = await self._line.call({"call": "renew", **renewing.body(self._credentials)})
        found = renewing.renewed(self._credentials, answer, now)
        peer = pki.peer_of(found.chain_pem)
        found.save(self._folder.tls)
        self._credentials = found
        self._log.write("renewed", fingerprint=peer.fingerprint, expires=peer.not_after.isoformat())
        self._line.again(found)


_CALLS = {"approved": "approve", "refused": "refuse", "withdrawn": "withdraw"}
