"""From one column in a hospital's words to float64: numbers, codes and dates. Pure, vectorised.

Every function gives NaN (or NaT) for missing, and raises `ColumnError` with row positions where something is not
what it should be. Text is compared after white space around it is removed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime
from typing import Any, Literal, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unisono.site.data.problems import ColumnError

Values = NDArray[np.float64]
Instants = NDArray[np.datetime64]
"""(n,) datetime64[s], local wall time; NaT where missing."""
Kind = Literal["number", "boolean", "text", "date", "nothing"]

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_RARE = 3
"""A code that fewer patients have is not shown."""
_MOST_CODES_SHOWN = 8
_LONGEST_CODE_SHOWN = 24
_MOST_DISTINCT_CODES = 10_000


def kind_of(column: Any) -> Kind:
    """What an Arrow column holds."""
    held = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_boolean(held):
        return "boolean"
    if pa.types.is_integer(held) or pa.types.is_floating(held) or pa.types.is_decimal(held):
        return "number"
    if pa.types.is_string(held) or pa.types.is_large_string(held) or pa.types.is_string_view(held):
        return "text"
    if pa.types.is_date(held) or pa.types.is_timestamp(held):
        return "date"
    if pa.types.is_null(held):
        return "nothing"
    raise ColumnError(
        f"holds {held}, which is neither numbers, text, yes/no nor dates,",
        "column-types",
        "Convert the column before it is given to Unisono.",
    )


def is_number(text: str) -> bool:
    """Whether a text is a finite number with a decimal point."""
    return re.match(_NUMBER, text) is not None


def _plain(column: Any) -> Any:
    """One contiguous array without dictionary encoding."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # an empty column, or more than 2 GiB of text
            column = pa.concat_arrays([pc.cast(c, pa.large_string()) for c in column.chunks])
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def texts_of(column: Any) -> Any:
    """The column as trimmed text (Arrow strings, null where null)."""
    plain = _plain(column)
    if pa.types.is_string_view(plain.type):  # which Arrow's text functions do not take
        plain = pc.cast(plain, pa.large_string())
    return pc.utf8_trim_whitespace(plain)


def floats_of(column: Any) -> Values:
    """(n,) of a numeric or boolean Arrow column; may be a read-only view of it."""
    plain = _plain(column)
    if plain.type != pa.float64():
        plain = pc.cast(plain, pa.float64(), safe=False)
    floats: Values = plain.to_numpy(zero_copy_only=False)
    return floats


# --- numbers ---------------------------------------------------------------------------------------------------------


def numbers(column: Any, missing: Collection[str], decimal: str = ".") -> Values:
    """(n,) float64 of a column of numbers, or of text that is numbers."""
    kind = kind_of(column)
    if kind == "nothing":
        return np.full(len(column), np.nan)
    if kind == "date":
        raise ColumnError(
            "holds dates, not numbers,", "numbers", "Use `between` or `years_between` for a time between two dates."
        )
    values = _numbers_of_text(texts_of(column), missing, decimal) if kind == "text" else floats_of(column)
    infinite = np.isinf(values)
    if infinite.any():
        raise ColumnError(
            "is infinite", "numbers", "Correct these rows, or leave them empty.", np.flatnonzero(infinite)
        )
    return _without(
        values, [float(c.replace(",", ".") if decimal == "," else c) for c in missing if _is_number_in(c, decimal)]
    )


def _is_number_in(text: str, decimal: str) -> bool:
    return is_number(text) or (decimal == "," and is_number(text.replace(",", ".")))


def _without(values: Values, codes: Iterable[float]) -> Values:
    """NaN for the numeric codes of missing (999)."""
    for code in codes:
        hit = values == code
        if hit.any():
            values = np.where(hit, np.nan, values)
    return values


