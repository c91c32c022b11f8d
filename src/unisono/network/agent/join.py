"""Joining a federation from a hospital: keys are made here and stay here; the token opens the coordinator's port once."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from unisono.errors import EnrolmentError, NetworkError, UnisonoError
from unisono.federation.storage import storage, write_whole
from unisono.federation.tree import Tree
from unisono.network import pki
from unisono.network.agent.about import about
from unisono.network.agent.channel import open_channel, send
from unisono.network.agent.dial import Line
from unisono.network.agent.folder import AgentFolder, Settings
from unisono.network.enrolment.joining import Joined, JoinRequest
from unisono.network.enrolment.token import Token
from unisono.network.link import SiteEnd
from unisono.network.preflight.whose import naming
from unisono.network.wordcode import word_code
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site.agent import utc_now

LOOK_S = 5.0


@dataclass(frozen=True)
class Membership:
    """What joining gave. fingerprint: of this site's identity, as the roster shows it. ca_fingerprint: of the authority. words:
    the word-code of the sites that have joined so far, if the coordinator said who they are."""

    name: str
    address: str
    fingerprint: str
    ca_fingerprint: str
    expires: datetime
    words: str


async def join(
    text: str,
    folder: AgentFolder,
    now: datetime,
    *,
    proxy: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Membership:
    """Join with a token. The private keys are made in the folder (mode 0600) before anything is sent, so that the same command
    can be run again after a lost answer, or while the operator's signature is waited for.

    Raises `EnrolmentError` for a token that is wrong, used or expired, or a folder that has joined already; `NetworkError` if
    the coordinator cannot be reached, or is another one.
    """
    token = Token.decode(text, now)
    if token.peer.invites != "site":
        raise EnrolmentError(
            f"The token invites a {token.peer.invites}, not a site.",
            rule="token-role",
            remedy="Ask the coordinator's operator for a token for a site: unisono coordinator invite.",
        )
    settings = folder.settings() if folder.joined else None
    if settings is not None and settings.name != token.peer.name:  # the same name again: its certificate expired
        raise EnrolmentError(
            f"The site in {folder.path} is {settings.name!r} at {settings.address} already.",
            rule="already-joined",
            remedy="Name another folder with --home; or set this one aside if it is to be another site from now on.",
        )
    folder.home.make()
    identity, key = folder.home.identity(), tls_key(folder.tls)
    say(f"asking {token.address} to join as {token.peer.name}")
    joined = await ask(token, key, identity, proxy)
    credentials = joined.credentials(token, key)
    credentials.save(folder.tls)
    folder.keep(Settings(name=joined.name, address=token.address, ca_fingerprint=token.ca_fingerprint, proxy=proxy))
    return Membership(
        name=joined.name,
        address=token.address,
        fingerprint=Roster({joined.name: identity.public}).fingerprint(joined.name),
        ca_fingerprint=pki.grouped(token.ca_fingerprint),
        expires=pki.certificate_of(joined.certificate.encode()).not_valid_after_utc,
        words=await _first_look(token.address, credentials, proxy, lambda: about(folder, 0, utc_now())),
    )


async def ask(token: Token, key: pki.PrivateKey, identity: Identity, proxy: str | None = None) -> Joined:
    """Ask the coordinator to be let in, with a token and keys that were made here. Errors as `join`."""
    request = JoinRequest.make(token, key, identity)
    channel = open_channel(token.address, token.credentials(), proxy)
    try:
        answer = await send(channel, "Join", request.model_dump(mode="json"), token.address)
    except NetworkError as error:
        said = await naming(error, token.address, proxy)
        raise said from None if said is error else error
    finally:
        await channel.close()
    return Joined.read(json.dumps(answer).encode())


async def _first_look(address: str, credentials: pki.Credentials, proxy: str | None, hello: Callable[[], Tree]) -> str:
    """Connect once as the site that this now is, say so with what preflight found, and hear who has joined: their word-code.
    Empty if that takes too long; the agent will see."""
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def listen(tree: Tree) -> Tree:
        if isinstance(tree, dict) and tree.get("to") == "roster" and not heard.done():
            heard.set_result(word_code(Roster.from_tree(tree.get("roster")).digest))
            return {"kind": "nothing"}
        never: asyncio.Future[Tree] = asyncio.get_running_loop().create_future()
        return await never  # it is for the agent, which will be another session: it is asked again

    def observe(event: str, _: dict[str, Any]) -> None:
        if event == "unreachable" and not heard.done():
            heard.set_result("")

    end = SiteEnd(listen, secrets.token_hex(16))
    line = Line(address, credentials, proxy, end, hello, observe)
    kept = asyncio.ensure_future(line.keep())
    try:
        async with asyncio.timeout(LOOK_S):
            return await heard
    except (TimeoutError, UnisonoError):
        return ""
    finally:
        line.stop()
        await asyncio.wait([kept], timeout=LOOK_S)
        kept.cancel()
        end.close()


def tls_key(folder: Path) -> pki.PrivateKey:
    """The TLS key in a folder: made once, kept until its owner has joined."""
    path = folder / "tls.key"
    with storage(path, "private key"):
        if path.exists():
            return pki.private_key_of(path.read_bytes())
    key = pki.make_key()
    write_whole(path, pki.private_pem(key), "private key", mode=0o600)
    return key
