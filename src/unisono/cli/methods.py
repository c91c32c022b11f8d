"""`unisono methods`: what a study may name."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from unisono.cli.console import out as console
from unisono.methods.packages import packages
from unisono.methods.registry import methods as installed


def methods() -> None:
    """List the installed methods, and the packages of methods and models that are installed here.

    [bold]Example[/]: unisono methods
    """
    table = Table("method", "version", "what it answers", "parameters", box=None, header_style="bold")
    for name, cls in installed().items():
        summary = (cls.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        written = (field.alias or key for key, field in cls.spec_type.model_fields.items())
        cells = (name, str(cls.version), " ".join(summary.split()), ", ".join(written))
        table.add_row(*map(Text, cells))
    console.print(table)
    for package in packages().values():
        console.print(f"package {package.name} {package.version}, content {package.sha256}", markup=False)
