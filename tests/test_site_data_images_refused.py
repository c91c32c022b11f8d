"""Bad images are refused with their rows and file names, all at once, and never with what is in them."""

from __future__ import annotations

import os
import struct
import zlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support import pictures
from unisono.errors import MissingExtra
from unisono.site.data.image_formats import Unreadable, decode
from unisono.site.data.image_pixels import prepared
from unisono.site.data.problems import DataProblems
from unisono.site.data.snapshot import freeze
from unisono.study.document import ImageVariable

GOOD = "good.png"


def refusal(folder: Path, *names: str, **settings: Any) -> DataProblems:
    """What is said of a table whose second and further rows name these files; the first names a good one."""
    pictures.png(folder / GOOD, pictures.grey(1))
    table = pictures.table(folder, [GOOD, *names])
    with pytest.raises(DataProblems) as refused:
        freeze(table, None, pictures.study(**settings), "padua")
    told = str(refused.value)
    assert pictures.PATIENT not in told and "MRN" not in told and "Traceback" not in told
    return refused.value


def test_the_patients_name_is_in_the_files_so_that_it_could_be_told(tmp_path: Path) -> None:
    assert pictures.PATIENT.encode() in pictures.dicom(tmp_path / "a.dcm", pictures.grey(1)).read_bytes()


# --- where files may be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../out.png", "sub/../../out.png", "{out}", "C:/out.png", "sub\\out.png", "link.png", "way/out.png"]
)
def test_a_name_cannot_lead_out_of_the_tables_folder(name: str, tmp_path: Path) -> None:
    home, out = tmp_path / "home", pictures.png(tmp_path / "out.png", pictures.grey(2))
    (home / "sub").mkdir(parents=True)
    (home / "link.png").symlink_to(out)
    (home / "way").symlink_to(tmp_path)
    told = refusal(home, name.format(out=out))
    assert told.rule == "image-folder"
    assert "in row 3 (1 of 2 rows" in told.what
    assert "out.png" in told.what or "link.png" in told.what
    assert str(tmp_path) not in told.what


def test_files_that_are_not_there_are_named_with_their_rows(tmp_path: Path) -> None:
    told = refusal(tmp_path, "gone.png", GOOD, "lost.png")
    assert told.rule == "image-files"
    assert "The column 'scan' for 'scan' names files that are not there (first 'gone.png'), in rows 3, 5" in told.what
    assert "relative to the table's folder" in told.remedy


def test_folders_pipes_and_links_in_circles_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    told = refusal(tmp_path, "folder", "pipe", "circle", "x" * 300 + ".png")
    assert {p.rule for p in told.problems} == {"image-files"}
    assert {p.what.split(" in row")[0].split(" files that ")[1] for p in told.problems} == {
        "cannot be opened (first 'folder'),",
        "are no files (first 'pipe'),",
    }


def test_every_kind_of_problem_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture of Rossi^Maria")
    told = refusal(tmp_path, "gone.png", "text.png", "../out.png", "text.png")
    assert [p.rule for p in told.problems] == ["image-files", "image-formats", "image-folder"]
    assert "in rows 4, 6 (2 of 5 rows" in told.problems[1].what


def test_a_table_in_memory_has_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataProblems) as refused:
        freeze(pd.DataFrame({"scan": ["a.png"], "age": [50.0]}), None, pictures.study(), "padua")
    assert refused.value.rule == "image-folder"
    assert "Write the table as CSV or Parquet" in refused.value.remedy


@pytest.mark.parametrize(("values", "rule"), [([1.5, 2.5], "image-files"), ([None, None], "some-values")])
def test_a_column_that_names_no_files_is_refused(values: list[Any], rule: str, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"scan": values, "age": [50.0, 60.0]}).to_parquet(path)
    with pytest.raises(DataProblems) as refused:
        freeze(path, None, pictures.study(), "padua")
    assert refused.value.rule == rule


