"""`unisono site preflight`: whether this machine can take part, and what to ask the IT desk if it cannot yet."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from unisono.cli.console import errors, out
from unisono.errors import MissingExtra, NetworkError

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

    After joining, it goes to the operator's board (unisono coordinator readiness) with the agent's next connection.

    [bold]Example[/]: unisono site preflight coordinator.example.org:443 --json preflight.json
    """
    try:
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
    text = typer.get_text_stream("stdin").read() if target == "-" else target
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
    member = AgentFolder(folder)
    if member.joined:  # the operator's board shows the verdict from the agent's next connection on
        report.save(member.preflight)
    if report.status == "fail":
        raise typer.Exit(1)
