"""`unisono verify`: reproduce every estimate of a run from its journalled sums, without any patient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from unisono.cli.console import out as console
from unisono.engines.verify import Verified
from unisono.engines.verify import verify as verify_analysis
from unisono.errors import JournalError
from unisono.methods.registry import check
from unisono.study.load import load


def verify(out: Annotated[Path, typer.Argument(help="The folder that a run wrote.")]) -> None:
    """Replay the coordinator's half of every analysis from the journal, and compare with result.json.

    [bold]Example[/]: unisono verify results/
    """
    if not (out / "study.yaml").exists():
        raise JournalError(
            f"{out} holds no run.", rule="complete-journal", remedy="Name the folder that `unisono run --out` wrote."
        )
    study = load(out / "study.yaml", check)
    found = [
        verify_analysis(study, name, out / name / "journal.db", _stored(out / name))
        for name in study.analyses
        if _answered(out / name)
    ]
    if not found:
        raise JournalError(
            f"{out} holds no finished analysis.", rule="complete-journal", remedy="Run the study to its end first."
        )
    console.print(_table(found))
    altered = [v.analysis for v in found if not v.reproduced]
    if altered:
        raise JournalError(
            f"Not reproduced: what result.json says of {', '.join(altered)} does not follow from the journal beside it. One of the "
            "two was altered, or they are of different runs.",
            rule="reproducible-results",
            remedy="Trust neither. Put the folder back as the run left it; or, where the journal is the run's own, run the same "
            "command again: it writes the results anew from the journal and asks no hospital.",
        )
    console.print("[green]✓[/] every estimate is reproduced from the opened sums; no patient's data was needed")


def _answered(folder: Path) -> bool:
    return (folder / "result.json").exists()


def _stored(folder: Path) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = json.loads((folder / "result.json").read_text("utf-8"))
    except ValueError as error:
        raise JournalError(
            f"{folder / 'result.json'} is not readable JSON.",
            rule="result-file",
            remedy="Run the same command again: it writes the results anew.",
        ) from error
    return stored


def _table(found: list[Verified]) -> Table:
    table = Table("analysis", "sums replayed", "journal", "estimates", box=None, header_style="bold")
    for v in found:
        if not v.digest_matches:
            said = "[red]another journal[/]"
        elif v.largest_difference == 0:
            said = "[green]identical, bit for bit[/]"
        else:
            said = f"{'[green]' if v.reproduced else '[red]'}largest relative difference {v.largest_difference:.1e}[/]"
        table.add_row(v.analysis, str(v.sums), v.journal_digest[:16], said)
    return table
