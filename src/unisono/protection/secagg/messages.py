"""The messages of one masked sum, as frozen dataclasses, and their trees.

A advertise -> key roster;  B shares -> sealed inbox;  C masked input;  [agreement on the survivors;]  D unmask -> unmask
shares. Before the first sum on a random graph: nonce commitments, once.
A tree is what `unisono.federation.tree` packs: dicts, lists, strings, hexadecimal text and one array of words. Reading
a tree checks every field; what is not exactly a message is a `ProtocolError` (rule ``message-format``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from unisono.errors import ProtocolError
from unisono.protection.prg import Words, checksum
from unisono.protection.secagg.keys import BOX_BYTES, KEY_BYTES, PROTOCOL, canonical
from unisono.protection.shamir import SHARE_BYTES
from unisono.study.document import SLUG

SIGNATURE_BYTES = 64
CHECKSUM_BYTES = 16
_SITE = re.compile(SLUG.rstrip("$"))
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_MAX_TEXT = 256

T = TypeVar("T")


@dataclass(frozen=True)
class Codec(Generic[T]):
    """How one field is written into a tree, and read back with its checks (`ValueError` or `TypeError` if it fails)."""

    write: Callable[[T], Any]
    read: Callable[[Any], T]


def _same(value: T) -> T:
    return value


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or not value.isprintable():
        raise ValueError("not a short text")
    return value


def _read_site(value: Any) -> str:
    if not isinstance(value, str) or not _SITE.fullmatch(value):
        raise ValueError("not a site's name")
    return value


def _read_recipient(value: Any) -> str:
    return "" if value == "" and isinstance(value, str) else _read_site(value)


def _read_nonce(value: Any) -> bytes:
    return b"" if value == "" and isinstance(value, str) else _read_hex(KEY_BYTES)(value)


def _read_hex(length: int) -> Callable[[Any], bytes]:
    def read(value: Any) -> bytes:
        if not isinstance(value, str) or len(value) != 2 * length or not _HEX.fullmatch(value):
            raise ValueError(f"not {length} bytes in hexadecimal")
        return bytes.fromhex(value)

    return read


def _read_sites(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError("not a list")
    sites = tuple(_read_site(site) for site in value)
    if list(sites) != sorted(set(sites)):
        raise ValueError("sites are not sorted, or one is there twice")
    return sites


def _read_words(value: Any) -> Words:
    if not isinstance(value, np.ndarray) or value.dtype not in (np.uint32, np.uint64) or value.ndim != 1:
        raise TypeError("not one dimension of 32-bit or 64-bit words")
    return value


def _hexadecimal(length: int) -> Codec[bytes]:
    return Codec(bytes.hex, _read_hex(length))


def _by_site(length: int) -> Codec[Mapping[str, bytes]]:
    read = _read_hex(length)

    def read_all(value: Any) -> Mapping[str, bytes]:
        if not isinstance(value, Mapping):
            raise TypeError("not a mapping")
        return {_read_site(site): read(text) for site, text in value.items()}

    return Codec(lambda boxes: {site: boxes[site].hex() for site in sorted(boxes)}, read_all)


_TEXT = Codec(_same, _read_text)
_SITE_NAME = Codec(_same, _read_site)
_SITES: Codec[tuple[str, ...]] = Codec(list, _read_sites)
_WORDS = Codec(_same, _read_words)
_KEY = _hexadecimal(KEY_BYTES)
_RECIPIENT = Codec(_same, _read_recipient)
_NONCE: Codec[bytes] = Codec(bytes.hex, _read_nonce)
_SIGNATURE = _hexadecimal(SIGNATURE_BYTES)


def _as(codec: Codec[Any], *, show: bool = True) -> Any:
    return field(metadata={"codec": codec}, repr=show)


class Message:
    """A message of the protocol, with a tree form."""

    kind: ClassVar[str]

    def to_tree(self) -> dict[str, Any]:
        """Plain values and arrays, with the message's kind and the protocol's version."""
        tree: dict[str, Any] = {"protocol": PROTOCOL, "kind": self.kind}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]  # every message is a dataclass
            tree[item.name] = item.metadata["codec"].write(getattr(self, item.name))
        return tree

    @classmethod
    def from_tree(cls, tree: object) -> Self:
        """The message in a tree. `ProtocolError` if it is another message, another version, or not well formed."""
        version = tree.get("protocol") if isinstance(tree, Mapping) else PROTOCOL
        if not isinstance(version, str) or version != PROTOCOL:  # an array would answer `!=` with an array
            raise ProtocolError(
                f"A message follows another version of the protocol than {PROTOCOL}.",
                rule="protocol-version",
                remedy="Install the same version of Unisono at the coordinator and at every site.",
            )
        at = "message"
        try:
            if not isinstance(tree, Mapping) or tree.get("kind") != cls.kind:
                raise ValueError("another kind of message")
            fields = dataclasses.fields(cls)  # type: ignore[arg-type]
            if set(tree) != {"protocol", "kind", *(item.name for item in fields)}:
                raise ValueError("fields are missing, or there are too many")
            values: dict[str, Any] = {}
            for item in fields:
                at = item.name
                values[item.name] = item.metadata["codec"].read(tree[item.name])
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise ProtocolError(
                f"A message {cls.kind!r} is malformed at {at!r}: {error}.",
                rule="message-format",
                remedy="It was truncated or altered, or its sender runs other software; nothing was used of it.",
            ) from error

    def check_slot(self, run: str, slot: str) -> None:
        """`ProtocolError` if the message was made for another run or slot: a replay is never used."""
        if (getattr(self, "run", None), getattr(self, "slot", None)) != (run, slot):
            raise ProtocolError(
                f"A message {self.kind!r} belongs to another run or slot.",
                rule="other-slot",
                remedy="It was replayed, or came late. Nothing was used of it; the present attempt goes on without it.",
            )


@dataclass(frozen=True)
class Commitment(Message):
    """Before a graph is drawn: a site commits to its nonce, signed. No one can choose a nonce after seeing the others'."""

    kind: ClassVar[str] = "commitment"
    site: str = _as(_SITE_NAME)
    run: str = _as(_TEXT)
    group: str = _as(_TEXT)
    commitment: bytes = _as(_KEY)
    signature: bytes = _as(_SIGNATURE)

    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        return canonical("nonce commitment", self.site, self.run, self.group, self.commitment.hex())


