"""A site's permit, as the coordinator checks it before anything runs: the site's own, for this document and these sites. The site
checks every ask against it again."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from unisono.errors import PermitError, ProtocolError
from unisono.network.coordinator.store import Asked
from unisono.site.permit import Permit


def checked_permit(text: str, asked: Asked, site: str, now: datetime) -> Permit:
    """The permit in a JSON text. `PermitError` naming what is wrong with it."""
    try:
        permit = Permit.model_validate_json(text)
        signature = bytes.fromhex(permit.signature)
    except (ValidationError, ValueError) as error:
        raise _refused(
            "A permit cannot be read.", "permit-form", "Run the same version of Unisono at both ends."
        ) from error
    if permit.study != asked.digest:
        raise _refused(
            f"The permit is for another study than {asked.id!r} as it was submitted.",
            "permit-study",
            "Approve the study as it is.",
        )
    if permit.site != site or permit.roster != asked.roster.to_tree():
        raise _refused(
            "The permit is not this site's, or pins other sites or keys than the study is asked of.",
            "permit-roster",
            "A changed roster needs a new approval by every site.",
        )
    try:
        asked.roster.verify(site, permit.body(), signature)
    except ProtocolError as error:
        raise _refused(
            f"The permit is not signed by {site}'s identity in the roster.",
            "permit-signature",
            "Sign it with the identity that the site joined with.",
        ) from error
    if permit.expires.tzinfo is None or permit.expires <= now:
        raise _refused("The permit has expired.", "permit-expired", "Ask the data steward to renew it.")
    return permit


def _refused(what: str, rule: str, remedy: str) -> PermitError:
    return PermitError(what, rule=rule, remedy=remedy)
