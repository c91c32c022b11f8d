"""A person's end of the network: the researcher who asks studies and the operator who looks after the coordinator.

A folder with an Ed25519 identity (studies are signed with it), TLS credentials that came by the same token as a hospital's, and
a small synchronous client: commands ask, wait, and end. Nobody is dialled but the coordinator, and nothing listens.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast

import numpy as np
from pydantic import ValidationError

from unisono.errors import EnrolmentError, NetworkError, ProtocolError, StorageError, UnisonoError
from unisono.federation.storage import storage, write_whole
from unisono.federation.tree import Tree, unpack
from unisono.network import folders, pki, renewing
from unisono.network.agent.channel import CALL_S, SERVICE, Channel, open_channel, said, send, trouble
from unisono.network.agent.folder import Settings
from unisono.network.agent.join import ask, tls_key
from unisono.network.coordinator.store import OPEN
from unisono.network.enrolment.token import Token
from unisono.network.library import grpc_
from unisono.network.pki import Credentials
from unisono.network.results import MOST_BYTES, PIECE_BYTES, check
from unisono.network.signing import StudySignature
from unisono.network.wire.envelope import command
from unisono.network.wire.unisono_pb2 import Packed
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site.home import Home
from unisono.study.document import Study

Role = Literal["researcher", "operator"]
RESULT_S = 600.0
"""How long a piece of the results may take to come."""
_MOST_BYTES = PIECE_BYTES + (64 << 20)
"""Of one answer: a piece of a result, or the list of all studies."""
_QUIET_S = 60.0
"""A watch without news for so long asks whether the coordinator is still there."""
_AWAY = ("unreachable", "coordinator-stopping")
_WAITS_S = (0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class PersonFolder:
    """The folder of one researcher or operator (mode 0700): ``identity.key``, ``tls/``, ``coordinator.json``."""

    path: Path
    role: Role = "researcher"

    @property
    def tls(self) -> Path:
        """TLS key and certificates."""
        return self.path / "tls"

    @property
    def joined(self) -> bool:
        """Whether its owner has joined a federation."""
        return (self.path / "coordinator.json").exists()

    def make(self) -> None:
        """The folder. `StorageError` if it cannot be made."""
        Home(self.path).make()

    def identity(self) -> Identity:
        """Its owner's Ed25519 identity, made on first use."""
        return Home(self.path).identity()

    def settings(self) -> Settings:
        """Who, and where the coordinator is. `NetworkError` (``not-joined``) before joining, or (``folder-role``) if the folder is
        somebody else's; `StorageError` if it is damaged."""
        folders.only(self.path, self.role)
        path = self.path / "coordinator.json"
        if not self.joined:
            command = "study join" if self.role == "researcher" else "coordinator join"
            raise NetworkError(
                f"The {self.role} of {self.path} has not joined a federation.",
                rule="not-joined",
                remedy=f"Run `unisono {command} TOKEN` with the token of the coordinator's operator, or name the folder with "
                "--home.",
            )
        with storage(path, f"{self.role}'s settings"):
            content = path.read_bytes()
        try:
            return Settings.model_validate_json(content)
        except ValidationError as error:
            raise StorageError(
                f"The file {path} cannot be read.",
                rule="readable-file",
                remedy="Restore it from a back-up, or join again with a new token.",
            ) from error

    def keep(self, settings: Settings) -> None:
        """Write the settings down (mode 0600)."""
        content = f"{settings.model_dump_json(indent=2)}\n".encode()
        write_whole(self.path / "coordinator.json", content, f"{self.role}'s settings", mode=0o600)

    def fingerprint(self) -> str:
        """Of the identity, in groups that can be read aloud: what an officer compares."""
        return Roster({self.settings().name: self.identity().public}).fingerprint(self.settings().name)


