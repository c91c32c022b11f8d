"""A trained model on new patients: its files opened, a table read by the study's own words, and a prediction for each row.

The table goes the way of a hospital's data in training: the same mapping, harmonisation, bounds and rules about missing values.
What does not fit is refused, because a model says something about whatever it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unisono.errors import StorageError, StudyError
from unisono.federation.storage import storage
from unisono.methods.model_card import CARD, Model, ModelCard, format_of, not_a_model
from unisono.site.data import mapping_file
from unisono.site.data.harmonise import WIDEN, harmonise
from unisono.site.data.mapping import Mapping
from unisono.site.data.problems import DataProblems
from unisono.site.data.readers import Source, read
from unisono.site.data.validation import Validation
from unisono.study.cohort import select
from unisono.study.expressions import Expression
from unisono.study.table import Table

FORMATS = {
    "unisono-network-1": "unisono.methods.training.model_file",
    "unisono-trees-1": "unisono.methods.boosting.model_file",
}
"""Format of a card -> the module that reads such a model."""
_SHARED = "shared.safetensors"
"""Of a method whose hospitals keep a part of the model (fedbn, fedrep), beside no card."""
MOST_BYTES = 2**31
_KEPT = "A trained model keeps the bounds that it was trained within: it cannot be asked beyond them."


@dataclass(frozen=True)
class Predictions:
    """columns: headings. rows: (n,) numbers of the rows in the file, as a spreadsheet shows them. values: (n, columns), NaN for a
    patient without a prediction. report: what became of the data. notes: what a reader must know of these predictions."""

    columns: tuple[str, ...]
    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    report: Validation
    notes: tuple[str, ...]

    def to_csv(self) -> str:
        """A line a patient: ``row``, and each prediction with all its digits; empty where there is none."""
        quoted = (
            f'"{c}"' if "," in c or '"' in c else c for c in ("row", *(c.replace('"', '""') for c in self.columns))
        )
        lines = [",".join(quoted)]
        for row, values in zip(self.rows, self.values, strict=True):
            lines.append(",".join([str(row), *("" if np.isnan(v) else repr(float(v)) for v in values)]))
        return "\n".join(lines) + "\n"


def open_model(path: Path) -> Model:
    """The model in a folder, or of a ``model.json``. `StorageError` (``model-file``) if it is not as a run wrote it."""
    card = path / CARD if path.is_dir() else path
    if not card.is_file() and (card.parent / _SHARED).is_file():
        raise StorageError(
            f"{card.parent} holds what hospitals share of the model; it predicts nothing alone. Each hospital holds its own model.",
            rule="model-file",
            remedy="At a hospital, name its folder sites/<name>/kept/<study>/<analysis>/.",
        )
    content = _bytes(card)
    kind = format_of(content)
    if kind not in FORMATS:
        raise not_a_model(
            f"is of the format {kind[:64]!r}, which this Unisono does not read",
            "Use the Unisono that wrote it, or a newer one.",
        )
    files = {CARD: content}
    for name in _named(content):
        beside = card.parent / name
        if beside.is_file():
            files[name] = _bytes(beside)
    model: Model = import_module(FORMATS[kind]).read(files)
    return model


def predict(model: Model, source: Source, mapping: Path | None = None) -> Predictions:
    """A prediction for each row of a CSV, a Parquet file or a DataFrame.

    `MappingError` and `DataError` with everything that does not fit the model: columns that are missing, units, levels that it does
    not know, values out of its bounds, a feature that is nowhere known.
    """
    card = model.card
    table, report, rows = _table(card, source, mapping)
    study = card.study()
    learned = all(rule == "learned" for rule in card.missing.values())
    chosen = select(table, study, card.features, "eligible" if learned else "cohort", card.imputed)
    values = np.full((table.n, len(model.columns())), np.nan)
    values[chosen.keep] = model.predict(chosen.table)
    return Predictions(model.columns(), rows, values, report, tuple(_notes(card, table, chosen.keep, chosen.missing)))


def _table(card: ModelCard, source: Source, mapping: Path | None) -> tuple[Table, Validation, NDArray[np.int64]]:
    """The needed variables of every row, the report on them, and the rows' numbers."""
    whole = mapping_file.load(mapping, card.study(card.variables))
    needed = set(card.needed)
    entries = {name: entry for name, entry in whole.variables.items() if name in needed}
    fitting: Mapping = whole.model_copy(update={"variables": entries})
    study = card.study()
    raw = read(source, fitting.file, fitting.columns(study))
    try:
        found = harmonise(raw, fitting, study, "predict")
    except DataProblems as error:
        said = [replace(problem, remedy=problem.remedy.replace(WIDEN, _KEPT)) for problem in error.problems]
        raise DataProblems.of(said, error.where or raw.name) from None
    return found.table, found.report, np.array(raw.row_numbers(range(raw.n)), np.int64)


def _notes(card: ModelCard, table: Table, keep: NDArray[np.bool_], missing: dict[str, int]) -> list[str]:
    notes = [
        f"{missing[name]:,} {'row has' if missing[name] == 1 else 'rows have'} no {name}: "
        + {
            "complete-cases": "no prediction.",
            "learned": "the model has learned what to do then.",
        }.get(card.missing[name], f"filled with {card.imputed.get(name, 0.0):g}, as in training.")
        for name in card.features
        if missing.get(name)
    ]
    for text in card.include:
        try:
            rule = Expression.parse(text, card.study().variables)
        except StudyError:  # of variables that the model does not need
            notes.append(f"The model was made for patients with: {text}. That was not checked here.")
            continue
        outside = int(np.count_nonzero(keep & (rule.evaluate(table) != 1.0)))
        if outside:
            notes.append(f"{outside:,} of the predictions are for patients outside the cohort of the study ({text}).")
    return notes


def _named(content: bytes) -> list[str]:
    """Names of the files beside a card: plain names, in its own folder."""
    import json

    files = json.loads(content).get("files")
    names = list(files) if isinstance(files, dict) else []
    if any("/" in name or "\\" in name or name.startswith(".") for name in names):
        raise not_a_model("names a file outside its own folder")
    return names


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise StorageError(
            f"There is no model in {path}.",
            rule="model-file",
            remedy=f"Name the folder with the {CARD} that a run wrote: results/<analysis>.",
        )
    with storage(path, "model"):
        if path.stat().st_size > MOST_BYTES:
            raise StorageError(f"{path} is larger than 2 GiB.", rule="model-file", remedy="Is it a model?")
        return path.read_bytes()
