"""`unisono report`: write a run's report again from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisono.cli.console import out as console
from unisono.report.html import write_report
from unisono.report.load import load


def report(out: Annotated[Path, typer.Argument(help="The folder that a run wrote.")]) -> None:
    """Write report.html again from the results in a folder.

    [bold]Example[/]: unisono report results/
    """
    path = write_report(load(out))
    console.print(f"[green]✓[/] {path}")
