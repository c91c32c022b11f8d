"""Live progress of a run: one bar an analysis, the step that is asked, and who is lost, late, waited for or back."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from unisono.cli.happened import Happened
from unisono.federation.events import Event


class _Mark(SpinnerColumn):
    """A spinner, then a green tick, or a red cross for an analysis that has no answer."""

    def render(self, task: Task) -> RenderableType:
        if task.fields.get("failed"):
            return Text("✗", style="red")
        return super().render(task)


class LiveProgress:
    """A context manager whose `observe` is a run's observer. On a terminal it moves; elsewhere it prints lines."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            _Mark(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.fields[analysis]}[/]"),
            TextColumn("{task.fields[method]}"),
            TextColumn("{task.completed:.0f} sums"),
            TextColumn("[dim]{task.fields[step]}[/]"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._happened = Happened()

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
                event.analysis, total=None, analysis=event.analysis, method=escape(event.name), step="", failed=False
            )
            return
        task = self._tasks.get(event.analysis)
        if task is None:
            return
        if event.kind == "step":
            self._progress.update(task, step=escape(event.name))
        elif event.kind in ("opened", "replayed"):
            self._progress.advance(task)
        elif event.kind in ("finished", "failed"):
            done = max(self._progress.tasks[task].completed, 1)
            self._progress.update(task, step="", total=done, completed=done, failed=event.kind == "failed")
        for line in self._happened.lines(vars(event)):
            self._progress.console.print(Text(f"  {line}", style="yellow"))
