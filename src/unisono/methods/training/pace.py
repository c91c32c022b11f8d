"""The one clock of the methods: how long a site has been training, where a study gives local work in seconds.

What a site answers in a round is stored before it is sent, and a retry repeats it, so that a clock here makes two runs
differ, and never one run and its replay.
"""

from __future__ import annotations

from time import monotonic


class Pace:
    """True until `seconds` have passed since it was made."""

    def __init__(self, seconds: float) -> None:
        self._until = monotonic() + seconds

    def left(self) -> bool:
        """Whether there is time for another step."""
        return monotonic() < self._until
