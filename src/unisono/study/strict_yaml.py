"""YAML (and JSON, a part of it) read strictly: what two people, or two programs, could read differently is refused.

No duplicate keys, no yes/no/on/off, no tags, no anchors, no dates, no octal or sexagesimal numbers; numbers as in
YAML 1.2 and JSON, so that 1e-5 is a number. Every value keeps its line. Plain values are built here from the parser's
events and PyYAML constructs nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import yaml

from unisono.errors import StudyError, UnisonoError
from unisono.study.problems import Path

MAX_BYTES = 1 << 20
"""A study, and a mapping, is something a person wrote."""
MAX_NESTING = 40

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_AMBIGUOUS = re.compile(
    r"""[+-]?\.(inf|nan)                        # not finite
      | [+-]?0[0-9_]+ | [+-]?0[xob][0-9a-f_]+   # octal to one reader, decimal to another
      | [+-]?[0-9][0-9_]*_[0-9_.]* | \+[0-9.]+  # 1_000, +5
      | [+-]?[0-9]+(:[0-9]{1,2})+(\.[0-9]*)?    # 12:30 is 750 in YAML 1.1
      | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*        # a date""",
    re.IGNORECASE | re.VERBOSE,
)
_BOOLEAN_WORDS = ("yes", "no", "on", "off", "y", "n")


