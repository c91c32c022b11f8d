"""`unisono site`: what a hospital does with its own file before it takes part; the network's commands are in `site_network`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.markup import escape

from unisono.cli import backup, preflight, site_install, site_limits, site_network, site_results
from unisono.cli.console import out as console
from unisono.errors import MappingError
from unisono.methods.registry import check as method_checks
from unisono.report import plain_json
from unisono.site.data.mapping import FileFormat
from unisono.site.data.propose import propose
from unisono.site.data.readers import read
from unisono.site.data.snapshot import freeze
from unisono.study.load import load

app = typer.Typer(help="A hospital: its data, its agent, and the studies that it decides on.", no_args_is_help=True)
DataFile = Annotated[Path, typer.Argument(help="CSV or Parquet.")]
StudyFile = Annotated[Path, typer.Argument(help="The study: YAML or JSON.")]


@app.command("map")
def map_(
    data: DataFile,
    study: StudyFile,
    out: Annotated[Path | None, typer.Option("--out", help="Write the proposal here instead of printing it.")] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="How the CSV is written, if not in UTF-8: cp1252 is Excel's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Propose a mapping from a hospital's file to a study's variables; guesses are marked, to be checked by a person.

    [bold]Example[/]: unisono site map padua.csv study.yaml --out padua.mapping.yaml
    """
    if out is not None and out.exists() and not force:
        raise MappingError(
            f"{out} is there already, and may have been checked by a person.",
            rule="keep-files",
            remedy="Name another file with --out, or write over this one with --force.",
        )
    text, notes = propose(read(data, _format(encoding)), load(study, method_checks))
    if out is None:
        typer.echo(text)
    else:
        plain_json.write_text(out, text, "mapping")
        console.print(f"[green]✓[/] {escape(str(out))}")
    for note in notes:
        console.print(f"  - {note}", markup=False)


def _format(encoding: str | None) -> FileFormat:
    try:
        return FileFormat(encoding=encoding)
    except ValidationError:
        raise MappingError(
            f"There is no text encoding {encoding!r}.",
            rule="text-encoding",
            remedy="Usual ones are utf-8, cp1252, latin-1 and utf-16.",
        ) from None


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
    console.print(snapshot.report.table())
    for note in snapshot.report.notes:
        console.print(f"- {note}", markup=False)
    console.print(f"[green]✓[/] {snapshot.table.n} rows can answer this study. This report stays at the hospital.")


site_network.add_to(app)
site_results.add_to(app)
site_install.add_to(app)
site_limits.add_to(app)
backup.add_to_site(app)
app.command("preflight")(preflight.preflight)
