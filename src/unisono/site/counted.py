"""Which sites of a sum count: this one, and those whose keys it has verified out of band (design/secure-aggregation.md, rule 3).

The coordinator runs the certificate authority, so it could invent hospitals. One that nobody verified may be the coordinator
itself: it does not count toward `min_sites`, and it is reckoned among the colluders that the sum is protected against. More of
them than `colluding` could rebuild a hospital's masks together.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from unisono.errors import PermitError
from unisono.site.policy import Policy
from unisono.study.document import Study


@dataclass(frozen=True)
class Counted:
    """The sites of one sum, as one of them counts them. here: this site. verified: of the others, those it has verified.
    needed: how many must count, this one included; 0 where the policy leaves it to the coordinator, or nothing is hidden."""

    sites: tuple[str, ...]
    here: str
    verified: tuple[str, ...]
    needed: int

    @property
    def count(self) -> int:
        """Sites that count, this one included."""
        return 1 + len(self.verified)

    @property
    def unverified(self) -> tuple[str, ...]:
        """Sites that do not."""
        return tuple(site for site in self.sites if site != self.here and site not in self.verified)

    @property
    def enough(self) -> bool:
        """Whether the sum may be made. (How many sites it must have, verified or not, other rules say.)"""
        return not self.unverified or self.count >= self.needed

    def sentence(self) -> str:
        """In words, for whoever decides."""
        rule = f"; {self.needed} are needed" if self.needed else "; this site's policy leaves that to the coordinator"
        return f"{self.count} of {len(self.sites)} sites are verified, this one included{rule}"

    def check(self, study_id: str) -> None:
        """`PermitError` unless enough of them count."""
        if self.enough:
            return
        names = " ".join(self.unverified)
        raise PermitError(
            f"{self.sentence()}. Not verified here: {', '.join(self.unverified)}.",
            rule="verified-sites",
            remedy="Compare keys or the word-code with these hospitals themselves, by telephone, and mark them before approving: "
            f"unisono site verify {names} --study {study_id} --how '...'.",
        )


def counted(sites: Collection[str], here: str, verified: Collection[str], study: Study, policy: Policy) -> Counted:
    """How a site counts these sites, in a sum of this study. verified: names whose pinned keys it has verified."""
    others = tuple(sorted(site for site in sites if site in verified and site != here))
    checked = policy.trust == "verified" and study.protection.hide != "none"
    least = max(study.release.min_sites, policy.min_sites, len(sites) - study.protection.colluding)
    return Counted(tuple(sorted(sites)), here, others, least if checked else 0)
