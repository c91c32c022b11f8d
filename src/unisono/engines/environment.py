"""What a replay depends on besides the journal: packages and processor. A run resumes only where its sums were made."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = ("unisono", "numpy", "scipy")


def environment() -> dict[str, str]:
    """Names and versions; no machine name, no path, no user."""
    found = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system(), **found}
