"""What a line between two ends of TCP is like, and what becomes of a connection over it: for the relay (`tests.support.line`) and for
the kernel's own queues (`tests.support.netem`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Way = Literal["up", "down"]
"""Up: from who dialled. Down: back."""
SHORT_BYTES = 64 * 1024
_ON_THE_WAY = 4 * 1024 * 1024
"""Of a line without and with a delay."""
_QUEUE_S = 0.25
"""A slow line's router holds so many seconds of bytes; then its sender has to wait."""
_LEAST_QUEUE = 16 * 1024


@dataclass(frozen=True)
class Weather:
    """What a line is like. delay_s: one way. bytes_per_s: each way. loss: probability that a segment is lost, and each time it is
    sent again. idle_s: a connection on which nothing was carried for so long is cut, as by a firewall's time-out."""

    delay_s: float = 0.0
    bytes_per_s: float = math.inf
    loss: float = 0.0
    idle_s: float = math.inf

    @property
    def queue_bytes(self) -> int:
        """What may be on the way at a time."""
        if math.isinf(self.bytes_per_s):
            return _ON_THE_WAY if self.delay_s else SHORT_BYTES
        return max(_LEAST_QUEUE, round(self.bytes_per_s * (self.delay_s + _QUEUE_S)))


CLEAR = Weather()


@dataclass(frozen=True)
class Fate:
    """What becomes of a connection once it has carried so many bytes: it is cut, or what is sent these ways vanishes."""

    after_bytes: float = math.inf
    how: Literal["cut", "up", "down", "both"] = "cut"
