"""Every error a user can meet: what happened, which rule, what to do.

The hierarchy is small on purpose. A subclass names the part of the house that said no; `rule` is a short stable name
that tests and logs refer to. Messages never hold a patient's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class UnisonoError(Exception):
    """An error with a rule and a remedy. `where` is a place a user can open: ``study.yaml:12``, ``padua.csv row 7``."""

    kinds: ClassVar[dict[str, type[UnisonoError]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        UnisonoError.kinds[cls.__name__] = cls

    def __init__(
        self,
        what: str,
        *,
        rule: str,
        remedy: str,
        where: str | None = None,
        evidence: Mapping[str, str] | None = None,
    ) -> None:
        """evidence: what shows that a rule was broken (digests, signatures, names): for the audit log, never a value of a
        patient, and never sent with the error."""
        super().__init__(what)
        self.evidence = dict(evidence or {})
        self.what = what
        self.rule = rule
        self.remedy = remedy
        self.where = where

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}\n  rule: {self.rule}\n  what to do: {self.remedy}"

    def to_dict(self) -> dict[str, str | None]:
        """The error as it travels in a message: no traceback, no values."""
        return {
            "kind": type(self).__name__,
            "what": self.what,
            "rule": self.rule,
            "remedy": self.remedy,
            "where": self.where,
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> UnisonoError:
        """The error a message carried; an unknown kind becomes a plain `UnisonoError`."""
        kind = UnisonoError.kinds.get(str(data.get("kind")), UnisonoError)
        return kind(
            str(data.get("what")),
            rule=str(data.get("rule")),
            remedy=str(data.get("remedy")),
            where=data.get("where"),
        )


class StudyError(UnisonoError):
    """The study document says something impossible, unknown or ambiguous."""


class MappingError(UnisonoError):
    """A mapping file does not fit the study or the data."""


class DataError(UnisonoError):
    """A site's data cannot answer the study: a missing column, text in a number, a value out of its bounds, a changed file."""


class PermitError(UnisonoError):
    """The site's permit does not cover what was asked."""


class PolicyRefusal(UnisonoError):
    """The site's standing policy forbids what was asked."""


class DisclosureRefusal(UnisonoError):
    """Answering would disclose too much: too few patients, a near-twin of an earlier ask, too many parameters."""


class ProtocolError(UnisonoError):
    """The secure-aggregation protocol was not followed; the sum is not opened."""


class Abstention(UnisonoError):
    """A site has no part in this one sum, and says why: its update is not finite, its memory did not suffice. The sum goes on
    without it where a sum over fewer sites is meant; it is asked again in the next."""


class JournalError(UnisonoError):
    """The coordinator's journal is damaged, diverged, or belongs to another run."""


class ParticipationError(UnisonoError):
    """Too few sites took part before the deadline."""


class MethodError(UnisonoError):
    """The method cannot give an answer: separation, collinearity, no convergence, no events."""


class MissingExtra(UnisonoError):
    """An optional part of Unisono is not installed."""


class StorageError(UnisonoError):
    """A file or database could not be written or read: disk full, no permission."""


class NetworkError(UnisonoError):
    """Two institutions cannot talk, or must not: an address, a certificate, a version, a message that is not as it should be."""


class EnrolmentError(UnisonoError):
    """An institution cannot join: its token, its request, its name or its identity is not as it should be."""


class WorkerError(UnisonoError):
    """A site's worker process died, reached one of its limits, or cannot be run here; the site itself goes on."""
