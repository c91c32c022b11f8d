"""Loading: one digest for one study however it is written, and every mistake with its line, its rule and its remedy."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.errors import StorageError, StudyError, UnisonoError
from unisono.study.document import Study
from unisono.study.load import LocatedProblem, StudyProblems, dump_json, dump_yaml, load
from unisono.study.problems import Problem

EXAMPLE = Path(__file__).parent.parent / "examples" / "als-survival.yaml"

DOCUMENT: dict[str, Any] = {
    "unisono": 1,
    "id": "als-survival",
    "question": "Does bulbar onset shorten survival?",
    "variables": {
        "months": {"type": "number", "unit": "mo", "min": 0, "max": 600},
        "died": {"type": "boolean"},
        "age": {"type": "number", "unit": "a", "min": 10, "max": 110},
        "onset": {"type": "category", "levels": ["spinal", "bulbar"]},
        "old": {"type": "boolean", "derive": "age >= 65"},
        "group": {"type": "category", "levels": ["young", "old"], "derive": {"variable": "age", "at": [65]}},
    },
    "cohort": {"include": ["age >= 18"], "missing": {"age": "mean", "onset": "mode", "default": "complete-cases"}},
    "analyses": {
        "curves": {"method": "kaplan-meier", "time": "months", "event": "died", "grid": {"step": 1, "unit": "mo"}},
        "effect": {"method": "cox", "time": "months", "event": "died", "covariates": ["age", "onset"]},
    },
}


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    here: Any = document
    for key in path[:-1]:
        here = here.setdefault(key, {}) if isinstance(here, dict) else here[key]
    here[path[-1]] = value
    return document


def problems(source: Any) -> list[LocatedProblem]:
    with pytest.raises(StudyProblems) as refused:
        load(source)
    found = refused.value.problems
    assert all(p.what and p.rule and p.remedy for p in found)
    assert all(p.what in str(refused.value) and p.remedy in str(refused.value) for p in found)
    return found


def shuffled(value: Any, seed: int) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        random.Random(seed).shuffle(items)
        return {key: shuffled(item, seed) for key, item in items}
    return value


def test_the_example_loads() -> None:
    study = load(EXAMPLE)
    assert study.id == "als-survival"
    assert study.analyses["curves"].parameters["grid"] == {"step": 1, "unit": "mo"}
    assert load(study) is study


def test_yaml_json_mapping_and_object_give_one_digest(tmp_path: Path) -> None:
    study = load(DOCUMENT)
    (tmp_path / "s.yaml").write_text(dump_yaml(study))
    (tmp_path / "s.json").write_text(dump_json(study))
    (tmp_path / "tabs.json").write_text(json.dumps(DOCUMENT, indent="\t"))
    for source in (tmp_path / "s.yaml", str(tmp_path / "s.json"), tmp_path / "tabs.json", study, DOCUMENT):
        assert load(source).digest() == study.digest()


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_the_digest_does_not_depend_on_the_order_of_keys(seed: int) -> None:
    assert load(shuffled(DOCUMENT, seed)).digest() == load(DOCUMENT).digest()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("purpose",), "scientific research"),
        (("protection",), {"hide": "secagg"}),
        (("release",), {"min_sites": 3, "min_count": 10}),
        (("participation",), {}),
        (("variables", "onset", "reference"), "spinal"),
        (("variables", "age", "label"), None),
        (("variables", "age", "min"), 10.0),
        (("analyses", "curves", "grid", "step"), 1.0),
    ],
)
def test_a_default_written_out_and_another_spelling_of_a_number_change_nothing(
    path: tuple[str, ...], value: Any
) -> None:
    assert load(changed(path, value)).digest() == load(DOCUMENT).digest()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("question",), "Another?"),
        (("variables", "onset", "reference"), "bulbar"),
        (("variables", "onset", "levels"), ["bulbar", "spinal"]),
        (("release", "min_count"), 11),
        (("analyses", "effect", "covariates"), ["onset", "age"]),
        (("analyses", "effect", "ties"), "efron"),
    ],
)
def test_what_changes_the_study_changes_the_digest(path: tuple[str, ...], value: Any) -> None:
    assert load(changed(path, value)).digest() != load(DOCUMENT).digest()


WORDS = [
    "yes",
    "n",
    "1e-5",
    "007",
    "12:30",
    "null",
    "",
    " x ",
    "a: b",
    "# c",
    "'",
    '"',
    "é 😀",
    "- x",
    "~",
    "2024-01-01",
    "1_0",
    "a\nb",
]


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)), min_size=2, max_size=4, unique=True),
    st.floats(-1e9, 1e9),
)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, levels: list[str], low: float) -> None:
    levels = [level for level in levels if level.isprintable()]
    if len(levels) < 2:
        return
    named = [level.translate(str.maketrans("", "", "[]:")) for level in levels]  # what a level may not hold
    if len(set(named)) < len(named):
        return
    document = changed(("variables", "onset"), {"type": "category", "levels": named})
    study = load(
        {**document, "question": levels[0] or "q", "analyses": {"a": {"method": levels[1], "x": levels, "y": low}}}
    )
    folder = tmp_path_factory.mktemp("written")
    (folder / "s.yaml").write_text(dump_yaml(study), encoding="utf-8")
    (folder / "s.json").write_text(dump_json(study), encoding="utf-8")
    assert load(folder / "s.yaml") == load(folder / "s.json") == study
    assert load(folder / "s.yaml").digest() == study.digest()


BAD: list[tuple[tuple[Any, ...], Any, tuple[Any, ...], str, str]] = [
    (("unisono",), 2, ("unisono",), "choices", "1"),
    (("unisono",), True, ("unisono",), "values", "schema"),
    (("id",), "ALS survival", ("id",), "names", "lower-case"),
    (("question",), 3, ("question",), "types", "text"),
    (("question",), "", ("question",), "limits", "at least 1"),
    (("protecton",), {}, ("protecton",), "known-keys", "'protection'"),
    (("variables",), {}, ("variables",), "limits", "at least 1"),
    (("variables",), [], ("variables",), "types", "key: value"),
    (("variables", "Age"), {"type": "boolean"}, ("variables", "Age"), "names", "lower-case"),
    (("variables", "x"), {"type": "numbr"}, ("variables", "x"), "choices", "'number'"),
    (("variables", "x"), {"type": "category", "levels": ["a", "b[1]"]}, ("variables", "x", "levels"), "values", "schema"),
    (("variables", "x"), {"levels": ["a"]}, ("variables", "x"), "required-keys", "type: number"),
    (("variables", "x"), {"type": "number", "max": 1}, ("variables", "x"), "required-keys", "'min'"),
    (("variables", "x"), {"type": "number", "min": "0", "max": 1}, ("variables", "x", "min"), "types", "quotes"),
    (("variables", "x"), {"type": "number", "min": True, "max": 3}, ("variables", "x", "min"), "types", "number"),
    (("variables", "x"), {"type": "number", "min": 2, "max": 1}, ("variables", "x"), "values", "schema"),
    (("variables", "x"), {"type": "number", "unti": "a", "min": 0, "max": 1}, ("variables", "x", "unti"), "known-keys", "'unit'"),
    (("variables", "x"), {"type": "category", "levels": ["a", 1]}, ("variables", "x", "levels", 1), "types", "quotes"),
    (("variables", "x"), {"type": "category", "levels": ["a"]}, ("variables", "x", "levels"), "limits", "at least 2"),
    (("variables", "x"), {"type": "category", "levels": ["a", "a"]}, ("variables", "x", "levels"), "values", "schema"),
    (("variables", "onset", "reference"), "limb", ("variables", "onset"), "values", "schema"),
    (("variables", "age", "unit"), "years", ("variables", "age", "unit"), "known-units", "'a'"),
    (("variables", "old", "derive"), "agee >= 65", ("variables", "old", "derive"), "known-variables", "'age'"),
    (("variables", "old", "derive"), "age + 1", ("variables", "old", "derive"), "expression-type", "Compare"),
    (("variables", "x"), {"type": "number", "min": 0, "max": 1, "derive": "age > 1"}, ("variables", "x", "derive"), "expression-type", "boolean"),
    (("variables", "x"), {"type": "boolean", "derive": "x or died"}, ("variables", "x", "derive"), "derivation-order", "only"),
    (("variables", "group", "derive", "variable"), "agee", ("variables", "group", "derive", "variable"), "known-variables", "'age'"),
    (("variables", "group", "derive", "variable"), "onset", ("variables", "group", "derive", "variable"), "cut-points", "number"),
    (("variables", "group", "derive", "at"), [200], ("variables", "group", "derive", "at"), "cut-points", "min and max"),
    (("variables", "group", "derive", "at"), [50, 60], ("variables", "group"), "values", "schema"),
    (("variables", "group"), {"type": "category", "levels": ["a", "b", "c"], "derive": {"variable": "age", "at": [60, 50]}},
     ("variables", "group", "derive", "at"), "cut-points", "low to high"),
    (("cohort", "include"), "age >= 18", ("cohort", "include"), "types", "list"),
    (("cohort", "include"), ["age >= 18", "onset = 3"], ("cohort", "include", 1), "expression-syntax", "=="),
    (("cohort", "include"), ["age"], ("cohort", "include", 0), "expression-type", "Compare"),
    (("cohort", "missing"), "mena", ("cohort", "missing"), "choices", "'mean'"),
    (("cohort", "missing"), "mean", ("cohort", "missing"), "missing-rule", "rule for each"),
    (("cohort", "missing"), {"age": "mena"}, ("cohort", "missing", "age"), "choices", "'mean'"),
    (("cohort", "missing"), {"agee": "mean"}, ("cohort", "missing", "agee"), "known-variables", "'age'"),
    (("cohort", "missing"), {"onset": "mean"}, ("cohort", "missing", "onset"), "missing-rule", "mode"),
    (("cohort", "missing"), {"age": "mode"}, ("cohort", "missing", "age"), "missing-rule", "mode"),
    (("cohort", "missing"), {"default": "mean"}, ("cohort", "missing", "default"), "missing-rule", "mode"),
    (("analyses", "curves"), {"time": "months"}, ("analyses", "curves"), "required-keys", "'method'"),
    (("analyses", "Curves 2"), {"method": "cox"}, ("analyses", "Curves 2"), "names", "lower-case"),
    (("analyses", "curves", "grid"), {"step": 1, "unit": "kg"}, ("analyses", "curves", "grid", "unit"), "grid-unit", "'mo'"),
    (("protection", "hide"), "ckks", ("protection", "hide"), "available-protection", "secagg"),
    (("protection", "hide"), "secag", ("protection", "hide"), "choices", "'secagg'"),
    (("protection",), {"hide": "none", "threat": "malicious"}, ("protection", "threat"), "available-protection", "secagg"),
    (("protection", "colluding"), -1, ("protection", "colluding"), "limits", "at least 0"),
    (("protection", "colluding"), 1.5, ("protection", "colluding"), "types", "whole"),
    (("release", "min_sites"), 2, ("release", "min_sites"), "least-sites", "min_sites: 3"),
    (("participation", "deadline"), "soon", ("participation", "deadline"), "durations", "10 min"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "at", "rule", "says"), BAD)
def test_every_mistake_has_its_path_its_line_and_its_remedy(
    tmp_path: Path, path: tuple[Any, ...], value: Any, at: tuple[Any, ...], rule: str, says: str
) -> None:
    document = changed(path, value)
    (found,) = problems(document)
    assert (found.path, found.rule) == (at, rule)
    assert says in found.remedy
    assert found.line is None
    file = tmp_path / "s.json"
    file.write_text(json.dumps(document, indent=1))
    (in_file,) = problems(file)
    assert (in_file.what, in_file.path) == (found.what, found.path)
    assert in_file.line is not None
    line = file.read_text().splitlines()[in_file.line - 1]
    key = at[-1] if isinstance(at[-1], str) else value[at[-1]] if isinstance(value, list) else value["levels"][at[-1]]
    assert json.dumps(key) in line


def test_without_protection_two_sites_may_be_summed() -> None:
    assert load({**DOCUMENT, "protection": {"hide": "none"}, "release": {"min_sites": 1}}).release.min_sites == 1


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = EXAMPLE.read_text().replace("unit: a", "unit: years").replace("age >= 18", "agee >= 18")
    file = tmp_path / "study.yaml"
    file.write_text(text.replace("min_sites: 3", "min_sites: 1").replace("grid: {step: 1", "grid: {step: -1"))
    found = problems(file)
    assert [p.rule for p in found] == ["known-units", "known-variables", "limits", "least-sites"]
    assert [p.line for p in found] == [8, 11, 14, 17]
    with pytest.raises(StudyProblems) as refused:
        load(file)
    assert f"{file}:8: There is no unit 'years'." in str(refused.value)
    assert refused.value.where == f"{file}:8"
    arrived = UnisonoError.from_dict(json.loads(json.dumps(refused.value.to_dict())))
    assert isinstance(arrived, StudyProblems)
    assert (arrived.rule, arrived.problems) == ("known-units", [])
    assert "years" in str(arrived)


def test_the_readers_refusals_come_the_same_way(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("unisono: 1\nid: yes\n")
    (found,) = problems(file)
    assert (found.line, found.rule) == (2, "plain-scalars")
    file.write_bytes(b"unisono: 1\nid: \xff\n")
    (found,) = problems(file)
    assert (found.line, found.what) == (2, "The file is not UTF-8 text.")
    for text in ("just text\n", "[1, 2]\n", "3\n"):
        file.write_text(text)
        (found,) = problems(file)
        assert (found.line, found.rule) == (1, "types")


def test_a_windows_editors_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "study.YAML"
    file.write_bytes(b"\xef\xbb\xbf" + EXAMPLE.read_bytes().replace(b"\n", b"\r\n"))
    assert load(file).digest() == load(EXAMPLE).digest()


def test_extra_checks_are_collected_with_the_others_once() -> None:
    again = Problem(("release", "min_sites"), "Twice.", "r", "m")
    with pytest.raises(StudyProblems) as refused:
        load(changed(("release", "min_sites"), 2), lambda _: [again, again])
    assert [p.rule for p in refused.value.problems] == ["least-sites", "r"]


def test_what_is_no_study_file_is_said_so(tmp_path: Path) -> None:
    for source in ("unisono: 1", str(tmp_path / "nowhere.yaml"), tmp_path, tmp_path / "data.csv"):
        with pytest.raises(StudyError) as refused:
            load(source)
        assert refused.value.rule == "study-file"
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(StorageError):
        load(tmp_path / "folder.yaml")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**18, {1, 2}, object(), b"x", {1: 2}])
def test_a_mapping_holds_only_what_a_file_could(value: Any) -> None:
    (found,) = problems(changed(("analyses", "effect", "extra"), value))
    assert (found.path, found.rule) == (("analyses", "effect", "extra"), "plain-values")
    endless: dict[str, Any] = {}
    endless["again"] = endless
    assert problems(endless)[0].rule == "plain-values"


def test_tuples_from_python_are_lists() -> None:
    assert load(changed(("analyses", "effect", "covariates"), ("age", "onset"))).digest() == load(DOCUMENT).digest()


def test_a_study_made_in_python_is_checked_too() -> None:
    study = Study.model_validate(changed(("release", "min_sites"), 2))
    assert problems(study)[0].rule == "least-sites"


DOCS = EXAMPLE.parent.parent / "docs" / "study.md"


def test_the_documents_own_examples_are_true(tmp_path: Path) -> None:
    blocks = [part.split("```")[0] for part in DOCS.read_text(encoding="utf-8").split("```yaml\n")[1:]]
    assert blocks[0] == EXAMPLE.read_text(encoding="utf-8")
    rest = "unisono: 1\nid: s\nquestion: q\nanalyses: {a: {method: describe}}\n"
    variables = {}
    for block in blocks[1:]:
        (tmp_path / "s.yaml").write_text(rest + block)
        variables |= load(tmp_path / "s.yaml").variables
    assert variables["scan"].type == "image"
    assert variables["obese"].type == "boolean"
