"""Whose turn it is among studies that are ready: fair between researchers, and nobody waits behind a hospital that is away."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One study that is ready. sites: whom it needs; order: its place in the order of arrival."""

    study: str
    researcher: str
    sites: tuple[str, ...]
    order: int


def first(waiting: Sequence[Turn], running: Collection[str], online: Collection[str]) -> Turn:
    """The next of `waiting` (not empty): of the researcher with the fewest studies running; of those, one whose sites are all there;
    of those, the one that came first. running: the researchers of studies that run, one entry a study."""
    theirs = list(running)

    def place(turn: Turn) -> tuple[int, bool, int]:
        return theirs.count(turn.researcher), not set(turn.sites) <= set(online), turn.order

    return min(waiting, key=place)
