"""`unisono authority`: a certificate authority on a machine of its own, apart from the running coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from unisono.cli.console import errors
from unisono.cli.console import out as console
from unisono.cli.shown import confirm, need_network, say, show_table, utc_now
from unisono.errors import NetworkError

if TYPE_CHECKING:
    from unisono.network.authority import Authority

app = typer.Typer(
    help="A federation's certificate authority, apart from the running coordinator: only files go to and fro.",
    no_args_is_help=True,
)
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="UNISONO_AUTHORITY_HOME", help="The authority's folder, with its key.")
]
HOME = Path("~/.unisono/authority")
LOG = "authority.jsonl"


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="The authority's folder: on a machine or a stick that is kept away.")],
    name: Annotated[str, typer.Option("--name", help="What to call the federation.")] = "federation",
) -> None:
    """Make a certificate authority: its key, which stays here, and ca.pem, which the coordinator gets.

    [bold]Example[/]: unisono authority init /media/vault --name als-federation
    """
    need_network()
    from unisono.federation.storage import storage
    from unisono.network import pki
    from unisono.network.authority import Authority

    path = folder.expanduser()
    with storage(path, "authority's folder"):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    made = Authority.create(path, name, now=utc_now())
    say(f"authority {name!r} in {folder}, until {made.certificate.not_valid_after_utc:%Y-%m-%d}", good=True)
    console.print(f"  fingerprint  {pki.grouped(made.fingerprint)}", markup=False, soft_wrap=True)
    console.print(f"Keep {path / 'ca.key'} here, and a copy locked away.", markup=False, soft_wrap=True)
    console.print(f"Carry {path / 'ca.pem'} to the coordinator:", markup=False, soft_wrap=True)
    console.print("  unisono coordinator init FOLDER --address HOST:443 --authority-elsewhere ca.pem", markup=False)


@app.command("invite")
def invite(
    name: Annotated[str, typer.Argument(help="What the newcomer is called in the federation.")],
    address: Annotated[str, typer.Option("--address", help="Where the newcomer reaches the coordinator: host:port.")],
    role: Annotated[str, typer.Option("--role", help="site, researcher or operator.")] = "site",
    days: Annotated[float, typer.Option("--days", help="How long the token may be used.")] = 7,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file for the coordinator; NAME.invitation.json if it is not said.")
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Make a token for a newcomer, and a file without secrets that tells the coordinator of it.

    [bold]Example[/]: unisono authority invite padua --address unisono.example.org:443 --home /media/vault
    """
    need_network()
    from unisono.federation.storage import write_whole
    from unisono.network.enrolment.carried import Answers
    from unisono.network.enrolment.token import Token

    authority, now = _authority(home), utc_now()
    token = Token.make(authority, address, cast(Any, role), name, now=now, days=days)
    text = token.encode()
    secret = home.expanduser() / "tokens" / f"{name}.token"
    told = Answers(authority=authority.fingerprint, invitations=(token.certificate_pem.decode("ascii"),))
    file = out or Path(f"{name}.invitation.json")
    write_whole(secret, f"{text}\n".encode(), "token", mode=0o600)
    write_whole(file.expanduser(), told.encode() + b"\n", "invitation")
    _record(home, "invited", role=role, name=name, expires=token.peer.not_after.isoformat())
    typer.echo(text)
    until = f"until {token.peer.not_after:%Y-%m-%d %H:%M} UTC"
    errors.print(
        f"For the {role} {name}: good for once, {until}. Secret; in {secret} too.", markup=False, soft_wrap=True
    )
    errors.print(f"The coordinator must know of it first: unisono coordinator accept {file.name}", markup=False)


@app.command("sign")
def sign(
    file: Annotated[Path, typer.Argument(help="What `unisono coordinator pending` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The file to carry back.")] = Path("answers.json"),
    home: HomeOption = HOME,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: for scripts.")] = False,
) -> None:
    """Make the certificates that a coordinator asks for, after you have read what they are.

    Newcomers prove that they hold a token of this authority. A first certificate proves nothing: sign it only if you know that the
    coordinator is yours, and if the hosts and keys are those that it shows.

    [bold]Example[/]: unisono authority sign /media/stick/requests.json --out /media/stick/answers.json --home /media/vault
    """
    need_network()
    from unisono.federation.storage import write_whole
    from unisono.network import pki
    from unisono.network.enrolment.carried import Requests, asked, same_authority
    from unisono.network.enrolment.carried import sign as signed

    authority, requests = _authority(home), Requests.read(pki.read_file(file.expanduser()))
    same_authority(requests.authority, authority)
    rows = asked(requests, authority)
    show_table(("wanted", "for", "key"), rows, whole=("key",))
    if not yes:
        confirm(f"Make {requests.count} certificate{'' if requests.count == 1 else 's'}?")
    answers = signed(requests, authority, utc_now())
    for text in (*answers.first, *answers.joins.certificates.values(), *answers.renewals):
        peer = pki.peer_of(text.encode())
        _record(
            home,
            "signed",
            role=peer.role,
            name=peer.name,
            fingerprint=peer.fingerprint,
            expires=peer.not_after.isoformat(),
        )
    write_whole(out.expanduser(), answers.encode() + b"\n", "answers")
    turned = answers.refused
    for one in turned:
        console.print(f"refused: {one.who}: {one.what} ({one.rule}) {one.remedy}", markup=False, soft_wrap=True)
    say(
        f"{requests.count - len(turned)} of {requests.count} signed: carry {out} back, to unisono coordinator accept",
        good=True,
    )
    if turned:
        raise typer.Exit(1)


def _authority(home: Path) -> Authority:
    """The authority of a folder, with its key."""
    from unisono.network.authority import Authority

    found = Authority.open(home.expanduser())
    if not found.can_issue:
        raise NetworkError(
            f"There is no authority's key in {home}.",
            rule="authority-apart",
            remedy="Name the folder with --home, or make an authority: unisono authority init.",
        )
    return found


def _record(home: Path, event: str, **facts: str) -> None:
    """What this key was used for, a line each: authority.jsonl in its folder."""
    from unisono.network.log import Log

    log = Log(home.expanduser() / LOG, utc_now)
    log.write(event, **facts)
    log.close()
