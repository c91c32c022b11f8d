"""One contestant's run with one seed, as it is kept: what it cost, how it learnt, how good it was in the end, and at whom."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unisono.errors import StorageError
from unisono.federation.storage import storage, write_whole

POOLED, ALONE = "pooled", "alone"
"""The references: everybody's patients at one site, which no network of hospitals could have; and each site by itself."""
REFERENCES = (POOLED, ALONE)


@dataclass(frozen=True)
class Point:
    """After so many rounds: mean loss on the validation patients, and their metric (None: was not measured)."""

    round: int
    loss: float | None
    metric: float | None


@dataclass(frozen=True)
class Trial:
    """method: its name, or one of `REFERENCES`. metrics: on the validation patients of all sites, each site with the model that
    it would use. by_site: the same of each site's own. failed: why there is no result, in words."""

    method: str
    seed: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    by_site: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    curve: tuple[Point, ...] = ()
    seconds: float = 0.0
    sent_bytes: int = 0
    failed: str = ""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.method}-seed{self.seed}"

    def save(self, folder: Path) -> None:
        """Into ``<folder>/<name>.json``, whole or not at all."""
        with storage(folder, "trial"):
            folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{self.name}.json", (json.dumps(asdict(self), indent=1) + "\n").encode(), "trial")

    @staticmethod
    def load(path: Path) -> Trial:
        """What `save` wrote. `StorageError` if it is something else."""
        try:
            written: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return Trial(**{**written, "curve": tuple(Point(**point) for point in written["curve"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StorageError(
                f"{path} is no finished run of a comparison.",
                rule="comparison-files",
                remedy="Remove it: that run is then repeated.",
            ) from error
