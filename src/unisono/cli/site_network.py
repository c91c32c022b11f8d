"""`unisono site` in the network: join a federation, name the data, serve, and decide on the studies that are offered."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import errors
from unisono.cli.console import out as console
from unisono.cli.shown import confirm, need_network, say, show_table, token_text
from unisono.cli.teller import Teller
from unisono.errors import UnisonoError

if TYPE_CHECKING:
    from unisono.network.agent.folder import AgentFolder
    from unisono.network.agent.steward import Desk, Done

HOME = Path("~/.unisono/site")
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="UNISONO_SITE_HOME", help="The site's own folder: keys, permits, log.")
]
StudyName = Annotated[str, typer.Argument(help="The study's id, or the beginning of its digest.")]
DataOption = Annotated[str | None, typer.Option("--data", help="Which dataset, if this site has several.")]
Why = Annotated[str, typer.Option("--why", help="A reason; the researcher reads it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask: for scripts.")]
ProxyOption = Annotated[
    str | None, typer.Option("--proxy", help="HTTP CONNECT proxy: http://[user:password@]host:port.")
]

MetricsOption = Annotated[
    str, typer.Option("--metrics", help="Show metrics and health on this address of loopback: 127.0.0.1:9464.")
]

REFUSED_FOR_GOOD = 77
"""The exit code of an agent that trying again does not help (EX_NOPERM of sysexits.h): ``RestartPreventExitStatus`` in its unit."""

data_app = typer.Typer(help="The hospital's data, by name.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Put these commands under `unisono site`."""
    for name, command in (
        ("join", join),
        ("serve", serve),
        ("studies", studies),
        ("show", show),
        ("approve", approve),
        ("refuse", refuse),
        ("withdraw", withdraw),
        ("verify", verify),
    ):
        app.command(name)(command)
    app.add_typer(data_app, name="data")


def join(
    token: Annotated[str, typer.Argument(help="The operator's token; or - to read it from standard input.")],
    home: HomeOption = HOME,
    proxy: ProxyOption = None,
) -> None:
    """Join a federation: this site makes its own keys, which never leave its folder, and shows them to the coordinator once.

    [bold]Example[/]: unisono site join - --home /var/lib/unisono < token.txt
    """
    folder = _folder(home)
    from unisono.network.agent.folder import proxy_of
    from unisono.network.agent.join import join as join_federation
    from unisono.site.agent import utc_now

    text = token_text(token, "site join")
    through = None if proxy is None else proxy_of(proxy)
    found = asyncio.run(join_federation(text, folder, utc_now(), proxy=through, say=say))
    say(f"joined as {found.name} at {found.address}", good=True)
    console.print(f"  this site's key   {found.fingerprint}", markup=False)
    console.print(f"  the authority     {found.ca_fingerprint}", markup=False)
    console.print(f"  certificate until {found.expires:%Y-%m-%d}; it is renewed by itself", markup=False)
    if found.words:
        console.print(f"  the federation's word-code, so far  {found.words}", markup=False)
    console.print("Tell the operator both fingerprints by telephone. Then:", markup=False)
    console.print(f"  unisono site data add NAME FILE --home {home}", markup=False)
    console.print(f"  unisono site serve --home {home}", markup=False)


def serve(home: HomeOption = HOME, proxy: ProxyOption = None, metrics: MetricsOption = "") -> None:
    """Be the site's agent: dial the coordinator, and answer the studies that the data steward approved. Ctrl-C or SIGTERM ends it
    in order, within 30 seconds; a second one at once. Exit code 77: the coordinator refuses this site for good, or its memory went
    back; starting it again does not change that.

    [bold]Example[/]: unisono site serve --home /var/lib/unisono --metrics 127.0.0.1:9464
    """
    folder = _folder(home)
    from unisono.network.agent.dial import FOR_GOOD
    from unisono.network.agent.folder import proxy_of
    from unisono.network.agent.serve import Options, serve_until_signalled

    through = None if proxy is None else proxy_of(proxy)
    try:
        asyncio.run(serve_until_signalled(folder, Options(listener=Teller(_EVENTS), proxy=through, metrics=metrics)))
    except UnisonoError as error:
        if error.rule not in FOR_GOOD:
            raise
        from unisono.report.terminal import error_panel

        errors.print(error_panel(error))
        raise typer.Exit(REFUSED_FOR_GOOD) from error


