"""The version of the wire, and the one refusal when two ends speak different ones: it names both."""

from __future__ import annotations

from unisono.errors import NetworkError
from unisono.version import VERSION

PROTOCOL = 1
"""Version of the wire: frames, envelopes, trees and what they mean. Both ends must have the same one. Whoever changes what is
sent raises it; `tests/fixtures/wire-v<PROTOCOL>` holds the bytes of each."""
_LONGEST = 40


def same_protocol(theirs: int, software: str, who: str) -> None:
    """`NetworkError` (``protocol-version``) if the other end speaks another version. who: it, in words; software: as it says
    of itself."""
    if theirs != PROTOCOL:
        named = "".join(letter for letter in software[:_LONGEST] if letter.isprintable()) or "of no known version"
        raise NetworkError(
            f"The {who} speaks version {theirs} of the wire (Unisono {named}), this end version {PROTOCOL} (Unisono {VERSION}).",
            rule="protocol-version",
            remedy="Install the same version of Unisono at both ends: at the coordinator first, then at the sites.",
        )
