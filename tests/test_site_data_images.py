"""A hospital's images: PNG, NIfTI and DICOM become the same float32 pictures, decoded once, and counted in the digest."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.support import pictures
from unisono.cli.main import main
from unisono.errors import DataError
from unisono.site.data.image_formats import Picture, decode
from unisono.site.data.image_pixels import prepared
from unisono.site.data.mapping_file import MappingProblems, load
from unisono.site.data.propose import propose
from unisono.site.data.readers import read
from unisono.site.data.snapshot import freeze, row_hashes
from unisono.site.workers.process import ProcessWorker
from unisono.study.document import ImageVariable
from unisono.study.load import dump_yaml

SECRET = bytes(range(32))


def scan(**settings: Any) -> ImageVariable:
    return ImageVariable.model_validate(
        {"type": "image", "size": [8, 8], "intensity": {"window": [0, 255]}, **settings}
    )


def shown(file: Path, **settings: Any) -> NDArray[np.float32]:
    """(channels, height, width) of one file, by the image's settings."""
    variable = scan(**settings)
    return prepared(decode(file.read_bytes(), variable), variable)


# --- PNG -------------------------------------------------------------------------------------------------------------


def test_a_grey_png_is_its_levels_over_the_window(tmp_path: Path) -> None:
    pixels = pictures.grey(1)
    found = shown(pictures.png(tmp_path / "a.png", pixels))
    assert found.dtype == np.float32 and found.shape == (1, 8, 8)
    np.testing.assert_allclose(found[0], pixels / 255.0, atol=1e-7)


def test_sixteen_bits_of_grey_are_kept(tmp_path: Path) -> None:
    pixels = pictures.grey(1).astype(np.uint16) * 257 - (pictures.grey(2) > 250)
    found = shown(pictures.png(tmp_path / "a.png", pixels), intensity={"window": [0, 65535]})
    np.testing.assert_allclose(found[0], pixels / 65535.0, atol=1e-7)


def test_colour_becomes_grey_by_luminance_and_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    colour = np.stack([pictures.grey(k) for k in range(3)], axis=2)
    file = pictures.png(tmp_path / "a.png", colour)
    np.testing.assert_allclose(shown(file, channels=3), np.moveaxis(colour, 2, 0) / 255.0, atol=1e-7)
    np.testing.assert_allclose(shown(file)[0], colour @ [0.299, 0.587, 0.114] / 255.0, atol=1e-7)
    three = shown(pictures.png(tmp_path / "b.png", pictures.grey(1)), channels=3)
    assert three.shape == (3, 8, 8) and (three == three[0]).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_every_kind_of_opaque_png_is_read(mode: str, tmp_path: Path) -> None:
    black_and_white = np.where(pictures.grey(3) > 127, 255, 0).astype(np.uint8)
    Image.fromarray(black_and_white).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_allclose(shown(tmp_path / "a.png")[0], black_and_white / 255.0, atol=1e-6)


# --- NIfTI -----------------------------------------------------------------------------------------------------------


def head() -> NDArray[np.int16]:
    """(x, y, z) to the right, front and top; every voxel says where it is."""
    x, y, z = np.meshgrid(np.arange(8), np.arange(9), np.arange(10), indexing="ij")
    return (100 * x + 10 * y + z).astype(np.int16)


SEEN = {
    # As a radiologist sees it: the patient's right at the left of the picture (a head seen from the left side looks to the left).
    ("axial", 7): lambda h: h[::-1, ::-1, 7].T,
    ("coronal", 4): lambda h: h[::-1, 4, ::-1].T,
    ("sagittal", 3): lambda h: h[3, ::-1, ::-1].T,
}


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAS", "PIR", "SAL", "ASR"])
@pytest.mark.parametrize(("plane", "index"), SEEN)
def test_a_plane_of_a_volume_is_the_same_however_the_file_is_oriented(
    plane: str, index: int, orientation: str, tmp_path: Path
) -> None:
    wanted = SEEN[plane, index](head())
    at = (index + 0.5) / head().shape[{"sagittal": 0, "coronal": 1, "axial": 2}[plane]]
    file = pictures.nifti(tmp_path / "a.nii.gz", head(), orientation)
    found = shown(file, size=list(wanted.shape), slice={"plane": plane, "at": at}, intensity={"window": [0, 800]})
    np.testing.assert_allclose(found[0], wanted / 800.0, atol=1e-6)