def commitments_digest(commitments: Iterable[Commitment]) -> str:
    """SHA-256 over all commitments in the order of the sites, hexadecimal: which drawing of a graph this is."""
    ordered = sorted(commitments, key=lambda item: item.site)
    return hashlib.sha256(b"\n".join(item.signed() for item in ordered)).hexdigest()


@dataclass(frozen=True)
class Advertise(Message):
    """A: a site's fresh public mask key for the slot and its channel key, signed by its identity. group: the digest of the
    frozen set. recipient: who alone will read the sum, if not the coordinator. nonce: its part of the graph's seed."""

    kind: ClassVar[str] = "advertise"
    site: str = _as(_SITE_NAME)
    run: str = _as(_TEXT)
    slot: str = _as(_TEXT)
    group: str = _as(_TEXT)
    recipient: str = _as(_RECIPIENT)
    mask_key: bytes = _as(_KEY)
    channel_key: bytes = _as(_KEY)
    nonce: bytes = _as(_NONCE)
    signature: bytes = _as(_SIGNATURE)

    def signed(self) -> bytes:
        """The bytes that the signature is over: everything but the signature."""
        keys = (self.mask_key.hex(), self.channel_key.hex(), self.nonce.hex())
        return canonical("advertise", self.site, self.run, self.slot, self.group, self.recipient, *keys)


