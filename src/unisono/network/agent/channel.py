"""One gRPC channel to the coordinator: mutual TLS, through an HTTP CONNECT proxy where there is one; and its troubles in words.

The version of TLS is what gRPC and the coordinator agree on: 1.3, and never below 1.2 (gRPC's own floor; it lets no Python
program raise it). Everything that gRPC says of a connection becomes a `NetworkError` with a rule and a remedy here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from unisono.errors import NetworkError, ProtocolError, UnisonoError
from unisono.federation.tree import Tree, unpack
from unisono.network.agent.text import plain
from unisono.network.library import grpc_
from unisono.network.pki import Credentials
from unisono.network.wire.envelope import command
from unisono.network.wire.parcel import MOST_CHUNK_BYTES
from unisono.network.wire.unisono_pb2 import Packed

SERVICE = "/unisono.wire.v1.Coordinator/"
CALL_S = 30.0
"""How long a command (not a message of a sum) may take to be answered."""
Channel = Any
"""A `grpc.aio.Channel`: the library is imported only where it is used."""
_MAX_MESSAGE = MOST_CHUNK_BYTES + 64 * 1024


def open_channel(
    address: str, credentials: Credentials, proxy: str | None = None, most_bytes: int = _MAX_MESSAGE
) -> Channel:
    """A channel to `address` that trusts the federation's authority alone. It connects when it is first used.

    Each has connections of its own: a dead one is not shared with its successor. most_bytes: of one message that comes.
    """
    grpc = grpc_()
    secure = grpc.ssl_channel_credentials(credentials.ca_pem, credentials.key_pem, credentials.chain_pem)
    options: list[tuple[str, Any]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", most_bytes),
        ("grpc.max_send_message_length", _MAX_MESSAGE),
    ]
    if proxy is not None:
        options.append(("grpc.http_proxy", proxy))
    return grpc.aio.secure_channel(address, secure, options=options)


async def send(channel: Channel, method: str, tree: Tree, address: str, timeout_s: float = CALL_S) -> Tree:
    """One command and its answer: ``{ok: ...}`` gives what is in it, ``{error: ...}`` is raised with its own words.
    `NetworkError` if there is no answer, `ProtocolError` if it is none."""
    grpc = grpc_()
    call = channel.unary_unary(
        SERVICE + method, request_serializer=Packed.SerializeToString, response_deserializer=Packed.FromString
    )
    try:
        answer = await call(command(tree), timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise trouble(error.code(), error.details(), address) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # who waits for the answer is to end; else it is the connection that was closed under the call
        raise NetworkError(
            f"The connection to the coordinator at {address} ended before it answered.",
            rule="unreachable",
            remedy="It is opened again, and the command is told again, by itself.",
        ) from None
    found = unpack(answer.tree)
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        raise said(found["error"])
    if not isinstance(found, dict) or "ok" not in found:
        raise ProtocolError(
            "The coordinator's answer to a command cannot be read.",
            rule="message-format",
            remedy="The two ends run different versions of Unisono; install the same one.",
        )
    return found["ok"]


def said(error: dict[str, Any]) -> UnisonoError:
    """The coordinator's refusal in its own words, which a terminal may show."""
    words = {key: plain(value) if isinstance(value, str) else value for key, value in error.items()}
    return UnisonoError.from_dict(words)


def trouble(code: Any, details: str | None, address: str) -> NetworkError:
    """What gRPC says of a call that failed (its status code, its words) as an error a person can act on."""
    grpc, told = grpc_(), plain(details or "", 300)
    if "CERTIFICATE_VERIFY_FAILED" in told and ("expired" in told or "not yet valid" in told):
        return NetworkError(
            f"The certificate of the coordinator at {address} is not valid at this machine's time.",
            rule="certificate-time",
            remedy="Set this machine's clock by a time server (NTP). If it is right, tell the coordinator's operator.",
        )
    if "CERTIFICATE_VERIFY_FAILED" in told or "Hostname Verification" in told or "peer name" in told.lower():
        return NetworkError(
            f"What answers at {address} is not this federation's coordinator: its certificate is not the authority's.",
            rule="untrusted-coordinator",
            remedy="A firewall that opens TLS may stand between: ask for an exemption for this address. Or the address or the "
            "token is another federation's. `unisono site preflight` shows whose certificate answered.",
        )
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return NetworkError(
            f"The coordinator at {address} does not accept this site's certificate: {told or 'no reason given'}",
            rule="certificate-refused",
            remedy="Ask the coordinator's operator whether it was revoked; a new token lets the site join again.",
        )
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return NetworkError(
            f"What answers at {address} does not speak Unisono's protocol.",
            rule="another-service",
            remedy="Check the address and the port; the coordinator may run a much older or newer version.",
        )
    if "http proxy" in told.lower():
        return NetworkError(
            f"The proxy does not let this site through to {address}: {told}",
            rule="proxy-refused",
            remedy="Ask the IT desk to allow HTTP CONNECT to this host and port; a proxy that wants NTLM or Kerberos needs a "
            "relay (docs/preflight.md).",
        )
    return NetworkError(
        f"The coordinator at {address} cannot be reached: {told or str(code)}",
        rule="unreachable",
        remedy="It is tried again by itself. If it stays so: check the address, the firewall (one outbound TCP connection to "
        "this host and port) and the proxy, with `unisono site preflight`. A coordinator also closes connections of "
        "certificates it does not know.",
    )
