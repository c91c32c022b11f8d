"""The main demo over a real network: a coordinator and four hospitals as processes of their own on loopback, mutual TLS between
them, everything by the commands that people would type; one hospital is killed in the middle and started again.

The answer is compared with the same study in one process (bit for bit) and with the pooled fit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from unisono.api import run as run_study
from unisono.demo import lung
from unisono.demo.acts import Acts, OwnFolder, terminated
from unisono.demo.pooled import against_pooled
from unisono.demo.stage import Listener, Service, Stage
from unisono.engines.embedded.run import SiteData
from unisono.errors import NetworkError
from unisono.report.comparison import Comparison
from unisono.report.delivered import Delivered, read

KILLED = "turin"
STUDY = "lung-survival"
RESULTS, EMBEDDED = Path("results"), Path("embedded")
_MIDDLE = "curves (kaplan-meier) begins"


@dataclass(frozen=True)
class Finished:
    """What the demo ends with. identical: the analyses, whose estimates are those of the embedded run bit for bit."""

    delivered: Delivered
    comparison: Comparison
    identical: tuple[str, ...]


def begin(out: Path, *, fresh: bool) -> None:
    """An empty folder of the demo's own (`OwnFolder.begin`)."""
    _folder(out).begin(lung.HOSPITALS, fresh=fresh)


def play(out: Path, shown: Listener, said: Listener) -> str:
    """The whole story, up to the results in ``out/results``. shown: told each command; said: told what matters of what it said.
    What `unisono study result` printed. `NetworkError` (``demo-step``) if a step fails; every process has ended then."""
    written = lung.write(out)
    data: dict[str, tuple[str, str | None]] = {
        name: (f"data/{path.name}", f"data/{mapping.name}") for name, (path, mapping) in written.data.items()
    }
    with terminated(), Stage(out, shown) as stage:
        acts = Acts(stage, said, data, STUDY, "lung")
        acts.found()
        acts.join()
        watch = acts.ask()
        acts.approve()
        _kill(acts, watch)
        return acts.result(watch, RESULTS)


def compare(out: Path) -> Finished:
    """The same study in one process, into ``out/embedded``; then all three beside each other. `NetworkError` (``demo-equal``) if
    an estimate differs from the embedded run's in a single bit."""
    data = {
        path.name.split(".")[0]: SiteData(path, path.with_name(f"{path.name.split('.')[0]}.mapping.yaml"))
        for path in sorted((out / "data").iterdir())
        if not path.name.endswith(".mapping.yaml")
    }
    answered = run_study(out / "study.yaml", data, out=out / EMBEDDED)
    delivered = read(out / RESULTS)
    for name in delivered.study.analyses:
        here, there = (
            json.loads((out / folder / name / "result.json").read_text("utf-8")) for folder in (EMBEDDED, RESULTS)
        )
        if here["estimates"] != there["estimates"]:
            raise NetworkError(
                f"The estimates of {name!r} over the network are not those of the embedded run.",
                rule="demo-equal",
                remedy=f"This must not be. Please report it, with {out / RESULTS} and {out / EMBEDDED}.",
            )
    _folder(out).finish()
    results = {name: o.answer.result for name, o in delivered.outcomes.items() if o.answer is not None}
    comparison = against_pooled(results, answered.completed.snapshots)
    return Finished(delivered, comparison, tuple(delivered.study.analyses))


def _folder(out: Path) -> OwnFolder:
    return OwnFolder(out, ".unisono-demo-network", "unisono demo --network")


def _kill(acts: Acts, watch: Service) -> None:
    """In the middle of the study: power off at one hospital, and on again when the study waits for it."""
    acts.heard(watch, _MIDDLE)
    acts.said("", f"kill -9: the machine of {KILLED} is off, in the middle of the study. The others wait.")
    acts.hospitals[KILLED].kill()
    acts.heard(watch, f"waiting for {KILLED}")
    acts.hospitals[KILLED] = acts.serve(KILLED)
