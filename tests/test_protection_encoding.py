"""The `exact` encoding, typed leaves, and the one face of both encodings."""

from __future__ import annotations

import secrets

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.errors import DataError, ProtocolError
from unisono.protection.encoding import codec, exact
from unisono.protection.leaves import Leaf, count, curve, moment, update
from unisono.protection.prg import mask_into

BOUNDS = st.floats(1e-6, 1e12)


def test_leaves_know_their_size_and_whether_they_are_whole_numbers():
    assert count((2, 3), 100, "cells").size == 6
    assert moment((), 5.0, "a sum").size == 1
    assert curve((0,), 5, "nothing").size == 0
    rules = [count((), 1, ""), curve((), 1, ""), moment((), 1, ""), Leaf("update", (), 1.0, "")]
    assert [leaf.integer for leaf in rules] == [True, True, False, False]


def test_counts_are_summed_without_any_rounding():
    leaves = {"n": count((3,), 1e6, "patients")}
    parts = [np.array([1.0, 0, 999_999]), np.array([5.0, 7, 1])]
    total = exact.decode(np.add.reduce([exact.encode({"n": p}, leaves) for p in parts]), leaves)
    np.testing.assert_array_equal(total["n"], [6, 7, 1_000_000])


@given(BOUNDS, st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_a_moment_comes_back_to_a_part_in_10_to_the_14_of_its_bound(bound: float, fractions: list[float]):
    values = np.array(fractions) * bound
    leaves = {"m": moment(values.shape, bound, "")}
    back = exact.decode(exact.encode({"m": values}, leaves), leaves)["m"]
    assert np.abs(back - values).max() <= bound * 2.0**-46


@given(st.lists(st.lists(st.floats(-1, 1), min_size=4, max_size=4), min_size=2, max_size=6), st.randoms())
def test_the_sum_does_not_depend_on_the_order_of_the_sites(parts: list[list[float]], random):
    leaves = {"m": moment((2, 2), np.array([[1.0, 3.0], [1e-3, 1e9]]), "")}
    bound = np.asarray(leaves["m"].bound)
    words = [exact.encode({"m": np.array(p).reshape(2, 2) * bound}, leaves) for p in parts]
    shuffled = random.sample(words, len(words))
    one, other = (exact.decode(np.add.reduce(w), leaves)["m"] for w in (words, shuffled))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_no_carry_is_lost_at_the_largest_number_of_sites(sign: float):
    bound = np.nextafter(2.0**20, 0)  # fills its power of two
    leaves = {"m": moment((), bound, "")}
    one = exact.encode({"m": np.array(sign * bound)}, leaves)
    with np.errstate(over="ignore"):
        total = one * np.uint64(exact.MAX_SITES)
    back = exact.decode(total, leaves)["m"]
    np.testing.assert_allclose(back, sign * bound * exact.MAX_SITES, rtol=1e-12)


def test_the_quantum_comes_from_the_declared_bound_and_not_from_the_data():
    leaves = {"m": moment((2,), 1000.0, "")}
    quantum = np.ldexp(1.0, int(exact.exponent(leaves["m"])))
    assert quantum == 2.0 ** (10 + 1 - exact.PAYLOAD_BITS)
    tiny = exact.encode({"m": np.array([quantum * 0.4, quantum * 0.6])}, leaves)
    np.testing.assert_array_equal(tiny, [0, 1])


def test_leaves_are_laid_out_in_the_declared_order():
    leaves = {"b": count((2,), 9, ""), "a": count((), 9, "")}
    words = exact.encode({"a": np.array(7), "b": np.array([1, 2])}, leaves)
    np.testing.assert_array_equal(words, [1, 2, 7])
    assert exact.length(leaves) == 3
    assert exact.decode(words, leaves)["a"].shape == ()


def test_negative_numbers_wrap_and_come_back():
    leaves = {"m": moment((), 4.0, "")}
    words = exact.encode({"m": np.array(-1.0)}, leaves)
    assert words[0] > 2**63
    assert exact.decode(words, leaves)["m"] == -1.0


@pytest.mark.parametrize(
    ("leaf", "value", "rule"),
    [
        (moment((), 2.0, ""), np.array(2.1), "declared-bound"),
        (moment((2,), np.array([1.0, 5.0]), ""), np.array([1.5, 1.5]), "declared-bound"),
        (moment((), 2.0, ""), np.array(np.nan), "finite-contribution"),
        (moment((), 2.0, ""), np.array(np.inf), "finite-contribution"),
        (count((), 5, ""), np.array(6), "declared-bound"),
        (count((), 5, ""), np.array(2.5), "declared-bound"),
        (count((2,), 5, ""), np.array([1, 2, 3]), "declared-shape"),
        (count((), 5, ""), np.array("two"), "declared-shape"),
        (count((), 5, ""), np.array(2j), "declared-shape"),
    ],
)
def test_what_was_not_declared_does_not_leave(leaf: Leaf, value: np.ndarray, rule: str):
    with pytest.raises(DataError) as error:
        exact.encode({"x": value}, {"x": leaf})
    assert error.value.rule == rule


@pytest.mark.parametrize("bound", [0.0, -1.0, np.inf, np.nan])
def test_a_bound_is_a_positive_number(bound: float):
    with pytest.raises(ProtocolError) as error:
        exact.exponent(moment((), bound, ""))
    assert error.value.rule == "declared-bounds"


@pytest.mark.parametrize("total", [np.zeros(2, np.uint64), np.zeros(3, np.int64)])
def test_an_opened_sum_of_another_shape_is_refused(total: np.ndarray):
    with pytest.raises(ProtocolError) as error:
        exact.decode(total, {"m": moment((3,), 1.0, "")})
    assert error.value.rule == "encoding-length"


def test_a_leaf_that_is_missing_is_refused():
    with pytest.raises(DataError) as error:
        exact.encode({}, {"x": count((), 5, "")})
    assert error.value.rule == "declared-shape"
    assert "'x' is missing" in error.value.what


MIXED = {"n": count((2,), 100, ""), "w": update((5,), 1.0, ""), "m": moment((), 3.0, "")}
STATISTICS = {"n": MIXED["n"], "m": MIXED["m"]}


def test_an_update_travels_in_32_bits_and_statistics_in_64():
    assert codec.encoding_of(MIXED) == "fixed32"
    assert codec.encoding_of(STATISTICS) == "exact"
    assert codec.codec("fixed32").dtype == np.uint32
    assert codec.codec("exact").dtype == np.uint64


@pytest.mark.parametrize(("name", "leaves"), [("exact", STATISTICS), ("exact", MIXED), ("fixed32", MIXED)])
def test_either_encoding_is_used_in_the_same_way(name: str, leaves: dict[str, Leaf]):
    chosen = codec.codec(name)
    assert chosen.name == name
    tree = {"n": np.array([3, 4]), "w": np.array([0, 0.5, -0.5, 1, -1]), "m": np.array(-1.25)}
    words = [codec.encode(chosen, tree, leaves, 4) for _ in range(4)]
    assert {w.dtype for w in words} == {chosen.dtype}
    assert {w.size for w in words} == {chosen.length(leaves)}
    opened = chosen.decode(np.add.reduce(words, dtype=chosen.dtype), leaves, 4)
    assert opened.clipped == 0
    assert list(opened.tree) == list(leaves)
    for leaf in leaves:
        np.testing.assert_allclose(opened.tree[leaf], 4 * tree[leaf], atol=1e-8)


@pytest.mark.parametrize(("name", "leaves"), [("exact", STATISTICS), ("fixed32", MIXED)])
def test_a_source_gives_the_words_that_are_kept(name: str, leaves: dict[str, Leaf]):
    chosen = codec.codec(name)
    tree = {"n": np.array([3, 4]), "w": np.zeros(5), "m": np.array(-1.25)}
    source = chosen.source(tree, leaves, 4, secrets.token_bytes)
    out, kept = np.empty(source.size, chosen.dtype), np.empty(source.size, chosen.dtype)
    mask_into(out, source, [(bytes(32), 1)], keep=kept)
    np.testing.assert_array_equal(chosen.decode(kept, leaves, 4).tree["n"], [3, 4])
    assert (out != kept).all()


@pytest.mark.parametrize("name", ["exact", "fixed32"])
def test_neither_encoding_takes_more_sites_than_it_has_room_for(name: str):
    chosen = codec.codec(name)
    leaves = {"n": count((), 5, "")}
    for sites in (0, 2**15 + 1):
        with pytest.raises(ProtocolError) as error:
            codec.encode(chosen, {"n": np.array(1)}, leaves, sites)
        assert error.value.rule == "encoding-sites"
        with pytest.raises(ProtocolError) as error:
            chosen.decode(np.zeros(chosen.length(leaves), chosen.dtype), leaves, sites)
        assert error.value.rule == "encoding-sites"


def test_a_sum_in_the_other_ring_is_refused():
    for name, dtype in (("exact", np.uint32), ("fixed32", np.uint64)):
        chosen = codec.codec(name)
        with pytest.raises(ProtocolError) as error:
            chosen.decode(np.zeros(chosen.length(MIXED), dtype), MIXED, 3)
        assert error.value.rule == "encoding-length"


def test_an_unknown_encoding_is_refused_with_the_known_ones():
    with pytest.raises(ProtocolError) as error:
        codec.codec("float16")
    assert error.value.rule == "encoding"
    assert "exact, fixed32" in error.value.remedy


# ------------------------------------------------------------------------------------- no sum larger than its parts

RANGED = {
    "n": count((2,), 100, ""),
    "m": moment((2,), np.array([1.0, 500.0]), ""),
    "x": moment((), 3.0, ""),
}


def opened_with(name: str, at: int, quanta: int) -> np.ndarray:
    """What is opened if all sites but one send zero, and that one sends so many quanta in one element of a leaf."""
    begin = {"n": 0, "m": 2, "x": 4}[name] + at
    total = np.zeros(exact.length(RANGED), np.int64)
    total[begin] = quanta
    return total.view(np.uint64)


@given(
    st.integers(1, 40),
    st.lists(st.sampled_from([-1.0, 1.0]), min_size=5, max_size=5),
    st.floats(1e-6, 1e12),
)
def test_a_sum_of_parts_that_are_all_at_their_bounds_is_opened(sites: int, signs: list[float], bound: float):
    leaves = {"n": count((2,), bound + 1, ""), "m": moment((3,), np.array([bound, 1.0, 3 * bound]), "")}
    whole = np.minimum(np.floor(bound + 1), 2.0**47 - 1)
    tree = {"n": whole * np.array(signs[:2]), "m": np.asarray(leaves["m"].bound) * (1 + 9e-10) * np.array(signs[2:])}
    words = [exact.encode(tree, leaves)] * sites
    opened = exact.decode(np.add.reduce(words), leaves, sites)
    np.testing.assert_array_equal(opened["n"], sites * tree["n"])


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("sites", [1, 3, 40])
@pytest.mark.parametrize(("name", "at", "bound"), [("n", 1, 100.0), ("m", 0, 1.0), ("m", 1, 500.0), ("x", 0, 3.0)])
def test_an_element_larger_than_all_sites_together_may_make_it_is_refused_by_its_leaf(
    name: str, at: int, bound: float, sites: int, sign: int
):
    quantum = 2.0 ** int(np.broadcast_to(exact.exponent(RANGED[name]), RANGED[name].shape or (1,))[at])
    most = int(sites * bound / quantum)
    exact.decode(opened_with(name, at, sign * most), RANGED, sites)
    over = most + 1 if name == "n" else int(most * (1 + 2e-9)) + sites + 1
    with pytest.raises(ProtocolError) as error:
        codec.codec("exact").decode(opened_with(name, at, sign * over), RANGED, sites)
    assert error.value.rule == "encoding-range"
    assert f"'{name}'" in error.value.what
    assert "nobody can see which" in error.value.remedy


def test_the_smallest_word_of_the_ring_is_refused_too():
    with pytest.raises(ProtocolError) as error:
        exact.decode(opened_with("x", 0, -(2**63)), RANGED, 3)
    assert error.value.rule == "encoding-range"


def test_one_site_can_use_the_room_of_all_and_no_more():
    """What remains: under masks only the sum can be looked at, so three bounds from one site pass as one from each."""
    leaves = {"n": count((), 10, "")}
    assert exact.decode(np.array([30], np.uint64), leaves, 3)["n"] == 30
    with pytest.raises(ProtocolError):
        exact.decode(np.array([31], np.uint64), leaves, 3)


@pytest.mark.parametrize("seed", range(5))
def test_masks_that_did_not_cancel_are_not_decoded_as_a_statistic(seed: int):
    noise = np.random.default_rng(seed).integers(0, 2**64, exact.length(RANGED), np.uint64)
    with pytest.raises(ProtocolError) as error:
        codec.codec("exact").decode(noise, RANGED, 3)
    assert error.value.rule == "encoding-range"


def test_every_cell_of_a_count_has_the_bound_that_was_declared_for_it():
    leaves = {"n": Leaf("count", (2,), np.array([1.0, 9.0]), "")}
    exact.encode({"n": np.array([1, 9])}, leaves)
    with pytest.raises(DataError) as error:
        exact.encode({"n": np.array([2, 2])}, leaves)
    assert error.value.rule == "declared-bound"
    with pytest.raises(ProtocolError) as refused:
        exact.decode(np.array([4, 4], np.uint64), leaves, 3)
    assert refused.value.rule == "encoding-range"
