"""One Cox regression on 1e6 patients, 10 covariates, 5 sites under secure aggregation, against pooled fits in the same run.

    python benchmarks/statistics.py                 # everything, a few minutes
    python benchmarks/statistics.py --patients 100000 --skip statsmodels

Every contestant runs in a process of its own (so that its peak memory is its own), three times where it is fast; medians.
Contestants: Unisono (baseline per site; common baseline on a grid of 500), a plain vectorised numpy Newton on the pooled data,
lifelines, statsmodels PHReg, and R's survival::coxph where R with `survival` is installed. The table goes to docs/benchmarks.md.
"""

from __future__ import annotations

import sys

sys.path[0] += (
    "/peers"  # and not this folder, in which this file would hide Python's own `statistics` from every library
)

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from page import write_section

SITES = 5
COVARIATES = 10
HORIZON = 60.0
GRIDS = {"per-site": 96_000, "common": 500}
"""Grid times: the common baseline on the coarse grid that it needs; the baseline per site on nearly the finest grid that a
study may declare, where times are about as recorded."""


def make(patients: int, grid: int, folder: Path) -> None:
    """Simulated patients on the grid: exponential times with a site's own hazard, uniform censoring."""
    step = HORIZON / grid
    rng = np.random.default_rng(20261121)
    site = rng.integers(0, SITES, patients)
    x = rng.uniform(-1, 1, (patients, COVARIATES))
    x[:, COVARIATES // 2 :] = (x[:, COVARIATES // 2 :] > 0).astype(float)
    beta = np.linspace(-0.5, 0.5, COVARIATES)
    hazard = np.exp(x @ beta) * np.linspace(0.01, 0.05, SITES)[site]
    event, censored = rng.exponential(1 / hazard), rng.uniform(6, HORIZON, patients)
    months = np.maximum(np.ceil(np.minimum(event, censored) / step), 1) * step
    frame = pd.DataFrame(x, columns=[f"x{j}" for j in range(COVARIATES)])
    frame.insert(0, "months", months)
    frame.insert(1, "died", (event <= censored).astype(float))
    frame["site"] = site
    frame.to_parquet(folder / "pooled.parquet", index=False)
    for k in range(SITES):
        frame[frame["site"] == k].drop(columns="site").to_parquet(folder / f"site{k}.parquet", index=False)


def study(baseline: str) -> dict[str, Any]:
    names = [f"x{j}" for j in range(COVARIATES)]
    return {
        "unisono": 1,
        "id": "benchmark",
        "question": "How fast is a federated Cox regression?",
        "variables": {
            "months": {"type": "number", "unit": "mo", "min": 0, "max": HORIZON},
            "died": {"type": "boolean"},
            **{n: {"type": "number", "min": -1, "max": 1} for n in names},
        },
        "analyses": {
            "effect": {
                "method": "cox", "time": "months", "event": "died", "covariates": names, "ties": "efron",
                "baseline": baseline, "grid": {"step": HORIZON / GRIDS[baseline], "unit": "mo"}, "ph_check": "none",
            }
        },
    }  # fmt: skip


# -- contestants: each returns coefficients, and the seconds of the fit alone ------------------------------------------


def unisono(folder: Path, baseline: str) -> dict[str, Any]:
    from unisono.engines.embedded.run import Settings, SiteData, run_study
    from unisono.methods.registry import check
    from unisono.protection.encoding import exact
    from unisono.protection.secagg import aggregate, setup, site
    from unisono.study.load import load

    spent = [0.0]
    timed(exact, "encode", spent)
    timed(exact, "decode", spent)
    for cls, names in (
        (site.SiteSession, ("advertise", "share", "mask", "unmask")),
        (setup.SlotSetup, ("collect_advertise", "key_roster", "collect_shares", "inbox_for")),
        (aggregate.AggregatorSession, ("collect_masked", "state_tree", "collect_unmask", "open")),
    ):  # fmt: skip
        for name in names:
            timed(cls, name, spent)
    base = peak()
    events: list[Any] = []
    with tempfile.TemporaryDirectory() as out:
        data = {f"site{k}": SiteData(folder / f"site{k}.parquet") for k in range(SITES)}
        began, used = time.perf_counter(), time.process_time()
        run = run_study(load(study(baseline), check), data, Path(out), Settings(observer=events.append))
        whole, used = time.perf_counter() - began, time.process_time() - used
    outcome = run.outcomes["effect"]
    if outcome.error is not None:
        raise outcome.error
    assert outcome.answer is not None
    estimates = outcome.answer.result.estimates
    coef = [c["coef"] for c in estimates["coefficients"]]
    return {
        "coef": coef,
        "seconds": outcome.seconds,
        "whole": whole,
        "protection": spent[0] / used,
        "sums": sum(e.kind == "opened" for e in events),
        "memory": peak() - base,
    }


def timed(owner: Any, name: str, spent: list[float]) -> None:
    """Wrap a function so that the processor time in it is added up, over all threads."""
    inner = getattr(owner, name)

    def wrapper(*args: Any, **keywords: Any) -> Any:
        began = time.thread_time()
        try:
            return inner(*args, **keywords)
        finally:
            spent[0] += time.thread_time() - began

    setattr(owner, name, wrapper)


def vectorised(folder: Path, baseline: str) -> dict[str, Any]:
    """The plain pooled Newton that a good numpy programmer writes: sort once, cumulative sums, one product a step."""
    frame = pd.read_parquet(folder / "pooled.parquet")
    base = peak()
    began = time.perf_counter()
    strata = frame["site"].to_numpy() if baseline == "per-site" else np.zeros(len(frame), int)
    parts = []
    for s in np.unique(strata):
        mine = frame[strata == s]
        order = np.argsort(mine["months"].to_numpy(), kind="stable")
        months = mine["months"].to_numpy()[order]
        starts = np.flatnonzero(np.r_[True, np.diff(months) > 0])
        x = mine[[f"x{j}" for j in range(COVARIATES)]].to_numpy()[order]
        parts.append((x, mine["died"].to_numpy()[order], starts, np.diff(np.r_[starts, len(months)])))
    beta = np.zeros(COVARIATES)
    for _ in range(30):
        score, information = np.zeros(COVARIATES), np.zeros((COVARIATES, COVARIATES))
        for x, died, starts, sizes in parts:
            risk = np.exp(x @ beta)
            s0 = np.add.reduceat(risk, starts)[::-1].cumsum()[::-1]
            s1 = np.add.reduceat(risk[:, None] * x, starts)[::-1].cumsum(0)[::-1]
            d = np.add.reduceat(died, starts).astype(int)
            t0 = np.add.reduceat(risk * died, starts)
            t1 = np.add.reduceat((risk * died)[:, None] * x, starts)
            at = np.repeat(np.arange(len(starts)), d)
            share = (np.arange(len(at)) - np.repeat(np.r_[0, d.cumsum()[:-1]], d)) / np.maximum(d[at], 1)
            denominator = s0[at] - share * t0[at]
            mean = (s1[at] - share[:, None] * t1[at]) / denominator[:, None]
            weight = np.bincount(at, 1 / denominator, len(starts)).cumsum()
            tied = np.bincount(at, share / denominator, len(starts))
            w = risk * (np.repeat(weight, sizes) - died * np.repeat(tied, sizes))
            score += (x * died[:, None]).sum(0) - mean.sum(0)
            information += x.T @ (x * w[:, None]) - mean.T @ mean
        step = np.linalg.solve(information, score)
        beta += step
        if np.abs(step).max() < 1e-10:
            break
    return {"coef": beta.tolist(), "seconds": time.perf_counter() - began, "memory": peak() - base}


def lifelines(folder: Path, baseline: str) -> dict[str, Any]:
    from lifelines import CoxPHFitter

    frame = pd.read_parquet(folder / "pooled.parquet")
    strata = ["site"] if baseline == "per-site" else None
    frame = frame if strata else frame.drop(columns="site")
    base = peak()
    began = time.perf_counter()
    fit = CoxPHFitter().fit(frame, "months", "died", strata=strata, fit_options={"precision": 1e-10})
    return {"coef": fit.params_.tolist(), "seconds": time.perf_counter() - began, "memory": peak() - base}


def statsmodels(folder: Path, baseline: str) -> dict[str, Any]:
    from statsmodels.duration.hazard_regression import PHReg

    frame = pd.read_parquet(folder / "pooled.parquet")
    base = peak()
    began = time.perf_counter()
    model = PHReg(
        frame["months"].to_numpy(),
        frame[[f"x{j}" for j in range(COVARIATES)]].to_numpy(),
        status=frame["died"].to_numpy(),
        strata=frame["site"].to_numpy() if baseline == "per-site" else None,
        ties="efron",
    )
    fit = model.fit()
    return {"coef": fit.params.tolist(), "seconds": time.perf_counter() - began, "memory": peak() - base}


R_SCRIPT = """
suppressMessages(library(survival))
d <- read.csv(commandArgs(TRUE)[1]); strata_ <- commandArgs(TRUE)[2]
x <- paste(grep('^x', names(d), value=TRUE), collapse='+')
f <- as.formula(paste('Surv(months, died) ~', x, if (strata_ == 'per-site') '+ strata(site)' else ''))
t <- system.time(m <- coxph(f, d, ties='efron'))[['elapsed']]
cat(t, coef(m))
"""


def coxph(folder: Path, baseline: str) -> dict[str, Any]:
    csv = folder / "pooled.csv"
    if not csv.exists():
        pd.read_parquet(folder / "pooled.parquet").to_csv(csv, index=False)
    out = subprocess.run(
        ["Rscript", "-e", R_SCRIPT, str(csv), baseline], capture_output=True, text=True, check=True
    ).stdout
    seconds, *coef = map(float, out.split())
    return {"coef": coef, "seconds": seconds, "memory": 0}


CONTESTANTS = {f.__name__: f for f in (unisono, vectorised, lifelines, statsmodels, coxph)}
REPEATS = {"unisono": 3, "vectorised": 3}


def peak() -> int:
    """Peak memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, baseline: str, folder: Path, limit: float) -> dict[str, Any] | None:
    """The median run of a contestant, each run in a fresh process; None if it did not end within the limit."""
    runs = []
    for _ in range(REPEATS.get(name, 1)):
        command = [sys.executable, __file__, "--one", name, baseline, str(folder)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise SystemExit(f"{name} ({baseline}) failed:\n{done.stderr[-2000:]}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    middle = statistics.median_low([r["seconds"] for r in runs])
    return next(r for r in runs if r["seconds"] == middle)


def has_r() -> bool:
    if not shutil.which("Rscript"):
        return False
    return subprocess.run(["Rscript", "-e", "library(survival)"], capture_output=True, check=False).returncode == 0


def report(patients: int, found: dict[tuple[str, str], dict[str, Any] | None], data_bytes: int, limit: float) -> str:
    """The table, in Markdown."""
    lines = [
        f"One Cox regression (Efron), {patients:,} patients, {COVARIATES} covariates, {SITES} sites, "
        f"times on a grid of {GRIDS['per-site']:,} (baseline per site) and {GRIDS['common']} (common); "
        f"{os.cpu_count()} cores. The data is {data_bytes / 2**20:.0f} MiB as float64.",
        "",
        "| baseline | fit | seconds | against the vectorised pooled fit | Unisono is faster by "
        "| peak memory above start / data | largest difference of a coefficient |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (baseline, name), result in found.items():
        plain, ours = found[baseline, "vectorised"], found[baseline, "unisono"]
        assert plain is not None and ours is not None
        if result is None:
            lines.append(
                f"| {baseline} | {name} | > {limit:.0f} | > {limit / plain['seconds']:.0f}x | > {limit / ours['seconds']:.0f}x | | |"
            )
            continue
        gap = max(abs(a - b) for a, b in zip(result["coef"], ours["coef"], strict=True))
        memory = f"{result['memory'] / data_bytes:.1f}x" if result["memory"] else "not measured"
        lines.append(
            f"| {baseline} | {name} | {result['seconds']:.2f} | {result['seconds'] / plain['seconds']:.2f}x "
            f"| {result['seconds'] / ours['seconds']:.1f}x | {memory} | {gap:.0e} |"
        )
    lines.append("")
    for baseline in dict.fromkeys(b for b, _ in found):
        ours = found[baseline, "unisono"]
        assert ours is not None
        lines.append(
            f"- Unisono, {baseline}: {ours['sums']} sums under secure aggregation; protection (keys, shares, encoding, masks, opening) took "
            f"{100 * ours['protection']:.1f}% of the processor time; with reading and checking the files, {ours['whole']:.2f} s."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=1_000_000)
    parser.add_argument("--skip", action="append", default=[], choices=list(CONTESTANTS))
    parser.add_argument("--limit", type=float, default=900, help="seconds a contestant may take")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, baseline, folder = options.one
        print(json.dumps(CONTESTANTS[name](Path(folder), baseline)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found: dict[tuple[str, str], dict[str, Any] | None] = {}
        for baseline, grid in GRIDS.items():
            (Path(folder) / "pooled.csv").unlink(missing_ok=True)
            make(options.patients, grid, Path(folder))
            for name in CONTESTANTS:
                if name in options.skip or (name == "coxph" and not has_r()):
                    continue
                print(f"{name}, baseline {baseline} ...", file=sys.stderr, flush=True)
                found[baseline, name] = measure(name, baseline, Path(folder), options.limit)
        text = report(options.patients, found, options.patients * (COVARIATES + 2) * 8, options.limit)
    print(text)
    if options.write:
        write_section("statistics", text)


if __name__ == "__main__":
    main()
