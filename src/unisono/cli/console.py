"""Where commands print: results to standard output, everything else to standard error."""

from __future__ import annotations

import os

from rich.console import Console

NARROWEST = 100
"""Columns where the output is no terminal (a file, a log), whose width nobody knows."""


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(console.width, NARROWEST)
    return console


out = _console()
errors = _console(stderr=True)
