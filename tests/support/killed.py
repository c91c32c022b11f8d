"""A run in a process of its own, to be killed: ``python -m tests.support.killed FOLDER [FAULT]``.

FOLDER holds ``study.json`` and one CSV a site in ``data/``; results go to ``FOLDER/out``. FAULT is a `Fault` as JSON, or
``{"file_size": bytes}`` for a disk that is full once a file has that size. Says ``begun`` when the first analysis begins,
and at the end one line of JSON: the rule of the error that stopped each analysis, or null.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from unisono.engines.embedded.run import Fault, Run, Settings, SiteData, run_study
from unisono.errors import UnisonoError
from unisono.federation.events import Event
from unisono.methods.registry import check
from unisono.study.document import Study
from unisono.study.load import load


def start(folder: Path, **fault: Any) -> subprocess.Popen[str]:
    """The run as a process of its own."""
    command = [sys.executable, "-m", "tests.support.killed", str(folder), json.dumps(fault)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)


def prepared(folder: Path, study: Study, frames: dict[str, Any]) -> Path:
    """A folder for `start`."""
    (folder / "data").mkdir(parents=True)
    (folder / "study.json").write_text(study.model_dump_json(), "utf-8")
    for site, frame in frames.items():
        frame.to_csv(folder / "data" / f"{site}.csv", index=False)
    return folder


def again(folder: Path, **settings: Any) -> Run:
    """The same command, in this process."""
    study = load(json.loads((folder / "study.json").read_text("utf-8")), check)
    data = {path.stem: SiteData(path) for path in sorted((folder / "data").glob("*.csv"))}
    return run_study(study, data, folder / "out", Settings(**settings))


def _limited(size: int) -> None:
    import resource  # not on Windows, where no test asks for it

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _say(event: Event) -> None:
    if event.kind == "analysis":
        print("begun", flush=True)


def main() -> None:
    folder, fault = Path(sys.argv[1]), json.loads(sys.argv[2])
    if "file_size" in fault:
        _limited(fault.pop("file_size"))
    try:
        run = again(folder, faults=[Fault(**fault)] if fault else [], observer=_say)
    except UnisonoError as error:
        print(json.dumps({"stopped": error.rule, "remedy": error.remedy}))
        return
    print(json.dumps({name: None if o.error is None else o.error.rule for name, o in run.outcomes.items()}))


if __name__ == "__main__":
    main()