_EVENTS = {
    "started": "{site} dials {coordinator}",
    "connected": "connected",
    "disconnected": "the connection ended",
    "clock-wrong": "{what} {remedy}",
    "unreachable": "{what} (tried again)",
    "roster": "the federation has {sites} hospitals, word-code {words}",
    "offered": "a new study waits for the data steward: unisono site show {id}",
    "decided": "{id}: {decision}",
    "taken-up": "{id} is answered, with dataset {dataset}",
    "not-taken-up": "a study cannot be answered: {what}",
    "not-told": "the coordinator could not be told: {what}",
    "result": "{id}: results came",
    "abstained": "this hospital has no part in one sum of a study: {what}",
    "renewed": "the certificate was renewed, until {expires}",
    "not-renewed": "the certificate could not be renewed: {what}",
    "monitoring": "metrics and health on http://{address}/metrics, /healthz and /readyz",
    "stopping": "stopping; answers under way: {answers} (waited for {within_s:g} s at most; Ctrl-C again ends it at once)",
    "stopped-serving": "stopped",
}


# -- data -------------------------------------------------------------------------------------------------------------


@data_app.command("add")
def data_add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    file: Annotated[Path, typer.Argument(help="CSV or Parquet. It stays where it is.")],
    mapping: Annotated[Path | None, typer.Option("--mapping", help="The mapping to the study's words.")] = None,
    home: HomeOption = HOME,
    force: Annotated[bool, typer.Option("--force", help="Put it in the place of one of the same name.")] = False,
) -> None:
    """Name a file of this hospital's, which is read once to see that it can be.

    [bold]Example[/]: unisono site data add als-registry registry.csv --mapping registry.mapping.yaml
    """
    folder = _folder(home)
    from unisono.network.agent import datasets
    from unisono.site.agent import utc_now

    folder.home.make()
    found = datasets.add(folder, name, file, mapping, utc_now(), replace=force)
    say(f"{found.name}: {found.rows:,} rows, {found.columns} columns in {found.file}", good=True)


@data_app.command("list")
def data_list(home: HomeOption = HOME) -> None:
    """List this hospital's datasets.

    [bold]Example[/]: unisono site data list
    """
    folder = _folder(home)
    from unisono.network.agent import datasets

    found = datasets.listed(folder)
    if not found:
        console.print("No dataset yet. Add one: unisono site data add NAME FILE", markup=False)
        return
    show_table(
        ("name", "file", "mapping", "rows", "added"),
        [(d.name, d.file, d.mapping or "none", f"{d.rows:,}", d.added[:10]) for d in found.values()],
    )


# -- the steward ------------------------------------------------------------------------------------------------------


def studies(home: HomeOption = HOME) -> None:
    """List the studies that were offered to this site, and what became of them.

    [bold]Example[/]: unisono site studies
    """
    with desk_of(home) as desk:
        entries = desk.inbox.all()
        status = desk.status()
        roster = desk.folder.roster()
    if status is None:
        console.print("The agent is not serving: begin it with unisono site serve.", markup=False)
    elif not status["connected"]:
        trouble = status["trouble"]
        console.print(f"The agent serves, without a connection. {trouble['what'] if trouble else ''}", markup=False)
    if status is not None and (clock := status.get("clock")):
        console.print(f"{clock['what']} {clock['remedy']}", markup=False)
    if roster is not None:
        from unisono.network.wordcode import word_code

        who = f"{len(roster)} hospitals ({', '.join(roster.sites)})"
        console.print(f"The federation: {who}, word-code {word_code(roster.digest)}", markup=False)
    if not entries:
        console.print("No study was offered yet.", markup=False)
        return
    show_table(
        ("study", "digest", "by", "decision", "coordinator says", ""),
        [
            (
                e.id,
                e.digest[:12],
                e.researcher,
                e.shown if e.told else f"{e.decision}, not told yet",
                e.state,
                e.trouble,
            )
            for e in entries
        ],
    )


def show(study: StudyName, data: DataOption = None, home: HomeOption = HOME) -> None:
    """Print what a data steward needs to decide: who asks, what for, with whom, what leaves, how protected, limits, own data.

    [bold]Example[/]: unisono site show als-survival
    """
    with desk_of(home) as desk:
        from unisono.network.agent.sheet import render
        from unisono.site.agent import utc_now

        sheet = desk.sheet(study, data, utc_now())
    console.print(render(sheet, console.width))
    if sheet.entry.waits:
        console.print(
            f"unisono site approve {sheet.entry.id}   or   unisono site refuse {sheet.entry.id}", markup=False
        )


