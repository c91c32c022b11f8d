"""Secure aggregation under thousands of random schedules: every invariant holds in every one, and each can be replayed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from unisono.errors import UnisonoError
from unisono.simulation.attacks import ATTACKS
from unisono.simulation.line import alter
from unisono.simulation.plan import MISDEEDS, ROUGH_FAULTS, Dice, draw_plan
from unisono.simulation.run import play, play_all, play_range
from unisono.simulation.tally import Tally

SEED = 2026
BATCH = 250

ONCE_BROKEN = [
    # (seed, schedule, sites): what it found when it first failed. A schedule is its seed *and* the simulator that draws
    # it: after a change of the simulator these are schedules like any other, and stay here all the same.
    (7, 8, 12),  # a colluder recomputes its vector in a retry: the sum is of what was sent
    (7, 0, 12),  # the recipient colludes, and reads the sum without having unmasked
    (7, 227, 12),  # a site that missed a slot set up ahead is lost in it, not refused
    (7, 20, 12),  # a regular graph: a name missing in the site's half, no clean abort
    (2026, 785, 8),  # a site that died before it knew the graph learns it only when every site is there
    (2026, 1186, 8),  # the recipient of a sum dies between D and the sum
    (7, 2503, 12),  # another question under one step: the refusal itself failed
]


@pytest.mark.parametrize("batch", range(8))
def test_all_invariants_hold_in_hundreds_of_schedules(batch: int) -> None:
    tally = play_range(SEED, batch * BATCH, (batch + 1) * BATCH, 6)
    assert tally.failures == []
    assert tally.uniform
    assert tally.sums["opened"] > BATCH / 2


def test_all_invariants_hold_with_up_to_twelve_sites() -> None:
    tally = play_range(SEED + 1, 0, 80, 12)
    assert tally.failures == [] and tally.uniform


def test_all_invariants_hold_on_the_graphs_that_the_search_gives() -> None:
    large = [k for k in range(400) if len(draw_plan(SEED, k, 40)[0].sites) > 32]
    assert large
    for index in large[:2]:
        assert not play(SEED, index, 40).broken


@pytest.mark.parametrize(("seed", "index", "sites"), ONCE_BROKEN)
def test_a_schedule_that_was_once_broken_holds(seed: int, index: int, sites: int) -> None:
    assert not play(seed, index, sites).broken


def test_every_lie_fault_and_misdeed_really_happens_and_most_lies_are_refused() -> None:
    tally = play_range(SEED + 2, 0, 400, 8)
    assert tally.failures == []
    tried = {kind for kind, _ in tally.attacks}
    assert tried == {kind for kinds in ATTACKS.values() for kind in kinds}
    assert set(ROUGH_FAULTS) | {"rolled back", "coordinator restored"} <= set(tally.faults)
    assert {misdeed for misdeed, _ in tally.culprits} == set(MISDEEDS)
    refused = sum(n for (_, how), n in tally.attacks.items() if how.startswith("refused"))
    assert refused > sum(tally.attacks.values()) / 3
    assert tally.culprits["another nonce revealed", "named"]
    assert tally.culprits["false vector", "not noticed"] == sum(
        n for (misdeed, _), n in tally.culprits.items() if misdeed == "false vector"
    )


def test_a_schedule_is_the_same_whatever_the_hash_order_and_the_process() -> None:
    here = play(SEED, 11, 8)
    code = f"from unisono.simulation.run import play; print('\\n'.join(play({SEED}, 11, 8).trace))"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    assert done.stdout == "\n".join(here.trace) + "\n"


def test_the_totals_do_not_depend_on_the_number_of_processes() -> None:
    def total(jobs: int) -> str:
        tally = Tally()
        for _, batch in play_all(3, 110, 4, jobs):
            tally.add(batch)
        return json.dumps(tally.to_tree())

    assert total(1) == total(2)


@pytest.mark.parametrize("sites", [2, 41])
def test_a_federation_that_cannot_be_played_is_refused(sites: int) -> None:
    with pytest.raises(UnisonoError) as error:
        play(1, 1, sites)
    assert error.value.rule == "simulation-size"


def test_nothing_to_play_is_refused() -> None:
    with pytest.raises(UnisonoError, match="cannot be played"):
        next(play_all(1, 0, 5))


def test_an_altered_message_is_another_message_or_unreadable() -> None:
    from unisono.protection.secagg.messages import MaskedInput

    message = MaskedInput("site02", "run", "slot", "ask", "binding", np.arange(8, dtype=np.uint64), bytes(16))
    dice, before = Dice("altered"), message.to_tree()
    for _ in range(200):
        altered = alter(dice, message)
        assert altered is None or isinstance(altered, MaskedInput)
    assert (message.to_tree()["words"] == before["words"]).all()


def test_bytes_that_are_not_uniform_are_seen_and_few_say_nothing() -> None:
    tally = Tally()
    assert tally.uniform
    tally.see("single vectors", np.arange(4096, dtype=np.uint64))
    assert not tally.uniform and not tally.holds
