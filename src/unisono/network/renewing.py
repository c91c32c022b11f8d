"""Renewal of a member's certificate, as the member does it: a later one for the same key, role and name, asked for with the present
one and checked before it is used."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from unisono.errors import EnrolmentError
from unisono.network import pki
from unisono.network.pki import Credentials

PENDING = "renewal-pending"
"""The rule of the error that says that the authority's key is elsewhere: the answer comes later."""


def body(credentials: Credentials) -> dict[str, Any]:
    """Of the call ``renew``."""
    return {"certificate": credentials.chain_pem.decode("ascii")}


def renewed(credentials: Credentials, answer: Any, now: datetime) -> Credentials:
    """The credentials from now on. `EnrolmentError` (``renewal``) if the answer holds no certificate, or one for somebody else or
    no later one; `NetworkError` if it is not for this key, or of another authority."""
    chain = answer.get("certificate") if isinstance(answer, dict) else None
    if not isinstance(chain, str):
        raise _refused("The coordinator's answer holds no certificate.", "Ask its operator")
    found = Credentials(credentials.key_pem, chain.encode(), credentials.ca_pem).checked()
    peer, old = pki.peer_of(found.chain_pem), pki.peer_of(credentials.chain_pem)
    if (peer.role, peer.name) != (old.role, old.name) or peer.not_after <= now:
        raise _refused(
            "The certificate that came is for somebody else, or expired already.", "Ask the coordinator's operator"
        )
    if peer.not_after <= old.not_after:
        raise _refused(
            "The coordinator gave no later certificate: its authority's own time ends.",
            "Ask the coordinator's operator for a new authority before then",
        )
    return found


def _refused(what: str, todo: str) -> EnrolmentError:
    return EnrolmentError(what, rule="renewal", remedy=f"{todo}; the present certificate goes on until it expires.")
