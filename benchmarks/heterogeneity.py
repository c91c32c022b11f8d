"""Which way of federated training holds on sites that differ: a grid that was declared before it was run.

    python benchmarks/heterogeneity.py                  # the whole grid, under `hide: none` and `hide: secagg`
    python benchmarks/heterogeneity.py --quick          # a subset, two minutes
    python benchmarks/heterogeneity.py --hide none --write

Three data sets, eight scenarios, five seeds, nine methods and two references; the budget is the same for all. Every cell is kept in
a folder (`--folder`) when it is finished, and not repeated: an interrupted grid goes on. `hide: none` runs through the workbench's
light federation (`tests/test_workbench_light.py` shows that it opens what the engine opens), `hide: secagg` through the engine itself.
With --write the tables go to docs/benchmarks.md.

The split, the first model and the order of batches all follow from the seed. Accuracy and log-loss are on the validation patients
(a fifth of each site's; the best round is chosen by the same patients, for all contestants alike), each patient predicted by
the model that their own site would use; `alone everywhere` is what a model that one
site learned alone is worth on everybody's patients.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE / "peers")  # and not this folder, whose `statistics.py` would hide Python's own

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import numpy as np
from page import write_section

# -- declared before any of it was run ----------------------------------------------------------------------------------

SEEDS = (1, 2, 3, 4, 5)
SITES = 5
DATA = ("breast-cancer", "digits", "generated")
METHODS = ("fedavg", "fedprox", "scaffold", "fedadam", "fedyogi", "fedadagrad", "fedbn", "ditto", "fedrep")
SERVER = ("fedadam", "fedyogi", "fedadagrad")
PERSONAL = ("fedbn", "ditto", "fedrep")
SCENARIOS: dict[str, dict[str, Any]] = {
    "label skew 0.05": {"label_skew": 0.05},
    "label skew 0.1": {"label_skew": 0.1},
    "label skew 0.3": {"label_skew": 0.3},
    "label skew 1": {"label_skew": 1.0},
    "label skew 10": {"label_skew": 10.0},
    "feature shift 0.5": {"feature_shift": 0.5},
    "feature shift 0.5, batch norm": {"feature_shift": 0.5},
    "concept shift": {"concept_groups": 2},
}
"""Of `unisono.workbench.partition.Plan`; everything else the same."""
NORMS = {"feature shift 0.5, batch norm": "batch"}
"""Of the model in a scenario; layer norm elsewhere, which keeps no statistics that sites could disagree on."""
MODEL = {"kind": "mlp", "hidden": [64, 32]}
BUDGET: dict[str, Any] = {
    "local": {"epochs": 2, "batch": 32, "rate": 0.05, "clip": 5.0},
    "rounds": {"most": 20},
    "validate": {"fraction": 0.2, "every": 1, "metric": "loss"},
}
LEAST = 40
"""Patients at every site."""
TARGET = 0.95
"""Of the pooled accuracy: what `rounds` counts to."""
WITHIN = 0.01
"""Of pooled accuracy: what the best federated method should reach."""
QUICK = {"data": ("digits",), "scenarios": ("label skew 0.1", "concept shift"), "seeds": (1, 2)}
HIDES = ("none", "secagg")

# -- cells ----------------------------------------------------------------------------------------------------------------


def slug(text: str) -> str:
    return text.replace(",", "").replace(" ", "-")


def place(folder: Path, data: str, scenario: str, hide: str) -> Path:
    return folder / hide / data / slug(scenario)


def missing(folder: Path, data: str, scenario: str, seed: int, hide: str) -> list[str]:
    """The contestants of one split that are not there yet. References are the same under both: run under `none` only."""
    names = (*METHODS, "pooled", "alone") if hide == "none" else METHODS
    here = place(folder, data, scenario, hide)
    return [name for name in names if not (here / f"{name}-seed{seed}.json").exists()]


def split_work(folder: Path, data: str, scenario: str, seed: int, hide: str) -> float:
    """All missing contestants of one split; the seconds that it took. Runs in a process of its own, on one core."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    from unisono.engines.embedded.run import SiteData
    from unisono.methods.registry import check
    from unisono.study.load import load
    from unisono.workbench.builtin import built_in
    from unisono.workbench.contest import Contest
    from unisono.workbench.partition import Plan
    from unisono.workbench.written import write

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        plan = Plan(sites=SITES, seed=seed, least=LEAST, **SCENARIOS[scenario])
        analyses = {"model": {"model": {**MODEL, "norm": NORMS.get(scenario, "layer")}, **BUDGET}}
        split = write(built_in(data, Path(scratch)), plan, Path(scratch) / "split", form="parquet", analyses=analyses)
        document = load(split.study, check).model_dump(mode="json", exclude_unset=True)
        study = load({**document, "protection": {"hide": hide}}, check)
        files = {path.stem: SiteData(path) for path in sorted((split.folder / "data").glob("*.parquet"))}
        contest = Contest(study, "model", METHODS, (seed,), files, Path(scratch) / "runs")
        for name in missing(folder, data, scenario, seed, hide):
            trial = contest.light(name, seed) if hide == "none" else contest.trial(name, seed)
            trial.save(place(folder, data, scenario, hide))
    return time.perf_counter() - began


