"""Images' files as hospitals have them, written for a test: PNG, NIfTI in any orientation, DICOM of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from unisono.study.document import Study

PATIENT = "Rossi^Maria"
"""In every DICOM file, and never in a message."""


def png(path: Path, pixels: NDArray[Any]) -> Path:
    """(h, w) grey levels (uint8, uint16) or (h, w, 3 or 4) colours (uint8)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def nifti(path: Path, volume: NDArray[Any], orientation: str = "RAS", slope: float | None = None) -> Path:
    """`volume`, given to the right, front and top (RAS+), stored with its axes in another order and direction; times `slope`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    padded = volume.reshape((*volume.shape, 1, 1)[: max(volume.ndim, 3)])
    canonical = nib.Nifti1Image(padded, np.diag([2.0, 3.0, 4.0, 1.0]))
    towards = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
    )
    image = canonical.as_reoriented(towards)
    assert "".join(nib.aff2axcodes(image.affine)) == orientation
    if slope is not None:
        image.header.set_slope_inter(slope, 0.0)
    nib.save(image, path)
    return path


def dicom(path: Path, pixels: NDArray[Any], **tags: Any) -> Path:
    """(h, w), (frames, h, w) or (h, w, 3) of uint8, uint16 or int16; tags as in ``RescaleSlope=2``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID = PATIENT, "MRN-4711"
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.ndim == 3 and not colour:
        data.NumberOfFrames = pixels.shape[0]
    data.Rows, data.Columns = pixels.shape[:2] if colour or pixels.ndim == 2 else pixels.shape[1:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def grey(seed: int, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    """A picture of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def study(**scan: Any) -> Study:
    """A study with an image `scan` of 8 x 8, and `age`; settings of the image as given."""
    image = {"type": "image", "size": [8, 8], "intensity": {"window": [0, 255]}, **scan}
    return Study.model_validate(
        {
            "unisono": 1,
            "id": "scans",
            "question": "?",
            "variables": {"scan": image, "age": {"type": "number", "unit": "a", "min": 0, "max": 110}},
            "analyses": {"ages": {"method": "describe"}},
        }
    )


def table(folder: Path, names: Sequence[str | None], **columns: Any) -> Path:
    """A hospital's CSV beside its images: `scan` holds the files' names."""
    path = folder / "site.csv"
    ages = {"age": np.linspace(20, 80, len(names))}
    pd.DataFrame({"scan": names, **ages, **columns}).to_csv(path, index=False)
    return path
