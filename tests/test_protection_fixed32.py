"""The `fixed32` encoding of model updates: unbiased, within 32 bits for every number of sites, statistics exact beside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.secagg import chi_square_of_bytes, seeded
from unisono.errors import DataError, MethodError, ProtocolError
from unisono.protection.encoding import exact, fixed32
from unisono.protection.encoding.fixed32 import Quantiser, decode, encode, exponent, length, limit, overflow_probability
from unisono.protection.leaves import Leaf, count, curve, moment, update
from unisono.protection.prg import Held, add_streams, mask_into

SITES = st.integers(1, 40)
BOUNDS = st.floats(1e-6, 1e6)


def added(words: list[np.ndarray]) -> np.ndarray:
    """The sum in the words' own ring (numpy would widen uint32 to uint64)."""
    return np.add.reduce(words, dtype=words[0].dtype)


def total_of(parts: list[Mapping[str, np.ndarray]], leaves: Mapping[str, Leaf], sites: int | None = None):
    """The sum of the parts' words, decoded."""
    sites = sites or len(parts)
    words = [encode(part, leaves, sites, seeded(str(k))) for k, part in enumerate(parts)]
    return decode(added(words), leaves, sites)


def normal(size: int, kind: type = np.float32, seed: int = 0, spread: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, size).astype(kind)


# ---------------------------------------------------------------------------------------------------- round trips


@given(BOUNDS, SITES, st.sampled_from([np.float32, np.float64]), st.data())
def test_an_update_comes_back_within_one_quantum(bound: float, sites: int, kind: type, data: st.DataObject):
    fractions = data.draw(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
    values = np.clip(np.array(fractions, kind) * kind(bound), -bound * 0.999, bound * 0.999).astype(kind)
    leaves = {"w": update(values.shape, bound, "")}
    back = total_of([{"w": values}], leaves, sites)
    quantum = 2.0 ** -exponent(leaves["w"], sites)
    assert back.clipped == 0
    assert np.abs(back.tree["w"] - values).max() < quantum
    assert quantum <= 2 * bound / limit(sites)


@given(st.integers(2, 8), st.randoms(use_true_random=False))
def test_a_sum_of_updates_is_within_one_quantum_a_site(sites: int, random):
    leaves = {"w": update((3, 4), 0.5, "")}
    parts = [{"w": np.array([[random.uniform(-0.5, 0.5) for _ in range(4)] for _ in range(3)])} for _ in range(sites)]
    opened = total_of(parts, leaves)
    assert opened.tree["w"].shape == (3, 4)
    error = opened.tree["w"] - np.add.reduce([part["w"] for part in parts])
    assert np.abs(error).max() < sites * 2.0 ** -exponent(leaves["w"], sites)


def test_whole_quanta_are_not_rounded_at_all():
    leaves = {"w": update((5,), 1.0, "")}
    quantum = 2.0 ** -exponent(leaves["w"], 3)
    values = quantum * np.array([0, 1, -1, 12345, -(2**28)])
    for k in range(50):
        np.testing.assert_array_equal(
            decode(encode({"w": values}, leaves, 3, seeded(str(k))), leaves, 3).tree["w"], values
        )


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64, np.bool_])
def test_any_real_type_of_array_is_taken(kind: type):
    values = np.array([0, 1, 1, 0], kind)
    leaves = {"w": update((4,), 1.0, "")}
    np.testing.assert_array_equal(total_of([{"w": values}] * 3, leaves).tree["w"], 3.0 * values)


def test_single_and_double_precision_may_stand_beside_each_other():
    leaves = {"a": update((1000,), 1.0, ""), "b": update((1000,), 1e-3, ""), "n": count((), 9, "")}
    tree = {"a": normal(1000), "b": normal(1000, np.float64, 1, 2e-4), "n": np.array(4)}
    opened = total_of([tree], leaves, 5).tree
    np.testing.assert_allclose(opened["a"], tree["a"], atol=2.0 ** -exponent(leaves["a"], 5))
    np.testing.assert_allclose(opened["b"], tree["b"], atol=2.0 ** -exponent(leaves["b"], 5))
    assert opened["n"] == 4


