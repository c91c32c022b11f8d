"""A study as it is offered to a site: the document, the researcher's signature, and over which sites; everything checked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from unisono.errors import ProtocolError, StudyError
from unisono.methods.packages import packages, same_packages, to_tree
from unisono.methods.registry import check as method_checks
from unisono.methods.registry import versions_for
from unisono.methods.versions import same_methods
from unisono.network.agent.text import hides_something
from unisono.network.signing import StudySignature
from unisono.protection.secagg.roster import Roster
from unisono.study.document import SLUG, Study
from unisono.study.load import load

MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Offer:
    """document: the study as JSON text. signature: the researcher's, which was checked. submitted: ISO time."""

    study: Study
    document: str
    signature: StudySignature
    roster: Roster
    submitted: str

    @classmethod
    def read(cls, tree: dict[str, Any], name: str, identity: bytes) -> Offer:
        """The offer in a message to the site `name` with this Ed25519 public key.

        `StudyError` if the study is wrong or names a method that is not installed here; `NetworkError` if the signature is not
        over this document; `ProtocolError` if it holds control characters, or the roster does not list this site with its own
        key, or the coordinator runs another version of a method or package, or the message is none.
        """
        try:
            document, submitted, theirs = tree["study"], tree["submitted"], tree["methods"]
            needed = tree.get("packages", {})  # older coordinators have none
            if not isinstance(document, str) or not isinstance(submitted, str) or len(document) > MAX_BYTES:
                raise TypeError("not texts")
            if not isinstance(theirs, dict) or not isinstance(needed, dict):
                raise TypeError("no versions")
            datetime.fromisoformat(submitted)
            content = json.loads(document)
            if hides_something(content):
                raise ValueError("control characters")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ProtocolError(
                f"A study that was offered cannot be read ({type(error).__name__}).",
                rule="message-format",
                remedy="The coordinator runs another version of Unisono; install the same one at both ends.",
            ) from error
        if not isinstance(content, dict):
            raise StudyError("The document is no study.", rule="study-file", remedy="Submit a study document.")
        same_packages(needed, to_tree(packages()), name)  # first: without it the study's models are unknown here
        study, signature = load(content, method_checks), StudySignature.from_tree(tree.get("signature"))
        if not re.fullmatch(SLUG, signature.researcher):
            raise ProtocolError(
                "The researcher's name is none.",
                rule="names",
                remedy="A member's name has lower-case letters, digits, . _ -.",
            )
        same_methods(theirs, versions_for(study), name)
        signature.verify(study)
        roster = Roster.from_tree(tree.get("roster"))
        if roster.get(name) != identity:
            raise ProtocolError(
                f"The roster of study {study.id!r} does not list {name} with this site's own key.",
                rule="pinned-roster",
                remedy="Somebody joined under this site's name, or its identity changed: call the coordinator's operator.",
            )
        return cls(study, document, signature, roster, submitted)
