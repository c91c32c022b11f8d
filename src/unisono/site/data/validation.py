"""The report on a hospital's data: what was read, converted, rounded and left out, variable by variable.

It holds counts and no values, but one hospital's counts are its own: the report stays at the hospital.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True)
class VariableReport:
    """What became of one variable.

    source: where it came from, in words; conversion: what was done to it (``lb → kg``, ``codes``, ``as it is``).
    n: patients with a value; missing: without one, those set to missing for being out of bounds included.
    outside: values outside the declared bounds; treatment: what was done to them (``missing``, ``clamped`` or nothing).
    moved: values that rounding to the grid changed; largest_move: by how much at most, in `unit`.
    """

    variable: str
    type: str
    unit: str
    source: str
    conversion: str
    n: int
    missing: int
    outside: int = 0
    treatment: str = ""
    moved: int = 0
    largest_move: float = 0.0


@dataclass(frozen=True)
class Validation:
    """The report of one hospital for one study. site: the hospital's name; source: the file's; rows: patients read."""

    study: str
    site: str
    source: str
    rows: int
    variables: tuple[VariableReport, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, variable: str) -> VariableReport:
        return next(v for v in self.variables if v.variable == variable)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "variables": [asdict(v) for v in self.variables], "notes": list(self.notes)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Validation:
        """The report that `to_dict` wrote."""
        return Validation(
            **{
                **data,
                "variables": tuple(VariableReport(**v) for v in data["variables"]),
                "notes": tuple(data["notes"]),
            }
        )

    def table(self) -> RichTable:
        """The report as a rich table, for a terminal."""
        table = RichTable(
            title=Text(f"{self.site}: {self.rows:,} rows of {self.source}"),
            caption="This report stays at the hospital.",
            title_justify="left",
        )
        for heading, justify in (
            ("variable", "left"),
            ("from", "left"),
            ("conversion", "left"),
            ("known", "right"),
            ("missing", "right"),
        ):
            table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
        table.add_column("out of bounds", justify="right", overflow="fold")
        table.add_column("moved to grid", justify="right", overflow="fold")
        for v in self.variables:
            outside = f"{v.outside:,} {v.treatment}".strip() if v.outside else "0"
            moved = f"{v.moved:,} (at most {v.largest_move:.3g} {v.unit})" if v.moved else "0"
            unit = f" [{v.unit}]" if v.unit not in ("", "1") else ""
            cells = (v.variable + unit, v.source, v.conversion, f"{v.n:,}", f"{v.missing:,}", outside, moved)
            table.add_row(*map(Text, cells))  # Text, because a column may be called [red]
        return table

    def render(self, width: int = 140) -> str:
        """The report as plain text."""
        stream = io.StringIO()
        console = Console(file=stream, width=width, force_terminal=False, color_system=None, highlight=False)
        console.print(self.table())
        for note in self.notes:
            console.print(f"- {note}", markup=False)
        return stream.getvalue()