def test_the_ends_of_a_volume_are_at_0_and_1(tmp_path: Path) -> None:
    file = pictures.nifti(tmp_path / "a.nii", head(), "LPI")
    for at, k in ((0.0, 0), (0.5, 5), (1.0, 9)):
        found = shown(file, size=[9, 8], slice={"plane": "axial", "at": at}, intensity={"window": [0, 800]})
        np.testing.assert_allclose(found[0, -1, -1], k / 800.0, atol=1e-6)  # the corner at the left, behind


def test_a_flat_nifti_is_a_picture_without_a_declared_plane(tmp_path: Path) -> None:
    flat = head()[:, :, 4]
    for orientation in ("RAS", "LSP"):
        file = pictures.nifti(tmp_path / f"{orientation}.nii.gz", flat, orientation)
        found = shown(file, size=[9, 8], intensity={"window": [0, 800]})
        np.testing.assert_allclose(found[0], flat[::-1, ::-1].T / 800.0, atol=1e-6)


def test_scaling_and_frames_of_a_nifti_are_followed(tmp_path: Path) -> None:
    file = pictures.nifti(tmp_path / "s.nii.gz", head(), slope=2.0)
    found = shown(file, size=[9, 8], slice={"plane": "axial", "at": 0.0}, intensity={"window": [0, 1600]})
    np.testing.assert_allclose(found[0], head()[::-1, ::-1, 0].T / 800.0, atol=1e-6)
    moving = np.stack([head(), head() + 1000], axis=3)
    file = pictures.nifti(tmp_path / "t.nii.gz", moving, "LPS")
    second = {"slice": {"plane": "axial", "at": 0.0}, "frame": 2, "intensity": {"window": [1000, 1800]}}
    np.testing.assert_allclose(shown(file, size=[9, 8], **second)[0], head()[::-1, ::-1, 0].T / 800.0, atol=1e-6)


# --- DICOM -----------------------------------------------------------------------------------------------------------


def test_dicom_values_are_rescaled_before_the_studys_window(tmp_path: Path) -> None:
    stored = pictures.grey(1).astype(np.int16) * 8
    file = pictures.dicom(tmp_path / "IM0001", stored, RescaleSlope=2, RescaleIntercept=-1024)
    found = shown(file, intensity={"window": [-160, 240]})
    np.testing.assert_allclose(found[0], np.clip((stored * 2.0 - 1024 + 160) / 400, 0, 1), atol=1e-6)


