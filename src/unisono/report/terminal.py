"""What the command line shows of an answer, a comparison or an error: `rich` renderables, and nothing is printed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from unisono.errors import UnisonoError
from unisono.methods.base import Result
from unisono.methods.wording import say_list
from unisono.report.comparison import Comparison
from unisono.report.isolated import fault
from unisono.report.record import protection_of
from unisono.report.words import cell, digits, gap

if TYPE_CHECKING:
    from unisono.engines.embedded.run import Outcome

LABEL_WIDTH = 22
"""Columns that a table's row labels keep, however many numbers stand beside them."""
_UNLIMITED = 100_000


def answer_panel(outcome: Outcome, sites: Sequence[str] = ()) -> Panel:
    """One analysis: its headline, its table, its notes and how its sums were hidden; or the error that stopped it. sites: all that the run began
    with, to say which of them left; without it nothing is said of that.

    A method whose table cannot be made is told in place of the table.
    """
    if outcome.answer is None:
        assert outcome.error is not None
        return error_panel(outcome.error, title=f"{outcome.analysis}: no answer")
    result = outcome.answer.result
    parts: list[RenderableType] = []
    try:
        parts += [Text(result.headline(), style="bold"), Text(""), summary_table(result)]
    except Exception as error:  # noqa: BLE001  (the other analyses are printed)
        parts.append(Text(f"This analysis has an answer, but its table could not be made. {fault(error)}", style="red"))
    if not result.converged:
        parts.append(Text("This fit did not converge: do not rely on its numbers.", style="bold red"))
    parts += [Text(f"- {note}", style="dim") for note in result.notes]
    hidden = protection_of(result.study, len(outcome.answer.sites))
    by = "" if hidden.threshold is None else f"Hidden by {hidden.hide}, against a {hidden.threat} coordinator. "
    parts += [Text(""), Text(f"{by}{hidden.sentence}", style="dim")]
    patients = outcome.answer.cohort.estimates.get("patients")
    left = sorted(set(sites) - set(outcome.answer.sites))
    who = f"{len(outcome.answer.sites)} hospitals{f' (without {say_list(left)})' if left else ''}"
    who += f", {patients} patients" if patients is not None else ""
    return Panel(
        Group(*parts),
        title=f"[bold]{escape(outcome.analysis)}[/]",
        subtitle=f"[dim]{who}, {outcome.seconds:.1f} s[/]",
        title_align="left",
        subtitle_align="right",
        border_style="cyan",
        padding=(1, 2),
    )


def summary_table(result: Result) -> RenderableType:
    """`result.summary()` for a terminal: numbers to the right, a dash where a number may not be shown."""
    return frame_table(result.summary())


def frame_table(frame: pd.DataFrame) -> RenderableType:
    """Any small table with names as its index. Where there is no room the names keep theirs and the numbers fold."""
    return _Fitted(frame)


@dataclass(frozen=True)
class _Fitted:
    """A table that is laid out when it is known how wide it may be."""

    frame: pd.DataFrame

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = self._table(None)
        wanted = Measurement.get(console, options.update(max_width=_UNLIMITED), whole).maximum
        if wanted <= options.max_width:
            yield whole
            return
        levels = [self.frame.index.get_level_values(k) for k in range(self.frame.index.nlevels)]
        longest = sum(max((len(str(value)) for value in level), default=0) for level in levels)
        room = (options.max_width - (wanted - longest)) // len(levels)
        yield self._table(max(LABEL_WIDTH, room))

    def _table(self, label: int | None) -> Table:
        """label: columns for a name. Names are broken into lines here and then kept, so that rich folds numbers alone."""
        frame = self.frame
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for name in frame.index.names:
            table.add_column(Text(_lines(str(name or ""), label)), justify="left", no_wrap=True, overflow="fold")
        for column in frame.columns:
            table.add_column(Text(str(column)), justify="right", overflow="fold")
        for index, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
            names = index if isinstance(index, tuple) else (index,)
            cells = [cell(value, str(column)) for column, value in zip(frame.columns, row, strict=True)]
            table.add_row(*(Text(_lines(str(n), label)) for n in names), *map(Text, cells))
        return table


def _lines(text: str, width: int | None) -> str:
    return text if width is None else "\n".join(wrap(text, width)) or text


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
    """What happened, which rule, what to do; of an error that holds several problems, each of them."""
    place = f"{error.where}: " if error.where else ""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    problems = getattr(error, "problems", ())
    if len(problems) > 1:
        table.add_row("what", Text(f"{_source(error)}: {len(problems)} problems"))
        for problem in problems:
            table.add_row("", "")
            _add_problem(table, _line(problem) + problem.what, problem.rule, problem.remedy)
    else:
        _add_problem(table, f"{place}{error.what}", error.rule, error.remedy)
    return Panel(table, title=f"[bold]{escape(title)}[/]", title_align="left", border_style="red", padding=(1, 2))


def _add_problem(table: Table, what: str, rule: str, remedy: str) -> None:
    table.add_row("what", Text(what))
    table.add_row("rule", Text(rule))
    table.add_row("what to do", Text(remedy, style="green"))


def _source(error: UnisonoError) -> str:
    """Where several problems are: a study's name (its `where` is the first problem's line), or the place as it is said."""
    return str(getattr(error, "name", None) or error.where or "Here")


def _line(problem: Any) -> str:
    """The place within the source, where there is one: ``line 7: `` of a file, else the keys that lead there."""
    if getattr(problem, "line", None) is not None:
        return f"line {problem.line}: "
    path = ".".join(map(str, getattr(problem, "path", ())))
    return f"{path}: " if path else ""
