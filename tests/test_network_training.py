"""Training over the real network: what was trained in one process is trained by hospitals that are processes of their own, over
sockets, under their default policy; also when somebody is killed, late or abstains."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support import held, training
from tests.support.ward import CENTRE, At, Drill, Ward
from unisono.site.policy import Policy
from unisono.study.document import Study

THREE, FOURTH = training.SITES, "utrecht"
FOUR = (*THREE, FOURTH)
NETWORK = {"rounds": {"most": 4, "snapshot": 2}, "local": {"epochs": 1, "batch": "all", "rate": 0.3}}
TREES = {"objective": "logistic", "outcome": "malignant", "features": list(training.FEATURES), "depth": 2, "bins": 16}
ANALYSES: dict[str, dict[str, Any]] = {
    "scaffold": {**training.BASE, **NETWORK, "method": "scaffold"},
    "ditto": {**training.BASE, **NETWORK, "method": "ditto"},
    "hist": {**TREES, "method": "hist-boosting", "trees": 2},
    "bagged": {**TREES, "method": "bagged-boosting", "trees": 2},
    # A hundred steps on one site's doses, which vary, and on the others', which do not: there alone the weights overflow.
    "unstable": {
        **training.BASE,
        "outcome": "radius",
        "features": ["dose"],
        "model": {"kind": "linear"},
        "local": {"steps": 100, "batch": "all", "rate": 1.2},
        "rounds": {"most": 2},
    },
    "late": {**training.BASE, **NETWORK, "method": "scaffold", "rounds": {"most": 8, "deadline": "2 s"}},
}


def study(name: str, *analyses: str, threat: str = "malicious") -> Study:
    """These of `ANALYSES`, under what a hospital's default policy asks for."""
    whole = training.study().model_dump(by_alias=True, exclude_unset=True)
    document: dict[str, Any] = {
        **whole,
        "id": name,
        "variables": {**whole["variables"], "dose": {"type": "number", "min": -100, "max": 100}},
        "analyses": {analysis: ANALYSES[analysis] for analysis in analyses},
        "release": {"min_sites": 3, "min_count": 10},
        "protection": {"hide": "secagg", "threat": threat},
    }
    return training.load(document, training.check)


@cache
def frames() -> dict[str, pd.DataFrame]:
    found = training.frames(FOUR, 60)
    for site, frame in found.items():
        frame["dose"] = np.random.default_rng(1).normal(0, 20.0 if site == FOURTH else 0.01, len(frame)).clip(-99, 99)
    return found


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    with Ward(tmp_path_factory.mktemp("t"), watched=True, frames=frames(), training=True) as opened:
        yield opened
    assert opened.left() == []


def test_x(ward: Ward) -> None:
    asked = study("cells", "scaffold", "ditto", "hist")
    files = ward.answered(asked, THREE)
    print(sorted(files))
    for site in THREE:
        print(sorted(p.relative_to(ward.path) for p in (ward.path / site).rglob("*") if p.is_file()))
