"""Disclosure control on opened totals and at a site."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unisono.errors import DisclosureRefusal
from unisono.protection.disclosure import (
    blank_cells,
    enough_for_parameters,
    enough_patients,
    release_points,
    say_count,
    suppress_small,
)


def test_large_cells_and_zeros_stay():
    assert blank_cells([12, 0, 40, 10], 10) == [12, 0, 40, 10]


def test_a_single_small_cell_takes_the_next_smallest_with_it():
    assert blank_cells([3, 55, 20, 0], 10) == [None, 55, None, 0]


def test_a_single_small_cell_goes_alone_where_no_total_is_known():
    assert blank_cells([3, 55, 20, 0], 10, total_known=False) == [None, 55, 20, 0]


def test_two_cells_of_one_patient_are_not_given_away_by_the_total():
    # 52 - 50 = 2 in two non-empty cells can only be 1 and 1.
    assert blank_cells([1, 1, 50], 10) == [None, None, None]


def test_opened_totals_come_as_floats():
    assert blank_cells(np.array([3.0, 12.0, 30.0]), 10) == [None, None, 30]


def test_a_cell_alone_is_blanked():
    assert blank_cells([0, 4, 0], 10) == [0, None, 0]


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(1, 15))
def test_what_is_blanked_holds_enough_patients_together(counts: list[int], min_count: int):
    shown = blank_cells(counts, min_count)
    hidden = [n for n, cell in zip(counts, shown, strict=True) if cell is None]
    assert all(cell is None or cell == n for n, cell in zip(counts, shown, strict=True))
    assert all(cell is None or cell == 0 or cell >= min_count for cell in shown)
    if hidden and any(cell for cell in shown):
        assert sum(hidden) >= min_count
    assert 0 not in hidden


def test_points_are_released_when_enough_patients_changed_state():
    changes = [4, 4, 4, 4, 12, 0, 3]
    at_risk = [100, 96, 92, 88, 84, 72, 72]
    np.testing.assert_array_equal(release_points(changes, at_risk, 10), [2, 4])


def test_the_tail_is_cut_where_few_are_at_risk():
    np.testing.assert_array_equal(release_points([10, 10, 10, 5], [35, 25, 15, 5], 10), [0, 1, 2])
    np.testing.assert_array_equal(release_points([10, 10, 10, 10], [25, 9, 30, 30], 10), [0])


def test_with_delayed_entry_nothing_is_released_before_the_risk_set_has_grown():
    np.testing.assert_array_equal(release_points([6, 6, 0, 10], [7, 8, 40, 40], 10), [2, 3])


def test_an_empty_curve_releases_nothing():
    assert release_points([], [], 10).shape == (0,)


@given(st.data(), st.integers(1, 12))
def test_every_released_interval_holds_enough_changes(data: st.DataObject, min_count: int):
    changes = data.draw(arrays(np.int64, st.integers(0, 30), elements=st.integers(0, 9)))
    at_risk = changes.sum() - np.cumsum(changes) + changes
    released = release_points(changes, at_risk, min_count)
    last = -1
    for point in released:
        assert changes[last + 1 : point + 1].sum() >= min_count
        assert at_risk[point] >= min_count
        last = point


def test_changes_and_risk_sets_must_be_on_one_grid():
    with pytest.raises(ValueError, match="shape"):
        release_points([1, 2], [3], 10)


def test_small_numbers_are_said_as_less_than():
    assert [say_count(n, 10) for n in (0, 1, 9, 10, 345)] == ["0", "<10", "<10", "10", "345"]


def test_too_few_patients_are_refused_without_saying_how_many():
    enough_patients(10, 10)
    with pytest.raises(DisclosureRefusal) as refusal:
        enough_patients(7, 10)
    assert refusal.value.rule == "enough-patients"
    assert "7" not in str(refusal.value)


def test_too_many_parameters_are_refused_with_the_number_of_patients_needed():
    enough_for_parameters(50, 10)
    enough_for_parameters(15, 3)
    with pytest.raises(DisclosureRefusal) as refusal:
        enough_for_parameters(49, 10)
    assert refusal.value.rule == "parameters-against-patients"
    assert "50 patients" in refusal.value.remedy


def test_without_masking_a_site_suppresses_its_own_small_cells():
    cells = np.array([[0.0, 3.0], [10.0, 9.0]])
    kept, suppressed = suppress_small(cells, 10)
    np.testing.assert_array_equal(kept, [[0, 0], [10, 0]])
    assert suppressed == 2
    assert kept.dtype == cells.dtype
    assert cells[0, 1] == 3.0
