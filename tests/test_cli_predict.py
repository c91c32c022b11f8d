"""`unisono predict`: new patients through the study's own words; a table that does not fit the model is refused by column and row."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.support import models
from unisono.cli.main import main
from unisono.errors import DataError, MappingError, UnisonoError
from unisono.methods.training.model_file import read
from unisono.methods.training.tasks import Hazard
from unisono.site.prediction import open_model, predict
from unisono.study.table import Table

FRAME = {
    "age": [60.0, 41.0, 75.5, 33.0],
    "height": [170.0, 160.0, 182.0, 175.0],
    "weight": [72.0, 60.0, 99.0, 80.0],
    "smoker": [1, 0, 0, 1],
    "stage": ["I", "II", "IV", "III"],
}


def folder(tmp_path: Path, **made: Any) -> Path:
    """A model in a folder of its own."""
    path = tmp_path / "risk"
    path.mkdir()
    for name, content in models.files(**made).items():
        (path / name).write_bytes(content)
    return path


def table(tmp_path: Path, text: str | None = None, **changes: Any) -> Path:
    """A CSV of four patients with some columns replaced, or this text."""
    path = tmp_path / "patients.csv"
    if text is None:
        text = (
            pd.DataFrame(FRAME | changes).drop(columns=[k for k, v in changes.items() if v is None]).to_csv(index=False)
        )
    path.write_text(text, "utf-8")
    return path


def mapping(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "padua.mapping.yaml"
    path.write_text(f"unisono-mapping: 1\n{text}", "utf-8")
    return path


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def refused(tmp_path: Path, data: Path, rules: Path | None = None, **made: Any) -> UnisonoError:
    with pytest.raises(UnisonoError) as error:
        predict(open_model(folder(tmp_path, **made)), data, rules)
    return error.value


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["predict", *map(str, arguments)])
    said = capsys.readouterr()
    return int(stopped.value.code or 0), said.out + said.err


# -- what is predicted ------------------------------------------------------------------------------------------------


def test_a_csv_gets_a_line_a_row_with_the_networks_own_probabilities(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = folder(tmp_path), tmp_path / "predictions.csv"
    code, said = command(capsys, model, table(tmp_path), "--out", out)
    assert code == 0, said
    bmi = np.array(FRAME["weight"]) / (np.array(FRAME["height"]) / 100) ** 2  # derived, as in the study
    columns = {"age": FRAME["age"], "bmi": bmi, "smoker": FRAME["smoker"], "stage": [0, 1, 3, 2]}
    expected = read(models.files()).predict(Table({k: np.array(v, float) for k, v in columns.items()}, 4))[:, 0]
    found = lines(out)
    assert [line["row"] for line in found] == ["2", "3", "4", "5"]
    assert [float(line["probability[malignant]"]) for line in found] == expected.tolist()
    assert "risk, model: describe, 12 rounds over 400 patients of 3 hospitals" in said
    assert "4 predictions for 4 rows" in said
    assert "probability[malignant]" in said


def test_model_json_itself_may_be_named_and_parquet_read(tmp_path: Path) -> None:
    data = tmp_path / "patients.parquet"
    pd.DataFrame(FRAME).to_parquet(data)
    model = folder(tmp_path)
    one = predict(open_model(model / "model.json"), data)
    two = predict(open_model(model), table(tmp_path))
    np.testing.assert_array_equal(one.values, two.values)
    assert one.rows.tolist() == [1, 2, 3, 4]


def test_the_sites_mapping_of_the_whole_study_fits(tmp_path: Path) -> None:
    german = "Alter;cm;Pfund;raucht;Stadium\n60;170;158,7;ja;1\n41;160;132,3;nein;2\n"
    rules = mapping(
        tmp_path,
        """
file: {delimiter: ";", decimal: ","}
variables:
  age: {column: Alter}
  height: {column: cm}
  weight: {column: Pfund, unit: "[lb_av]"}
  smoker: {column: raucht, codes: {"ja": true, "nein": false}}
  stage: {column: Stadium, codes: {"1": I, "2": II, "3": III, "4": IV}}
  malignant: {column: Befund, codes: {"1": true, "0": false}}
