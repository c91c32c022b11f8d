"""The letter to the IT desk: what is asked for, why, and the two fingerprints that show whether the traffic is opened."""

from __future__ import annotations

import re
from datetime import datetime
from textwrap import fill

from unisono.network.preflight.report import Check
from unisono.network.preflight.target import Target
from unisono.version import VERSION

_WIDTH = 96
_AFTER = r"""
    What it is. Unisono answers medical research questions over several hospitals without moving their records: each
    hospital computes its part of a sum, and no patient's record leaves. Nothing is computed for a study before this
    hospital's data steward has approved it. The connection goes out; nothing here listens for connections from outside.

    The connection. TCP, TLS 1.3 with certificates at both ends, HTTP/2 (ALPN h2), gRPC. It stays open for days, with a sign
    of life every 15 seconds.

    Why it must not be inspected. Both ends prove who they are with certificates of the federation's own authority, and
    accept no other. A device that puts its own certificate in between is refused by design, also if computers here trust
    it: to install its authority on this machine does not help.
"""


def letter(target: Target, checks: tuple[Check, ...], machine: str, when: datetime) -> str:
    """The text to send; empty if no check asks anything of an IT desk."""
    asks = [check for check in checks if check.ask and check.status in ("warn", "fail")]
    if not asks:
        return ""
    works = (
        "It does not work yet"
        if any(check.status == "fail" for check in asks)
        else "It works, but not as well as it should"
    )
    certificate = next((check for check in checks if check.name == "certificate"), None)
    wishes = [_wrapped(f"{k}. {check.ask}", "   ") for k, check in enumerate(asks, 1)]
    found = [_wrapped(f"- {check.title}: {check.found}", "  ") for check in asks]
    lines = [
        f"Subject: Outbound connection to {target.address}: please let it through",
        "",
        "Dear colleagues,",
        "",
        _wrapped(
            f"from the machine {machine} we need one outbound connection, to host {target.host}, port {target.port}, for research "
            f"with Unisono. {works}. Please:"
        ),
        "",
        *wishes,
        "",
        f"What was found ({when:%Y-%m-%d %H:%M} UTC, unisono site preflight {VERSION}):",
        "",
        *found,
        "",
        *_fingerprints(target, certificate),
        *(_wrapped(" ".join(part.split())) + "\n" for part in re.split(r"\n\s*\n", _AFTER.strip())),
        "Thank you. The same command shows at once whether it works.",
    ]
    return "\n".join(lines) + "\n"


def _fingerprints(target: Target, certificate: Check | None) -> list[str]:
    """What should answer and what did, for whoever looks for the device that opens the traffic."""
    details = certificate.details if certificate is not None else {}
    expected = colons(target.authority) if target.authority else "known to the coordinator's operator"
    lines = ["Expected: a certificate issued by the authority with the SHA-256 fingerprint", f"  {expected}"]
    if details.get("intercepted") and isinstance(mark := details.get("fingerprint"), str):
        lines += [
            "Found: the certificate with the SHA-256 fingerprint",
            f"  {colons(mark)}",
            f"  subject {details.get('subject')}",
            f"  issuer  {details.get('issuer')}",
        ]
    return [*lines, ""]


def colons(hexadecimal: str) -> str:
    """A fingerprint as openssl and browsers show it."""
    return ":".join(hexadecimal[k : k + 2] for k in range(0, len(hexadecimal), 2)).upper()


def _wrapped(text: str, indent: str = "") -> str:
    return fill(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
