"""Reading a hospital's rows: CSV, Parquet, a pandas DataFrame or a pyarrow Table, still in the hospital's own words.

A CSV is read as text, column by column, and no value is guessed at here: `harmonise` turns text into numbers, codes and
dates by the mapping. Numeric columns of Parquet files and DataFrames stay numbers throughout. Only wanted columns are
read.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from unisono.errors import DataError
from unisono.site.data.mapping import FileFormat
from unisono.site.data.problems import ROWS_SHOWN, rows_text
from unisono.site.data.sniff import SAMPLE_BYTES, rows_of, rows_of_records, sniff_decimal, sniff_delimiter

MAX_BYTES = 4 * 1024**3
"""Largest CSV file, 4 GiB; larger ones belong into Parquet, which is read a column at a time."""
MAX_ROWS = 20_000_000
MAX_COLUMNS = 10_000

_BLOCK_BYTES = 16 * 1024**2
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PARQUET_MAGIC = b"PAR1"

Source: TypeAlias = Path | str | pd.DataFrame | Any
"""A file's path, a DataFrame, or a pyarrow Table (which mypy sees as Any)."""


@dataclass(frozen=True)
class Raw:
    """A hospital's columns as they were read.

    name: how messages call the source (``padua.csv``); file: what was said or sniffed about its format.
    names: every column there is; columns: those that were read, as Arrow arrays of length `n`.
    path: of a CSV, to count rows in; None otherwise. folder: of a file, in which the names of images are found.
    notes: what was sniffed, for the report.
    """

    name: str
    kind: Literal["csv", "parquet", "frame"]
    names: tuple[str, ...]
    columns: Mapping[str, Any]
    n: int
    file: FileFormat
    path: Path | None = None
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def header_row(self) -> int | None:
        """The number of a CSV's header row; None where there is none."""
        return None if self.path is None else _in_file(self.path, self.file, [0])[0]

    def row_numbers(self, index: Sequence[int]) -> list[int]:
        """Positions (from 0, growing) as the rows that a person finds in a spreadsheet: header and blank lines count."""
        records = [int(i) + 1 for i in index]
        return records if self.path is None else _in_file(self.path, self.file, records)


def _in_file(path: Path, file: FileFormat, records: Sequence[int]) -> list[int]:
    """The rows (from 1) of a CSV's records (the header is 0). Reads only as far as it must."""
    encoding = "utf-8-sig" if file.encoding == "utf-8" else file.encoding
    with path.open(encoding=encoding, errors="replace", newline="") as text:
        return rows_of_records(text, file.delimiter or ",", records)


def read(
    source: Source, file: FileFormat | None = None, wanted: Collection[str] | None = None, name: str | None = None
) -> Raw:
    """The `wanted` columns that exist (all, if None). `DataError` if the source cannot be read as a table with rows."""
    file = file or FileFormat()
    if isinstance(source, pd.DataFrame):
        return _frame(source, file, wanted, name or "the DataFrame")
    if isinstance(source, pa.Table):
        return _arrow(source, file, wanted, name or "the Arrow table")
    if not isinstance(source, str | os.PathLike):
        raise DataError(
            f"Data cannot be read from a {type(source).__name__}.",
            rule="data-source",
            remedy="Give the path of a CSV or Parquet file, a pandas DataFrame or a pyarrow Table.",
        )
    path = Path(source)
    name = name or path.name
    size = _check_file(path, name)
    if (file.format or _format_of(path)) == "parquet":
        return _parquet(path, file, wanted, name)
    return _csv(path, size, file, wanted, name)


