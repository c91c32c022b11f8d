"""Property-based tests draw new examples on a developer's machine, and the same ones in CI: a gate must not fail by chance."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from unisono.cli import console

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("developer", deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands print in this process is not cut or wrapped by the width of a terminal that a test may have or not."""
    for where in (console.out, console.errors):
        monkeypatch.setattr(where, "_width", 200)
