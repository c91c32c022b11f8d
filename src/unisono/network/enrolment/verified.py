"""At a site: whose key it has verified itself, out of band."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, Field, ValidationError

from unisono.federation.storage import storage, write_whole
from unisono.network.enrolment.message import Hex32, Message
from unisono.network.enrolment.refusals import refused
from unisono.protection.secagg.roster import Roster


class Mark(Message):
    """Someone at this site convinced themselves that a key is the hospital's: whose, how, who, when."""

    key: Hex32
    how: Annotated[str, Field(min_length=1, max_length=500)]
    by: Annotated[str, Field(min_length=1, max_length=200)]
    when: AwareDatetime


class _Marks(Message):
    marks: dict[str, Mark] = Field(default_factory=dict)


class Verified:
    """The site's own marks *verified out of band*, in a file of its home (mode 0600). A mark is about one key: it does not
    hold for any other key that the coordinator may list under the name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mark(self, name: str, key: bytes, how: str, by: str, when: datetime) -> None:
        """Write down that `key` (Ed25519, 32 bytes) was verified to be `name`'s. `EnrolmentError` for an incomplete mark."""
        Roster({name: key})  # a site's name, a key's length
        try:
            made = Mark(key=key.hex(), how=how, by=by, when=when)
        except ValidationError as error:
            raise refused(
                "A mark says how and by whom the key was verified.",
                "verified-mark",
                "Write for example how='read aloud by telephone' and by='Dr Rossi'.",
            ) from error
        marks = _Marks(marks={**self.marks(), name: made})
        write_whole(self.path, marks.encode() + b"\n", "list of verified sites", mode=0o600)

    def marks(self) -> dict[str, Mark]:
        """All marks, by name. `EnrolmentError` if the file is damaged."""
        with storage(self.path, "list of verified sites"):
            if not self.path.exists():
                return {}
            content = self.path.read_bytes()
        return dict(_Marks.read(content).marks)

    def verified(self, roster: Roster) -> set[str]:
        """The sites of a roster whose key, as it is there, this site has verified."""
        marks = self.marks()
        return {name for name, key in roster.items() if name in marks and marks[name].key == key.hex()}
