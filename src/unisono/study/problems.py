"""What is wrong with a study, where in the document, and how to mend it; collected so that one check reports them all.

This is also the one place where pydantic's findings become problems in plain words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]
"""Keys and indices from the top of the document: ``("analyses", "effect", "covariates", 1)``."""


NEAR = 0.65
"""Of 1 (the same): how alike two names are when one was probably meant by the other. ``auroc`` is no ``accuracy``."""


class Unfit(ValueError):
    """Values that do not go together, raised by a model's own validator: what is wrong, and what is allowed."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


@dataclass(frozen=True)
class Problem:
    """One thing wrong. `path` is where; the loader turns it into a line."""

    path: Path
    what: str
    rule: str
    remedy: str


def from_pydantic(error: ValidationError, prefix: Path, model: type[BaseModel], document: Any) -> list[Problem]:
    """pydantic's findings about `document` (what was validated against `model`, found at `prefix`) as problems.

    Paths are the document's own, without the tags that pydantic puts in for a union's alternatives; a typo in a key or
    a value names the nearest known one; of a union's alternatives only the one that was meant is reported.
    """
    found: list[tuple[Path, Problem]] = []
    for item in error.errors(include_url=False):
        path = _document_path(item["loc"], document, item["type"] == "missing")
        at = path[:-1] if item["type"] == "missing" else path
        known = _known_keys(model, item["loc"], document) if item["type"] == "extra_forbidden" else []
        what, rule, remedy = _in_words(item, known)
        found.append((path, Problem((*prefix, *at), what, rule, remedy)))
    return _meant(found)


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that was probably meant, if one is near."""
    near = get_close_matches(name, list(known), 1, NEAR) or get_close_matches(name.lower(), list(known), 1, NEAR)
    return near[0] if near else None


def did_you_mean(name: str, known: Sequence[str], kind: str) -> str:
    """A remedy for an unknown name: the nearest one, or all of them."""
    near = nearest(name, known)
    return f"Did you mean {near!r}?" if near else f"Known {kind}: {', '.join(known)}."


def _document_path(loc: tuple[int | str, ...], document: Any, missing: bool = False) -> Path:
    """`loc` without the elements that are no key or index of the document (union tags, ``[key]``). With `missing`, the
    last element is a key that should have been there, and stays."""
    path: list[str | int] = []
    here = document
    for i, element in enumerate(loc):
        rest = loc[i + 1 :]
        if _is_tag(element, here, rest):
            continue
        below = _inside(here, element)
        if below is not _NOTHING:
            here = below
        elif rest or not missing:
            continue
        path.append(element)
    return tuple(path)


_NOTHING = object()


def _inside(here: Any, element: int | str) -> Any:
    """What is at `element` of a mapping or list of the document; `_NOTHING` if that is no key or index of it."""
    if isinstance(here, Mapping):
        return here.get(element, _NOTHING)
    if isinstance(here, list | tuple) and isinstance(element, int) and element < len(here):
        return here[element]
    return _NOTHING


def _is_tag(element: int | str, here: Any, rest: tuple[int | str, ...]) -> bool:
    """A discriminated union puts the value of ``type`` before the key: ``variables.age.number.min``."""
    return bool(rest) and isinstance(here, Mapping) and here.get("type") == element


def _known_keys(model: type[BaseModel], loc: tuple[int | str, ...], document: Any) -> list[str]:
    """The keys that are allowed where an unknown one was found: follow `loc` down the models."""
    kinds: list[Any] = [model]
    for element in loc[:-1]:
        kinds = [below for kind in kinds for below in _below(kind, element)] or kinds
    models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
    tag = _at(document, _document_path(loc, document)[:-1])
    if len(models) > 1 and isinstance(tag, Mapping):
        models = [m for m in models if _allows_tag(m, tag.get("type"))] or models
    return list(dict.fromkeys(field.alias or key for m in models for key, field in m.model_fields.items()))


def _below(kind: Any, element: int | str) -> list[Any]:
    """The types that `element` of a value of type `kind` may have; a union's tag leads to nothing and is skipped."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(element))
        return _alternatives(field.annotation) if field else []
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is dict and len(arguments) == 2:
        return _alternatives(arguments[1])
    if origin in (list, tuple) and arguments and isinstance(element, int):
        return _alternatives(arguments[0])
    return []


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [annotation]


def _allows_tag(model: type[BaseModel], tag: Any) -> bool:
    field = model.model_fields.get("type")
    return field is not None and tag in get_args(field.annotation)


def _at(document: Any, path: Path) -> Any:
    for element in path:
        document = document[element]
    return document


