"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import unisono

SOURCE = Path(unisono.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
METHODS = [f for f in FILES if f.is_relative_to(SOURCE / "methods")]
EXECUTES = {"eval", "exec", "compile", "__import__"}
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


def calls(tree: ast.AST) -> list[str]:
    """Dotted names of everything called."""
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imports(tree: ast.AST) -> set[str]:
    """Top-level names of everything imported."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("file", METHODS, ids=lambda f: f.name)
def test_a_method_gets_randomness_time_and_sites_through_the_federation_only(file: Path) -> None:
    """Draws that follow from the study's seed are made in `seeded.py` alone; `pace.py` is how a site keeps to its seconds."""
    tree = ast.parse(file.read_text("utf-8"))
    drawn = {name for name in calls(tree) if ".random" in name or name.startswith("random")} - {"torch.random.fork_rng"}
    assert file.name == "seeded.py" or not drawn
    clock = {"time"} if file.name == "pace.py" else set()
    assert not imports(tree) & ({"random", "secrets", "time", "datetime", "os", "uuid"} - clock)
    attributes = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert not attributes & {"federation.exchange", "federation.roster", "federation.journal"}


def test_what_follows_from_the_seed_is_never_drawn_from_the_system() -> None:
    tree = ast.parse((SOURCE / "methods" / "seeded.py").read_text("utf-8"))
    assert {name for name in calls(tree) if ".random" in name} == {"np.random.Generator", "np.random.Philox"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_nothing_that_is_read_is_executed_and_every_file_says_what_it_is(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    assert ast.get_docstring(tree)
    assert not set(calls(tree)) & EXECUTES
    assert not imports(tree) & UNSAFE_MODULES
    assert "0.0.0.0" not in file.read_text("utf-8")
