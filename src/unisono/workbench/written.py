"""A split as files: what each site would have, a study to begin with, the record of what was done, and figures.

OUT/data/<site>.csv or .parquet    a site's table; its images beside it, in <site>/
OUT/data/<site>.mapping.yaml       where it records another unit, and says so
OUT/sites.yaml, OUT/study.yaml     for `unisono run OUT/study.yaml --sites OUT/sites.yaml`
OUT/partition.json                 source, seed, and all that was done to every site
OUT/figures/                       class mix, sizes, feature shift
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml

from unisono.errors import DataError, StorageError
from unisono.federation.storage import storage
from unisono.version import VERSION
from unisono.workbench.collection import Collection
from unisono.workbench.draft import study_of
from unisono.workbench.partition import Plan, Split, split
from unisono.workbench.scanners import rescanned

RECORD = "partition.json"
STUDY, SITES, DATA, FIGURES = "study.yaml", "sites.yaml", "data", "figures"
Format = Literal["csv", "parquet"]
Advance = Callable[[int], None]
"""Told of each site that is written."""


@dataclass(frozen=True)
class Partition:
    """What was written, and where."""

    folder: Path
    collection: Collection
    plan: Plan
    splits: tuple[Split, ...]
    intensities: dict[str, list[float]]
    """By site, each image's mean intensity; empty where there are none."""

    @property
    def study(self) -> Path:
        return self.folder / STUDY

    @property
    def sites(self) -> Path:
        return self.folder / SITES


def write(
    collection: Collection,
    plan: Plan,
    out: Path,
    *,
    form: Format = "csv",
    fresh: bool = False,
    advance: Advance = lambda _: None,
    analyses: Mapping[str, Mapping[str, Any]] | None = None,
) -> Partition:
    """Split `collection` and write it to `out`. analyses: of the study, what is said otherwise than in the draft, or of further ones.
    `StorageError` (``own-folder``) if `out` holds something already."""
    splits = split(collection, plan)
    _own(out, fresh=fresh)
    data = out / DATA
    with storage(out, "partition"):
        data.mkdir(parents=True, exist_ok=True)
        entries: dict[str, dict[str, str]] = {}
        shown: dict[str, list[float]] = {}
        for site in splits:
            if collection.image is not None:
                shown[site.name] = _images(collection, plan, site, data)
            entries[site.name] = _site(site, data, form)
            advance(1)
        _yaml(out / SITES, {"sites": entries})
        _yaml(out / STUDY, study_of(collection, splits, analyses or {}))
        record = _record(collection, plan, splits, out)
        (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return Partition(out, collection, plan, splits, shown)


def _own(out: Path, *, fresh: bool) -> None:
    """An empty folder, or an earlier partition that `fresh` may remove: its own files, nothing else."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not (fresh and (out / RECORD).exists()):
        raise StorageError(
            f"{out} holds {'an earlier partition' if (out / RECORD).exists() else 'files that are no partition'}.",
            rule="own-folder",
            remedy="Name a new folder with --out, or write an earlier partition over with --fresh.",
        )
    with storage(out, "partition"):
        for name in (DATA, FIGURES):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in (RECORD, STUDY, SITES):
            (out / name).unlink(missing_ok=True)


def _site(site: Split, data: Path, form: Format) -> dict[str, str]:
    path = data / f"{site.name}.{form}"
    if form == "csv":
        path.write_text(site.frame.to_csv(index=False, float_format="%.10g"), "utf-8")
    else:
        site.frame.to_parquet(path, index=False)
    entry = {"data": f"{DATA}/{path.name}"}
    if site.units:
        mapping = data / f"{site.name}.mapping.yaml"
        _yaml(mapping, {"unisono-mapping": 1, "variables": {k: {"unit": unit} for k, unit in site.units.items()}})
        entry["mapping"] = f"{DATA}/{mapping.name}"
    return entry


def _images(collection: Collection, plan: Plan, site: Split, data: Path) -> list[float]:
    """Copy a site's images, through its scanner where it has one of its own; the frame then names the copies."""
    assert collection.image is not None and collection.folder is not None
    rng = np.random.default_rng([plan.seed, *site.rows[:1].tolist(), len(site.rows)])
    (data / site.name).mkdir()
    names, means = [], []
    for number, written in enumerate(site.frame[collection.image]):
        source = collection.folder / str(written)
        if not source.is_file():
            raise DataError(
                f"The image of a patient of {site.name} is not in {collection.folder}.",
                rule="image-file",
                remedy=f"The column {collection.image!r} must name files relative to --images.",
            )
        target = (
            data
            / site.name
            / f"{number:06d}{''.join(source.suffixes[-2:] if source.name.endswith('.gz') else [source.suffix])}"
        )
        if site.scanner is None:
            shutil.copyfile(source, target)
        else:
            means.append(float(rescanned(source, target, site.scanner, rng).mean()))
        names.append(f"{site.name}/{target.name}")
    site.frame[collection.image] = names
    return means


def _record(collection: Collection, plan: Plan, splits: Sequence[Split], out: Path) -> dict[str, Any]:
    files = {path.relative_to(out).as_posix(): _sha256(path) for path in sorted((out / DATA).glob("*.*"))}
    return {
        "made_by": f"unisono {VERSION}, simulate partition",
        "source": {"name": collection.name, "origin": collection.origin, "sha256": collection.digest or None},
        "label": collection.label,
        "plan": asdict(plan),
        "differences": plan.differences(),
        "sites": {site.name: dict(site.record) for site in splits},
        "files": files,
    }


def _yaml(path: Path, value: Any) -> None:
    apart = json.loads(
        json.dumps(value)
    )  # lists that are there twice would be written as aliases, which a study may not have
    text = yaml.safe_dump(apart, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    path.write_text(text, "utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pooled(splits: Sequence[Split]) -> pd.DataFrame:
    """Everybody's patients in one table: what pooling would give, with every site's differences in it."""
    return pd.concat([site.frame for site in splits], ignore_index=True)
