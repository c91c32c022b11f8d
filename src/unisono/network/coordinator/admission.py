"""What is checked of a study before it is taken: its size, and how many are open here, in all and of one researcher."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.errors import NetworkError
from unisono.network.coordinator.home import Limits
from unisono.network.coordinator.store import OPEN, Asked
from unisono.study.document import Study


def check_size(study: Study, document: str, limits: Limits) -> None:
    """`NetworkError` for a document, or a number of analyses, beyond what is taken."""
    size = len(document.encode())
    if size > limits.document_bytes:
        raise _beyond(
            f"The study's document has {size:,} bytes; {limits.document_bytes:,} are taken.",
            "study-size",
            "Ask it as several studies.",
        )
    if len(study.analyses) > limits.analyses:
        raise _beyond(
            f"The study has {len(study.analyses)} analyses; {limits.analyses} are taken.",
            "study-size",
            "Ask it as several studies.",
        )


def check_open(researcher: str, known: Sequence[Asked], limits: Limits) -> None:
    """`NetworkError` if too many studies are open for another one. known: every study here."""
    open_ = [asked for asked in known if asked.state in OPEN]
    theirs = sum(asked.signature.researcher == researcher for asked in open_)
    if theirs >= limits.per_researcher:
        raise _beyond(
            f"{theirs} studies of {researcher} wait or run here; a researcher may have {limits.per_researcher}.",
            "studies-of-one",
            "Wait until some are answered, or cancel one: unisono study cancel.",
        )
    if len(open_) >= limits.studies:
        raise _beyond(
            f"{len(open_)} studies wait or run here; no more are taken.",
            "studies-at-once",
            "Wait until some are answered, or ask the coordinator's operator.",
        )


def _beyond(what: str, rule: str, remedy: str) -> NetworkError:
    return NetworkError(what, rule=rule, remedy=remedy)
