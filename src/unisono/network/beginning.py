"""The name of a run, which proves under which permits it was begun.

A site that was restored from a back-up does not know which runs it answered since. So it answers a run only if the run was begun
after its steward approved the study anew; and no coordinator can show that of an older run: a run's name, under which every other
site remembers it, is a hash over the permits of all its sites. A permit is signed by the site, so nobody could know it before.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SALT = 32
"""Hexadecimal digits: what makes two runs under the same permits two."""
_TAG = 64
_MOST_SITES = 10_000


def consent_of(permit: str) -> str:
    """The digest of a signed permit, as JSON text: 64 hexadecimal digits."""
    return hashlib.sha256(permit.encode()).hexdigest()


@dataclass(frozen=True)
class Beginning:
    """consents: by site, the digest of the permit under which runs are begun."""

    consents: Mapping[str, str]

    def name(self) -> str:
        """A run's name: random, and bound to the consents."""
        salt = secrets.token_hex(_SALT // 2)
        return salt + self._tag(salt)

    def names(self, run: str) -> bool:
        """Whether the run was begun under these consents."""
        return (
            run.isascii() and len(run) == _SALT + _TAG and secrets.compare_digest(run[_SALT:], self._tag(run[:_SALT]))
        )

    def proves(self, run: str, site: str, permit: str) -> bool:
        """Whether the run was begun under this permit of the site, and so after it was signed."""
        return self.names(run) and secrets.compare_digest(self.consents.get(site, ""), consent_of(permit))

    def to_tree(self) -> dict[str, str]:
        """As it travels, and as it is written down."""
        return dict(self.consents)

    @classmethod
    def from_tree(cls, tree: Any) -> Beginning | None:
        """The beginning in a tree; None if it is none."""
        if not isinstance(tree, dict) or len(tree) > _MOST_SITES:
            return None
        if not all(type(text) is str and text.isascii() for item in tree.items() for text in item):
            return None
        return cls(tree)

    def _tag(self, salt: str) -> str:
        told = json.dumps(["unisono run 1", salt, sorted(self.consents.items())], separators=(",", ":"))
        return hashlib.sha256(told.encode()).hexdigest()
