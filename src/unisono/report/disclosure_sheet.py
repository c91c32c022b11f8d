"""The disclosure sheet: every array that may leave a hospital (`planned`), and every one that did (`actual`).

It is made from the contributions' own declarations and from the journal, never written by hand: what is not on it did
not leave. Privacy officers read it before they sign a permit, and again in the report.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unisono.federation.contribution import Facts
from unisono.federation.history import opened_sums
from unisono.federation.journal import Journal
from unisono.methods.base import Method
from unisono.methods.cohort import CohortFlow, CohortSpec
from unisono.methods.registry import build
from unisono.protection.encoding.codec import encoding_of
from unisono.protection.leaves import Rule
from unisono.study.document import Study

EXACT_BYTES = 8
"""An element travels as one 64-bit word of the `exact` encoding."""
UPDATE_BYTES = 4
"""A parameter of a model update, as one 32-bit word of `fixed32`."""
BESIDE_BYTES = 12
"""A statistic beside model updates: three 32-bit words of `fixed32`."""
WIDE = 110
"""Columns of a terminal from which the whole sheet has room."""
_DROPPED: tuple[tuple[int, tuple[str, ...]], ...] = (
    (WIDE, ()),
    (90, ("rule", "bytes")),
    (0, ("contribution", "rule", "bytes")),
)
"""From how many columns on what is left out."""
_NAMES = ("analysis", "contribution", "leaf")
_BETWEEN, _MEANING = 3, 18
"""Characters between two columns, and that meanings have at least where names can be broken."""
EXAMPLE = Facts(patients=1000)
"""Shapes do not depend on the number of patients; a declaration wants one all the same."""

SEEN = "not hidden: the coordinator sees each hospital's own part, by permit and policy"
"""What is collected, not summed."""

RULES: dict[str, str] = {
    "count": "numbers of patients or events; small ones are blanked before anything is written",
    "curve": "numbers of patients or events along the time grid; shown only where enough patients stand behind each step",
    "moment": "sums over patients of bounded functions of their values, such as a score or an average's numerator",
    "update": "clipped changes of a model's parameters",
    "blob": "this hospital's own part as it is, which the coordinator sees: no sum",
}
"""What each disclosure rule means."""


@dataclass(frozen=True)
class Leaf:
    """One array of a contribution, as the sheet shows it. times: planned, at most; actual, how often it was opened.
    An array leaves each hospital once for each time, `bytes` large, protected as `protection` says. element_bytes: of one
    number in the encoding that it travels in."""

    analysis: str
    contribution: str
    leaf: str
    rule: Rule
    shape: tuple[int, ...]
    times: int
    protection: str
    meaning: str
    element_bytes: int = EXACT_BYTES

    @property
    def bytes(self) -> int:
        """Of one hospital's part, once."""
        return self.element_bytes * prod(self.shape)

    @property
    def size(self) -> str:
        """The shape as people write it: ``1 number``, ``36 numbers``, ``2 × 37 numbers``."""
        if prod(self.shape) == 1:
            return "1 number"
        return " × ".join(str(n) for n in self.shape) + " numbers"


PlannedRow = Leaf
ActualRow = Leaf


def planned(study: Study) -> list[PlannedRow]:
    """What a study may make leave each hospital: every leaf of every contribution of every analysis, with its cohort step.

    `StudyError` if a method is unknown; a study that was checked has none.
    """
    rows: list[PlannedRow] = []
    for analysis in study.analyses:
        for method in _methods(study, analysis):
            for ask in method.plan():
                leaves = ask.contribution.declaration(EXAMPLE, *ask.arguments).leaves
                how = SEEN if ask.operation == "collect" else protection_words(study)
                name, encoding = f"{method.name}.{ask.contribution.name}", encoding_of(leaves)
                rows += [
                    Leaf(
                        *(analysis, name, key, leaf.rule, leaf.shape, ask.at_most, how, leaf.meaning),
                        element_bytes=element_bytes(leaf.rule, encoding),
                    )
                    for key, leaf in leaves.items()
                    if leaf.size
                ]
    return rows


def actual(journal: Journal, study: Study, analysis: str) -> list[ActualRow]:
    """What left each hospital for the sums that a journal holds: contributions in the order in which they were first
    opened, leaves as declared.

    Also of sums whose words a snapshot dropped, unless an older Unisono ran it; `unisono verify` still counts those.
    """
    order = leaf_order(study, analysis)
    times: dict[Leaf, int] = {}
    sums = ((f"{s.method}.{s.name}", protection_words(study, s.to), s.encoding, s.leaves) for s in opened_sums(journal))
    for name, how, encoding, leaves in (*sums, *_collected(journal)):
        for key, leaf in in_order(leaves, order.get(name, ())):
            shape, rule = tuple(int(n) for n in leaf["shape"]), leaf["rule"]
            if prod(shape):
                size = element_bytes(rule, encoding)
                row = Leaf(analysis, name, key, rule, shape, 0, how, str(leaf["meaning"]), element_bytes=size)
                times[row] = times.get(row, 0) + 1
    return [replace(row, times=n) for row, n in times.items()]


