"""A roster's digest as words that two officers can compare by telephone: ``lusab-babad-gutih-tugad``.

Proquints (D. S. Wilkerson, "A proposal for proquints", arXiv:0901.4016): 16 bits are five letters, consonant, vowel,
consonant, vowel, consonant, that can be read aloud in most languages.

What equal words prove: a coordinator that shows two hospitals different rosters, both with keys of its own making, needs a
collision of the words, about 2^(bits/2) trials: 2^64 for the eight words of 128 bits, the default; 2^32, some hours on one
computer, for four words.
"""

from __future__ import annotations

import re

from unisono.errors import EnrolmentError

BITS = 128
MOST_BITS = 256
_CONSONANTS = "bdfghjklmnprstvz"
_VOWELS = "aiou"
_WORD = re.compile(f"[{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}][{_VOWELS}][{_CONSONANTS}]")
_HEX = re.compile(r"[0-9a-f]{64}")
_BETWEEN = re.compile(r"[\s\-–—.,]+")


def word_code(digest: str, bits: int = BITS) -> str:
    """The first `bits` bits (a multiple of 16, at most 256) of a SHA-256 digest (64 hexadecimal digits, as `Roster.digest`)
    as words joined by hyphens. `EnrolmentError` if there is no such digest or number of bits."""
    if not _HEX.fullmatch(digest) or bits % 16 or not 16 <= bits <= MOST_BITS:
        raise EnrolmentError(
            "A word-code is made of 16, 32, ... or 256 bits of a SHA-256 digest.",
            rule="word-code",
            remedy="Give the roster's digest as it is shown: 64 hexadecimal digits.",
        )
    return encode(bytes.fromhex(digest)[: bits // 8])


def same_words(one: str, other: str) -> bool:
    """True if two word-codes are the same, however they were written down: capitals, spaces and hyphens do not count.
    False if either is no word-code at all."""
    try:
        return decode(one) == decode(other)
    except EnrolmentError:
        return False


def encode(data: bytes) -> str:
    """An even number of bytes as words. `EnrolmentError` on none, or an odd number."""
    if not data or len(data) % 2:
        raise EnrolmentError(
            f"{len(data)} bytes cannot be written as words: each word takes two.",
            rule="word-code",
            remedy="Give an even number of bytes.",
        )
    return "-".join(_word(int.from_bytes(data[k : k + 2], "big")) for k in range(0, len(data), 2))


def decode(words: str) -> bytes:
    """The bytes that `encode` wrote as words. `EnrolmentError` naming the first thing that is no such word."""
    parts = [part for part in _BETWEEN.split(words.strip().lower()) if part]
    wrong = next((k for k, part in enumerate(parts, 1) if not _WORD.fullmatch(part)), None)
    if not parts or wrong is not None:
        which = f"Its word {wrong}" if wrong is not None else "An empty text"
        raise EnrolmentError(
            f"{which} is no word of a word-code.",
            rule="word-code",
            remedy="A word has five letters: one of bdfghjklmnprstvz, then a, i, o or u, and so on in turn. Ask for it again.",
        )
    return b"".join(_number(part).to_bytes(2, "big") for part in parts)


def _word(number: int) -> str:
    """16 bits as a word, from the highest: 4, 2, 4, 2 and 4 bits a letter."""
    return (
        _CONSONANTS[number >> 12]
        + _VOWELS[number >> 10 & 3]
        + _CONSONANTS[number >> 6 & 15]
        + _VOWELS[number >> 4 & 3]
        + _CONSONANTS[number & 15]
    )


def _number(word: str) -> int:
    number = 0
    for k, letter in enumerate(word):
        number = number << 2 | _VOWELS.index(letter) if k % 2 else number << 4 | _CONSONANTS.index(letter)
    return number
