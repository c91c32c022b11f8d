"""A site's own folder: its identity, its secret, its permits. Private files are made with mode 0600."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from unisono.errors import PermitError
from unisono.federation.storage import storage, write_whole
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site.permit import Permit
from unisono.study.document import Study


@dataclass(frozen=True)
class Home:
    """The folder of one site."""

    path: Path

    def make(self) -> None:
        """The folder, which nobody else on this machine may enter (mode 0700): it holds what the site sent, and keys."""
        with storage(self.path, "site's folder"):
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)

    def identity(self) -> Identity:
        """The site's Ed25519 identity, made on first use."""
        return Identity.from_bytes(self._private("identity.key"))

    def secret(self) -> bytes:
        """What keys the hashes of rows, so that nobody else can test for a patient. 32 bytes."""
        return self._private("rows.key")

    def permit(self, study: Study, roster: Roster) -> Permit | None:
        """The signed permit for a study, if there is one for it as it is and for these sites."""
        path = self.path / "permits" / f"{study.id}.json"
        if not path.exists():
            return None
        with storage(path, "permit"):
            content = path.read_bytes()
        try:
            permit = Permit.model_validate_json(content)
        except ValidationError as error:
            raise _unreadable(path) from error
        if not permit.signed_by(self.identity()):
            raise _unreadable(path)
        if permit.study != study.digest() or permit.roster != dict(roster.to_tree()):
            return None
        return permit

    def keep(self, permit: Permit) -> None:
        """Write a permit down."""
        path = self.path / "permits" / f"{permit.study_id}.json"
        write_whole(path, f"{permit.model_dump_json(indent=2)}\n".encode(), "permit")

    def _private(self, name: str) -> bytes:
        path = self.path / name
        with storage(path, "private file"):
            if path.exists():
                return path.read_bytes()
        raw = secrets.token_bytes(32)
        write_whole(path, raw, "private file", mode=0o600)
        return raw


def _unreadable(path: Path) -> PermitError:
    return PermitError(
        f"The permit {path} was altered or is not this site's.",
        rule="permit-signature",
        remedy="Remove the file and approve the study again.",
    )
