"""The doors of the service: what each gRPC call is, who is asking, and what they are told when they may not.

Every call begins with who is asking: the certificate that TLS proved, its role, its time, whether it was revoked, and whether it
is a member's. Live streams are checked again with every heartbeat, and end at once when a certificate is revoked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from unisono.errors import NetworkError, UnisonoError
from unisono.federation.tree import Tree, pack
from unisono.network import pki
from unisono.network.coordinator.calls import Calls
from unisono.network.coordinator.home import Settings
from unisono.network.coordinator.marks import Marks
from unisono.network.coordinator.sites import Sites
from unisono.network.coordinator.stream import Stream
from unisono.network.enrolment.members import Members
from unisono.network.library import grpc_
from unisono.network.log import Log
from unisono.network.pki import Peer, Role
from unisono.network.preflight.service import Probes
from unisono.network.wire.envelope import RULE, command_of
from unisono.network.wire.unisono_pb2 import Packed

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[bytes, bytes]

SERVICE = "unisono.wire.v1.Coordinator"


class Doors:
    """The calls of one service. streams: the sites' that are live; live: calls that are open, by certificate; calls: what answers
    commands, set before the service listens."""

    calls: Calls

    def __init__(
        self,
        settings: Settings,
        members: Members,
        sites: Sites,
        marks: Marks,
        log: Log,
        clock: Callable[[], datetime],
    ) -> None:
        self.streams: set[Stream] = set()
        self.live: Counter[str] = Counter()
        self._settings = settings
        self._members = members
        self._sites = sites
        self._marks = marks
        self._log = log
        self._clock = clock
        self._probes = Probes(settings.heartbeat_s)

    def handler(self) -> Any:
        """For the gRPC server."""
        grpc = grpc_()
        handlers = {
            "Connect": grpc.stream_stream_rpc_method_handler(self._connect),
            "Join": grpc.unary_unary_rpc_method_handler(self._join),
            "Probe": grpc.stream_stream_rpc_method_handler(self._probe),
            "Call": grpc.unary_unary_rpc_method_handler(self._call),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    # -- who is asking ------------------------------------------------------------------------------------------------

    def _peer(self, context: Context, *roles: Role) -> Peer:
        """The member (or invited newcomer) at the other end. `UnisonoError` if the certificate does not open this door."""
        found = list(context.auth_context().get("x509_pem_cert") or ())
        if not found:
            raise NetworkError("No certificate came.", rule="certificate-missing", remedy="Join first.")
        peer = pki.peer_of(bytes(found[0]))
        self.checked(peer, roles)
        return peer

    def checked(self, peer: Peer, roles: tuple[Role, ...]) -> None:
        if "invited" in roles:  # nobody's yet
            pki.check(peer, self._clock(), self._members.revoked(), roles)
        else:
            self._members.check(peer, self._clock(), roles)

    @contextmanager
    def _counted(self, peer: Peer) -> Iterator[None]:
        """One more call of this certificate, if it may have one."""
        if self.live[peer.fingerprint] >= self._settings.limits.per_peer:
            raise NetworkError(
                f"{peer.name!r} has {self._settings.limits.per_peer} calls open.",
                rule="calls-at-once",
                remedy="Wait until some have ended.",
            )
        self.live[peer.fingerprint] += 1
        try:
            yield
        finally:
            self.live[peer.fingerprint] -= 1
            if not self.live[peer.fingerprint]:
                del self.live[peer.fingerprint]

    # -- gRPC ---------------------------------------------------------------------------------------------------------

    async def _connect(self, _: Any, context: Context) -> None:
        grpc = grpc_()
        try:
            peer = self._peer(context, "site")
            with self._counted(peer):
                await self._site(peer, context)
        except UnisonoError as error:
            self._log.write("refused", call="connect", by="", rule=error.rule)
            why = f"{error.what} {error.remedy}"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, why, ((RULE, error.rule),))
        except Exception as error:  # noqa: BLE001  (the other end vanished; or a fault of ours, which ends no other stream)
            self._log.write("connection-broken", call="connect", kind=type(error).__name__)

    async def _site(self, peer: Peer, context: Context) -> None:
        def still() -> None:
            self.checked(peer, ("site",))

        settings = self._settings
        stream = Stream(context, peer, self._sites, self._marks, self._log, self._clock, settings.heartbeat_s, still)
        self.streams.add(stream)
        try:
            await stream.serve(settings.limits.handshake_s)
        finally:
            self.streams.discard(stream)

    async def _probe(self, _: Any, context: Context) -> None:
        """What preflight measures with. It may be the last that somebody who never joins does here."""
        try:
            peer = self._peer(context, "invited", "site")
            if peer.role == "site":
                self.checked(peer, ("site",))  # a member still
            with self._counted(peer):
                await self._probes.serve(peer, context.read, context.write)
        except UnisonoError as error:
            self._log.write("refused", call="probe", by="", rule=error.rule)
            await context.abort(grpc_().StatusCode.PERMISSION_DENIED, f"{error.what} {error.remedy}")
        except Exception as error:  # noqa: BLE001  (as in a stream)
            self._log.write("connection-broken", call="probe", kind=type(error).__name__)

    async def _join(self, request: bytes, context: Context) -> bytes:
        async def joined(peer: Peer, tree: Tree) -> Tree:
            return self.calls.join(peer, tree)

        return await self._answered("join", request, context, ("invited",), joined)

    async def _call(self, request: bytes, context: Context) -> bytes:
        return await self._answered(
            "call",
            request,
            context,
            ("site", "researcher", "operator"),
            self.calls.answer,
        )

    async def _answered(
        self,
        name: str,
        request: bytes,
        context: Context,
        roles: tuple[Role, ...],
        answer: Callable[[Peer, Tree], Awaitable[Tree]],
    ) -> bytes:
        who = ""
        try:
            peer = self._peer(context, *roles)
            who = peer.name
            with self._counted(peer):
                return _packed({"ok": await answer(peer, command_of(request))})
        except UnisonoError as error:
            self._log.write("refused", call=name, by=who, rule=error.rule)
            return _packed({"error": error.to_dict()})
        except Exception as error:  # noqa: BLE001  (a fault of ours ends the call, not the service)
            self._log.write("fault", call=name, by=who, kind=type(error).__name__)
            return _packed({"error": _fault(error).to_dict()})

    async def _watch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        roles: tuple[Role, ...] = ("site", "researcher", "operator")
        try:
            peer = self._peer(context, *roles)
            with self._counted(peer):
                async for tree in self.calls.watch(peer, command_of(request)):
                    self.checked(peer, roles)
                    yield _packed({"ok": tree})
        except UnisonoError as error:
            self._log.write("refused", call="watch", by="", rule=error.rule)
            yield _packed({"error": error.to_dict()})
        except Exception as error:  # noqa: BLE001  (as in a call)
            self._log.write("fault", call="watch", by="", kind=type(error).__name__)
            yield _packed({"error": _fault(error).to_dict()})


def _packed(tree: Tree) -> bytes:
    return Packed(tree=pack(tree)).SerializeToString()


def _fault(error: Exception) -> NetworkError:
    return NetworkError(
        f"The coordinator could not answer ({type(error).__name__}).",
        rule="coordinator-fault",
        remedy="Ask its operator: the log says when.",
    )
