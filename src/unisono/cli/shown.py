"""What the network's commands share: a line that says something, a table, the clock, and whether the network's packages are here."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from unisono.cli.console import errors
from unisono.cli.console import out as console
from unisono.errors import EnrolmentError, MissingExtra


def need_network() -> None:
    """`MissingExtra` if the network's packages are not installed."""
    try:
        installed = find_spec("grpc") is not None and find_spec("google.protobuf") is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        raise MissingExtra(
            "The network needs gRPC and protobuf, which are not installed.",
            rule="missing-extra",
            remedy="Install them with: pip install 'unisono[network]'.",
        )
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def utc_now() -> datetime:
    """The clock of a command."""
    return datetime.now(UTC)


def say(what: str, *, good: bool = False) -> None:
    """One line: done, or under way."""
    console.print(Text.assemble(("✓ ", "green") if good else ("… ", "dim"), what))


def confirm(question: str) -> None:
    """Ask y/N. Without a yes, or without anybody to ask, the command ends here with exit code 1: it has changed nothing yet."""
    try:
        yes = typer.confirm(question)
    except typer.Abort:  # no terminal, or Ctrl-C
        errors.print()
        yes = False
    if not yes:
        errors.print("Nothing was changed. Without a terminal, say --yes.", markup=False)
        raise typer.Exit(1)


def token_text(argument: str, command: str) -> str:
    """A token from the command line, or - from standard input. `EnrolmentError` for the name of a file: it is not the token."""
    if argument == "-":
        return typer.get_text_stream("stdin").read()
    name = argument.strip()
    if not name.startswith("unisono1.") or name.endswith(".token"):
        with suppress(OSError, ValueError):
            if name.endswith(".token") or (name and Path(name).expanduser().is_file()):
                raise EnrolmentError(
                    f"{name[:200]!r} is the name of a file, and not the token in it.",
                    rule="token-form",
                    remedy=f"Give the file's content: unisono {command} - < {name[:200]}",
                )
    return argument


def show_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, whole: Collection[str] = ()) -> None:
    """A table of texts, shown as they are. whole: the columns that are not folded however narrow the terminal is."""
    console.print(table_of(heads, rows, whole=whole))


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]], *, whole: Collection[str] = ()) -> Table:
    """The table, to be shown."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head in whole)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
