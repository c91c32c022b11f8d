"""Which delimiter and which decimal mark a CSV is written with, from its first lines. What is found is told in the report."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Literal

SAMPLE_BYTES = 256 * 1024
_DELIMITERS = (",", ";", "\t", "|")


def _lines(sample: str) -> str:
    """Whole lines only: the sample may end within one."""
    if len(sample) < SAMPLE_BYTES // 4:
        return sample
    return sample[: sample.rfind("\n") + 1] or sample


def rows_of(sample: str, delimiter: str, at_most: int = 200) -> list[list[str]]:
    """The sample's first rows; what the csv module cannot read ends the list."""
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(_lines(sample), newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if row:
                rows.append(row)
            if len(rows) >= at_most:
                break
    except csv.Error:
        pass
    return rows


def rows_of_records(text: Iterable[str], delimiter: str, wanted: Sequence[int]) -> list[int]:
    """The rows (from 1) of records (from 0, growing), where blank lines are rows and no records: as a spreadsheet shows
    them. Where the csv module cannot read on, the rest is counted as if there were no further blank line."""
    found: list[int] = []
    row = record = 0
    reader = csv.reader(text, delimiter=delimiter)
    while len(found) < len(wanted):
        try:
            fields = next(reader, None)
        except csv.Error:
            fields = None
        if fields is None:
            return [*found, *(row + 1 + n - record for n in wanted[len(found) :])]
        row += 1
        if not fields:
            continue
        if record == wanted[len(found)]:
            found.append(row)
        record += 1
    return found


def sniff_delimiter(sample: str) -> str:
    """The delimiter that splits the first rows into the most columns, as many in nearly every row; else a comma."""
    best, most = ",", (0.0, 1)
    for delimiter in _DELIMITERS:
        rows = rows_of(sample, delimiter)
        if not rows or len(rows[0]) < 2:
            continue
        width = len(rows[0])
        steady = sum(len(row) == width for row in rows) / len(rows)
        score = (1.0 if steady >= 0.9 else steady, width)
        if score > most:
            best, most = delimiter, score
    return best


def sniff_decimal(sample: str, delimiter: str) -> Literal[".", ","]:
    """A decimal comma where cells look like ``12,5`` and none like ``12.5``."""
    if delimiter == ",":
        quoted = '"' in sample
        if not quoted:
            return "."
    cells = [cell.strip() for row in rows_of(sample, delimiter)[1:] for cell in row]
    commas = any(re.fullmatch(r"[+-]?\d+,\d+", cell) for cell in cells)
    points = any(re.fullmatch(r"[+-]?\d+\.\d+", cell) for cell in cells)
    return "," if commas and not points else "."
