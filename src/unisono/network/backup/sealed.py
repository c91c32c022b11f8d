"""A stream of bytes sealed with a passphrase: private keys are in it. Written once, read once, every byte authenticated.

Scrypt (RFC 7914) makes a key of the passphrase and a fresh salt; ChaCha20-Poly1305 (RFC 8439) seals chunk after chunk, as in STREAM
(Hoang, Reyhanitabar, Rogaway, Vizár: CRYPTO 2015): the nonce is the chunk's number with a flag on the last one, and the header is
associated data of each. A chunk that is missing, moved, added or altered, and an end that was cut off, are all noticed.
"""

from __future__ import annotations

import os
import secrets
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from unisono.errors import NetworkError

MAGIC = b"unisono back-up 1\n"
CHUNK = 1024 * 1024
MEMORY_BITS = 17
"""Scrypt's N = 2^17 with r = 8: 128 MiB and about half a second a guess (OWASP's advice)."""
FEWEST_BITS, MOST_BITS = 14, 20
"""What is accepted of an archive: its header comes from outside, and must not ask for a gigabyte and more."""
SHORTEST_PASSPHRASE = 12
_SALT = 16
_CHECK = 16
_TAG = 16
_HEADER = len(MAGIC) + 1 + _SALT + _CHECK


class SealedWriter:
    """Writes into a binary file. Nothing is a whole archive before `finish`. memory_bits: Scrypt's cost."""

    def __init__(self, file: BinaryIO, passphrase: str, *, memory_bits: int = MEMORY_BITS) -> None:
        salt = os.urandom(_SALT)
        key, check = _derived(passphrase, salt, memory_bits)
        self._file = file
        self._header = MAGIC + bytes([memory_bits]) + salt + check
        self._cipher = ChaCha20Poly1305(key)
        self._number = 0
        self._waiting = bytearray()
        file.write(self._header)

    def write(self, data: bytes) -> None:
        """Some more bytes."""
        self._waiting += data
        while len(self._waiting) > CHUNK:  # the last chunk is only known at the end
            self._seal(bytes(self._waiting[:CHUNK]), last=False)
            del self._waiting[:CHUNK]

    def finish(self) -> None:
        """The last bytes; nothing may be written after them."""
        self._seal(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._number, last=last), chunk, self._header))
        self._number += 1


class SealedReader:
    """Reads what `SealedWriter` wrote. `NetworkError` for a file that is none, another passphrase (``backup-passphrase``), and
    whatever was altered or cut off (``backup-integrity``)."""

    def __init__(self, file: BinaryIO, passphrase: str) -> None:
        header = file.read(_HEADER)
        bits = header[len(MAGIC)] if len(header) == _HEADER else 0
        if not header.startswith(MAGIC) or not FEWEST_BITS <= bits <= MOST_BITS:
            raise NetworkError(
                "This file is no back-up of Unisono, or of another version.",
                rule="backup-form",
                remedy="Name the file that `unisono site backup` or `unisono coordinator backup` wrote.",
            )
        salt, check = header[len(MAGIC) + 1 : -_CHECK], header[-_CHECK:]
        key, expected = _derived(passphrase, salt, bits)
        if not secrets.compare_digest(check, expected):
            raise NetworkError(
                "The passphrase is not the one that this back-up was made with.",
                rule="backup-passphrase",
                remedy="Try again. Without its passphrase a back-up cannot be read by anybody.",
            )
        self._file = file
        self._header = header
        self._cipher = ChaCha20Poly1305(key)
        self._number = 0
        self._opened = bytearray()
        self._ahead = file.read(CHUNK + _TAG)
        self._ended = False

    def read(self, size: int) -> bytes:
        """The next bytes: fewer than `size` only at the end."""
        while len(self._opened) < size and not self._ended:
            self._opened += self._next()
        found = bytes(self._opened[:size])
        del self._opened[:size]
        return found

    def _next(self) -> bytes:
        sealed, self._ahead = self._ahead, self._file.read(CHUNK + _TAG)
        self._ended = not self._ahead
        try:
            chunk = self._cipher.decrypt(_nonce(self._number, last=self._ended), sealed, self._header)
        except InvalidTag as error:
            raise altered("it was altered, or its end is missing") from error
        self._number += 1
        return chunk


def altered(how: str) -> NetworkError:
    """The error for an archive that is not as it was written."""
    return NetworkError(
        f"The back-up cannot be used: {how}.",
        rule="backup-integrity",
        remedy="Nothing was put in place. Use another copy of the file, or an earlier back-up.",
    )


def _derived(passphrase: str, salt: bytes, memory_bits: int) -> tuple[bytes, bytes]:
    """The key, and what tells a wrong passphrase from an altered file: independent outputs of one derivation."""
    derived = Scrypt(salt=salt, length=32 + _CHECK, n=2**memory_bits, r=8, p=1).derive(passphrase.encode())
    return derived[:32], derived[32:]


def _nonce(number: int, *, last: bool) -> bytes:
    """12 bytes, never the same twice under one key: the key is of one file."""
    return number.to_bytes(11, "big") + bytes([last])
