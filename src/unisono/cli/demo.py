"""`unisono demo`: the main jobs on real data, each in one command."""

from __future__ import annotations

import threading
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from unisono.api import run as run_study
from unisono.cli import demo_training
from unisono.cli.console import out as console
from unisono.cli.folder import check_folder
from unisono.cli.progress import LiveProgress
from unisono.cli.run import NOT_PROTECTED, show
from unisono.cli.shown import need_network
from unisono.cli.sites import parse_sites
from unisono.demo import lung
from unisono.demo.pooled import compare
from unisono.engines.embedded.run import Settings
from unisono.errors import StudyError
from unisono.methods.registry import check
from unisono.report.terminal import comparison_table
from unisono.study.load import load

DEMOS = ("lung", "training")


def demo(
    name: Annotated[str, typer.Argument(help=f"Which one: {', '.join(DEMOS)}.")] = "lung",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Where to leave data, studies, results and the report.", show_default="unisono-demo"
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier demo's results in that folder.")] = False,
    network: Annotated[
        bool,
        typer.Option(
            "--network", help="As five processes with mutual TLS on this machine, by the commands people type."
        ),
    ] = False,
) -> None:
    """lung: four hospitals answer a survival study on the NCCTG lung trial; one loses its link after masking, one before.
    training: all federated optimisers on two data sets over five hospitals that differ, and the model files that come of it.

    [bold]Example[/]: unisono demo --out my-demo

    [bold]Example[/]: unisono demo training

    [bold]Example[/]: unisono demo --network
    """
    if name not in DEMOS:
        raise StudyError(f"There is no demo {name!r}.", rule="known-demos", remedy=f"There are: {', '.join(DEMOS)}.")
    if network:
        need_network()
    if name == "training":
        place = out or Path("unisono-demo-training-network" if network else "unisono-demo-training")
        if network:
            demo_training.over_network(place, fresh=fresh, shown=_shown, said=_said)
        else:
            demo_training.embedded(place, fresh=fresh)
        return
    if network:
        over_network(out or Path("unisono-demo-network"), fresh=fresh)
        return
    out = out or Path("unisono-demo")
    with as_file(files("unisono.demo").joinpath("lung.study.yaml")) as study:
        check_folder(out, load(study, check), fresh=fresh)
    written = lung.write(out)
    console.print(
        f"[bold]Do women with advanced lung cancer live longer than men?[/] Four hospitals, {len(written.data)} dialects, one answer."
    )
    console.print(f"[dim]{NOT_PROTECTED}[/]\n")
    with LiveProgress(console) as progress:
        settings = Settings(faults=lung.FAULTS, observer=progress.observe, fresh=fresh)
        answered = run_study(written.study, parse_sites([], written.sites), out=out, settings=settings, compare=compare)
    show(answered, out)
    if answered.comparison is not None:
        console.print(comparison_table(answered.comparison))
    shown = escape(str(out))
    console.print(f"\nRead [bold]{shown}/report.html[/]. Check it without any patient: [bold]unisono verify {shown}[/]")
    console.print("To run the same study again yourself (without the demo's faults):")
    again = f"unisono run {written.study} --sites {written.sites} --out {out}-again"
    console.print(f"  [bold]{escape(again)}[/]", soft_wrap=True)
    if answered.errors:
        raise typer.Exit(1)


def over_network(out: Path, *, fresh: bool) -> None:
    """The same demo between processes: what each person types, what the researcher sees, and the three answers compared."""
    from unisono.demo import network as story

    story.begin(out, fresh=fresh)
    console.print(
        "[bold]Do women with advanced lung cancer live longer than men?[/] A coordinator and four hospitals, five"
    )
    console.print("processes with mutual TLS between them. Each line is what somebody types at their own place.")
    console.print(f"[dim]{demo_training.ONE_MACHINE}[/]")
    console.print(f"[dim]In {escape(str(out))}, what each process says is in logs/.[/]\n")
    answer = story.play(out, _shown, _said)
    console.print(Text(answer), soft_wrap=True)
    finished = story.compare(out)
    console.print(comparison_table(finished.comparison))
    same = ", ".join(finished.identical)
    console.print(f"[green]✓[/] {same}: identical, bit for bit, to the same study answered in one process")
    place = escape(str(out))
    console.print(
        f"\nRead [bold]{place}/{story.RESULTS}/report.html[/]. Of each party: its folder in {place}/, its log.jsonl there."
    )


_printing = threading.Lock()


def _shown(who: str, command: str) -> None:
    """What somebody types."""
    with _printing:
        console.print(Text.assemble((f"{who}$ ", "cyan"), (command, "bold")), soft_wrap=True)


def _said(who: str, line: str) -> None:
    """What a process says, or the story."""
    with _printing:
        console.print(Text(line, style="dim" if who else "yellow"), soft_wrap=True)
