"""The main demo's hospitals: the NCCTG lung trial, split by institution over four hospitals, each in its own dialect.

The trial is in the lifelines wheel (MIT): 228 patients of 18 institutions. Every hospital's file has its own column names,
codes, units and format, and a mapping that says how to read it in the study's words.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from unisono.engines.embedded.exchange import Fault
from unisono.errors import MissingExtra
from unisono.federation.journal import storage

if TYPE_CHECKING:
    import pandas as pd

DAYS_A_MONTH = 30.4375
POUNDS_A_KILOGRAM = 1 / 0.45359237

HOSPITALS = {
    "padua": (1, 5, 10, 15, 16, 32, 33),
    "turin": (3, 4, 6, 26),
    "leiden": (11, 21, 22),
    "madrid": (2, 7, 12, 13),
}
"""The trial's institutions, by hospital. One patient has no institution on record; Madrid has that one too."""

FAULTS = (
    Fault("turin", "unmask", analysis="effect", occurrence=2, seconds=0.0),
    Fault("leiden", "mask", analysis="effect", occurrence=3, seconds=1.5),
)
"""Turin loses its link after its masked part was in; Leiden before."""


@dataclass(frozen=True)
class Written:
    """What the demo wrote: the study, the sites file, and each hospital's data and mapping."""

    study: Path
    sites: Path
    data: dict[str, tuple[Path, Path]]


def write(folder: Path) -> Written:
    """Write the study, four hospitals' files with their mappings, and ``sites.yaml``. `MissingExtra` without lifelines."""
    trial = _trial()
    data_folder = folder / "data"
    with storage(folder, "demo folder"):
        data_folder.mkdir(parents=True, exist_ok=True)
        study = folder / "study.yaml"
        _write_if_new(study, files("unisono.demo").joinpath("lung.study.yaml").read_text("utf-8"))
        paths = {}
        for name, dialect in _DIALECTS.items():
            data, mapping = dialect(trial[_of(trial, name)].reset_index(drop=True), data_folder)
            mapping_path = data_folder / f"{name}.mapping.yaml"
            _write_if_new(
                mapping_path,
                yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110),
            )
            paths[name] = (data, mapping_path)
        sites = folder / "sites.yaml"
        entries = {name: {"data": f"data/{d.name}", "mapping": f"data/{m.name}"} for name, (d, m) in paths.items()}
        _write_if_new(sites, yaml.safe_dump({"sites": entries}, sort_keys=False, default_flow_style=None))
    return Written(study, sites, paths)


def _trial() -> pd.DataFrame:
    try:
        from lifelines.datasets import load_lung
    except ImportError as error:
        raise MissingExtra(
            "The demo's data is in the lifelines package, which is not installed.",
            rule="optional-extra",
            remedy="Install it with: pip install 'unisono[demo]'",
        ) from error
    trial: pd.DataFrame = load_lung()
    trial["dead"] = trial["status"] == trial["status"].max()
    return trial


def _of(trial: pd.DataFrame, hospital: str) -> pd.Series:
    inside = trial["inst"].isin(HOSPITALS[hospital])
    return inside | trial["inst"].isna() if hospital == "madrid" else inside


