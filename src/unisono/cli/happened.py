"""What happened to hospitals in a run, in words, for whoever looks on: a line when it begins, and one when it is over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_SAID = {
    "waiting": "waiting for {site}: its part was not in, so the fit waits",
    "returned": "{site} is back: the step is asked again, under fresh masks",
    "recovered": "{site}'s part counts: it was in before the link was lost, its masks were recovered",
    "left": "{site} is out for good: everything is recomputed on those who stayed",
}
_WITHOUT = {
    "lost": "{site} lost its link (at {name})",
    "late": "{site} was late: this sum goes on without it, and it is welcome in the next",
    "abstained": "{site} abstains ({name}): this sum goes on without it; its own log says why",
}
"""May be so in one round of a training after the other: said when it begins."""


@dataclass
class Happened:
    """Remembers who was not in the sums of the analysis that goes on. _without: by site, what was said of it, and the last step
    of which that was so."""

    _analysis: str = ""
    _without: dict[str, tuple[str, int]] = field(default_factory=dict)

    def lines(self, event: Mapping[str, Any]) -> Iterator[str]:
        """What is to be said of an event: its ``kind``, ``analysis``, ``step``, ``name`` and ``site``."""
        kind, step, site = event["kind"], event["step"], event["site"]
        if event["analysis"] != self._analysis:
            self._analysis = event["analysis"]
            self._without.clear()
        if kind in _WITHOUT:
            if self._without.get(site, ("",))[0] != kind:
                yield _WITHOUT[kind].format(site=site, name=event["name"])
            self._without[site] = kind, step
        elif kind in ("returned", "recovered"):
            self._without.pop(site, None)
        elif kind == "opened":
            for back in sorted(name for name, (_, last) in self._without.items() if last < step):
                del self._without[back]
                yield f"{back} is back: its part is in the sum"
        if kind in _SAID:
            yield _SAID[kind].format(site=site, name=event["name"])
