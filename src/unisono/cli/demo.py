"""`unisono demo`: the main job on real data, in one command."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from unisono.api import run as run_study
from unisono.cli.console import out as console
from unisono.cli.folder import check_folder
from unisono.cli.progress import LiveProgress
from unisono.cli.run import NOT_PROTECTED, show
from unisono.cli.sites import parse_sites
from unisono.demo import lung
from unisono.demo.pooled import compare
from unisono.engines.embedded.run import Settings
from unisono.errors import StudyError
from unisono.methods.registry import check
from unisono.report.terminal import comparison_table
from unisono.study.load import load

DEMOS = ("lung",)


def demo(
    name: Annotated[str, typer.Argument(help=f"Which one: {', '.join(DEMOS)}.")] = "lung",
    out: Annotated[Path, typer.Option("--out", help="Where to leave data, studies, results and the report.")] = Path(
        "unisono-demo"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier demo's results in that folder.")] = False,
) -> None:
    """Four hospitals answer a survival study on the NCCTG lung trial; one loses its link after masking, one before.

    [bold]Example[/]: unisono demo --out my-demo
    """
    if name not in DEMOS:
        raise StudyError(f"There is no demo {name!r}.", rule="known-demos", remedy=f"There are: {', '.join(DEMOS)}.")
    with as_file(files("unisono.demo").joinpath("lung.study.yaml")) as study:
        check_folder(out, load(study, check))
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
