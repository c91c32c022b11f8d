"""Who takes part: a site's Ed25519 identity, and the roster of public keys that every site's permit pins.

A coordinator that relays keys could put in keys of its own. It cannot sign them: a key counts only with the signature
of an identity in the roster that *this site* holds. (design/secure-aggregation.md, rule 3; Ed25519: RFC 8032.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from unisono.errors import ProtocolError
from unisono.protection.prg import Entropy, system_entropy
from unisono.study.document import SLUG

KEY_BYTES = 32
_SITE = re.compile(SLUG.rstrip("$"))


class Identity:
    """A site's Ed25519 private key. Whoever holds it is the site."""

    def __init__(self, raw: bytes) -> None:
        """From the 32 raw bytes of `to_bytes`. `ProtocolError` on any other length."""
        if len(raw) != KEY_BYTES:
            raise ProtocolError(
                f"An identity key has {KEY_BYTES} bytes, this one {len(raw)}.",
                rule="identity-key",
                remedy="Restore the key file from its back-up, or enrol the site again.",
            )
        self._key = Ed25519PrivateKey.from_private_bytes(raw)
        self.public: bytes = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy = system_entropy) -> Identity:
        """A new identity."""
        return cls(entropy(KEY_BYTES))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Identity:
        """The identity that `to_bytes` wrote."""
        return cls(raw)

    def to_bytes(self) -> bytes:
        """The 32 raw bytes of the private key: secret."""
        return self._key.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """A signature of 64 bytes."""
        return self._key.sign(message)


class Roster(Mapping[str, bytes]):
    """Site name -> Ed25519 public key (32 bytes), in the order of the names. Immutable."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """`ProtocolError` if a name is not a site's name, a key not 32 bytes, or one key is there for two sites."""
        for site, key in keys.items():
            if not _SITE.fullmatch(site) or not isinstance(key, bytes) or len(key) != KEY_BYTES:
                raise ProtocolError(
                    f"The roster's entry {site[:64]!r} is not a site's name with an Ed25519 public key.",
                    rule="roster-entries",
                    remedy="Names are lower-case letters, digits, '.', '_' and '-'; keys have 32 bytes.",
                )
        if len(set(keys.values())) != len(keys):
            raise ProtocolError(
                "The roster gives one key to two sites.",
                rule="roster-entries",
                remedy="Each hospital makes its own identity; one key is one voice.",
            )
        self._keys = {site: keys[site] for site in sorted(keys)}
        listed = json.dumps([[site, key.hex()] for site, key in self._keys.items()], separators=(",", ":"))
        self.digest: str = hashlib.sha256(b"unisono roster 1\n" + listed.encode()).hexdigest()

    def __getitem__(self, site: str) -> bytes:
        return self._keys[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"Roster({', '.join(self._keys)}; {self.digest[:16]})"

    @property
    def sites(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(self._keys)

    def fingerprint(self, site: str) -> str:
        """128 bits of the SHA-256 of a site's key, in groups that can be read aloud over the telephone."""
        text = hashlib.sha256(self._known(site)).hexdigest()[:32]
        return " ".join(text[k : k + 4] for k in range(0, 32, 4))

    def verify(self, site: str, message: bytes, signature: bytes) -> None:
        """`ProtocolError` unless `signature` is the site's own, by the key in this roster."""
        try:
            Ed25519PublicKey.from_public_bytes(self._known(site)).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise ProtocolError(
                f"A key said to be {site}'s is not signed by {site}.",
                rule="signed-keys",
                remedy="Someone changed a key on its way, or the site has a new identity: compare the fingerprints by "
                "telephone before going on.",
                evidence={"site": site, "signed": message.decode("utf-8", "replace"), "signature": signature.hex()},
            ) from error

    def to_tree(self) -> dict[str, str]:
        """Name -> public key, hexadecimal."""
        return {site: key.hex() for site, key in self._keys.items()}

    @classmethod
    def from_tree(cls, tree: object) -> Roster:
        """The roster that `to_tree` wrote. `ProtocolError` on anything else."""
        try:
            if not isinstance(tree, Mapping):
                raise TypeError("not a mapping")
            return cls({str(site): bytes.fromhex(key) for site, key in tree.items()})
        except (TypeError, ValueError) as error:
            raise ProtocolError(
                "A stored or received roster cannot be read.",
                rule="roster-entries",
                remedy="Restore the file, or ask the coordinator for the roster again and compare its word-code.",
            ) from error

    def _known(self, site: str) -> bytes:
        if site not in self._keys:
            raise ProtocolError(
                f"{site!r} is not in the roster.",
                rule="pinned-roster",
                remedy="Only sites that the permit names take part; a new site needs a new approval.",
            )
        return self._keys[site]
