"""What `unisono study watch` shows: sites, the step that is asked, who is late, bytes, time left. It moves on a terminal; elsewhere it prints a
line for everything that changes."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from unisono.cli.happened import Happened
from unisono.cli.shown import say, table_of, utc_now
from unisono.methods.wording import say_list
from unisono.network.agent.text import plain

if TYPE_CHECKING:
    from unisono.network.researcher import Seen

_STYLES = {"finished": "green", "failed": "red", "refused": "red", "cancelled": "yellow", "withdrawn": "red"}


class WatchView:
    """A context manager; `show` what was seen. What happens to sites stays on the screen as lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._before: dict[str, Any] = {}
        self._happened = Happened()

    def __enter__(self) -> WatchView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, seen: Seen) -> None:
        """One thing that was seen."""
        if seen.away is not None:
            self._line(f"{seen.away.what} It is asked again; the study goes on by itself.", "yellow")
        state, event = clean(seen.state), clean(seen.event or {})
        for line in self._happened.lines(event) if event else ():
            self._line(line, "yellow")
        if self._live is not None:
            self._live.update(self.panel(state), refresh=True)
        else:
            self._changes(state, event)
        self._before = state

    def last(self, state: dict[str, Any]) -> None:
        """The end."""
        if state:
            self._console.print(self.panel(state))

    @staticmethod
    def panel(state: dict[str, Any]) -> RenderableType:
        """A study's status."""
        state = clean(state)
        head = Text.assemble(
            (state["id"], "bold"), "  ", (state["state"], _STYLES.get(state["state"], "cyan")), f"  {state['why']}"
        )
        rows = [
            (name, "yes" if s["online"] else "no", s["decision"], megabytes(s["bytes_in"]), megabytes(s["bytes_out"]), s["why"])
            for name, s in sorted(state["sites"].items())
        ]  # fmt: skip
        table = table_of(("site", "online", "steward", "came", "went", ""), rows)
        parts: list[RenderableType] = [head, Text(f"{state['study']}, by {state['researcher']}", style="dim"), table]
        if (progress := state["progress"]) is not None:
            parts.append(Text(say_progress(progress)))
            if progress.get("without"):
                parts.append(Text(say_without(progress["without"]), style="yellow"))
        if state.get("queued"):
            parts.append(
                Text("ready; other studies are being answered, and it has its turn after them", style="yellow")
            )
        if state["waiting_for"]:
            parts.append(Text(say_late(state, utc_now()), style="yellow"))
        return Group(*parts)

    def _changes(self, state: dict[str, Any], event: dict[str, Any]) -> None:
        """Lines for what is different from what was seen before."""
        before = self._before
        if before.get("state") != state["state"]:
            say(f"{state['id']}: {state['state']} {state['why']}".rstrip(), good=state["state"] == "finished")
            if state["state"] == "waiting" and state["waiting_for"]:
                say(say_late(state, utc_now()))
        for name, site in sorted(state["sites"].items()):
            known = before.get("sites", {}).get(name)
            if known is not None and known["online"] != site["online"]:
                say(f"{name} is {'there' if site['online'] else 'away'}")
            if site["decision"] != ("open" if known is None else known["decision"]):
                say(f"{name}: {site['decision']} {site['why']}".rstrip())
        if event.get("kind") == "analysis":
            say(f"{event['analysis']} ({event['name']}) begins")
        elif event.get("kind") in ("finished", "failed"):
            opened = (state["progress"] or {}).get("opened", 0)
            say(f"{event['analysis']} {event['kind']}: {opened} sums so far", good=event["kind"] == "finished")

    def _line(self, text: str, style: str) -> None:
        self._console.print(Text(f"  {text}", style=style))


def clean(value: Any) -> Any:
    """Words from elsewhere (a steward's reason, say) as a terminal may show them."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list) else value


def say_progress(progress: dict[str, Any]) -> str:
    """Where a run is, in a line."""
    step = f", step {progress['step'] + 1}: {progress['name']}" if progress["step"] >= 0 else ""
    where = f"{progress['analysis']}{step}" if progress["analysis"] else "beginning"
    return f"{where}; {progress['opened']} sums opened{say_left(progress)}"


def say_without(without: dict[str, str]) -> str:
    """Who had no part in the last sum."""
    return "the last sum was without " + ", ".join(f"{site} ({why})" for site, why in sorted(without.items()))


def say_left(progress: dict[str, Any]) -> str:
    """How long it may take yet, from the steps so far: the sums that it may ask at most; a fit that converges needs fewer."""
    each, left = progress.get("seconds_a_sum"), progress.get("sums_left")
    if not isinstance(each, int | float) or not isinstance(left, int) or not left:
        return ""
    return f", at most {left} to come: {span(each * left)} at {span(each)} each"


def say_late(state: dict[str, Any], now: datetime) -> str:
    """Who is waited for, and for how long yet."""
    words = f"waiting for {say_list(state['waiting_for'])}"
    try:
        left = (datetime.fromisoformat(state.get("until") or "") - now).total_seconds()
    except (TypeError, ValueError):
        return words
    return f"{words}, {span(max(left, 0.0))} more (until {when(state['until'])} UTC)"


def span(seconds: float) -> str:
    """A time for a reader: 0.4 s, 12 s, 3 min, 5 h, 12 d."""
    for size, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def megabytes(count: int) -> str:
    """A number of bytes for a reader."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def when(time: str) -> str:
    """A time of a message, to the minute."""
    return time[:16].replace("T", " ")
