"""The whole matrix of kills over real sockets: `make kill-matrix`.

The coordinator, a site, and the site that is always the last to answer are killed with SIGKILL at every moment of a study's life
(`tests.support.killing`): each message of each phase before and after it is asked for, written to the line, processed and
answered, and each write to disk before and after it. Every kill has a study of its own, on one network that goes on; the killed
process is started again, and everything must hold that holds undisturbed (`tests.support.held`). `--only` repeats one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.support import held
from tests.support.ward import CENTRE, SITES, At, Drill, Ward, asked, counted

ANALYSIS = "table"
"""Two steps: the first with keys of its own, the second with keys that rode along, and the end."""
QUICK, SLOW = SITES[0], SITES[2]
VICTIMS = {"coordinator": CENTRE, "site": QUICK, "slow-site": SLOW}
PAUSE_S = 0.15
"""By which the slow site's contributions are held up."""
LINGER_S = 1.0
_numbers = count(1)


@dataclass
class Score:
    """What came of the kills of one victim."""

    killed: int = 0
    never: list[At] = field(default_factory=list)
    wrong: list[tuple[At, str]] = field(default_factory=list)


def every_moment(path: Path, who: str, threat: str, options: argparse.Namespace) -> list[At]:
    """All that a process comes to in a study's life, from its start on."""
    with _ward(path, who, options, watched=True) as ward:
        study = asked(next(_numbers), ANALYSIS, threat=threat)
        held.everything(ward, study, ward.answered(study))
        return [at for at in counted(ward.moments(who)) if at.moment != "started"]


def killed_at_each(path: Path, who: str, threat: str, moments: list[At], options: argparse.Namespace) -> Score:
    """One study a moment. A network in which something went wrong is given up for another one."""
    score, left, networks = Score(), list(moments), count(1)
    while left:
        with _ward(path / str(next(networks)), who, options) as ward:
            while left:
                at, drill = left[0], Drill(who, left[:1])
                left.pop(0)
                try:
                    _survived(ward, drill, threat)
                except Exception as error:  # noqa: BLE001  (whatever it is, it is reported, and the rest goes on)
                    score.wrong.append((at, f"{type(error).__name__}: {error} (files: {ward.path})"))
                    print(f"    {at}: {score.wrong[-1][1]}", flush=True)
                    break
                score.killed += len(drill.done)
                score.never += [] if drill.done else [at]
            else:
                held.logs(ward)
    return score


def _survived(ward: Ward, drill: Drill, threat: str) -> None:
    ward.drill(drill)
    study = asked(next(_numbers), ANALYSIS, threat=threat)
    files = ward.answered(study)
    ward.linger(LINGER_S)
    held.everything(ward, study, files)


def _ward(path: Path, who: str, options: argparse.Namespace, *, watched: bool = False) -> Ward:
    path.mkdir(parents=True)
    ward = Ward(path, watched=watched, local=not options.workers)
    if who == SLOW:
        ward.pauses[SLOW] = PAUSE_S
    return ward


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threat", choices=["semi-honest", "malicious"], action="append")
    parser.add_argument("--victim", choices=list(VICTIMS), action="append")
    parser.add_argument("--only", action="append", metavar="MOMENT:TIMES", help="such as 'after ask mask:2'")
    parser.add_argument(
        "--workers", action="store_true", help="data and methods in worker processes of their own: slower"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    wrong = 0
    for threat in options.threat or ("malicious", "semi-honest"):
        for victim in options.victim or VICTIMS:
            who, began, place = VICTIMS[victim], time.monotonic(), folder / f"{threat[:1]}{victim[:2]}"
            moments = [At(only.rpartition(":")[0], int(only.rpartition(":")[2])) for only in options.only or ()]
            moments = moments or every_moment(place / "0", who, threat, options)
            print(f"{threat}, {victim}: {len(moments)} moments", flush=True)
            score = killed_at_each(place, who, threat, moments, options)
            wrong += len(score.wrong)
            never = f", {len(score.never)} never came ({', '.join(map(str, score.never))})" if score.never else ""
            seconds = time.monotonic() - began
            print(f"  {score.killed} kills{never}, {len(score.wrong)} wrong; {seconds:.0f} s", flush=True)
    if wrong:
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