@pytest.mark.parametrize("bound", [1e-200, 1e-40, 1e40, 1e200])
def test_bounds_of_any_size_are_scaled(bound: float):
    values = np.array([0.5, -0.25, 0.0]) * bound
    leaves = {"w": update((3,), bound, "")}
    np.testing.assert_allclose(total_of([{"w": values}], leaves, 3).tree["w"], values, rtol=0, atol=bound * 2.0**-27)


def test_arrays_are_read_in_their_own_order_even_when_not_contiguous():
    matrix = normal(12).reshape(3, 4)
    leaves = {"w": update((4, 3), 1.0, "")}
    back = total_of([{"w": matrix.T}], leaves, 3).tree["w"]
    np.testing.assert_allclose(back, matrix.T, atol=2.0 ** -exponent(leaves["w"], 3))


def test_a_tree_without_updates_or_with_empty_leaves_is_a_tree_too():
    leaves = {"n": count((2,), 9, ""), "none": update((0, 3), 1.0, ""), "e": curve((0,), 9, "")}
    tree = {"n": np.array([1, 2]), "none": np.empty((0, 3)), "e": np.empty(0)}
    opened = total_of([tree] * 3, leaves)
    np.testing.assert_array_equal(opened.tree["n"], [3, 6])
    assert (opened.tree["none"].shape, opened.tree["e"].shape) == ((0, 3), (0,))
    assert total_of([{"n": np.array([1, 2])}], {"n": leaves["n"]}, 4).clipped == 0


def test_leaves_come_back_in_the_declared_order_and_the_length_is_known_beforehand():
    leaves = {
        "n": count((), 9, ""),
        "w": update((7,), 1.0, ""),
        "m": moment((2, 2), 9.0, ""),
        "v": update((3,), 1.0, ""),
    }
    tree = {"v": np.zeros(3), "m": np.ones((2, 2)), "n": np.array(2), "w": np.zeros(7)}
    words = encode(tree, leaves, 3, seeded("s"))
    assert words.dtype == np.uint32
    assert words.size == length(leaves) == 10 + 3 * (5 + 1)
    assert list(decode(words, leaves, 3).tree) == ["n", "w", "m", "v"]


# ------------------------------------------------------------------------------------------------ unbiased rounding


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("fraction", [0.5, 0.001, 0.999, 0.3, -0.3, -0.001, 1000.25, -1000.75])
def test_rounding_is_unbiased(fraction: float, kind: type):
    n = 200_000
    leaf = update((n,), 1.0, "")
    quantum = 2.0 ** -exponent(leaf, 3)
    values = np.full(n, fraction * quantum, kind)
    rounded = decode(encode({"w": values}, {"w": leaf}, 3, seeded("u")), {"w": leaf}, 3).tree["w"] / quantum
    true = float(values[0]) / quantum
    chance = true - math.floor(true)
    assert set(np.unique(rounded)) <= {math.floor(true), math.floor(true) + 1.0}
    assert abs(rounded.mean() - true) <= 5 * math.sqrt(chance * (1 - chance) / n) + 2.0**-16


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_chance_of_rounding_up_is_the_remainder_to_2_to_the_minus_17(kind: type, monkeypatch: pytest.MonkeyPatch):
    # Every random number once: the chance is counted, not estimated.
    every = np.arange(2**16, dtype=np.uint16)
    monkeypatch.setattr(fixed32._Workspace, "random", lambda self, start, size: every[start : start + size])
    leaf = update((2**16,), 1.0, "")
    power = exponent(leaf, 3)
    for remainder in (0.0, 2.0**-16, 0.1, 0.5, 0.7, 1 - 2.0**-16, 2.0**-40):
        for whole in (0, 5, -5, 100):
            values = np.full(2**16, (whole + remainder) * 2.0**-power, kind)
            mean = encode({"w": values}, {"w": leaf}, 3)[: 2**16].view(np.int32).mean(dtype=np.float64)
            assert abs(mean - float(values[0]) * 2.0**power) <= 2.0**-17 + 2.0**-24


def test_rounding_differs_from_site_to_site_and_from_element_to_element():
    leaf = update((100_000,), 1.0, "")
    values = {"w": np.full(100_000, 0.5 * 2.0 ** -exponent(leaf, 3))}
    one, other = (encode(values, {"w": leaf}, 3)[:100_000] for _ in range(2))
    assert 0.49 < (one == other).mean() < 0.51
    assert 0.49 < (one[1:] == one[:-1]).mean() < 0.51


# ---------------------------------------------------------------------------------------------- room for every site