def join(text: str, folder: PersonFolder, now: datetime, *, proxy: str | None = None) -> Settings:
    """Join with a token. Private keys are made in the folder (mode 0600) and never leave it; the same command can be run again
    after a lost answer.

    Raises `EnrolmentError` for a token that is wrong, used, expired or of another role, or a folder that has joined already;
    `NetworkError` if the coordinator cannot be reached, or is another one.
    """
    token = Token.decode(text, now)
    if token.peer.invites != folder.role:
        raise EnrolmentError(
            f"The token invites a {token.peer.invites}, not a {folder.role}.",
            rule="token-role",
            remedy=f"Ask the operator for one for a {folder.role}: unisono coordinator invite NAME --role {folder.role}.",
        )
    folders.only(folder.path, folder.role)
    if folder.joined and folder.settings().name != token.peer.name:
        raise EnrolmentError(
            f"{folder.path} is {folder.settings().name!r} at {folder.settings().address} already.",
            rule="already-joined",
            remedy="Name another folder with --home.",
        )
    folder.make()
    key = tls_key(folder.tls)
    try:
        joined = asyncio.run(ask(token, key, folder.identity(), proxy))
    except NetworkError as error:
        raise _for_a_person(error) from error
    joined.credentials(token, key).save(folder.tls)
    settings = Settings(name=joined.name, address=token.address, ca_fingerprint=token.ca_fingerprint, proxy=proxy)
    folder.keep(settings)
    return settings


# ---------------------------------------------------------------- the client


@dataclass(frozen=True)
class Seen:
    """What a watch shows. state: the study's status (as the call ``status``); event: what happened, or None where only the
    state changed; away: why the coordinator cannot be asked just now, with the last state that was seen."""

    state: dict[str, Any]
    event: dict[str, Any] | None
    away: UnisonoError | None = None


class Client:
    """Calls the coordinator over mutual TLS as the owner of a folder. A context manager; one thread at a time."""

    def __init__(self, folder: PersonFolder) -> None:
        """`NetworkError` or `StorageError` if the folder's owner has not joined, or its files do not belong together."""
        grpc_()
        self.settings = folder.settings()
        self.address = self.settings.address
        self._folder = folder
        self._credentials = Credentials.load(folder.tls)
        self._runner = asyncio.Runner()
        self._channel: Channel | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._drop()
        self._runner.close()

    def call(self, name: str, /, timeout_s: float = CALL_S, **body: Tree) -> Any:
        """What a call gives. The coordinator's error in its own words; `NetworkError` if it cannot be reached."""
        try:
            return self._runner.run(self._send({"call": name, **body}, timeout_s))
        except NetworkError as error:
            raise _for_a_person(error) from error

    def files(self, study: str) -> dict[str, str]:
        """The files of a study's results: relative name -> SHA-256. `NetworkError` if there are none; `ProtocolError` if they are not
        to be written down, by their names or sizes."""
        found = self.call("result", RESULT_S, study=study)
        files = found.get("files") if isinstance(found, dict) else None
        try:
            check({name: int(about["size"]) for name, about in cast(dict[str, Any], files).items()})
            return {name: str(about["sha256"]) for name, about in cast(dict[str, Any], files).items()}
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise _unreadable() from error

    def file(self, study: str, name: str, sha256: str) -> bytes:
        """One of these files, in pieces. `NetworkError` if it is another one by now."""
        content = bytearray()
        while len(content) <= MOST_BYTES:
            answer = self.call("result", RESULT_S, study=study, file=name, offset=len(content))
            data = answer.get("data") if isinstance(answer, dict) else None
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
                raise _unreadable()
            content += data.data
            if data.size < PIECE_BYTES:
                break
        if hashlib.sha256(content).hexdigest() != sha256:
            raise NetworkError(
                f"The result {name!r} changed while it was fetched.",
                rule="result-changed",
                remedy="The study was run again meanwhile. Fetch the results again.",
            )
        return bytes(content)

    def watch(self, study: str) -> Iterator[Seen]:
        """What happens to a study, until nothing more happens by itself. A coordinator that goes away after the first answer is
        waited for, and `Seen.away` says so."""
        last: Seen | None = None
        failures = 0
        while True:
            try:
                stream = self._runner.run(self._watching(study))
                while (tree := self._runner.run(self._next(stream, study))) is not None:
                    failures = 0
                    for event in tree["events"] or [None]:
                        last = Seen(tree["state"], event)
                        yield last
                if last is not None and last.state["state"] not in OPEN:
                    return
                away: UnisonoError = _ended(self.address)
            except NetworkError as error:
                away = _for_a_person(error)
                if last is None or error.rule not in _AWAY:
                    raise away from error
            if not failures and last is not None:
                yield Seen(last.state, None, away)
            self._drop()
            self._runner.run(asyncio.sleep(_WAITS_S[min(failures, len(_WAITS_S) - 1)]))
            failures += 1

    def renew_if_due(self, now: datetime) -> bool:
        """In the last third of the certificate's life: another one for the same key. True if there is a new one."""
        old = pki.certificate_of(self._credentials.chain_pem)
        if not pki.expires_soon(old, now):
            return False
        try:
            answer = self.call("renew", **renewing.body(self._credentials))
            found = renewing.renewed(self._credentials, answer, now)
        except (
            EnrolmentError
        ):  # the authority's key is elsewhere, or its own time ends: the present certificate goes on
            return False
        found.save(self._folder.tls)
        self._credentials = found
        self._drop()
        return True

    # -- in the client's own event loop -------------------------------------------------------------------------------

    async def _open(self) -> Channel:
        if self._channel is None:
            self._channel = open_channel(self.address, self._credentials, self.settings.proxy, _MOST_BYTES)
        return self._channel

    async def _send(self, tree: Tree, timeout_s: float) -> Any:
        return await send(await self._open(), "Call", tree, self.address, timeout_s)

    async def _watching(self, study: str) -> Any:
        watch = (await self._open()).unary_stream(
            SERVICE + "Watch", request_serializer=Packed.SerializeToString, response_deserializer=Packed.FromString
        )
        return watch(command({"call": "watch", "study": study}))

    async def _next(self, stream: Any, study: str) -> dict[str, Any] | None:
        """The next of a watch; None at its end."""
        grpc = grpc_()
        reading = asyncio.ensure_future(stream.read())
        try:
            while not (await asyncio.wait({reading}, timeout=_QUIET_S))[0]:
                await self._send(
                    {"call": "status", "study": study}, CALL_S
                )  # a dead connection does not say so by itself
            answer = reading.result()
        except grpc.aio.AioRpcError as error:
            raise trouble(error.code(), error.details(), self.address) from error
        finally:
            reading.cancel()
        if not isinstance(answer, Packed):
            return None
        tree = unpack(answer.tree)
        if isinstance(tree, dict) and isinstance(tree.get("error"), dict):
            raise said(tree["error"])
        found = tree.get("ok") if isinstance(tree, dict) else None
        if not isinstance(found, dict) or not isinstance(found.get("state"), dict):
            raise _unreadable()
        if not isinstance(found.get("events"), list) or not all(isinstance(event, dict) for event in found["events"]):
            raise _unreadable()
        return cast(dict[str, Any], found)

    def _drop(self) -> None:
        """Let go of the connection; the next call opens another."""
        channel, self._channel = self._channel, None
        if channel is not None:
            self._runner.run(channel.close())