""",
    )
    found = predict(open_model(folder(tmp_path)), table(tmp_path, german), rules)
    plain = predict(open_model(tmp_path / "risk"), pd.DataFrame(FRAME))
    np.testing.assert_allclose(found.values, plain.values[:2], rtol=1e-3)  # the pounds are rounded
    assert found.report["weight"].conversion == "[lb_av] → kg"


def test_a_rare_level_is_other_as_it_was_in_training(tmp_path: Path) -> None:
    model = open_model(folder(tmp_path))
    four, one = (predict(model, pd.DataFrame(FRAME | {"stage": [level] * 4})).values for level in ("IV", "I"))
    weights = models.files()
    assert json.loads(weights["model.json"])["preprocessing"]["categories"][0]["other"] == ["IV"]
    assert not np.array_equal(four, one)


def test_missing_values_are_filled_as_in_training_or_the_row_has_no_prediction(tmp_path: Path) -> None:
    model = open_model(folder(tmp_path))
    gaps = predict(model, table(tmp_path, age=[None, 41.0, 75.5, 33.0], stage=["I", "II", None, "III"]))
    filled = predict(model, pd.DataFrame(FRAME | {"age": [61.0, 41.0, 75.5, 33.0]}))  # the federated mean
    assert np.isnan(gaps.values[:, 0]).tolist() == [False, False, True, False]
    np.testing.assert_allclose(gaps.values[[0, 1, 3]], filled.values[[0, 1, 3]], rtol=1e-6)
    assert gaps.notes == ("1 row has no age: filled with 61, as in training.", "1 row has no stage: no prediction.")
    assert gaps.to_csv().splitlines()[3] == "4,"


def test_rows_are_numbered_as_a_spreadsheet_shows_them(tmp_path: Path) -> None:
    text = table(tmp_path).read_text("utf-8").splitlines()
    found = predict(open_model(folder(tmp_path)), table(tmp_path, "\n".join([*text[:3], "", *text[3:]]) + "\n"))
    assert found.rows.tolist() == [2, 3, 5, 6]


def test_patients_outside_the_cohort_are_counted(tmp_path: Path) -> None:
    of = models.study(include=["age >= 40", "known(kg_lost)"])
    found = predict(open_model(folder(tmp_path, of=of)), table(tmp_path))
    assert found.notes == (
        "1 of the predictions are for patients outside the cohort of the study (age >= 40).",
        "The model was made for patients with: known(kg_lost). That was not checked here.",
    )


def test_survival_is_given_at_the_end_of_each_interval(tmp_path: Path) -> None:
    task = Hazard(time="months", event="died", unit="mo", step=12.0, intervals=3)
    found = predict(open_model(folder(tmp_path, task=task)), table(tmp_path))
    assert found.to_csv().splitlines()[0] == "row,survival[12 mo],survival[24 mo],survival[36 mo],risk"
    assert (np.diff(found.values[:, :3], axis=1) < 0).all()


def test_images_come_from_the_tables_own_folder(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(np.full((16, 16), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
    model = open_model(folder(tmp_path, written={"kind": "cnn", "channels": [4, 6], "hidden": 7}))
    found = predict(model, table(tmp_path, scan=[f"{i}.png" for i in range(4)]))
    assert len(set(found.values[:, 0].tolist())) == 4
    with pytest.raises(DataError, match="'scan'"):
        predict(model, table(tmp_path, scan=["0.png", "1.png", "2.png", "absent.png"]))


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_missing_column_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    error = refused(tmp_path, table(tmp_path, age=None, Age=FRAME["age"]))
    assert error.rule == "required-columns"
    assert "There is no column 'age' for the variable 'age'." in error.what
    assert "Did you mean the column 'Age'?" in error.remedy


def test_a_column_in_another_unit_is_named_with_the_unit_that_fits(tmp_path: Path) -> None:
    error = refused(tmp_path, table(tmp_path, height=[1.70, 1.60, 1.82, 1.75]))
    assert error.rule == "plausible-units"
    assert "column 'height'" in error.what
    assert "`unit: 'm'` would fit" in error.remedy
    assert "keeps the bounds that it was trained within" in error.remedy


def test_a_unit_of_another_dimension_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, table(tmp_path), mapping(tmp_path, "variables: {height: {unit: kg}}"))
    assert isinstance(error, MappingError)
    assert "height" in error.what


def test_a_value_out_of_bounds_is_refused_by_row_unless_the_mapping_decides(tmp_path: Path) -> None:
    data = table(tmp_path, age=[60.0, 41.0, 175.5, 33.0])
    error = refused(tmp_path, data)
    assert error.rule == "declared-bounds"
    assert "column 'age'" in error.what
    assert "in row 4" in error.what
    assert "175" not in str(error)
    assert "widen" not in error.remedy
    clamped = predict(open_model(tmp_path / "risk"), data, mapping(tmp_path, "variables: {age: {outside: clamp}}"))
    limit = predict(open_model(tmp_path / "risk"), pd.DataFrame(FRAME | {"age": [60.0, 41.0, 110.0, 33.0]}))
    np.testing.assert_array_equal(clamped.values, limit.values)


def test_an_unknown_level_is_refused_by_row_and_never_guessed(tmp_path: Path) -> None:
    error = refused(tmp_path, table(tmp_path, stage=["I", "V", "II", "III"]))
    assert "column 'stage'" in error.what
    assert "in row 3" in error.what
    assert "The levels are I, II, III, IV." in error.remedy


def test_text_in_a_number_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, table(tmp_path, age=["60", "forty", "75", "33"]))
    assert "column 'age'" in error.what
    assert "forty" not in str(error)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = table(tmp_path, age=None, height=[1.70, 1.60, 1.82, 1.75]), tmp_path / "out.csv"
    code, said = command(capsys, folder(tmp_path), data, "--out", out)
    assert code == 1
    assert "required-columns" in said
    assert "plausible-units" in said
    assert not out.exists()


def test_a_mapping_for_another_study_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, table(tmp_path), mapping(tmp_path, "variables: {tumour: {column: T}}"))
    assert error.rule == "known-variables"


def test_a_folder_without_a_model_a_damaged_one_and_a_newer_one_are_refused(tmp_path: Path) -> None:
    model = folder(tmp_path)
    with pytest.raises(UnisonoError, match="There is no model in"):
        open_model(tmp_path)
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(card | {"format": "unisono-network-9"}))
    with pytest.raises(UnisonoError, match="which this Unisono does not read"):
        open_model(model)
    (model / "model.json").write_text(json.dumps(card | {"files": {"../../etc/passwd": "0" * 64}}))
    with pytest.raises(UnisonoError, match="outside its own folder"):
        open_model(model)
    (model / "model.json").write_text(json.dumps(card))
    (model / "model.safetensors").unlink()
    with pytest.raises(UnisonoError, match="comes without model"):
        open_model(model)


def test_predictions_are_not_written_over_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, out = folder(tmp_path), table(tmp_path), tmp_path / "predictions.csv"
    out.write_text("mine")
    code, said = command(capsys, model, data, "--out", out)
    assert (code, out.read_text()) == (1, "mine")
    assert "keep-files" in said
    assert command(capsys, model, data, "--out", out, "--force")[0] == 0
    assert len(lines(out)) == 4