@pytest.mark.parametrize("sites", [1, 2, 3, 4, 5, 8, 9, 32, 33, 1000, 2**15])
@pytest.mark.parametrize("bound", [1.0, np.nextafter(1.0, 0), 0.7, 3e-5])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_sum_never_overflows_with_every_site_at_its_bound(sites: int, bound: float, sign: int):
    leaves = {"w": update((64,), bound, "")}
    part = encode({"w": np.full(64, sign * bound)}, leaves, sites, seeded("s"))[:64].view(np.int32)
    assert np.abs(part.astype(np.int64)).max() <= limit(sites)
    assert sites * limit(sites) < 2**31
    with np.errstate(over="ignore"):
        total = encode({"w": np.full(64, sign * bound)}, leaves, sites, seeded("s")) * np.uint32(sites)
    opened = decode(total, leaves, sites).tree["w"]
    np.testing.assert_allclose(opened, sign * bound * sites, rtol=3 / limit(sites))


@given(BOUNDS, SITES)
def test_the_scale_is_the_largest_power_of_two_that_has_room(bound: float, sites: int):
    scale = 2.0 ** exponent(update((), bound, ""), sites)
    assert bound * scale <= limit(sites) < 2 * bound * scale


@given(st.lists(st.lists(st.integers(-(2**47) + 1, 2**47 - 1), min_size=3, max_size=3), min_size=1, max_size=12))
def test_statistics_are_summed_without_any_rounding(parts: list[list[int]]):
    leaves = {"w": update((2,), 1.0, ""), "m": moment((3,), 2.0**47 - 1, "")}
    trees = [{"w": np.zeros(2), "m": np.array(part, float)} for part in parts]
    both = [exact.encode({"m": tree["m"]}, {"m": leaves["m"]}) for tree in trees]
    reference = exact.decode(np.add.reduce(both), {"m": leaves["m"]})["m"]
    np.testing.assert_array_equal(total_of(trees, leaves).tree["m"], reference)
    np.testing.assert_array_equal(total_of(trees, leaves).tree["m"], np.array(parts).sum(0).astype(float))


@pytest.mark.parametrize("value", [2**47 - 1, -(2**47) + 1, -1, 1, 0, 2**32 - 1, -(2**32), 2**16, -(2**16) - 1])
def test_no_limb_runs_over_at_the_largest_number_of_sites(value: int):
    leaves = {"w": update((1,), 1.0, ""), "n": count((), 2.0**47, "")}
    one = encode({"w": np.ones(1), "n": np.array(value)}, leaves, fixed32.MAX_SITES, seeded("s"))
    with np.errstate(over="ignore"):
        total = one * np.uint32(fixed32.MAX_SITES)
    assert decode(total, leaves, fixed32.MAX_SITES).tree["n"] == value * fixed32.MAX_SITES


@given(st.integers(3, 12), st.integers(0, 9))
def test_a_site_that_drops_leaves_the_others_sum(sites: int, seed: int):
    leaves = {"w": update((50,), 1.0, ""), "n": count((), 1e6, "")}
    trees = [{"w": normal(50, seed=seed + k).clip(-1, 1), "n": np.array(k)} for k in range(sites)]
    words = [encode(tree, leaves, sites, seeded(str(k))) for k, tree in enumerate(trees)]
    opened = decode(added(words[1:]), leaves, sites)
    assert opened.tree["n"] == sum(range(sites))
    np.testing.assert_allclose(opened.tree["w"], sum(tree["w"].astype(float) for tree in trees[1:]), atol=1e-6)


def test_masks_come_off_and_a_masked_update_alone_is_uniform():
    leaves = {"w": update((40_000,), 1.0, ""), "n": count((), 10, "")}
    tree = {"w": normal(40_000).clip(-1, 1), "n": np.array(7)}
    source = Quantiser(tree, leaves, 3, seeded("s"))
    out, kept = (np.empty(source.size, np.uint32) for _ in range(2))
    mask_into(out, source, [(b"a" * 32, 1), (b"b" * 32, -1)], keep=kept)
    assert chi_square_of_bytes(out) < 340
    np.testing.assert_array_equal(kept, encode(tree, leaves, 3, seeded("s")))
    add_streams(out, [(b"a" * 32, -1), (b"b" * 32, 1)])
    np.testing.assert_array_equal(out, kept)


