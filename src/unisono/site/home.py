"""A site's own folder: its identity, its secret, its permits. Private files are made with mode 0600."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from unisono.errors import PermitError
from unisono.federation.journal import storage
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site.permit import Permit
from unisono.study.document import Study


@dataclass(frozen=True)
class Home:
    """The folder of one site."""

    path: Path

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
        try:
            permit = Permit.model_validate_json(path.read_text("utf-8"))
        except ValidationError as error:
            raise _unreadable(path) from error
        if permit.study != study.digest() or permit.roster != dict(roster.to_tree()):
            return None
        if not permit.signed_by(self.identity()):
            raise _unreadable(path)
        return permit

    def keep(self, permit: Permit) -> None:
        """Write a permit down."""
        path = self.path / "permits" / f"{permit.study_id}.json"
        with storage(path, "permit"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(permit.model_dump_json(indent=2) + "\n", "utf-8")

    def _private(self, name: str) -> bytes:
        path = self.path / name
        with storage(path, "private file"):
            if path.exists():
                return path.read_bytes()
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = secrets.token_bytes(32)
            # Written aside and renamed: a process killed here leaves no half of a key.
            aside = path.with_suffix(".new")
            aside.unlink(missing_ok=True)
            handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            return raw


def _unreadable(path: Path) -> PermitError:
    return PermitError(
        f"The permit {path} was altered or is not this site's.",
        rule="permit-signature",
        remedy="Remove the file and approve the study again.",
    )