@dataclass(frozen=True)
class Document:
    """A read document: its plain `value` (dict, list, str, int, float, bool, None) and where each part of it stands."""

    name: str
    value: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """The line (from 1) of `path`, or of the nearest part around it that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def parse(text: str, name: str, *, kind: type[UnisonoError] = StudyError) -> Document:
    """Read `text`; `name` is the file's name for messages. What is refused is raised as `kind`, with its line."""
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise kind(
            f"The document is larger than {MAX_BYTES >> 20} MiB.",
            rule="document-size",
            remedy="Write the question only; data belong in data files.",
            where=name,
        )
    is_json = name.lower().endswith(".json")
    if is_json:
        text = _checked_json(text, name, kind)
    reader = _Reader(name, kind, is_json)
    try:
        value = reader.document(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        reader.refuse(
            error.problem_mark or error.context_mark,
            f"This is not valid YAML: {error.problem or error.context}.",
            "yaml-syntax",
            "Check indentation (spaces, no tabs), colons, and closing quotes or brackets here and on the line above.",
        )
    except yaml.YAMLError:
        reader.refuse(
            None,
            "The document holds a character that YAML does not allow.",
            "yaml-syntax",
            "Save it as plain UTF-8 text.",
        )
    return Document(name, value, reader.lines)


def resolve(text: str) -> Any:
    """What an unquoted scalar means: None, a bool, a number or text.

    `ValueError(what, remedy)` if readers could disagree about it.
    """
    if text in ("", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    low = text.lower()
    if low in _BOOLEAN_WORDS:
        raise ValueError(
            f"{text!r} means true or false to some readers and text to others.",
            f"Write true or false, or quote it: '{text}'.",
        )
    if low in ("true", "false", "null") or text == "~":
        plain = "null" if text == "~" else low
        raise ValueError(f"{text!r} is not how Unisono writes {plain}.", f"Write {plain}, or quote it: '{text}'.")
    if text in ("<<", "="):
        raise ValueError(f"{text!r} has a meaning of its own in YAML.", f"Quote it: '{text}'.")
    if _AMBIGUOUS.fullmatch(text):
        raise ValueError(
            f"{text[:40]!r} is not read alike by all readers of YAML.",
            "Write a plain decimal number, or quote it if it is text.",
        )
    if _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
        return _number(text)
    return text


def _number(text: str) -> int | float:
    if _INTEGER.fullmatch(text) and len(text) <= 18:
        return int(text)
    value = float(text)
    if not math.isfinite(value) or _INTEGER.fullmatch(text):
        raise ValueError(
            f"{text[:40]!r} is too large a number.", "Write a smaller number, or quote it if it is an identifier."
        )
    return value


class _Mark(Protocol):
    """Where PyYAML is in the text."""

    line: int


def _line(mark: _Mark | None) -> int:
    return mark.line + 1 if mark else 1


class _Reader:
    """Builds plain values from YAML events, and remembers lines."""

    def __init__(self, name: str, kind: type[UnisonoError], json: bool) -> None:
        self.json = json
        self.name = name
        self.kind = kind
        self.lines: dict[Path, int] = {}

    def refuse(self, mark: _Mark | None, what: str, rule: str, remedy: str) -> NoReturn:
        raise self.kind(what, rule=rule, remedy=remedy, where=f"{self.name}:{_line(mark)}")

    def document(self, events: Iterator[yaml.Event]) -> Any:
        value: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.refuse(
                        event.start_mark,
                        "A second document begins here.",
                        "one-document",
                        "Keep one document in a file.",
                    )
            elif isinstance(event, yaml.NodeEvent):
                self.lines.setdefault((), _line(event.start_mark))
                value = self._value(event, events, ())
        if not documents:
            self.refuse(None, "The document is empty.", "one-document", "See the example in docs/study.md.")
        return value

    def _value(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> Any:
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            self.refuse(
                mark,
                "Anchors (&) and aliases (*) are not read.",
                "no-aliases",
                "Write the value out; quote text that begins with & or *.",
            )
        if getattr(event, "tag", None):
            self.refuse(mark, "Tags (!) are not read.", "no-tags", "Remove the tag; quote text that begins with '!'.")
        if len(path) > MAX_NESTING:
            self.refuse(
                mark,
                f"More than {MAX_NESTING} levels within each other.",
                "document-size",
                "No part of a study is this deep.",
            )
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path)
        assert isinstance(event, yaml.ScalarEvent)
        return self._scalar(event)

    def _mapping(self, events: Iterator[yaml.Event], path: Path) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key, mark = self._key(event), event.start_mark
            here = (*path, key)
            if key in built:
                self.refuse(
                    mark,
                    f"The key {key[:60]!r} is already on line {self.lines[here]}, and again on line {_line(mark)}.",
                    "distinct-keys",
                    "Keep one of the two.",
                )
            self.lines[here] = _line(mark)
            built[key] = self._value(next(events), events, here)
        return built

    def _key(self, event: yaml.Event) -> str:
        """A key is text, as written: ``1: male`` and ``"1": male`` are the same. Words like ``no`` are quoted."""
        mark = event.start_mark
        if not isinstance(event, yaml.ScalarEvent):
            self.refuse(
                mark, "A key must be text.", "text-keys", "Write 'key: value'; quote text that begins with [ or {."
            )
        if event.anchor or event.tag:
            self._value(event, iter(()), ())
        value = self._scalar(event)
        if value is None or isinstance(value, bool):
            self.refuse(mark, f"The key {event.value!r} must be text.", "text-keys", "Write it in quotes.")
        return value if isinstance(value, str) else str(event.value)

    def _sequence(self, events: Iterator[yaml.Event], path: Path) -> list[Any]:
        built: list[Any] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            here = (*path, len(built))
            self.lines[here] = _line(event.start_mark)
            built.append(self._value(event, events, here))
        return built

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        text: str = event.value
        if event.style is not None:
            return self._text(text, event.start_mark)
        try:
            value = resolve(text)
        except ValueError as error:
            what, remedy = error.args
            self.refuse(event.start_mark, what, "plain-scalars", remedy)
        if isinstance(value, str) and self.json:
            what = f"{text!r} is not a JSON value."  # NaN and Infinity, which Python's own reader lets pass
            self.refuse(event.start_mark, what, "json-syntax", "Write a finite number, or quote it if it is text.")
        return self._text(value, event.start_mark) if isinstance(value, str) else value

    def _text(self, text: str, mark: _Mark | None) -> str:
        """JSON writes an emoji as two surrogates; a lone one is no character."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.refuse(
                mark, "The text holds half a character (a lone surrogate).", "yaml-syntax", "Save the file as UTF-8."
            )


def _checked_json(text: str, name: str, kind: type[UnisonoError]) -> str:
    """A JSON file must be JSON, and not YAML that happens to be called so. Tabs between its parts become spaces (valid
    JSON has none within text), because YAML does not allow them."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise kind(
            f"This is not valid JSON: {error.msg}.",
            rule="json-syntax",
            remedy="Check commas, quotes and closing brackets on this line and the one above.",
            where=f"{name}:{error.lineno}",
        ) from None
    except (RecursionError, ValueError):
        raise kind(
            "This JSON is too deep, or holds a number of thousands of digits.",
            rule="document-size",
            remedy="See the example in docs/study.md.",
            where=name,
        ) from None
    return text.replace("\t", " ")
