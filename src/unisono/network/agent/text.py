"""Words from elsewhere, before a person of this hospital reads them: a terminal obeys control characters, and a sheet that could
be rewritten by the question it shows would be worth nothing."""

from __future__ import annotations

import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0 and C1 but tab and line feed; marks that turn the direction of writing (Unicode UAX 9); line and paragraph separators."""


def plain(text: str, longest: int = 1000) -> str:
    """On one line, without control characters, of bounded length."""
    return " ".join(_CONTROL.sub(" ", text).split())[:longest]


def hides_something(value: Any) -> bool:
    """True if a text anywhere in a JSON value (nested at most as deep as JSON was read) holds a control character."""
    if isinstance(value, str):
        return _CONTROL.search(value) is not None
    if isinstance(value, dict):
        return any(hides_something(key) or hides_something(item) for key, item in value.items())
    return isinstance(value, list) and any(hides_something(item) for item in value)
