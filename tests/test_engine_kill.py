"""kill -9 at any moment, or a full disk, and then the same command: the same estimates, and no step opened twice."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine, killed
from tests.support.engine import SITES, estimates, records, run, study

SEED = 20240607
PHASES = ("advertise", "share", "mask", "unmask", "close")
ANALYSES = ("curves", "odds")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return estimates(run(study(*ANALYSES), tmp_path_factory.mktemp("undisturbed")))


def folder_for(path: Path, sites: tuple[str, ...] = SITES) -> Path:
    return killed.prepared(path, study(*ANALYSES), {site: engine.frame(site) for site in sites})


def was_killed(process: subprocess.Popen[str]) -> bool:
    """Wait for its end: by SIGKILL, or (if the moment never came) its own."""
    out, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, 0), f"{out}\n{err}"
    return process.returncode != 0


def killed_at_a_message(folder: Path, draw: random.Random) -> bool:
    fault = {
        "site": draw.choice(SITES),
        "phase": draw.choice(PHASES),
        "what": "kill",
        "when": draw.choice(("before", "after")),
        "occurrence": draw.randint(1, 2),
        "analysis": "odds",
    }
    return was_killed(killed.start(folder, **fault))


def killed_after_a_while(folder: Path, draw: random.Random) -> bool:
    process = killed.start(folder)
    assert process.stdout is not None
    process.stdout.readline()  # begun
    time.sleep(draw.uniform(0.0, 0.15))
    process.kill()
    return was_killed(process)


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
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Several runs, each killed up to four times, one kill after the other, before it is left to finish."""

    def one(k: int) -> int:
        draw = random.Random(SEED + k)
        folder = folder_for(tmp_path / str(k))
        ways = [killed_after_a_while, *[killed_at_a_message] * 3]
        return sum(way(folder, draw) for way in ways)

    kills, runs = 0, 0
    while kills < 20 and runs < 12:
        with ThreadPoolExecutor(2) as pool:  # as many processes at a time
            batch = range(runs, runs + (5 if runs == 0 else 1))
            kills += sum(pool.map(one, batch))
            runs = batch.stop
    assert kills >= 20
    for k in range(runs):
        assert estimates(killed.again(tmp_path / str(k))) == undisturbed, k
        opened_once(tmp_path / str(k))


@pytest.mark.parametrize("site", ["leiden", "turin"])
def test_killed_between_a_sites_unmasking_shares_and_the_opening(
    site: str, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    folder = folder_for(tmp_path / "run")
    process = killed.start(folder, site=site, phase="unmask", what="kill", when="after", occurrence=3, analysis="odds")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, out
    before = records(folder / "out", "odds", "pending")
    assert before[-1].step == 2
    assert [r.step for r in records(folder / "out", "odds", "opened")] == [0, 1]
    assert estimates(killed.again(folder)) == undisturbed
    opened_once(folder)


@pytest.mark.parametrize("file_size", [6_000, 45_000, 150_000])
def test_a_full_disk_is_told_and_the_same_command_goes_on_when_there_is_room(
    file_size: int, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    folder = folder_for(tmp_path / "run")
    out, err = killed.start(folder, file_size=file_size).communicate(timeout=60)
    said = json.loads(out.splitlines()[-1])
    assert "durable-storage" in said.values(), (said, err)
    assert "Traceback" not in err
    assert estimates(killed.again(folder)) == undisturbed
    opened_once(folder)
