"""`unisono coordinator`: make a federation's coordinator, invite its members, serve, and look after it."""

from __future__ import annotations

import asyncio
from json import dumps as dump_json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from pydantic import ValidationError

from unisono.cli import backup, coordinator_authority
from unisono.cli.board import READINESS, fingerprint, online_cell, readiness_cells, until_cell
from unisono.cli.console import errors
from unisono.cli.console import out as console
from unisono.cli.coordinator_place import (
    HOME,
    HomeOption,
    coordinator,
    forget_tokens,
    host_port,
    is_coordinator,
    is_everywhere,
    joined,
    operator,
)
from unisono.cli.shown import confirm, need_network, say, show_table, token_text, utc_now
from unisono.cli.site_network import MetricsOption, ProxyOption
from unisono.cli.teller import Teller
from unisono.errors import NetworkError, UnisonoError

_LOOPBACK = ("localhost", "127.0.0.1")
_EVENTS = {
    "monitoring": "  metrics and health on http://{address}/metrics, /healthz and /readyz",
    "stopping": "stopping; studies under way: {studies} (they go on at the next start; Ctrl-C again ends it at once)",
    "server-renewed": "the server's certificate is another one, until {expires}",
    "server-not-renewed": "the server's certificate could not be renewed: {what}",
    "server-expires": "the server's certificate ends on {expires}, and the authority's key is elsewhere: unisono coordinator pending",
    "authority-expires": "the certificate authority ends on {expires}: every member must join a new one before then",
}
"""What `serve` prints of the log."""

