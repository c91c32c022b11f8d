"""Bad data are refused with the column, the rows, the rule and the remedy; never with a patient's value, and all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unisono.errors import DataError, UnisonoError
from unisono.site.data.harmonise import harmonise
from unisono.site.data.mapping_file import load
from unisono.site.data.problems import DataProblems
from unisono.site.data.readers import read
from unisono.study.document import Study

AGE = {"type": "number", "unit": "a", "min": 18, "max": 110}
WEIGHT = {"type": "number", "unit": "kg", "min": 30, "max": 200}
SEX = {"type": "category", "levels": ["male", "female"]}


def refusal(
    values: Any,
    variable: dict[str, Any],
    entry: dict[str, Any] | None = None,
    file: dict[str, Any] | None = None,
    path: Path | None = None,
) -> DataProblems:
    """What is said about one column `x` (in a CSV at `path`, with a semicolon, if given)."""
    study = Study.model_validate(
        {
            "unisono": 1,
            "id": "s",
            "question": "?",
            "variables": {"x": variable},
            "analyses": {"a": {"method": "describe"}},
        }
    )
    frame = pd.DataFrame(values if isinstance(values, dict) else {"x": values})
    mapping = load({"file": file or {}, "variables": {"x": entry} if entry else {}}, study)
    if path is not None:
        frame.assign(id="p").to_csv(path / "padua.csv", index=False, sep=";")
    with pytest.raises(DataError) as caught:
        harmonise(read(path / "padua.csv" if path else frame, mapping.file), mapping, study, "padua")
    error = caught.value
    assert isinstance(error, DataProblems)
    assert error.remedy
    return error


def test_a_missing_column_names_the_nearest_one() -> None:
    error = refusal({"Gewicht_kg": [70.0]}, WEIGHT, {"column": "Gewicht kg"})
    assert error.rule == "required-columns"
    assert "'Gewicht_kg'" in error.remedy
    assert "'AGE'" in refusal({"AGE": [70.0]}, AGE, {"column": "age"}).remedy


def test_text_in_a_number_names_rows_and_not_what_is_there(tmp_path: Path) -> None:
    error = refusal(["61", "sixty-two", "63", "n0t"], AGE, path=tmp_path)
    assert error.rule == "numbers"
    assert "rows 3, 5" in error.what
    assert "header is row 1" in error.what
    assert error.where == "padua.csv"
    assert "sixty" not in str(error)
    assert "n0t" not in str(error)


def test_blank_lines_count_as_rows_as_in_a_spreadsheet(tmp_path: Path) -> None:
    study = Study.model_validate(
        {"unisono": 1, "id": "s", "question": "?", "variables": {"x": AGE}, "analyses": {"a": {"method": "describe"}}}
    )
    path = tmp_path / "padua.csv"
    path.write_text('\nid,x\n\na,61\n\n"b\nb",old\nc,62\n\nd,older\n', "utf-8")
    with pytest.raises(DataError) as caught:
        harmonise(read(path), load(None, study), study, "padua")
    assert "rows 6, 9 (2 of 4 rows; the header is row 2)" in caught.value.what


def test_values_that_are_right_call_for_wider_bounds_before_another_unit() -> None:
    error = refusal(np.linspace(5, 52, 50), {"type": "number", "unit": "wk", "min": 0, "max": 20})
    assert error.rule == "plausible-units"
    assert error.remedy.startswith("If the values are right, widen `min` and `max`")


def test_many_rows_are_counted_and_few_shown() -> None:
    error = refusal(["61"] * 3 + ["x"] * 500, AGE)
    assert "rows 4, 5, 6, 7, 8 and 495 more (500 of 503 rows)" in error.what


@pytest.mark.parametrize("word", ["nan", "inf", "-Infinity", "0x10", "1_000", "--1", "1.2.3", "٣"])
def test_words_that_programs_take_for_numbers_are_not_numbers(word: str) -> None:
    study_missing = {"missing": ["only this"]}
    study = Study.model_validate(
        {"unisono": 1, "id": "s", "question": "?", "variables": {"x": AGE}, "analyses": {"a": {"method": "describe"}}}
    )
    mapping = load(study_missing, study)
    with pytest.raises(DataError) as caught:
        harmonise(read(pd.DataFrame({"x": ["61", word]})), mapping, study, "padua")
    assert caught.value.rule == "numbers"


def test_infinite_numbers_are_refused() -> None:
    assert refusal([61.0, np.inf], AGE).rule == "numbers"


@pytest.mark.parametrize(("values", "decimal", "other"), [(["61,5", "62"], ".", ","), (["61.5", "62"], ",", ".")])
def test_the_wrong_decimal_mark_is_recognised(values: list[str], decimal: str, other: str, tmp_path: Path) -> None:
    error = refusal(values, AGE, file={"decimal": decimal}, path=tmp_path)
    assert error.rule == "numbers"
    assert f'decimal: "{other}"' in error.remedy


def test_a_decimal_point_under_a_decimal_comma_never_changes_a_value(tmp_path: Path) -> None:
    assert refusal(["1.234,5", "61,5"], AGE, file={"decimal": ","}, path=tmp_path).rule == "numbers"


def test_separators_of_thousands_and_limits_of_detection_get_their_own_remedy() -> None:
    assert "thousands" in refusal(["1,234,567", "61"], AGE).remedy
    assert "detection" in refusal(["<5", "61"], AGE).remedy


def test_an_empty_column_is_refused() -> None:
    assert refusal(["", "NA", None], AGE).rule == "some-values"
    assert refusal([None, None], AGE).rule == "some-values"
    assert refusal([np.nan, np.nan], AGE).rule == "some-values"
    assert refusal(["", ""], SEX).rule == "some-values"
    assert "`cohort: missing`" in refusal(["", ""], SEX).remedy


@pytest.mark.parametrize(("variable", "rule"), [(AGE, "mean"), (SEX, "mode")])
def test_an_empty_column_is_noted_where_the_study_fills_it(variable: dict[str, Any], rule: str) -> None:
    document = {
        "unisono": 1,
        "id": "s",
        "question": "?",
        "variables": {"x": variable},
        "cohort": {"missing": rule},
        "analyses": {"a": {"method": "describe"}},
    }
    study = Study.model_validate(document)
    for column in ([None, None], ["", "NA"], [np.nan, np.nan]):
        found = harmonise(read(pd.DataFrame({"x": column})), load({}, study), study, "padua")
        assert np.isnan(found.table["x"]).all()
        assert found.report["x"].missing == 2
        assert found.report.notes == (
            "x: nobody here has a value; the study fills it in for all of this hospital's patients.",
        )


@pytest.mark.parametrize(
    ("values", "variable", "entry", "suggested"),
    [
        (np.linspace(300, 400, 50), WEIGHT, None, "[lb_av]"),
        (np.linspace(60000, 90000, 50), WEIGHT, None, "g"),
        (np.linspace(600, 1000, 50), AGE, None, "mo"),
        (np.linspace(20, 80, 50), AGE, {"unit": "d"}, "a"),
    ],
)
def test_wrong_units_are_suspected_and_the_fitting_one_named(
    values: Any, variable: dict[str, Any], entry: dict[str, Any] | None, suggested: str
) -> None:
    error = refusal(values, variable, entry)
    assert error.rule == "plausible-units"
    assert f"'{suggested}'" in error.remedy
    assert error.remedy.index("widen") < error.remedy.index("Only if the column really is in another unit")
    assert "?." not in error.what


def test_wrong_units_are_refused_even_where_outside_values_may_be_dropped() -> None:
    assert refusal(np.linspace(300, 400, 50), WEIGHT, {"outside": "missing"}).rule == "plausible-units"


def test_a_few_values_outside_the_bounds_are_refused_by_row() -> None:
    error = refusal([61.0, 62, 63, 777, 64], AGE)
    assert error.rule == "declared-bounds"
    assert "row 4" in error.what
    assert "777" not in str(error)
    assert "outside: clamp" in error.remedy


def test_a_number_that_is_not_whole_is_no_integer() -> None:
    error = refusal([1.0, 2.5], {"type": "integer", "min": 0, "max": 4})
    assert error.rule == "whole-numbers"
    assert "row 2" in error.what


def test_unknown_codes_that_many_share_are_shown() -> None:
    error = refusal(["male"] * 5 + ["divers"] * 3, SEX)
    assert error.rule == "known-codes"
    assert "'divers'" in error.what
    assert "3 of 8 rows" in error.what
    assert "male, female" in error.remedy


def test_rare_unknown_codes_are_not_shown() -> None:
    error = refusal(["male"] * 5 + ["divers"] * 3 + ["Rossi"] * 2, SEX)
    assert "'divers'; rare codes not shown" in error.what
    assert "Rossi" not in str(error)


def test_a_column_of_names_given_for_a_category_shows_none() -> None:
    names = [f"patient {i}" for i in range(200) for _ in range(3)]
    assert "patient 1" not in str(refusal(names, SEX))


def test_dates_in_another_format_are_refused_by_row_and_column() -> None:
    entry = {"years_between": ["b", "v"]}
    error = refusal({"b": ["1950-01-01", "01.02.1950"], "v": ["2010-01-01", "2010-01-01"]}, AGE, entry)
    assert error.rule == "dates"
    assert "column 'b'" in error.what
    assert "row 2" in error.what
    assert "01.02.1950" not in str(error)


def test_impossible_dates_are_refused() -> None:
    entry = {"years_between": ["b", "v"], "date_format": "%d.%m.%Y"}
    assert refusal({"b": ["31.02.1950"], "v": ["01.01.2010"]}, AGE, entry).rule == "dates"


def test_dates_are_no_numbers_and_numbers_no_dates() -> None:
    assert refusal(pd.to_datetime(["2020-01-01"]), AGE).rule == "numbers"
    assert refusal({"b": [19500101], "v": [20100101]}, AGE, {"years_between": ["b", "v"]}).rule == "dates"


def test_lists_in_a_column_are_refused() -> None:
    assert refusal({"x": [[1, 2]]}, AGE).rule == "column-types"


def test_all_problems_come_together() -> None:
    variables = {"age": AGE, "weight": WEIGHT, "sex": SEX}
    study = Study.model_validate(
        {"unisono": 1, "id": "s", "question": "?", "variables": variables, "analyses": {"a": {"method": "describe"}}}
    )
    frame = pd.DataFrame({"age": ["old", "61"], "sex": ["x", "y"]})
    with pytest.raises(DataProblems) as caught:
        harmonise(read(frame, name="padua.csv"), load(None, study), study, "padua")
    error = caught.value
    assert {p.variable: p.rule for p in error.problems} == {
        "age": "numbers",
        "weight": "required-columns",
        "sex": "known-codes",
    }
    assert error.where == "padua.csv"
    again = UnisonoError.from_dict(error.to_dict())
    assert isinstance(again, DataProblems)
    assert str(again) == str(error)
