"""What the command line shows of an answer, a comparison or an error: `rich` renderables, and nothing is printed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from unisono.errors import UnisonoError
from unisono.methods.base import Result
from unisono.report.comparison import Comparison
from unisono.report.words import cell, digits, gap

if TYPE_CHECKING:
    from unisono.engines.embedded.run import Outcome


def answer_panel(outcome: Outcome) -> Panel:
    """One analysis: its headline, its table and its notes; or the error that stopped it."""
    if outcome.answer is None:
        assert outcome.error is not None
        return error_panel(outcome.error, title=f"{outcome.analysis}: no answer")
    result = outcome.answer.result
    parts: list[RenderableType] = [Text(result.headline(), style="bold"), Text(""), summary_table(result)]
    if not result.converged:
        parts.append(Text("This fit did not converge: do not rely on its numbers.", style="bold red"))
    parts += [Text(f"- {note}", style="dim") for note in result.notes]
    patients = outcome.answer.cohort.estimates.get("patients")
    who = f"{len(outcome.answer.sites)} hospitals" + (f", {patients} patients" if patients is not None else "")
    return Panel(
        Group(*parts),
        title=f"[bold]{escape(outcome.analysis)}[/]",
        subtitle=f"[dim]{who}, {outcome.seconds:.1f} s[/]",
        title_align="left",
        subtitle_align="right",
        border_style="cyan",
        padding=(1, 2),
    )


def summary_table(result: Result) -> Table:
    """`result.summary()` for a terminal: numbers to the right, a dash where a number may not be shown."""
    return frame_table(result.summary())


def frame_table(frame: pd.DataFrame) -> Table:
    """Any small table with names as its index."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in frame.index.names:
        table.add_column(escape(str(name or "")), justify="left", overflow="fold")
    for column in frame.columns:
        table.add_column(escape(str(column)), justify="right", no_wrap=True)
    for index, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        names = index if isinstance(index, tuple) else (index,)
        cells = [cell(value, str(column)) for column, value in zip(frame.columns, row, strict=True)]
        table.add_row(*(escape(text) for text in (*map(str, names), *cells)))
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Federated and pooled side by side, with enough digits to see that they agree."""
    table = Table(
        title=escape(comparison.sentence),
        caption=f"Largest relative difference: {gap(comparison.largest)}",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        header_style="bold",
    )
    table.add_column("")
    for heading in ("federated", "pooled", "relative difference"):
        table.add_column(heading, justify="right")
    for (quantity, federated, pooled), apart in zip(comparison.rows, comparison.differences, strict=True):
        table.add_row(escape(quantity), digits(federated), digits(pooled), gap(apart))
    return table


def error_panel(error: UnisonoError, *, title: str = "Stopped") -> Panel:
    """What happened, which rule, what to do."""
    place = f"{error.where}: " if error.where else ""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("what", Text(f"{place}{error.what}"))
    table.add_row("rule", Text(error.rule))
    table.add_row("what to do", Text(error.remedy, style="green"))
    return Panel(table, title=f"[bold]{escape(title)}[/]", title_align="left", border_style="red", padding=(1, 2))
