"""Disks that are full in the middle of everything, at the coordinator and at a site: what is said, that nothing is lost, and that
after room was made the run ends with the same estimates. Played by `tests.support.full`, on a small disk of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support import disk, engine
from tests.support.full import STUDY
from tests.support.network import SITES

_MIB = 20
_PATIENCE_S = 300


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was seen of each disk that was full."""
    folder = tmp_path_factory.mktemp("full")
    small = folder / "disk"
    small.mkdir()
    command = [sys.executable, "-m", "tests.support.full", str(folder)]
    if disk.available():
        command = disk.inside(small, _MIB, command)
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run without trouble estimates."""
    run = engine.run(STUDY, tmp_path_factory.mktemp("embedded"), data=engine.hospitals(SITES))
    return json.loads(json.dumps(engine.estimates(run)["odds"]))


def test_a_coordinator_whose_disk_was_full_goes_on_to_the_same_estimates(seen: Any, expected: Any) -> None:
    centre = seen["centre"]
    assert centre["while full"]["rule"] == "durable-storage"
    assert "Free disk space" in centre["while full"]["remedy"]
    assert "journal" in centre["failed"]
    assert "cannot be written" in centre["failed"]
    assert centre["answered"]["estimates"]["odds"] == expected
    assert centre["answered"]["opened_twice"] == 0


def test_a_researcher_is_told_that_nothing_was_taken_and_submits_again(seen: Any) -> None:
    error = seen["centre"]["another"]["error"]
    assert (error["kind"], error["rule"]) == ("StorageError", "durable-storage")
    assert "Free disk space" in error["remedy"]
    assert seen["centre"]["another again"]["ok"]["state"] == "waiting"


def test_a_site_whose_disk_was_full_goes_on_to_the_same_estimates(seen: Any, expected: Any) -> None:
    padua = seen["padua"]
    assert padua["while full"]["rule"] == "durable-storage"
    assert "Free disk space" in padua["while full"]["remedy"]
    assert "padua" in padua["failed"] or "state" in padua["failed"]
    assert padua["answered"]["estimates"]["odds"] == expected
    assert padua["answered"]["opened_twice"] == 0


def test_what_a_full_site_was_told_is_kept_for_it(seen: Any) -> None:
    assert seen["padua"]["another again"]["ok"]["state"] == "waiting"
    assert any(line["event"] == "offered" and line["id"] == "another" for line in seen["padua"]["lines"])


def test_a_large_answer_waits_for_room_at_the_coordinator_and_comes_whole(seen: Any) -> None:
    assert seen["staged"]["coordinator"]["rule"] == "durable-storage"
    assert "TMPDIR" in seen["staged"]["coordinator"]["remedy"]
    assert seen["staged"]["came"] is True


def test_a_large_request_waits_for_room_at_the_site_and_is_answered(seen: Any) -> None:
    assert seen["staged"]["site"]["rule"] == "durable-storage"
    assert "Free disk space" in seen["staged"]["site"]["remedy"]
    assert seen["staged"]["told"] == {"kind": "nothing"}


@pytest.mark.parametrize("who", ["centre", "padua"])
def test_a_log_on_a_full_disk_has_whole_lines_and_says_how_many_are_missing(seen: Any, who: str) -> None:
    lines = seen[who]["lines"]  # each was read as JSON
    assert all({"time", "event"} <= set(line) for line in lines)
    assert any(line.get("lines_lost", 0) > 0 for line in lines)