def _collected(journal: Journal) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Contribution, protection, encoding and leaves of what the coordinator saw of each hospital by itself."""
    for record in journal.each("collected"):
        if record.body is not None:
            yield f"{record.body['method']}.{record.body['name']}", SEEN, "exact", record.body["leaves"]


def leaf_order(study: Study, analysis: str) -> dict[str, tuple[str, ...]]:
    """The leaves' names in declared order, which is the order of their words in a sum, by contribution. (A journal keeps
    its records in the order of their keys.)"""
    return {
        f"{method.name}.{ask.contribution.name}": tuple(ask.contribution.declaration(EXAMPLE, *ask.arguments).leaves)
        for method in _methods(study, analysis)
        for ask in method.plan()
    }


def in_order(leaves: Mapping[str, Any], order: Sequence[str]) -> list[tuple[str, Any]]:
    """A journal record's leaves in declared order; those that the declaration does not name (a mean's weight) last."""
    return [(k, leaves[k]) for k in order if k in leaves] + [(k, v) for k, v in leaves.items() if k not in order]


def _methods(study: Study, analysis: str) -> tuple[Method[Any], ...]:
    return CohortFlow(study, analysis, CohortSpec()), build(study, analysis)


def protection_words(study: Study, to: str = "") -> str:
    """How each part is hidden while it leaves, in a few words. to: the hospital that alone reads the sum, if any."""
    if study.protection.hide == "none":
        return "not hidden: the coordinator sees each hospital's part"
    opened = (
        f"masked ({study.protection.hide}): only the sum over {study.release.min_sites} or more hospitals is opened"
    )
    return f"{opened}, and {to} alone reads it" if to else opened


def element_bytes(rule: Rule, encoding: str) -> int:
    """Of one number of a leaf, as it travels; of a blob, whose numbers are bytes."""
    if rule == "blob":
        return 1
    if encoding != "fixed32":
        return EXACT_BYTES
    return UPDATE_BYTES if rule == "update" else BESIDE_BYTES


def planned_table(rows: Sequence[PlannedRow], width: int = WIDE) -> Table:
    """The planned sheet for a terminal of `width` columns; a narrow one gets fewer columns, and no word is cut."""
    return _table(rows, "at most", "What may leave each hospital, as part of a sum", width)


def actual_table(rows: Sequence[ActualRow], width: int = WIDE) -> Table:
    """The actual sheet for a terminal of `width` columns."""
    return _table(rows, "times", "What left each hospital, as part of a sum", width)


def text(table: Table, width: int = 140) -> str:
    """A sheet as plain text, to attach to an application."""
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False, color_system=None, highlight=False).print(table)
    return stream.getvalue()


def csv_rows(rows: Iterable[Leaf]) -> list[dict[str, str | int]]:
    """The sheet for ``disclosure.csv``: one line a leaf."""
    return [
        {
            "analysis": row.analysis,
            "contribution": row.contribution,
            "leaf": row.leaf,
            "rule": row.rule,
            "shape": "x".join(map(str, row.shape)) or "1",
            "bytes": row.bytes,
            "times": row.times,
            "protection": row.protection,
            "meaning": row.meaning,
        }
        for row in rows
    ]


def csv_text(rows: Iterable[Leaf]) -> str:
    """The text of ``disclosure.csv``, its header line included."""
    stream = io.StringIO()
    names = ["analysis", "contribution", "leaf", "rule", "shape", "bytes", "times", "protection", "meaning"]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_rows(rows))
    return stream.getvalue()


def _table(rows: Sequence[Leaf], times: str, title: str, width: int) -> Table:
    heads = ("analysis", "contribution", "leaf", "rule", "size", "bytes", times, "meaning")
    dropped = next((names for least, names in _DROPPED if width >= least), ())
    captions = list(dict.fromkeys(row.protection for row in rows))
    if dropped:
        captions.append(
            f"Left out here: {', '.join(dropped)}. A wider terminal shows them, and so does the sheet as CSV."
        )
    table = Table(
        title=title,
        caption=Text("\n".join(captions)),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    lines = [dict(zip(heads, cells, strict=True)) for cells in _cells(rows)]
    columns = {head: [line[head] for line in lines] for head in heads if head not in dropped}
    rooms = _rooms(columns, width)
    for head in columns:
        right = head in ("size", "bytes", times)
        table.add_column(head, justify="right" if right else "left", overflow="fold", width=rooms.get(head))
    for line in lines:
        table.add_row(*(Text(_broken(line[head], rooms[head]) if head in rooms else line[head]) for head in columns))
    return table


def _cells(rows: Sequence[Leaf]) -> Iterator[tuple[str, ...]]:
    """Each row in words; a name that is the same as above is said once."""
    before = ("", "")
    for row in rows:
        analysis = row.analysis if row.analysis != before[0] else ""
        contribution = row.contribution if (row.analysis, row.contribution) != before else ""
        before = (row.analysis, row.contribution)
        yield (analysis, contribution, row.leaf, row.rule, row.size, f"{row.bytes:,}", str(row.times), row.meaning)


def _rooms(columns: Mapping[str, Sequence[str]], width: int) -> dict[str, int]:
    """How wide the columns of names are: as their longest name, where that leaves room for the meanings; else narrower, the widest
    first, but none narrower than the longest word in it."""
    rooms = {head: max(map(len, (head, *cells))) for head, cells in columns.items()}
    others = sum(room for head, room in rooms.items() if head not in (*_NAMES, "meaning"))
    spare = width - others - _MEANING - _BETWEEN * (len(columns) - 1)
    names = {head: rooms[head] for head in _NAMES if head in rooms}
    least = {head: max(len(word) for name in (head, *columns[head]) for word in ("", *_words(name))) for head in names}
    while sum(names.values()) > spare:
        wide = [head for head in names if names[head] > least[head]]
        if not wide:
            break
        names[max(wide, key=names.__getitem__)] -= 1
    return names


def _words(name: str) -> list[str]:
    """The parts of a name, each with what stands behind it: ``validation_``, ``patients``."""
    return re.findall(r"[^_.-]*[_.-]+|[^_.-]+", name)


def _broken(name: str, room: int) -> str:
    """A name over as many lines as it needs, broken between words only: one that is cut elsewhere cannot be looked up."""
    lines = [""]
    for word in _words(name):
        if lines[-1] and len(lines[-1]) + len(word) > room:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)
