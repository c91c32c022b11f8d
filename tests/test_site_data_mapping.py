"""The mapping file: strict, checked against the study, every problem at its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import lung
from unisono.errors import MappingError
from unisono.site.data.mapping import MISSING, Mapping, json_schema
from unisono.site.data.mapping_file import MappingProblems, load

HEAD = "unisono-mapping: 1\n"
WHOLE = """\
unisono-mapping: 1
file: {format: csv, delimiter: ";", decimal: ",", encoding: utf-8}
missing: ["", "NA", -9]
variables:
  time: {between: {from: DX, to: {date: "2024-12-31"}}, unit: d, date_format: "%d.%m.%Y"}
  died: {column: VITAL, codes: {dead: true, alive: false, unknown: null}}
  age: {years_between: [BIRTH, DX]}
  sex: {column: Geschlecht, codes: {1: male, 2: female}}
  weight_loss: {column: WT_LB, unit: lb, missing: [999], outside: clamp}
"""


def from_text(folder: Path, text: str) -> Mapping:
    path = folder / "padua.mapping.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, lung.study())


def problem(folder: Path, text: str) -> MappingError:
    with pytest.raises(MappingError) as caught:
        from_text(folder, text)
    assert caught.value.remedy
    return caught.value


def entry(line: str) -> str:
    return f"{HEAD}variables:\n  {line}\n"


def test_a_whole_mapping_is_read(tmp_path: Path) -> None:
    mapping = from_text(tmp_path, WHOLE)
    assert mapping.missing == ["", "NA", "-9"]
    assert mapping.variables["sex"].codes == {"1": "male", "2": "female"}
    assert mapping.variables["died"].codes == {"dead": True, "alive": False, "unknown": None}
    assert mapping.columns(lung.study()) == {"DX", "VITAL", "BIRTH", "Geschlecht", "WT_LB", "ecog"}


def test_no_mapping_is_the_identity() -> None:
    mapping = load(None, lung.study())
    assert mapping == Mapping()
    assert mapping.missing == list(MISSING)
    assert mapping.columns(lung.study()) == set(lung.study().variables)


def test_a_mapping_can_be_a_dict_or_a_mapping() -> None:
    given = {"unisono-mapping": 1, "variables": {"age": {"column": "Alter"}}}
    assert load(load(given, lung.study()), lung.study()) == load(given, lung.study())


def test_the_digest_does_not_depend_on_order_or_spelt_out_defaults() -> None:
    study = lung.study()
    one = load({"variables": {"age": {"column": "A"}, "sex": {"column": "S"}}}, study)
    two = load(
        {"unisono-mapping": 1, "variables": {"sex": {"column": "S"}, "age": {"column": "A", "outside": "refuse"}}},
        study,
    )
    assert one.digest() == two.digest()
    assert one.digest() != load({"variables": {"age": {"column": "B"}, "sex": {"column": "S"}}}, study).digest()


@pytest.mark.parametrize(
    ("line", "rule", "says"),
    [
        ("agee: {column: A}", "known-variables", "age"),
        ("age: {colum: A}", "known-keys", "column"),
        ("age: {column: A, unit: kg}", "compatible-units", "kg"),
        ("age: {column: A, unit: jears}", "known-units", "jears"),
        ("age: {column: A, years_between: [B, C]}", "values", "keep one"),
        ("age: {years_between: [B]}", "limits", "2"),
        ("age: {between: {from: B}}", "required-keys", "to"),
        ("age: {between: {from: B, to: C, form: D}}", "known-keys", "'from'"),
        ("age: {between: {from: B, to: {date: 31.12.2024}}}", "values", "YYYY-MM-DD"),
        ("age: {years_between: [B, C], date_format: '%d.%m.%y'}", "values", "century"),
        ("age: {column: A, date_format: '%d.%m.%Y'}", "values", "date_format"),
        ("sex: {column: S, codes: {M: mal}}", "known-levels", "male"),
        ("sex: {column: S, unit: kg}", "types", "unit"),
        ("died: {column: D, codes: {ja: 1}}", "known-levels", "true or false"),
        ("died: {column: D, codes: {}}", "limits", "1"),
        ("ecog: {column: E, codes: {zero: false}}", "known-levels", "a number"),
        ("ecog: {column: E, codes: {9: 0}, missing: [9]}", "values", "'9'"),
        ("age: {column: A, outside: drop}", "choices", "refuse"),
        ("age: {column: 7}", "types", "text"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_line(tmp_path: Path, line: str, rule: str, says: str) -> None:
    error = problem(tmp_path, entry(line))
    assert error.rule == rule
    assert says in f"{error.what} {error.remedy}"
    assert str(error).startswith("padua.mapping.yaml:3")


def test_all_problems_are_reported_at_once_with_their_lines(tmp_path: Path) -> None:
    error = problem(
        tmp_path, f"{HEAD}variables:\n  age: {{unit: kg}}\n  sexx: {{column: S}}\n  sex: {{codes: {{M: mal}}}}\n"
    )
    assert isinstance(error, MappingProblems)
    assert [p.line for p in error.problems] == [3, 4, 5]
    assert "padua.mapping.yaml:4" in str(error)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("variables: {}\n", "mapping-version"),
        ("- a\n", "mapping-version"),
        ("", "mapping-version"),
        (f"{HEAD}{HEAD}", "distinct-keys"),
        (f"{HEAD}file: {{decimal: '.', encoding: klingon}}\n", "values"),
        (f"{HEAD}file: {{format: parquet, delimiter: ';'}}\n", "values"),
        (f"{HEAD}file: {{delimiter: ';;'}}\n", "values"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, rule: str) -> None:
    assert problem(tmp_path, text).rule == rule


def test_yes_and_no_must_be_written_in_quotation_marks(tmp_path: Path) -> None:
    assert "quot" in problem(tmp_path, entry("died: {column: D, codes: {yes: true, no: false}}")).remedy
    codes = from_text(tmp_path, entry("died: {column: D, codes: {'yes': true, 'no': false}}")).variables["died"].codes
    assert codes == {"yes": True, "no": False}


def test_a_mapping_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MappingError) as caught:
        load(tmp_path / "none.yaml", lung.study())
    assert caught.value.rule == "readable-file"
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(MappingError) as caught:
        load(tmp_path / "x.yaml", lung.study())
    assert caught.value.rule == "text-encoding"


def test_a_derived_variable_has_no_column() -> None:
    variables: dict[str, Any] = {**lung.DOCUMENT["variables"], "old": {"type": "boolean", "derive": "age > 70"}}  # type: ignore[dict-item]
    study = lung.study(variables=variables)
    assert "old" not in Mapping().columns(study)
    with pytest.raises(MappingError) as caught:
        load({"variables": {"old": {"column": "x"}}}, study)
    assert caught.value.rule == "observed-variables"


def test_the_schema_knows_every_key() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == {"unisono-mapping", "file", "missing", "date_format", "variables"}


def test_the_example_of_the_documentation_is_a_valid_mapping(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "mapping.md").read_text(encoding="utf-8")
    (tmp_path / "m.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    variables = {
        "time": {"type": "number", "unit": "d", "min": 0, "max": 4000},
        "died": {"type": "boolean"},
        "sex": {"type": "category", "levels": ["male", "female"]},
        "age": {"type": "integer", "unit": "a", "min": 18, "max": 110},
        "onset_to_entry": {"type": "number", "unit": "mo", "min": 0, "max": 100},
        "weight": {"type": "number", "unit": "kg", "min": 30, "max": 250},
    }
    mapping = load(tmp_path / "m.yaml", lung.study(variables=variables, analyses={"a": {"method": "describe"}}))
    assert set(mapping.variables) == set(variables)
