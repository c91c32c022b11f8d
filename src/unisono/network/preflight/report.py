"""What preflight found: one record a check, as a table for a terminal and as JSON for a ticket or a board."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from unisono.federation.storage import write_whole

Status = Literal["ok", "warn", "fail", "skipped"]
Detail = str | int | float | bool | None | list[str]
MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warn": ("!", "yellow"),
    "fail": ("✗", "bold red"),
    "skipped": ("-", "dim"),
}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Found(_Model):
    """What one check says. todo: what whoever runs preflight should do; ask: what the IT desk should, as one sentence of a
    letter; details: the same numbers and names for a program."""

    status: Status
    found: str
    todo: str = ""
    ask: str = ""
    details: dict[str, Detail] = {}


class Check(Found):
    """A check that was run. name: stable, for programs; title: for people; seconds: how long it took."""

    name: str
    title: str
    seconds: float = Field(ge=0)


class Report(_Model):
    """One preflight. address: the coordinator's ``host:port``; authority: SHA-256 of the federation's authority, hexadecimal, or
    empty if only an address was given; request: the text for the IT desk, empty if nothing is to be asked of it."""

    unisono: Literal["preflight/1"] = "preflight/1"
    software: str
    address: str
    authority: str
    machine: str
    when: AwareDatetime
    status: Literal["ok", "warn", "fail"]
    checks: tuple[Check, ...]
    request: str

    def check(self, name: str) -> Check:
        """The check of that name. `KeyError` if there is none."""
        found = {check.name: check for check in self.checks}
        return found[name]

    def encode(self) -> str:
        """As JSON, ``preflight/1``. It holds no key, no token, and no proxy's password."""
        return self.model_dump_json(indent=2) + "\n"

    def save(self, path: Path) -> None:
        """Write the JSON, whole or not at all. `StorageError` if it cannot be written."""
        write_whole(path, self.encode().encode(), "preflight report")

    def board(self) -> dict[str, str]:
        """The status of every check by name: one line of `unisono coordinator readiness`."""
        return {"when": self.when.isoformat(timespec="seconds"), **{check.name: check.status for check in self.checks}}


def overall(checks: tuple[Check, ...]) -> Literal["ok", "warn", "fail"]:
    """The worst of them; what was skipped does not count."""
    statuses = {check.status for check in checks}
    return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "ok"


def table(report: Report) -> RenderableType:
    """One line a check: its mark, what was found, how long it took; then what to do, if there is anything to do."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    grid.add_column("check", no_wrap=True)
    grid.add_column("found", overflow="fold", ratio=1)
    grid.add_column("s", justify="right")
    for check in report.checks:
        mark, style = MARKS[check.status]
        label = f"{mark} {check.status}"
        grid.add_row(Text(label, style), Text(check.title), Text(check.found), Text(f"{check.seconds:.1f}"))
    todo = [check for check in report.checks if check.todo and check.status != "ok"]
    if not todo:
        return grid
    lines = [Text.assemble(f"- {check.title}: ", check.todo) for check in todo]
    return Group(grid, Text("What to do", style="bold"), *lines)