def run_all(folder: Path, grid: list[tuple[str, str, int, str]], jobs: int) -> None:
    todo = [cell for cell in grid if missing(folder, *cell)]
    print(f"{len(grid) - len(todo)} of {len(grid)} splits are finished already", file=sys.stderr, flush=True)
    began = time.perf_counter()
    with ProcessPoolExecutor(jobs) as pool:
        waiting = {pool.submit(split_work, folder, *cell): cell for cell in todo}
        for k, done in enumerate(as_completed(waiting), 1):
            data, scenario, seed, hide = waiting[done]
            took, left = done.result(), (time.perf_counter() - began) / k * (len(todo) - k)
            print(
                f"{k}/{len(todo)} {data}, {scenario}, seed {seed}, {hide}: {took:.0f} s; about {left / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )


# -- tables ---------------------------------------------------------------------------------------------------------------


def trials(folder: Path, data: str, scenario: str, hide: str, seeds: Sequence[int]) -> list[Any]:
    """Those that are there; the references beside the protected ones are those of `none`."""
    from unisono.workbench.trial import Trial

    found = []
    for seed in seeds:
        for name in (*METHODS, "pooled", "alone"):
            where = place(folder, data, scenario, "none" if name in ("pooled", "alone") else hide)
            path = where / f"{name}-seed{seed}.json"
            if path.exists():
                found.append(Trial.load(path))
    return found


def table(folder: Path, data: str, hide: str, seeds: Sequence[int], scenarios: Sequence[str]) -> list[str]:
    """One data set: a line for each scenario and contestant."""
    from unisono.workbench.contest_page import rounds_said
    from unisono.workbench.standings import Aim, standings

    lines = [
        f"**{data}**",
        "",
        "| scenario | method | accuracy, % (95%) | log-loss (95%) | rounds to 95% of pooled | gain over alone, points |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for scenario in scenarios:
        found = standings(trials(folder, data, scenario, hide, seeds), Aim("accuracy", share=TARGET))
        for standing in found:
            if standing.metric is None:
                lines.append(f"| {scenario} | {standing.method} | no result: {standing.failed[0]} | | | |")
                continue
            loss, gain = standing.others.get("log_loss"), standing.gain
            away = standing.others.get("accuracy_everywhere")
            name = standing.method + (f" (everywhere {away.said(100, share=True)})" if away is not None else "")
            lines.append(
                f"| {scenario} | {name} | {standing.metric.said(100, share=True)} | {loss.said(1, 3) if loss else ''} "
                f"| {rounds_said(standing)} | {gain.said(100) if gain and standing.method != 'pooled' else ''} |"
            )
    return [*lines, ""]


def means(folder: Path, data: str, scenario: str, hide: str, seeds: Sequence[int], metric: str) -> dict[str, float]:
    by: dict[str, list[float]] = {}
    for trial in trials(folder, data, scenario, hide, seeds):
        if not trial.failed:
            by.setdefault(trial.method, []).append(trial.metrics[metric])
    return {name: float(np.mean(values)) for name, values in by.items()}


def verdicts(folder: Path, hide: str, seeds: Sequence[int], data: Sequence[str], scenarios: Sequence[str]) -> list[str]:
    """What was aimed at, and whether it holds, data set by data set. A joint model is one for all; of a personal one each site has
    its own, fitted to whom it sees, which pooling does not do."""
    lines = [
        "| data | scenario | pooled, % | fedavg | best joint | within 1 point of pooled | best personal | within 1 point of pooled "
        "| best of scaffold and server optimisers, ahead of fedavg | personal ahead of joint |",
        "| --- | --- | ---: | ---: | --- | --- | --- | --- | --- | --- |",
    ]
    for name in data:
        for scenario in scenarios:
            found = means(folder, name, scenario, hide, seeds, "accuracy")
            pooled, fedavg = found.get("pooled"), found.get("fedavg")
            if pooled is None or fedavg is None:
                continue
            rival = _best({m: v for m, v in found.items() if m in ("scaffold", *SERVER)})
            personal = _best({m: v for m, v in found.items() if m in PERSONAL})
            joint = _best({m: v for m, v in found.items() if m in METHODS and m not in PERSONAL})
            lines.append(
                f"| {name} | {scenario} | {100 * pooled:.1f} | {100 * fedavg:.1f} | {_said(joint)} | {_yes(joint[1] >= pooled - WITHIN)} "
                f"| {_said(personal)} | {_yes(personal[1] >= pooled - WITHIN)} | {_ahead(rival[1] - fedavg)} ({rival[0]}) "
                f"| {_ahead(personal[1] - joint[1])} |"
            )
    return [*lines, ""]


def _ahead(difference: float) -> str:
    return f"{_yes(difference > 1e-9)} ({100 * difference:+.1f})"


def _best(found: dict[str, float]) -> tuple[str, float]:
    return max(found.items(), key=lambda item: item[1]) if found else ("none", float("nan"))


def _said(best: tuple[str, float]) -> str:
    return f"{best[0]} {100 * best[1]:.1f}"


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def alike(folder: Path, seeds: Sequence[int], data: Sequence[str], scenarios: Sequence[str]) -> list[str]:
    """`hide: none` against `hide: secagg`, run by run: the difference that protection makes, beside that which a seed makes."""
    pairs: list[tuple[float, float]] = []
    spreads, losses = [], []
    for name in data:
        for scenario in scenarios:
            both = [{(t.method, t.seed): t for t in trials(folder, name, scenario, hide, seeds)} for hide in HIDES]
            for key in set(both[0]) & set(both[1]):
                plain, hidden = both[0][key], both[1][key]
                if key[0] in METHODS and not plain.failed and not hidden.failed:
                    pairs.append((plain.metrics["accuracy"], hidden.metrics["accuracy"]))
                    losses.append(hidden.metrics["loss"] - plain.metrics["loss"])
            for method in METHODS:
                values = [t.metrics["accuracy"] for (m, _), t in both[0].items() if m == method and not t.failed]
                spreads += [float(np.std(values, ddof=1))] if len(values) > 1 else []
    if not pairs:
        return ["`hide: none` and `hide: secagg` were not both run.", ""]
    difference = np.array([b - a for a, b in pairs])
    half = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else float("nan")
    same = float((difference == 0).mean())
    return [
        f"`hide: secagg` against `hide: none`, {len(pairs)} pairs of runs with the same seed: accuracy differs by "
        f"{100 * difference.mean():+.3f} points in the mean (95%: {100 * (difference.mean() - half):+.3f} to "
        f"{100 * (difference.mean() + half):+.3f}), by {100 * np.abs(difference).max():.2f} at most, and by nothing in {same:.0%}; "
        f"log-loss by {np.abs(losses).max():.1e} at most. Between seeds one method's accuracy has a standard deviation of "
        f"{100 * np.median(spreads):.2f} points (median). The differences come from the random rounding of updates, not from masks, "
        "which cancel exactly.",
        "",
    ]


def report(folder: Path, seeds: Sequence[int], data: Sequence[str], scenarios: Sequence[str]) -> str:
    hide = "none" if any((folder / "none").rglob("*.json")) else "secagg"
    lines = [
        f"{SITES} sites; {', '.join(data)}; seeds {', '.join(map(str, seeds))}; an MLP of {MODEL['hidden']}; {BUDGET['rounds']['most']} rounds of "
        f"{BUDGET['local']['epochs']} epochs, batches of {BUDGET['local']['batch']}, SGD, rate {BUDGET['local']['rate']}; "
        f"`hide: {hide}`.",
        "",
        *verdicts(folder, hide, seeds, data, scenarios),
        *alike(folder, seeds, data, scenarios),
    ]
    for name in data:
        lines += table(folder, name, hide, seeds, scenarios)
    return "\n".join(lines).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one data set, two scenarios, two seeds")
    parser.add_argument("--hide", nargs="*", choices=HIDES, default=list(HIDES))
    parser.add_argument("--data", nargs="*", choices=DATA)
    parser.add_argument("--scenarios", nargs="*", choices=list(SCENARIOS))
    parser.add_argument("--seeds", nargs="*", type=int, choices=SEEDS)
    parser.add_argument("--folder", type=Path, default=HERE.parent / ".heterogeneity")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tables", action="store_true", help="of what is there, without running anything")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    data = options.data or (QUICK["data"] if options.quick else DATA)
    scenarios = options.scenarios or (QUICK["scenarios"] if options.quick else tuple(SCENARIOS))
    seeds = options.seeds or (QUICK["seeds"] if options.quick else SEEDS)
    grid = [(d, s, k, hide) for hide in options.hide for k in seeds for d in data for s in scenarios]
    if not options.tables:
        run_all(options.folder, grid, options.jobs)
    text = report(options.folder, seeds, data, scenarios)
    print(text)
    if options.write:
        write_section("heterogeneity", text)


if __name__ == "__main__":
    main()
