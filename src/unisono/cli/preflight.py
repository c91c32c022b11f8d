"""`unisono site preflight`: whether this machine can take part, and what to ask the IT desk if it cannot yet."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from unisono.cli.console import errors, out
from unisono.cli.shown import token_text
from unisono.errors import MissingExtra, NetworkError, StorageError

if TYPE_CHECKING:
    from unisono.network.agent.folder import AgentFolder
    from unisono.network.preflight.report import Report
    from unisono.network.preflight.target import Target

_SAID = {
    "ok": ("✓ Ready: this machine can join.", "green"),
    "warn": ("! It works; some points deserve a look.", "yellow"),
    "fail": ("✗ Not ready yet.", "bold red"),
}


def preflight(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN|ADDRESS", help="The operator's token (- reads it from standard input), or host:port."
        ),
    ],
    json: Annotated[Path | None, typer.Option("--json", help="Write the report here too, for a ticket.")] = None,
    idle: Annotated[float, typer.Option("--idle", help="Seconds of silence that a connection should survive.")] = 35.0,
    home: Annotated[
        Path, typer.Option("--home", envvar="UNISONO_SITE_HOME", help="The site's folder, there or not yet.")
    ] = Path("~/.unisono/site"),
    proxy: Annotated[
        str | None,
        typer.Option("--proxy", help="HTTP CONNECT proxy: http://host:port, or http://user:password@host:port."),
    ] = None,
) -> None:
    """Check name, proxy, TLS, the coordinator, bandwidth, idle time-outs and this machine before joining. The token stays unused.

    With a site's token, or once it has joined, the report stays in the site's folder, and goes to the operator's board (unisono
    coordinator readiness) with each connection: joining makes the first.

    [bold]Example[/]: unisono site preflight coordinator.example.org:443 --json preflight.json
    """
    try:
        from unisono.network import folders
        from unisono.network.agent.folder import AgentFolder
        from unisono.network.preflight.report import table
        from unisono.network.preflight.run import LONGEST_IDLE_S
        from unisono.network.preflight.run import preflight as look
        from unisono.network.preflight.target import target_of
        from unisono.site.agent import utc_now
    except ImportError as error:
        raise MissingExtra(
            "The network needs gRPC and protobuf, which are not installed.",
            rule="missing-extra",
            remedy="Install them with: pip install 'unisono[network]'.",
        ) from error
    if not 0 < idle <= LONGEST_IDLE_S:
        raise NetworkError(
            f"A connection cannot be held idle for {idle:g} seconds.",
            rule="preflight-idle",
            remedy=f"Say more than 0 and at most {LONGEST_IDLE_S:g} with --idle.",
        )
    folder = home.expanduser()
    folders.only(folder, "site")
    text = token_text(target, "site preflight")
    whom = target_of(text, utc_now(), folder)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    report = asyncio.run(
        look(
            whom,
            folder,
            utc_now,
            os.environ,
            idle_s=idle,
            proxy=proxy,
            say=lambda title: errors.print(f"… {title}", markup=False),
        )
    )
    out.print(f"Preflight from {report.machine} to {report.address}", markup=False)
    out.print(table(report))
    if report.request:
        out.print(Text("\nTo send to the IT desk", style="bold"))
        typer.echo(f"\n{report.request}")
    out.print(Text(*_SAID[report.status]))
    if json is not None:
        report.save(json)
    _keep(report, AgentFolder(folder), whom)
    if report.status == "fail":
        raise typer.Exit(1)


def _keep(report: Report, folder: AgentFolder, whom: Target) -> None:
    """Where the site's connections find it for the operator's board: in the folder of a site that has joined, or is to join with this
    token. A folder that cannot be written is one of the report's own findings, and no reason to end otherwise."""
    if not folder.joined and not whom.invites_a_site:
        return
    try:
        if not folder.path.exists():
            folder.home.make()
        report.save(folder.preflight)
    except StorageError as error:
        errors.print(f"The report could not be kept for the operator's board: {error.what}", markup=False)
