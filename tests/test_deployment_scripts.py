"""The scripts of `deploy/`: the Slurm job with a real agent, and the wheelhouse, whose every file is the one that was built."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.deployed import DEPLOY, SCRIPTS
from tests.support.network import Net, credentials
from unisono.network.agent.folder import AgentFolder, Settings
from unisono.network.stopping import WITHIN_S
from unisono.site.home import Home

WHEELHOUSE = DEPLOY / "wheelhouse"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_that_its_shell_takes(script: Path) -> None:
    text = script.read_text("utf-8")
    shell = {"#!/bin/sh": "sh", "#!/bin/bash": "bash"}[text.splitlines()[0]]
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^set -eu", text, re.M)
    assert not re.search(r"\b(eval|curl|wget)\b", text)


def program(path: Path, text: str) -> Path:
    """A small program of a test's own."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_slurm_job_hands_over_before_its_time_limit_and_a_cancelled_one_ends(tmp_path: Path) -> None:
    asyncio.run(two_runs(tmp_path))


async def two_runs(tmp_path: Path) -> None:
    """Of one job: warned before its time limit, and cancelled. The agent and the coordinator are real."""
    folder, told = AgentFolder(tmp_path / "padua"), tmp_path / "told"
    program(tmp_path / "scontrol", f'#!/bin/sh\necho "$@" >> {told}\n')
    agent = program(tmp_path / "agent", f'#!/bin/sh\nexec {sys.executable} -m unisono.cli.main "$@"\n')
    net = await Net.open(tmp_path / "net", ())
    try:
        home = Home(folder.path)
        home.make()
        given = credentials(net.home, "site", "padua", member=home.identity())
        given.save(folder.tls)
        folder.keep(Settings(name="padua", address=f"127.0.0.1:{net.port}", ca_fingerprint="0" * 64))
        environment = {
            **os.environ,
            "UNISONO": str(agent),
            "UNISONO_SITE_HOME": str(folder.path),
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "4711",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
        }
        for number, asked in ((signal.SIGUSR1, "requeue 4711\n"), (signal.SIGTERM, "")):
            told.write_text("")
            said = await job(number, environment)
            assert said.splitlines()[-2] == "stopped"  # in order, and then the script's own last line
            assert said.endswith("the agent ended with 0\n")
            assert told.read_text() == asked
            with folder.held():  # nobody is left in it
                pass
    finally:
        await net.close()


async def job(number: signal.Signals, environment: dict[str, str]) -> str:
    """Run the script as Slurm would, on this machine; give it a signal when its agent is connected. What was said."""
    script = DEPLOY / "slurm" / "site-agent.sbatch"
    running = await asyncio.create_subprocess_exec(
        "bash",
        str(script),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    assert running.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(120):
            while "\nconnected\n" not in said:
                line = await running.stdout.readline()
                assert line, said
                said += line.decode()
            running.send_signal(number)  # to the script alone, as --signal=B: says
            said += (await running.stdout.read()).decode()
            assert await running.wait() == 0, said
    finally:
        if running.returncode is None:
            os.killpg(running.pid, signal.SIGKILL)
            await running.wait()
    return said


def test_the_slurm_script_asks_for_the_signal_that_it_hands_over_at() -> None:
    text = (DEPLOY / "slurm" / "site-agent.sbatch").read_text("utf-8")
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.M))
    assert asked["signal"] == "B:USR1@120"
    assert WITHIN_S < 120
    assert "trap 'stop yes' USR1" in text
    assert {"requeue": "", "dependency": "singleton", "open-mode": "append", "nodes": "1"}.items() <= asked.items()
    assert "gres" not in asked


# -- the wheelhouse -------------------------------------------------------------------------------------------------------

PIP = """#!/bin/sh
echo "$@" >> {told}
while [ $# -gt 0 ]; do
    case $1 in
        --wheel-dir) folder=$2 ;;
        -m) [ "$2" = venv ] && made=$3 ;;
    esac
    last=$1; shift
done
if [ -n "$made" ]; then
    mkdir -p "$made/bin"
    cp "$0" "$made/bin/python"
    printf '#!/bin/sh\\necho unisono 0\\n' > "$made/bin/unisono"
    chmod +x "$made/bin/unisono"
elif [ -n "$folder" ]; then
    echo own > "$folder/unisono-0.1.0-py3-none-any.whl"
    case $last in *.whl*) echo other > "$folder/num_py-2.0-cp311-cp311-linux_x86_64.whl" ;; esac
fi
"""
"""A Python that notes what it is told, and leaves behind what the real one would; the real one was run by hand
(docs/deployment.md)."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A wheelhouse, its digest as its builder was told it, and what Python was told."""
    folder = tmp_path_factory.mktemp("built")
    python = program(folder / "python", PIP.format(told=folder / "told"))
    done = run(WHEELHOUSE / "build.sh", "--python", str(python), str(folder / "house"))
    assert done.returncode == 0, done.stderr
    return folder / "house", done.stdout.split()[-1], (folder / "told").read_text()


