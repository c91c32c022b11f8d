"""`unisono study`: check a study document, print its schema, print what would leave a hospital."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from unisono.cli import study_network
from unisono.cli.console import errors
from unisono.cli.console import out as console
from unisono.errors import StudyError
from unisono.methods.registry import check as method_checks
from unisono.methods.registry import methods
from unisono.report import hiding, plain_json
from unisono.report.disclosure_sheet import csv_text, planned, planned_table
from unisono.study.document import Study
from unisono.study.load import StudyProblems, load
from unisono.study.schema import json_schema

app = typer.Typer(help="Studies: check the document, and have it answered by a federation.", no_args_is_help=True)
StudyFile = Annotated[Path, typer.Argument(help="The study: YAML or JSON.")]


@app.command("check")
def check(
    study: StudyFile,
    sites: Annotated[
        int | None, typer.Option("--sites", help="How many hospitals will take part: who must stay, who may be lost.")
    ] = None,
) -> None:
    """Check a study document: every problem with its line and what to do; and how many hospitals may be lost.

    [bold]Example[/]: unisono study check study.yaml --sites 5
    """
    try:
        checked = load(study, method_checks)
    except StudyProblems as problems:
        errors.print(str(problems), markup=False, soft_wrap=True)
        errors.print(
            f"\n{len(problems.problems)} problem{'s' if len(problems.problems) > 1 else ''} in {escape(str(study))}",
            style="bold red",
        )
        raise typer.Exit(1) from problems
    console.print(
        f"[green]✓[/] {escape(str(study))}: {len(checked.analyses)} analyses over {len(checked.variables)} variables"
    )
    console.print(f"  digest {checked.digest()}")
    _show_hiding(checked, sites)


def _show_hiding(study: Study, sites: int | None) -> None:
    """How the sums are hidden; with `sites` hospitals, or with a few numbers of them."""
    if not hiding.hides(study):
        console.print(f"  [yellow]![/] {hiding.how(study)}")
        return
    console.print(f"  hidden by {hiding.how(study)}")
    if sites is None:
        rows = hiding.examples(study)
        console.print(hiding.table(rows))
        console.print(f"  {hiding.legend(rows)}")
        tight = [row for row in rows if not row.may_be_lost]
    else:
        row = hiding.outlook(study, sites)
        tight = [] if row.may_be_lost else [row]
        if row.may_be_lost:
            console.print(f"  {row.sentence}")
        console.print(f"  {row.pieces}")
    for row in tight:
        console.print(f"  [yellow]![/] {row.sentence}")
    mark = "[yellow]![/] " if hiding.warns(study) else ""
    console.print(f"  {mark}lost before masking: {hiding.ON_DROPOUT[study.participation.on_dropout]}")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of study documents, for editors and programs.

    [bold]Example[/]: unisono study schema > study.schema.json
    """
    specs = {name: cls.spec_type.model_json_schema() for name, cls in methods().items()}
    typer.echo(json.dumps(json_schema(specs), indent=2))


@app.command("sheet")
def sheet(
    study: StudyFile,
    to: Annotated[Path | None, typer.Option("--csv", help="Write the whole sheet to this .csv file instead.")] = None,
) -> None:
    """Print the disclosure sheet: every leaf that would leave a hospital, how large, how often, protected how.

    [bold]Example[/]: unisono study sheet study.yaml
    """
    checked = load(study, method_checks)
    rows = planned(checked)
    if to is not None:
        if to.suffix != ".csv":
            raise StudyError(f"{to} is no CSV.", rule="csv-file", remedy="Name a file that ends in .csv.")
        plain_json.write_text(to, csv_text(rows), "disclosure sheet")
        console.print(f"[green]✓[/] {escape(str(to))}")
        return
    console.print(f"[bold]{escape(checked.question)}[/]\npurpose: {escape(checked.purpose)}\n")
    console.print(planned_table(rows, console.width))


study_network.add_to(app)
