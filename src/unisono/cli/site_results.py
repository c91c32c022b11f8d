"""`unisono site results`: what the studies that this hospital took part in found, as its researcher sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisono.cli.console import out as console
from unisono.cli.shown import show_table
from unisono.cli.site_network import HOME, HomeOption, desk_of
from unisono.errors import NetworkError


def add_to(app: typer.Typer) -> None:
    """Put this command under `unisono site`."""
    app.command("results")(results)


def results(
    study: Annotated[
        str | None, typer.Argument(help="The study's id, or the beginning of its digest; without it, all that came.")
    ] = None,
    home: HomeOption = HOME,
) -> None:
    """Show the results of a study that this hospital took part in, where they are, and what the study left at this hospital alone, such
    as a model of its own; without a name, list all that came.

    [bold]Example[/]: unisono site results als-survival
    """
    with desk_of(home) as desk:
        from unisono.network.agent.results import found, own
        from unisono.report.delivered import read
        from unisono.report.html import REPORT
        from unisono.report.terminal import answer_panel

        entries = desk.inbox.all() if study is None else [desk.inbox.find(study)]
        folders = {entry.digest: found(desk.folder.path, entry) for entry in entries}
        here = own(desk.folder.path, entries[0]) if study is not None else []
    if study is None:
        rows = [(e.id, e.digest[:12], e.researcher, _where(folders[e.digest])) for e in entries if folders[e.digest]]
        if not rows:
            console.print("No results came yet. They come by themselves when a study is answered.", markup=False)
            return
        show_table(("study", "digest", "by", "folder"), rows)
        return
    folder = folders[entries[0].digest]
    for path in here:
        console.print(f"This hospital's own, which stays here: {path}", markup=False, soft_wrap=True)
    if folder is None and here:
        console.print(f"No results came yet: the coordinator says {entries[0].state}.", markup=False)
        return
    if folder is None:
        raise NetworkError(
            f"No results of {entries[0].id!r} came yet: the coordinator says {entries[0].state}.",
            rule="no-results",
            remedy="They come by themselves, when the study is answered and the agent serves.",
        )
    delivered = read(folder)
    for outcome in delivered.outcomes.values():
        console.print(answer_panel(outcome, delivered.sites))
    console.print(
        f"Results in {folder}: {REPORT} for reading, <analysis>/result.json for programs.", markup=False, soft_wrap=True
    )


def _where(folder: Path | None) -> str:
    return "" if folder is None else str(folder)