# --- what is in a file -----------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG that says it has this size, with one row inside."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(b"\0" * (1 + width * 6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def cut(path: Path, part: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    return path


DAMAGED = {
    "a cut PNG": lambda f: cut(pictures.png(f.with_suffix(".png"), pictures.grey(1, 64, 64))).rename(f),
    "a cut DICOM": lambda f: cut(pictures.dicom(f, pictures.grey(1, 64, 64))),
    "a PNG of nothing": lambda f: f.write_bytes(b"\x89PNG\r\n\x1a\n"),
    "gzip of something else": lambda f: f.write_bytes(zlib.compress(b"x" * 999, wbits=31)),
    "a NIfTI header of another size": lambda f: f.write_bytes(b"\0" + bytes(343) + b"n+1\0" + bytes(40)),
    "a cut gzip": lambda f: f.write_bytes(zlib.compress(b"x" * 999, wbits=31)[:-4]),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_refused_in_our_words(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGED[kind](tmp_path / "bad")
    told = refusal(tmp_path, "bad")
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert told.rule == "readable-image"
    assert "names files that cannot be read (first 'bad'), in row 3" in told.what


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_is_changed_in_a_file_it_is_a_picture_or_refused_in_our_words(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(_files())))
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=8)):
        content[place % len(content)] = byte
    variable = pictures.study(slice={"plane": "axial"}, frame=1).variables["scan"]
    assert isinstance(variable, ImageVariable)
    try:
        found = prepared(decode(bytes(content), variable), variable)
    except Unreadable as refused:
        assert refused.remedy
    else:
        assert found.shape == (1, 8, 8) and found.min() >= 0 and found.max() <= 1


