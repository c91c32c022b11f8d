"""`unisono coordinator`: make a federation's coordinator, invite its members, serve, and look after it."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from pydantic import ValidationError

from unisono.cli.board import fingerprint, online_cell, readiness_cells, until_cell
from unisono.cli.console import errors
from unisono.cli.console import out as console
from unisono.cli.shown import need_network, say, show_table, utc_now
from unisono.cli.site_network import ProxyOption
from unisono.errors import NetworkError, UnisonoError

if TYPE_CHECKING:
    from unisono.network.coordinator.home import CoordinatorHome
    from unisono.network.researcher import Client, PersonFolder

OPERATOR = "operator"
"""The member that `init` makes, and its folder within the coordinator's."""
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9.-]+):([1-9][0-9]{0,4})")
_LOOPBACK = ("localhost", "127.0.0.1")

app = typer.Typer(help="The coordinator: it runs studies, and sees only sums.", no_args_is_help=True)
HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="UNISONO_COORDINATOR_HOME",
        help="The coordinator's folder; or the folder of an operator who joined from elsewhere.",
    ),
]
HOME = Path("~/.unisono/coordinator")


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="The coordinator's folder: keys, lists, studies.")],
    address: Annotated[str, typer.Option("--address", help="Where members reach it: host:port.")],
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            help="Where it listens: host:port, or [::]:port for everywhere. Loopback only, if it is not said.",
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What to call the coordinator.")] = "coordinator",
    grace: Annotated[float, typer.Option("--grace", help="Seconds that a lost link has to come back.")] = 30.0,
    heartbeat: Annotated[
        float, typer.Option("--heartbeat", help="Seconds between signs of life; below the idle time-out of proxies.")
    ] = 15.0,
) -> None:
    """Make a coordinator: the certificate authority, the server's certificate, the settings, and an operator.

    [bold]Example[/]: unisono coordinator init /var/lib/unisono --address unisono.example.org:443 --listen [::]:443
    """
    need_network()
    from unisono.network import pki
    from unisono.network.coordinator.home import CoordinatorHome, Settings

    host, port = _host_port(address)
    here, here_port = _host_port(listen) if listen is not None else ("127.0.0.1", port)
    more = () if _is_everywhere(here) else (here,)
    hosts = tuple(dict.fromkeys((host, *more, *_LOOPBACK)))
    try:
        settings = Settings(
            name=name,
            listen=_joined(here, here_port),
            hosts=hosts,
            address=address,
            heartbeat_s=heartbeat,
            grace_s=grace,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise NetworkError(
            f"The coordinator cannot be set up so: {'.'.join(map(str, first['loc']))}: {first['msg']}.",
            rule="coordinator-settings",
            remedy="See: unisono coordinator init --help.",
        ) from error
    now = utc_now()
    home = CoordinatorHome.create(folder.expanduser(), settings, now=now)
    _make_operator(home, _joined("127.0.0.1" if _is_everywhere(here) else here, here_port), now)
    say(f"coordinator {name!r} in {folder}", good=True)
    console.print(f"  members reach it at  {address}; it listens on {settings.listen}", markup=False)
    console.print(f"  the authority        {pki.grouped(home.authority().fingerprint)}", markup=False, soft_wrap=True)
    if here in _LOOPBACK and host not in _LOOPBACK:
        console.print("  It can be reached from this machine alone: --listen says otherwise.", markup=False)
    console.print(
        f"Keep a copy of {home.path / 'ca.key'} apart; whoever has it can let anybody in. Then:", markup=False
    )
    console.print(f"  unisono coordinator serve --home {folder}", markup=False, soft_wrap=True)
    console.print(f"  unisono coordinator invite NAME --role site --home {folder}", markup=False, soft_wrap=True)


def _make_operator(home: CoordinatorHome, address: str, now: datetime) -> None:
    """The first operator: of this machine, with credentials within the coordinator's folder."""
    from unisono.network import pki
    from unisono.network.agent.folder import Settings
    from unisono.network.enrolment.members import Members
    from unisono.network.pki import Credentials

    folder, authority, key = _operator_of(home.path), home.authority(), pki.make_key()
    folder.make()
    certificate = authority.issue(key.public_key(), "operator", OPERATOR, now=now)
    members = Members(home.members)
    try:
        members.add("operator", OPERATOR, folder.identity().public, certificate, now)
    finally:
        members.close()
    Credentials(pki.private_pem(key), pki.pem(certificate), authority.ca_pem).save(folder.tls)
    folder.keep(Settings(name=OPERATOR, address=address, ca_fingerprint=authority.fingerprint))


@app.command("serve")
def serve(home: HomeOption = HOME) -> None:
    """Serve until Ctrl-C or SIGTERM; what was running goes on at the next start. The log is log.jsonl in the folder.

    [bold]Example[/]: unisono coordinator serve --home /var/lib/unisono
    """
    need_network()
    from unisono.network.coordinator.service import serve as serve_coordinator

    found = _home(home)
    host, _ = _host_port(found.settings().listen)
    _renew_own(found, utc_now())

    def ready(port: int) -> None:
        say(f"listening on {_joined(host, port)}", good=True)
        console.print(f"  what happens is in {found.log}", markup=False, soft_wrap=True)

    asyncio.run(serve_coordinator(found, ready))
    console.print("stopped; what was running goes on at the next start", markup=False)


def _renew_own(home: CoordinatorHome, now: datetime) -> None:
    """The server's own certificate, where the authority's key is here: in the last third of its life, another one."""
    from unisono.network import pki
    from unisono.network.pki import Credentials

    credentials, authority = home.credentials(), home.authority()
    certificate = pki.certificate_of(credentials.chain_pem)
    if authority.can_issue and pki.expires_soon(certificate, now):
        renewed = authority.renewed(certificate, now=now)
        Credentials(credentials.key_pem, pki.pem(renewed), credentials.ca_pem).save(home.path)
        say(f"the server's certificate was renewed, until {renewed.not_valid_after_utc:%Y-%m-%d}", good=True)


@app.command("join")
def join(
    token: Annotated[str, typer.Argument(help="A token for an operator; or - to read it from standard input.")],
    home: HomeOption = HOME,
    proxy: ProxyOption = None,
) -> None:
    """Join as an operator from another machine than the coordinator's.

    [bold]Example[/]: unisono coordinator join - --home ~/operator < anna.token
    """
    need_network()
    from unisono.network.researcher import PersonFolder
    from unisono.network.researcher import join as join_federation

    text = typer.get_text_stream("stdin").read() if token == "-" else token  # noqa: S105  (a dash is no secret)
    folder = PersonFolder(home.expanduser(), "operator")
    found = join_federation(text, folder, utc_now(), proxy=proxy)
    say(f"joined as the operator {found.name} at {found.address}", good=True)
    console.print(f"  your key  {folder.fingerprint()}", markup=False)


@app.command("invite")
def invite(
    name: Annotated[str, typer.Argument(help="What the newcomer is called in the federation.")],
    role: Annotated[str, typer.Option("--role", help="site, researcher or operator.")] = "site",
    days: Annotated[float, typer.Option("--days", help="How long the token may be used.")] = 7,
    home: HomeOption = HOME,
) -> None:
    """Make a token for a newcomer: one line, good for once. It is printed, and written to tokens/NAME.token in the folder.

    [bold]Example[/]: unisono coordinator invite padua --role site --home /var/lib/unisono
    """
    need_network()
    from unisono.federation.storage import write_whole
    from unisono.network.enrolment.invitations import Invitations
    from unisono.network.enrolment.token import Token

    path = home.expanduser()
    if _is_coordinator(path):
        found, settings = _home(home), _home(home).settings()
        invitations = Invitations(found.invitations)
        address = settings.address or _joined(settings.hosts[0], _host_port(settings.listen)[1])
        try:
            made = invitations.invite(found.authority(), address, cast(Any, role), name, now=utc_now(), days=days)
        finally:
            invitations.close()
        text = made.encode()
    else:
        with _operator(home) as client:
            text = str(client.call("invite", role=role, name=name, days=days)["token"])
    expires = Token.decode(text, utc_now()).peer.not_after
    file = path / "tokens" / f"{name}.token"
    write_whole(file, f"{text}\n".encode(), "token", mode=0o600)
    typer.echo(text)
    errors.print(f"For the {role} {name}: good for once, until {expires:%Y-%m-%d %H:%M} UTC. Secret: hand it over", markup=False)  # fmt: skip
    errors.print(f"in person or by a sealed channel. It is in {file} too.", markup=False, soft_wrap=True)


@app.command("members")
def members(home: HomeOption = HOME) -> None:
    """List who joined, their keys, who is online and until when certificates hold; and invitations that are still open.

    [bold]Example[/]: unisono coordinator members --home /var/lib/unisono
    """
    need_network()
    found, online = _who_is_there(home)
    rows = [
        (
            member["name"],
            member["role"],
            fingerprint(member),
            "revoked" if member["revoked"] else online_cell(member, online),
            until_cell(member),
        )
        for member in found["members"]
    ]
    key = "key, as its owner sees it"
    show_table(("name", "role", key, "online", "certificate until"), rows, whole=(key,))
    for invitation in found["invitations"]:
        expires = invitation["expires"][:16].replace("T", " ")
        console.print(f"invited: the {invitation['role']} {invitation['name']}, until {expires} UTC", markup=False)
    if online is None:
        console.print("The coordinator is not serving: who is online is not known.", markup=False)


@app.command("revoke")
def revoke(
    who: Annotated[str, typer.Argument(help="A member's name; or the fingerprint of a key or of a certificate.")],
    home: HomeOption = HOME,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: for scripts.")] = False,
) -> None:
    """Shut a member out: certificates no longer count, and live connections end at once.

    [bold]Example[/]: unisono coordinator revoke padua --home /var/lib/unisono
    """
    need_network()
    from unisono.network import pki
    from unisono.network.enrolment.members import Members

    everyone, online = _who_is_there(home)
    mark = pki.ungrouped(who)
    named = next((m["name"] for m in everyone["members"] if mark == pki.ungrouped(fingerprint(m))), who)
    if not yes:
        typer.confirm(f"Revoke {named}?", abort=True)
    if online is not None:
        with _operator(home) as client:
            marks = client.call("revoke", who=named)["revoked"]
    else:
        store = Members(_home(home).members)
        try:
            marks = store.revoke(named, utc_now())
        finally:
            store.close()
    say(f"{named} is revoked: {len(marks)} certificate{'' if len(marks) == 1 else 's'}", good=True)
    if online is None:
        console.print("The coordinator is not serving; it heeds this from its next start.", markup=False)
    else:
        console.print("Its live connections were closed.", markup=False)


@app.command("readiness")
def readiness(home: HomeOption = HOME) -> None:
    """Show all sites on one board: who is there, with which software, and what their machines have.

    [bold]Example[/]: unisono coordinator readiness --home /var/lib/unisono
    """
    need_network()
    with _operator(home) as client:
        sites = client.call("readiness")["sites"]
    if not sites:
        console.print("No site has joined yet: unisono coordinator invite NAME --role site", markup=False)
        return
    rows = [(name, *readiness_cells(found)) for name, found in sorted(sites.items())]
    show_table(("site", "online", "processors", "disk free", "studies", "software", "methods"), rows)


# -- who, and where -----------------------------------------------------------------------------------------------------


def _who_is_there(home: Path) -> tuple[dict[str, Any], set[str] | None]:
    """Members and invitations, as the call ``members`` gives them, and which sites are online; None if the coordinator of this
    folder is not serving: then from its files."""
    try:
        with _operator(home) as client:
            return client.call("members"), set(client.call("sites")["online"])
    except UnisonoError as error:
        if error.rule != "unreachable" or not _is_coordinator(home.expanduser()):
            raise
    from unisono.network.coordinator.calls import member_tree
    from unisono.network.enrolment.invitations import Invitations
    from unisono.network.enrolment.members import Members

    found = _home(home)
    store, waiting = Members(found.members), Invitations(found.invitations)
    try:
        listed = [member_tree(member) for member in store.all()]
        invited = waiting.open_invitations(utc_now())
    finally:
        store.close()
        waiting.close()
    entries = [{"id": i.id, "role": i.role, "name": i.name, "expires": i.expires.isoformat()} for i in invited]
    return {"members": listed, "invitations": entries}, None


@contextmanager
def _operator(home: Path) -> Iterator[Client]:
    """A client that calls as the operator of a folder."""
    from unisono.network.researcher import Client, PersonFolder

    path = home.expanduser()
    folder = _operator_of(path) if _is_coordinator(path) else PersonFolder(path, "operator")
    with Client(folder) as client:
        client.renew_if_due(utc_now())
        yield client


def _operator_of(coordinator: Path) -> PersonFolder:
    from unisono.network.researcher import PersonFolder

    return PersonFolder(coordinator / OPERATOR, "operator")


def _is_coordinator(path: Path) -> bool:
    """A coordinator's folder, not that of an operator who joined from elsewhere (both hold ``coordinator.json``)."""
    return (path / "tls.pem").exists()


def _home(home: Path) -> CoordinatorHome:
    from unisono.network.coordinator.home import CoordinatorHome

    found = CoordinatorHome(home.expanduser())
    if not _is_coordinator(found.path):
        raise NetworkError(
            f"{home} is not a coordinator's folder.",
            rule="coordinator-folder",
            remedy="Name it with --home, or make one with: unisono coordinator init.",
        )
    return found


def _host_port(address: str) -> tuple[str, int]:
    """Host (an IPv6 address without its brackets) and port. `NetworkError` if it is not host:port."""
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[2]) > 65535:
        raise NetworkError(
            f"{address[:80]!r} is no address of a coordinator.",
            rule="coordinator-address",
            remedy="Write host:port, for example unisono.example.org:443.",
        )
    return found[1].strip("[]"), int(found[2])


def _is_everywhere(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
