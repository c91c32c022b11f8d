"""A researcher's signature under a study: who asks. Made where the researcher's key is, checked by coordinator and sites.

Ed25519 (RFC 8032) over the study's digest. The coordinator cannot put a question into a researcher's mouth; whose key it is,
an officer compares by its fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from unisono.errors import NetworkError
from unisono.protection.secagg.roster import Identity, Roster
from unisono.study.document import Study


@dataclass(frozen=True)
class StudySignature:
    """Who asks: the researcher's name, their Ed25519 public key, and the signature, both hexadecimal."""

    researcher: str
    identity: str
    signature: str

    @classmethod
    def make(cls, study: Study, researcher: str, identity: Identity) -> StudySignature:
        """Sign a study, as it is."""
        return cls(researcher, identity.public.hex(), identity.sign(statement(study)).hex())

    def verify(self, study: Study) -> None:
        """`NetworkError` unless the signature is this key's, over exactly this study."""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.identity))
            key.verify(bytes.fromhex(self.signature), statement(study))
        except (InvalidSignature, ValueError) as error:
            raise NetworkError(
                f"The study {study.id!r} is not signed by the researcher whom it names, or was changed since.",
                rule="study-signature",
                remedy="Sign the study as it is now, with the researcher's own key: unisono study sign.",
            ) from error

    @property
    def fingerprint(self) -> str:
        """Of the researcher's key, in groups that can be read aloud."""
        return Roster({self.researcher: bytes.fromhex(self.identity)}).fingerprint(self.researcher)

    def to_tree(self) -> dict[str, str]:
        """For messages and files."""
        return {"researcher": self.researcher, "identity": self.identity, "signature": self.signature}

    @classmethod
    def from_tree(cls, tree: Any) -> StudySignature:
        """What `to_tree` wrote. `NetworkError` on anything else."""
        names = ("researcher", "identity", "signature")
        if not isinstance(tree, dict) or set(tree) != set(names) or not all(type(tree[n]) is str for n in names):
            raise NetworkError(
                "A study's signature cannot be read.",
                rule="study-signature",
                remedy="Sign the study again with this version of Unisono: unisono study sign.",
            )
        return cls(*(tree[name] for name in names))


def statement(study: Study) -> bytes:
    """What is signed."""
    return b"unisono study 1\n" + study.digest().encode()