app = typer.Typer(help="The coordinator: it runs studies, and sees only sums.", no_args_is_help=True)
coordinator_authority.add_to(app)
backup.add_to_coordinator(app)


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
    authority: Annotated[
        Path | None,
        typer.Option("--authority-elsewhere", help="The ca.pem of an authority whose key is on another machine."),
    ] = None,
) -> None:
    """Make a coordinator: the certificate authority, the server's certificate, the settings, and an operator.

    [bold]Example[/]: unisono coordinator init /var/lib/unisono --address unisono.example.org:443 --listen [::]:443
    """
    need_network()
    from unisono.network import pki
    from unisono.network.authority import Authority
    from unisono.network.coordinator import operator as first_operator
    from unisono.network.coordinator.home import CoordinatorHome, Settings

    host, port = host_port(address)
    here, here_port = host_port(listen) if listen is not None else ("127.0.0.1", port)
    more = () if is_everywhere(here) else (here,)
    hosts = tuple(dict.fromkeys((host, *more, *_LOOPBACK)))
    try:
        settings = Settings(
            name=name,
            listen=joined(here, here_port),
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
    elsewhere = None if authority is None else Authority(pki.certificate_of(pki.read_file(authority.expanduser())))
    home = CoordinatorHome.create(folder.expanduser(), settings, now=now, authority=elsewhere)
    first_operator.make(home, joined("127.0.0.1" if is_everywhere(here) else here, here_port), now)
    say(f"coordinator {name!r} in {folder}", good=True)
    console.print(f"  members reach it at  {address}; it listens on {settings.listen}", markup=False)
    console.print(f"  the authority        {pki.grouped(home.authority().fingerprint)}", markup=False, soft_wrap=True)
    if here in _LOOPBACK and host not in _LOOPBACK:
        console.print("  It can be reached from this machine alone: --listen says otherwise.", markup=False)
    if elsewhere is not None:
        console.print("Its certificate must be made where the authority's key is:", markup=False)
        console.print(
            f"  unisono coordinator pending --out requests.json --home {folder}", markup=False, soft_wrap=True
        )
        return
    console.print(
        f"Keep a copy of {home.path / 'ca.key'} apart; whoever has it can let anybody in. Then:", markup=False
    )
    console.print(f"  unisono coordinator serve --home {folder}", markup=False, soft_wrap=True)
    console.print(f"  unisono coordinator invite NAME --role site --home {folder}", markup=False, soft_wrap=True)


@app.command("serve")
def serve(home: HomeOption = HOME, metrics: MetricsOption = "") -> None:
    """Serve until Ctrl-C or SIGTERM; what was running goes on at the next start. It ends in order, within 30 seconds; at a second
    signal at once. The log is log.jsonl in the folder.

    [bold]Example[/]: unisono coordinator serve --home /var/lib/unisono --metrics 127.0.0.1:9464
    """
    need_network()
    from unisono.network.coordinator.service import serve as serve_coordinator

    found = coordinator(home)
    host, _ = host_port(found.settings().listen)

    def ready(port: int) -> None:
        say(f"listening on {joined(host, port)}", good=True)
        console.print(f"  what happens is in {found.log}", markup=False, soft_wrap=True)

    asyncio.run(serve_coordinator(found, ready, metrics=metrics, listener=Teller(_EVENTS)))
    console.print("stopped; what was running goes on at the next start", markup=False)


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

    text = token_text(token, "coordinator join")
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
    """Make a token for a newcomer: one line, good for once. It is printed, and written to tokens/NAME.token in the folder. An older
    token for that name is void.

    [bold]Example[/]: unisono coordinator invite padua --role site --home /var/lib/unisono
    """
    need_network()
    from unisono.federation.storage import write_whole
    from unisono.network.enrolment.invitations import Invitations
    from unisono.network.enrolment.members import Members
    from unisono.network.enrolment.token import Token

    path = home.expanduser()
    if is_coordinator(path):
        found, settings = coordinator(home), coordinator(home).settings()
        invitations, store = Invitations(found.invitations), Members(found.members)
        address = settings.address or joined(settings.hosts[0], host_port(settings.listen)[1])
        try:
            store.may_be_invited(name, utc_now())
            made = invitations.invite(found.authority(), address, cast(Any, role), name, now=utc_now(), days=days)
        finally:
            invitations.close()
            store.close()
        text = made.encode()
    else:
        with operator(home) as client:
            text = str(client.call("invite", role=role, name=name, days=days)["token"])
    expires = Token.decode(text, utc_now()).peer.not_after
    file = path / "tokens" / f"{name}.token"
    write_whole(file, f"{text}\n".encode(), "token", mode=0o600)
    typer.echo(text)
    errors.print(f"For the {role} {name}: good for once, until {expires:%Y-%m-%d %H:%M} UTC. Secret: hand it over", markup=False)  # fmt: skip
    errors.print(f"in person or by a sealed channel. It is in {file} too.", markup=False, soft_wrap=True)


@app.command("uninvite")
def uninvite(
    name: Annotated[str, typer.Argument(help="Who was invited.")],
    home: HomeOption = HOME,
) -> None:
    """Cancel an invitation that is still open: its token is good for nothing from now on.

    [bold]Example[/]: unisono coordinator uninvite padua --home /var/lib/unisono
    """
    need_network()
    from unisono.federation.storage import storage
    from unisono.network.enrolment.invitations import Invitations

    path = home.expanduser()
    if is_coordinator(path):
        waiting = Invitations(coordinator(home).invitations)
        try:
            waiting.void(name, utc_now())
        finally:
            waiting.close()
    else:
        with operator(home) as client:
            client.call("uninvite", name=name)
        file = path / "tokens" / f"{name}.token"
        with storage(file, "token"):
            file.unlink(missing_ok=True)
    say(f"{name} is not invited any more", good=True)


@app.command("members")
def members(home: HomeOption = HOME) -> None:
    """List who joined, their keys, who is online and until when certificates hold; and invitations that are still open.

    [bold]Example[/]: unisono coordinator members --home /var/lib/unisono
    """
    need_network()
    found, online = _who_is_there(home)
    if not is_coordinator(home.expanduser()):  # else the list of invitations sees to it
        forget_tokens(home.expanduser(), {invitation["name"] for invitation in found["invitations"]})
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
    from unisono.network.enrolment.members import Members, not_a_member

    everyone, online = _who_is_there(home)
    mark = pki.ungrouped(who)
    named = next((m["name"] for m in everyone["members"] if mark == pki.ungrouped(fingerprint(m))), who)
    if not any(named == m["name"] or mark in m["fingerprints"] for m in everyone["members"]):
        raise not_a_member(who)
    if not yes:
        confirm(f"Revoke {named}?")
    if online is not None:
        with operator(home) as client:
            marks = client.call("revoke", who=named)["revoked"]
    else:
        store = Members(coordinator(home).members)
        try:
            marks = store.revoke(named, utc_now())
        finally:
            store.close()
    say(f"{named} is revoked: {len(marks)} certificate{'' if len(marks) == 1 else 's'}", good=True)
    if online is None:
        console.print("The coordinator is not serving; it heeds this from its next start.", markup=False)
    else:
        console.print("Its live connections were closed.", markup=False)


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="A member's name.")],
    home: HomeOption = HOME,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: for scripts.")] = False,
) -> None:
    """Forget a member who was revoked or lost its keys, so that it can be invited again and join with new keys.

    Live connections end at once, and its old certificates stay refused for ever. Permits pin the old key: studies with this member are
    submitted and approved anew. Give the name to nobody else.

    [bold]Example[/]: unisono coordinator remove padua --home /var/lib/unisono
    """
    need_network()
    from unisono.network.coordinator.calls import removable
    from unisono.network.enrolment.members import Members, not_a_member

    everyone, online = _who_is_there(home)
    if not any(name == member["name"] for member in everyone["members"]):
        raise not_a_member(name)
    removable(name)
    if not yes:
        confirm(f"Remove {name}? Its keys are good for nothing afterwards.")
    if online is not None:
        with operator(home) as client:
            client.call("remove", name=name)
    else:
        store = Members(coordinator(home).members)
        try:
            store.remove(name, utc_now())
        finally:
            store.close()
    say(f"{name} is removed", good=True)
    if online is None:
        console.print("The coordinator is not serving; it heeds this from its next start.", markup=False)
    console.print(
        f"It can be invited again: unisono coordinator invite {name}. It joins with new keys, in a", markup=False
    )
    console.print("new folder; the others verify its new key, and studies with it are approved anew.", markup=False)


