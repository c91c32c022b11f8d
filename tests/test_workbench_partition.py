"""A split: every patient at exactly one site, the same by the same seed, and what differs is what was asked for and is on record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import unisono
from tests.support.pictures import dicom
from tests.test_cli import unisono as command
from unisono.cli.main import main
from unisono.cli.sites import parse_sites
from unisono.errors import DataError, StorageError, StudyError
from unisono.site.data.snapshot import freeze
from unisono.study.load import load
from unisono.workbench.collection import Collection, read_table
from unisono.workbench.partition import Plan, split
from unisono.workbench.scanners import Scanner, intensities, rescanned
from unisono.workbench.skew import by_label, sizes, whole
from unisono.workbench.written import write


def patients(n: int = 300, classes: int = 3) -> Collection:
    """Invented patients, each with a number of its own, by which it can be followed."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "serial": np.arange(n, dtype=float),
            "weight": rng.normal(70, 10, n),
            "height": rng.normal(170, 9, n),
            "stage": rng.choice(["i", "ii"], n),
            "disease": [f"d{k}" for k in rng.integers(0, classes, n)],
        }
    )
    kinds = {"weight": "number", "height": "number", "stage": "category", "disease": "category"}
    return Collection("invented", frame, kinds, "disease", "generated", {"weight": "kg", "height": "cm"})  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(60, 400),
    site_count=st.integers(1, 8),
    least=st.integers(1, 7),
    label_skew=st.sampled_from([None, 1e-3, 0.05, 1.0, 100.0]),
    quantity_skew=st.sampled_from([None, 1e-3, 0.3, 5.0]),
    classes=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_every_patient_is_at_exactly_one_site_and_every_site_has_the_least(
    n: int, site_count: int, least: int, label_skew: float | None, quantity_skew: float | None, classes: int, seed: int
) -> None:
    plan = Plan(sites=site_count, seed=seed, label_skew=label_skew, quantity_skew=quantity_skew, least=least)
    splits = split(patients(n, classes), plan)
    rows = np.concatenate([site.rows for site in splits])
    assert sorted(rows.tolist()) == list(range(n))
    assert min(len(site.rows) for site in splits) >= least
    for site in splits:
        assert site.frame["serial"].tolist() == site.rows.tolist()


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    plan = Plan(label_skew=0.1, quantity_skew=1.0, feature_shift=0.5, unit_drift=1, missing=0.4, concept_groups=2)
    first, again, other = (split(patients(), p) for p in (plan, plan, Plan(**{**vars(plan), "seed": 2})))
    for a, b in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(a.frame, b.frame)
        assert a.record == b.record
    assert any(a.rows.tolist() != c.rows.tolist() for a, c in zip(first, other, strict=True))


def test_one_kind_of_difference_does_not_move_the_others() -> None:
    plain = split(patients(), Plan(label_skew=0.1))
    shifted = split(patients(), Plan(label_skew=0.1, feature_shift=0.5, concept_groups=2, missing=0.3))
    assert [a.rows.tolist() for a in plain] == [b.rows.tolist() for b in shifted]


def test_label_skew_is_strong_at_a_small_concentration_and_none_at_a_large_one() -> None:
    labels = np.repeat([0, 1, 2, 3], 500)
    rng = np.random.default_rng(1)

    def largest_share(concentration: float | None) -> float:
        place, _ = by_label(labels, np.full(5, 400), concentration, rng)
        tally = np.array([np.bincount(labels[place == s], minlength=4) for s in range(5)])
        return float((tally.max(axis=1) / tally.sum(axis=1)).mean())

    assert largest_share(0.05) > 0.6
    assert largest_share(100.0) < 0.4
    assert largest_share(None) < 0.33


def test_quantity_skew_makes_one_site_large_and_leaves_the_least_to_the_others() -> None:
    found = sizes(1000, 5, 20, 0.05, np.random.default_rng(3))
    assert found.sum() == 1000
    assert found.min() >= 20
    assert found.max() > 500
    assert sizes(1003, 5, 20, None, np.random.default_rng(3)).tolist() == [201, 201, 201, 200, 200]
    assert whole(np.array([1.5, 1.5, 1.0]), 4).tolist() == [2, 1, 1]


def test_too_few_patients_for_the_least_is_refused() -> None:
    with pytest.raises(StudyError, match="too few for 5 sites") as refusal:
        split(patients(40), Plan(least=20))
    assert refusal.value.rule == "least-patients"


@pytest.mark.parametrize("wrong", [{"sites": 0}, {"label_skew": 0.0}, {"concept_groups": 9}, {"missing": 1.0}])
def test_a_plan_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(StudyError) as refusal:
        Plan(**wrong)  # type: ignore[arg-type]
    assert refusal.value.rule == "partition-plan"


