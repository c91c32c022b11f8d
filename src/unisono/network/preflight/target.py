"""Whom preflight is about: the coordinator of a token, of a site that has joined, or of a bare address."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from unisono.errors import NetworkError
from unisono.network import pki
from unisono.network.agent.folder import AgentFolder
from unisono.network.enrolment.token import Token
from unisono.network.pki import Credentials

PORT = 443
"""Where nothing else is said: what nearly every firewall lets out."""
_TOKEN = re.compile(r"unisono[0-9]{0,4}\.[A-Za-z0-9_-]{64,}")
_ADDRESS = re.compile(
    r"(?:https://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)(:[0-9]{1,5})?/?"
)


@dataclass(frozen=True)
class Target:
    """host: a name or an address, without brackets. credentials: what proves this site, and says which authority to trust; None
    for a bare address. proxy: what the site was told to use when it joined."""

    host: str
    port: int
    credentials: Credentials | None = field(default=None, repr=False)
    kind: Literal["address", "token", "site"] = "address"
    proxy: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """``host:port``, as gRPC and people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """SHA-256 of the authority's certificate, hexadecimal; empty if it is not known."""
        return pki.fingerprint(pki.certificate_of(self.credentials.ca_pem)) if self.credentials else ""

    @property
    def invites_a_site(self) -> bool:
        """Whether this is the token of a site that is to join."""
        return (
            self.kind == "token"
            and self.credentials is not None
            and pki.peer_of(self.credentials.chain_pem).invites == "site"
        )

    @property
    def is_literal(self) -> bool:
        """Whether the host is an address already, and no name."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


def target_of(text: str, now: datetime, home: Path | None = None) -> Target:
    """The coordinator in a text: a token, or ``host[:port]`` (443 if no port is said). home: the folder of a site; if it has
    joined at this very address, its own certificate is used. `EnrolmentError` for a token that is wrong or expired,
    `NetworkError` for what is neither."""
    joined = "".join(text.split())
    if _TOKEN.fullmatch(joined):
        token = Token.decode(joined, now)
        return _at(token.address, token.credentials(), "token")
    target = _at(text.strip())
    folder = AgentFolder(home) if home is not None else None
    if folder is None or not folder.joined:
        return target
    settings = folder.settings()
    known = _at(settings.address, folder.credentials(), "site", settings.proxy)
    return known if known.address == target.address else target


def _at(
    address: str,
    credentials: Credentials | None = None,
    kind: Literal["address", "token", "site"] = "address",
    proxy: str | None = None,
) -> Target:
    found = _ADDRESS.fullmatch(address)
    port = int(found[3][1:]) if found is not None and found[3] else PORT
    if found is None or not 1 <= port <= 65535:
        raise NetworkError(
            "What was given is neither a token nor an address.",
            rule="preflight-target",
            remedy="Give the operator's token, or the coordinator's address as host:port, for example "
            "coordinator.example.org:443.",
        )
    host = found[1].strip("[]").lower()
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))  # one spelling of each
    return Target(host, port, credentials, kind, proxy)
