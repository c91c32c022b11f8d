"""What more than one part of joining refuses, in words."""

from __future__ import annotations

from datetime import datetime

from unisono.errors import EnrolmentError

NEW_TOKEN = "Ask the coordinator's operator for a new token."  # noqa: S105  (a sentence, not a secret)


def expired(at: datetime) -> EnrolmentError:
    """A token that nobody used in time."""
    return refused(f"The token expired on {at:%Y-%m-%d %H:%M} UTC.", "token-expired", NEW_TOKEN)


def refused(what: str, rule: str, remedy: str) -> EnrolmentError:
    """What happened, which rule, what to do."""
    return EnrolmentError(what, rule=rule, remedy=remedy)
