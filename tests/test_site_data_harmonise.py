"""A hospital's words become the study's: dialects, dates, codes, units, bounds, the time grid, and the report of all that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import lung
from unisono.errors import DataError
from unisono.site.data.harmonise import Harmonised, harmonise
from unisono.site.data.mapping_file import load
from unisono.site.data.readers import Source, read
from unisono.site.data.validation import Validation
from unisono.study.document import Study

NAN = float("nan")


def study_of(variables: dict[str, dict[str, Any]], **analysis: Any) -> Study:
    """A study with these variables and one analysis (a mean if nothing is said)."""
    return Study.model_validate(
        {
            "unisono": 1,
            "id": "small",
            "question": "?",
            "variables": variables,
            "analyses": {"a": {"method": "describe", **analysis}},
        }
    )


def made(source: Source, study: Study, mapping: Any = None, name: str = "padua") -> Harmonised:
    loaded = load(mapping, study)
    return harmonise(read(source, loaded.file, loaded.columns(study)), loaded, study, name)


def one(values: Any, variable: dict[str, Any], entry: dict[str, Any] | None = None, **top: Any) -> list[float]:
    """One column `x` as one variable `x`."""
    mapping = {"variables": {"x": entry} if entry else {}, **top}
    table = made(pd.DataFrame({"x": values}), study_of({"x": variable}), mapping).table
    return [float(v) for v in table["x"]]


NUMBER = {"type": "number", "min": -1000, "max": 1000}
BOOLEAN = {"type": "boolean"}
SEX = {"type": "category", "levels": ["male", "female"]}


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_a_file_in_the_studys_own_words_needs_no_mapping(tmp_path: Path) -> None:
    frame = lung.frame(7)
    frame["sex"] = np.where(frame["sex"] == 1, "female", "male")
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_parquet(tmp_path / "x.parquet")
    expected = lung.table(lung.frame(7))
    for source in (tmp_path / "x.csv", tmp_path / "x.parquet", frame, pa.Table.from_pandas(frame)):
        table = made(source, lung.study()).table
        assert list(table.columns) == list(lung.study().variables)
        for name, column in expected.columns.items():
            np.testing.assert_allclose(table[name], column, rtol=1e-15)


def test_a_german_export_gives_the_same_patients(tmp_path: Path) -> None:
    frame = lung.frame(None)
    export = pd.DataFrame(
        {
            "Überleben (Monate)": (frame["time"] / 30.4375).round(2),
            "Status": np.where(frame["died"] == 1, "verstorben", "lebt"),
            "Alter": frame["age"].astype(int),
            "Geschlecht": np.where(frame["sex"] == 1, "W", "M"),
            "ecog": frame["ecog"].astype(int),
            "Verlust_lb": (frame["weight_loss"] / 0.45359237).round(1),
        }
    )
    export.to_csv(tmp_path / "berlin.csv", sep=";", decimal=",", index=False, na_rep="k.A.", encoding="utf-8-sig")
    mapping = {
        "missing": ["k.A."],
        "variables": {
            "time": {"column": "Überleben (Monate)", "unit": "mo"},
            "died": {"column": "Status", "codes": {"verstorben": True, "lebt": False}},
            "age": {"column": "Alter"},
            "sex": {"column": "Geschlecht", "codes": {"M": "male", "W": "female"}},
            "weight_loss": {"column": "Verlust_lb", "unit": "lb"},
        },
    }
    got = made(tmp_path / "berlin.csv", lung.study(), mapping, "berlin")
    for name in ("died", "age", "sex", "ecog"):
        np.testing.assert_array_equal(got.table[name], frame[name])
    np.testing.assert_allclose(got.table["weight_loss"], frame["weight_loss"], atol=0.05 * 0.4536 + 1e-9)
    # Half of the last digit of the months, then up to the next point of the grid.
    assert ((got.table["time"] - frame["time"]) >= -0.005 * 30.4375 - 1e-9).all()
    assert ((got.table["time"] - frame["time"]) <= 7 + 0.005 * 30.4375).all()
    np.testing.assert_allclose(got.table["time"] / 7, np.rint(got.table["time"] / 7), atol=1e-12)
    report = got.report["weight_loss"]
    assert (report.source, report.conversion, report.missing) == (
        "Verlust_lb",
        "lb → kg",
        int(frame["weight_loss"].isna().sum()),
    )


@st.composite
def patients(draw: st.DrawFn) -> pd.DataFrame:
    n = draw(st.integers(1, 12))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n).filter(lambda xs: any(x is not None for x in xs)))

    return pd.DataFrame(
        {
            "months": column(st.integers(0, 600 * 4).map(lambda k: k / 4)),
            "weight": column(st.none() | st.integers(3000, 20000).map(lambda g: g / 100)),
            "ecog": column(st.none() | st.integers(0, 4)),
            "died": column(st.none() | st.booleans()),
            "sex": column(st.none() | st.sampled_from(["male", "female"])),
        },
        dtype=object,
    )


@settings(max_examples=60, deadline=None)
@given(
    data=patients(),
    delimiter=st.sampled_from([";", "\t", "|"]),
    decimal=st.sampled_from([".", ","]),
    encoding=st.sampled_from(["utf-8", "utf-16", "cp1252"]),
    missing=st.sampled_from(["", "NA", "-9", "999", "unbekannt"]),
    time_unit=st.sampled_from([("mo", 1.0), ("d", 30.4375), ("a", 1 / 12)]),
    mass_unit=st.sampled_from([("kg", 1.0), ("lb", 1 / 0.45359237), ("g", 1000.0)]),
    codes=st.sampled_from([("1", "2"), ("M", "F"), ("männlich", "weiblich"), ("0", "1")]),
)
def test_what_was_written_in_a_dialect_is_read_back_within_rounding(
    tmp_path_factory: pytest.TempPathFactory,
    data: pd.DataFrame,
    delimiter: str,
    decimal: str,
    encoding: str,
    missing: str,
    time_unit: tuple[str, float],
    mass_unit: tuple[str, float],
    codes: tuple[str, str],
) -> None:
    def number(value: float | None, factor: float) -> str:
        return missing if value is None else f"{value * factor:.6f}".replace(".", decimal)

    def word(value: object, words: dict[object, str]) -> str:
        return missing if value is None else words[value]

    rows = [["T", "W", "E", "D", "S"]] + [
        [
            number(r.months, time_unit[1]),
            number(r.weight, mass_unit[1]),
            word(r.ecog, {k: str(k) for k in range(5)}),
            word(r.died, {True: "ja", False: "nein"}),
            word(r.sex, {"male": codes[0], "female": codes[1]}),
        ]
        for r in data.itertuples()
    ]
    path = tmp_path_factory.mktemp("dialect") / "x.csv"
    path.write_text("\n".join(delimiter.join(row) for row in rows) + "\n", encoding=encoding)
    study = study_of(
        {
            "months": {"type": "number", "unit": "mo", "min": 0, "max": 600},
            "weight": {"type": "number", "unit": "kg", "min": 20, "max": 250},
            "ecog": {"type": "integer", "min": 0, "max": 4},
            "died": BOOLEAN,
            "sex": SEX,
        }
    )
    mapping = {
        "file": {"delimiter": delimiter, "decimal": decimal, "encoding": encoding},
        "missing": [missing],
        "variables": {
            "months": {"column": "T", "unit": time_unit[0]},
            "weight": {"column": "W", "unit": mass_unit[0]},
            "ecog": {"column": "E"},
            "died": {"column": "D", "codes": {"ja": True, "nein": False}},
            "sex": {"column": "S", "codes": {codes[0]: "male", codes[1]: "female"}},
        },
    }
    table = made(path, study, mapping).table
    np.testing.assert_allclose(table["months"], data["months"].to_numpy(float), atol=1e-5)
    np.testing.assert_allclose(table["weight"], data["weight"].to_numpy(float), atol=1e-5)
    for name in ("ecog", "died"):
        np.testing.assert_array_equal(table[name], data[name].to_numpy(float))
    np.testing.assert_array_equal(table["sex"], data["sex"].map({"male": 0.0, "female": 1.0}).to_numpy(float))


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_numbers_as_text_are_read_with_white_space_signs_and_exponents() -> None:
    np.testing.assert_array_equal(
        one([" 1.5", "-2 ", "+3", ".5", "1e2", "NA", None], NUMBER), [1.5, -2, 3, 0.5, 100, NAN, NAN]
    )


def test_numeric_codes_of_missing_work_on_numbers_and_on_text() -> None:
    for values in ([1.0, -9.0, 999.0], ["1", "-9", "999.0"]):
        np.testing.assert_array_equal(one(values, NUMBER, {"missing": [999]}, missing=[-9]), [1, NAN, NAN])


def test_temperatures_are_converted_with_their_zero() -> None:
    got = one([98.6, 104.0], {"type": "number", "unit": "Cel", "min": 30, "max": 45}, {"unit": "[degF]"})
    np.testing.assert_allclose(got, [37, 40])


def test_codes_can_stand_for_numbers() -> None:
    got = one(
        ["none", "mild", "?"], {"type": "integer", "min": 0, "max": 3}, {"codes": {"none": 0, "mild": 1, "?": None}}
    )
    np.testing.assert_array_equal(got, [0, 1, NAN])


def test_values_on_a_bound_survive_the_rounding_of_a_conversion() -> None:
    variable = {"type": "number", "unit": "[lb_av]", "min": 0, "max": 220.4622621848776}
    assert one([100.00000000000001, 5.0], variable, {"unit": "kg"})[0] <= 220.4622621848776


def test_nullable_integers_and_decimals_are_numbers() -> None:
    values = pd.array([1, None, 3], dtype="Int64")
    np.testing.assert_array_equal(one(values, {"type": "integer", "min": 0, "max": 5}), [1, NAN, 3])


# --- outside the bounds ----------------------------------------------------------------------------------------------


def test_outside_missing_and_clamp_do_what_they_say_and_report_it() -> None:
    study = study_of({"x": {"type": "number", "min": 0, "max": 10}})
    frame = pd.DataFrame({"x": [1.0, 2, 3, 4, -1, 11]})
    missing = made(frame, study, {"variables": {"x": {"outside": "missing"}}})
    np.testing.assert_array_equal(missing.table["x"], [1, 2, 3, 4, NAN, NAN])
    assert (missing.report["x"].outside, missing.report["x"].treatment, missing.report["x"].missing) == (
        2,
        "missing",
        2,
    )
    clamped = made(frame, study, {"variables": {"x": {"outside": "clamp"}}})
    np.testing.assert_array_equal(clamped.table["x"], [1, 2, 3, 4, 0, 10])
    assert (clamped.report["x"].outside, clamped.report["x"].treatment, clamped.report["x"].missing) == (
        2,
        "clamped",
        0,
    )


# --- the grid --------------------------------------------------------------------------------------------------------


def test_times_go_up_and_entries_down_and_the_report_says_how_far() -> None:
    study = study_of(
        {
            "time": {"type": "number", "unit": "d", "min": 0, "max": 100},
            "start": {"type": "number", "unit": "d", "min": 0, "max": 100},
            "died": BOOLEAN,
        },
        time="time",
        entry="start",
        event="died",
        grid={"step": 10, "unit": "d"},
    )
    got = made(pd.DataFrame({"time": [10.0, 11, 29], "start": [0.0, 9, 20], "died": [1, 0, 1]}), study)
    np.testing.assert_array_equal(got.table["time"], [10, 20, 30])
    np.testing.assert_array_equal(got.table["start"], [0, 0, 20])
    assert (got.report["time"].moved, got.report["time"].largest_move) == (2, 9.0)
    assert (got.report["start"].moved, got.report["start"].largest_move) == (1, 9.0)


# --- booleans and categories -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [[True, False, None], [1, 0, None], ["1", "0", ""], ["true", "FALSE", "NA"], ["1.0", "0.0", ""]]
)
def test_real_booleans_and_ones_and_zeros_need_no_codes(values: list[Any]) -> None:
    np.testing.assert_array_equal(one(values, BOOLEAN), [1, 0, NAN])


def test_yes_and_no_are_read_only_as_declared() -> None:
    np.testing.assert_array_equal(one(["yes", "no", ""], BOOLEAN, {"codes": {"yes": True, "no": False}}), [1, 0, NAN])
    with pytest.raises(DataError) as caught:
        one(["yes", "no"], BOOLEAN)
    assert caught.value.rule == "known-codes"


@pytest.mark.parametrize("values", [[1, 2, 1], [1.0, 2.0, 1.0], ["1", "2", "1"], ["1.0", "2.0", "1.0"]])
def test_number_codes_are_the_same_codes_however_they_are_stored(values: list[Any]) -> None:
    np.testing.assert_array_equal(one(values, SEX, {"codes": {"1": "male", "2": "female"}}), [0, 1, 0])


def test_levels_and_pandas_categories_are_read_as_they_are() -> None:
    np.testing.assert_array_equal(one(pd.Categorical(["female", "male", None]), SEX), [1, 0, NAN])


def test_a_code_wins_over_the_ordinary_words_for_missing() -> None:
    np.testing.assert_array_equal(one(["NA", "M", ""], SEX, {"codes": {"NA": "female", "M": "male"}}), [1, 0, NAN])


def test_a_code_can_mean_missing() -> None:
    np.testing.assert_array_equal(
        one(["M", "F", "U"], SEX, {"codes": {"M": "male", "F": "female", "U": None}}), [0, 1, NAN]
    )


# --- dates -----------------------------------------------------------------------------------------------------------

DATES = pd.DataFrame({"birth": ["1950-03-01", "1950-03-01", ""], "seen": ["2010-02-28", "2010-03-01", "2010-01-01"]})


def aged(variable: dict[str, Any], entry: dict[str, Any], frame: pd.DataFrame = DATES, **top: Any) -> list[float]:
    table = made(frame, study_of({"x": variable}), {"variables": {"x": entry}, **top}).table
    return [float(v) for v in table["x"]]


def test_years_between_are_birthdays_for_an_integer_and_days_over_a_year_for_a_number() -> None:
    entry = {"years_between": ["birth", "seen"]}
    np.testing.assert_array_equal(aged({"type": "integer", "unit": "a", "min": 0, "max": 120}, entry), [59, 60, NAN])
    exact = aged({"type": "number", "unit": "a", "min": 0, "max": 120}, entry)
    np.testing.assert_allclose(exact, [21914 / 365.25, 21915 / 365.25, NAN])


def test_a_time_between_a_date_and_a_fixed_day_in_the_studys_unit() -> None:
    frame = pd.DataFrame({"dx": ["01.12.2024", "31.12.2023"]})
    entry = {"between": {"from": "dx", "to": {"date": "2024-12-31"}}, "unit": "d", "date_format": "%d.%m.%Y"}
    np.testing.assert_allclose(
        aged({"type": "number", "unit": "wk", "min": 0, "max": 100}, entry, frame), [30 / 7, 366 / 7]
    )


def test_typed_dates_and_one_format_for_the_whole_file() -> None:
    variable, entry = {"type": "number", "unit": "d", "min": -10, "max": 99}, {"between": {"from": "a", "to": "b"}}
    typed = pd.DataFrame(
        {"a": pd.to_datetime(["2020-01-01", None]), "b": pd.to_datetime(["2020-01-31 12:00", "2020-01-01 00:00"])}
    )
    np.testing.assert_allclose(aged(variable, entry, typed), [30.5, NAN])
    text = pd.DataFrame({"a": ["01/02/2020", "03/02/2020"], "b": ["03/02/2020", "01/02/2020"]})
    np.testing.assert_allclose(aged(variable, entry, text, date_format="%d/%m/%Y"), [2, -2])


def test_codes_for_unknown_dates_are_missing() -> None:
    frame = pd.DataFrame({"a": ["2020-01-01", "9999-12-31"], "b": pd.to_datetime(["2020-01-03", "2100-01-01"])})
    variable = {"type": "number", "unit": "d", "min": 0, "max": 99}
    entry = {"between": {"from": "a", "to": "b"}, "missing": ["9999-12-31", "2100-01-01"]}
    np.testing.assert_allclose(aged(variable, entry, frame), [2, NAN])


# --- derived variables and the report --------------------------------------------------------------------------------


def test_derived_variables_are_made_from_harmonised_ones() -> None:
    study = study_of(
        {
            "height": {"type": "number", "unit": "m", "min": 1, "max": 2.5},
            "weight": {"type": "number", "unit": "kg", "min": 30, "max": 250},
            "bmi": {"type": "number", "unit": "kg/m2", "min": 10, "max": 40, "derive": "weight / height ** 2"},
            "same": {"type": "number", "unit": "kg", "min": 30, "max": 100, "derive": "weight"},
            "heavy": {"type": "category", "levels": ["no", "yes"], "derive": {"variable": "bmi", "at": [30]}},
        }
    )
    frame = pd.DataFrame({"height": [180.0, 160.0, 150.0], "weight": [81.0, 89.6, 180.0]})
    got = made(frame, study, {"variables": {"height": {"unit": "cm"}}})
    np.testing.assert_allclose(got.table["bmi"], [25, 35, NAN])
    np.testing.assert_array_equal(got.table["heavy"], [0, 1, NAN])
    np.testing.assert_array_equal(got.table["weight"], [81.0, 89.6, 180.0])
    assert (got.report["bmi"].outside, got.report["bmi"].treatment) == (1, "missing")
    assert list(frame["weight"]) == [81.0, 89.6, 180.0]


def test_the_report_is_json_and_text() -> None:
    frame = lung.frame(None).assign(sex=lambda f: np.where(f["sex"] == 1, "female", "male"))
    report = made(frame, lung.study(), name="padua").report
    assert Validation.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    text = report.render()
    assert "padua" in text
    assert "stays at the hospital" in text
    for name in lung.study().variables:
        assert name in text
    assert report.rows == len(frame)
    assert report["time"].moved > 0
    assert all(v.n + v.missing == report.rows for v in report.variables)


def test_a_code_with_leading_zeros_is_another_code() -> None:
    entry = {"codes": {"1": "male", "01": "female"}}
    np.testing.assert_array_equal(one(["1", "01", "1.0"], SEX, entry), [0, 1, 0])
    with pytest.raises(DataError):
        one(["1", "01"], SEX, {"codes": {"1": "male"}})


def test_the_decimal_comma_of_the_mapping_is_heeded_in_frames_too() -> None:
    np.testing.assert_array_equal(one(["1,5", "2"], NUMBER, file={"decimal": ","}), [1.5, 2])


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    study = study_of({"x": NUMBER})
    report = made(
        pd.DataFrame({"[red]x[/red]": [1.0]}), study, {"variables": {"x": {"column": "[red]x[/red]"}}}, "[bold]padua"
    ).report
    assert "[red]x[/red]" in report.render()
    assert "[bold]padua" in report.render()


def test_a_whole_analysis_table_is_float64_without_infinities() -> None:
    frame = lung.frame(None).assign(sex=lambda f: np.where(f["sex"] == 1, "female", "male"))
    table = made(frame, lung.study()).table
    for column in table.columns.values():
        assert column.dtype == np.float64
        assert column.shape == (table.n,)
        assert not np.isinf(column).any()
