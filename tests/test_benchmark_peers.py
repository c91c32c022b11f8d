"""The peers' half of the network benchmark: what it starts it ends, and the line it prints is what is read back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PEERS = Path(__file__).resolve().parents[1] / "benchmarks" / "peers"
LIMIT_S = 120.0


@pytest.fixture(autouse=True)
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PEERS))


def program(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(PEERS)!r})\n{text}", "utf-8")
    return path


def gone(pid: int) -> bool:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("server", ["threads", "one-thread"])
def test_the_raw_tls_bound_times_every_round_but_the_first(server: str) -> None:
    from timing import ask

    found = ask(
        sys.executable, "tls_bound.py", "--parameters", "1e3", "--rounds", 4, "--server", server, limit_s=LIMIT_S
    )
    assert (found.peer, found.payload, len(found.seconds_per_round)) == (f"raw TLS, {server}", 1000, 3)
    assert all(0 < seconds < LIMIT_S for seconds in found.seconds_per_round)
    assert "mutual certificates, TLS_" in found.notes[0]


def test_stamps_become_rounds_without_the_warm_up() -> None:
    from timing import PeerError, Timing

    found = Timing.of("a peer", "1", 10, [1.0, 4.0, 5.0, 7.0])
    assert (found.warm_up_s, found.seconds_per_round) == (3.0, (1.0, 2.0))
    with pytest.raises(PeerError, match="1 rounds; it takes two"):
        Timing.of("a peer", "1", 10, [1.0, 4.0])


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    from timing import PeerError, ask

    with pytest.raises(PeerError, match=r"failed \(1\): no such thing"):
        ask(sys.executable, str(program(tmp_path, "raise SystemExit('no such thing')")), limit_s=LIMIT_S)


@pytest.mark.parametrize("said", ["hello", "[1]", '{"peer": "a"}'])
def test_a_last_line_that_is_no_timing_is_refused(tmp_path: Path, said: str) -> None:
    from timing import PeerError, ask

    with pytest.raises(PeerError, match="something else than its line"):
        ask(sys.executable, str(program(tmp_path, f"print({said!r})")), limit_s=LIMIT_S)


DETACHED = """
import subprocess, time
from pathlib import Path
from workplace import workplace
inner = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
outer = ("import subprocess, sys; "
         f"subprocess.Popen([sys.executable, '-c', {inner!r}], start_new_session=True)")
with workplace(LIMIT) as here:
    here.run("leaves", [sys.executable, "-c", outer])
    here.until(lambda: here.said("leaves").isdigit(), "the one it left behind runs")
    Path(sys.argv[1]).write_text(here.said("leaves") + " " + str(here.folder))
    WHAT
"""


def left_behind(note: Path) -> tuple[int, Path]:
    pid, folder = note.read_text("utf-8").split()
    return int(pid), Path(folder)


def test_a_process_that_left_its_group_ends_with_the_workplace(tmp_path: Path) -> None:
    path = program(tmp_path, DETACHED.replace("LIMIT", str(LIMIT_S)).replace("WHAT", "pass"))
    subprocess.run([sys.executable, str(path), str(tmp_path / "note")], check=True, timeout=LIMIT_S)
    pid, folder = left_behind(tmp_path / "note")
    assert gone(pid)
    assert not folder.exists()


def test_a_program_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    path, note = (
        program(tmp_path, DETACHED.replace("LIMIT", str(LIMIT_S)).replace("WHAT", "time.sleep(1000)")),
        tmp_path / "note",
    )
    with subprocess.Popen([sys.executable, str(path), str(note)]) as running:
        try:
            end = time.monotonic() + LIMIT_S
            while not (note.exists() and len(note.read_text("utf-8").split()) == 2) and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            running.terminate()
        assert running.wait(LIMIT_S) == 143
    pid, folder = left_behind(note)
    assert gone(pid)
    assert not folder.exists()


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    from timing import PeerError, ask

    with pytest.raises(PeerError, match="did not end within 1 s"):
        ask(sys.executable, str(program(tmp_path, "import time; time.sleep(1000)")), limit_s=1.0)


def test_a_workplace_has_its_limit(tmp_path: Path) -> None:
    text = """
import time
from timing import PeerError
from workplace import workplace
try:
    with workplace(0.2) as here:
        time.sleep(1000)
except PeerError as error:
    print(error, here.folder.exists())
"""
    command = [sys.executable, str(program(tmp_path, text))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert done.stdout == "it took more than 0 s False\n"


def test_waiting_ends_when_a_process_dies_and_says_what_it_said(tmp_path: Path) -> None:
    text = """
from timing import PeerError
from workplace import workplace
try:
    with workplace(100) as here:
        here.start("server", [sys.executable, "-c", "raise SystemExit('no port')"])
        here.until(lambda: False, "it listens")
except PeerError as error:
    print(error)
"""
    command = [sys.executable, str(program(tmp_path, text))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert done.stdout == "waiting until it listens, but server has ended (1): no port\n"


def test_the_rounds_of_nvflare_are_read_from_its_log() -> None:
    from nvflare_network import stamps

    line = '{"asctime": "2026-11-22 00:46:%s", "name": "%s", "message": "\\n---\\n  %s\\n"}\n'
    log = "".join(
        line % entry
        for entry in (
            ("56,945", "FedAvg", "Round 0 started."),
            ("57,000", "Client", "Round 0 started."),
            ("58,000", "FedAvg", "Sampled clients"),
            ("59,445", "FedAvg", "Finished FedAvg."),
        )
    )
    began, ended = stamps(log)
    assert ended - began == pytest.approx(2.5)
