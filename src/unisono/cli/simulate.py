"""`unisono simulate`: protocols put to the test on this computer, over many random schedules of faults and attacks; data split
over simulated sites (`unisono.cli.simulate_partition`)."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from unisono.cli.console import errors as error_console
from unisono.cli.console import out as console
from unisono.cli.simulate_partition import partition
from unisono.errors import StorageError, UnisonoError
from unisono.simulation.run import play, play_all
from unisono.simulation.tally import LEAST_P, Tally

app = typer.Typer(
    help="Put a protocol to the test, or split data over simulated sites.\n\n"
    "Begin with: unisono simulate secagg --sites 12 --schedules 2000 --seed 7\n\n"
    "or: unisono simulate partition breast-cancer --label-skew 0.1 --out split",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

SHOWN_FAILURES = 10
WIDE = 250
"""Columns for the tables where the output is no terminal: the longest list of rules in one line, for `grep`."""


@app.callback()
def group() -> None:
    """Put a protocol to the test, or split data over simulated sites."""


app.command("partition")(partition)


@app.command("secagg")
def secagg(
    sites: Annotated[int, typer.Option("--sites", help="The largest federation, 3 to 40 sites.")] = 12,
    schedules: Annotated[int, typer.Option("--schedules", help="How many schedules.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same schedules, on any computer.")] = 7,
    jobs: Annotated[int, typer.Option("--jobs", help="Processes. The totals do not depend on them.")] = 2,
    replay: Annotated[
        int | None, typer.Option("--replay", help="Play this one schedule, and print what each side said.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the counts to this file.")] = None,
) -> None:
    """Secure aggregation: drop-outs, crashes, altered and replayed messages, colluding sites, a lying coordinator.

    After every operation a ledger of what an adversary knows is checked: sums are exact or not opened at all; no step
    opens for two sets of sites; nobody's two shares are out; no mask hides two vectors; masked vectors are noise.
    Exit code 0 if all invariants hold, 1 if not.

    [bold]Example[/]: unisono simulate secagg --sites 12 --schedules 20000 --seed 7
    """
    if replay is not None:
        _replay(seed, replay, sites)
        return
    if json_file is not None:
        _can_be_written(json_file)
    batches = play_all(seed, schedules, sites, jobs)
    tally = Tally()
    with Progress(
        TextColumn("[bold]secure aggregation[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("schedules"),
        TimeRemainingColumn(),
        console=error_console,
    ) as progress:
        task = progress.add_task("schedules", total=schedules)
        for count, batch in batches:
            tally.add(batch)
            progress.advance(task, count)
    _show(tally)
    if json_file is not None:
        _write(json_file, tally, sites=sites, seed=seed)
    for index, what in tally.failures[:SHOWN_FAILURES]:
        console.print(f"[red]✗[/] schedule {index}: {escape(what)}")
        console.print(f"    unisono simulate secagg --sites {sites} --seed {seed} --replay {index}", soft_wrap=True)
    if not tally.uniform:
        console.print(f"[red]✗[/] masked vectors are not uniform (p below {LEAST_P:g})")
    if tally.holds:
        console.print(_all_hold(tally), soft_wrap=True)
        return
    console.print(f"[red]✗[/] invariants are broken in {len(tally.failures)} of {tally.schedules} schedules")
    raise typer.Exit(1)


def _replay(seed: int, index: int, sites: int) -> None:
    if index < 0:
        raise UnisonoError(
            f"There is no schedule {index}.",
            rule="simulation-schedule",
            remedy="Schedules are counted from 0: give --replay the number that a failing schedule was printed with.",
        )
    tally = Tally()
    played = play(seed, index, sites, tally)
    console.print(f"Schedule {index} of seed {seed}, at most {sites} sites", style="bold")
    for number, line in enumerate(played.trace):
        console.print(f"{number:4d}  {line}", markup=False, soft_wrap=True)
    if played.broken:
        raise typer.Exit(1)
    console.print(_all_hold(tally), soft_wrap=True)


def _all_hold(tally: Tally) -> str:
    """The last line. A schedule in which a coordinator lied where it was trusted breaks no promise: it is said nevertheless."""
    beyond = tally.beyond.total()
    if not beyond:
        return "[green]✓[/] all invariants hold"
    outside = "1 schedule" if beyond == 1 else f"{beyond:,} schedules"
    where = " and ".join(sorted(tally.beyond)) if tally.schedules == 1 else "see the table"
    return f"[green]✓[/] all invariants hold within what is promised ({outside} outside: {where})"


def _tables() -> Console:
    """Where tables are printed: as wide as they are where the output is no terminal, so that no rule's name is cut."""
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(file=console.file, highlight=False, width=WIDE)


