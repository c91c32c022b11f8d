"""Boosted trees from federated histograms under secure aggregation, against `xgboost.train(tree_method="hist")` on the pooled patients.

    python benchmarks/boosting.py                   # everything, about ten minutes
    python benchmarks/boosting.py --seeds 2 --skip time

Quality: AUROC on 40% held-out patients that neither has seen, several splits of each data set, the same number of trees, depth, rate and
penalties for both; XGBoost with its usual 256 bins, Unisono with its usual 64 and no leaf of fewer than 10 patients. The first split of
each is grown by five hospitals of different size under secagg, and again from the pooled patients: the two files must be the same bytes
(else the benchmark fails); the other splits are grown from the pooled patients alone, to save the time. Time: processor
time and wall time of one more tree, that is a tenth of what 11 trees take beyond 1, for Unisono with everything (asks, histograms of all
hospitals, masks, journal), for XGBoost `train` alone, on one thread; in the same process and run, three times, medians.
The table goes to docs/benchmarks.md.
"""

from __future__ import annotations

import sys

sys.path[0] += "/peers"  # and not this folder, in which `statistics.py` would hide Python's own

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost
from page import write_section
from sklearn.metrics import roc_auc_score

SITES = 5
HELD_OUT = 0.4
TREES, DEPTH, RATE, PENALTY = 100, 4, 0.1, 1.0
AIM = 0.3
"""Points (hundredths) of AUROC that a mean over the splits may be below XGBoost's."""
Z = 1.96


@dataclass(frozen=True)
class Data:
    """x: features (numbers, booleans as 0/1), NaN where missing. y: 0/1."""

    x: pd.DataFrame
    y: np.ndarray[Any, Any]


def breast_cancer() -> Data:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return Data(pd.DataFrame(found.data).add_prefix("f"), found.target.astype(float))


def gbsg2() -> Data:
    """German breast cancer study (lifelines): an event within two years; patients censored before are left out."""
    from lifelines.datasets import load_gbsg2

    frame = load_gbsg2()
    frame = frame.rename(columns=str.lower)
    frame = frame[(frame["time"] > 730) | (frame["cens"] == 1)]
    y = ((frame["time"] <= 730) & (frame["cens"] == 1)).to_numpy(float)
    x = frame.drop(columns=["time", "cens"])
    return Data(x.apply(lambda c: c.astype("category").cat.codes if c.dtype.kind not in "if" else c).astype(float), y)


def rand_hie() -> Data:
    """RAND health insurance experiment (statsmodels): any visit to a physician in the year."""
    from statsmodels.datasets import randhie

    frame = randhie.load_pandas().data
    return Data(frame.drop(columns="mdvis").astype(float), (frame["mdvis"] > 0).to_numpy(float))


def hard(seed: int, missing: float, **settings: Any) -> Data:
    """Generated: many clusters, flipped labels, most features without information."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        20_000, 40, n_informative=12, n_redundant=4, n_clusters_per_class=8, random_state=seed, **settings
    )
    x[np.random.default_rng(seed).random(x.shape) < missing] = np.nan
    return Data(pd.DataFrame(x).add_prefix("f"), y.astype(float))


DATA: dict[str, Callable[[], Data]] = {
    "breast cancer (569, 30)": breast_cancer,
    "gbsg2, two years (623, 8)": gbsg2,
    "RAND, any visit (20,190, 9)": rand_hie,
    "generated, clusters (20,000, 40)": lambda: hard(1, 0.0, class_sep=0.6, flip_y=0.1),
    "generated, 5% ill, 10% missing (20,000, 40)": lambda: hard(2, 0.1, class_sep=0.8, flip_y=0.02, weights=[0.95]),
}


def document(data: Data, trees: int, depth: int, hide: str, min_sites: int) -> dict[str, Any]:
    """Declared ranges are the data's, rounded outwards a little, as a careful researcher would declare them."""
    variables: dict[str, Any] = {"y": {"type": "boolean"}}
    for name, column in data.x.items():
        low, high = float(column.min()), float(column.max())
        room = 0.02 * (high - low)
        variables[str(name)] = {"type": "number", "min": low - room, "max": high + room}
    return {
        "unisono": 1,
        "id": "benchmark",
        "question": "How good and how fast are federated trees?",
        "variables": variables,
        "analyses": {
            "trees": {
                "method": "hist-boosting", "objective": "logistic", "outcome": "y", "features": list(data.x),
                "trees": trees, "depth": depth, "rate": RATE, "lambda": PENALTY,
            }
        },
        "protection": {"hide": hide},
        "release": {"min_sites": min_sites},
    }  # fmt: skip


def unisono(data: Data, trees: int, depth: int, hide: str, hospitals: int = SITES) -> tuple[bytes, float]:
    """The model file, and the seconds of the analysis."""
    from unisono.engines.embedded.run import Settings, SiteData, run_study
    from unisono.methods.registry import check
    from unisono.study.load import load

    rng = np.random.default_rng(0)
    where = rng.choice(SITES, len(data.y), p=np.array([8, 5, 3, 2, 2]) / 20) % hospitals
    frame = data.x.assign(y=data.y > 0.5)
    sites = {f"site{k}": SiteData(frame[where == k].reset_index(drop=True)) for k in range(hospitals)}
    with tempfile.TemporaryDirectory() as out:
        outcome = run_study(
            load(document(data, trees, depth, hide, min(3, hospitals)), check), sites, Path(out), Settings()
        ).outcomes["trees"]
    if outcome.error is not None:
        raise outcome.error
    assert outcome.answer is not None
    return outcome.answer.result.files()["model.xgboost.json"], outcome.seconds