def approve(study: StudyName, data: DataOption = None, yes: Yes = False, home: HomeOption = HOME) -> None:
    """Sign the permit of a study, after its word-code was compared with the other hospitals.

    [bold]Example[/]: unisono site approve als-survival
    """
    with desk_of(home) as desk:
        from unisono.site.agent import utc_now

        sheet = desk.sheet(study, data, utc_now())
        sites = ", ".join(sheet.roster.sites)
        console.print(f"{sheet.entry.id}: {sheet.entry.study().question}", markup=False)
        console.print(f"  asked by {sheet.entry.researcher}, over {sites}", markup=False)
        console.print(f"  word-code  {sheet.words}", markup=False)
        console.print(f"  {sheet.counted.sentence()}", markup=False)
        sheet.counted.check(sheet.entry.id)
        if not yes:
            confirm("Do the other hospitals see the same word-code, and may this site's part leave?")
        done = desk.approve(sheet, utc_now())
    _said(f"{sheet.entry.id} is approved, until {sheet.permit.expires:%Y-%m-%d}", done)


def refuse(study: StudyName, why: Why = "", home: HomeOption = HOME) -> None:
    """Say no to a study that was offered.

    [bold]Example[/]: unisono site refuse als-survival --why "no legal basis here"
    """
    with desk_of(home) as desk:
        from unisono.site.agent import utc_now

        entry, done = desk.refuse(study, why, utc_now())
    _said(f"{entry.id} is refused", done)


def withdraw(study: StudyName, why: Why = "", yes: Yes = False, home: HomeOption = HOME) -> None:
    """Stop a study that was approved, at once: nothing more is answered, and keys that were sent ahead are forgotten.

    [bold]Example[/]: unisono site withdraw als-survival --why "consent was revoked"
    """
    with desk_of(home) as desk:
        from unisono.site.agent import utc_now

        entry = desk.approved(study)
        if not yes:
            confirm(f"Stop {entry.id} at this site now?")
        entry, done = desk.withdraw(study, why, utc_now())
    _said(f"{entry.id} is withdrawn", done)
    console.print("Sums that were opened before contain this site's part, and cannot be taken back.", markup=False)


def verify(
    sites: Annotated[list[str], typer.Argument(help="The other hospitals.")],
    study: Annotated[str, typer.Option("--study", help="The study in whose list their keys were compared.")],
    how: Annotated[str, typer.Option("--how", help="How, for example: read aloud by telephone.")],
    words: Annotated[
        str | None, typer.Option("--words", help="The word-code that they read out to you; it is compared here.")
    ] = None,
    yes: Yes = False,
    home: HomeOption = HOME,
) -> None:
    """Mark other hospitals' keys as verified out of band: word-code or fingerprint were compared with the hospitals themselves.

    Only verified hospitals count toward a study's min_sites, and the permit names them. Whoever tells you the words must be those
    hospitals, reached in a way that the coordinator cannot change: a telephone number that you knew before.

    [bold]Example[/]: unisono site verify turin leiden --study als-survival --how "telephone, Dr Bianchi and Dr de Vries"
    """
    with desk_of(home) as desk:
        from unisono.site.agent import utc_now

        desk.others(sites, study)
        if words is None and not yes:
            sheet = desk.sheet(study, None, utc_now())
            console.print(f"  word-code  {sheet.words}", markup=False)
            for site in sites:
                console.print(f"  {site}  {sheet.roster.fingerprint(site)}", markup=False)
            confirm("Did each of them read out this word-code, or its own fingerprint, to you?")
        roster = desk.verify(sites, study, how, getpass.getuser(), utc_now(), words)
    for site in sites:
        say(f"{site} is verified: {roster.fingerprint(site)}", good=True)


# -- small things -----------------------------------------------------------------------------------------------------


def _folder(home: Path) -> AgentFolder:
    """The site's folder. `MissingExtra` if the network's packages are not installed; `NetworkError` (``folder-role``) if it is somebody
    else's."""
    need_network()
    from unisono.network import folders
    from unisono.network.agent.folder import AgentFolder

    folders.only(home.expanduser(), "site")
    return AgentFolder(home.expanduser())


@contextmanager
def desk_of(home: Path) -> Iterator[Desk]:
    """The steward's commands over a site's folder."""
    folder = _folder(home)
    from unisono.network.agent.steward import Desk

    desk = Desk(folder)
    try:
        yield desk
    finally:
        desk.close()


def _said(what: str, done: Done) -> None:
    """What was decided, and who knows."""
    say(what, good=True)
    if not done.served:
        console.print(
            "The agent is not serving: the coordinator is told when it does (unisono site serve).", markup=False
        )
    elif not done.told:
        console.print("The coordinator is told as soon as it takes it.", markup=False)
        if done.trouble is not None:
            console.print(done.trouble.what, markup=False)
