"""`unisono predict`: a trained model on a table of new patients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.markup import escape

from unisono.cli.console import out as console
from unisono.cli.shown import say, show_table
from unisono.errors import StorageError

if TYPE_CHECKING:
    from unisono.methods.model_card import ModelCard
    from unisono.site.prediction import Predictions

SHOWN = 5
MOST_COLUMNS = 6


def predict(
    model: Annotated[Path, typer.Argument(help="The model: its folder, or model.json.")],
    data: Annotated[Path, typer.Argument(help="New patients: CSV or Parquet.")],
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="The mapping of this file to the study's words.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The file of predictions.")] = Path("predictions.csv"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Predict for new patients with a model that a study made; a table that does not fit the model is refused, column by column.

    [bold]Example[/]: unisono predict results/risk patients.csv --mapping padua.mapping.yaml --out predictions.csv
    """
    from unisono.report import plain_json
    from unisono.site.prediction import open_model
    from unisono.site.prediction import predict as predict_rows

    if out.exists() and not force:
        raise StorageError(
            f"{out} is there already.",
            rule="keep-files",
            remedy="Name another file with --out, or write over this one with --force.",
        )
    opened = open_model(model)
    found = predict_rows(opened, data, mapping)
    plain_json.write_text(out, found.to_csv(), "file of predictions")
    _show(opened.card, found)
    say(f"{out}: {_number(found):,} predictions for {len(found.rows):,} rows. They are about patients.", good=True)


def _number(found: Predictions) -> int:
    return int(np.count_nonzero(~np.isnan(found.values).all(axis=1)))


def _show(card: ModelCard, found: Predictions) -> None:
    of = card.provenance
    steps = "trees" if card.format.startswith("unisono-trees") else "rounds"
    console.print(
        f"{of.study_id}, {of.analysis}: {of.method}, {of.rounds} {steps} over {of.patients:,} patients of {len(of.sites)} "
        f"{'hospital' if len(of.sites) == 1 else 'hospitals'}",
        markup=False,
    )
    heads = found.columns[:MOST_COLUMNS]
    rows = [
        [str(row), *("–" if np.isnan(v) else f"{v:.4g}" for v in values[: len(heads)])]
        for row, values in zip(found.rows[:SHOWN], found.values[:SHOWN], strict=True)
    ]
    show_table(("row", *map(escape, heads)), rows)
    if len(found.rows) > SHOWN or len(found.columns) > len(heads):
        console.print(f"  … {len(found.rows):,} rows, {len(found.columns)} columns", markup=False)
    for note in found.notes:
        console.print(f"- {note}", markup=False)
