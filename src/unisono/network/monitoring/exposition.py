"""Numbers in the text that Prometheus reads (exposition format 0.0.4): families of samples, each with its meaning and kind."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)
"""Upper edges for what takes between a message on one machine and an hour."""
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Sample:
    """One number. suffix: of the family's name (``_bucket``, ``_sum``, ``_count`` of a histogram, else empty)."""

    value: float
    labels: Mapping[str, str]
    suffix: str = ""


@dataclass(frozen=True)
class Family:
    """All samples of one name. Units are in the name: seconds, bytes, and ``_total`` for what only grows."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


def one(name: str, kind: Kind, help: str, value: float, /, **labels: str) -> Family:
    """A family of one number."""
    return Family(name, kind, help, (Sample(value, labels),))


def by(name: str, kind: Kind, help: str, label: str, values: Mapping[str, float]) -> Family:
    """A family with one number for each value of a label."""
    return Family(name, kind, help, tuple(Sample(value, {label: key}) for key, value in sorted(values.items())))


class Histogram:
    """How often something took how long, in cumulative buckets. Of one thread, or locked by whoever has it."""

    def __init__(self, edges: Sequence[float] = SECONDS) -> None:
        self._edges = tuple(edges)
        self._counts = [0] * (len(edges) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """It happened once more, and took so long (s)."""
        self._counts[bisect_left(self._edges, value)] += 1
        self._sum += value

    def samples(self, **labels: str) -> tuple[Sample, ...]:
        """Buckets, sum and count."""
        found, total = [], 0
        for edge, count in zip((*self._edges, math.inf), self._counts, strict=True):
            total += count
            found.append(Sample(total, {**labels, "le": _number(edge)}, "_bucket"))
        return (*found, Sample(self._sum, labels, "_sum"), Sample(total, labels, "_count"))


def render(families: Iterable[Family]) -> bytes:
    """The page. A family without samples is left out."""
    lines = []
    for family in families:
        if family.samples:
            lines += [f"# HELP {family.name} {_escaped(family.help)}", f"# TYPE {family.name} {family.kind}"]
            lines += [f"{family.name}{s.suffix}{_labels(s.labels)} {_number(s.value)}" for s in family.samples]
    return "".join(f"{line}\n" for line in lines).encode()


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value, quoted=True)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str, *, quoted: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quoted else text


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(int(value)) if value == int(value) else repr(value)
