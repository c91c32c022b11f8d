"""One sum to look at: the first bytes that came from each hospital, beside what they opened to.

Hospitals' bytes are masked and look like noise. They are shown only where they are masked; and the opened number only
where it is one that the results show anyway, so that this page never tells more than they do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from unisono.federation.journal import Journal, Record
from unisono.report.disclosure_sheet import in_order, leaf_order
from unisono.report.participation import Frozen
from unisono.report.record import AnalysisRecord
from unisono.study.document import Study

_HEX = 16
"""Hexadecimal digits of one 64-bit word: the first number of a part."""


class ShownSum(Frozen):
    """received: of each hospital, the first word as it arrived (hex, least byte first). opened: the first number of the
    sum, and the same as a word. leaf, meaning: what that number is."""

    step: int
    contribution: str
    leaf: str
    meaning: str
    received: dict[str, str]
    opened: int
    opened_hex: str


def shown_sum(journal: Journal, study: Study, record: AnalysisRecord) -> ShownSum | None:
    """The first sum of the analysis's own (else of its cohort step) that may be shown; None if there is none."""
    if record.protection.hide == "none":
        return None
    public, order = _public(record), leaf_order(study, record.analysis)
    opened = [r for r in journal.all("opened") if r.body is not None]
    opened.sort(key=lambda r: r.body is not None and r.body["method"] != record.method)
    for candidate in opened:
        found = _shown(candidate, public, order)
        if found is not None:
            return found
    return None


def _shown(record: Record, public: set[int], order: Mapping[str, tuple[str, ...]]) -> ShownSum | None:
    assert record.body is not None
    body = record.body
    contribution = f"{body['method']}.{body['name']}"
    # A sum that one hospital alone read is not here, and words of a model update are no numbers that results show.
    if contribution not in order or body.get("to") or body.get("encoding", "exact") != "exact":
        return None
    leaves = [(k, v) for k, v in in_order(body["leaves"], order[contribution]) if math.prod(v["shape"])]
    if not leaves or not body["first_bytes"] or leaves[0][1]["rule"] not in ("count", "curve"):
        return None
    name, leaf = leaves[0]
    word = body["words"][:1]
    total = int(word.view("int64")[0])
    if total not in public:
        return None
    return ShownSum(
        step=record.step,
        contribution=contribution,
        leaf=str(name),
        meaning=str(leaf["meaning"]),
        received={site: str(sent)[:_HEX] for site, sent in sorted(body["first_bytes"].items())},
        opened=total,
        opened_hex=word.tobytes().hex(),
    )


def _public(record: AnalysisRecord) -> set[int]:
    """The totals that result.json shows."""
    found = _whole((record.cohort.get("read"), record.cohort.get("patients")))
    return found | _whole((record.estimates.get("n"), record.estimates.get("events")))


def _whole(values: Iterable[Any]) -> set[int]:
    return {int(v) for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0}
