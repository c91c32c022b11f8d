"""Images as another scanner would have given them: contrast, gain and noise, in the file format that they came in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from unisono.errors import DataError, MissingExtra, UnisonoError

Pixels = NDArray[np.float64]

NOISE = 0.1
"""Standard deviation of a strength-1 scanner's noise, in parts of the range of intensities."""


@dataclass(frozen=True)
class Scanner:
    """How one site's scanner shows what is there: intensities (from 0 to 1) to the power of `contrast`, times `gain`, plus normal
    noise of standard deviation `noise`; what is then outside 0 to 1 is cut off, as a detector does."""

    gain: float
    contrast: float
    noise: float

    @staticmethod
    def drawn(strength: float, rng: Generator) -> Scanner:
        """Logarithms of contrast and (half as strong) gain normal with standard deviation `strength`; noise half-normal."""
        contrast, gain, noise = rng.standard_normal(3) * strength
        return Scanner(float(np.exp(gain / 2)), float(np.exp(contrast)), float(abs(noise) * NOISE))

    def scan(self, intensities: Pixels, rng: Generator) -> Pixels:
        """`intensities` of any shape, from 0 to 1, as this scanner shows them."""
        shown = self.gain * np.clip(intensities, 0, 1) ** self.contrast
        noisy: Pixels = np.clip(shown + self.noise * rng.standard_normal(intensities.shape), 0, 1)
        return noisy


def rescanned(source: Path, target: Path, scanner: Scanner, rng: Generator) -> Pixels:
    """Write `source` as `scanner` would have given it; the intensities (0 to 1) that were written. PNG, NIfTI and uncompressed DICOM.
    `DataError` if the file is none of these."""
    name = source.name.lower()
    way = next((way for ending, way in _WAYS.items() if name.endswith(ending)), None)
    if way is None:
        raise _unreadable(source)
    try:
        return way(source, target, scanner, rng)
    except UnisonoError:
        raise
    except ImportError as error:
        raise MissingExtra(
            "Reading images needs packages that are not installed.",
            rule="optional-extra",
            remedy="Install them with: pip install 'unisono[images]'",
        ) from error
    except Exception:  # noqa: BLE001  (what a damaged image makes its reader raise is anybody's guess; it may hold a patient's name)
        raise _unreadable(source) from None


def intensities(path: Path) -> Pixels:
    """A PNG's intensities from 0 to 1, for figures."""
    from PIL import Image

    with Image.open(path) as image:
        return _from_integers(np.asarray(image))


def _png(source: Path, target: Path, scanner: Scanner, rng: Generator) -> Pixels:
    from PIL import Image

    with Image.open(source) as image:
        stored = np.asarray(image)
    shown = scanner.scan(_from_integers(stored), rng)
    Image.fromarray(np.round(shown * np.iinfo(stored.dtype).max).astype(stored.dtype)).save(target, format="PNG")
    return shown


def _nifti(source: Path, target: Path, scanner: Scanner, rng: Generator) -> Pixels:
    import nibabel

    image: Any = nibabel.load(source)
    stored = np.asarray(image.get_fdata(), np.float64)
    low, high = float(stored.min()), float(stored.max())
    span = (high - low) or 1.0
    shown = scanner.scan((stored - low) / span, rng)
    header = image.header.copy()
    header.set_data_dtype(np.float32)
    nibabel.save(image.__class__((shown * span + low).astype(np.float32), image.affine, header), target)
    return shown


def _dicom(source: Path, target: Path, scanner: Scanner, rng: Generator) -> Pixels:
    import pydicom

    file = pydicom.dcmread(source)
    stored = file.pixel_array
    low, high = float(stored.min()), float(stored.max())
    span = (high - low) or 1.0
    shown = scanner.scan((stored - low) / span, rng)
    pixels = np.round(shown * span + low).astype(stored.dtype).tobytes()
    file.PixelData = pixels + b"\0" * (len(pixels) % 2)  # of even length (DICOM PS3.5, 7.1.1)
    file.save_as(target)
    return shown


_WAYS = {".png": _png, ".nii": _nifti, ".nii.gz": _nifti, ".dcm": _dicom}


def _from_integers(stored: NDArray[Any]) -> Pixels:
    return np.asarray(stored, np.float64) / np.iinfo(stored.dtype).max


def _unreadable(path: Path) -> DataError:
    return DataError(
        f"The image {path.name} cannot be given another scanner's look.",
        rule="image-format",
        remedy="Give PNG (integers, no palette), NIfTI (.nii, .nii.gz) or uncompressed DICOM (.dcm) files.",
    )
