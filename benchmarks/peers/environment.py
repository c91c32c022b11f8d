"""Environments of the benchmark's own for the peers: `.bench-venv`, made with venv and pip as they are set up here.

Peers whose requirements clash get one each: `environment(*NVFLARE, name="nvflare")` is `.bench-venv/nvflare`. A peer is
never a dependency of Unisono. What cannot be installed is left out of the tables, with the reason.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".bench-venv"
FLOWER = ("flwr>=1.41,<1.43", "cryptography", "numpy")
NVFLARE = ("nvflare>=2.9,<2.10", "cryptography", "numpy")
"""What `flower_network.py` and `nvflare_network.py` run with; the two want different major versions of protobuf."""
_LIMIT_S = 600.0


@dataclass(frozen=True)
class Environment:
    """python: the interpreter to run a peer with, or None. why_not: one sentence, where it is None."""

    python: Path | None
    why_not: str = ""


def environment(*requirements: str, name: str = "") -> Environment:
    """An interpreter that has `requirements`, installed now if it has not. Never raises for a failed installation.

    name: of an environment apart from the others; empty is the shared one.
    """
    folder = FOLDER / name
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    asked = " ".join(requirements)
    try:
        if not python.exists():
            _quietly(sys.executable, "-m", "venv", str(folder))
        _quietly(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
    except subprocess.CalledProcessError as error:
        return Environment(None, f"{asked} could not be installed ({_last_line(error.stderr)})")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Environment(None, f"{asked} could not be installed ({type(error).__name__})")
    return Environment(python)


def _quietly(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LIMIT_S)


def _last_line(text: str) -> str:
    """pip's own last error, without its prefix and of a readable length; it names packages, never places."""
    lines = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: ")]
    plain = [line for line in lines if "://" not in line]
    return plain[-1][:160].rstrip(".") if plain else "pip gave no reason"
