"""A study from a file, a mapping or an object, checked as a whole; and a study written back.

Whatever is wrong is collected and raised once, each problem with its line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import ValidationError

from unisono.errors import StorageError, StudyError
from unisono.study import checks, strict_yaml
from unisono.study.document import Study, canonical
from unisono.study.problems import Path, Problem, from_pydantic
from unisono.study.strict_yaml import Document

Source = FilePath | str | Mapping[str, Any] | Study
Check = Callable[[Study], list[Problem]]


@dataclass(frozen=True)
class LocatedProblem:
    """A problem with its place: the line (from 1) in the file, or None for a study that came as a mapping or object."""

    line: int | None
    path: Path
    what: str
    rule: str
    remedy: str

    def text(self, name: str) -> str:
        """Three lines, the first of which an editor can jump to."""
        place = f"{name}:{self.line}" if self.line is not None else f"{name} {'.'.join(map(str, self.path))}".rstrip()
        return f"{place}: {self.what}\n  rule: {self.rule}\n  what to do: {self.remedy}"


class StudyProblems(StudyError):
    """Everything that is wrong with one study, in `problems` (in the order of the document).

    One that came in a message from elsewhere holds the first problem only, and `problems` is empty.
    """

    def __init__(
        self,
        what: str,
        *,
        rule: str,
        remedy: str,
        where: str | None = None,
        problems: Sequence[LocatedProblem] = (),
        name: str = "study",
    ) -> None:
        super().__init__(what, rule=rule, remedy=remedy, where=where)
        self.problems = list(problems)
        self.name = name

    @staticmethod
    def of(problems: Sequence[LocatedProblem], name: str) -> StudyProblems:
        """The error for these problems (at least one) of the document `name`."""
        first = problems[0]
        what = first.what if len(problems) == 1 else f"The study has {len(problems)} problems. The first: {first.what}"
        where = f"{name}:{first.line}" if first.line is not None else name
        return StudyProblems(what, rule=first.rule, remedy=first.remedy, where=where, problems=problems, name=name)

    def __str__(self) -> str:
        return "\n".join(problem.text(self.name) for problem in self.problems) or super().__str__()


def no_extra_checks(study: Study) -> list[Problem]:
    """The default of `load`: the study floor's own checks only."""
    del study
    return []


def load(source: Source, extra_checks: Check = no_extra_checks) -> Study:
    """The study that `source` describes: a path (.yaml, .yml or .json), a mapping, or a `Study` (checked again).

    extra_checks: more to check, such as the methods' specs (`unisono.methods.registry.check`).
    Raises `StudyProblems` with everything that is wrong; `StudyError` or `StorageError` if the file cannot be read.
    """
    document = _read(source)
    try:
        study = source if isinstance(source, Study) else Study.model_validate(document.value)
    except ValidationError as error:
        raise _located(from_pydantic(error, (), Study, document.value), document) from None
    found = list(dict.fromkeys([*checks.problems(study), *extra_checks(study)]))
    if found:
        raise _located(found, document)
    return study


def dump_yaml(study: Study) -> str:
    """The study as YAML that `load` reads back to the same digest, every default written out."""
    return yaml.dump(_plain(study), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def dump_json(study: Study) -> str:
    """The study as JSON that `load` reads back to the same digest, every default written out."""
    return json.dumps(_plain(study), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _located(problems: list[Problem], document: Document) -> StudyProblems:
    located = [LocatedProblem(document.line(p.path), p.path, p.what, p.rule, p.remedy) for p in problems]
    located.sort(key=lambda p: p.line if p.line is not None else 0)
    return StudyProblems.of(located, document.name)


def _read(source: Source) -> Document:
    if isinstance(source, Study):
        return Document(source.id, source.model_dump(mode="json"))
    if isinstance(source, Mapping):
        return Document("study", _checked(source, ()))
    if not isinstance(source, str | FilePath):
        raise StudyError(
            f"A {type(source).__name__} is not a study.",
            rule="study-file",
            remedy="Give the path of a .yaml, .yml or .json file, a mapping, or a Study.",
        )
    path = FilePath(source)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise StudyError(
            f"{str(source)[:80]!r} is not the path of a study file.",
            rule="study-file",
            remedy="Give the path of a .yaml, .yml or .json file, or a mapping.",
        )
    try:
        with path.open("rb") as file:
            data = file.read(strict_yaml.MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise StudyError(
            f"There is no file {str(path)!r}.", rule="study-file", remedy="Check the path and the folder you are in."
        ) from None
    except OSError as error:
        raise StorageError(
            f"{str(path)!r} cannot be read: {error.strerror}.",
            rule="study-file",
            remedy="Check that it is a file you may read.",
        ) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = LocatedProblem(line, (), "The file is not UTF-8 text.", "study-file", "Save it as UTF-8 text.")
        raise StudyProblems.of([problem], str(path)) from None
    try:
        return strict_yaml.parse(text, str(path))
    except StudyError as error:
        place = (error.where or "").removeprefix(f"{path}:")
        problem = LocatedProblem(int(place) if place.isdigit() else 1, (), error.what, error.rule, error.remedy)
        raise StudyProblems.of([problem], str(path)) from None


def _checked(value: Any, path: Path) -> Any:
    """A copy of a mapping from Python that holds only what a file could hold; tuples become lists."""
    if (
        isinstance(value, Mapping)
        and len(path) < strict_yaml.MAX_NESTING
        and all(isinstance(key, str) for key in value)
    ):
        return {key: _checked(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple) and len(path) < strict_yaml.MAX_NESTING:
        return [_checked(item, (*path, i)) for i, item in enumerate(value)]
    if value is None or type(value) in (str, bool):
        return value
    if (type(value) is int and abs(value) < 10**18) or (type(value) is float and math.isfinite(value)):
        return value
    what = f"A {type(value).__name__} stands here that no study file could hold."
    remedy = "Use text, finite numbers, true/false, None, lists, and mappings with text keys."
    raise StudyProblems.of([LocatedProblem(None, path, what, "plain-values", remedy)], "study")


def _plain(study: Study) -> dict[str, Any]:
    """Every default written out, but not the optional keys of variables that are not there."""
    document: dict[str, Any] = canonical(study.model_dump(mode="json"))
    document["variables"] = _said(document["variables"])
    return document


def _said(value: Any) -> Any:
    """Without keys that are not there."""
    return {key: _said(item) for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class _Dumper(yaml.SafeDumper):
    """Quotes what our reader would not read back as the same text; never writes anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        plain = strict_yaml.resolve(text) == text
    except ValueError:
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


def _float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    text = repr(value)
    text = (
        text if "." in text else text.replace("e", ".0e")
    )  # else the emitter, which takes 1e-09 for text, would write a tag
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _float)
