"""Where a coordinator is: its folder, its operator who calls it, its address. What the operator's commands share."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.shown import utc_now
from unisono.errors import NetworkError
from unisono.federation.storage import storage

if TYPE_CHECKING:
    from unisono.network.coordinator.home import CoordinatorHome
    from unisono.network.researcher import Client

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]+):([1-9][0-9]{0,4})")
HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="UNISONO_COORDINATOR_HOME",
        help="The coordinator's folder; or the folder of an operator who joined from elsewhere.",
    ),
]
HOME = Path("~/.unisono/coordinator")


@contextmanager
def operator(home: Path) -> Iterator[Client]:
    """A client that calls as the operator of a folder."""
    from unisono.network.coordinator.home import CoordinatorHome
    from unisono.network.coordinator.operator import folder_of
    from unisono.network.researcher import Client, PersonFolder

    path = home.expanduser()
    folder = folder_of(CoordinatorHome(path)) if is_coordinator(path) else PersonFolder(path, "operator")
    with Client(folder) as client:
        client.renew_if_due(utc_now())
        yield client


def is_coordinator(path: Path) -> bool:
    """A coordinator's folder, not that of an operator who joined from elsewhere (both hold ``coordinator.json``)."""
    return (path / "ca.pem").exists()


def coordinator(home: Path) -> CoordinatorHome:
    """The coordinator of a folder. `NetworkError` if it is none, with the rule ``folder-role`` if it is somebody else's."""
    from unisono.network import folders
    from unisono.network.coordinator.home import CoordinatorHome

    found = CoordinatorHome(home.expanduser())
    folders.only(found.path, "coordinator")
    if not is_coordinator(found.path):
        raise NetworkError(
            f"{home} is not a coordinator's folder.",
            rule="coordinator-folder",
            remedy="Name it with --home, or make one with: unisono coordinator init.",
        )
    return found


def host_port(address: str) -> tuple[str, int]:
    """Host (an IPv6 address without its brackets) and port. `NetworkError` if it is not host:port."""
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[2]) > 65535:
        raise NetworkError(
            f"{address[:80]!r} is no address of a coordinator.",
            rule="coordinator-address",
            remedy="Write host:port, for example unisono.example.org:443.",
        )
    return found[1].strip("[]"), int(found[2])


def is_everywhere(host: str) -> bool:
    """Whether it is every address of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def joined(host: str, port: int) -> str:
    """host:port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def forget_tokens(folder: Path, invited: Collection[str]) -> None:
    """What an operator's folder keeps of tokens that were used, cancelled or over: of no use to anybody any more. invited: the names
    of the invitations that are open."""
    for file in (folder / "tokens").glob("*.token"):
        if file.stem not in invited:
            with storage(file, "token"):
                file.unlink(missing_ok=True)
