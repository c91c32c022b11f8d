"""The agent's folder: what joining wrote there, the hospital's policy, and that one agent at a time works in it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from unisono.errors import NetworkError, StorageError
from unisono.federation.storage import storage, write_whole
from unisono.network import folders
from unisono.network.monitoring.address import loopback
from unisono.network.pki import Credentials
from unisono.protection.secagg.roster import Roster
from unisono.site.home import Home
from unisono.site.policy import Policy

LOCK = "agent.lock"
MEMBERS = "members.json"
_PATIENCE_S = 0.5
_SOCKET_BYTES = 100
"""A Unix socket's path holds 104 bytes on macOS and 108 on Linux."""


class Settings(BaseModel):
    """``coordinator.json``: who this site is, and where its coordinator is.

    name: the site's. address: ``host:port``. ca_fingerprint: SHA-256 of the authority's certificate, hexadecimal.
    proxy: ``http://[user:password@]host:port`` of an HTTP CONNECT proxy; None leaves it to the environment (``https_proxy``,
    ``http_proxy``, ``no_proxy``). metrics: where metrics and health are shown, an address of loopback (`NetworkError` for
    another); empty: nowhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str
    address: str
    ca_fingerprint: str
    proxy: str | None = None
    metrics: str = ""

    @field_validator("metrics")
    @classmethod
    def _on_loopback(cls, value: str) -> str:
        return str(loopback(value)) if value else ""


@dataclass(frozen=True)
class AgentFolder:
    """One site's folder, as the agent and the steward's commands use it."""

    path: Path

    @property
    def home(self) -> Home:
        """Its identity, its secret, its permits."""
        return Home(self.path)

    @property
    def tls(self) -> Path:
        """TLS key and certificates."""
        return self.path / "tls"

    @property
    def inbox(self) -> Path:
        """Studies offered."""
        return self.path / "inbox.db"

    @property
    def preflight(self) -> Path:
        """What `unisono site preflight` found last."""
        return self.path / "preflight.json"

    @property
    def log(self) -> Path:
        """What happened, a line of JSON an event."""
        return self.path / "log.jsonl"

    @property
    def socket(self) -> Path:
        """Where a serving agent listens for this hospital's commands. `StorageError` if the path is too long for a socket."""
        path = (self.path / "agent.sock").absolute()
        if len(str(path).encode()) > _SOCKET_BYTES:
            raise StorageError(
                f"The folder's path {self.path} is too long: a Unix socket's path has at most {_SOCKET_BYTES} bytes.",
                rule="socket-path",
                remedy="Move the site's folder to a shorter path, such as /var/lib/unisono.",
            )
        return path

    @property
    def joined(self) -> bool:
        """Whether this site has joined a federation."""
        return (self.path / "coordinator.json").exists()

    def settings(self) -> Settings:
        """What joining wrote. `NetworkError` (``not-joined``) before that, or (``folder-role``) if the folder is no site's;
        `StorageError` if it is damaged."""
        folders.only(self.path, "site")
        path = self.path / "coordinator.json"
        if not self.joined:
            raise NetworkError(
                f"The site in {self.path} has not joined a federation.",
                rule="not-joined",
                remedy="Run `unisono site join TOKEN` with the token of the coordinator's operator, or name the site's folder "
                "with --home.",
            )
        with storage(path, "agent's settings"):
            content = path.read_bytes()
        try:
            return Settings.model_validate_json(content)
        except ValidationError as error:
            raise _unreadable(path, "Restore it from a back-up, or join again with a new token.") from error

    def keep(self, settings: Settings) -> None:
        """Write the settings down (mode 0600: a proxy's password may be among them)."""
        content = f"{settings.model_dump_json(indent=2)}\n".encode()
        write_whole(self.path / "coordinator.json", content, "agent's settings", mode=0o600)

    def roster(self) -> Roster | None:
        """The sites of the federation, as the coordinator listed them last; None before it did. A study's own list, which its
        permit pins, is in the inbox."""
        path = self.path / MEMBERS
        if not path.exists():
            return None
        content = read_json(path, "list of members")
        return Roster.from_tree(content.get("roster") if isinstance(content, dict) else None)

    def credentials(self) -> Credentials:
        """TLS key and certificates. `StorageError` if one is missing, `NetworkError` if they do not belong together."""
        return Credentials.load(self.tls)

    def policy(self) -> Policy:
        """The hospital's standing rules: ``policy.json``, or the defaults. `StorageError` if the file is no policy: an
        unreadable rule is no permission."""
        path = self.path / "policy.json"
        with storage(path, "policy"):
            if not path.exists():
                return Policy()
            content = path.read_bytes()
        try:
            return Policy.model_validate_json(content)
        except ValidationError as error:
            raise _unreadable(path, "Correct it; docs/privacy.md lists every rule.") from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """This process is the folder's agent until the end. `StorageError` (``one-agent-a-home``) if another one is.

        SQLite's lock on an empty file: the same on every system, and a killed process lets go of it.
        """
        with storage(self.path, "site's folder"):
            db = sqlite3.connect(self.path / LOCK, isolation_level=None, timeout=_PATIENCE_S)
        try:
            try:
                db.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error).lower():
                    with storage(self.path / LOCK, "site's folder"):
                        raise
                raise StorageError(
                    f"An agent is serving in {self.path} already.",
                    rule="one-agent-a-home",
                    remedy="One site has one agent: stop the other one first (`systemctl stop unisono-site`, or Ctrl-C).",
                ) from error
            yield
        finally:
            db.close()


def proxy_of(text: str) -> str:
    """A proxy's address as it is kept. `NetworkError` unless it is ``http://[user:password@]host:port``."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        fits = parts.scheme == "http" and bool(parts.hostname) and parts.port is not None and parts.path in ("", "/")
    except ValueError:
        fits = False
    if not fits:
        raise NetworkError(
            "The proxy's address is not one that can be used.",
            rule="proxy-address",
            remedy="Write http://host:port, or http://user:password@host:port. A proxy that asks for NTLM or Kerberos needs a "
            "relay such as cntlm, whose own address is then the one to give.",
        )
    return f"http://{parts.netloc}"


def read_json(path: Path, what: str) -> object:
    """A small JSON file of the agent's. `StorageError` if it cannot be read."""
    with storage(path, what):
        content = path.read_bytes()
    try:
        value: object = json.loads(content)
    except ValueError as error:
        raise _unreadable(path, "Restore it from a back-up, or remove it and add what it held again.") from error
    return value


def _unreadable(path: Path, remedy: str) -> StorageError:
    return StorageError(f"The file {path} cannot be read.", rule="readable-file", remedy=remedy)
