"""kill -9 of the coordinator and of sites at the messages of a round, over real sockets, then restart: the same estimates, nothing
lost, no step opened twice. A drawn sample of moments; `make kill-matrix` kills at every one of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine, held, wide
from tests.support.ward import CENTRE, SITES, At, Drill, Ward, asked

SEED = 20260301
PHASES = ("advertise", "share", "mask", "agree", "unmask")
ANSWERS = {"advertise": "advertise", "share": "shares", "mask": "masked", "agree": "agreement", "unmask": "revealed"}
WRITTEN = {"share": "circle", "mask": "vector", "agree": "survivors", "unmask": "answer"}
"""What a site writes down at the message, or at the one before it."""
numbers = count(1)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """One network for all kills of this file."""
    path = tmp_path_factory.mktemp("kill")
    opened = Ward(path, watched=True, heartbeat_s=1.0, grace_s=3.0)
    with opened:
        yield opened
        held.logs(opened)
    assert opened.left() == []


def of_the_coordinator(draw: random.Random) -> list[At]:
    """Each phase before it is asked, on the line, and answered by one, two or all; then what ends a step, and a study."""
    found = []
    for phase in PHASES:
        found += [At(f"{edge} {phase}", draw.randint(1, 3)) for edge in ("before ask", "sent", "after ask")]
        if phase == "mask":
            found += [At("before journal pending"), At("after journal pending")]
    found += [At("before journal opened"), At("after journal opened")]
    found += [At(f"{edge} close", draw.randint(1, 3)) for edge in ("before ask", "sent", "after ask")]
    found += [
        At("before journal finished"),
        At("after results"),
        At("before store finished"),
        At("after store finished"),
    ]
    return [*found, *(At(f"{edge} result", draw.randint(1, 3)) for edge in ("before tell", "sent", "after tell"))]


def of_a_site(draw: random.Random) -> list[At]:
    """Each phase when it has come, when it is answered, and on the line; what is written down, and before or after that."""
    found = []
    for phase in PHASES:
        found.append(At(f"before answer {phase}"))
        if phase in WRITTEN:
            found.append(At(f"{draw.choice(('before', 'after'))} remember {WRITTEN[phase]}"))
        found += [At(f"after answer {phase}"), At(f"sent {ANSWERS[phase]}")]
    found += [At("before audit unmasked"), At("before close step"), At("after close step")]
    return [*found, *(At(f"{edge} answer {of}") for of in ("close", "result") for edge in ("before", "after"))]


def drilled(ward: Ward, who: str, moments: list[At], threat: str = "malicious") -> None:
    """Killed at each of these moments, one after the other, in as many studies as it takes; and everything holds."""
    drill = Drill(who, moments)
    ward.drill(drill)
    studies = 0
    while drill.left:
        left, study = len(drill.left), asked(next(numbers), "table", threat=threat)
        held.everything(ward, study, ward.answered(study))
        assert len(drill.left) < left, f"{who} never came to {drill.next}"
        studies += 1
    assert drill.done == moments


# -- at every message of a round ----------------------------------------------------------------------------------------


def test_the_coordinator_killed_at_every_phase_goes_on_to_the_same_estimates(ward: Ward) -> None:
    drilled(ward, CENTRE, of_the_coordinator(random.Random(SEED)))


def test_a_site_killed_at_every_phase_goes_on_to_the_same_estimates(ward: Ward) -> None:
    moments = of_a_site(random.Random(SEED))
    for few in (moments[k : k + 4] for k in range(0, len(moments), 4)):  # the same step waits longer from loss to loss
        drilled(ward, "padua", few)


@pytest.mark.parametrize("who", [CENTRE, "turin"])
def test_killed_where_keys_and_shares_ride_along(who: str, ward: Ward) -> None:
    """The second step of a life has no messages for keys: what is lost is what rode on the first."""
    draw = random.Random(f"{SEED}{who}")
    sites = len(SITES) if who == CENTRE else 1
    moment = draw.choice(
        ("sent mask", "after ask mask", "after ask unmask") if who == CENTRE else ("sent masked", "sent revealed")
    )
    drilled(ward, who, [At(moment, sites + 1)], threat="semi-honest")


# -- at special moments -------------------------------------------------------------------------------------------------


def test_the_coordinator_killed_in_the_middle_of_a_large_upload_has_nothing_computed_again(ward: Ward) -> None:
    """A million float32. Masks serve once, so the vector goes out again under others; it is the stored one."""
    with wide.installed():
        analyses = {"wide": {"method": wide.Wide.name, "variable": "age"}}
        study = engine.study(id="wide", analyses=analyses, protection={"threat": "malicious"})
        before = computed(ward)
        drill = Drill(CENTRE, [At("half of a large message", 2)])
        ward.drill(drill)
        files = ward.answered(study)
        assert drill.done
        steps = held.openings(ward, study)
        assert computed(ward) - before == Counter(dict.fromkeys(SITES, steps))
        assert json.loads(files["wide/result.json"])["estimates"]["error"] < 1e-6
        # The coordinator that lives has one vector of each site, and little else.
        for site in ward.client.call("status", study=study.digest())["sites"].values():
            assert 4 * wide.SIZE < site["bytes_in"] < 4.2 * wide.SIZE


def test_a_site_killed_while_its_worker_computes_leaves_no_worker_and_computes_it_anew(ward: Ward) -> None:
    ward.apart.add("padua")
    drilled(ward, "padua", [At("computing"), At("computing", 2)])
    workers = [int(moment.split()[1]) for moment in ward.moments("padua") if moment.startswith("worker ")]
    assert len(set(workers)) >= 3
    ward.until("the end of the workers", lambda: not any(map(is_worker, workers)))  # the last one's: the study is over
    ward.apart.clear()
    ward.kill("padua")
    ward.start("padua")


@pytest.mark.parametrize("back", ["within the time of grace", "when it was counted as lost"])
def test_a_site_frozen_for_three_heartbeats_goes_on_and_computes_nothing_twice(back: str, ward: Ward) -> None:
    before, gone = computed(ward), times(ward, "site-left")
    study = asked(next(numbers), "table")
    ward.submit(study)
    for site in SITES[1:]:
        ward.approve(site, study)
    asked_before = ward.came("turin", "before answer mask")
    ward.approve(SITES[0], study)
    ward.until("the first question", lambda: ward.came("turin", "before answer mask") > asked_before)
    os.kill(ward.pids["turin"], signal.SIGSTOP)
    try:
        ward.until("silence", lambda: times(ward, "site-left") > gone)
        if back == "when it was counted as lost":
            ward.until("the loss", lambda: "turin" in ward.client.call("status", study=study.digest())["waiting_for"])
    finally:
        os.kill(ward.pids["turin"], signal.SIGCONT)
    held.everything(ward, study, ward.finished(study))
    assert computed(ward) - before == Counter(dict.fromkeys(SITES, 2))


def test_of_two_agents_with_one_identity_started_at_once_one_answers_and_the_other_says_why_not(ward: Ward) -> None:
    ward.kill("padua")
    home, twin = ward.folder("padua").path, ward.path / "twin"
    shutil.copytree(home, twin, ignore=shutil.ignore_patterns("agent.sock"))
    lines = len(events(home))

    def since(path: Path) -> list[dict[str, Any]]:
        return events(path)[lines:]

    for who in ("padua", "twin"):
        ward.start(who)
    ward.until("one agent", lambda: any("connected" in names(since(path)) for path in (home, twin)))
    ward.until("and no other", lambda: any(refused(since(path)) for path in (home, twin)))
    (winner,) = (path for path in (home, twin) if "connected" in names(since(path)))
    ward.at["padua"] = winner.name
    study = asked(next(numbers), "table")
    held.everything(ward, study, ward.answered(study))
    assert "connected" not in names(since(twin if winner == home else home))
    for who in ("padua", "twin"):
        ward.kill(who)
        del ward.pids[who]
    ward.at.clear()
    if winner == twin:  # it is the one that remembers what was answered
        shutil.rmtree(home)
        twin.rename(home)
    ward.start("padua")


def computed(ward: Ward) -> Counter[str]:
    """Contributions that each site has begun to compute."""
    return Counter({site: ward.came(site, "before compute") for site in SITES})


def times(ward: Ward, event: str) -> int:
    return names(events(ward.home.path)).count(event)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def names(found: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in found]


def refused(found: list[dict[str, Any]]) -> bool:
    return "two-agents" in {event.get("rule") for event in found}


def is_worker(pid: int) -> bool:
    """Whether this is a worker process, and not one that ended, or another with its number."""
    try:
        return b"unisono.site.workers.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_what_a_restarted_site_repeats_is_on_record_there(ward: Ward) -> None:
    """Killed when its unmasking shares are written down and its audit log has no word of them; asked again, it repeats them."""
    drilled(ward, "leiden", [At("before audit unmasked")], threat="semi-honest")