@pytest.mark.parametrize("intensity", [{"window": [0, 255]}, {"percentiles": [0, 99]}], ids=str)
def test_high_values_that_are_shown_dark_are_turned(intensity: dict[str, Any], tmp_path: Path) -> None:
    pixels = pictures.grey(1)
    bright = shown(pictures.dicom(tmp_path / "a.dcm", pixels), intensity=intensity)
    dark = pictures.dicom(tmp_path / "b.dcm", 255 - pixels, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(shown(dark, intensity=intensity), bright, atol=1e-6)


def test_colour_and_declared_frames_of_dicom(tmp_path: Path) -> None:
    colour = np.stack([pictures.grey(k) for k in range(3)], axis=2)
    found = shown(pictures.dicom(tmp_path / "a.dcm", colour), channels=3)
    np.testing.assert_allclose(found, np.moveaxis(colour, 2, 0) / 255.0, atol=1e-7)
    film = np.stack([pictures.grey(1), pictures.grey(2)])
    file = pictures.dicom(tmp_path / "b.dcm", film)
    for k in (0, 1):
        np.testing.assert_allclose(shown(file, frame=k + 1)[0], film[k] / 255.0, atol=1e-7)


def test_an_enhanced_files_frames_have_a_slope_each(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    def group(slope: float) -> Dataset:
        values, outer = Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept = slope, 1
        outer.PixelValueTransformationSequence = [values]
        return outer

    film = np.stack([pictures.grey(1), pictures.grey(2)])
    each = pictures.dicom(tmp_path / "a.dcm", film, PerFrameFunctionalGroupsSequence=[group(1), group(3)])
    np.testing.assert_allclose(shown(each, frame=2, intensity={"window": [1, 766]})[0], film[1] / 255.0, atol=1e-6)
    shared = pictures.dicom(tmp_path / "b.dcm", film, SharedFunctionalGroupsSequence=[group(2)])
    np.testing.assert_allclose(shown(shared, frame=1, intensity={"window": [1, 511]})[0], film[0] / 255.0, atol=1e-6)


def test_one_picture_is_one_picture_in_every_format(tmp_path: Path) -> None:
    pixels = pictures.grey(9, 12, 10)
    upright = pixels[::-1, ::-1].T  # to the right and to the front
    files = [
        pictures.png(tmp_path / "a.png", pixels),
        pictures.dicom(tmp_path / "a.dcm", pixels),
        pictures.nifti(tmp_path / "a.nii.gz", upright.astype(np.int16), "LAS"),
    ]
    first, *others = (shown(file, intensity={"percentiles": [5, 95]}) for file in files)
    for other in others:
        np.testing.assert_array_equal(other, first)


# --- intensities and resampling --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "wanted"), [((64, 48), (28, 28)), ((16, 12), (32, 40)), ((31, 31), (31, 10))])
def test_linear_resampling_is_pillows(given: tuple[int, int], wanted: tuple[int, int]) -> None:
    pixels = pictures.grey(4, *given).astype(np.float64)
    found = prepared(Picture(pixels[None], "PNG"), scan(size=list(wanted)))
    reference = Image.fromarray((pixels / 255).astype(np.float32)).resize(wanted[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found[0], np.asarray(reference), atol=1e-5)


def test_nearest_resampling_makes_no_new_value() -> None:
    labels = (np.arange(36).reshape(6, 6) % 3).astype(np.float64)
    settings: dict[str, Any] = {"resample": "nearest", "intensity": {"window": [0, 2]}}
    up = prepared(Picture(labels[None], "PNG"), scan(size=[12, 12], **settings))
    np.testing.assert_array_equal(up[0], np.kron(labels, np.ones((2, 2))) / 2)
    down = prepared(Picture(labels[None], "PNG"), scan(size=[3, 2], **settings))
    np.testing.assert_array_equal(down[0], labels[1::2, 1::3] / 2)


def test_percentiles_are_each_pictures_own_and_a_blank_picture_is_black() -> None:
    pixels = pictures.grey(5).astype(np.float64)
    found = prepared(Picture(7 * pixels[None] - 300, "PNG"), scan(intensity={"percentiles": [10, 90]}))
    low, high = np.percentile(pixels, [10, 90])
    np.testing.assert_allclose(found[0], np.clip((pixels - low) / (high - low), 0, 1), atol=1e-6)
    blank = prepared(Picture(np.full((1, 8, 8), 40.0), "PNG"), scan(intensity={"percentiles": [1, 99]}))
    assert not blank.any()


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["linear", "nearest"]),
)
def test_every_size_becomes_the_declared_one_within_0_and_1(h: int, w: int, height: int, width: int, how: str) -> None:
    pixels = pictures.grey(h * 41 + w, h, w).astype(np.float64)[None]
    found = prepared(Picture(pixels, "PNG"), scan(size=[height, width], resample=how, intensity={"window": [50, 200]}))
    assert found.shape == (1, height, width) and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    constant = prepared(Picture(np.full((1, h, w), 200.0), "PNG"), scan(size=[height, width], resample=how))
    np.testing.assert_allclose(constant, 200 / 255, atol=1e-6)


# --- the snapshot ----------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Four patients: two PNG, one DICOM, one without an image."""
    folder = tmp_path / "site"
    pictures.png(folder / "img" / "1.png", pictures.grey(1))
    pictures.png(folder / "img" / "2.png", pictures.grey(2, 16, 12))
    pictures.dicom(folder / "IM3", pictures.grey(3))
    return pictures.table(folder, ["img/1.png", None, "img/2.png", "IM3"])


def test_a_table_of_file_names_becomes_read_only_images_and_a_number_for_each(site: Path) -> None:
    table = freeze(site, None, pictures.study(), "padua").table
    assert table.images["scan"].shape == (4, 1, 8, 8)
    np.testing.assert_allclose(table.images["scan"][0, 0], pictures.grey(1) / 255.0, atol=1e-7)
    assert not table.images["scan"][1].any()
    with pytest.raises(ValueError, match="read-only"):
        table.images["scan"][0] = 0
    sha = hashlib.sha256((site.parent / "img" / "1.png").read_bytes()).hexdigest()
    assert table["scan"][0] == int(sha[:13], 16)  # 52 bits
    assert np.isnan(table["scan"]).tolist() == [False, True, False, False]
    assert len(set(table["scan"][[0, 2, 3]])) == 3


def test_the_report_says_how_many_which_formats_and_sizes(site: Path) -> None:
    report = freeze(site, None, pictures.study(), "padua").report
    assert (report["scan"].n, report["scan"].missing, report["scan"].type) == (3, 1, "image")
    assert report["scan"].conversion == "1 DICOM, 2 PNG of 8 x 8 to 16 x 12 → 8 x 8 grey"
    assert "1 DICOM, 2 PNG" in report.render(width=200)


def test_a_mapping_names_the_column_and_codes_for_no_image(site: Path) -> None:
    frame = pd.read_csv(site).rename(columns={"scan": "file"}).fillna({"file": "not done"})
    frame.to_parquet(site.with_suffix(".parquet"))
    mapping = {"variables": {"scan": {"column": "file", "missing": ["not done"]}}}
    table = freeze(site.with_suffix(".parquet"), mapping, pictures.study(), "padua").table
    plain = freeze(site, None, pictures.study(), "padua").table
    np.testing.assert_array_equal(table["scan"], plain["scan"])
    np.testing.assert_array_equal(table.images["scan"], plain.images["scan"])


@pytest.mark.parametrize("entry", [{"unit": "mm"}, {"codes": {"a": "b"}}, {"outside": "missing"}], ids=str)
def test_a_mapping_cannot_convert_a_file_name(entry: dict[str, Any]) -> None:
    with pytest.raises(MappingProblems) as refused:
        load({"variables": {"scan": entry}}, pictures.study())
    assert refused.value.rule == "types"


def test_the_digest_covers_the_files_and_the_declared_preparation(site: Path) -> None:
    def digest(**settings: Any) -> str:
        return freeze(site, None, pictures.study(**settings), "padua").digest

    first = digest()
    assert digest() == first
    os.utime(site.parent / "img" / "1.png")
    assert digest() == first
    assert digest(size=[9, 8]) != first
    pictures.png(site.parent / "img" / "1.png", 255 - pictures.grey(1))
    assert digest() != first


def test_exchanged_files_change_the_digest(site: Path) -> None:
    first = freeze(site, None, pictures.study(), "padua").digest
    one, two = site.parent / "img" / "1.png", site.parent / "img" / "2.png"
    here, there = one.read_bytes(), two.read_bytes()
    one.write_bytes(there)
    two.write_bytes(here)
    assert freeze(site, None, pictures.study(), "padua").digest != first


def test_a_file_that_is_edited_or_removed_meanwhile_changes_no_answer(site: Path) -> None:
    snapshot = freeze(site, None, pictures.study(), "padua")
    before = snapshot.table.images["scan"].copy()
    pictures.png(site.parent / "img" / "1.png", pictures.grey(77))
    (site.parent / "IM3").unlink()
    snapshot.unchanged()
    np.testing.assert_array_equal(snapshot.table.images["scan"], before)


def test_a_row_is_the_same_row_in_studies_that_prepare_its_image_differently(site: Path) -> None:
    """Two studies of nearly the same patients are near-twins, whatever size they ask for."""
    hashes = [
        row_hashes(freeze(site, None, pictures.study(**settings), "padua").table, np.ones(4, np.bool_), SECRET)
        for settings in ({}, {"size": [16, 16], "channels": 3})
    ]
    np.testing.assert_array_equal(hashes[0], hashes[1])
    pictures.png(site.parent / "img" / "1.png", pictures.grey(77))
    table = freeze(site, None, pictures.study(), "padua").table
    assert (row_hashes(table, np.ones(4, np.bool_), SECRET) == hashes[0]).tolist() == [False, True, True, True]


def test_a_link_within_the_folder_is_followed(site: Path) -> None:
    (site.parent / "latest.png").symlink_to(site.parent / "img" / "1.png")
    pictures.table(site.parent, ["latest.png", "img/2.png"])
    found = freeze(site, None, pictures.study(), "padua").table["scan"]
    pictures.table(site.parent, ["img/1.png", "img/2.png"])
    np.testing.assert_array_equal(freeze(site, None, pictures.study(), "padua").table["scan"], found)


def test_a_compressed_volume_may_be_large_when_unpacked_but_not_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pictures.nifti(tmp_path / "a.nii.gz", np.zeros((64, 64, 64), np.int16))
    inside = len(gzip.decompress(file.read_bytes()))
    assert file.stat().st_size < inside / 100
    monkeypatch.setattr("unisono.site.data.image_formats.MAX_UNPACKED", inside)
    assert shown(file, slice={"plane": "axial"}).shape == (1, 8, 8)


def test_a_worker_process_reads_the_images_and_notices_when_it_reads_others_after_a_restart(site: Path) -> None:
    with ProcessWorker(pictures.study(), site, None, "padua", SECRET) as worker:
        assert "1 DICOM, 2 PNG" in worker.start()["scan"].conversion
        assert worker.digest() == freeze(site, None, pictures.study(), "padua").digest
        file = site.parent / "IM3"
        content = file.read_bytes()
        pictures.dicom(file, pictures.grey(50))
        assert worker.digest()  # of the copy that is in use
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        assert refused(worker).rule == "frozen-data"
        file.unlink()
        error = refused(worker)
        assert error.rule == "frozen-data" and "IM3" not in str(error.to_dict())
        file.write_bytes(content)
        assert worker.digest() == freeze(site, None, pictures.study(), "padua").digest


def refused(worker: ProcessWorker) -> DataError:
    with pytest.raises(DataError) as error:
        worker.digest()
    return error.value


# --- proposals and commands ------------------------------------------------------------------------------------------


def test_a_column_of_file_names_is_proposed_for_an_image(site: Path) -> None:
    frame = pd.read_csv(site).rename(columns={"scan": "Datei"}).assign(Datei=["a/1.png", "", "a/2.PNG", "b/3.nii.gz"])
    frame.to_csv(site, index=False)
    text, notes = propose(read(site), pictures.study())
    assert '  scan: {column: "Datei"}  # check: the column, found by what is in it' in text
    assert "1.png" not in text + "".join(notes)
    (site.parent / "m.yaml").write_text(text)
    assert load(site.parent / "m.yaml", pictures.study()).entry("scan").column == "Datei"


def test_of_several_columns_of_file_names_none_is_guessed_unless_its_name_fits(site: Path) -> None:
    names = ["a.png", "b.png", "c.png", "d.png"]
    frame = pd.read_csv(site).drop(columns="scan").assign(left=names, right=names)
    frame.to_csv(site, index=False)
    text, _ = propose(read(site), pictures.study())
    assert "# scan: no column was found for it; add it by hand. Names of images' files are in left, right." in text
    frame.assign(Scan=names).to_csv(site, index=False)
    assert 'scan: {column: "Scan"}' in propose(read(site), pictures.study())[0]


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and output, its lines joined, of a command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((captured.out + captured.err).split())


def test_site_check_reads_the_images_and_reports_on_them(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (site.parent / "s.yaml").write_text(dump_yaml(pictures.study()))
    arguments = ["site", "check", str(site), str(site.parent / "s.yaml")]
    code, output = told(arguments, capsys)
    assert code == 0 and "1 DICOM, 2 PNG of 8 x 8 to 16 x 12" in output
    (site.parent / "IM3").unlink()
    code, output = told(arguments, capsys)
    assert code == 1 and "'IM3'" in output and "in row 5" in output


def test_the_schema_of_studies_knows_images(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = told(["study", "schema"], capsys)
    assert code == 0 and "ImageVariable" in output and "percentiles" in output
