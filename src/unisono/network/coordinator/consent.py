"""A site's permit, as the coordinator checks it before anything runs: the site's own, for this document and these sites. The site
checks every ask against it again."""

from __future__ import annotations

from datetime import datetime

from pydantic import ValidationError

from unisono.errors import PermitError, ProtocolError
from unisono.methods.packages import same_packages, to_tree
from unisono.methods.registry import packages_for, versions_for
from unisono.methods.versions import same_methods
from unisono.network.coordinator.store import Asked
from unisono.site.permit import Permit


def checked_permit(text: str, asked: Asked, site: str, now: datetime) -> Permit:
    """The permit in a JSON text. `PermitError` naming what is wrong with it; `ProtocolError` if it is for another version of a
    method, or for other packages, than are here."""
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
    same_methods(versions_for(asked.study()), {a.method: a.version for a in permit.allowances}, site)
    same_packages(to_tree(packages_for(asked.study())), to_tree(permit.packages), site)
    if permit.expires.tzinfo is None or permit.expires <= now:
        raise _refused(
            f"{site}'s permit expired on {permit.expires:%Y-%m-%d %H:%M} UTC; it is {now:%Y-%m-%d %H:%M} here.",
            "permit-expired",
            "Cancel the study and submit it again, so that the data steward can approve it anew. If it is not that late, set the "
            "clocks of coordinator and site by a time server (NTP).",
        )
    return permit


def _refused(what: str, rule: str, remedy: str) -> PermitError:
    return PermitError(what, rule=rule, remedy=remedy)
