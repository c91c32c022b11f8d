"""Prints what a service's log says, in words, for whoever watches the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unisono.cli.console import out as console


class Teller:
    """A listener of a service's log. words: by event, with its facts in braces; other events are not shown. The same line
    again and again only once."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self._words = words
        self._last = ""

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """One event."""
        shown = {key: ", ".join(value) or "none" if isinstance(value, list) else value for key, value in facts.items()}
        line = self._words[event].format(**shown) if event in self._words else ""
        if line and line != self._last:
            self._last = line
            console.print(line, markup=False)
