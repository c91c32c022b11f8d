"""Two institutions' clocks: what is said of a difference, and that a permit is over as soon as either clock says so."""

from __future__ import annotations

from datetime import datetime, timedelta

from unisono.errors import NetworkError
from unisono.network import pki
from unisono.network.log import Clock

_MOST_S = 100 * 365 * 86_400.0
"""Of a difference that is counted: whatever the other end says, the sum is a date."""


class LaterClock:
    """A site's clock, and its coordinator's as it was heard last. Called, it gives the later of the two.

    A clock that was set back would make expired permits valid again. One that says too late only stops a study.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._ahead_s = 0.0

    def hear(self, ahead_s: float) -> NetworkError | None:
        """The coordinator's clock is so many seconds ahead of this one (negative: behind). What is to be said of it."""
        self._ahead_s = min(max(ahead_s, 0.0), _MOST_S)
        return wrong_clock(self._own(), ahead_s, "this machine", "the coordinator")

    def __call__(self) -> datetime:
        return self._own() + timedelta(seconds=self._ahead_s)


def wrong_clock(now: datetime, ahead_s: float, here: str, there: str) -> NetworkError | None:
    """The error (``clock-skew``) to log and to show if two clocks are too far apart for certificates and permits; it stops
    nothing by itself. ahead_s: the other end's clock minus this one's, seconds."""
    if abs(ahead_s) <= pki.SKEW.total_seconds():
        return None
    other = now + timedelta(seconds=min(max(ahead_s, -_MOST_S), _MOST_S))
    return NetworkError(
        f"The clock of {here} is {_words(abs(ahead_s))} {'behind' if ahead_s > 0 else 'ahead of'} that of {there}: "
        f"{now:%Y-%m-%d %H:%M} UTC here, {other:%Y-%m-%d %H:%M} UTC there.",
        rule="clock-skew",
        remedy="Set the one that is wrong by a time server (NTP). Until then fresh certificates and tokens may be refused, and "
        "permits end by the later of the two clocks.",
    )


def _words(seconds: float) -> str:
    """In the largest unit of which there are at least two."""
    for unit, size in (("days", 86_400), ("hours", 3_600)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 60:.0f} minutes"