def test_feature_shift_is_a_gain_and_an_offset_that_the_record_undoes() -> None:
    collection = patients()
    for site in split(collection, Plan(feature_shift=0.5)):
        instrument = site.record["instruments"]["weight"]
        mean, sd = collection.frame["weight"].mean(), collection.frame["weight"].std(ddof=0)
        undone = mean + (site.frame["weight"] - mean - instrument["offset"] * sd) / instrument["gain"]
        np.testing.assert_allclose(undone, collection.frame["weight"].iloc[site.rows], rtol=1e-12)


def test_concept_shift_turns_the_labels_of_the_second_group_only() -> None:
    collection = patients(classes=2)
    for k, site in enumerate(split(collection, Plan(concept_groups=2))):
        same = (site.frame["disease"].to_numpy() == collection.frame["disease"].to_numpy()[site.rows]).all()
        turned = (site.frame["disease"].to_numpy() != collection.frame["disease"].to_numpy()[site.rows]).all()
        assert (same, turned) == ((True, False) if k % 2 == 0 else (False, True))


def test_a_feature_that_a_site_does_not_record_is_empty_there_and_recorded_somewhere() -> None:
    splits = split(patients(), Plan(missing=0.7))
    for site in splits:
        for name in site.record["not_recorded"]:
            assert site.frame[name].isna().all()
    for name in ("weight", "height", "stage"):
        assert any(name not in site.record["not_recorded"] for site in splits)


def test_the_drafted_study_runs_where_sites_record_nothing_of_some_features(tmp_path: Path) -> None:
    """What the command prints to be run: a mean and a mode over the other sites fill what is empty."""
    budget = {"model": {"rounds": {"most": 1}, "local": {"epochs": 1}}}
    written = write(patients(), Plan(sites=3, missing=0.67), tmp_path / "split", analyses=budget)
    gone = [set(site.record["not_recorded"]) for site in written.splits]
    assert {"stage", "height"} <= set().union(*gone)
    sites = parse_sites([], written.sites)
    given = {name: (site.source, site.mapping) for name, site in sites.items()}
    answer = unisono.run(written.study, given, out=tmp_path / "results")  # type: ignore[arg-type]
    assert answer["model"].estimates["evaluation"]["n"] > 0


@pytest.mark.parametrize("declared", [True, False])
def test_a_unit_that_drifted_is_read_right_if_the_mapping_says_so_and_is_wrong_if_not(
    tmp_path: Path, declared: bool
) -> None:
    collection = patients()
    written = write(collection, Plan(unit_drift=2, declared=declared), tmp_path / "split")
    study = load(written.study)
    sites = parse_sites([], written.sites)
    drifted = [site for site in written.splits if "weight" in site.record["units"]]
    assert drifted
    for site in written.splits:
        table = freeze(sites[site.name].source, sites[site.name].mapping, study, site.name).table
        right = np.allclose(table["weight"], collection.frame["weight"].iloc[site.rows], rtol=1e-8)
        assert right == (declared or site not in drifted)


def test_what_is_written_is_a_study_with_its_sites_and_the_record_of_all_of_it(tmp_path: Path) -> None:
    plan = Plan(sites=4, label_skew=0.3, feature_shift=0.4, missing=0.34)
    written = write(patients(), plan, tmp_path / "split", form="parquet")
    record = json.loads((tmp_path / "split" / "partition.json").read_text())
    assert record["plan"] == vars(plan)
    assert record["source"]["origin"] == "generated"
    assert sum(site["patients"] for site in record["sites"].values()) == 300
    assert set(record["files"]) == {f"data/site-{k}.parquet" for k in range(1, 5)}
    study = load(written.study)
    gone = {name for site in record["sites"].values() for name in site["not_recorded"]}
    filled = {"weight": "mean", "height": "mean", "stage": "mode"}
    assert gone and {name: study.cohort.missing_rule(name) for name in gone} == {name: filled[name] for name in gone}
    assert list(yaml.safe_load(written.sites.read_text())["sites"]) == [f"site-{k}" for k in range(1, 5)]
    with pytest.raises(StorageError, match="earlier partition"):
        write(patients(), plan, tmp_path / "split")
    write(patients(), plan, tmp_path / "split", fresh=True)


