"""`unisono demo training`: federated optimisers beside each other on hospitals that differ, and the files that come of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from unisono.cli.console import out as console
from unisono.cli.progress import LiveProgress
from unisono.cli.run import NOT_PROTECTED
from unisono.errors import StorageError

if TYPE_CHECKING:
    from unisono.demo.stage import Listener
    from unisono.demo.training import Compared, Scene

ONE_MACHINE = "All of them run on this machine, for one person: this shows how it works, it does not protect you."
QUESTION = "[bold]Five hospitals, no two alike: which way of training holds?[/]"


def embedded(out: Path, *, fresh: bool) -> None:
    """Both data sets in this process: tables, figures, model files, and those opened elsewhere."""
    from unisono.demo import training

    if fresh:
        _forget(out)
    console.print(
        f"{QUESTION} {', '.join(training.DATA_SETS)}; {'; '.join(training.PLAN.differences())}; sums under secure aggregation."
    )
    console.print(f"[dim]{NOT_PROTECTED}[/]\n")
    scenes = {name: training.prepare(out, name) for name in training.DATA_SETS}
    compared = _compared(scenes)
    with LiveProgress(console) as progress:
        trees = training.boost(scenes["breast-cancer"], progress.observe)
    for name, scene in scenes.items():
        _show(scene, compared[name])
        for opened in training.open_files(scene, compared[name], trees if name == "breast-cancer" else None):
            console.print(
                f"[green]✓[/] {escape(str(opened.file))} opens in plain {opened.program}: the same predictions for {opened.patients:,} "
                f"patients (largest difference {opened.difference:.0e})",
                soft_wrap=True,
            )
        console.print()
    place = escape(str(out))
    console.print(
        f"Read [bold]{place}/breast-cancer/comparison/comparison.html[/] and that of digits: learning curves, gains."
    )
    console.print("To compare methods on other data, split it and run the same:")
    for command in (
        "unisono simulate partition cohort.csv --label died --label-skew 0.3 --out split",
        "unisono compare split/study.yaml --sites split/sites.yaml --methods fedavg,scaffold --out comparison",
    ):
        console.print(f"  [bold]{command}[/]", soft_wrap=True)


def _compared(scenes: dict[str, Scene]) -> dict[str, Compared]:
    """All methods on all data sets, with a bar for each data set."""
    from unisono.demo import training
    from unisono.workbench.contest import METHODS
    from unisono.workbench.trial import REFERENCES

    contestants = [*REFERENCES, *METHODS]
    with Progress(
        TextColumn("[bold]{task.fields[name]}[/]"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.description}[/]"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        bars: dict[str, TaskID] = {
            name: progress.add_task("", total=len(contestants), name=name, start=False) for name in scenes
        }
        found = {}
        for name, scene in scenes.items():
            bar, sums = bars[name], 0
            progress.start_task(bar)

            def told(method: str, _: int, opened: str, bar: TaskID = bar) -> None:
                nonlocal sums
                sums = sums + 1 if opened else 0
                progress.update(bar, description=f"{method}, {sums} sums" if opened else "", advance=0 if opened else 1)

            found[name] = training.compare(scene, told=told)
            progress.stop_task(bar)
    return found


def _show(scene: Scene, compared: Compared) -> None:
    from unisono.workbench.contest_page import columns, legend, remarks, row

    aim = compared.contest.aim
    table = Table(title=f"{scene.name}: {len(compared.contest.data)} hospitals, label skew 0.1, feature shift, secagg")
    for k, head in enumerate(columns(aim)):
        table.add_column(head, justify="left" if k == 0 else "right")
    for standing in compared.table:
        table.add_row(*map(escape, row(standing, aim)))
    console.print(table)
    console.print(legend(aim), style="dim", markup=False)
    for text in remarks(compared.table, aim):
        console.print(text, style="dim", markup=False)
    for standing in compared.table:
        for why in dict.fromkeys(standing.failed):
            console.print(f"[yellow]{standing.method}[/]: {escape(why)}")


def over_network(out: Path, *, fresh: bool, shown: Listener, said: Listener) -> None:
    """One method between processes, and the same study in one process."""
    from unisono.demo import training_network as story

    story.begin(out, fresh=fresh)
    console.print(
        f"{QUESTION} Here {story.METHOD}, on {story.NAME}: a coordinator and five hospitals, six processes with mutual"
    )
    console.print("TLS between them. Each line is what somebody types at their own place.")
    console.print(f"[dim]{ONE_MACHINE}[/]")
    console.print(f"[dim]In {escape(str(out))}, what each process says is in logs/.[/]\n")
    answer = story.play(out, shown, said)
    console.print(answer, markup=False, soft_wrap=True)
    finished = story.compare(out)
    table = Table("round", title="Validation loss")
    for head in ("over the network", "in one process", "difference"):
        table.add_column(head, justify="right")
    for k, (there, here) in enumerate(finished.rounds):
        table.add_row(str(k), f"{there:.6f}", f"{here:.6f}", f"{abs(there - here):.0e}")
    console.print(table)
    console.print(
        f"[green]✓[/] the same training: the final validation loss differs by {finished.largest:.0e}. Model updates are rounded at random"
        " before they are masked, anew in every run: the two cannot agree bit for bit, and agree to within that rounding.",
        soft_wrap=True,
    )
    place = escape(str(out))
    console.print(
        f"\nRead [bold]{place}/results/report.html[/]. The model: {place}/results/model/. Each party: its folder in {place}/."
    )


def _forget(out: Path) -> None:
    """An earlier demo of this kind, and nothing else."""
    import shutil

    from unisono.demo.training import DATA_SETS
    from unisono.federation.storage import storage
    from unisono.workbench.written import RECORD

    for name in DATA_SETS:
        if (out / name).exists():
            if not (out / name / RECORD).exists():
                raise StorageError(
                    f"{out / name} is no earlier demo.", rule="own-folder", remedy="Name a new folder with --out."
                )
            with storage(out, "demo folder"):
                shutil.rmtree(out / name)
