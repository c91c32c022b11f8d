"""`unisono simulate secagg` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unisono.cli import simulate
from unisono.cli.console import NARROWEST
from unisono.cli.main import main
from unisono.simulation.run import Played
from unisono.simulation.tally import Tally


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main(["simulate", *arguments])
    return stop.value.code


def test_tables_a_last_line_and_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "counts.json"
    asked = ("secagg", "--sites", "5", "--schedules", "60", "--seed", "7", "--jobs", "1", "--json", str(file))
    assert run(*asked) == 0
    said = capsys.readouterr().out
    for title in ("Sums", "Clean aborts, by cause", "Attacks", "misbehaving sites", "Are they noise?"):
        assert title in said
    assert said.strip().endswith("all invariants hold")
    counts = json.loads(file.read_text())
    assert counts["schedules"] == 60 and counts["holds"] and counts["failures"] == [] and counts["seed"] == 7


def test_one_schedule_is_replayed_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("secagg", "--sites", "5", "--seed", "7", "--replay", "3") == 0
    said = capsys.readouterr().out
    assert "-- step 1, attempt 1" in said and "A advertise slot-1: answers" in said and "all invariants hold" in said


def test_broken_invariants_are_printed_with_the_command_that_replays_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Tally(schedules=9, failures=[(4, "step 1 can be read over two sets")])
    monkeypatch.setattr(simulate, "play_all", lambda *_: [(9, broken)])
    assert run("secagg", "--sites", "6", "--schedules", "9", "--seed", "5") == 1
    said = capsys.readouterr().out
    assert "schedule 4: step 1 can be read over two sets" in said
    assert "unisono simulate secagg --sites 6 --seed 5 --replay 4" in said
    assert "all invariants hold" not in said
    monkeypatch.setattr(simulate, "play", lambda *_: Played(4, ("BROKEN: x",), "x"))
    assert run("secagg", "--replay", "4") == 1


@pytest.mark.parametrize(("times", "outside"), [(1, "1 schedule"), (1200, "1,200 schedules")])
def test_schedules_outside_what_is_promised_are_named_in_the_last_line(
    times: int, outside: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = Tally(schedules=9000)
    tally.beyond["semi-honest, and the coordinator lied"] = times
    monkeypatch.setattr(simulate, "play_all", lambda *_: [(9000, tally)])
    assert run("secagg", "--schedules", "9000") == 0
    said = capsys.readouterr().out.strip()
    assert said.endswith(f"all invariants hold within what is promised ({outside} outside: see the table)")
    assert "Outside what is promised" in said


def test_rule_names_are_whole_where_the_output_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    rules = [f"a-rule-with-a-long-name-{k}" for k in range(5)]
    tally = Tally(schedules=5)
    tally.attacks.update({("lies", f"refused: {rule}"): 1 for rule in rules})
    monkeypatch.setattr(simulate, "play_all", lambda *_: [(5, tally)])
    assert run("secagg", "--schedules", "5") == 0
    said = capsys.readouterr().out
    assert ", ".join(rules) in said
    assert max(len(line) for line in said.splitlines()) > NARROWEST


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (("--sites", "2"), "simulation-size"),
        (("--schedules", "0"), "simulation-size"),
        (("--jobs", "0"), "simulation-size"),
        (("--replay", "1", "--sites", "99"), "simulation-size"),
        (("--replay", "-1"), "simulation-schedule"),
        (("--json", "/nowhere/at/all.json"), "storage"),
        (("--json", "/"), "storage"),
    ],
)
def test_wrong_usage_is_told_with_its_rule_before_anything_is_played(
    asked: tuple[str, ...], rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("secagg", *asked) == 1
    said = capsys.readouterr()
    assert rule in said.err and "Traceback" not in said.err
    assert "schedules 0:" not in said.err and "━━━" not in said.err  # no progress bar
    assert said.out == ""
