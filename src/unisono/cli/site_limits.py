"""`unisono site limits`: what a study's worker process may use on this hospital's machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from unisono.cli.shown import need_network, say, show_table
from unisono.cli.site_network import HOME, HomeOption

_GIB = 1 << 30
_HOUR_S = 3600.0


def add_to(app: typer.Typer) -> None:
    """Put this command under `unisono site`."""
    app.command("limits")(limits)


def limits(
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Of address space: 16GiB; none, for a graphics card, leaves it to the system."),
    ] = None,
    cpu_hours: Annotated[
        float | None, typer.Option("--cpu-hours", help="Processor time of one answer, all threads together.")
    ] = None,
    wall_hours: Annotated[float | None, typer.Option("--wall-hours", help="How long one answer may take.")] = None,
    result: Annotated[str | None, typer.Option("--result", help="Arrays of one question or one answer: 1GiB.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Of a worker's computations.")] = None,
    home: HomeOption = HOME,
) -> None:
    """Show what a study's worker process may use here, and change what is given. It holds from the agent's next start.

    [bold]Example[/]: unisono site limits --memory 32GiB --cpu-hours 12 --threads 4 --home /var/lib/unisono
    """
    need_network()
    from unisono.network.agent import limits as kept
    from unisono.network.agent.folder import AgentFolder

    folder = home.expanduser()
    AgentFolder(folder).settings()  # a site's, that has joined
    before = kept.limits_of(folder)
    chosen = {
        "memory_bytes": None if memory is None or memory == "none" else kept.size(memory),
        "cpu_seconds": None if cpu_hours is None else cpu_hours * _HOUR_S,
        "wall_seconds": None if wall_hours is None else wall_hours * _HOUR_S,
        "result_bytes": None if result is None else kept.size(result),
        "threads": threads,
    }
    changes: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if memory == "none":
        changes["memory_bytes"] = None
    after = replace(before, **changes)
    if after != before:
        kept.keep(folder, after)
    rows = [
        (
            "memory",
            "not limited here" if after.memory_bytes is None else f"{after.memory_bytes / _GIB:g} GiB of address space",
        ),
        ("processor time", f"{after.cpu_seconds / _HOUR_S:g} h an answer"),
        ("time", f"{after.wall_seconds / _HOUR_S:g} h an answer"),
        ("arrays", f"{after.result_bytes / _GIB:g} GiB a question or an answer"),
        ("threads", str(after.threads)),
    ]
    show_table(("a worker's", "limit"), rows)
    if after != before:
        say("kept; the agent takes it up at its next start: systemctl restart unisono-site", good=True)
