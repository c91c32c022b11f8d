"""Units: UCUM codes, exact conversion, readable refusals; and durations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.errors import MappingError, StudyError
from unisono.study.unit_tables import COMMON, METRIC, PREFIX, SINGLE
from unisono.study.units import check_unit, compatible, convert, duration, factor

MULTIPLICATIVE = [code for code in COMMON if code not in ("Cel", "[degF]", "K")]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("a", "mo", 12.0),
        ("a", "d", 365.25),
        ("mo", "d", 30.4375),
        ("wk", "d", 7.0),
        ("h", "min", 60.0),
        ("lb", "kg", 0.45359237),
        ("[lb_av]", "kg", 0.45359237),
        ("[in_i]", "cm", 2.54),
        ("in", "m", 0.0254),
        ("%", "1", 0.01),
        ("L", "mL", 1000.0),
        ("dL", "L", 0.1),
        ("mg/dL", "g/L", 0.01),
        ("ug/L", "ng/mL", 1.0),
        ("mm[Hg]", "mmHg", 1.0),
        ("kg/m2", "g/cm2", 0.1),
        ("10*9/L", "/uL", 1000.0),
        ("m[iU]/L", "[iU]/L", 0.001),
        ("umol/L", "mmol/L", 0.001),
        ("mL/min/{1.73_m2}", "mL/min", 1.0),
        ("{score}", "1", 1.0),
        ("kg.m-2", "kg/m2", 1.0),
    ],
)
def test_a_factor_is_the_exact_one(source: str, target: str, expected: float) -> None:
    assert factor(source, target) == expected


def test_millimetres_of_mercury_are_the_ucum_pascals() -> None:
    assert factor("mm[Hg]", "Pa") == pytest.approx(133.322, rel=1e-5)


@pytest.mark.parametrize("code", [*SINGLE, *METRIC, *COMMON])
def test_every_unit_in_the_tables_is_known_and_converts_to_itself(code: str) -> None:
    check_unit(code)
    values = np.array([1.5, np.nan])
    assert convert(values, code, code) is values


@pytest.mark.parametrize("prefix", PREFIX)
def test_every_prefix_is_its_power_of_ten(prefix: str) -> None:
    assert factor(f"{prefix}g", "g") == pytest.approx(10.0 ** PREFIX[prefix], rel=1e-15)


def test_twelve_months_are_exactly_one_year() -> None:
    assert convert(np.array([12.0, 6.0, 600.0]), "mo", "a").tolist() == [1.0, 0.5, 50.0]


def test_temperatures_shift_and_missing_stays_missing() -> None:
    celsius = convert(np.array([98.6, 32.0, np.nan]), "[degF]", "Cel")
    assert celsius[:2] == pytest.approx([37.0, 0.0], abs=1e-12)
    assert np.isnan(celsius[2])
    with pytest.raises(MappingError, match="zeros"):
        factor("Cel", "[degF]")


@settings(deadline=None)
@given(st.sampled_from(MULTIPLICATIVE), st.sampled_from(MULTIPLICATIVE), st.floats(-1e6, 1e6))
def test_converting_there_and_back_is_no_change(a: str, b: str, value: float) -> None:
    if not compatible(a, b):
        with pytest.raises(MappingError):
            convert(np.array([value]), a, b)
        return
    there = convert(np.array([value]), a, b)
    assert convert(there, b, a)[0] == pytest.approx(value, rel=1e-14)
    assert there[0] == pytest.approx(value * factor(a, b), rel=1e-14)


@pytest.mark.parametrize(("source", "target"), [("L", "%"), ("a", "kg"), ("U/L", "[iU]/L"), ("mmol/L", "mg/dL")])
def test_different_dimensions_do_not_convert(source: str, target: str) -> None:
    assert not compatible(source, target)
    with pytest.raises(MappingError, match="cannot be converted") as refused:
        convert(np.ones(2), source, target)
    assert refused.value.rule == "unit-dimensions"


def test_a_molar_unit_says_that_the_substance_decides() -> None:
    with pytest.raises(MappingError) as refused:
        factor("mmol/L", "mg/dL")
    assert "molar mass" in refused.value.remedy


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("years", "a"),
        ("month", "mo"),
        ("kgs", "kg"),
        ("mmol/Ll", "mmol/L"),
        ("mmhg", "mm[Hg]"),
        ("m^2", "m2"),
        ("", "1"),
    ],
)
def test_a_wrong_unit_names_the_right_one(wrong: str, meant: str) -> None:
    with pytest.raises(StudyError) as refused:
        check_unit(wrong)
    assert f"Did you mean {meant!r}?" in refused.value.remedy


@settings(deadline=None)
@given(st.text(alphabet="akgmol/.*^-+0123456789[]{}()% LHeC", max_size=12))
def test_no_text_makes_the_unit_reader_stumble(text: str) -> None:
    try:
        check_unit(text)
    except StudyError as refused:
        assert refused.rule == "known-units"
    else:
        assert convert(np.array([1.0]), text, text)[0] == 1.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10 min", 600), ("2 h", 7200), ("90 s", 90), ("90s", 90), (" 1.5 d ", 129600), ("1 wk", 604800)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "min", "-5 min", "0 s", "10 kg", "10 minutes later", "1e9 d", "ten min"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(StudyError, match="not a duration") as refused:
        duration(text)
    assert "10 min" in refused.value.remedy
