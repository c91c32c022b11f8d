"""`unisono compare`: federated optimisers beside each other on one study, under one budget, against pooled and against alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from unisono.cli.console import out as console
from unisono.cli.run import NOT_PROTECTED
from unisono.cli.sites import parse_sites
from unisono.errors import StudyError
from unisono.methods.registry import check
from unisono.study.load import load


def compare(
    study: Annotated[Path, typer.Argument(help="The study: YAML or JSON, with an analysis that trains.")],
    sites: Annotated[Path, typer.Option("--sites", help="A YAML file of sites, as for `unisono run`.")],
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="Which, with commas between them. If not said: fedavg, fedprox, scaffold, fedadam, fedbn, ditto and fedrep, "
            "as far as the model allows them.",
        ),
    ] = None,
    analysis: Annotated[
        str | None, typer.Option("--analysis", help="Whose model and budget, if the study has several.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Runs of each method: seeds 1, 2, ...", min=1, max=100)] = 3,
    target: Annotated[
        float, typer.Option("--target", help="Share of what pooling reaches that counts as reached.", min=0.01, max=1)
    ] = 0.95,
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="The folder. The same command again goes on; with other methods, they join the table."
        ),
    ] = Path("comparison"),
) -> None:
    """Run methods under the same budget (model, split, seeds, rounds, local work) over simulated sites, and two references with the
    same code: everybody's patients pooled, and each site alone.

    Writes a table (CSV, JSON), learning curves, each site's gain over learning alone, and comparison.html.

    [bold]Example[/]: unisono compare split/study.yaml --sites split/sites.yaml --methods fedavg,fedprox,scaffold --out comparison
    """
    from dataclasses import replace

    from unisono.workbench.contest import USUAL, Contest
    from unisono.workbench.contest_page import PAGE, columns, legend, remarks, row, write
    from unisono.workbench.standings import standings

    asked = load(study, check)
    said = USUAL if methods is None else methods.split(",")
    named = tuple(dict.fromkeys(name.strip() for name in said if name.strip()))
    if analysis is None and len(asked.analyses) > 1:
        raise StudyError(
            f"The study has {len(asked.analyses)} analyses: {', '.join(asked.analyses)}.",
            rule="known-analyses",
            remedy="Say with --analysis whose model, features and budget the methods are given.",
        )
    contest = Contest(
        asked, analysis or next(iter(asked.analyses)), named, tuple(range(1, seeds + 1)), parse_sites([], sites), out
    )
    left_out = contest.unable() if methods is None else {}
    contest = replace(contest, methods=tuple(name for name in named if name not in left_out))
    aim = replace(contest.aim, share=target)
    with Progress(
        TextColumn("[bold]{task.description}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        whole = progress.add_task("runs", total=len(contest.names()))
        sums = progress.add_task("sums of this run", total=None)

        def told(method: str, seed: int, opened: str) -> None:
            if opened:
                progress.update(sums, description=f"{method}, seed {seed}", advance=1)
            else:
                progress.advance(whole)
                progress.reset(sums, total=None)

        trials = contest.run(told)
        progress.remove_task(sums)
    files = write(trials, aim, contest.about(trials), out)
    found = standings(trials, aim)
    table = Table(title=f"{asked.id}: {len(contest.data)} sites, {seeds} seed{'s' if seeds > 1 else ''}")
    for k, head in enumerate(columns(aim)):
        table.add_column(head, justify="left" if k == 0 else "right")
    for standing in found:
        table.add_row(*map(escape, row(standing, aim)))
    console.print(table)
    console.print(legend(aim), style="dim", markup=False)
    for text in remarks(found, aim):
        console.print(text, style="dim", markup=False)
    for name, error in left_out.items():
        console.print(f"{name} was left out: {error.what}", style="dim", markup=False)
    for standing in found:
        for why in dict.fromkeys(standing.failed):
            console.print(f"[yellow]{standing.method}[/]: {escape(why)}")
    console.print(f"Read [bold]{escape(str(out / PAGE))}[/]; beside it {len(files) - 1} files (table, figures).")
    console.print(f"[dim]{NOT_PROTECTED}[/]")
    if any(standing.failed for standing in found):
        raise typer.Exit(1)