def _meant(found: list[tuple[Path, Problem]]) -> list[Problem]:
    """One problem for each place. A union reports every alternative: keep what is deepest, and choices over types."""
    kept: dict[Path, Problem] = {}
    for path, problem in found:
        if any(len(other) > len(path) and other[: len(path)] == path for other, _ in found):
            continue
        before = kept.get(path)
        if before is None or (before.rule == "types" and problem.rule != "types"):
            kept[path] = problem
    return list(kept.values())


_TYPES = {
    "string_type": ("text", "Write text; put it in quotes if it looks like a number or true/false."),
    "float_type": ("a number", "Write a number without quotes, as in 1 or 0.5."),
    "float_parsing": ("a number", "Write a number without quotes, as in 1 or 0.5."),
    "int_type": ("a whole number", "Write a whole number without quotes."),
    "int_parsing": ("a whole number", "Write a whole number without quotes."),
    "int_from_float": ("a whole number", "Write a whole number without quotes."),
    "bool_type": ("true or false", "Write true or false."),
    "bool_parsing": ("true or false", "Write true or false."),
    "finite_number": ("a finite number", "Write a finite number."),
    "list_type": ("a list", "Write a list, as in [age, sex]."),
    "tuple_type": ("a list", "Write a list, as in [age, sex]."),
    "dict_type": ("a mapping of keys to values", "Write 'key: value' lines, indented."),
    "model_type": ("a mapping of keys to values", "Write 'key: value' lines, indented."),
    "model_attributes_type": ("a mapping of keys to values", "Write 'key: value' lines, indented."),
}
_LIMITS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _in_words(item: ErrorDetails, known: list[str]) -> tuple[str, str, str]:
    """(what, rule, remedy) of one finding."""
    kind, context = item["type"], item.get("ctx", {})
    key = str(item["loc"][-1]) if item["loc"] else "study"
    if key == "[key]":
        key = str(item["input"])
    if kind == "extra_forbidden":
        return f"Unknown key {key!r}.", "known-keys", did_you_mean(key, known, "keys") if known else f"Remove {key!r}."
    if kind == "missing":
        return f"The key {key!r} is missing.", "required-keys", f"Add {key!r}."
    if kind in _TYPES:
        expected, remedy = _TYPES[kind]
        return f"{_quoted(item['input'])} should be {expected}.", "types", remedy
    if kind in _LIMITS:
        word, name = _LIMITS[kind]
        bound = f"{context[name]:g}" if isinstance(context[name], int | float) else str(context[name])
        return f"{_quoted(item['input'])} must be {word} {bound}.", "limits", f"Write a number {word} {bound}."
    return _in_words_of_choices(item, kind, context)


def _in_words_of_choices(item: ErrorDetails, kind: str, context: dict[str, Any]) -> tuple[str, str, str]:
    value = item["input"]
    if kind == "literal_error":
        choices = str(context["expected"])
        near = nearest(str(value), [c.strip("'") for c in choices.replace(" or ", ", ").split(", ")])
        remedy = f"Did you mean {near!r}? Allowed: {choices}." if near else f"Write {choices}."
        return f"{_quoted(value)} is not one of {choices}.", "choices", remedy
    if kind == "union_tag_invalid":
        tag, choices = str(context["tag"]), str(context["expected_tags"])
        near = nearest(tag, [c.strip("'") for c in choices.split(", ")])
        remedy = f"Did you mean {near!r}? Allowed: {choices}." if near else f"Write one of {choices}."
        return f"{tag!r} is no type of variable.", "choices", remedy
    if kind == "union_tag_not_found":
        return "The key 'type' is missing.", "required-keys", "Add 'type: number', 'integer', 'boolean' or 'category'."
    if kind == "string_pattern_mismatch":
        remedy = "Use lower-case letters, digits and _ (in ids also - and .), a letter first, at most 63."
        return f"{_quoted(value)} cannot be a name here.", "names", remedy
    if kind in ("too_short", "string_too_short"):
        return "There is nothing here, or too little.", "limits", f"Give at least {context['min_length']}."
    message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    wrong = context.get("error")
    known = "Correct the value; `unisono study schema` lists what is allowed."
    remedy = wrong.remedy if isinstance(wrong, Unfit) else known
    return f"{message[:1].upper()}{message[1:]}.", "values", remedy


def _quoted(value: Any) -> str:
    """A value of the document, short enough for a message."""
    if isinstance(value, Mapping | list):
        return "A mapping" if isinstance(value, Mapping) else "A list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