def settings(depth: int) -> dict[str, Any]:
    return {
        "objective": "binary:logistic", "tree_method": "hist", "max_depth": depth, "eta": RATE, "lambda": PENALTY,
        "nthread": 1,  # on busy cores its threads spin, and their processor time says nothing
    }  # fmt: skip


def peer(data: Data, trees: int, depth: int) -> tuple[xgboost.Booster, float]:
    matrix = xgboost.DMatrix(data.x, data.y)
    matrix.num_row()
    began = time.perf_counter()
    booster = xgboost.train(settings(depth), matrix, trees)
    return booster, time.perf_counter() - began


def quality(name: str, seeds: int) -> str:
    """One row: mean AUROC of both, and the paired difference with its interval."""
    data = DATA[name]()
    found = []
    for seed in range(seeds):
        test = np.random.default_rng(seed).random(len(data.y)) < HELD_OUT
        train = Data(data.x[~test].reset_index(drop=True), data.y[~test])
        model, _ = unisono(train, TREES, DEPTH, "none", hospitals=1)
        if seed == 0 and unisono(train, TREES, DEPTH, "secagg")[0] != model:
            raise SystemExit(f"{name}: five hospitals do not grow the trees of the pooled patients")
        ours = xgboost.Booster()
        ours.load_model(bytearray(model))
        theirs, _ = peer(train, TREES, DEPTH)
        unseen = xgboost.DMatrix(data.x[test])
        found.append([100 * roc_auc_score(data.y[test], b.predict(unseen)) for b in (ours, theirs)])
        print(f"{name}, split {seed}: {found[-1][0]:.2f} {found[-1][1]:.2f}", file=sys.stderr, flush=True)
    ours_, theirs_ = np.array(found).T
    gap = ours_ - theirs_
    mean = float(gap.mean())
    reach = Z * float(gap.std(ddof=1)) / np.sqrt(seeds) if seeds > 1 else float("nan")
    verdict = "met" if mean >= -AIM else "**not met**"
    return f"| {name} | {ours_.mean():.2f} | {theirs_.mean():.2f} | {mean:+.2f} | {mean - reach:+.2f} to {mean + reach:+.2f} | {verdict} |"


def speed(patients: int, features: int, depth: int, hide: str) -> str:
    """One row: milliseconds of one more tree, medians of three."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(patients, features))
    y = x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=patients) > 0
    data = Data(pd.DataFrame(x).add_prefix("f"), y.astype(float))

    def spent(fit: Callable[[int], Any]) -> list[float]:
        """Processor and wall milliseconds of a tree beyond the first."""
        taken = []
        for trees in (1, 11):
            used, began = time.process_time(), time.perf_counter()
            fit(trees)
            taken.append((1000 * (time.process_time() - used), 1000 * (time.perf_counter() - began)))
        return [(after - before) / 10 for before, after in zip(*taken, strict=True)]

    runs = [
        [*spent(lambda t: unisono(data, t, depth, hide)), *spent(lambda t: peer(data, t, depth))]
        for _ in range(REPEATS)
    ]
    cpu, wall, cpu_peer, wall_peer = (statistics.median(column) for column in zip(*runs, strict=True))
    print(
        f"{patients}, {depth}, {hide}: {cpu:.0f} {wall:.0f} {cpu_peer:.1f} {wall_peer:.1f}", file=sys.stderr, flush=True
    )
    return (
        f"| {patients:,} | {features} | {depth} | {hide} | {cpu:.0f} | {cpu_peer:.1f} | {cpu / cpu_peer:.1f}x "
        f"| {wall:.0f} | {wall_peer:.1f} |"
    )


REPEATS = 3
SPEEDS = [(1_000, 30, 4), (20_000, 30, 4), (100_000, 30, 4), (100_000, 30, 6)]


def report(seeds: int, skip: list[str]) -> str:
    """The tables, in Markdown."""
    lines = [
        f"{SITES} hospitals (whose model is the pooled one to the last bit), {TREES} trees of depth {DEPTH}, rate {RATE}; "
        f"AUROC (points, hundredths) on {HELD_OUT:.0%} held-out "
        f"patients, mean of {seeds} splits. XGBoost {xgboost.__version__} on the pooled patients; {os.cpu_count()} cores.",
        "",
    ]
    if "quality" not in skip:
        lines += [
            f"| data (patients, features) | Unisono | XGBoost | difference | 95% interval | at most {AIM} below |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
            *(quality(name, seeds) for name in DATA),
            "",
        ]
    if "time" not in skip:
        lines += [
            "One more tree, of all hospitals and the coordinator together:",
            "",
            "| patients | features | depth | hide | Unisono, CPU ms | XGBoost, CPU ms | ratio | Unisono, wall ms | XGBoost, wall ms |",
            "| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
            *(speed(*size, hide) for size in SPEEDS for hide in ("none", "secagg")),
        ]
    return "\n".join(lines).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--skip", action="append", default=[], choices=["quality", "time"])
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    text = report(options.seeds, options.skip)
    print(text)
    if options.write:
        write_section("boosting", text)


if __name__ == "__main__":
    main()
