"""Strict YAML: what two readers could read differently is refused, with its line; everything else is plain values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.errors import MappingError, StudyError
from unisono.study.strict_yaml import MAX_BYTES, parse, resolve


def value(text: str) -> Any:
    return parse(text, "study.yaml").value


def test_plain_values_are_what_they_look_like() -> None:
    text = """
whole: 12
less: -3
half: 0.5
small: 1e-5
yaml11: 1.0e-5
truth: true
lie: false
nothing: null
empty:
text: padua hospital
quoted: "yes"
single: 'no'
list: [1, "1", one]
nested: {a: {b: [c]}}
block: |
  two
  lines
url: https://example.org/a:b
version: 1.2.3
"""
    assert value(text) == {
        "whole": 12,
        "less": -3,
        "half": 0.5,
        "small": 1e-5,
        "yaml11": 1e-5,
        "truth": True,
        "lie": False,
        "nothing": None,
        "empty": None,
        "text": "padua hospital",
        "quoted": "yes",
        "single": "no",
        "list": [1, "1", "one"],
        "nested": {"a": {"b": ["c"]}},
        "block": "two\nlines\n",
        "url": "https://example.org/a:b",
        "version": "1.2.3",
    }
    assert isinstance(value("a: 1.0")["a"], float)
    assert isinstance(value("a: 1")["a"], int)


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "n", "Yes", "NO", "Off", "Y"])
@pytest.mark.parametrize("text", ["a: 1\nb: {word}", "a: 1\nb: [{word}]", "a: 1\n{word}: 2"])
def test_implicit_booleans_are_refused(word: str, text: str) -> None:
    with pytest.raises(StudyError) as refused:
        value(text.format(word=word))
    assert refused.value.remedy == f"Write true or false, or quote it: '{word}'."
    assert refused.value.where == "study.yaml:2"
    assert value(text.format(word=f"'{word}'")) is not None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("True", "plain-scalars"),
        ("NULL", "plain-scalars"),
        ("~", "plain-scalars"),
        (".inf", "plain-scalars"),
        ("-.INF", "plain-scalars"),
        (".NaN", "plain-scalars"),
        ("1e999", "plain-scalars"),
        ("12345678901234567890", "plain-scalars"),
        ("9" * 5000, "plain-scalars"),
        ("007", "plain-scalars"),
        ("0x1F", "plain-scalars"),
        ("0o17", "plain-scalars"),
        ("1_000", "plain-scalars"),
        ("+5", "plain-scalars"),
        ("12:30", "plain-scalars"),
        ("2024-01-31", "plain-scalars"),
        ("2024-01-31T10:00:00Z", "plain-scalars"),
        ("=", "plain-scalars"),
        ("!!str 5", "no-tags"),
        ("!!python/object/apply:os.system [ls]", "no-tags"),
        ("! 5", "no-tags"),
        ("&anchor 5", "no-aliases"),
        ("*anchor", "no-aliases"),
        ("{? [a]: 1}", "text-keys"),
        ("{null: 1}", "text-keys"),
        ("{true: 1}", "text-keys"),
        ("{!!str a: 1}", "no-tags"),
        ("{<<: 1}", "plain-scalars"),
        ("[1, 2", "yaml-syntax"),
        ("@x", "yaml-syntax"),
        ("{a: 1, a: 2}", "distinct-keys"),
        ('"\\ud800"', "yaml-syntax"),
        ("[" * 60 + "]" * 60, "document-size"),
    ],
)
def test_what_readers_disagree_about_is_refused_on_its_line(text: str, rule: str) -> None:
    with pytest.raises(StudyError) as refused:
        value(f"first: 1\nsecond: {text}\n")
    assert refused.value.rule == rule
    assert (refused.value.where or "").startswith("study.yaml:")
    assert refused.value.where != "study.yaml:1"
    assert refused.value.remedy
    assert len(refused.value.what) < 200


def test_a_duplicate_key_names_both_lines() -> None:
    with pytest.raises(StudyError) as refused:
        value("a: 1\nb:\n  c: 2\n  d: 3\n  c: 4\n")
    assert "already on line 3, and again on line 5" in refused.value.what
    assert refused.value.where == "study.yaml:5"
    with pytest.raises(StudyError, match="already"):
        value('1: one\n"1": two\n')


def test_number_keys_are_text_as_written() -> None:
    assert value("levels: {1: male, 2: female, 1.50: x}")["levels"] == {"1": "male", "2": "female", "1.50": "x"}


def test_aliases_cannot_grow_into_a_billion_laughs() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    with pytest.raises(StudyError, match="Anchors"):
        value(bomb)


def test_one_document_of_a_readable_size() -> None:
    with pytest.raises(StudyError, match="second document") as refused:
        value("a: 1\n---\nb: 2\n")
    assert refused.value.where == "study.yaml:2"
    for empty in ("", "# only a comment\n"):
        with pytest.raises(StudyError, match="empty"):
            value(empty)
    with pytest.raises(StudyError, match="1 MiB"):
        value("a: " + "x" * MAX_BYTES)
    with pytest.raises(StudyError, match="character"):
        value("a: \x00")


def test_every_path_has_the_line_of_its_key_or_item() -> None:
    read = parse("a: 1\nb:\n  - x\n  - c: 2\n    d: [3,\n      4]\n", "s.yaml")
    assert read.line(()) == 1
    assert read.line(("b",)) == 2
    assert read.line(("b", 0)) == 3
    assert read.line(("b", 1, "d")) == 5
    assert read.line(("b", 1, "d", 1)) == 6
    assert read.line(("b", 1, "d", 7, "unknown")) == 5
    assert read.line(("nowhere",)) == 1


def test_a_mapping_file_is_refused_in_its_own_name() -> None:
    with pytest.raises(MappingError):
        parse("a: yes", "padua.mapping.yaml", kind=MappingError)


def test_json_is_read_by_the_same_rules() -> None:
    assert parse('{\n\t"a": [1, 2.5e-3, "\\ud83d\\ude00\\/", true, null]\n}', "s.json").value == {
        "a": [1, 0.0025, "😀/", True, None]
    }
    with pytest.raises(StudyError, match="already on line 2"):
        parse('{\n"a": 1,\n"a": 2\n}', "s.json")
    with pytest.raises(StudyError, match="not valid JSON") as refused:
        parse("{\n'a': 1}", "s.json")
    assert refused.value.where == "s.json:2"
    with pytest.raises(StudyError):
        parse("[" * 100_000, "s.json")
    for number in ("NaN", "Infinity", "1e999"):
        with pytest.raises(StudyError):
            parse(f'{{"a": {number}}}', "s.json")


plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**16), 10**16),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(st.characters(codec="ascii", categories=["L"]), max_size=5), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(plain, st.sampled_from([None, 2]))
def test_json_is_what_pythons_reader_makes_of_it(written: Any, indent: int | None) -> None:
    for ascii_only in (True, False):
        text = json.dumps(written, indent=indent, ensure_ascii=ascii_only)
        assert parse(text, "s.json").value == written


@settings(deadline=None)
@given(st.text(alphabet="ab: -[]{}'\"#&*!|>%@,\n\t01.~?yes", max_size=60))
def test_no_text_makes_the_reader_stumble(text: str) -> None:
    try:
        parse(text, "s.yaml")
    except StudyError as refused:
        assert refused.remedy


@pytest.mark.parametrize("text", ["e0", "-e5", ".", "-.", "E10", "-", ".e1"])
def test_letters_and_signs_without_a_number_are_text(text: str) -> None:
    assert resolve(text) == text


@pytest.mark.parametrize(("text", "value"), [("1.", 1.0), (".5", 0.5), ("-0.5e3", -500.0), ("2e3", 2000.0), ("0", 0)])
def test_numbers_are_numbers(text: str, value: float) -> None:
    assert resolve(text) == value
