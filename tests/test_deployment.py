"""What is needed to put Unisono to work: pages whose commands are true, units, container files. What cannot be run here is taken
apart and checked. The scripts: test_deployment_scripts.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from tests.support import deployed
from tests.support.deployed import DEPLOY, PAGES, ROOT, UNITS, unit
from unisono import __version__
from unisono.cli import main as cli
from unisono.cli.site_network import REFUSED_FOR_GOOD
from unisono.network.coordinator.home import Limits
from unisono.network.stopping import WITHIN_S

ANALYZE = shutil.which("systemd-analyze")
CHECKS: dict[str, list[str]] = {"parsed": []} | (
    {"verified": [ANALYZE, "verify", "--man=no"], "scored": [ANALYZE, "security", "--offline=true", "--threshold=20"]}
    if ANALYZE
    else {}
)
"""Of a unit; systemd's own where it is installed. The threshold is ten times the exposure."""
CONTAINERFILE = DEPLOY / "containers" / "Containerfile"


# -- commands and pages -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parse() -> Callable[[list[str]], None]:
    """Read a command as the program would, without running it; fails on whatever it does not know."""
    cli._register([])
    top = typer.main.get_command(cli.app)

    def read(arguments: list[str]) -> None:
        command, rest, name = top, list(arguments), "unisono"
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            name, *rest = rest
            assert name in command.commands, f"there is no command {name!r}: {arguments}"
            command = command.commands[name]
        if rest in (["--version"], ["--help"]):
            return
        assert not hasattr(command, "commands"), f"half a command: {arguments}"
        command.make_context(name, rest)

    return read


def test_every_command_on_the_pages_and_in_the_files_is_one_that_exists(parse: Callable[[list[str]], None]) -> None:
    found = list(deployed.commands())
    assert len(found) > 40
    assert {"operator.md", "hospital-it.md", "data-steward.md", "researcher.md", "hpc.md"} <= {
        where for where, _ in found
    }
    for where, arguments in found:
        try:
            parse(arguments)
        except Exception as error:  # noqa: BLE001  (click's or typer's own, by version)
            pytest.fail(f"{where}: unisono {' '.join(arguments)}: {error}")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        there = (page.parent / file) if file else page
        assert there.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, link


def test_every_file_that_a_page_names_is_there() -> None:
    for page in PAGES:
        for name in re.findall(r"\bdeploy/[\w./-]+\w", page.read_text("utf-8")):
            assert (ROOT / name).exists() or name == "deploy/containers/data", f"{page.name}: {name}"


def test_no_file_names_a_registry_or_a_machine_of_ours() -> None:
    for file in [*PAGES, *(path for path in DEPLOY.rglob("*") if path.is_file())]:
        text = file.read_text("utf-8")
        assert not re.search(r"/work/|/root/|pypi|index-url|docker\.io|quay\.io|ghcr\.io", text), file
        assert not re.findall(r"https?://(?!127\.0\.0\.1|proxy\.example\.org)[\w.]+", text), file


def test_the_package_holds_every_file_that_is_not_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    package = ROOT / "src" / "unisono"
    patterns = project["tool"]["setuptools"]["package-data"]["unisono"]
    held = {path for pattern in patterns for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix not in (".py", ".pyi")} == held


