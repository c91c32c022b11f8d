"""Frozen data: an edited file is refused, a touched one is not, a DataFrame cannot change; rows have keyed fingerprints."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import lung
from unisono.errors import DataError
from unisono.site.data import snapshot as module
from unisono.site.data.rows import siphash
from unisono.site.data.snapshot import digest_file, freeze, row_hashes
from unisono.study.document import Study
from unisono.study.table import Table

SECRET = bytes(range(32))


def own_words() -> pd.DataFrame:
    """The trial in the study's own words."""
    return lung.frame(7).drop(columns="site").assign(sex=lambda f: np.where(f["sex"] == 1, "female", "male"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "padua.csv"
    own_words().to_csv(path, index=False)
    return path


def study(step: float = 7, top_age: float = 100) -> Study:
    variables = {**lung.DOCUMENT["variables"], "age": {"type": "number", "unit": "a", "min": 18, "max": top_age}}  # type: ignore[dict-item]
    analyses = {"c": {"method": "kaplan-meier", "time": "time", "event": "died", "grid": {"step": step, "unit": "d"}}}
    return lung.study(variables=variables, analyses=analyses)


# --- the digest ------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_the_file_the_mapping_the_variables_and_the_grid(data: Path) -> None:
    first = freeze(data, None, study(), "padua")
    assert first.source_digest == digest_file(data)
    assert freeze(data, None, study(), "turin").digest == first.digest
    others = [
        freeze(data, {"variables": {"age": {"outside": "missing"}}}, study(), "padua"),
        freeze(data, None, study(step=14), "padua"),
        freeze(data, None, study(top_age=101), "padua"),
    ]
    assert len({first.digest, *(o.digest for o in others)}) == 4
    assert {o.source_digest for o in others} == {first.source_digest}


def test_a_frame_has_the_same_digest_whenever_its_content_is_the_same() -> None:
    frame = own_words()
    first = freeze(frame, None, study(), "padua")
    assert freeze(frame[frame.columns[::-1]].copy(), None, study(), "padua").digest == first.digest
    frame.loc[0, "age"] += 1
    assert freeze(frame, None, study(), "padua").source_digest != first.source_digest


# --- unchanged -------------------------------------------------------------------------------------------------------


def test_an_untouched_file_is_not_read_again(data: Path) -> None:
    frozen = freeze(data, None, study(), "padua")
    with mock.patch.object(module, "digest_file", side_effect=AssertionError):
        frozen.unchanged()


def test_a_touched_or_copied_back_file_is_digested_once_and_accepted(data: Path) -> None:
    frozen = freeze(data, None, study(), "padua")
    os.utime(data, ns=(1, 1))
    frozen.unchanged()
    copy = data.with_suffix(".copy")
    copy.write_bytes(data.read_bytes())
    copy.replace(data)
    frozen.unchanged()
    with mock.patch.object(module, "digest_file", side_effect=AssertionError):
        frozen.unchanged()


def test_an_edited_file_is_refused_even_with_its_size_and_time_put_back(data: Path) -> None:
    frozen = freeze(data, None, study(), "padua")
    before = data.stat()
    text = data.read_text()
    data.write_text(text[:-4] + ("1" if text[-4] != "1" else "2") + text[-3:])
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert data.stat().st_size == before.st_size
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            frozen.unchanged()
        assert caught.value.rule == "frozen-data"
        assert "--fresh" in caught.value.remedy


def test_a_removed_file_is_refused(data: Path) -> None:
    frozen = freeze(data, None, study(), "padua")
    data.unlink()
    with pytest.raises(DataError) as caught:
        frozen.unchanged()
    assert caught.value.rule == "frozen-data"


def test_a_file_edited_while_it_was_read_is_refused(data: Path) -> None:
    real = module.read

    def slow(*arguments: object, **options: object) -> object:
        raw = real(*arguments, **options)  # type: ignore[arg-type]
        data.write_text(data.read_text() + "7,1,60,male,1,2\n")
        return raw

    with mock.patch.object(module, "read", slow), pytest.raises(DataError) as caught:
        freeze(data, None, study(), "padua")
    assert caught.value.rule == "frozen-data"


def test_a_missing_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        freeze(tmp_path / "none.csv", None, study(), "padua")
    assert caught.value.rule == "readable-file"
    assert "none.csv" in caught.value.what


def test_a_frame_is_copied_and_the_table_cannot_be_written(data: Path) -> None:
    frame = own_words()
    for frozen in (freeze(frame, None, study(), "padua"), freeze(data, None, study(), "padua")):
        before = frozen.table["age"].copy()
        frame["age"] = 0.0
        frame.loc[:, "ecog"] = 4.0
        np.testing.assert_array_equal(frozen.table["age"], before)
        for column in frozen.table.columns.values():
            with pytest.raises(ValueError, match="read-only"):
                column[0] = 1.0
        frozen.unchanged()


# --- rows ------------------------------------------------------------------------------------------------------------


def test_siphash_equals_the_authors_vectors() -> None:
    """SipHash-2-4 of the empty message and of bytes 00..07 under key 00..0f (the reference implementation's vectors)."""
    word = np.array([int.from_bytes(bytes(range(8)), "little")], np.uint64)
    assert int(siphash([word], bytes(range(16)))[0]).to_bytes(8, "little").hex() == "6224939a79f5f593"


def test_siphash_equals_a_plain_one_word_at_a_time() -> None:
    generator = np.random.default_rng(1)
    words = [generator.integers(0, 2**64, 5, np.uint64) for _ in range(4)]
    expected = [plain_siphash(b"".join(int(w[i]).to_bytes(8, "little") for w in words), SECRET[:16]) for i in range(5)]
    assert siphash(words, SECRET[:16]).tolist() == expected


def plain_siphash(message: bytes, key: bytes) -> int:
    """The paper's definition, in Python integers."""
    mask = 2**64 - 1
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x: int, bits: int) -> int:
        return ((x << bits) | (x >> (64 - bits))) & mask

    def sip() -> None:
        v[0] = (v[0] + v[1]) & mask
        v[1] = rotate(v[1], 13) ^ v[0]
        v[0] = rotate(v[0], 32)
        v[2] = (v[2] + v[3]) & mask
        v[3] = rotate(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & mask
        v[3] = rotate(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & mask
        v[1] = rotate(v[1], 17) ^ v[2]
        v[2] = rotate(v[2], 32)

    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for at in range(0, len(padded), 8):
        m = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= m
        sip()
        sip()
        v[0] ^= m
    v[2] ^= 0xFF
    for _ in range(4):
        sip()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


COLUMNS = st.lists(
    st.tuples(st.sampled_from([0.0, -0.0, 1.0, 2.5, float("nan")]), st.sampled_from([0.0, 1.0, float("nan")])),
    min_size=1,
    max_size=30,
)


def table_of(rows: list[tuple[float, float]], names: tuple[str, str] = ("a", "b")) -> Table:
    array = np.array(rows, float)
    return Table({names[0]: array[:, 0].copy(), names[1]: array[:, 1].copy()}, len(rows))


@settings(max_examples=50, deadline=None)
@given(rows=COLUMNS)
def test_rows_have_equal_fingerprints_exactly_when_they_are_equal(rows: list[tuple[float, float]]) -> None:
    table = table_of(rows)
    hashes = row_hashes(table, np.ones(table.n, bool), SECRET)
    content = [tuple("nan" if np.isnan(v) else v + 0.0 for v in row) for row in rows]
    assert len(set(hashes.tolist())) == len(set(content))
    assert len(set(zip(content, hashes.tolist(), strict=True))) == len(set(content))


def test_fingerprints_follow_the_kept_rows_in_order_and_not_the_columns_order() -> None:
    table = lung.table(lung.frame())
    every = row_hashes(table, np.ones(table.n, bool), SECRET)
    keep = np.arange(table.n) % 3 == 0
    np.testing.assert_array_equal(row_hashes(table, keep, SECRET), every[keep])
    turned = Table(dict(reversed(list(table.columns.items()))), table.n)
    np.testing.assert_array_equal(row_hashes(turned, keep, SECRET), every[keep])
    assert row_hashes(table, np.zeros(table.n, bool), SECRET).size == 0


def test_fingerprints_depend_on_the_secret_and_on_the_variables_names() -> None:
    table = table_of([(1.0, 0.0), (2.5, 1.0)])
    every = np.ones(2, bool)
    mine = set(row_hashes(table, every, SECRET).tolist())
    assert not mine & set(row_hashes(table, every, bytes(32)).tolist())
    assert not mine & set(row_hashes(table_of([(1.0, 0.0), (2.5, 1.0)], ("a", "c")), every, SECRET).tolist())
    with pytest.raises(ValueError, match="16 bytes"):
        row_hashes(table, every, b"short")


def test_chunks_make_no_difference() -> None:
    n = 40_000
    table = Table({"a": np.arange(n, dtype=float)}, n)
    hashes = row_hashes(table, np.ones(n, bool), SECRET)
    assert np.unique(hashes).size == n
    some = np.zeros(n, bool)
    some[[0, 16_383, 16_384, n - 1]] = True
    np.testing.assert_array_equal(row_hashes(table, some, SECRET), hashes[some])
    # Every bit is set in about half of the fingerprints.
    shares = [(int(((hashes >> np.uint64(b)) & np.uint64(1)).sum())) / n for b in range(64)]
    assert all(abs(s - 0.5) < 0.015 for s in shares)
