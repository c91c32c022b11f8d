"""`unisono report`: write a run's report again from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from unisono.cli.console import out as console
from unisono.report.html import write_noted
from unisono.report.load import load


def report(out: Annotated[Path, typer.Argument(help="The folder that a run wrote.")]) -> None:
    """Write report.html again from the results in a folder.

    [bold]Example[/]: unisono report results/
    """
    path, notes = write_noted(load(out))
    console.print(f"[green]✓[/] {escape(str(path))}")
    for note in notes:
        console.print(f"- {note}", markup=False)