# -- systemd --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_one_that_systemd_takes(path: Path, check: str, tmp_path: Path) -> None:
    assert unit(path)["ExecStart"][0].startswith("/opt/unisono/bin/unisono ")
    if CHECKS[check]:
        copy = tmp_path / path.name  # with a program that is here
        copy.write_text(path.read_text("utf-8").replace("/opt/unisono/bin/unisono", sys.executable))
        done = subprocess.run([*CHECKS[check], str(copy)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ignoring" not in done.stderr


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_locks_its_service_in(path: Path) -> None:
    found = unit(path)
    name = path.stem
    assert (found["User"], found["StateDirectory"]) == ([name], [name])
    assert found["NoNewPrivileges"] == found["PrivateTmp"] == found["ProtectHome"] == ["yes"]
    assert found["ProtectSystem"] == ["strict"]
    assert (found["Restart"], found["LimitCORE"], found["MemorySwapMax"]) == (["on-failure"], ["0"], ["0"])
    assert f"u {name} " in (DEPLOY / "systemd" / "unisono.sysusers").read_text("utf-8")
    assert int(found["TimeoutStopSec"][0].rstrip("s")) > 1.5 * WITHIN_S
    variable = {"unisono-site": "UNISONO_SITE_HOME", "unisono-coordinator": "UNISONO_COORDINATOR_HOME"}[name]
    assert f"{variable}=/var/lib/{name}" in " ".join(found["Environment"]).split()


def test_the_sites_unit_listens_to_nothing_and_lets_an_answer_be_finished() -> None:
    found = unit(DEPLOY / "systemd" / "unisono-site.service")
    assert (
        str(REFUSED_FOR_GOOD) in found["RestartPreventExitStatus"][0].split()
    )  # a revoked site is not started every 15 s
    assert found["CapabilityBoundingSet"] == [""]
    assert "AmbientCapabilities" not in found
    assert found["SocketBindDeny"] == ["1-65535"]
    assert "SocketBindAllow" not in found
    assert "metrics" not in found["ExecStart"][0]
    assert found["KillMode"] == ["mixed"]  # else systemd ends the workers with the agent
    assert found["OOMPolicy"] == ["continue"]  # else one worker's end is the agent's


def test_the_coordinators_unit_takes_as_many_connections_as_its_settings() -> None:
    found = unit(DEPLOY / "systemd" / "unisono-coordinator.service")
    assert int(found["LimitNOFILE"][0]) > 10 * Limits().connections
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == ["CAP_NET_BIND_SERVICE"]


# -- containers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["coordinator", "site"])
def test_an_image_runs_without_root_from_a_verified_wheelhouse(target: str) -> None:
    found = deployed.stages(CONTAINERFILE)
    stage = found[target]
    assert int(stage.last("USER").split(":")[0]) > 1000
    assert stage.instructions.index(("USER", stage.last("USER"))) > max(
        k for k, (name, _) in enumerate(stage.instructions) if name in ("RUN", "COPY")
    )
    assert json.loads(found["installed"].last("RUN")) == ["sh", "/wheelhouse/install.sh", "/opt/unisono"]
    assert stage.all("COPY") == ["--from=installed /opt/unisono /opt/unisono"]  # no compiler, no wheels
    assert json.loads(stage.last("ENTRYPOINT")) == ["unisono"]
    assert "/opt/unisono/bin" in " ".join(stage.all("ENV"))
    assert "/var/lib/unisono" in json.loads(stage.last("VOLUME"))
    assert f'org.opencontainers.image.version="{__version__}"' in stage.last("LABEL")
    health = json.loads(stage.last("HEALTHCHECK").partition("CMD ")[2])
    compile(health[2], "health check", "exec")
    address = re.search(r"'([\d.]+)', (\d+)", health[2])
    assert address is not None
    assert ":".join(address.groups()) == json.loads(stage.last("CMD"))[-1]


def test_the_sites_image_exposes_nothing_and_the_coordinators_one_port() -> None:
    found = deployed.stages(CONTAINERFILE)
    assert found["site"].all("EXPOSE") == []
    assert found["coordinator"].all("EXPOSE") == ["7443/tcp"]


def test_base_images_and_apptainer_have_a_python_that_the_project_takes() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"]
    least = tuple(map(int, needed.removeprefix(">=").split(".")))
    definition = (DEPLOY / "apptainer" / "unisono-site.def").read_text("utf-8")
    bases = {stage.all("FROM")[0] for stage in deployed.stages(CONTAINERFILE).values()}
    bases |= set(re.findall(r"^From: (.*)$", definition, re.M))
    assert bases == {"python:3.11-slim"}  # of the wheels, too: each page says python3.11
    assert tuple(map(int, bases.pop().removeprefix("python:").removesuffix("-slim").split("."))) >= least


def test_the_apptainer_file_has_its_parts_and_this_version() -> None:
    text = (DEPLOY / "apptainer" / "unisono-site.def").read_text("utf-8")
    parts = dict(re.findall(r"^%(\w+)\n((?:(?!%).*\n)*)", text, re.M))
    assert set(parts) == {"files", "post", "environment", "labels", "runscript", "test"}
    assert "sh /wheelhouse/install.sh /opt/unisono\n" in parts["post"]
    assert f"version {__version__}\n" in parts["labels"]
    assert parts["runscript"].strip() == 'exec unisono "$@"'


def test_the_compose_file_shows_a_coordinator_and_three_sites_that_nobody_can_reach_from_outside() -> None:
    found = deployed.compose()
    sites = {"padua", "turin", "leiden"}
    assert set(found["services"]) == {"coordinator", *sites}
    for name, service in found["services"].items():
        target = "site" if name in sites else "coordinator"
        assert service["image"] == f"unisono-{target}:{__version__}"
        assert service["build"]["target"] == target
        assert not {"ports", "privileged", "network_mode", "user"} & set(service)
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert int(service["stop_grace_period"].rstrip("s")) > 1.5 * WITHIN_S
        volume = service["volumes"][0].split(":")
        assert volume[0] in found["volumes"]
        assert volume[1] in json.loads(deployed.stages(CONTAINERFILE)[target].last("VOLUME"))
