"""One picture from a file's bytes: PNG, NIfTI and DICOM, told apart by what is in them and not by their names.

What is wrong with a file is said in words of ours (`Unreadable`): the readers' own messages may quote what the file holds, and
a DICOM file holds the patient's name. Of a DICOM file only the tags that its pixels need are read at all.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unisono.errors import MissingExtra
from unisono.study.document import ImageVariable

Pixels = NDArray[np.float64]
Format = Literal["PNG", "NIfTI", "DICOM"]

MAX_PIXELS = 1 << 26
"""Of a file, all planes and frames together: 8192 x 8192, or 512 x 512 x 256."""
MAX_UNPACKED = 1 << 29
"""Bytes (512 MiB) that a compressed NIfTI file may have inside."""

_PNG = b"\x89PNG\r\n\x1a\n"
_GZIP = b"\x1f\x8b"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis that a plane cuts, of the axes to the right, to the front and to the top (RAS+)."""
_TAGS = [
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    "FloatPixelData", "DoubleFloatPixelData", "PixelData",
]  # fmt: skip


class Unreadable(Exception):
    """A file that is no picture for this study. what: goes on after "names files that ". Never leaves this package."""

    def __init__(self, what: str, rule: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.rule, self.remedy = what, rule, remedy


@dataclass(frozen=True)
class Picture:
    """pixels: (channels, height, width) in the file's own quantity, 1 channel or 3. dark_is_high: a DICOM file whose high
    values are shown dark (MONOCHROME1)."""

    pixels: Pixels
    format: Format
    dark_is_high: bool = False


def decode(content: bytes, variable: ImageVariable) -> Picture:
    """The picture in a file. `Unreadable` if there is none; `MissingExtra` if its format's reader is not installed."""
    read = _reader(content)
    try:
        with _quietly():
            picture = read(content, variable)
    except ImportError:
        raise MissingExtra(
            "Reading images needs Pillow, nibabel and pydicom, which are not all installed.",
            rule="optional-extra",
            remedy="Install with: pip install 'unisono[images]'",
        ) from None
    except (Unreadable, MemoryError):
        raise
    except Exception:  # noqa: BLE001  (what a damaged file makes a reader raise is anybody's guess, and may quote the file)
        raise _damaged() from None
    if not np.isfinite(picture.pixels).all():
        remedy = "Replace NaN and infinite values in the files, for example by the value of the background."
        raise Unreadable("have pixels that are not finite numbers", "image-pixels", remedy)
    return picture


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the readers' warnings and logs: they quote what is in the file."""
    loggers = [logging.getLogger(name) for name in ("nibabel.global", "pydicom", "PIL")]
    were = [logger.disabled for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.disabled = True
            yield
    finally:
        for logger, was in zip(loggers, were, strict=True):
            logger.disabled = was


def _reader(content: bytes) -> Callable[[bytes, ImageVariable], Picture]:
    if content.startswith(_PNG):
        return _png
    if content[128:132] == b"DICM":
        return _dicom
    if content.startswith(_GZIP) or _is_nifti(content):
        return _nifti
    raise Unreadable(
        "are neither PNG, NIfTI nor DICOM",
        "image-formats",
        "Convert them: PNG for pictures, NIfTI (.nii or .nii.gz in one file) or DICOM (with its preamble) for scans.",
    )


def _damaged() -> Unreadable:
    return Unreadable("cannot be read", "readable-image", "They may be damaged or half copied; export them again.")


def _too_large(pixels: int) -> Unreadable:
    what = f"hold {pixels:,} pixels, more than {MAX_PIXELS:,},"
    return Unreadable(what, "size-limits", "Cut or shrink them before they are given to Unisono.")


# --- PNG -------------------------------------------------------------------------------------------------------------


def _png(content: bytes, _: ImageVariable) -> Picture:
    from PIL import Image

    # The header chunk comes first (PNG, section 11.2.1): nothing is unpacked before its size is known.
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    if width * height > MAX_PIXELS:
        raise _too_large(width * height)
    if depth == 16 and colour != 0:
        remedy = "Save them with 8 bits a channel, or as grey levels with 16."
        raise Unreadable("are in colour with 16 bits a channel", "image-formats", remedy)
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise Unreadable("are animations", "image-formats", "Save one picture of each.")
        deep = image.mode.startswith("I")  # grey levels with 16 bits
        alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
        if alpha and (deep or image.convert("RGBA").getchannel("A").getextrema()[0] != 255):
            remedy = "Save them without transparency, on the background that they should have."
            raise Unreadable("are transparent in places", "image-formats", remedy)
        grey = deep or image.mode in ("1", "L", "LA")
        pixels = np.asarray(image if deep else image.convert("L" if grey else "RGB"), np.float64)
    return Picture(pixels[np.newaxis] if grey else np.moveaxis(pixels, 2, 0), "PNG")


# --- NIfTI -----------------------------------------------------------------------------------------------------------


def _is_nifti(content: bytes) -> bool:
    return content[344:348] == b"n+1\0" or content[4:12] == b"n+2\0\r\n\x1a\n"


def _nifti(content: bytes, variable: ImageVariable) -> Picture:
    """One plane, as a radiologist sees it: the patient's right at the left, the front or the top of the head above, whatever
    the order in which the file holds them."""
    import nibabel as nib

    if content.startswith(_GZIP):
        content = _unpacked(content)
        if not _is_nifti(content):
            raise _damaged()
    kind = nib.Nifti1Image if content[344:348] == b"n+1\0" else nib.Nifti2Image
    volume: Any = kind.from_bytes(content)
    size = math.prod(volume.shape)
    if size > MAX_PIXELS or size < 1:
        raise _too_large(size)
    header: Any = volume.header
    if header.get_data_dtype().kind not in "iuf":
        raise Unreadable(
            "hold colours or complex numbers", "image-formats", "Save one quantity, as integers or floats."
        )
    if not (header["sform_code"] > 0 or header["qform_code"] > 0):
        what = "do not say which side of the patient is which (neither sform nor qform)"
        raise Unreadable(what, "image-orientation", "Export them again with their orientation.")
    orientations: Any = nib.orientations
    orientation = orientations.io_orientation(volume.affine)
    if not np.isfinite(orientation).all():
        raise Unreadable("have an orientation that is none", "image-orientation", "Export them again.")
    # Of each axis to the right, front and top: which of the file's it is, and whether that one runs the same way.
    axes = {int(to): (axis, flip > 0) for axis, (to, flip) in enumerate(orientation)}
    shape = (*volume.shape, 1, 1)[:3]
    cut = _cut([shape[axes[to][0]] for to in range(3)], axes, variable)
    axis, along = axes[cut]
    place = 0 if variable.slice is None else min(int(variable.slice.at * shape[axis]), shape[axis] - 1)
    where: list[slice | int] = [slice(None) for _ in volume.shape[:3]]
    if axis < volume.ndim:
        where[axis] = place if along else shape[axis] - 1 - place
    where += _frame_of(volume.shape[3:], variable)
    plane = np.asarray(volume.dataobj[tuple(where)], np.float64)
    low, high = (to for to in range(3) if to != cut)
    if axes[low][0] > axes[high][0]:
        plane = plane.T
    plane = plane[
        :: 1 if axes[low][1] else -1, :: 1 if axes[high][1] else -1
    ]  # now to the right or front, and to the front or top
    return Picture(np.ascontiguousarray(plane.T[::-1, ::-1])[np.newaxis], "NIfTI")


def _unpacked(content: bytes) -> bytes:
    """A gzip file's bytes, never more than the limit."""
    unpacker = zlib.decompressobj(wbits=31)
    found = unpacker.decompress(content, MAX_UNPACKED)
    if unpacker.unconsumed_tail:
        what = f"have more than {MAX_UNPACKED >> 20} MiB inside"
        raise Unreadable(what, "size-limits", "Cut or shrink them before they are given to Unisono.")
    if not unpacker.eof:
        raise _damaged()
    return found


def _cut(sides: list[int], axes: dict[int, tuple[int, bool]], variable: ImageVariable) -> int:
    """The axis (0 to the right, 1 front, 2 top) that the picture's plane cuts: the declared one, or that of a single plane."""
    if variable.slice is not None:
        cut = _PLANES[variable.slice.plane]
        if min(side for to, side in enumerate(sides) if to != cut) == 1 < max(sides):
            what = f"are flat and have no {variable.slice.plane} plane"
            raise Unreadable(what, "image-planes", "Export the volumes, or the plane that the study declares.")
        return cut
    flat = [to for to, side in enumerate(sides) if side == 1]
    if not flat:
        raise Unreadable(
            "are volumes, of which the study does not say which plane to take",
            "image-planes",
            "Let the study declare it, as in `slice: {plane: axial, at: 0.5}`, or export that plane.",
        )
    return max(flat, key=lambda to: axes[to][0])


def _frame_of(extra: tuple[int, ...], variable: ImageVariable) -> list[int]:
    """The index into a NIfTI file's fourth and further dimensions."""
    _check_frame(math.prod(extra), variable)
    if sum(side > 1 for side in extra) > 1:
        raise Unreadable("have five dimensions or more", "image-planes", "Export the volume that is meant.")
    frame = 0 if variable.frame is None else variable.frame - 1
    return [frame if side > 1 else 0 for side in extra]


def _check_frame(frames: int, variable: ImageVariable) -> None:
    if variable.frame is None and frames > 1:
        raise Unreadable(
            f"hold {frames:,} frames, of which the study does not say which to take",
            "image-frames",
            "Let the study declare it, as in `frame: 1` for the first, or export that frame.",
        )
    if variable.frame is not None and variable.frame > max(frames, 1):
        what = f"hold {frames:,} frame{'s' if frames > 1 else ''}, and the study declares frame {variable.frame}"
        raise Unreadable(what, "image-frames", "Export the frame that is meant, or change the study.")


# --- DICOM -----------------------------------------------------------------------------------------------------------


def _dicom(content: bytes, variable: ImageVariable) -> Picture:
    """The pixels as they are stored, after the modality's rescale slope and intercept (a CT's are Hounsfield units then)."""
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    if _DEFLATED in content[: 1 << 16]:  # unpacked as a whole before anything is known of its size
        raise Unreadable("are deflated", "image-formats", "Save them in another transfer syntax.")
    data = pydicom.dcmread(io.BytesIO(content), specific_tags=list(_TAGS))
    if (
        "Rows" not in data
        or "Columns" not in data
        or not ({"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & set(data.dir()))
    ):
        raise Unreadable("hold no picture", "readable-image", "Name the files of the images themselves.")
    frames = int(data.get("NumberOfFrames") or 1)
    size = int(data.Rows) * int(data.Columns) * frames
    if size > MAX_PIXELS or size < 1:
        raise _too_large(size)
    _check_frame(frames, variable)
    shown = str(data.get("PhotometricInterpretation"))
    if shown not in ("MONOCHROME1", "MONOCHROME2", "RGB") and not shown.startswith("YBR_"):
        raise Unreadable("hold neither grey levels nor colours", "image-formats", "Save them as MONOCHROME2 or RGB.")
    frame = (variable.frame or 1) - 1
    try:
        stored = np.asarray(pixel_array(data, index=frame))
    except (RuntimeError, NotImplementedError):  # no decoder for it
        remedy = "Save them uncompressed (for example with dcmdjpeg or gdcmconv --raw)."
        raise Unreadable("are compressed in a way that cannot be read here", "image-formats", remedy) from None
    if stored.ndim == 3:
        return Picture(np.moveaxis(stored, 2, 0).astype(np.float64), "DICOM")
    if "ModalityLUTSequence" in data or "RescaleSlope" in data:
        stored = np.asarray(apply_modality_lut(stored, data))
    elif (rescale := _rescale(data, frame)) is not None:
        stored = stored * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
    return Picture(stored[np.newaxis].astype(np.float64), "DICOM", dark_is_high=shown == "MONOCHROME1")


def _rescale(data: Any, frame: int) -> Any:
    """An enhanced file's slope and intercept: of this frame, or of all; None where there is none."""
    of_frames, of_all = data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")
    groups = [of_frames[frame]] if of_frames else []
    groups += [of_all[0]] if of_all else []
    found = [g.PixelValueTransformationSequence for g in groups if "PixelValueTransformationSequence" in g]
    return found[0][0] if found else None
