"""Draws that follow from the study's seed: the one place where methods get randomness that is the same at every run.

Philox (Salmon, Moraes, Dror & Shaw, *Parallel Random Numbers: As Easy as 1, 2, 3*, SC 2011), keyed by a purpose: the same purpose
and seed give the same numbers in every process and on every machine, whatever was drawn before. Never for protection: masks,
keys and noise come from the operating system.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*purpose: object) -> np.random.Generator:
    """A generator of its own for each purpose, such as ``("split", seed)``."""
    return np.random.Generator(np.random.Philox(key=number(*purpose)))


def number(*purpose: object) -> int:
    """63 bits that follow from a purpose."""
    text = "unisono-training " + " ".join(map(str, purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
