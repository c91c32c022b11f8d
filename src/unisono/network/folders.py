"""What a folder is: a coordinator's, an authority's, or that of one member. Every one of them may be named with ``--home``, and a
command that is given another's says so before it reads, signs or writes anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unisono.errors import NetworkError
from unisono.network import pki

_COMMANDS = {
    "site": "unisono site",
    "researcher": "unisono study",
    "operator": "unisono coordinator",
    "coordinator": "unisono coordinator",
    "authority": "unisono authority",
}


@dataclass(frozen=True)
class Owner:
    """Whose folder it is. role: of a certificate, or ``authority``; name: empty for a coordinator and an authority."""

    role: str
    name: str = ""


def owner_of(path: Path) -> Owner | None:
    """Whose folder this is, by its certificate and its files; None for one that nobody has joined from, or that is none."""
    if (path / "ca.pem").is_file():  # members keep theirs under tls/
        return Owner("coordinator" if (path / "coordinator.json").is_file() else "authority")
    certificate = path / "tls" / "tls.pem"
    try:
        peer = pki.peer_of(certificate.read_bytes()) if certificate.is_file() else None
    except (NetworkError, OSError):  # damaged: whoever reads it next says so
        return None
    return None if peer is None else Owner(peer.role, peer.name)


def only(path: Path, *roles: str) -> None:
    """`NetworkError` (``folder-role``) if the folder is known to be of somebody in none of these roles."""
    owner = owner_of(path)
    if owner is None or owner.role in roles:
        return
    whose = f"{owner.role} {owner.name!r}" if owner.name else owner.role
    article = "an" if roles[0][0] in "aeiou" else "a"
    raise NetworkError(
        f"{path} is the folder of the {whose}, not of {article} {' or '.join(roles)}.",
        rule="folder-role",
        remedy=f"Name the {roles[0]}'s folder with --home; this one is for `{_COMMANDS.get(owner.role, 'unisono')}`.",
    )
