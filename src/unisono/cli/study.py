"""`unisono study`: check a study document, print its schema, print what would leave a hospital."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from unisono.cli.console import errors
from unisono.cli.console import out as console
from unisono.methods.registry import check as method_checks
from unisono.methods.registry import methods
from unisono.report.disclosure_sheet import planned, planned_table
from unisono.study.load import StudyProblems, load
from unisono.study.schema import json_schema

app = typer.Typer(help="Study documents: check, schema, sheet.", no_args_is_help=True)
StudyFile = Annotated[Path, typer.Argument(help="The study: YAML or JSON.")]


@app.command("check")
def check(study: StudyFile) -> None:
    """Check a study document; every problem with its line and what to do.

    [bold]Example[/]: unisono study check study.yaml
    """
    try:
        checked = load(study, method_checks)
    except StudyProblems as problems:
        errors.print(str(problems), markup=False, soft_wrap=True)
        errors.print(
            f"\n{len(problems.problems)} problem{'s' if len(problems.problems) > 1 else ''} in {study}",
            style="bold red",
        )
        raise typer.Exit(1) from problems
    console.print(f"[green]✓[/] {study}: {len(checked.analyses)} analyses over {len(checked.variables)} variables")
    console.print(f"  digest {checked.digest()}")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of study documents, for editors and programs.

    [bold]Example[/]: unisono study schema > study.schema.json
    """
    specs = {name: cls.spec_type.model_json_schema() for name, cls in methods().items()}
    typer.echo(json.dumps(json_schema(specs), indent=2))


@app.command("sheet")
def sheet(study: StudyFile) -> None:
    """Print the disclosure sheet: every leaf that would leave a hospital, how large, how often, protected how.

    [bold]Example[/]: unisono study sheet study.yaml
    """
    checked = load(study, method_checks)
    console.print(f"[bold]{checked.question}[/]\npurpose: {checked.purpose}\n", markup=True)
    console.print(planned_table(planned(checked)))
