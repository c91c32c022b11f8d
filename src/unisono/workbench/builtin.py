"""Data sets that need no file: two out of scikit-learn, and one that is generated, as hard as it is told to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unisono.errors import MissingExtra, StudyError
from unisono.workbench.collection import Collection, Kind


def breast_cancer() -> Collection:
    """569 biopsies of breast masses, 30 numbers each, malignant or not (Wolberg, Street & Mangasarian 1995)."""
    bunch = _datasets().load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in bunch.feature_names]
    frame = pd.DataFrame(np.asarray(bunch.data, np.float64), columns=names)
    frame["malignant"] = (bunch.target == 0).astype(np.float64)
    kinds: dict[str, Kind] = {**dict.fromkeys(names, "number"), "malignant": "boolean"}
    return Collection(
        "breast-cancer", frame, kinds, "malignant", "real: Wisconsin diagnostic breast cancer, scikit-learn's copy"
    )


def digits() -> Collection:
    """1,797 handwritten digits of 8 by 8 pixels as 64 numbers from 0 to 16 (Alpaydin & Kaynak 1998)."""
    bunch = _datasets().load_digits()
    names = [f"p{row}{column}" for row in range(8) for column in range(8)]
    frame = pd.DataFrame(np.asarray(bunch.data, np.float64), columns=names)
    frame["digit"] = [str(target) for target in bunch.target]
    kinds: dict[str, Kind] = {**dict.fromkeys(names, "number"), "digit": "category"}
    return Collection("digits", frame, kinds, "digit", "real: optical recognition of digits, scikit-learn's copy")


def generated(patients: int = 2400, classes: int = 6, features: int = 24, seed: int = 20261130) -> Collection:
    """Invented patients of `classes` diseases. Each disease is a mixture of three clusters in 12 hidden dimensions, mixed into
    `features` measurements with noise, 3% of labels wrong: neither linear nor separable (Guyon 2003, as scikit-learn makes it)."""
    values, target = _datasets().make_classification(
        n_samples=patients,
        n_features=features,
        n_informative=12,
        n_redundant=4,
        n_classes=classes,
        n_clusters_per_class=3,
        class_sep=1.6,
        flip_y=0.03,
        random_state=seed,
    )
    names = [f"x{k:02d}" for k in range(features)]
    frame = pd.DataFrame(np.round(np.asarray(values, np.float64), 4), columns=names)
    frame["disease"] = [f"d{k}" for k in target]
    kinds: dict[str, Kind] = {**dict.fromkeys(names, "number"), "disease": "category"}
    return Collection("generated", frame, kinds, "disease", f"generated: no patient is real (seed {seed})")


def digits_images(folder: Path) -> Collection:
    """The same digits as PNG files of 8 by 8 pixels, which are written to `folder`."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra(
            "Images need packages that are not installed.",
            rule="optional-extra",
            remedy="Install them with: pip install 'unisono[images]'",
        ) from error
    bunch = _datasets().load_digits()
    names = [f"{k:04d}.png" for k in range(len(bunch.target))]
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(names, bunch.images, strict=True):
        Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(folder / name)
    frame = pd.DataFrame({"digit": [str(target) for target in bunch.target], "image": names})
    origin = "real: optical recognition of digits, scikit-learn's copy, as PNG"
    return Collection("digits-images", frame, {"digit": "category"}, "digit", origin, {}, "image", folder)


BUILT_IN: dict[str, Callable[[], Collection]] = {
    "breast-cancer": breast_cancer,
    "digits": digits,
    "generated": generated,
}
NAMES = (*BUILT_IN, "digits-images")


def built_in(name: str, scratch: Path) -> Collection:
    """The data set of this name; its images, if it has any, are written to `scratch`. `StudyError` if there is none, `MissingExtra`
    without scikit-learn."""
    if name not in NAMES:
        raise StudyError(
            f"There is no file and no data set {name!r}.",
            rule="known-data",
            remedy=f"Give a CSV or Parquet file, or one of: {', '.join(NAMES)}.",
        )
    return digits_images(scratch) if name == "digits-images" else BUILT_IN[name]()


def _datasets() -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtra(
            "This data is in scikit-learn, which is not installed.",
            rule="optional-extra",
            remedy="Install it with: pip install 'unisono[training]'",
        ) from error
    return datasets
