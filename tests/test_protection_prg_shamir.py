"""The mask generator and secret sharing."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.secagg import chi_square_of_bytes, seeded
from unisono.errors import ProtocolError
from unisono.protection.prg import add_stream, add_streams
from unisono.protection.shamir import PRIME, SHARE_BYTES, combine, recover, split

SEED = bytes(range(32))


@pytest.mark.parametrize("size", [0, 1, 3, 32767, 32768, 32769, 100_000])
def test_the_stream_is_aes_256_in_counter_mode_whatever_the_chunks(size: int):
    vector = np.zeros(size, np.uint64)
    add_stream(vector, SEED, 1)
    expected = Cipher(AES(SEED), CTR(bytes(16))).encryptor().update(bytes(8 * size))
    assert vector.tobytes() == expected


def test_the_counter_mode_is_that_of_the_standard():
    # NIST SP 800-38A, F.5.5, with its counter moved to zero is not tabulated; FIPS 197, C.3 is: one block of AES-256.
    block = bytes.fromhex("00112233445566778899aabbccddeeff")
    cipher = Cipher(AES(SEED), CTR(block)).encryptor()
    assert cipher.update(bytes(16)).hex() == "8ea2b7ca516745bfeafc49904b496089"


@given(st.integers(0, 2000), st.lists(st.binary(min_size=32, max_size=32), max_size=4))
def test_what_is_added_can_be_subtracted(size: int, seeds: list[bytes]):
    vector = np.arange(size, dtype=np.uint64)
    add_streams(vector, [(seed, 1) for seed in seeds])
    for seed in seeds:
        add_stream(vector, seed, -1)
    np.testing.assert_array_equal(vector, np.arange(size))


def test_the_stream_is_uniform():
    vector = np.zeros(1 << 16, np.uint64)
    add_stream(vector, SEED, 1)
    assert chi_square_of_bytes(vector) < 340


def test_only_words_seeds_and_signs_are_taken():
    with pytest.raises(ValueError, match="uint64"):
        add_stream(np.zeros(3, np.int64), SEED, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 bytes"):
        add_stream(np.zeros(3, np.uint64), SEED[:16], 1)
    with pytest.raises(ValueError, match="added"):
        add_stream(np.zeros(3, np.uint64), SEED, 0)


@settings(max_examples=40)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 6), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret_back(secret: bytes, t: int, more: int, random):
    shares = split(secret, t, range(1, t + more + 1))
    some = random.sample(sorted(shares), t)
    assert combine({x: shares[x] for x in some}, t) == secret
    assert combine(shares, t) == secret
    assert all(len(share) == SHARE_BYTES for share in shares.values())


@pytest.mark.parametrize("secret", [bytes(32), bytes([255]) * 32, bytes(31) + b"\x01"])
def test_secrets_at_the_edges_survive(secret: bytes):
    assert combine(split(secret, 3, [1, 5, 9, 20]), 3) == secret


def test_fewer_shares_fit_every_secret():
    # With t - 1 shares, each secret is explained by exactly one polynomial: nothing is learned.
    shares = split(SEED, 2, [1, 2], seeded("s"))
    y1 = int.from_bytes(shares[1], "big")
    for other in (0, 1, 2**256 - 1):
        slope = (y1 - other) % PRIME
        y2 = (other + 2 * slope) % PRIME
        assert combine({1: shares[1], 2: y2.to_bytes(SHARE_BYTES, "big")}, 2) == other.to_bytes(32, "big")


def test_a_wrong_share_is_not_silently_taken():
    shares = split(SEED, 3, range(1, 6), seeded("s"))
    shares[2] = bytes(SHARE_BYTES)
    with pytest.raises(ProtocolError) as error:
        combine(shares, 3)
    assert error.value.rule == "wrong-share"


def test_too_few_shares_are_refused():
    shares = split(SEED, 3, range(1, 6))
    with pytest.raises(ProtocolError) as error:
        combine({1: shares[1], 2: shares[2]}, 3)
    assert error.value.rule == "too-few-shares"


@pytest.mark.parametrize("xs", [[1, 1, 2], [0, 1, 2], [-1, 2, 3]])
def test_places_are_distinct_and_positive(xs: list[int]):
    with pytest.raises(ProtocolError) as error:
        split(SEED, 2, xs)
    assert error.value.rule == "share-places"


@pytest.mark.parametrize("t", [0, 4])
def test_a_threshold_fits_the_number_of_shares(t: int):
    with pytest.raises(ProtocolError) as error:
        split(SEED, t, [1, 2, 3])
    assert error.value.rule == "share-threshold"


def test_a_share_of_the_wrong_length_is_refused():
    shares = split(SEED, 2, [1, 2])
    with pytest.raises(ProtocolError) as error:
        combine({1: shares[1][:-1], 2: shares[2]}, 2)
    assert error.value.rule == "wrong-share"


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 4), st.randoms(use_true_random=False))
def test_wrong_shares_are_found_when_there_are_more_than_the_threshold(t: int, more: int, random):
    shares = split(SEED, t, range(1, t + more + 1), seeded("r"))
    bad = set(random.sample(sorted(shares), random.randint(0, more - 1)))
    for x in bad:
        shares[x] = bytes([x]) * SHARE_BYTES
    found = recover(shares, t, lambda secret: secret == SEED)
    assert found is not None
    assert found.secret == SEED
    assert found.wrong <= bad
    first_set_was_good = not bad & set(sorted(shares)[:t])
    assert found.wrong == (frozenset() if first_set_was_good else bad)


def test_with_wrong_shares_and_none_to_spare_nothing_is_found():
    shares = split(SEED, 3, range(1, 4))
    shares[2] = bytes(SHARE_BYTES)
    assert recover(shares, 3, lambda secret: secret == SEED) is None
