"""The coordinator's folder: its settings, its keys, its lists. Mode 0700; private files 0600.

``coordinator.json`` the settings; ``ca.pem`` (and ``ca.key``, which may be kept on another machine); ``tls.key`` and
``tls.pem``; ``members.db`` and ``invitations.db``; ``coordinator.db`` with the studies; ``studies/<id>-<digest12>/`` with
journals and results; ``log.jsonl``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unisono.errors import NetworkError
from unisono.federation.storage import storage, write_whole
from unisono.network import pki
from unisono.network.authority import Authority
from unisono.network.monitoring.address import loopback
from unisono.network.pki import Credentials

SETTINGS = "coordinator.json"
_LISTEN = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


class Limits(BaseModel):
    """What the service takes at most, so that nobody can exhaust it.

    connections: TCP connections at a time, of everybody, those in a handshake too. streams: calls and site streams at a
    time, of everybody; per_peer: of one certificate. handshake_s: seconds for a TLS handshake. message_bytes: one answer
    of a site, whole. studies: that may wait or run at a time; per_researcher: of one researcher; running: that run at a time
    (one that waits for a site which is away lets another run); document_bytes, analyses: of one study.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    connections: int = Field(default=1000, ge=4)
    streams: int = Field(default=2000, ge=4)
    per_peer: int = Field(default=16, ge=2)
    handshake_s: float = Field(default=15.0, gt=0)
    message_bytes: int = Field(default=2**31, ge=2**20)
    studies: int = Field(default=1000, ge=1)
    per_researcher: int = Field(default=100, ge=1)
    document_bytes: int = Field(default=2**20 - 1024, ge=1024)
    analyses: int = Field(default=100, ge=1)
    running: int = Field(default=4, ge=1)


class Settings(BaseModel):
    """What the operator may set. listen: where the service listens; hosts: the names and addresses at which it is reached,
    which its certificate carries; address: what tokens tell newcomers to dial, ``hosts[0]`` with the port that is listened
    on if it is empty; heartbeat_s: below the idle time-outs of common proxies (30 s to 60 s); grace_s: how long a lost link
    may take to come back before a run counts the site as lost; metrics: where metrics and health are shown, an address of
    loopback (`NetworkError` for another), nowhere if it is empty."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    listen: str = "127.0.0.1:7443"
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    address: str = ""
    heartbeat_s: float = Field(default=15.0, ge=0.05, le=3600)
    grace_s: float = Field(default=30.0, ge=0)
    limits: Limits = Limits()
    metrics: str = ""

    @field_validator("metrics")
    @classmethod
    def _on_loopback(cls, value: str) -> str:
        return str(loopback(value)) if value else ""

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        found = _LISTEN.fullmatch(value)
        if found is None or int(found[2]) > 65535:
            raise ValueError("not host:port")
        return value


@dataclass(frozen=True)
class CoordinatorHome:
    """The folder of one coordinator."""

    path: Path

    @classmethod
    def create(
        cls, path: Path, settings: Settings, *, now: datetime, authority: Authority | None = None
    ) -> CoordinatorHome:
        """A new folder: settings, and the service's own key and certificate. authority: one of another folder; where its key is
        kept elsewhere, the certificate is asked for (`unisono.network.coordinator.apart`). Without it, a new one is made here.
        `NetworkError` if there is a coordinator already."""
        home = cls(path)
        if (path / SETTINGS).exists():
            raise NetworkError(
                f"There is a coordinator in {path} already.",
                rule="one-coordinator",
                remedy="Serve it, or name another folder.",
            )
        with storage(path, "coordinator's folder"):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
        authority = authority or Authority.create(path, settings.name, now=now)
        key = pki.make_key()
        if authority.can_issue:
            certificate = authority.issue(key.public_key(), "coordinator", settings.name, now=now, hosts=settings.hosts)
            Credentials(pki.private_pem(key), pki.pem(certificate), authority.ca_pem).save(path)
        else:
            write_whole(path / "tls.key", pki.private_pem(key), "private key", mode=0o600)
            write_whole(path / "ca.pem", authority.ca_pem, "authority's certificate")
        home.keep(settings)
        return home

    def keep(self, settings: Settings) -> None:
        """Write the settings down."""
        write_whole(self.path / SETTINGS, f"{settings.model_dump_json(indent=2)}\n".encode(), "settings")

    def settings(self) -> Settings:
        """`NetworkError` if there are none, or they cannot be read."""
        path = self.path / SETTINGS
        if not path.exists():
            raise NetworkError(
                f"{self.path} is not a coordinator's folder.",
                rule="coordinator-folder",
                remedy="Make one with: unisono coordinator init.",
            )
        with storage(path, "settings"):
            content = path.read_bytes()
        try:
            return Settings.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise NetworkError(
                f"{path} cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}.",
                rule="coordinator-settings",
                remedy="Correct the line, or put the file back from a back-up.",
            ) from error

    def authority(self) -> Authority:
        """With its key, if that is here."""
        return Authority.open(self.path)

    def credentials(self) -> Credentials:
        """The service's own. `NetworkError` (``certificate-pending``) while the authority has not made its certificate."""
        if not self.certified:
            raise NetworkError(
                f"The server in {self.path} has no certificate yet: it waits for the authority's key, which is elsewhere.",
                rule="certificate-pending",
                remedy="Carry what `unisono coordinator pending` writes to the machine with the key (`unisono authority sign`), and "
                "the answers back: `unisono coordinator accept`.",
            )
        return Credentials.load(self.path)

    @property
    def certified(self) -> bool:
        """Whether the service has a certificate."""
        return (self.path / "tls.pem").exists()

    @property
    def members(self) -> Path:
        """Who joined."""
        return self.path / "members.db"

    @property
    def invitations(self) -> Path:
        """Who may join."""
        return self.path / "invitations.db"

    @property
    def renewals(self) -> Path:
        """Who waits for a later certificate, where the authority's key is elsewhere."""
        return self.path / "renewals.db"

    @property
    def store(self) -> Path:
        """The studies."""
        return self.path / "coordinator.db"

    @property
    def log(self) -> Path:
        """What happened."""
        return self.path / "log.jsonl"

    def folder(self, study_id: str, digest: str) -> Path:
        """Of one study: journals and results."""
        return self.path / "studies" / f"{study_id}-{digest[:12]}"