def _show(tally: Tally) -> None:
    out = _tables()
    out.print(f"{tally.schedules:,} schedules, {tally.operations:,} operations")
    out.print(_counts("Federations", ("coordinator and line, threat, graph", "schedules"), tally.federations))
    out.print(_counts("Sums", ("attempts that ended as", "number"), tally.sums))
    out.print(_counts("Clean aborts, by cause", ("rule", "number"), tally.aborts))
    out.print(_counts("Faults", ("what went wrong", "number"), tally.faults))
    out.print(_attacks(tally.attacks))
    out.print(_culprits(tally.culprits))
    if tally.beyond:
        out.print(_counts("Outside what is promised", ("setting", "schedules"), tally.beyond))
    table = Table("masked vectors of honest sites", title="Are they noise? (256 byte values against uniform)")
    for head in ("bytes", "chi-square (255 d.f.)", "p"):
        table.add_column(head, justify="right")
    for kind, (seen, statistic, p) in tally.uniformity().items():
        table.add_row(kind, f"{seen:,}", f"{statistic:.1f}", f"{p:.3g}")
    out.print(table)


def _counts(title: str, heads: tuple[str, str], counts: Mapping[str, int]) -> Table:
    table = Table(heads[0], title=title)
    table.add_column(heads[1], justify="right")
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        table.add_row(escape(name), f"{counts[name]:,}")
    return table


def _attacks(attacks: Mapping[tuple[str, str], int]) -> Table:
    """An answer is no success: what it tells is in the ledger, which found no harm in it."""
    table = Table("the coordinator ...", title="Attacks, and what the sites asked said")
    for head in ("asked", "refused", "answered, no harm", "nobody there"):
        table.add_column(head, justify="right")
    table.add_column("refused by", overflow="fold")
    for kind in sorted({kind for kind, _ in attacks}):
        ways = {how: n for (name, how), n in attacks.items() if name == kind}
        rules = Counter({how.removeprefix("refused: "): n for how, n in ways.items() if how.startswith("refused")})
        numbers = (sum(ways.values()), rules.total(), ways.get("answered", 0), ways.get("nobody there", 0))
        by = ", ".join(sorted(rules, key=lambda rule: (-rules[rule], rule)))
        table.add_row(kind, *(f"{number:,}" for number in numbers), by)
    return table


def _culprits(culprits: Mapping[tuple[str, str], int]) -> Table:
    table = Table("a colluding site's ...", title="What could be told of misbehaving sites")
    heads = ("named", "noticed, nobody named", "another one named", "not noticed")
    for head in heads:
        table.add_column(head, justify="right")
    for misdeed in sorted({misdeed for misdeed, _ in culprits}):
        table.add_row(misdeed, *(f"{culprits.get((misdeed, head), 0):,}" for head in heads))
    return table


def _can_be_written(path: Path) -> None:
    """Asked before the schedules are played: they may take an hour."""
    folder = path.absolute().parent
    if path.is_dir():
        raise _not_written(path, "it is a folder")
    if not folder.is_dir():
        raise _not_written(path, "there is no such folder")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise _not_written(path, "no permission")


def _not_written(path: Path, why: str) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {why}.",
        rule="storage",
        remedy="Give --json a file in a folder that exists and that you may write to.",
    )


def _write(path: Path, tally: Tally, **about: int) -> None:
    try:
        path.write_text(json.dumps({**about, **tally.to_tree()}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise _not_written(path, error.strerror or "the system refused") from error