@cache
def _files() -> list[bytes]:
    """One of each format."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = [
            pictures.png(folder / "a.png", pictures.grey(1)),
            pictures.nifti(folder / "a.nii", np.ones((8, 8, 4), np.int16)),
            pictures.dicom(folder / "a.dcm", pictures.grey(1), RescaleSlope=2, RescaleIntercept=1),
        ]
        return [file.read_bytes() for file in files]


def test_a_cut_volume_is_refused(tmp_path: Path) -> None:
    cut(pictures.nifti(tmp_path / "a.nii", np.ones((8, 8, 8), np.float32)))
    assert refusal(tmp_path, "a.nii", slice={"plane": "axial", "at": 1.0}).rule == "readable-image"


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 a JPEG", b"GIF89a", b"\0" * 400])
def test_other_formats_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert refusal(tmp_path, "a.png").rule == "image-formats"


def test_pictures_that_are_not_what_they_seem_are_refused(tmp_path: Path) -> None:
    clear = np.dstack([pictures.grey(k) for k in range(4)])
    pictures.png(tmp_path / "clear.png", clear)
    frames = [Image.fromarray(pictures.grey(k)) for k in range(3)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    (tmp_path / "deep.png").write_bytes(png_of(8, 8, 16, 2))
    told = refusal(tmp_path, "clear.png", "film.png", "deep.png")
    said = " ".join(p.what for p in told.problems)
    assert {p.rule for p in told.problems} == {"image-formats"}
    assert "transparent in places" in said and "are animations" in said and "16 bits a channel" in said


def test_a_dicom_of_several_frames_needs_a_declared_one(tmp_path: Path) -> None:
    pictures.dicom(tmp_path / "film.dcm", np.stack([pictures.grey(1), pictures.grey(2)]))
    told = refusal(tmp_path, "film.dcm")
    assert told.rule == "image-frames"
    assert "hold 2 frames, of which the study does not say which to take" in told.what
    assert "`frame: 1`" in told.remedy
    assert "declares frame 3" in refusal(tmp_path, "film.dcm", frame=3).problems[-1].what


def test_a_dicom_without_pixels_or_with_a_palette_is_refused(tmp_path: Path) -> None:
    import pydicom

    data = pydicom.dcmread(pictures.dicom(tmp_path / "report.dcm", pictures.grey(1)))
    del data.PixelData
    data.save_as(tmp_path / "report.dcm")
    pictures.dicom(tmp_path / "palette.dcm", pictures.grey(1), PhotometricInterpretation="PALETTE COLOR")
    told = refusal(tmp_path, "report.dcm", "palette.dcm")
    assert [p.rule for p in told.problems] == ["readable-image", "image-formats"]


def test_volumes_need_a_plane_an_orientation_and_finite_numbers(tmp_path: Path) -> None:
    import nibabel as nib

    volume = np.ones((8, 8, 8), np.float32)
    pictures.nifti(tmp_path / "a.nii", volume)
    assert refusal(tmp_path, "a.nii").rule == "image-planes"
    pictures.nifti(tmp_path / "flat.nii", volume[:, :, 0])
    assert refusal(tmp_path, "flat.nii", slice={"plane": "sagittal"}).rule == "image-planes"
    lost = nib.Nifti1Image(volume, None)
    nib.save(lost, tmp_path / "lost.nii")
    assert refusal(tmp_path, "lost.nii", slice={"plane": "axial"}).rule == "image-orientation"
    volume[3, 3, :] = np.nan
    pictures.nifti(tmp_path / "nan.nii", volume)
    assert refusal(tmp_path, "nan.nii", slice={"plane": "axial"}).rule == "image-pixels"
    pictures.nifti(tmp_path / "t.nii", np.ones((8, 8, 8, 3), np.float32))
    assert refusal(tmp_path, "t.nii", slice={"plane": "axial"}).rule == "image-frames"


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_a_picture_that_would_unpack_to_gigabytes_is_refused_before_it_is(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of(60_000, 60_000))
    told = refusal(tmp_path, "bomb.png")
    assert told.rule == "size-limits"
    assert "3,600,000,000 pixels" in told.what


def test_a_gzip_bomb_is_not_unpacked_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.site.data.image_formats.MAX_UNPACKED", 100_000)
    pictures.nifti(tmp_path / "bomb.nii.gz", np.zeros((64, 64, 64), np.int16))
    told = refusal(tmp_path, "bomb.nii.gz", slice={"plane": "axial"})
    assert told.rule == "size-limits"


def test_volumes_and_dicom_files_with_too_many_pixels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.site.data.image_formats.MAX_PIXELS", 400)
    pictures.nifti(tmp_path / "a.nii.gz", np.zeros((8, 8, 8), np.int16))
    pictures.dicom(tmp_path / "a.dcm", pictures.grey(1, 8, 64))
    told = refusal(tmp_path, "a.nii.gz", "a.dcm", slice={"plane": "axial"})
    assert told.rule == "size-limits" and "hold 512 pixels, more than 400, (first 'a.nii.gz')" not in told.what
    assert "(first 'a.nii.gz'), in rows 3, 4" in told.what


def test_a_large_file_and_too_many_pictures_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.site.data.image_files.MAX_FILE_BYTES", 1 << 20)
    with (tmp_path / "large.png").open("wb") as stream:
        stream.truncate((1 << 20) + 1)
    assert refusal(tmp_path, "large.png").rule == "size-limits"
    monkeypatch.setattr("unisono.site.data.image_files.MAX_DECODED_BYTES", 2 * 8 * 8 * 4)
    told = refusal(tmp_path, GOOD, "gone.png")
    assert told.rule == "size-limits" and "gone" not in told.what
    assert "smaller `size`" in told.remedy


def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path) -> None:
    pictures.png(tmp_path / GOOD, pictures.grey(1))
    table = pictures.table(tmp_path, [GOOD])
    with mock.patch.dict("sys.modules", {"PIL": None}), pytest.raises(MissingExtra) as missing:
        freeze(table, None, pictures.study(), "padua")
    assert "pip install 'unisono[images]'" in missing.value.remedy
