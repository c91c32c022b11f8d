"""Reading a mapping file and checking it against the study; every problem is reported at its line, all at once."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unisono.errors import MappingError, StudyError
from unisono.site.data.mapping import Mapping, VariableMapping
from unisono.study import strict_yaml, units
from unisono.study.document import BooleanVariable, CategoryVariable, ImageVariable, NumberVariable, Study, Variable
from unisono.study.problems import Path as ProblemPath
from unisono.study.problems import Problem, did_you_mean, from_pydantic, nearest

MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class LocatedProblem:
    """One thing wrong with a mapping file, with its line where there is a file."""

    line: int | None
    path: ProblemPath
    what: str
    rule: str
    remedy: str


class MappingProblems(MappingError):
    """Everything that is wrong with a mapping file, in one error; `problems` lists it."""

    def __init__(
        self, what: str, *, rule: str, remedy: str, where: str | None = None, problems: tuple[LocatedProblem, ...] = ()
    ) -> None:
        super().__init__(what, rule=rule, remedy=remedy, where=where)
        self.problems = problems

    @staticmethod
    def of(problems: list[LocatedProblem], name: str) -> MappingProblems:
        """One error for all `problems` of the mapping called `name`."""
        if len(problems) == 1:
            p = problems[0]
            where = f"{name}:{p.line}" if p.line else name
            return MappingProblems(p.what, rule=p.rule, remedy=p.remedy, where=where, problems=(p,))
        lines = [f"{name}{f':{p.line}' if p.line else ''}: {p.what} ({p.rule}) {p.remedy}" for p in problems]
        return MappingProblems(
            f"The mapping {name} has {len(problems)} problems:\n  " + "\n  ".join(lines),
            rule=problems[0].rule if len({p.rule for p in problems}) == 1 else "valid-mapping",
            remedy="Correct each line as it says; docs/mapping.md shows every setting.",
            where=name,
            problems=tuple(problems),
        )


def load(source: Path | str | AnyMapping[str, Any] | Mapping | None, study: Study) -> Mapping:
    """The mapping in a YAML file (a `str` is a path), a dict or a `Mapping`, checked; None is the identity mapping.

    Raises `MappingProblems` with every problem and its line, or `MappingError` when the file cannot be read.
    """
    name = "mapping"
    line: Callable[[ProblemPath], int | None] = _no_line
    if source is None:
        source = Mapping()
    if isinstance(source, Path | str):
        path = Path(source)
        name = path.name
        document = strict_yaml.parse(_read(path) or "{}", name, kind=MappingError)
        line = document.line
        source = document.value if document.value is not None else {}
        if not isinstance(source, dict) or source.get("unisono-mapping") is None:
            raise MappingError(
                f"{name} is not a mapping file.",
                rule="mapping-version",
                remedy="A mapping file begins with the line `unisono-mapping: 1`.",
                where=name,
            )
    if isinstance(source, Mapping):
        mapping, problems = source, check(source, study)
    else:
        mapping, problems = _validate(dict(source), study)
    if problems:
        raise MappingProblems.of(
            [LocatedProblem(line(p.path), p.path, p.what, p.rule, p.remedy) for p in problems], name
        )
    return mapping


def _no_line(_: ProblemPath) -> int | None:
    return None


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MappingError(
                f"{path.name} is larger than 1 MiB.", rule="size-limits", remedy="Is this a mapping file?"
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise MappingError(
            f"{path.name} is not UTF-8 text.", rule="text-encoding", remedy="Save the mapping as UTF-8."
        ) from None
    except OSError as error:
        raise MappingError(
            f"The mapping file {path.name} cannot be opened ({error.strerror or 'unknown reason'}).",
            rule="readable-file",
            remedy=f"Check the path ({path}).",
        ) from None


def _validate(value: dict[str, Any], study: Study) -> tuple[Mapping, list[Problem]]:
    try:
        mapping = Mapping.model_validate(value)
    except ValidationError as error:
        problems = from_pydantic(error, (), Mapping, value)
        told = [p.remedy.replace("`unisono study schema`", "docs/mapping.md") for p in problems]
        return Mapping(), [replace(p, remedy=remedy) for p, remedy in zip(problems, told, strict=True)]
    return mapping, check(mapping, study)


def check(mapping: Mapping, study: Study) -> list[Problem]:
    """What in a mapping does not fit the study: unknown variables, units of another dimension, unknown levels."""
    problems: list[Problem] = []
    for name, entry in mapping.variables.items():
        here = ("variables", name)
        if name not in study.variables:
            remedy = did_you_mean(name, list(study.variables), "variables")
            problems.append(Problem(here, f"The study has no variable {name!r}.", "known-variables", remedy))
            continue
        variable = study.variables[name]
        if variable.derive is not None:
            what = f"{name!r} is derived from other variables by the study, so it has no column."
            problems.append(Problem(here, what, "observed-variables", "Remove this entry."))
            continue
        problems += _unit_problems(here, name, entry, variable) + _code_problems(here, name, entry, variable)
    return problems


def _unit_problems(here: ProblemPath, name: str, entry: VariableMapping, variable: Variable) -> list[Problem]:
    if not isinstance(variable, NumberVariable):
        keys = [k for k in ("unit", "between", "years_between", "outside") if k in entry.model_fields_set]
        return [
            Problem((*here, k), f"{k} is for numbers, and {name!r} is a {variable.type}.", "types", f"Remove {k}.")
            for k in keys
        ]
    key = next(
        k for k in ("unit", "between", "years_between", "column") if k == "column" or getattr(entry, k) is not None
    )
    unit = entry.unit or ("d" if entry.dates is not None else variable.unit)
    try:
        units.check_unit(unit)
    except StudyError as error:
        return [Problem((*here, key), error.what, error.rule, error.remedy)]
    if entry.dates is not None and not units.compatible(unit, "d"):
        what, remedy = f"A time between dates cannot be in {unit!r}.", "Use d, wk, mo or a."
    elif not units.compatible(unit, variable.unit):
        what = f"{name!r} is in {variable.unit!r} in the study; {unit!r} cannot be converted to that."
        remedy = f"Write the unit of the hospital's column, one that measures the same as {variable.unit!r}."
    else:
        return []
    return [Problem((*here, key), what, "compatible-units", remedy)]


def _code_problems(here: ProblemPath, name: str, entry: VariableMapping, variable: Variable) -> list[Problem]:
    problems = []
    if isinstance(variable, ImageVariable) and entry.codes is not None:
        what = f"codes are for numbers and categories, and {name!r} is an image: its column holds names of files."
        return [Problem((*here, "codes"), what, "types", "Remove codes; list what means no picture under `missing`.")]
    for code, meaning in (entry.codes or {}).items():
        if meaning is None:
            continue
        if isinstance(variable, CategoryVariable):
            fits, expected = meaning in variable.levels, f"one of the levels {', '.join(variable.levels)}"
        elif isinstance(variable, BooleanVariable):
            fits, expected = isinstance(meaning, bool), "true or false"
        else:
            fits, expected = isinstance(meaning, int | float) and not isinstance(meaning, bool), "a number"
        if not fits:
            near = nearest(str(meaning), getattr(variable, "levels", []))
            remedy = f"Did you mean {near!r}?" if near else f"Write {expected}, or null for missing."
            problems.append(
                Problem(
                    (*here, "codes", code),
                    f"The code {code!r} of {name!r} must mean {expected}.",
                    "known-levels",
                    remedy,
                )
            )
    return problems
