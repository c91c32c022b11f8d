"""A network learns from images that three hospitals keep in their own formats: from files beside a table to predictions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import unisono
from tests.support import pictures
from unisono.api import StudyResult
from unisono.methods.registry import check
from unisono.methods.training.result import TrainingResult
from unisono.site.data.snapshot import freeze
from unisono.study.document import Study
from unisono.study.load import StudyProblems, load

EXAMPLE = Path(__file__).parent.parent / "examples" / "chest-ct.yaml"
SITES = ("leiden", "padua", "turin")
PATIENTS = 120
"""At each site."""
WITHOUT = 4
"""... of whom the first have no picture."""


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Pictures (n, 8, 8) of written digits, and which they are, in a fixed random order."""
    from sklearn.datasets import load_digits

    whole = load_digits()
    order = np.random.default_rng(0).permutation(len(whole.target))
    return np.round(whole.images[order] * (255 / 16)).astype(np.uint8), whole.target[order].astype(str)


def as_png(folder: Path, name: str, picture: NDArray[np.uint8]) -> str:
    pictures.png(folder / f"{name}.png", picture)
    return f"{name}.png"


def as_inverted_dicom(folder: Path, name: str, picture: NDArray[np.uint8]) -> str:
    pictures.dicom(folder / name, 255 - picture, PhotometricInterpretation="MONOCHROME1")
    return name


def as_nifti(folder: Path, name: str, picture: NDArray[np.uint8]) -> str:
    pictures.nifti(folder / f"{name}.nii.gz", picture[::-1, ::-1].T.astype(np.int16), "LPI")
    return f"{name}.nii.gz"


def hospital(home: Path, place: int, write: Callable[[Path, str, NDArray[np.uint8]], str]) -> Path:
    """The table of one site, beside a folder of its pictures."""
    whole, labels = digits()
    rows = range(place * PATIENTS, (place + 1) * PATIENTS)
    names = [f"scans/{write(home / 'scans', f'{row:04}', whole[row])}" for row in rows]
    frame = pd.DataFrame({"file": [""] * WITHOUT + names[WITHOUT:], "digit": labels[list(rows)]})
    frame.to_csv(home / "patients.csv", index=False)
    return home / "patients.csv"


def study(**analysis: Any) -> Study:
    document = {
        "unisono": 1,
        "id": "digits",
        "question": "Which digit was written?",
        "variables": {
            "scan": {"type": "image", "size": [8, 8], "intensity": {"window": [0, 255]}},
            "digit": {"type": "category", "levels": [str(k) for k in range(10)]},
        },
        "analyses": {
            "model": {
                "method": "fedavg",
                "outcome": "digit",
                "features": ["scan"],
                "model": {"kind": "cnn", "channels": [8], "hidden": 32},
                "local": {"epochs": 2, "batch": 16, "rate": 0.05, "momentum": 0.9},
                "rounds": {"most": 5},
                "seed": 1,
                **analysis,
            }
        },
        "release": {"min_sites": 3, "min_count": 5},
    }
    return load(document, check)


MAPPING = {"variables": {"scan": {"column": "file"}}}


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """Of three hospitals with three formats."""
    folder = tmp_path_factory.mktemp("digits")
    formats = zip(SITES, (as_png, as_inverted_dicom, as_nifti), strict=True)
    sites = {name: (hospital(folder / name, k, write), MAPPING) for k, (name, write) in enumerate(formats)}
    return unisono.run(study(), sites, out=folder / "out")


def test_a_network_learns_digits_from_pictures_that_stay_at_three_hospitals(answer: StudyResult) -> None:
    result = answer["model"]
    assert isinstance(result, TrainingResult)
    values = result.summary()["value"]
    assert values["accuracy"] > 0.75  # chance is 0.1
    losses = [entry["validation"] for entry in result.estimates["rounds"]]  # the first before any training
    assert losses[-1] < 0.5 * losses[0]


def test_patients_without_a_picture_are_counted_and_left_out(answer: StudyResult) -> None:
    outcome = answer.completed.outcomes["model"].answer
    assert outcome is not None
    cohort = outcome.cohort.estimates
    assert (cohort["read"], cohort["patients"]) == (3 * PATIENTS, 3 * (PATIENTS - WITHOUT))


def test_the_format_in_which_a_hospital_keeps_its_pictures_changes_no_bit_of_them(tmp_path: Path) -> None:
    images = [
        freeze(hospital(tmp_path / write.__name__, 0, write), MAPPING, study(), "leiden").table.images["scan"]
        for write in (as_png, as_inverted_dicom, as_nifti)
    ]
    assert images[0].shape == (PATIENTS, 1, 8, 8)
    np.testing.assert_array_equal(images[0][WITHOUT:, 0] * np.float32(255), digits()[0][WITHOUT:PATIENTS])
    np.testing.assert_array_equal(images[1], images[0])
    np.testing.assert_array_equal(images[2], images[0])


def test_the_model_file_predicts_new_pictures_by_the_studys_own_preparation(
    answer: StudyResult, tmp_path: Path
) -> None:
    from unisono.site.prediction import open_model, predict

    whole, labels = digits()
    rows = range(900, 960)
    names = [as_png(tmp_path, str(row), whole[row]) for row in rows]
    pd.DataFrame({"scan": [*names, ""]}).to_csv(tmp_path / "new.csv", index=False)
    found = predict(open_model(answer.folder / "model"), tmp_path / "new.csv")
    chances = found.values[:-1, :10]
    assert np.isnan(found.values[-1]).all()  # who has no picture has no prediction
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert np.mean(chances.argmax(axis=1).astype(str) == labels[list(rows)]) > 0.75


def test_the_example_with_images_is_sound() -> None:
    example = load(EXAMPLE, check)
    assert example.variables["scan"].type == "image"


@pytest.mark.parametrize(
    ("analysis", "said"),
    [
        ({"model": {"kind": "mlp", "hidden": [8]}}, "reads no image"),
        ({"model": {"kind": "cnn", "channels": [4, 4, 4, 4]}}, "nothing of an image of 8 x 8"),
        ({"outcome": "scan", "features": ["digit"], "model": {"kind": "mlp", "hidden": [8]}}, "scan"),
    ],
    ids=str,
)
def test_a_model_that_does_not_fit_the_image_is_refused_when_the_study_is_checked(
    analysis: dict[str, Any], said: str
) -> None:
    with pytest.raises(StudyProblems) as refused:
        study(**analysis)
    assert any(said in problem.what + problem.remedy for problem in refused.value.problems)
