"""`result.json`: one analysis's answer and how it came about. No number of a single hospital ever enters it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from unisono.federation.journal import Journal
from unisono.protection.secagg.parameters import derive
from unisono.report import plain_json
from unisono.report.participation import Frozen, Participation, participation
from unisono.study.document import Study

if TYPE_CHECKING:
    from unisono.methods.runner import Answer

FILE = "result.json"


class Protection(Frozen):
    """How the sums were hidden. hide, threat, colluding: as the study says. sites: hospitals in the answer. graph: who masks
    with whom. threshold: t, the shares that rebuild a secret. must_stay: with fewer hospitals than that no sum opens.
    tolerated_drop_outs: hospitals that may be lost after masking. These four are None where nothing is hidden."""

    hide: str
    threat: str
    colluding: int
    sites: int
    graph: str | None
    threshold: int | None
    must_stay: int | None
    tolerated_drop_outs: int | None
    sentence: str


class AnalysisRecord(Frozen):
    """The content of ``OUT/<analysis>/result.json``, in this order. `estimates` is what is compared bit for bit;
    `study` is the study's digest; `cohort` holds who was in, with small numbers blanked."""

    analysis: str
    method: str
    question: str
    sites: list[str]
    participation: Participation
    converged: bool
    protection: Protection
    journal_digest: str
    estimates: dict[str, Any]
    notes: list[str]
    cohort: dict[str, Any]
    study: str

    @staticmethod
    def of(study: Study, analysis: str, answer: Answer, journal: Journal) -> AnalysisRecord:
        """From an answer and the journal it came from."""
        result = answer.result
        return AnalysisRecord(
            analysis=analysis,
            method=study.analyses[analysis].method,
            question=study.question,
            sites=sorted(answer.sites),
            participation=participation(journal, answer.sites),
            converged=bool(result.converged),
            protection=protection_of(study, len(answer.sites)),
            journal_digest=journal.digest,
            estimates=plain_json.finite(result.estimates),
            notes=list(result.notes),
            cohort=plain_json.finite(answer.cohort.estimates),
            study=study.digest(),
        )

    def to_json(self) -> str:
        """The file's text: keys in the order above, floats that read back to the same bits, NaN and infinities as null."""
        return plain_json.dumps(self.model_dump(mode="python"))

    def write(self, folder: Path) -> Path:
        """Write ``folder/result.json``, whole or not at all. `StorageError` if that cannot be done."""
        path = folder / FILE
        plain_json.write_text(path, self.to_json(), "result")
        return path

    @staticmethod
    def read(folder: Path) -> AnalysisRecord:
        """The record in ``folder/result.json``. `StorageError` if it is missing, damaged or of another version."""
        path = folder / FILE
        try:
            return AnalysisRecord.model_validate(plain_json.read(path, "result"))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise plain_json.unreadable(path, "result", why) from error


def protection_of(study: Study, sites: int) -> Protection:
    """How the sums of `sites` hospitals of this study are hidden."""
    rules = study.protection
    least = study.release.min_sites
    found = (
        None if rules.hide == "none" else derive(sites, rules.colluding, least, hide=rules.hide, threat=rules.threat)
    )
    return Protection(
        hide=rules.hide,
        threat=rules.threat,
        colluding=rules.colluding,
        sites=sites,
        graph=found.graph if found else None,
        threshold=found.t if found else None,
        must_stay=found.least_survivors if found else None,
        tolerated_drop_outs=found.tolerated_drops if found else None,
        sentence=f"{found.sentence()}."
        if found
        else "Nothing hides the hospitals' parts: the coordinator sees each one.",
    )