def _check_file(path: Path, name: str) -> int:
    """Size in bytes of a readable, non-empty regular file."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise DataError(
                f"{name} is not a file.", rule="readable-file", remedy="Give the path of one CSV or Parquet file."
            )
        with path.open("rb"):
            pass
    except OSError as error:
        raise DataError(
            f"The data file {name} cannot be opened ({error.strerror or 'unknown reason'}).",
            rule="readable-file",
            remedy=f"Check the path ({path}) and the permissions of the user that runs Unisono.",
        ) from None
    if info.st_size == 0:
        _no_rows(name, "is empty")
    return info.st_size


def _format_of(path: Path) -> Literal["csv", "parquet"]:
    with path.open("rb") as stream:
        return "parquet" if stream.read(4) == _PARQUET_MAGIC else "csv"


def _no_rows(name: str, what: str = "has no rows") -> NoReturn:
    raise DataError(
        f"{name} {what}.",
        rule="some-rows",
        remedy="Export again; the file needs one header line and one row per patient.",
    )


def _check_rows(n: int, name: str) -> None:
    if n == 0:
        _no_rows(name)
    if n > MAX_ROWS:
        raise DataError(
            f"{name} has {n:,} rows; at most {MAX_ROWS:,} are read.",
            rule="size-limits",
            remedy="Give one row per patient (not per visit), or only the patients who may enter the study.",
        )


def _distinct(names: Sequence[str], name: str) -> tuple[str, ...]:
    """The column names, refused when two are the same (columns without a name cannot be asked for and do no harm)."""
    if len(names) > MAX_COLUMNS:
        raise DataError(
            f"{name} has {len(names):,} columns; at most {MAX_COLUMNS:,} are read.",
            rule="size-limits",
            remedy="Export only the columns that the study needs.",
        )
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise DataError(
            f"{name} has more than one column called {', '.join(map(repr, twice[:5]))}.",
            rule="distinct-columns",
            remedy="Rename or remove the copies, so that it is clear which one is meant.",
        )
    return tuple(names)


def _pick(names: Sequence[str], wanted: Collection[str] | None) -> list[str]:
    return [n for n in names if n and (wanted is None or n in wanted)]


# --- CSV -------------------------------------------------------------------------------------------------------------


def _csv(path: Path, size: int, file: FileFormat, wanted: Collection[str] | None, name: str) -> Raw:
    if size > MAX_BYTES:
        raise DataError(
            f"{name} is {size / 1024**3:.1f} GiB; a CSV of at most {MAX_BYTES // 1024**3} GiB is read.",
            rule="size-limits",
            remedy="Convert it to Parquet, or export only the columns that the study needs.",
        )
    said, notes = file, []
    sample, encoding = _sample(path, file, name)
    delimiter = file.delimiter or sniff_delimiter(sample)
    header = _header(sample, delimiter, name)
    decimal = file.decimal or sniff_decimal(sample, delimiter)
    file = FileFormat(format="csv", delimiter=delimiter, decimal=decimal, encoding=encoding)
    guessed = [k for k in ("delimiter", "decimal", "encoding") if getattr(said, k) is None]
    if guessed:
        notes.append("recognised from the file: " + ", ".join(f"{k} {getattr(file, k)!r}" for k in guessed))
    _balanced_quotes(path, encoding, name)
    columns = _pick(header, wanted)
    table = _parse(path, file, header, columns, name)
    _check_rows(table.num_rows, name)
    return Raw(name, "csv", tuple(header), _columns(table), table.num_rows, file, path, tuple(notes), path.parent)


def _sample(path: Path, file: FileFormat, name: str) -> tuple[str, str]:
    """The first lines as text, and the encoding: the mapping's, a byte-order mark's, or UTF-8."""
    with path.open("rb") as stream:
        head = stream.read(SAMPLE_BYTES)
    encoding = file.encoding
    if encoding is None:
        encoding = next((e for mark, e in _MARKS if head.startswith(mark)), "utf-8")
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    try:
        text = decoder.decode(head, final=len(head) < SAMPLE_BYTES)
    except UnicodeError:
        _not_encoded(encoding, name)
    if "\0" in text:
        raise DataError(
            f"{name} is not a text file.",
            rule="readable-file",
            remedy="Export the table as CSV or Parquet (a spreadsheet file must be exported first).",
        )
    if not text.strip():
        _no_rows(name, "is empty")
    return text, encoding


def _not_encoded(encoding: str, name: str) -> NoReturn:
    other = "cp1252" if encoding.startswith("utf") else "utf-8"
    raise DataError(
        f"{name} is not {encoding.upper()} text.",
        rule="text-encoding",
        remedy=f"Say the encoding: `file: {{encoding: {other}}}` in the mapping, or `--encoding {other}` of `unisono site map`"
        " if there is none yet; or export the file as UTF-8.",
    )


def _header(sample: str, delimiter: str, name: str) -> list[str]:
    rows = rows_of(sample, delimiter, at_most=1)
    if not rows:
        _no_rows(name, "has no header line that can be read")
    if not any(rows[0]):
        raise DataError(
            f"No column of {name} has a name.",
            rule="named-columns",
            remedy="The first line of the file must hold the columns' names.",
        )
    return list(_distinct(rows[0], name))


def _balanced_quotes(path: Path, encoding: str, name: str) -> None:
    """A quotation mark that is never closed swallows rows without a word, so their number must be even."""
    odd = 0
    if encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        with path.open(encoding=encoding, newline="") as text:
            try:
                while part := text.read(1 << 20):
                    odd ^= part.count('"') & 1
            except UnicodeError:
                _not_encoded(encoding, name)
    else:
        with path.open("rb", buffering=0) as stream:
            while block := stream.read(1 << 20):
                odd ^= block.count(b'"') & 1
    if odd:
        raise DataError(
            f"{name} has a quotation mark that is never closed.",
            rule="closed-quotes",
            remedy='Find the text field with a single " and double it (""), or export the file without that field.',
        )


def _parse(path: Path, file: FileFormat, header: list[str], columns: list[str], name: str) -> Any:
    """The table, read with all threads; on a refusal read again row by row to say which rows."""
    try:
        return _arrow_csv(path, file, header, columns)
    except UnicodeError:
        _not_encoded(str(file.encoding), name)
    except pa.ArrowInvalid as error:
        reason = str(error)
    if "UTF8" in reason.upper().replace("-", ""):
        _not_encoded(str(file.encoding), name)
    ragged: list[tuple[int, int]] = []
    with contextlib.suppress(pa.ArrowInvalid):
        _arrow_csv(path, file, header, columns, ragged)
    if ragged:
        # Arrow counts the header as 1, and no blank line.
        head, *rows = _in_file(path, file, [0, *(number - 1 for number, _ in ragged[:ROWS_SHOWN])])
        raise DataError(
            f"{name} has rows with another number of fields than its {len(header)} columns "
            f"{rows_text(rows, len(ragged))} (the header is row {head}; row {rows[0]} has {ragged[0][1]} fields).",
            rule="rectangular-table",
            remedy=f"Quote fields that contain {file.delimiter!r}, or correct the delimiter in the mapping.",
        )
    raise DataError(
        f"{name} cannot be read as a CSV with delimiter {file.delimiter!r}.",
        rule="readable-file",
        remedy="Open it in a text editor: one header line, one row per patient, no row longer than 16 MiB.",
    )


def _arrow_csv(
    path: Path, file: FileFormat, header: list[str], columns: list[str], ragged: list[tuple[int, int]] | None = None
) -> Any:
    def skip(row: Any) -> str:
        assert ragged is not None
        ragged.append((row.number, row.actual_columns))
        return "skip"

    # Without a wanted column Arrow would read every one: the first named column still gives the number of rows.
    include = columns or [n for n in header if n][:1]
    return pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(
            use_threads=ragged is None,
            encoding="utf8" if file.encoding == "utf-8" else file.encoding,
            block_size=_BLOCK_BYTES,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=file.delimiter,
            newlines_in_values=True,
            invalid_row_handler=None if ragged is None else skip,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=include,
            column_types={c: pa.string() for c in include},
            strings_can_be_null=False,
            null_values=[],
        ),
    )


# --- Parquet, DataFrames, Arrow ---------------------------------------------------------------------------------------


def _parquet(path: Path, file: FileFormat, wanted: Collection[str] | None, name: str) -> Raw:
    try:
        with pyarrow.parquet.ParquetFile(path, memory_map=False) as opened:
            names = _distinct(opened.schema_arrow.names, name)
            n = opened.metadata.num_rows
            _check_rows(n, name)
            table = opened.read(columns=_pick(names, wanted), use_pandas_metadata=False)
    except (pa.ArrowException, OSError):
        raise DataError(
            f"{name} cannot be read as Parquet.",
            rule="readable-file",
            remedy="The file may be damaged, encrypted or half copied; export it again.",
        ) from None
    file = FileFormat(format="parquet", decimal=file.decimal)
    return Raw(name, "parquet", names, _columns(table), n, file, folder=path.parent)


def _frame(frame: pd.DataFrame, file: FileFormat, wanted: Collection[str] | None, name: str) -> Raw:
    names = _distinct([str(c) for c in frame.columns], name)
    _check_rows(len(frame), name)
    columns: dict[str, Any] = {}
    for position, column in enumerate(names):
        if not column or (wanted is not None and column not in wanted):
            continue
        try:
            columns[column] = pa.chunked_array([pa.Array.from_pandas(frame.iloc[:, position])])
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            raise DataError(
                f"The column {column!r} of {name} holds values of different kinds.",
                rule="one-type-per-column",
                remedy="Convert it first: numbers with pandas.to_numeric, everything else with .astype(str).",
            ) from None
    return Raw(name, "frame", names, columns, len(frame), FileFormat(decimal=file.decimal))


def _arrow(table: Any, file: FileFormat, wanted: Collection[str] | None, name: str) -> Raw:
    names = _distinct(table.column_names, name)
    _check_rows(table.num_rows, name)
    chosen = table.select(_pick(names, wanted))
    return Raw(name, "frame", names, _columns(chosen), table.num_rows, FileFormat(decimal=file.decimal))


def _columns(table: Any) -> dict[str, Any]:
    return {name: table.column(i) for i, name in enumerate(table.column_names) if name}
