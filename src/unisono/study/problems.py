"""What is wrong with a study, where in the document, and how to mend it; collected so that one check reports them all."""

from __future__ import annotations

from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Keys and indices from the top of the document: ``("analyses", "effect", "covariates", 1)``."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong. `path` is where; the loader turns it into a line."""

    path: Path
    what: str
    rule: str
    remedy: str
