"""`unisono run`: answer a study here, over files that this process can read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from unisono.api import StudyResult
from unisono.api import run as run_study
from unisono.cli.console import out as console
from unisono.cli.folder import check_folder
from unisono.cli.progress import LiveProgress
from unisono.cli.sites import parse_sites
from unisono.engines.embedded.run import Settings
from unisono.methods.registry import check
from unisono.report.terminal import answer_panel
from unisono.study.load import load

NOT_PROTECTED = "All hospitals ran in this process: this shows the protocol, it does not protect you."


def run(
    study: Annotated[Path, typer.Argument(help="The study: YAML or JSON.")],
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site", help="NAME=DATA or NAME=DATA,MAPPING. Once for each site.", metavar="NAME=DATA[,MAPPING]"
        ),
    ] = None,
    sites: Annotated[
        Path | None, typer.Option("--sites", help="A YAML file of sites: name -> {data: ..., mapping: ...}.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder of results. The same folder again goes on.")] = Path(
        "results"
    ),
    analysis: Annotated[
        list[str] | None, typer.Option("--analysis", help="Only this analysis. May be repeated.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what the folder holds, and begin anew.")] = False,
) -> None:
    """Answer a study over sites in this process: tables here, results and report.html in the folder.

    [bold]Example[/]: unisono run study.yaml --site padua=padua.csv --site turin=turin.csv,turin.yaml --site leiden=leiden.parquet
    """
    data = parse_sites(site or [], sites)
    asked = load(study, check)
    check_folder(out, asked, fresh=fresh)
    with LiveProgress(console) as progress:
        settings = Settings(analyses=analysis, fresh=fresh, observer=progress.observe)
        answered = run_study(asked, data, out=out, settings=settings)
    show(answered, out)
    console.print(f"[dim]{NOT_PROTECTED}[/]")
    if answered.errors:
        raise typer.Exit(1)


def show(answered: StudyResult, out: Path) -> None:
    """Print every answer, and where the files are."""
    for outcome in answered.completed.outcomes.values():
        console.print(answer_panel(outcome, answered.completed.sites))
    for note in answered.notes:
        console.print(f"- {note}", style="dim", markup=False)
    for_reading = "report.html for reading, " if answered.report.exists() else ""
    if all(outcome.answer is None for outcome in answered.completed.outcomes.values()):
        console.print(f"No analysis has an answer. In [bold]{escape(str(out))}[/]: {for_reading}run.json says why.")
        return
    console.print(
        f"Results in [bold]{escape(str(out))}[/]: {for_reading}<analysis>/result.json for programs; FILES.md says who may"
        " see what."
    )
