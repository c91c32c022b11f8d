"""What `deploy/` and its pages say, taken apart: units, container files, compose services, commands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unisono.cli import main as cli

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGES = (ROOT / "docs" / "deployment.md", *sorted((ROOT / "docs" / "deployment").glob("*.md")))
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SCRIPTS = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch")])


def unit(path: Path) -> dict[str, list[str]]:
    """A unit's settings, each with its values in their order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert section, line
            assert equals, line
            found.setdefault(key, []).append(value)
    return found


@dataclass
class Stage:
    """One stage of a container file: its instructions, those of the stages that it builds on first."""

    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [value for name, value in self.instructions if name == instruction]

    def last(self, instruction: str) -> str:
        return self.all(instruction)[-1]


def stages(path: Path) -> dict[str, Stage]:
    """By name. An argument's default is put in its place."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    found: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    stage: Stage | None = None
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, value = line.partition(" ")
        assert name in KNOWN, f"no instruction: {line}"
        if name == "ARG" and stage is None:
            key, _, default = value.partition("=")
            arguments[key] = default
        elif name == "FROM":
            base, _, called = value.partition(" AS ")
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base)
            before = list(found[base].instructions) if base in found else []
            stage = found[called] = Stage(called, [*before, ("FROM", base)])
        else:
            assert stage is not None
            stage.instructions.append((name, " ".join(value.split())))
    return found


KNOWN = frozenset(
    [
        "ARG",
        "FROM",
        "LABEL",
        "COPY",
        "RUN",
        "ENV",
        "WORKDIR",
        "VOLUME",
        "USER",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "HEALTHCHECK",
        "EXPOSE",
        "CMD",
    ]
)
"""Without ADD, which fetches, and MAINTAINER, which is no more."""


def compose() -> dict[str, Any]:
    """The compose file, anchors merged."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "containers" / "compose.yaml").read_text("utf-8"))
    return found


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `unisono` command that is written in `deploy/` or on the pages: where, and its arguments. One that a sentence only
    names (`unisono site preflight`) has none, and stands with ``--help``."""
    for page in PAGES:
        blocks, sentences = shell_lines(page)
        yield from ((page.name, words) for line in blocks for words in unisono_in(line))
        for words in (words for line in sentences for words in unisono_in(line)):
            yield page.name, words if len(words) > 2 or words[-1][0] == "-" else [*words, "--help"]
    for path in UNITS:
        yield from ((path.name, words) for line in unit(path)["ExecStart"] for words in unisono_in(line))
    for stage in stages(DEPLOY / "containers" / "Containerfile").values():
        yield from ((f"Containerfile {stage.name}", json.loads(command)) for command in stage.all("CMD"))
    script = (DEPLOY / "slurm" / "site-agent.sbatch").read_text("utf-8")
    yield from (
        ("site-agent.sbatch", words.split()) for words in re.findall(r"unisono(?:\}\"|) (site serve)\)", script)
    )
    yield "unisono-site.def", ["--version"]


def shell_lines(page: Path) -> tuple[list[str], list[str]]:
    """The lines of a page's ``sh`` blocks, and what its sentences have between backticks."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    bare = re.sub(r"```.*?```", "", text, flags=re.S)
    return [line for block in blocks for line in block.splitlines()], re.findall(r"`([^`\n]+)`", bare)


def unisono_in(line: str) -> Iterator[list[str]]:
    """The arguments of the `unisono` in a line: of the program, or of a container whose program it is."""
    words = shlex.split(re.sub(r"\s[<>|] ?\S+|\s#.*", "", line))
    for k, word in enumerate(words):
        if word.rpartition("/")[2] == "unisono" and k + 1 < len(words) and words[k + 1] in (*NOUNS, "--version"):
            yield words[k + 1 :]
            return
    if words[:2] == ["podman", "compose"] and "run" in words:
        services = compose()["services"]
        at = next(k for k, word in enumerate(words) if word in services)
        yield words[at + 1 :]
    elif words[:2] == ["podman", "run"]:
        at = next(k for k, word in enumerate(words) if re.fullmatch(r"unisono-\w+:[\d.]+", word))
        if words[at + 1 :]:
            yield words[at + 1 :]


NOUNS = (*cli._NOUNS, *cli._VERBS)
