"""The agent process of a hospital: its line to the coordinator, the studies that it answers, and the socket for its own commands.

A decision in the inbox becomes what the site does, and is told to the coordinator: now, or as soon as there is a connection.
After a restart the agent takes up what is approved before it dials. It ends on request: the answer that is being made is
finished and sent, keys are forgotten, files closed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from unisono.engines.environment import environment
from unisono.errors import EnrolmentError, NetworkError, ProtocolError, UnisonoError
from unisono.federation.tree import Tree
from unisono.methods.registry import methods
from unisono.network import pki
from unisono.network.agent import control
from unisono.network.agent.channel import grpc_
from unisono.network.agent.dial import Line, Pace
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.inbox import Entry, Inbox
from unisono.network.agent.requests import Requests
from unisono.network.agent.studies import MakeWorker, Studies, make_worker
from unisono.network.link import SiteEnd
from unisono.network.log import Clock, Listener, Log, nobody
from unisono.network.pki import Credentials
from unisono.site.agent import Site, utc_now
from unisono.site.workers.limits import check_platform

_LOOK_AGAIN = timedelta(hours=6)
"""How often the certificate's age is looked at, at least: a machine that slept, or whose clock was set, is noticed."""
_TRY_AGAIN_S = 600.0


@dataclass(frozen=True)
class Options:
    """How to serve. farewell_s: how long the last answers may take to be sent when the agent is stopped."""

    pace: Pace = field(default_factory=Pace)
    clock: Clock = utc_now
    make_worker: MakeWorker = make_worker
    listener: Listener = nobody
    proxy: str | None = None
    farewell_s: float = 10.0


async def serve(folder: AgentFolder, stop: asyncio.Event, options: Options | None = None) -> None:
    """Be a site's agent until `stop` is set. Raises what keeps it from beginning: not joined, another agent, a damaged file; a
    coordinator that is away is waited for."""
    grpc_()
    check_platform()
    folder.settings()  # says "join first" before anything is made
    with folder.held():
        agent = Agent(folder, options or Options())
        try:
            await agent.run(stop)
        finally:
            agent.close()


class Agent:
    """One site's agent, in this process. The folder is held by the caller."""

    def __init__(self, folder: AgentFolder, options: Options) -> None:
        self._folder = folder
        self._options = options
        self._settings = folder.settings()
        self._log = Log(folder.log, options.clock, options.listener)
        self._credentials = folder.credentials()
        name, home = self._settings.name, folder.home
        policy = folder.policy()
        self._inbox = Inbox(folder.inbox)
        self._site = Site(name, folder.path, home.identity(), policy, clock=options.clock)
        self._studies = Studies(folder, self._site, self._inbox, self._log, options.make_worker)
        self._requests = Requests(name, folder, self._inbox, self._studies, self._log, options.clock)
        self._requests.offered = lambda _: self._news.set()
        self._end = SiteEnd(self._requests, secrets.token_hex(16))
        proxy = options.proxy or self._settings.proxy
        self._line = Line(
            self._settings.address, self._credentials, proxy, self._end, self._about, self._observed, options.pace
        )
        self._news = asyncio.Event()
        self._telling = asyncio.Lock()

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
                return
            await taking
            kept = asyncio.ensure_future(self._line.keep())
            tasks = [kept, asyncio.ensure_future(self._tell_always()), asyncio.ensure_future(self._renew_always())]
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # none of them ends by itself: a fault of ours is not hidden
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
        self._log.write("fault", kind=type(context.get("exception")).__name__)

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
        versions = {name: kind.version for name, kind in methods().items()}
        free = shutil.disk_usage(self._folder.path).free
        return {
            "methods": versions,
            "environment": environment(),
            "readiness": {"cpus": os.cpu_count() or 1, "disk_free_bytes": free, "studies": len(self._studies.taken_up)},
        }

    def _observed(self, event: str, facts: dict[str, Any]) -> None:
        self._log.write(event, **facts)
        if event == "connected":
            self._news.set()

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
                self._log.refused("not-told", error)

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
                await asyncio.sleep(_TRY_AGAIN_S)

    async def _renew(self, now: datetime) -> None:
        """A new certificate for the same key, checked; and a new connection with it."""
        key = pki.private_key_of(self._credentials.key_pem)
        csr = pki.csr(key, "site", self._settings.name).public_bytes(Encoding.PEM).decode("ascii")
        answer = await self._line.call({"call": "renew", "csr": csr})
        chain = answer.get("certificate") if isinstance(answer, dict) else None
        if not isinstance(chain, str):
            raise EnrolmentError(
                "The coordinator's answer holds no certificate.",
                rule="renewal",
                remedy="Ask its operator; the present certificate goes on until it expires.",
            )
        found = Credentials(self._credentials.key_pem, chain.encode(), self._credentials.ca_pem).checked()
        peer, old = pki.peer_of(found.chain_pem), pki.peer_of(self._credentials.chain_pem)
        if (peer.role, peer.name) != (old.role, old.name) or peer.not_after <= now:
            raise EnrolmentError(
                "The certificate that came is for somebody else, or expired already.",
                rule="renewal",
                remedy="Ask the coordinator's operator; the present certificate goes on until it expires.",
            )
        if peer.not_after <= old.not_after:
            raise EnrolmentError(
                "The coordinator gave no later certificate: its authority's own time ends.",
                rule="renewal",
                remedy="Ask the coordinator's operator for a new authority before then.",
            )
        found.save(self._folder.tls)
        self._credentials = found
        self._log.write("renewed", fingerprint=peer.fingerprint, expires=peer.not_after.isoformat())
        self._line.again(found)


_CALLS = {"approved": "approve", "refused": "refuse", "withdrawn": "withdraw"}