def _read_advertised(value: Any) -> tuple[Advertise, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError("not a list")
    return tuple(Advertise.from_tree(item) for item in value)


_ADVERTISED: Codec[tuple[Advertise, ...]] = Codec(lambda items: [item.to_tree() for item in items], _read_advertised)


@dataclass(frozen=True)
class KeyRoster(Message):
    """The coordinator relays every site's advertisement to every site, unchanged."""

    kind: ClassVar[str] = "key-roster"
    run: str = _as(_TEXT)
    slot: str = _as(_TEXT)
    advertised: tuple[Advertise, ...] = _as(_ADVERTISED)

    def transcript(self) -> str:
        """SHA-256 over all advertised keys in the order of the sites, hexadecimal."""
        ordered = sorted(self.advertised, key=lambda item: item.site)
        return hashlib.sha256(b"\n".join(item.signed() for item in ordered)).hexdigest()


@dataclass(frozen=True)
class Shares(Message):
    """B: a sealed box for each neighbour (shares of this site's two secrets), and a commitment to its self-mask. From the
    recipient of a sum no boxes: nobody else may take off its masks (rule 7)."""

    kind: ClassVar[str] = "shares"
    site: str = _as(_SITE_NAME)
    run: str = _as(_TEXT)
    slot: str = _as(_TEXT)
    boxes: Mapping[str, bytes] = _as(_by_site(BOX_BYTES), show=False)
    commitment: bytes = _as(_KEY)


@dataclass(frozen=True)
class SealedInbox(Message):
    """The boxes that its neighbours sealed for `site`, by sender, relayed. dealt: all sites whose shares are out, sorted: these
    and no others can be in the sum."""

    kind: ClassVar[str] = "sealed-inbox"
    site: str = _as(_SITE_NAME)
    run: str = _as(_TEXT)
    slot: str = _as(_TEXT)
    dealt: tuple[str, ...] = _as(_SITES)
    boxes: Mapping[str, bytes] = _as(_by_site(BOX_BYTES), show=False)


@dataclass(frozen=True, eq=False)
class MaskedInput(Message):
    """C: a site's encoded vector under its masks, (m,) uint32 or uint64; the digest of the ask, what the masks are bound to,
    and a checksum of the words."""

    kind: ClassVar[str] = "masked-input"
    site: str = _as(_SITE_NAME)
    run: str = _as(_TEXT)
    slot: str = _as(_TEXT)
    ask_digest: str = _as(_TEXT)
    binding: str = _as(_TEXT)
    words: Words = _as(_WORDS, show=False)  # noqa: RUF009  (describes a field; there is no default)
    checksum: bytes = _as(_hexadecimal(CHECKSUM_BYTES))


def checksum_of(words: Words, binding: str, site: str) -> bytes:
    """Of a site's masked words in one slot: a half-sent or damaged upload, or another's, does not have it."""
    return checksum(hashlib.sha256(canonical("upload", binding, site)).digest(), words)


@dataclass(frozen=True)
class Unmask(Message):
    """D, asked of every survivor: these parts, and no others, are in the sum. agreements: the survivors' signatures over
    exactly that, where the threat is malicious."""

    kind: ClassVar[str] = "unmask"
    run: str = _as(_TEXT)
    slot: str = _as(_TEXT)
    ask_digest: str = _as(_TEXT)
    binding: str = _as(_TEXT)
    survivors: tuple[str, ...] = _as(_SITES)
    agreements: Mapping[str, bytes] = _as(_by_site(SIGNATURE_BYTES), show=False)

    def agreed(self, site: str) -> bytes:
        """The bytes that `site` signs to say that this, and nothing else, may be unmasked."""
        return canonical("agreement", site, self.run, self.slot, self.ask_digest, self.binding, *self.survivors)


@dataclass(frozen=True)
class Agreement(Message):
    """The consistency message: a survivor's signature over the question and the set of survivors, before D."""

    kind: ClassVar[str] = "agreement"
    site: str = _as(_SITE_NAME)
    run: str = _as(_TEXT)
    slot: str = _as(_TEXT)
    signature: bytes = _as(_SIGNATURE)


@dataclass(frozen=True)
class UnmaskShares(Message):
    """D, answered: a share of the self-mask seed of every survivor, and of the mask key of every site that dropped."""

    kind: ClassVar[str] = "unmask-shares"
    site: str = _as(_SITE_NAME)
    run: str = _as(_TEXT)
    slot: str = _as(_TEXT)
    self_seeds: Mapping[str, bytes] = _as(_by_site(SHARE_BYTES), show=False)
    mask_keys: Mapping[str, bytes] = _as(_by_site(SHARE_BYTES), show=False)