def _padua(patients: pd.DataFrame, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Italian: semicolons and decimal commas, months with two decimals, M/F, kilograms."""
    import pandas as pd

    data = pd.DataFrame(
        {
            "paziente": [f"PD{k:03d}" for k in range(len(patients))],
            "sesso": np.where(patients["sex"] == 1, "M", "F"),
            "eta": patients["age"].astype(int),
            "sopravvivenza_mesi": (patients["time"] / DAYS_A_MONTH).round(2),
            "stato": np.where(patients["dead"], "deceduto", "vivo"),
            "ECOG": patients["ph.ecog"].astype("Int64"),
            "calo_ponderale_kg": (patients["wt.loss"] / POUNDS_A_KILOGRAM).round(1),
        }
    )
    path = folder / "padua.csv"
    _write_if_new(path, data.to_csv(index=False, sep=";", decimal=","))
    return path, {
        "unisono-mapping": 1,
        "file": {"format": "csv", "delimiter": ";", "decimal": ",", "encoding": "utf-8"},
        "missing": [""],
        "variables": {
            "months": {"column": "sopravvivenza_mesi", "unit": "mo"},
            "died": {"column": "stato", "codes": {"deceduto": True, "vivo": False}},
            "age": {"column": "eta", "unit": "a"},
            "sex": {"column": "sesso", "codes": {"M": "male", "F": "female"}},
            "ecog": {"column": "ECOG"},
            "weight_loss": {"column": "calo_ponderale_kg", "unit": "kg"},
        },
    }


def _turin(patients: pd.DataFrame, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The trial's own coding: days, 1/2, pounds, NA for missing."""
    import pandas as pd

    data = pd.DataFrame(
        {
            "time": patients["time"].astype(int),
            "status": np.where(patients["dead"], 2, 1),
            "age": patients["age"].astype(int),
            "sex": patients["sex"].astype(int),
            "ph.ecog": patients["ph.ecog"].astype("Int64"),
            "wt.loss": patients["wt.loss"].astype("Int64"),
        }
    )
    path = folder / "turin.csv"
    _write_if_new(path, data.to_csv(index=False, na_rep="NA"))
    return path, {
        "unisono-mapping": 1,
        "missing": ["NA"],
        "variables": {
            "months": {"column": "time", "unit": "d"},
            "died": {"column": "status", "codes": {"1": False, "2": True}},
            "age": {"column": "age", "unit": "a"},
            "sex": {"column": "sex", "codes": {"1": "male", "2": "female"}},
            "ecog": {"column": "ph.ecog"},
            "weight_loss": {"column": "wt.loss", "unit": "lb"},
        },
    }


def _leiden(patients: pd.DataFrame, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Parquet, Dutch names, weeks, a flag for being alive, -9 for an unknown score."""
    import pandas as pd

    data = pd.DataFrame(
        {
            "leeftijd": patients["age"].astype("int32"),
            "geslacht": np.where(patients["sex"] == 1, "man", "vrouw"),
            "overleving_weken": patients["time"] / 7,
            "in_leven": ~patients["dead"],
            "who_score": patients["ph.ecog"].fillna(-9).astype("int32"),
            "gewichtsverlies": patients["wt.loss"] / POUNDS_A_KILOGRAM,
        }
    )
    path = folder / "leiden.parquet"
    if not path.exists():
        data.to_parquet(path, index=False)
    return path, {
        "unisono-mapping": 1,
        "variables": {
            "months": {"column": "overleving_weken", "unit": "wk"},
            "died": {"column": "in_leven", "codes": {"true": False, "false": True}},
            "age": {"column": "leeftijd", "unit": "a"},
            "sex": {"column": "geslacht", "codes": {"man": "male", "vrouw": "female"}},
            "ecog": {"column": "who_score", "missing": [-9]},
            "weight_loss": {"column": "gewichtsverlies", "unit": "kg"},
        },
    }


def _madrid(patients: pd.DataFrame, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Tabs, Spanish, dates of inclusion and of last news (made up around a fixed day; the trial holds durations only)."""
    import pandas as pd

    included = pd.Timestamp("1990-01-08") + pd.to_timedelta(np.arange(len(patients)) * 9, unit="D")
    last_news = included + pd.to_timedelta(patients["time"].to_numpy(), unit="D")
    data = pd.DataFrame(
        {
            "inclusion": included.strftime("%d/%m/%Y"),
            "ultima_noticia": last_news.strftime("%d/%m/%Y"),
            "exitus": np.where(patients["dead"], "si", "no"),
            "edad": patients["age"].astype(int),
            "sexo": np.where(patients["sex"] == 1, "hombre", "mujer"),
            "ecog_ps": patients["ph.ecog"].astype("Int64"),
            "perdida_peso_g": (patients["wt.loss"] / POUNDS_A_KILOGRAM * 1000).round().astype("Int64"),
        }
    )
    path = folder / "madrid.tsv"
    _write_if_new(path, data.to_csv(index=False, sep="\t", na_rep="ND"))
    return path, {
        "unisono-mapping": 1,
        "file": {"format": "csv", "delimiter": "\t", "encoding": "utf-8"},
        "missing": ["ND"],
        "variables": {
            "months": {
                "between": {"from": "inclusion", "to": "ultima_noticia"},
                "unit": "d",
                "date_format": "%d/%m/%Y",
            },
            "died": {"column": "exitus", "codes": {"si": True, "no": False}},
            "age": {"column": "edad", "unit": "a"},
            "sex": {"column": "sexo", "codes": {"hombre": "male", "mujer": "female"}},
            "ecog": {"column": "ecog_ps"},
            "weight_loss": {"column": "perdida_peso_g", "unit": "g"},
        },
    }


_DIALECTS = {"padua": _padua, "turin": _turin, "leiden": _leiden, "madrid": _madrid}


def _write_if_new(path: Path, text: str) -> None:
    """A file that is there is left as it is: a run is over frozen data, and the user may have edited it on purpose."""
    if not path.exists():
        path.write_text(text, "utf-8")