@pytest.fixture
def house(built: tuple[Path, str, str], tmp_path: Path) -> Path:
    """A copy of it, to be spoilt; beside it a Python that notes what it is told in `told`."""
    program(tmp_path / "python", PIP.format(told=tmp_path / "told"))
    (tmp_path / "told").touch()
    return shutil.copytree(built[0], tmp_path / "house")


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(script), *arguments], capture_output=True, text=True, check=False)


def install(house: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Into the folder ``there`` beside it, unless another is named."""
    folder = () if arguments and arguments[-1].startswith("/") else (str(house.parent / "there"),)
    return run(house / "install.sh", "--python", str(house.parent / "python"), *arguments, *folder)


def test_a_wheelhouse_says_of_every_file_what_it_is_and_installs_without_any_index(
    built: tuple[Path, str, str], house: Path
) -> None:
    _, digest, told = built
    assert "--constraint" in told
    assert digest == hashlib.sha256((house / "SHA256SUMS").read_bytes()).hexdigest()
    listed = dict(line.split("  ")[::-1] for line in (house / "SHA256SUMS").read_text().splitlines())
    files = {path.name: path for path in house.iterdir() if path.name != "SHA256SUMS"}
    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    pinned = [line.split(" ")[0] for line in (house / "requirements.txt").read_text().splitlines()]
    assert pinned == ["num_py==2.0", "unisono==0.1.0"]
    done = install(house, "--digest", digest.upper())
    assert done.returncode == 0, done.stderr
    venv, pip, check = (house.parent / "told").read_text().splitlines()
    assert venv == f"-m venv {house.parent / 'there'}"
    assert {"--isolated", "--no-index", "--require-hashes", "--only-binary"} <= set(pip.split())
    assert check.endswith(" check")


def changed(house: Path) -> None:
    with (house / "num_py-2.0-cp311-cp311-linux_x86_64.whl").open("a") as wheel:
        wheel.write("more")


def added(house: Path) -> None:
    (house / "numpy-9.0-py3-none-any.whl").write_text("newer")


def missing(house: Path) -> None:
    (house / "num_py-2.0-cp311-cp311-linux_x86_64.whl").unlink()


def unlisted(house: Path) -> None:
    (house / "SHA256SUMS").unlink()


@pytest.mark.parametrize("how", [changed, added, missing, unlisted])
def test_a_wheelhouse_that_was_tampered_with_is_refused_before_anything_is_made(
    how: Callable[[Path], None], house: Path
) -> None:
    how(house)
    done = install(house)
    assert done.returncode == 1
    assert "install.sh: " in done.stderr
    assert (house.parent / "told").read_text() == ""
    assert not (house.parent / "there").exists()


def test_another_wheelhouse_than_the_announced_one_is_refused_and_nothing_is_written_over(
    built: tuple[Path, str, str], house: Path
) -> None:
    other = install(house, "--digest", "0" * 64)
    assert other.returncode == 1
    assert built[1] in other.stderr
    assert install(house, str(house)).returncode == 1
    assert (house.parent / "told").read_text() == ""
    again = run(WHEELHOUSE / "build.sh", str(house))
    assert "not empty" in again.stderr


def test_an_installation_that_fails_leaves_no_half_of_one(house: Path) -> None:
    failing = PIP.format(told=house.parent / "told")
    failing = failing.replace("\n", '\ncase "$*" in *--require-hashes*) exit 1;; esac\n', 1)
    program(house.parent / "python", failing)
    done = install(house)
    assert done.returncode == 1
    assert "nothing was installed" in done.stderr
    assert not (house.parent / "there").exists()


@pytest.mark.parametrize(
    "arguments", [("--machine", "aarch64", "x"), ("--machine", "mips", "x"), ("--nonsense",), ("a", "b")]
)
def test_a_wheelhouse_is_not_built_from_a_wrong_command(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run(WHEELHOUSE / "build.sh", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("build.sh: ")


@pytest.mark.parametrize("name", ["build.sh", "install.sh"])
def test_a_script_explains_itself_with_an_example(name: str) -> None:
    done = run(WHEELHOUSE / name, "--help")
    assert done.returncode == 0
    assert "Example:" in done.stdout