# ---------------------------------------------------------------- signed studies


def signature_file(study: Path) -> Path:
    """Where the signature under a study file is kept: beside it."""
    return study.with_name(f"{study.name}.signature.json")


def sign(study: Study, folder: PersonFolder, path: Path) -> StudySignature:
    """Sign a study with the researcher's own key, and write the signature to `path`."""
    signature = StudySignature.make(study, folder.settings().name, folder.identity())
    content = {"unisono-signature": 1, "study": study.digest(), **signature.to_tree()}
    write_whole(path, f"{json.dumps(content, indent=2)}\n".encode(), "signature")
    return signature


def signature_of(study: Study, path: Path) -> StudySignature:
    """The signature in a file, checked. `NetworkError` (``study-signature``) if there is none, or it is not of this study as it
    is now."""
    if not path.exists():
        raise NetworkError(
            f"Study {study.id!r} is not signed: there is no {path}.",
            rule="study-signature",
            remedy="Sign it first, with the researcher's own key: unisono study sign STUDY.",
        )
    with storage(path, "signature"):
        content = path.read_bytes()
    try:
        tree = json.loads(content)
        signature = StudySignature.from_tree({name: tree[name] for name in ("researcher", "identity", "signature")})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NetworkError(
            f"{path} is no signature.", rule="study-signature", remedy="Sign the study again: unisono study sign STUDY."
        ) from error
    signature.verify(study)
    return signature


def _for_a_person(error: NetworkError) -> NetworkError:
    """What the channel says of trouble, with a remedy for somebody whose command ends here (an agent would try again)."""
    if error.rule == "unreachable":
        error.remedy = (
            "Check the address and the way there (one outbound TCP connection, through the proxy if there is one), and ask the "
            "operator whether the coordinator serves. A coordinator also hangs up on certificates that it does not know."
        )
    return error


def _ended(address: str) -> NetworkError:
    return NetworkError(
        f"The coordinator at {address} ended the watch.", rule="unreachable", remedy="It is asked again by itself."
    )


def _unreadable() -> ProtocolError:
    return ProtocolError(
        "The coordinator's answer cannot be read.",
        rule="message-format",
        remedy="The two ends run different versions of Unisono; install the same one.",
    )
