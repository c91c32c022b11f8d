"""What README.md and the pages on methods show can be typed: its study passes the study checker, its commands and options exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from unisono.cli import main
from unisono.methods.registry import check
from unisono.study.load import load

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "heterogeneity.md", *sorted((ROOT / "docs" / "methods").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^(?:\s*|\.venv/bin/)(unisono [a-z].*)$", re.MULTILINE)
SPAN = re.compile(r"`(unisono [a-z][^`]*)`")


def blocks(page: Path, language: str) -> list[str]:
    """The page's fenced blocks in this language."""
    return [text for said, text in BLOCK.findall(page.read_text("utf-8")) if said == language]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words (after ``unisono``) name (typer's own kind of click's), and what is said to it."""
    main._register([])
    found: Any = typer.main.get_command(main.app)
    rest = list(words)
    while hasattr(found, "commands") and rest:
        assert rest[0] in found.commands, f"there is no command {' '.join(words)!r}"
        found = found.commands[rest.pop(0)]
    return found, rest


def test_the_readmes_study_with_its_training_passes_the_study_checker() -> None:
    study, training = (yaml.safe_load(text) for text in blocks(ROOT / "README.md", "yaml"))
    load(study, check)
    whole = load({**study, "analyses": {**study["analyses"], **training}}, check)
    assert [analysis.method for analysis in whole.analyses.values()] == [
        "kaplan-meier", "cox", "scaffold", "hist-boosting"
    ]  # fmt: skip


def parsed(command: Any, said: list[str]) -> tuple[dict[str, Any], list[str]]:
    """By parameter what was said, and what is too much; raises what the command would for an unknown option. Nothing is run."""
    values, left, _ = command.make_parser(command.context_class(command, info_name=command.name)).parse_args(list(said))
    return values, left


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_line_that_is_to_be_typed_is_understood_by_its_command(page: Path) -> None:
    for line in LINE.findall(page.read_text("utf-8").replace("\\\n", " ")):
        command, said = command_of(shlex.split(line, comments=True)[1:])
        assert not hasattr(command, "commands"), f"{line!r} says no command"
        values, left = parsed(command, said)
        assert not left, f"{line!r}: {left} is too much"
        absent = [p.name for p in command.params if p.required and values.get(p.name or "") is None]
        assert not absent, f"{line!r}: {absent} is not said"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_command_that_is_named_in_a_sentence_exists_with_its_options(page: Path) -> None:
    for span in SPAN.findall(page.read_text("utf-8")):
        command, said = command_of(span.split()[1:])
        known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
        unknown = [word for word in said if word.startswith("-") and word.split("=")[0] not in known]
        assert not unknown, f"{span!r}: {unknown}"


def test_the_pages_do_have_commands() -> None:
    """So that the two tests above look at something."""
    readme = PAGES[0].read_text("utf-8")
    assert len(LINE.findall(readme)) >= 10 and SPAN.search(readme)
    with pytest.raises(Exception, match="No such option"):
        parsed(*command_of(["compare", "study.yaml", "--sights", "sites.yaml"]))
    with pytest.raises(AssertionError, match="there is no command"):
        command_of(["simulate", "partitions"])
