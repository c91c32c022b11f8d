"""The keys of one slot, and everything derived from them: channel keys, mask seeds, commitments.

A slot's keys are made *before* the question is known, so that they can be sent round early. They are bound to the
question only when a vector is masked: every mask seed's HKDF info names the protocol, run, slot, keys, pair and the
digest of the whole ask. Two sites that were asked different questions derive different masks, which do not cancel.
(design/secure-aggregation.md, rule 2; HKDF: RFC 5869; X25519: RFC 7748.)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unisono.errors import ProtocolError
from unisono.protection.prg import Entropy
from unisono.protection.shamir import SHARE_BYTES

PROTOCOL = "unisono-secagg-1"
KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
BOX_BYTES = _NONCE_BYTES + 2 * SHARE_BYTES + _TAG_BYTES
"""A sealed box: nonce, then (share of the mask key, share of the self-mask seed) under AES-256-GCM."""


class SlotKeys:
    """A site's secrets for one slot: mask key s, channel key c, self-mask seed b. They live in memory only (rule 5)."""

    def __init__(self, mask: bytes, channel: bytes, self_seed: bytes) -> None:
        self._mask = bytearray(mask)
        self._channel = bytearray(channel)
        self._self_seed = bytearray(self_seed)
        self.mask_public: bytes = public_of(mask)
        self.channel_public: bytes = public_of(channel)

    @classmethod
    def fresh(cls, entropy: Entropy) -> SlotKeys:
        """New secrets, for one slot and never another."""
        return cls(entropy(KEY_BYTES), entropy(KEY_BYTES), entropy(KEY_BYTES))

    @property
    def mask(self) -> bytes:
        """The private mask key s: what the neighbours can rebuild if this site drops."""
        return bytes(self._mask)

    @property
    def channel(self) -> bytes:
        """The private channel key c: never shared."""
        return bytes(self._channel)

    @property
    def self_seed(self) -> bytes:
        """The seed b of the self-mask: what the neighbours can rebuild if this site survives."""
        return bytes(self._self_seed)

    def forget(self) -> None:
        """Overwrite the secrets. Copies that Python made on the way are beyond reach; they are freed, not zeroed."""
        for secret in (self._mask, self._channel, self._self_seed):
            secret[:] = bytes(len(secret))


@dataclass(frozen=True)
class Slot:
    """What every derivation of a slot names: the run, the slot, and a digest of all the keys that were advertised for
    it (`transcript`, hexadecimal), so that two sites which were relayed different keys share no mask."""

    run: str
    slot: str
    transcript: str

    def channel_key(self, secret: X25519PrivateKey, public: bytes, sender: str, receiver: str) -> bytes:
        """The AES-256-GCM key for boxes from `sender` to `receiver`; both derive it, each from its own private key."""
        return _derive(agree(secret, public), "channel", self.run, self.slot, sender, receiver)

    def pair_seed(self, secret: X25519PrivateKey, public: bytes, a: str, b: str, ask_digest: str) -> bytes:
        """The seed of the mask that sites `a` and `b` share, in either order, for one ask."""
        first, second = sorted((a, b))
        info = ("pair", self.run, self.slot, self.transcript, first, second, ask_digest)
        return _derive(agree(secret, public), *info)

    def self_mask_seed(self, self_seed: bytes, site: str, ask_digest: str) -> bytes:
        """The seed of a site's own mask for one ask."""
        return _derive(self_seed, "self", self.run, self.slot, self.transcript, site, ask_digest)

    def commitment(self, self_seed: bytes, site: str) -> bytes:
        """What a site publishes of its seed b (32 random bytes): enough to check it, no help in guessing it."""
        return hashlib.sha256(canonical("commitment", self.run, self.slot, site) + self_seed).digest()

    def seal(self, key: bytes, nonce: bytes, plain: bytes, sender: str, receiver: str) -> bytes:
        """A box that only `receiver` can open, and only as coming from `sender` in this slot."""
        return nonce + AESGCM(key).encrypt(nonce, plain, self._associated(sender, receiver))

    def unseal(self, key: bytes, box: bytes, sender: str, receiver: str) -> bytes:
        """What `seal` sealed. `ProtocolError` if a bit of it, of the sender or of the slot was changed."""
        try:
            if len(box) != BOX_BYTES:
                raise ValueError("wrong length")
            return AESGCM(key).decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], self._associated(sender, receiver))
        except (InvalidTag, ValueError) as error:
            raise ProtocolError(
                f"The box said to be from {sender} to {receiver} cannot be opened.",
                rule="sealed-box",
                remedy="It was altered, or belongs to another slot. The sum is not made; start a new attempt.",
            ) from error

    def _associated(self, sender: str, receiver: str) -> bytes:
        return canonical("box", self.run, self.slot, sender, receiver)


def nonce(entropy: Entropy) -> bytes:
    """A fresh nonce for `Slot.seal`."""
    return entropy(_NONCE_BYTES)


def private_key(secret: bytes) -> X25519PrivateKey:
    """The key of 32 secret bytes, ready for use (making it costs as much as an agreement: make it once)."""
    return X25519PrivateKey.from_private_bytes(secret)


def public_of(secret: bytes) -> bytes:
    """The X25519 public key of a 32-byte private key."""
    return private_key(secret).public_key().public_bytes_raw()


def agree(secret: X25519PrivateKey, public: bytes) -> bytes:
    """The X25519 shared secret. `ProtocolError` for a public key of small order, with which nothing can be shared."""
    try:
        return secret.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError(
            "An advertised key is no usable X25519 key.",
            rule="usable-keys",
            remedy="The site that advertised it runs altered software; leave it out until that is explained.",
        ) from error


def canonical(*parts: str) -> bytes:
    """The protocol's name and `parts` as bytes that mean nothing else: JSON keeps ("ab", "c") and ("a", "bc") apart."""
    return json.dumps([PROTOCOL, *parts], separators=(",", ":")).encode()


def _derive(secret: bytes, *info: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=canonical(*info)).derive(secret)
