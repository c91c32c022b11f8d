"""The mask generator and secret sharing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.secagg import chi_square_of_bytes, seeded
from unisono.errors import ProtocolError
from unisono.protection import prg
from unisono.protection.prg import Held, add_streams, checksum, mask_into
from unisono.protection.shamir import PRIME, SHARE_BYTES, combine, recover, split

SEED = bytes(range(32))
RINGS = (np.uint32, np.uint64)
SIZES = (0, 1, 3, 65535, 65536, 65537, 131_072, 131_073, 200_000)


def keystream(seed: bytes, size: int) -> bytes:
    return Cipher(AES(seed), CTR(bytes(16))).encryptor().update(bytes(size))


def words(size: int, ring: type = np.uint32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2 ** (8 * np.dtype(ring).itemsize), size, ring)


def streams(number: int) -> list[tuple[bytes, int]]:
    return [(bytes([k]) * 32, 1 if k % 3 else -1) for k in range(number)]


def plainly_masked(vector: np.ndarray, masks: list[tuple[bytes, int]]) -> np.ndarray:
    """The same by whole vectors: slow and clear."""
    total = vector.copy()
    for seed, sign in masks:
        stream = np.frombuffer(keystream(seed, vector.nbytes), vector.dtype.newbyteorder("<"))
        total = total + stream if sign == 1 else total - stream
    return total


class Recorded(Held):
    """A source that notes which pieces it was asked for, and by how many threads."""

    def __init__(self, vector: np.ndarray, fails_at: int | None = None) -> None:
        super().__init__(vector)
        object.__setattr__(self, "pieces", [])
        object.__setattr__(self, "threads", set())
        object.__setattr__(self, "fails_at", fails_at)

    def fill(self, start: int, out: np.ndarray) -> None:
        self.pieces.append((start, start + out.size))
        self.threads.add(threading.get_ident())
        if self.fails_at is not None and start <= self.fails_at < start + out.size:
            raise ProtocolError("no", rule="a-rule", remedy="none")
        super().fill(start, out)


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("size", SIZES)
def test_the_stream_is_aes_256_in_counter_mode_whatever_the_chunks(size: int, ring: type):
    vector = np.zeros(size, ring)
    add_streams(vector, [(SEED, 1)])
    assert vector.astype(vector.dtype.newbyteorder("<")).tobytes() == keystream(SEED, vector.nbytes)


def test_the_counter_mode_is_that_of_the_standard():
    # NIST SP 800-38A, F.5.5, with its counter moved to zero is not tabulated; FIPS 197, C.3 is: one block of AES-256.
    block = bytes.fromhex("00112233445566778899aabbccddeeff")
    cipher = Cipher(AES(SEED), CTR(block)).encryptor()
    assert cipher.update(bytes(16)).hex() == "8ea2b7ca516745bfeafc49904b496089"


@given(st.integers(0, 2000), st.lists(st.binary(min_size=32, max_size=32), max_size=4), st.sampled_from(RINGS))
def test_what_is_added_can_be_subtracted(size: int, seeds: list[bytes], ring: type):
    vector = np.arange(size, dtype=ring)
    add_streams(vector, [(seed, 1) for seed in seeds])
    for seed in seeds:
        add_streams(vector, [(seed, -1)])
    np.testing.assert_array_equal(vector, np.arange(size))


@pytest.mark.parametrize("ring", RINGS)
def test_the_stream_is_uniform(ring: type):
    vector = np.zeros(1 << 16, ring)
    add_streams(vector, [(SEED, 1)])
    assert chi_square_of_bytes(vector) < 340


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("threads", [None, 1, 2, 3, 7])
def test_the_masks_are_the_same_whatever_the_threads(threads: int | None, ring: type):
    vector = words(1_000_001, ring)
    masked = vector.copy()
    add_streams(masked, streams(4), threads=threads)
    np.testing.assert_array_equal(masked, plainly_masked(vector, streams(4)))


@pytest.mark.parametrize("chunk", [4096, 64 * 1024])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_masks_are_the_same_whatever_the_chunks(chunk: int, threads: int, monkeypatch: pytest.MonkeyPatch):
    vector = words(100_003)
    expected = plainly_masked(vector, streams(3))
    monkeypatch.setattr(prg, "CHUNK_BYTES", chunk)
    masked = np.empty_like(vector)
    mask_into(masked, Held(vector), streams(3), threads=threads)
    np.testing.assert_array_equal(masked, expected)


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("size", SIZES)
def test_masking_a_source_is_copying_it_and_adding_the_streams(size: int, ring: type):
    vector = words(size, ring)
    out, kept = np.empty_like(vector), np.empty_like(vector)
    mask_into(out, Held(vector), streams(3), keep=kept)
    np.testing.assert_array_equal(kept, vector)
    np.testing.assert_array_equal(out, plainly_masked(vector, streams(3)))


@given(st.integers(0, 5000), st.integers(0, 3), st.integers(1, 4), st.sampled_from(RINGS))
def test_what_is_kept_is_the_source_and_what_leaves_is_masked(size: int, number: int, threads: int, ring: type):
    vector = words(size, ring, size)
    out, kept = np.empty_like(vector), np.empty_like(vector)
    mask_into(out, Held(vector), iter(streams(number)), keep=kept, threads=threads)
    np.testing.assert_array_equal(kept, vector)
    add_streams(out, [(seed, -sign) for seed, sign in streams(number)])
    np.testing.assert_array_equal(out, vector)


@pytest.mark.parametrize("threads", [1, 3])
def test_each_element_of_a_source_is_asked_for_once(threads: int):
    source = Recorded(words(1_000_000))
    mask_into(np.empty(1_000_000, np.uint32), source, streams(1), threads=threads)
    pieces = sorted(source.pieces)
    assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])]
    assert pieces[-1][1] == 1_000_000


def test_a_small_vector_stays_on_the_calling_thread():
    source = Recorded(words(200_000))
    mask_into(np.empty(200_000, np.uint32), source, streams(2))
    assert source.threads == {threading.get_ident()}


@pytest.mark.parametrize("fails_at", [0, 500_001, 999_999])
def test_an_error_in_any_thread_comes_out(fails_at: int):
    source = Recorded(words(1_000_000), fails_at)
    with pytest.raises(ProtocolError) as error:
        mask_into(np.empty(1_000_000, np.uint32), source, streams(1), threads=3)
    assert error.value.rule == "a-rule"


def test_files_can_be_masked_and_kept(tmp_path: Path):
    vector = words(100_000)
    source = np.memmap(tmp_path / "source", np.uint32, "w+", shape=vector.shape)
    source[:] = vector
    out = np.memmap(tmp_path / "out", np.uint32, "w+", shape=vector.shape)
    kept = np.memmap(tmp_path / "kept", np.uint32, "w+", shape=vector.shape)
    mask_into(out, Held(source), streams(2), keep=kept)
    assert checksum(SEED, kept) == checksum(SEED, vector)
    kept.flush()
    out.flush()
    np.testing.assert_array_equal(np.fromfile(tmp_path / "kept", np.uint32), vector)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "out", np.uint32), plainly_masked(vector, streams(2)))


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (lambda: add_streams(np.zeros(3, np.int64), [(SEED, 1)]), "uint64"),  # type: ignore[arg-type]
        (lambda: add_streams(np.zeros((3, 1), np.uint64), [(SEED, 1)]), "one dimension"),
        (lambda: add_streams(np.zeros(3, np.uint64), [(SEED[:16], 1)]), "32 bytes"),
        (lambda: add_streams(np.zeros(3, np.uint64), [(SEED, 0)]), "added"),
        (lambda: add_streams(np.zeros(3, np.uint64), [], threads=0), "at least one thread"),
        (lambda: Held(np.zeros(3)), "uint64"),
        (lambda: mask_into(np.zeros(3, np.uint32), Held(words(4)), []), "own number and dtype"),
        (lambda: mask_into(np.zeros(4, np.uint64), Held(words(4)), []), "own number and dtype"),
        (lambda: mask_into(np.zeros(4, np.uint32), Held(words(4)), [], keep=words(5)), "own number and dtype"),
        (lambda: checksum(SEED[:16], words(4)), "32 bytes"),
        (lambda: checksum(SEED, np.zeros(4)), "uint64"),  # type: ignore[arg-type]
    ],
)
def test_only_words_seeds_and_signs_are_taken(misuse: Callable[[], None], says: str):
    with pytest.raises(ValueError, match=says):
        misuse()


def test_what_is_kept_is_other_memory_than_what_leaves():
    room = np.zeros(8, np.uint32)
    with pytest.raises(ValueError, match="same memory"):
        mask_into(room[:4], Held(words(4)), [], keep=room[:4])


def test_nothing_is_added_when_one_seed_is_wrong():
    vector = words(10)
    with pytest.raises(ValueError, match="32 bytes"):
        add_streams(vector, [(SEED, 1), (b"short", 1)])
    np.testing.assert_array_equal(vector, words(10))


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("size", [0, 1, 5, 1000])
def test_a_checksum_is_the_gmac_of_the_words(size: int, ring: type, monkeypatch: pytest.MonkeyPatch):
    vector = words(size, ring)
    expected = AESGCM(SEED).encrypt(bytes(12), b"", vector.astype(vector.dtype.newbyteorder("<")).tobytes())
    assert checksum(SEED, vector) == expected
    assert len(expected) == 16
    monkeypatch.setattr(prg, "_CHECKSUM_BYTES", 160)  # in pieces
    assert checksum(SEED, vector) == expected


@given(st.integers(1, 500), st.data())
def test_a_checksum_finds_any_changed_bit_and_any_missing_word(size: int, data: st.DataObject):
    vector = words(size, seed=size)
    changed = vector.copy()
    changed[data.draw(st.integers(0, size - 1))] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
    assert checksum(SEED, changed) != checksum(SEED, vector)
    assert checksum(SEED, vector[:-1]) != checksum(SEED, vector)
    assert checksum(bytes(32), vector) != checksum(SEED, vector)


def test_a_checksum_reads_words_wherever_they_are():
    vector = words(1000)
    assert checksum(SEED, vector[::2]) == checksum(SEED, vector[::2].copy())


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
