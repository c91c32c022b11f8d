"""What an observer is told while a run goes on: for progress bars, run.json and logs. Never a number of a site's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "analysis",  # an analysis begins
    "step",  # a step is asked
    "replayed",  # a step's sum came from the journal
    "attempt",  # one try at a step
    "phase",  # a message goes out to the sites
    "lost",  # a site's link was lost
    "waiting",  # the step waits for a site
    "returned",  # the site is back
    "recovered",  # a site was lost after masking; its part counts, its masks were recovered
    "abstained",  # a site has no part in this sum, of its own; `name` is the rule
    "late",  # a site did not answer by the time that stragglers have; the sum goes on without it
    "left",  # a site is left out for good (on_dropout: continue)
    "opened",  # a sum was opened
    "misbehaved",  # a site sent what no site of ours sends; `name` is the rule
    "clipped",  # values of a model update were clipped: `words` of them, over all sites
    "finished",  # the analysis is answered
    "failed",  # the analysis cannot be answered
]


@dataclass(frozen=True)
class Event:
    """One thing that happened. `seconds` since the run's start; `words` is the length of an opened sum (8 bytes each)."""

    kind: Kind
    analysis: str
    step: int = -1
    name: str = ""
    site: str = ""
    seconds: float = 0.0
    words: int = 0


Observer = Callable[[Event], None]


def nobody(_: Event) -> None:
    """The observer that does not listen."""
