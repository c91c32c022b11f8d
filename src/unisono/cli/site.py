"""`unisono site`: what a hospital does with its own file before it takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisono.cli.console import out as console
from unisono.methods.registry import check as method_checks
from unisono.site.data.propose import propose
from unisono.site.data.readers import read
from unisono.site.data.snapshot import freeze
from unisono.study.load import load

app = typer.Typer(help="A hospital's own data: map it to a study, check it.", no_args_is_help=True)
DataFile = Annotated[Path, typer.Argument(help="CSV or Parquet.")]
StudyFile = Annotated[Path, typer.Argument(help="The study: YAML or JSON.")]


@app.command("map")
def map_(
    data: DataFile,
    study: StudyFile,
    out: Annotated[Path | None, typer.Option("--out", help="Write the proposal here instead of printing it.")] = None,
) -> None:
    """Propose a mapping from a hospital's file to a study's variables; guesses are marked, to be checked by a person.

    [bold]Example[/]: unisono site map padua.csv study.yaml --out padua.mapping.yaml
    """
    text, notes = propose(read(data), load(study, method_checks))
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text, "utf-8")
        console.print(f"[green]✓[/] {out}")
    for note in notes:
        console.print(f"  - {note}", markup=False)


@app.command("check")
def check(
    data: DataFile,
    study: StudyFile,
    mapping: Annotated[Path | None, typer.Option("--mapping", help="The site's mapping file.")] = None,
    name: Annotated[str, typer.Option("--name", help="The site's name, for messages.")] = "this-site",
) -> None:
    """Read a hospital's file through its mapping and report what was converted, moved, out of range, missing.

    [bold]Example[/]: unisono site check padua.csv study.yaml --mapping padua.mapping.yaml
    """
    snapshot = freeze(data, mapping, load(study, method_checks), name)
    console.print(snapshot.report.render())
    console.print(f"[green]✓[/] {snapshot.table.n} rows can answer this study. This report stays at the hospital.")
