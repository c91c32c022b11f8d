"""Live progress of a run: one bar an analysis, the step that is asked, and who is lost, waited for or recovered."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from unisono.federation.events import Event

_SAID = {
    "lost": "[yellow]{site}[/] lost its link (at {name})",
    "waiting": "waiting for [yellow]{site}[/]: its part was not in, so the fit waits",
    "returned": "[green]{site}[/] is back: the step is asked again, under fresh masks",
    "recovered": "[green]{site}[/]'s part counts: it was in before the link was lost, its masks were recovered",
    "left": "[red]{site}[/] is out for good: everything is recomputed on those who stayed",
}


class LiveProgress:
    """A context manager whose `observe` is a run's observer. On a terminal it moves; elsewhere it prints lines."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.fields[analysis]}[/]"),
            TextColumn("{task.fields[method]}"),
            TextColumn("{task.completed:.0f} sums"),
            TextColumn("[dim]{task.fields[step]}[/]"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> LiveProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def observe(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "analysis":
            self._tasks[event.analysis] = self._progress.add_task(
                event.analysis, total=None, analysis=event.analysis, method=event.name, step=""
            )
            return
        task = self._tasks.get(event.analysis)
        if task is None:
            return
        if event.kind == "step":
            self._progress.update(task, step=event.name)
        elif event.kind in ("opened", "replayed"):
            self._progress.advance(task)
        elif event.kind == "finished":
            self._progress.update(task, step="", total=max(self._progress.tasks[task].completed, 1))
        elif event.kind in _SAID:
            self._progress.console.print("  " + _SAID[event.kind].format(site=event.site, name=event.name))