# ------------------------------------------------------------------------------------------------- clipping and bounds


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_values_outside_the_bound_are_clipped_and_counted(kind: type):
    leaves = {"a": update((6,), 0.5, ""), "b": update((2,), 10.0, "")}
    tree = {"a": np.array([0.5, -0.5, 0.75, -9, 0.25, 6e4], kind), "b": np.array([10.5, -3], kind)}
    opened = total_of([tree, tree, {"a": np.zeros(6), "b": np.zeros(2)}], leaves)
    assert opened.clipped == 2 * (3 + 1)
    np.testing.assert_allclose(opened.tree["a"], 2 * np.array([0.5, -0.5, 0.5, -0.5, 0.25, 0.5]), atol=1e-8)
    np.testing.assert_allclose(opened.tree["b"], [20, -6], atol=2e-7)


@given(BOUNDS, st.sampled_from([np.float32, np.float64]), st.integers(1, 9), st.integers(0, 99))
def test_exactly_the_values_beyond_the_bound_count_as_clipped(bound: float, kind: type, sites: int, seed: int):
    below, above = kind(bound), kind(bound)
    while float(below) > bound:
        below = np.nextafter(below, kind(0))
    while float(above) <= bound:
        above = np.nextafter(above, kind(np.inf))
    values = np.random.default_rng(seed).choice([below, -below, above, -above, kind(0)], 30)
    source = Quantiser({"w": values}, {"w": update((30,), bound, "")}, sites)
    assert source.clipped == int((np.abs(values) == above).sum())


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_largest_finite_values_are_clipped_without_a_warning(kind: type):
    most = np.finfo(kind).max
    leaves = {"w": update((2,), 1.0, "")}
    with np.errstate(all="raise"):
        opened = total_of([{"w": np.array([most, -most])}], leaves, 3)
    assert opened.clipped == 2
    np.testing.assert_allclose(opened.tree["w"], [1, -1], atol=1e-8)


def test_the_last_element_of_a_large_update_is_looked_at_too():
    leaves = {"w": update((300_001,), 1.0, "")}
    values = np.zeros(300_001, np.float32)
    values[-1] = 2
    assert Quantiser({"w": values}, leaves, 3).clipped == 1
    values[-1] = np.nan
    with pytest.raises(DataError):
        Quantiser({"w": values}, leaves, 3)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (np.array([0, np.nan]), "finite-contribution"),
        (np.array([np.inf, 0], np.float32), "finite-contribution"),
        (np.array([0, -np.inf]), "finite-contribution"),
        (np.zeros(3), "declared-shape"),
        (np.zeros((2, 1)), "declared-shape"),
        (np.zeros(2, complex), "declared-shape"),
        (np.array(["a", "b"]), "declared-shape"),
        (None, "declared-shape"),
    ],
)
def test_what_cannot_be_encoded_is_refused_by_the_name_of_its_leaf(values: np.ndarray | None, rule: str):
    tree = {"n": np.array(1)} if values is None else {"n": np.array(1), "layer": values}
    with pytest.raises(DataError) as error:
        encode(tree, {"n": count((), 3, ""), "layer": update((2,), 1.0, "")}, 3)
    assert error.value.rule == rule
    assert "'layer'" in error.value.what


def test_a_statistic_outside_its_bound_is_refused_and_not_clipped():
    with pytest.raises(DataError) as error:
        encode({"w": np.zeros(2), "n": np.array(4)}, {"w": update((2,), 1.0, ""), "n": count((), 3, "")}, 3)
    assert error.value.rule == "declared-bound"


@pytest.mark.parametrize("bound", [0.0, -1.0, np.inf, np.nan, np.array([1.0, 2.0])])
def test_an_update_has_one_positive_bound(bound: float):
    with pytest.raises(MethodError) as error:
        update((2,), bound, "")
    assert error.value.rule == "update-bound"
    with pytest.raises(MethodError):
        encode({"w": np.zeros(2)}, {"w": Leaf("update", (2,), bound, "")}, 3)


@pytest.mark.parametrize("bound", [1e-300, 1e300])
def test_a_bound_beyond_all_sizes_is_refused(bound: float):
    with pytest.raises(MethodError) as error:
        encode({"w": np.zeros(2)}, {"w": update((2,), bound, "")}, 3)
    assert error.value.rule == "update-bound"