def _numbers_of_text(texts: Any, missing: Collection[str], decimal: str) -> Values:
    absent = pc.or_(pc.is_null(texts), pc.is_in(texts, value_set=pa.array(sorted(missing), texts.type)))
    known = pc.if_else(absent, pa.scalar(None, texts.type), texts)
    other = "," if decimal == "." else "."
    if pc.any(pc.match_substring(known, other)).as_py():
        _not_numbers(known, decimal)  # 1.234,5 and 12.5 under a decimal comma could each mean two things
    if decimal == ",":
        known = pc.replace_substring(known, ",", ".")
    try:
        values: Values = pc.cast(known, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        _not_numbers(known, ".", said=decimal)
    if (np.isnan(values) & ~absent.to_numpy(zero_copy_only=False)).any() or np.isinf(values).any():
        _not_numbers(known, ".", said=decimal)  # Arrow reads the words nan and inf
    return values


def _not_numbers(texts: Any, decimal: str, said: str | None = None) -> NoReturn:
    """Refuse the rows whose text is no number, and guess why without telling what is there."""
    pattern = _NUMBER if decimal == "." else _NUMBER.replace(r"\.", ",")
    bad = pc.and_(pc.is_valid(texts), pc.invert(pc.match_substring_regex(texts, pattern)))
    rows = np.flatnonzero(pc.fill_null(bad, False).to_numpy(zero_copy_only=False))
    offenders = texts.take(pa.array(rows))
    said = said or decimal
    other = "," if said == "." else "."

    def every(regex: str) -> bool:
        return bool(pc.all(pc.match_substring_regex(offenders, regex)).as_py())

    if every(rf"^[+-]?\d+\{other}\d+([eE][+-]?\d+)?$"):
        mark = "comma" if other == "," else "point"
        remedy = f'They are written with a decimal {mark}: say `file: {{decimal: "{other}"}}` in the mapping.'
    elif every(r"^[<>≤≥]"):
        remedy = "They are limits of detection: write the value that the study agreed on, or list them under `missing`."
    elif every(r"^[+-]?\d{1,3}([., '’]\d{3})+([.,]\d+)?$"):
        remedy = "They have separators between thousands: export the numbers without them."
    else:
        remedy = "Correct these rows, or list their text under `missing` if it means that nothing is known."
    raise ColumnError("holds text that is not a number", "numbers", remedy, rows)


# --- codes -----------------------------------------------------------------------------------------------------------


def code_text(value: Any) -> str:
    """A code as text: 1 and 1.0 are ``1``, True is ``true``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def distinct(column: Any) -> tuple[list[str | None], NDArray[np.int64], NDArray[np.int64]]:
    """(codes, counts, index): the distinct codes as text, how many rows have each, and each row's code (-1: null).

    Raises `ColumnError` when there are so many that the column cannot be a list of codes.
    """
    kind = kind_of(column)
    if kind == "nothing":
        return [], np.empty(0, np.int64), np.full(len(column), -1)
    plain = texts_of(column) if kind == "text" else _plain(column)
    encoded = pc.dictionary_encode(plain)
    if len(encoded.dictionary) > _MOST_DISTINCT_CODES:
        raise ColumnError(
            f"has more than {_MOST_DISTINCT_CODES:,} different codes,",
            "known-codes",
            "Is this the right column? A code list is short.",
        )
    index: NDArray[np.int64] = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.bincount(index[index >= 0], minlength=len(encoded.dictionary)).astype(np.int64)
    values = encoded.dictionary.to_pylist()
    return [None if isinstance(v, float) and np.isnan(v) else code_text(v) for v in values], counts, index


def coded(column: Any, meaning: Callable[[str], float | None], remedy: str) -> Values:
    """(n,) what each code means: a number, or NaN for missing; a code whose `meaning` is None is refused."""
    codes, counts, index = distinct(column)
    means = [np.nan if code is None else meaning(code) for code in codes]
    unknown = [k for k, m in enumerate(means) if m is None]
    if unknown:
        rows = np.flatnonzero(np.isin(index, unknown))
        listed = vocabulary([(str(codes[k]), int(counts[k])) for k in unknown])
        raise ColumnError(
            f"has {len(unknown)} unknown code{'s' if len(unknown) > 1 else ''} ({listed})", "known-codes", remedy, rows
        )
    lookup = np.array([*means, np.nan], np.float64)  # the last one is what index -1 finds
    return lookup[index]


def vocabulary(counted: list[tuple[str, int]]) -> str:
    """The codes that are words and not patients: short, few, each of at least three rows."""
    common = sorted(code for code, count in counted if count >= _RARE and len(code) <= _LONGEST_CODE_SHOWN)
    shown = common[:_MOST_CODES_SHOWN] if len(common) <= 2 * _MOST_CODES_SHOWN else []
    words = ", ".join(map(repr, shown))
    if len(shown) == len(counted):
        return words
    return f"{words}; rare codes not shown" if words else "rare codes not shown"


# --- dates -----------------------------------------------------------------------------------------------------------


def dates(column: Any, missing: Collection[str], date_format: str | None) -> Instants:
    """(n,) datetime64[s] of a column of dates, or of text in `date_format` (ISO 8601, ``YYYY-MM-DD``, if None)."""
    kind = kind_of(column)
    if kind == "nothing":
        return np.full(len(column), np.datetime64("NaT", "s"))
    if kind == "date":
        return _typed_dates(_plain(column), missing)
    if kind != "text":
        raise ColumnError("holds numbers, not dates,", "dates", "Export dates as text such as 2024-12-31, or as dates.")
    encoded = pc.dictionary_encode(texts_of(column))
    lookup = np.full(len(encoded.dictionary) + 1, np.datetime64("NaT", "s"))
    bad = np.zeros(len(lookup), np.bool_)
    for k, text in enumerate(encoded.dictionary.to_pylist()):
        if text not in missing:
            parsed = parse_date(text, date_format)
            bad[k] = parsed is None
            lookup[k] = np.datetime64(parsed, "s") if parsed else lookup[-1]
    index: NDArray[np.int64] = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    if bad.any():
        raise ColumnError(
            f"holds text that is not a date in the format {date_format or 'YYYY-MM-DD'}",
            "dates",
            "Say how dates are written with `date_format`, as in %d.%m.%Y; list codes for unknown under `missing`.",
            np.flatnonzero(bad[index]),
        )
    return lookup[index]


def _typed_dates(plain: Any, missing: Collection[str]) -> Instants:
    if pa.types.is_timestamp(plain.type) and plain.type.tz is not None:
        plain = pc.local_timestamp(plain)
    seconds = pc.cast(plain, pa.timestamp("s"), safe=False).to_numpy(zero_copy_only=False)
    instants: Instants = np.array(seconds, "datetime64[s]")
    days = instants.astype("datetime64[D]")
    for code in missing:
        try:
            hit = days == np.datetime64(date.fromisoformat(code), "D")
        except ValueError:
            continue
        instants[hit] = np.datetime64("NaT", "s")
    return instants


def parse_date(text: str, date_format: str | None) -> datetime | None:
    """The date, in local wall time; None if it is none."""
    try:
        if date_format is not None:
            return datetime.strptime(text, date_format).replace(tzinfo=None)
        if not re.match(r"^\d{4}-\d{2}-\d{2}", text):
            return None
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return None


def days_between(start: Instants, to: Instants) -> Values:
    """(n,) days from `start` to `to`, fractional where there are times of day; NaN where one is missing."""
    seconds = (to - start).astype("timedelta64[s]")
    days: Values = seconds.astype(np.float64) / 86400.0
    days[np.isnat(seconds)] = np.nan
    return days


def completed_years(start: Instants, to: Instants) -> Values:
    """(n,) birthdays passed: the age that an integer variable means. NaN where a date is missing."""
    months = (to.astype("datetime64[M]") - start.astype("datetime64[M]")).astype(np.float64)
    day_of = [
        (d.astype("datetime64[D]") - d.astype("datetime64[M]").astype("datetime64[D]")).astype(np.float64)
        for d in (start, to)
    ]
    years: Values = np.floor((months - (day_of[1] < day_of[0])) / 12.0)
    years[np.isnat(start) | np.isnat(to)] = np.nan
    return years


def fixed(day: str, n: int) -> Instants:
    """(n,) the same day."""
    return np.full(n, np.datetime64(day, "s"))
