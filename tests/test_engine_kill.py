"""kill -9 at any moment, or a full disk, and then the same command: the same estimates, and no step opened twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine, killed
from tests.support.engine import estimates, hospitals, records, run, study

SEED = 20240607
PHASES = ("advertise", "share", "mask", "agree", "unmask", "close")
ONCE = ("advertise", "share", "close")
"""After the first sum, keys and shares ride along; the end of a step too, but for the last."""
PROTECTION = {"threat": "malicious"}
ANALYSES = ("odds",)
SITES = engine.SITES[:3]  # no drop-out to spare: every step needs every site


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return estimates(
        run(study(*ANALYSES, protection=PROTECTION), tmp_path_factory.mktemp("undisturbed"), data=hospitals(SITES))
    )


def folder_for(path: Path) -> Path:
    return killed.prepared(path, study(*ANALYSES, protection=PROTECTION), {site: engine.frame(site) for site in SITES})


@pytest.fixture(scope="module")
def stables() -> Iterator[list[killed.Stable]]:
    """Two, for as many processes at a time."""
    both = [killed.Stable(), killed.Stable()]
    yield both
    for stable in both:
        stable.close()


def was_killed(stable: killed.Stable) -> bool:
    """Wait for its end: by SIGKILL, or (if the moment never came) its own."""
    status = stable.wait()
    assert status in (-signal.SIGKILL, 0)
    return status != 0


def killed_at_a_message(stable: killed.Stable, folder: Path, draw: random.Random) -> bool:
    phase = draw.choice(PHASES)
    fault = {
        "site": draw.choice(SITES),
        "phase": phase,
        "what": "kill",
        "when": draw.choice(("before", "after")),
        "occurrence": 1 if phase in ONCE else draw.randint(1, 3),
        "analysis": "odds",
    }
    stable.start(folder, **fault)
    return was_killed(stable)


def killed_after_a_while(stable: killed.Stable, folder: Path, draw: random.Random) -> bool:
    child = stable.start(folder)
    time.sleep(draw.uniform(0.0, 0.15))
    os.kill(child, signal.SIGKILL)
    return was_killed(stable)


def opened_once(folder: Path) -> None:
    """By the journals no step was opened twice; by every site's own memory, each for one set of sites at most."""
    for analysis in ANALYSES:
        steps = [(r.epoch, r.step) for r in records(folder / "out", analysis, "opened")]
        assert len(steps) == len(set(steps))
    for site in SITES:
        memory = sqlite3.connect(folder / "out" / "sites" / site / "state.db")
        rows = memory.execute("SELECT run, analysis, epoch, step, sites, survivors FROM steps").fetchall()
        memory.close()
        assert len({row[:4] for row in rows}) == len(rows)
        assert {json.loads(row[4])[0] for row in rows} == {"leiden"}
        assert {row[5] for row in rows if row[5] is not None} == {json.dumps(sorted(SITES))}


def test_killed_at_twenty_random_moments_the_same_command_gives_the_same_estimates(
    undisturbed: dict[str, Any], tmp_path: Path, stables: list[killed.Stable]
) -> None:
    """Several runs, each killed up to four times, one kill after the other, before it is left to finish."""

    def one(k: int) -> int:
        draw = random.Random(SEED + k)
        folder = folder_for(tmp_path / str(k))
        ways = [killed_after_a_while, *[killed_at_a_message] * 3]
        return sum(way(stables[k % 2], folder, draw) for way in ways)

    kills, runs = 0, 0
    while kills < 20 and runs < 12:
        with ThreadPoolExecutor(2) as pool:
            kills += sum(pool.map(one, (runs, runs + 1)))
        runs += 2
    assert kills >= 20
    for k in range(runs):
        assert estimates(killed.again(tmp_path / str(k))) == undisturbed, k
        opened_once(tmp_path / str(k))


@pytest.mark.parametrize("site", ["leiden", "turin"])
def test_killed_between_a_sites_unmasking_shares_and_the_opening(
    site: str, undisturbed: dict[str, Any], tmp_path: Path, stables: list[killed.Stable]
) -> None:
    folder = folder_for(tmp_path / "run")
    stables[0].start(folder, site=site, phase="unmask", what="kill", when="after", occurrence=3, analysis="odds")
    assert was_killed(stables[0])
    assert records(folder / "out", "odds", "pending")[-1].step == 2
    assert [r.step for r in records(folder / "out", "odds", "opened")] == [0, 1]
    assert estimates(killed.again(folder)) == undisturbed
    opened_once(folder)


@pytest.mark.parametrize("file_size", [40, 6_000, 45_000, 150_000])
def test_a_full_disk_is_told_and_the_same_command_goes_on_when_there_is_room(
    file_size: int, undisturbed: dict[str, Any], tmp_path: Path, stables: list[killed.Stable]
) -> None:
    folder = folder_for(tmp_path / "run")
    stables[0].start(folder, file_size=file_size)
    assert not was_killed(stables[0])
    said = json.loads((folder / killed.SAID).read_text("utf-8"))
    assert "durable-storage" in said.values(), said
    assert estimates(killed.again(folder)) == undisturbed
    opened_once(folder)