@pytest.mark.parametrize("sites", [0, -1, 2**15 + 1])
@pytest.mark.parametrize("leaf", [update((2,), 1.0, ""), count((2,), 1, "")])
def test_there_is_room_for_one_to_32768_sites(sites: int, leaf: Leaf):
    for act in (
        lambda: encode({"x": np.zeros(2)}, {"x": leaf}, sites),
        lambda: decode(np.zeros(length({"x": leaf}), np.uint32), {"x": leaf}, sites),
    ):
        with pytest.raises(ProtocolError) as error:
            act()
        assert error.value.rule == "encoding-sites"


def test_an_opened_sum_of_another_length_or_ring_is_refused():
    leaves = {"w": update((2,), 1.0, "")}
    for total in (np.zeros(4, np.uint32), np.zeros(5, np.uint64), np.zeros(5, np.int32)):
        with pytest.raises(ProtocolError) as error:
            decode(total, leaves, 3)
        assert error.value.rule == "encoding-length"


@pytest.mark.parametrize("seed", range(20))
def test_noise_of_masks_that_did_not_cancel_is_not_decoded(seed: int):
    leaves = {"w": update((2,), 1.0, "")}
    noise = np.random.default_rng(seed).integers(0, 2**32, length(leaves), np.uint32)
    with pytest.raises(ProtocolError) as error:
        decode(noise, leaves, 3)
    assert error.value.rule == "encoding-range"


def test_more_clipped_values_than_there_are_is_no_sum():
    leaves = {"w": update((2,), 1.0, "")}
    words = encode({"w": np.zeros(2)}, leaves, 3)
    words[2] = 7
    with pytest.raises(ProtocolError) as error:
        decode(words, leaves, 3)
    assert error.value.rule == "encoding-range"


@given(BOUNDS, SITES, st.sampled_from([-1.0, 1.0]), st.sampled_from([np.float32, np.float64]))
def test_a_sum_of_updates_that_are_all_at_their_bound_is_opened(bound: float, sites: int, sign: float, kind: type):
    leaves = {"w": update((16,), bound, "")}
    opened = total_of([{"w": np.full(16, 2 * sign * bound, kind)}] * sites, leaves)
    assert opened.clipped == 16 * sites
    np.testing.assert_allclose(opened.tree["w"], sign * sites * bound, rtol=1e-6)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("sites", [3, 5, 64])
def test_an_update_larger_than_all_sites_together_may_make_it_is_refused_by_its_leaf(sites: int, sign: int):
    leaves = {"n": count((), 9, ""), "w": update((3,), 0.6, ""), "v": update((2,), 1.0, "")}
    words = np.zeros(length(leaves), np.uint32)
    most = math.floor(sites * (math.ldexp(0.6, exponent(leaves["w"], sites)) + 1))
    words.view(np.int32)[2] = sign * most
    assert decode(words, leaves, sites).tree["w"][2] == pytest.approx(sign * sites * 0.6, rel=1e-6)
    words.view(np.int32)[2] = sign * (most + 1)
    with pytest.raises(ProtocolError) as error:
        decode(words, leaves, sites)
    assert error.value.rule == "encoding-range"
    assert "'w'" in error.value.what
    assert "nobody can see which" in error.value.remedy


def test_a_statistic_beside_an_update_has_its_range_checked_too():
    leaves = {"w": update((2,), 1.0, ""), "n": count((), 9, "")}
    words = encode({"w": np.zeros(2), "n": np.array(9)}, leaves, 3)
    words[2] = 28  # the lowest limb of n: one more than three times nine
    with pytest.raises(ProtocolError) as error:
        decode(words, leaves, 3)
    assert error.value.rule == "encoding-range"
    assert "'n'" in error.value.what


# -------------------------------------------------------------------------------------------- any piece, any thread


def mixed() -> tuple[dict[str, np.ndarray], dict[str, Leaf]]:
    sizes = [140_001, 1, 131_072, 0, 13]
    leaves: dict[str, Leaf] = {f"w{k}": update((n,), 0.4, "") for k, n in enumerate(sizes)}
    tree = {f"w{k}": normal(n, seed=k) for k, n in enumerate(sizes)}
    return {**tree, "n": np.arange(9)}, {**leaves, "n": count((9,), 9, "")}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_words_are_the_same_whatever_the_threads(threads: int):
    tree, leaves = mixed()
    out = np.empty(length(leaves), np.uint32)
    mask_into(out, Quantiser(tree, leaves, 7, seeded("s")), [], threads=threads)
    np.testing.assert_array_equal(out, encode(tree, leaves, 7, seeded("s")))


