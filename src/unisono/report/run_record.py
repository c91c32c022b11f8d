"""`run.json`: what a run was like. Times, tries, bytes and environment of each analysis, and why one has no answer.

Kept apart from `result.json`, because it differs from run to run where the estimates do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from pydantic import Field, ValidationError

from unisono.federation.events import Event
from unisono.federation.history import OpenedSum, opened_sums
from unisono.federation.journal import Journal
from unisono.report import plain_json
from unisono.report.disclosure_sheet import element_bytes
from unisono.report.participation import Frozen
from unisono.report.shown_sum import ShownSum

FILE = "run.json"


class StepRecord(Frozen):
    """One step as it went: seconds from the ask to the opened sum (None if it was not opened), tries at it, words opened,
    and the sites that were lost, waited for, recovered, too late for this sum or abstaining from it (in order of events)."""

    step: int
    name: str
    seconds: float | None
    attempts: int
    words: int
    lost: list[str]
    waited: list[str]
    recovered: list[str]
    late: list[str] = Field(default_factory=list)
    abstained: list[str] = Field(default_factory=list)


class Bytes(Frozen):
    """opened: of all opened sums. received: of hospitals' parts for them, at the coordinator, in all (without the keys
    and shares of the protocol)."""

    opened: int
    received: int


class AnalysisRun(Frozen):
    """One analysis of a run. sums: opened in all; replayed: of these, answered from the journal in the last command."""

    seconds: float
    sums: int
    replayed: int
    bytes: Bytes
    journal_digest: str
    environment: dict[str, str]
    steps: list[StepRecord]
    shown_sum: ShownSum | None
    error: dict[str, str | None] | None


class RunRecord(Frozen):
    """The whole file. exchange: how asks travelled; ``embedded``: all hospitals ran in one process."""

    unisono_run: int = Field(default=1, ge=1, le=1)
    exchange: str
    study: str
    sites: list[str]
    analyses: dict[str, AnalysisRun]

    def write(self, out: Path) -> Path:
        """Write ``out/run.json``. `StorageError` if that cannot be done."""
        path = out / FILE
        plain_json.write_text(path, plain_json.dumps(self.model_dump(mode="python")), "run record")
        return path

    @staticmethod
    def read(out: Path) -> RunRecord:
        """`StorageError` if the file is missing, damaged or of another version."""
        path = out / FILE
        try:
            return RunRecord.model_validate(plain_json.read(path, "run record"))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise plain_json.unreadable(path, "run record", why) from error


def analysis_run(
    journal: Journal,
    events: Sequence[Event],
    *,
    seconds: float,
    shown_sum: ShownSum | None,
    error: dict[str, str | None] | None,
    before: AnalysisRun | None,
) -> AnalysisRun:
    """The record of one analysis. Where nothing was asked anew, because every sum came from the journal, the times and
    steps of the run that asked (`before`) stay."""
    steps = _steps(events)
    replayed = sum(1 for event in events if event.kind == "replayed")
    start = journal.last("start")
    environment = start.body["environment"] if start is not None and start.body is not None else {}
    kept = before if before is not None and not steps and replayed else None
    return AnalysisRun(
        seconds=kept.seconds if kept else seconds,
        sums=journal.count("opened"),
        replayed=replayed,
        bytes=_bytes(opened_sums(journal)),
        journal_digest=journal.digest,
        environment={str(k): str(v) for k, v in environment.items()},
        steps=kept.steps if kept else steps,
        shown_sum=shown_sum,
        error=error,
    )


def _bytes(opened: Sequence[OpenedSum]) -> Bytes:
    return Bytes(
        opened=sum(one.bytes for one in opened),
        received=sum(_part_bytes(one) * len(one.participants) for one in opened),
    )


def _part_bytes(one: OpenedSum) -> int:
    """Of one hospital's part. A sum that one hospital alone read is not in the journal: what was declared of it is."""
    if not one.to:
        return one.bytes
    return sum(prod(leaf["shape"]) * element_bytes(leaf["rule"], one.encoding) for leaf in one.leaves.values())


def _steps(events: Sequence[Event]) -> list[StepRecord]:
    """The events of one analysis, a line a step; an analysis begun anew on fewer sites asks its steps again."""
    found: list[StepRecord] = []
    current: list[Event] = []
    for event in events:
        if event.kind == "step" and current:
            found.append(_step(current))
            current = []
        if event.kind == "step" or (current and event.kind not in ("analysis", "finished", "failed", "replayed")):
            current.append(event)
    return [*found, _step(current)] if current else found


def _step(events: Sequence[Event]) -> StepRecord:
    first = events[0]
    opened = next((e for e in events if e.kind == "opened"), None)
    return StepRecord(
        step=first.step,
        name=first.name,
        seconds=None if opened is None else opened.seconds - first.seconds,
        attempts=sum(1 for e in events if e.kind == "attempt"),
        words=0 if opened is None else opened.words,
        lost=_sites(events, "lost"),
        waited=_sites(events, "waiting"),
        recovered=_sites(events, "recovered"),
        late=_sites(events, "late"),
        abstained=_sites(events, "abstained"),
    )


def _sites(events: Sequence[Event], kind: str) -> list[str]:
    return list(dict.fromkeys(e.site for e in events if e.kind == kind))
