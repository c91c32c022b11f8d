"""The simulator has teeth: every bug planted in the sites, or in the coordinator, is found, with a schedule to replay."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.simulation import broken
from unisono.protection.secagg.aggregate import AggregatorSession
from unisono.protection.secagg.messages import MaskedInput
from unisono.protection.secagg.party import Party
from unisono.simulation import coordinator
from unisono.simulation.cast import PartyFactory
from unisono.simulation.ledger import Ledger
from unisono.simulation.run import Played, play

SEED, SITES = 7, 8
WITHIN = 400


def first_broken(parties: PartyFactory, within: int = WITHIN) -> Played:
    """The first schedule in which an invariant breaks."""
    for index in range(within):
        played = play(SEED, index, SITES, parties=parties)
        if played.broken:
            return played
    raise AssertionError(f"not found in {within} schedules")


@pytest.mark.parametrize(
    ("parties", "told"),
    [
        (broken.GivesBothShares, "gave both shares"),
        (broken.opens_twice, "for a second set of survivors (rule 1)"),
        (broken.MasksTwice, "masked two vectors with one slot's keys (rule 6)"),
        (broken.ComputesAgain, "the opened sum is not that of"),
        (broken.TrustsTheCoordinator, "no quorum"),
        (broken.UnmasksAFew, "(rule 4)"),
        (broken.ForgetsTheRecipient, "recipient"),
        (broken.DealsAsRecipient, "dealt out shares of its own secrets (rule 7)"),
        (broken.CrashesBadly, "no clean abort: KeyError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_bug_is_found_and_its_schedule_can_be_replayed(parties: PartyFactory, told: str) -> None:
    found = first_broken(parties)
    assert told in found.broken
    assert found.trace[-1] == f"BROKEN: {found.broken}"
    assert play(SEED, found.index, SITES, parties=parties) == found
    assert not play(SEED, found.index, SITES, parties=Party).broken


def test_two_openings_are_found_in_what_can_be_read_even_if_no_single_site_is_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Ledger, "_one_set", lambda *_: None)
    assert "can be read over two sets" in first_broken(broken.opens_twice, 1500).broken


def test_both_shares_are_found_in_what_can_be_rebuilt_even_if_no_single_site_is_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def count_only(ledger: Ledger, giver: Any, owners: Any, kind: str) -> None:
        for owner in owners:
            if owner in giver.dealt_to_it:
                getattr(giver.dealt_to_it[owner], kind).add(giver.site)

    monkeypatch.setattr(Ledger, "_count", count_only)
    assert "both secrets" in first_broken(broken.GivesBothShares).broken


def test_a_half_upload_that_is_added_is_found_in_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    class AddsHalves(AggregatorSession):
        def collect_masked(self, message: MaskedInput) -> None:
            if 0 < message.words.size < self.length:
                self._accumulated[: message.words.size] += message.words
            super().collect_masked(message)

    monkeypatch.setattr(coordinator, "AggregatorSession", AddsHalves)
    assert "the opened sum is not that of" in first_broken(Party, 800).broken


def test_a_coordinator_that_never_opens_is_found_by_liveness(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(AggregatorSession):
        @property
        def can_open(self) -> bool:
            return False

    monkeypatch.setattr(coordinator, "AggregatorSession", Stuck)
    assert "yet the sum was not opened" in first_broken(Party).broken


def test_masks_that_are_not_noise_are_found_by_chi_square(monkeypatch: pytest.MonkeyPatch) -> None:
    from unisono.protection import prg
    from unisono.simulation.tally import Tally

    real = prg.mask_into

    def weak(out: Any, *rest: Any, **named: Any) -> None:
        real(out, *rest, **named)
        out &= ~np.array(3, out.dtype)  # two bits of every word always nought

    monkeypatch.setattr("unisono.protection.secagg.site.mask_into", weak)
    tally = Tally()
    for index in itertools.takewhile(lambda k: k < 40, itertools.count()):
        play(SEED, index, SITES, tally)
    assert not tally.uniform and not tally.holds