@given(st.lists(st.integers(0, 271_000), max_size=6), st.randoms(use_true_random=False))
def test_pieces_may_be_asked_for_anywhere_and_in_any_order(cuts: list[int], random):
    tree, leaves = mixed()
    source = Quantiser(tree, leaves, 7, seeded("s"))
    edges = sorted({0, source.size, *cuts})
    pieces = list(itertools.pairwise(edges))
    random.shuffle(pieces)
    out = np.zeros(source.size, np.uint32)
    for start, stop in pieces:
        source.fill(start, out[start:stop])
    np.testing.assert_array_equal(out, encode(tree, leaves, 7, seeded("s")))


def test_many_threads_may_ask_at_once():
    tree, leaves = mixed()
    source = Quantiser(tree, leaves, 7, seeded("s"))
    out = np.zeros(source.size, np.uint32)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: source.fill(at, out[at : at + 1000]), range(0, source.size, 1000)))
    np.testing.assert_array_equal(out, encode(tree, leaves, 7, seeded("s")))


def test_the_words_do_not_depend_on_the_block_in_which_they_are_rounded(monkeypatch: pytest.MonkeyPatch):
    tree, leaves = mixed()
    whole = encode(tree, leaves, 7, seeded("s"))
    monkeypatch.setattr(fixed32, "_BLOCK", 1000)
    np.testing.assert_array_equal(encode(tree, leaves, 7, seeded("s")), whole)


def test_what_was_kept_in_a_file_is_sent_again_as_it_was(tmp_path: Path):
    tree, leaves = mixed()
    source = Quantiser(tree, leaves, 7)
    kept = np.memmap(tmp_path / "kept", np.uint32, "w+", shape=(source.size,))
    first, again = (np.empty(source.size, np.uint32) for _ in range(2))
    mask_into(first, source, [(b"1" * 32, 1)], keep=kept)
    mask_into(again, Held(kept), [(b"2" * 32, 1)])
    assert (first != again).mean() > 0.99
    add_streams(first, [(b"1" * 32, -1)])
    add_streams(again, [(b"2" * 32, -1)])
    np.testing.assert_array_equal(first, again)


def test_an_update_is_not_shown_when_a_source_is_printed():
    source = Quantiser({"w": np.full(3, 0.123456)}, {"w": update((3,), 1.0, "")}, 3)
    assert "0.1234" not in repr(source) + repr(source._updates) + repr(Held(encode({}, {}, 3)))


# ----------------------------------------------------------------------------------------------------------- noise


def test_the_probability_of_overflow_is_the_union_bound_of_gaussian_tails():
    leaf = update((1000,), 2.0, "")  # half of the ring is room for the noise of updates clipped to 1
    room = 2.0**31 * 2.0 ** -exponent(leaf, 4) - 4 * 1.0
    assert room == pytest.approx(4.0 if exponent(leaf, 4) == 28 else 12.0, rel=1e-6)
    sigma = room / 6
    tails = 1000 * math.erfc(6 / math.sqrt(2))
    assert overflow_probability(sigma, leaf, 4, largest=1.0) == pytest.approx(tails, rel=1e-5)


def test_without_room_overflow_is_certain_and_without_noise_impossible():
    leaf = update((10,), 1.0, "")
    assert overflow_probability(0.0, leaf, 5) == 0.0
    assert overflow_probability(1e9, leaf, 5) == 1.0
    assert overflow_probability(0.1, leaf, 4, largest=1e9) == 1.0
    assert overflow_probability(math.nan, leaf, 4) == 1.0


@given(st.floats(1e-3, 10), st.integers(1, 100), st.integers(1, 10_000))
def test_more_noise_or_more_elements_never_overflow_less(sigma: float, sites: int, size: int):
    one, larger = update((size,), 4.0, ""), update((size + 1,), 4.0, "")
    p = overflow_probability(sigma, one, sites, largest=1.0)
    assert 0 <= p <= overflow_probability(1.1 * sigma, one, sites, largest=1.0) <= 1
    assert p <= overflow_probability(sigma, larger, sites, largest=1.0)
