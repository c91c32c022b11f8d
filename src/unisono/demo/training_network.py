"""The demo of training over a real network: SCAFFOLD on breast cancer between a coordinator and five hospitals, six processes with
mutual TLS, everything by the commands that people would type; then the same study in one process beside it.

Model updates are rounded at random before they are masked (`fixed32`), anew in every run, so the two runs agree to within that
rounding and not bit for bit. What is opened before the first update (preprocessing, the first validation) is identical.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unisono.api import run as run_study
from unisono.demo import training
from unisono.demo.acts import Acts, OwnFolder, terminated
from unisono.demo.stage import Listener, Stage
from unisono.demo.training import MODEL
from unisono.errors import NetworkError
from unisono.workbench.written import DATA, STUDY

METHOD, NAME = "scaffold", "breast-cancer"
ROUNDS = 8
RESULTS, EMBEDDED = Path("results"), Path("embedded")
CLOSE = 1e-5
"""Largest difference of the final validation loss between the runs. One update is rounded to about 1e-8; training carries it on."""
_WAIT_S = 180.0


@dataclass(frozen=True)
class Finished:
    """headline: of the answer. rounds: (network, embedded) validation losses by round, in three digits. largest: difference of the
    final ones, in all digits."""

    headline: str
    rounds: tuple[tuple[float, float], ...]
    largest: float


def begin(out: Path, *, fresh: bool) -> None:
    """An empty folder of the demo's own (`OwnFolder.begin`)."""
    hospitals = {f"site-{k + 1}": None for k in range(training.PLAN.sites)}
    _folder(out).begin(hospitals, fresh=fresh)


def play(out: Path, shown: Listener, said: Listener, *, rounds: int = ROUNDS) -> str:
    """The whole story, up to the results in ``out/results``; what `unisono study result` printed. `NetworkError` (``demo-step``) if
    a step fails; every process has ended then."""
    scene = training.prepare(out / "split", NAME, rounds=rounds)
    _write_study(scene, out)
    data: dict[str, tuple[str, str | None]] = {
        name: (f"split/{NAME}/{DATA}/{name}.csv", None) for name in sorted(scene.sites)
    }
    with terminated(), Stage(out, shown) as stage:
        acts = Acts(stage, said, data, NAME, "biopsies")
        acts.found()
        acts.join()
        watch = acts.ask()
        acts.approve()
        return acts.result(watch, RESULTS, _WAIT_S)


def compare(out: Path) -> Finished:
    """The same study in one process, into ``out/embedded``, beside it. `NetworkError` (``demo-equal``) if they are not as close as
    the rounding of updates lets them be."""
    scene = training.Scene(NAME, out / "split" / NAME)
    answered = run_study(out / STUDY, scene.sites, out=out / EMBEDDED)
    for error in answered.errors.values():
        raise error
    there, here = (
        json.loads((out / folder / MODEL / "result.json").read_text("utf-8"))["estimates"]
        for folder in (RESULTS, EMBEDDED)
    )
    pairs = [
        (float(a["validation"]), float(b["validation"])) for a, b in zip(there["rounds"], here["rounds"], strict=True)
    ]
    largest = abs(_final_loss(there) - _final_loss(here))  # the rounds' own are told in three digits
    same = there["preprocessing"] == here["preprocessing"] and pairs[0][0] == pairs[0][1]
    if not same or largest > CLOSE:
        raise NetworkError(
            "The training over the network is not that of the embedded run.",
            rule="demo-equal",
            remedy=f"This must not be. Please report it, with {out / RESULTS} and {out / EMBEDDED}.",
        )
    _folder(out).finish()
    return Finished(answered[MODEL].headline(), tuple(pairs), largest)


def _final_loss(estimates: dict[str, Any]) -> float:
    return float(estimates["evaluation"]["loss"])


def _write_study(scene: training.Scene, out: Path) -> None:
    """The demo's study with one method, and nothing that a hospital's default policy refuses."""
    document: dict[str, Any] = yaml.safe_load((scene.folder / STUDY).read_text("utf-8"))
    network = {**document["analyses"][MODEL], "method": METHOD}
    document["analyses"] = {MODEL: network}
    document["participation"] = {"deadline": "2 min"}
    (out / STUDY).write_text(yaml.safe_dump(document, sort_keys=False, default_flow_style=None), "utf-8")


def _folder(out: Path) -> OwnFolder:
    return OwnFolder(out, ".unisono-demo-training-network", "unisono demo training --network")