def test_a_table_is_read_by_what_its_columns_hold(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    path.write_text("age;bmi;smoker;stage;grade\n61;23,5;yes;i;1\n;24,5;no;ii;3\n48;25;yes;i;2\n", "utf-8")
    found = read_table(path, label="grade")
    assert dict(found.kinds) == {
        "age": "integer", "bmi": "number", "smoker": "boolean", "stage": "category", "grade": "category"
    }  # fmt: skip
    assert found.frame["bmi"].tolist() == [23.5, 24.5, 25.0]
    assert found.classes()[1] == ["1", "2", "3"]
    with pytest.raises(DataError, match="no column 'death'"):
        read_table(path, label="death")


def test_a_number_as_the_outcome_is_skewed_by_its_quarters() -> None:
    collection = patients()
    by_weight = Collection("w", collection.frame, collection.kinds, "weight", "generated")
    codes, names = by_weight.classes()
    assert np.bincount(codes).tolist() == [75, 75, 75, 75]
    assert len(names) == 4


def test_a_scanner_changes_a_png_and_a_nifti_but_not_their_format(tmp_path: Path) -> None:
    import nibabel
    from PIL import Image

    ramp = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    scanner, rng = Scanner(gain=0.5, contrast=2.0, noise=0.0), np.random.default_rng(1)
    rescanned(tmp_path / "a.png", tmp_path / "b.png", scanner, rng)
    np.testing.assert_allclose(intensities(tmp_path / "b.png"), 0.5 * (ramp / 255) ** 2, atol=0.003)
    volume = np.arange(27.0).reshape(3, 3, 3)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    rescanned(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", scanner, rng)
    shown = nibabel.load(tmp_path / "b.nii.gz").get_fdata()
    np.testing.assert_allclose(shown, 26 * 0.5 * (volume / 26) ** 2, rtol=1e-5)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be given another scanner's look"):
        rescanned(tmp_path / "a.jpg", tmp_path / "b.jpg", scanner, rng)


def test_a_scanner_changes_a_dicom_s_pixels_and_leaves_its_tags(tmp_path: Path) -> None:
    import pydicom

    stored = np.arange(64, dtype=np.uint16).reshape(8, 8) * 10
    dicom(tmp_path / "a.dcm", stored)
    rescanned(tmp_path / "a.dcm", tmp_path / "b.dcm", Scanner(0.5, 2.0, 0.0), np.random.default_rng(1))
    before, after = pydicom.dcmread(tmp_path / "a.dcm"), pydicom.dcmread(tmp_path / "b.dcm")
    np.testing.assert_allclose(after.pixel_array, 630 * 0.5 * (stored / 630) ** 2, atol=0.51)
    assert after.PatientID == before.PatientID


def test_the_command_splits_images_and_draws_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    rng = np.random.default_rng(2)
    (tmp_path / "scans").mkdir()
    names = [f"{k}.png" for k in range(60)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "scans" / name)
    pd.DataFrame({"scan": names, "lesion": rng.integers(0, 2, 60)}).to_csv(tmp_path / "patients.csv", index=False)
    monkeypatch.chdir(tmp_path)
    told = (
        "--label",
        "lesion",
        "--images",
        "scans",
        "--image-column",
        "scan",
        "--feature-shift",
        "0.5",
        "--sites",
        "3",
    )
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "partition", "patients.csv", *told, "--least", "10", "--out", "split"])
    assert ended.value.code == 0
    assert "unisono run split/study.yaml --sites split/sites.yaml" in capsys.readouterr().out
    folder = tmp_path / "split"
    first = pd.read_csv(folder / "data" / "site-1.csv")
    assert all((folder / "data" / name).is_file() for name in first["scan"])
    assert {"classes.svg", "sizes.svg", "intensities.svg"} <= {p.name for p in (folder / "figures").iterdir()}
    assert sum(len(list((folder / "data" / f"site-{k}").iterdir())) for k in (1, 2, 3)) == 60
    study, sites = load(folder / "study.yaml"), parse_sites([], folder / "sites.yaml")
    assert freeze(sites["site-1"].source, None, study, "site-1").table.images["scan"].shape == (20, 1, 16, 16)


def refused(capsys: pytest.CaptureFixture[str], *told: str) -> str:
    """What is said of this partition."""
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "partition", *told])
    assert ended.value.code == 1
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_table_without_a_label_is_refused_with_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cohort.csv").write_text("age,died\n61,1\n48,0\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert "--label: age, died" in refused(capsys, "cohort.csv")
    said = refused(capsys, "cohort.csv", "--label", "died", "--unit", "weight=kg")
    assert "There is no column of numbers 'weight'" in said
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.csv"]


@pytest.mark.parametrize(
    "told",
    [("--label", "nope"), ("--unit", "nope=kg"), ("--images", "scans"), ("--image-column", "scan"), ("--undeclared",)],
)
def test_an_option_that_would_change_nothing_is_refused(
    told: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "breast-cancer", *told)
    assert "partition-options" in said and told[0] in said
    assert not list(tmp_path.iterdir())


def test_an_unknown_data_set_is_refused_with_those_there_are(tmp_path: Path) -> None:
    said = command("simulate", "partition", "nothing.csv", cwd=tmp_path, code=1)
    assert "known-data" in said
    assert "breast-cancer" in said