@app.command("readiness")
def readiness(
    home: HomeOption = HOME,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for a program.")] = False,
) -> None:
    """Show all sites on one board: who is there or was last, certificates, clocks, machines, preflight, software, methods.

    [bold]Example[/]: unisono coordinator readiness --home /var/lib/unisono
    """
    need_network()
    with operator(home) as client:
        sites = client.call("readiness")["sites"]
    if json:
        typer.echo(dump_json({"sites": sites}, indent=2))
        return
    if not sites:
        console.print("No site has joined yet: unisono coordinator invite NAME --role site", markup=False)
        return
    rows = [(name, *readiness_cells(found)) for name, found in sorted(sites.items())]
    show_table(READINESS, rows, whole=("site", "certificate"))


# -- who, and where -----------------------------------------------------------------------------------------------------


def _who_is_there(home: Path) -> tuple[dict[str, Any], set[str] | None]:
    """Members and invitations, as the call ``members`` gives them, and which sites are online; None if the coordinator of this
    folder is not serving: then from its files."""
    try:
        with operator(home) as client:
            return client.call("members"), set(client.call("sites")["online"])
    except UnisonoError as error:
        if error.rule != "unreachable" or not is_coordinator(home.expanduser()):
            raise
    from unisono.network.coordinator.calls import member_tree
    from unisono.network.enrolment.invitations import Invitations
    from unisono.network.enrolment.members import Members

    found = coordinator(home)
    store, waiting = Members(found.members), Invitations(found.invitations)
    try:
        listed = [member_tree(member) for member in store.all()]
        invited = waiting.open_invitations(utc_now())
    finally:
        store.close()
        waiting.close()
    entries = [{"id": i.id, "role": i.role, "name": i.name, "expires": i.expires.isoformat()} for i in invited]
    return {"members": listed, "invitations": entries}, None
