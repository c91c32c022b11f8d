"""What the network's commands share: a line that says something, a table, the clock, and whether the network's packages are here."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec

from rich import box
from rich.table import Table
from rich.text import Text

from unisono.cli.console import out as console
from unisono.errors import MissingExtra


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
