"""The mapping: how a hospital's own columns become a study's variables. It is written once and stays at the hospital.

A variable without an entry is read from the column of its own name, in the study's unit and with the study's levels, so
a file that already speaks the study's language needs no mapping at all.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from unisono.study.cohort import source_variables
from unisono.study.document import Study

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", ".")
"""What counts as missing where the mapping does not say (the last is how SAS and Stata export it)."""


def _text_code(code: Any) -> Any:
    """1 and "1" are the same code; a code is kept as text."""
    if isinstance(code, bool):
        return "true" if code else "false"
    return str(code) if isinstance(code, int | float) else code


def _text_codes(codes: Any) -> Any:
    return [_text_code(c) for c in codes] if isinstance(codes, list | tuple) else codes


def _text_keys(codes: Any) -> Any:
    if not isinstance(codes, dict):
        return codes
    keys = [_text_code(k) for k in codes]
    if len(set(keys)) != len(keys):
        raise ValueError("the same code is there twice (1 and '1' are the same code)")
    return dict(zip(keys, codes.values(), strict=True))


def _date_format(text: str) -> str:
    """The directives of strptime that mean the same everywhere; a year of two digits does not."""
    directives = re.findall(r"%(.)", text)
    if "y" in directives:
        raise ValueError("%y, a year of two digits, leaves the century open: export years with four digits (%Y)")
    unknown = [d for d in directives if d not in "dmYHMSfjbB%"]
    if unknown:
        raise ValueError(f"%{unknown[0]} is not one of %d %m %Y %b %B %j %H %M %S %f")
    if "Y" not in directives or not ("j" in directives or ("d" in directives and {"m", "b", "B"} & set(directives))):
        raise ValueError("a date format needs a year, a month and a day, for example %d.%m.%Y")
    return text


def _iso_date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("a fixed date is written as YYYY-MM-DD, in quotation marks") from None


def _delimiter(text: str) -> str:
    if not re.fullmatch(r'[^"\r\n.\w]', text):
        raise ValueError("a delimiter is one character, such as ';', ',', '|' or a tab (\"\\t\")")
    return text


def _encoding(name: str) -> str:
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise ValueError(
            f"there is no text encoding {name!r}; usual ones are utf-8, cp1252, latin-1 and utf-16"
        ) from None
    plain = name.lower().replace("_", "-")
    return "utf-8" if plain in {"utf-8", "utf8", "utf-8-sig"} else plain


Code = Annotated[str, BeforeValidator(_text_code)]
MissingCodes = Annotated[list[str], BeforeValidator(_text_codes)]
Codes = Annotated[dict[str, bool | int | float | str | None], BeforeValidator(_text_keys), Field(min_length=1)]
DateFormat = Annotated[str, AfterValidator(_date_format)]


class Strict(BaseModel):
    """Frozen; unknown keys are errors; nothing is converted silently (a 1 is not a yes)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileFormat(Strict):
    """How the file is written. What is left out is recognised from the file, and the report says as what."""

    format: Literal["csv", "parquet"] | None = None
    delimiter: Annotated[str, AfterValidator(_delimiter)] | None = None
    decimal: Literal[".", ","] | None = None
    encoding: Annotated[str, AfterValidator(_encoding)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> FileFormat:
        if self.format == "parquet" and (self.delimiter or self.encoding):
            raise ValueError("delimiter and encoding are for CSV files; Parquet needs neither")
        return self


class FixedDate(Strict):
    """The same day for every patient, such as the end of follow-up: ``{date: "2024-12-31"}``."""

    date: Annotated[str, AfterValidator(_iso_date)]


DatePoint = Annotated[str, Field(min_length=1)] | FixedDate
"""A column of dates, or one fixed date."""


class Between(Strict):
    """The time from one date to another; negative where `to` is earlier."""

    start: DatePoint = Field(alias="from")
    to: DatePoint


class VariableMapping(Strict):
    """Where one variable comes from, and what has to be done to it.

    column: the column (the variable's own name, if nothing is said).
    between, years_between: instead of a column, a time between dates.
    unit: the unit of the column, in UCUM (the study's, if nothing is said); of `between`, the unit it is counted in.
    codes: the column's codes and what each means (a level, true/false, a number, or null for missing).
    missing: further codes for missing. outside: what happens to values outside the study's declared bounds.
    """

    column: str | None = Field(default=None, min_length=1)
    between: Between | None = None
    years_between: list[DatePoint] | None = Field(default=None, min_length=2, max_length=2)
    unit: str | None = None
    codes: Codes | None = None
    date_format: DateFormat | None = None
    missing: MissingCodes = Field(default_factory=list)
    outside: Literal["refuse", "missing", "clamp"] = "refuse"

    @model_validator(mode="after")
    def _one_source(self) -> VariableMapping:
        said = [k for k in ("column", "between", "years_between") if getattr(self, k) is not None]
        if len(said) > 1:
            raise ValueError(f"{' and '.join(said)} cannot both be the source; keep one")
        if self.dates is not None and self.codes is not None:
            raise ValueError("codes are for a column, not for a time between dates")
        if self.years_between is not None and self.unit is not None:
            raise ValueError("years_between is in years already; leave unit out, or use between")
        if self.dates is None and self.date_format is not None:
            raise ValueError("only between and years_between take a date_format")
        if self.dates is not None and all(isinstance(d, FixedDate) for d in self.dates):
            raise ValueError("two fixed dates give every patient the same value; one of them must be a column")
        clash = sorted(set(self.missing) & set(self.codes or ()))
        if clash:
            raise ValueError(f"the code {clash[0]!r} is under both missing and codes; keep one")
        return self

    @property
    def dates(self) -> tuple[str | FixedDate, str | FixedDate] | None:
        """(from, to) of a time between dates."""
        if self.between is not None:
            return self.between.start, self.between.to
        if self.years_between is not None:
            return self.years_between[0], self.years_between[1]
        return None

    def columns(self, variable: str) -> tuple[str, ...]:
        """The hospital's columns that this variable is made of."""
        if self.dates is not None:
            return tuple(d for d in self.dates if isinstance(d, str))
        return (self.column or variable,)


class Mapping(Strict):
    """A whole mapping file (``unisono-mapping: 1``)."""

    version: Literal[1] = Field(default=1, alias="unisono-mapping")
    file: FileFormat = FileFormat()
    missing: MissingCodes = Field(default_factory=lambda: list(MISSING))
    date_format: DateFormat | None = None
    variables: dict[str, VariableMapping] = Field(default_factory=dict)

    def entry(self, variable: str) -> VariableMapping:
        """What is said about a variable; the identity mapping if nothing is."""
        return self.variables.get(variable, VariableMapping())

    def columns(self, study: Study) -> set[str]:
        """Every column of the hospital's that the study needs."""
        return {c for name in source_variables(study) for c in self.entry(name).columns(name)}

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: the same for any order of keys and any spelling of a default."""
        text = json.dumps(
            self.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the mapping file, for editors."""
    schema = Mapping.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Unisono mapping", **schema}
