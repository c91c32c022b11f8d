"""A service's log as counters: every event by its name and, where it names one, the rule. Nothing else counts events."""

from __future__ import annotations

import re
import threading
from collections import Counter
from typing import Any

from unisono.network.monitoring.exposition import Family, Sample

MOST_RULES = 64
"""Of one event. Some rules are the other end's words; what is beyond counts as `OTHER`, and no label grows without bound."""
OTHER = "other"
_RULE = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")


class Tally:
    """A listener of a `unisono.network.log.Log`, called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        """One event more."""
        rule = str(facts.get("rule") or "")
        with self._lock:
            rules = self._counts.setdefault(event, Counter())
            if rule and not _RULE.fullmatch(rule):
                rule = OTHER
            if rule not in rules and len(rules) >= MOST_RULES:
                rule = OTHER
            rules[rule] += 1

    def count(self, event: str) -> int:
        """How often it happened, whatever the rule."""
        with self._lock:
            return self._counts.get(event, Counter()).total()

    def family(self) -> Family:
        """``unisono_events_total``."""
        with self._lock:
            samples = tuple(
                Sample(count, {"event": event, "rule": rule})
                for event, rules in sorted(self._counts.items())
                for rule, count in sorted(rules.items())
            )
        about = "Events of the log since the service began, by name and rule (empty where there is none)."
        return Family("unisono_events_total", "counter", about, samples)
