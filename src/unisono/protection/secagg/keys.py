"""The keys of one slot, and everything derived from them: channel keys, mask seeds, commitments.

A slot's keys are made *before* the question is known, so that they can be sent round early, along with the messages of
the sum before. They are bound to the question only when a vector is masked: every mask seed's HKDF info names the
protocol, run, slot, keys, pair and the digest of the whole ask. Two sites that were asked different questions derive
different masks, which do not cancel.
(design/secure-aggregation.md, rule 2; HKDF: RFC 5869; X25519: RFC 7748.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from unisono.errors import ProtocolError
from unisono.protection.prg import Entropy
from unisono.protection.shamir import SHARE_BYTES

PROTOCOL = "unisono-secagg-2"
KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
BOX_BYTES = _NONCE_BYTES + 2 * SHARE_BYTES + _TAG_BYTES
"""A sealed box: nonce, then (share of the mask key, share of the self-mask seed) under AES-256-GCM."""


class RunKeys:
    """A site's channel key for one run: it seals the boxes of every slot. In memory only; a site that was restarted has
    another one and advertises that. Agreements are kept: a neighbour costs one for the whole run."""

    def __init__(self, run: str, entropy: Entropy) -> None:
        self._secret = bytearray(entropy(KEY_BYTES))
        self._key = private_key(bytes(self._secret))
        self.run = run
        self.public: bytes = self._key.public_key().public_bytes_raw()
        self._boxes: dict[tuple[bytes, str, str], bytes] = {}

    def box_key(self, peer: bytes, sender: str, receiver: str) -> bytes:
        """The AES-256-GCM key for boxes from `sender` to `receiver`, one of which is this site, the other `peer`'s owner."""
        wanted = (peer, sender, receiver)
        if wanted not in self._boxes:
            shared = agree(self._key, peer)
            ends = sorted((self.public.hex(), peer.hex()))
            for a, b in ((sender, receiver), (receiver, sender)):
                self._boxes[peer, a, b] = _derive(shared, "channel", self.run, a, b, *ends)
        return self._boxes[wanted]

    def forget(self) -> None:
        """Overwrite what can be overwritten, and let go of the rest."""
        self._secret[:] = bytes(len(self._secret))
        self._boxes.clear()


class SlotKeys:
    """A site's secrets for one slot: mask key s and self-mask seed b. They live in memory only (rule 5)."""

    def __init__(self, mask: bytes, self_seed: bytes) -> None:
        self._mask = bytearray(mask)
        self._self_seed = bytearray(self_seed)
        self.mask_public: bytes = public_of(mask)

    @classmethod
    def fresh(cls, entropy: Entropy) -> SlotKeys:
        """New secrets, for one slot and never another."""
        return cls(entropy(KEY_BYTES), entropy(KEY_BYTES))

    @property
    def mask(self) -> bytes:
        """The private mask key s: what the holders of its shares can rebuild if this site drops."""
        return bytes(self._mask)

    @property
    def self_seed(self) -> bytes:
        """The seed b of the self-mask: what the holders of its shares can rebuild if this site survives."""
        return bytes(self._self_seed)

    def forget(self) -> None:
        """Overwrite the secrets. Copies that Python made on the way are beyond reach; they are freed, not zeroed."""
        for secret in (self._mask, self._self_seed):
            secret[:] = bytes(len(secret))


@dataclass(frozen=True)
class Slot:
    """What every derivation of a slot names: the run and the slot."""

    run: str
    slot: str

    def binding(self, transcript: str, dealt: Iterable[str], ask_digest: str) -> str:
        """What masks are bound to, hexadecimal: all advertised keys (`transcript`), the sites whose shares are out, and the
        whole question. Two sites that were shown different keys, sites or questions share no mask (rule 2)."""
        return hashlib.sha256(canonical("binding", self.run, self.slot, transcript, ask_digest, *dealt)).hexdigest()

    def pair_seed(self, secret: X25519PrivateKey, public: bytes, a: str, b: str, binding: str) -> bytes:
        """The seed of the mask that sites `a` and `b` share, in either order."""
        first, second = sorted((a, b))
        return _derive(agree(secret, public), "pair", binding, first, second)

    def self_mask_seed(self, self_seed: bytes, site: str, binding: str) -> bytes:
        """The seed of a site's own mask."""
        return _derive(self_seed, "self", binding, site)

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


def nonce_of(identity: bytes, run: str, group: str) -> bytes:
    """A site's part of a graph's seed: nobody can foresee it, and it is the same however often this site is asked."""
    return _derive(identity, "graph nonce", run, group)


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
