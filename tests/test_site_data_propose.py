"""A proposed mapping reads common exports in six languages, marks its guesses, and never writes down a patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support import lung
from unisono.site.data.harmonise import harmonise
from unisono.site.data.mapping import Mapping
from unisono.site.data.mapping_file import load
from unisono.site.data.match_codes import match_codes
from unisono.site.data.propose import propose, similarity
from unisono.site.data.readers import read
from unisono.site.data.synonyms import concepts, fold, unit_of
from unisono.study.document import BooleanVariable, CategoryVariable, Study


def proposed(frame: pd.DataFrame, folder: Path, study: Study | None = None, **csv: Any) -> tuple[Mapping, str]:
    """The proposed mapping for a CSV of `frame`, loaded, and its text."""
    path = folder / "site.csv"
    frame.to_csv(path, index=False, **csv)
    text, _ = propose(read(path), study or lung.study())
    (folder / "m.yaml").write_text(text, encoding="utf-8")
    return load(folder / "m.yaml", study or lung.study()), text


def check_of(text: str, variable: str) -> str:
    """What is to be checked about one variable."""
    line = next(line for line in text.splitlines() if line.startswith(f"  {variable}:"))
    return line.partition("# check: ")[2]


def export(names: list[str], words: dict[str, tuple[str, str]], months: bool) -> pd.DataFrame:
    f = lung.frame(None)
    return pd.DataFrame(
        {
            names[0]: (f["time"] / 30.4375).round(3) if months else f["time"],
            names[1]: f["died"].map({1.0: words["died"][1], 0.0: words["died"][0]}),
            names[2]: f["age"].astype(int),
            names[3]: f["sex"].map({0.0: words["sex"][0], 1.0: words["sex"][1]}),
            names[4]: f["ecog"].astype(int),
            names[5]: f["weight_loss"],
        }
    )


@pytest.mark.parametrize(
    ("names", "words", "months"),
    [
        (
            ["OS (months)", "Vital status", "Age", "Gender", "ECOG PS", "Weight loss (kg)"],
            {"died": ("alive", "dead"), "sex": ("M", "F")},
            True,
        ),
        (
            ["Überleben_Monate", "Verstorben", "Alter", "Geschlecht", "ECOG", "Gewichtsverlust"],
            {"died": ("nein", "ja"), "sex": ("m", "w")},
            True,
        ),
        (
            ["sopravvivenza giorni", "deceduto", "età", "sesso", "ecog", "calo_ponderale"],
            {"died": ("no", "si"), "sex": ("M", "F")},
            False,
        ),
        (
            ["overleving_dagen", "overleden", "leeftijd", "geslacht", "ecog", "gewichtsverlies"],
            {"died": ("nee", "ja"), "sex": ("man", "vrouw")},
            False,
        ),
        (
            ["supervivencia_meses", "exitus", "edad", "sexo", "ECOG", "pérdida_peso"],
            {"died": ("no", "sí"), "sex": ("hombre", "mujer")},
            True,
        ),
        (
            ["survie_mois", "décès", "âge / age", "sexe", "ecog", "perte_poids"],
            {"died": ("non", "oui"), "sex": ("homme", "femme")},
            True,
        ),
    ],
)
def test_an_export_in_any_of_six_languages_is_mapped_right(
    tmp_path: Path, names: list[str], words: dict[str, tuple[str, str]], months: bool
) -> None:
    frame = export(names, words, months)
    mapping, _ = proposed(frame, tmp_path, sep=";", decimal=",")
    table = harmonise(read(tmp_path / "site.csv", mapping.file), mapping, lung.study(), "site").table
    expected = lung.frame(None)
    for name in ("died", "age", "sex", "ecog"):
        np.testing.assert_array_equal(table[name], expected[name])
    np.testing.assert_allclose(table["weight_loss"], expected["weight_loss"])
    assert (np.abs(table["time"] - expected["time"]) <= 7.02).all()


def test_guesses_are_marked_and_certainties_are_not(tmp_path: Path) -> None:
    frame = export(
        ["time", "died", "age", "Geschlecht", "ecog", "weight_loss"], {"died": ("0", "1"), "sex": ("1", "2")}, False
    )
    mapping, text = proposed(frame, tmp_path)
    assert mapping.variables["sex"].codes == {"1": "male", "2": "female"}
    assert "order of the levels" in check_of(text, "sex")
    assert check_of(text, "died") == ""
    assert check_of(text, "age") == ""
    assert "[lb_av]" in check_of(text, "weight_loss")


def test_units_come_from_the_name_and_else_from_the_bounds(tmp_path: Path) -> None:
    variables = {
        "weight": {"type": "number", "unit": "kg", "min": 30, "max": 130},
        "height": {"type": "number", "unit": "m", "min": 1, "max": 2.3},
    }
    study = lung.study(variables=variables, analyses={"a": {"method": "describe"}})
    frame = pd.DataFrame({"Körpergröße": np.linspace(150.0, 200.0, 20), "Gewicht (lb)": np.linspace(90.0, 125.0, 20)})
    mapping, text = proposed(frame, tmp_path, study)
    assert mapping.variables["height"].unit == "cm"
    assert "cm" in check_of(text, "height")
    assert mapping.variables["weight"].unit == "[lb_av]"
    frame = pd.DataFrame({"height": np.linspace(1.5, 2.0, 20), "weight": np.linspace(200.0, 280.0, 20)})
    mapping, _ = proposed(frame, tmp_path, study)
    assert mapping.variables["weight"].unit == "[lb_av]"
    assert mapping.variables["height"].unit is None


def test_an_age_is_made_of_dates_where_there_is_no_age(tmp_path: Path) -> None:
    frame = pd.DataFrame({"data_nascita": ["13/02/1950"] * 5, "data_diagnosi": ["01/03/2010"] * 5})
    mapping, text = proposed(frame, tmp_path)
    assert mapping.variables["age"].years_between == ["data_nascita", "data_diagnosi"]
    assert mapping.variables["age"].date_format == "%d/%m/%Y"
    assert "this date" in check_of(text, "age")
    assert "# time: no column was found" in text
    assert "data_nascita, data_diagnosi" in text


def test_what_cannot_be_proposed_is_listed(tmp_path: Path) -> None:
    frame = pd.DataFrame({"foo": ["a", "b"] * 5, "bar": range(10)})
    frame.to_csv(tmp_path / "x.csv", index=False)
    text, notes = propose(read(tmp_path / "x.csv"), lung.study())
    for name in lung.study().variables:
        assert f"# {name}: no column was found" in text
        assert any(repr(name) in note for note in notes)
    (tmp_path / "m.yaml").write_text(text)
    assert load(tmp_path / "m.yaml", lung.study()).variables == {}


def test_words_and_numbers_that_seem_to_mean_missing_are_proposed_to_be_checked(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"age": [*["61"] * 10, *["unknown"] * 3, *["999"] * 3, "62"], "sex": [*["male", "female"] * 8, "female"]}
    )
    mapping, text = proposed(frame, tmp_path)
    assert mapping.variables["age"].missing == ["999", "unknown"]
    assert "mean missing" in check_of(text, "age")
    assert mapping.variables["sex"].codes is None


def test_no_patients_value_is_written(tmp_path: Path) -> None:
    n = 30
    frame = pd.DataFrame(
        {
            "patient": [f"Rossi{i}" for i in range(n)],
            "age": np.linspace(41.123, 77.321, n),
            "sex": ["M"] * 14 + ["F"] * 14 + ["Bianchi", "Verdi"],
            "status": ["1950-01-01"] * n,
            "birth": [f"19{50 + i}-05-05" for i in range(n)],
        }
    )
    _, text = proposed(frame, tmp_path)
    for secret in ("Rossi0", "41.1", "77.3", "Bianchi", "Verdi", "1950", "05-05"):
        assert secret not in text
    assert "rare codes" in check_of(text, "sex")


def test_column_names_cannot_break_out_of_the_yaml(tmp_path: Path) -> None:
    name = 'age"}\n  sex: {column: "x'
    mapping, _ = proposed(pd.DataFrame({name: np.linspace(40, 70, 10)}), tmp_path)
    assert [v for v in mapping.variables.values() if v.column == name] or mapping.variables == {}


def test_names_are_compared_without_case_accents_or_punctuation() -> None:
    assert fold("Überleben_(Monate)") == "uberleben monate"
    assert fold("vitalStatus2") == "vital status 2"
    assert similarity("weight_loss", None, "Weight-Loss") == 1.0
    assert similarity("age", "Alter bei Diagnose", "Alter_bei_Diagnose") == 1.0
    assert similarity("sex", None, "creatinine") < 0.5
    assert concepts(["Gewichtsverlust"]) == {"weight loss"}
    assert concepts(["weight loss"]) == {"weight loss"}
    assert unit_of("WT_LB") == "[lb_av]"


def test_codes_are_matched_by_word_by_letter_and_by_order() -> None:
    onset = CategoryVariable(type="category", levels=["spinal", "bulbar"])
    assert dict(match_codes("onset", onset, ["B", "S"]).codes) == {"B": "bulbar", "S": "spinal"}
    assert match_codes("onset", onset, ["B", "S"]).reason
    assert match_codes("onset", onset, ["spinal", "bulbar"]).identity
    died = BooleanVariable(type="boolean")
    assert dict(match_codes("died", died, ["1", "2"]).codes) == {"1": False, "2": True}
    assert dict(match_codes("smoker", died, ["1", "2"]).codes) == {"1": True, "2": False}
    assert match_codes("smoker", died, ["0", "1"]).identity
    assert match_codes("onset", onset, ["x", "S"]).unknown == ("x",)
    assert match_codes("onset", onset, ["1", "2", "3"]).codes == {}
