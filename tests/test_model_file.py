"""The model file: plain PyTorch opens it and predicts the same; what is not as it was written is refused; nothing is executed."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from tests.support import models
from unisono.errors import StorageError, UnisonoError
from unisono.methods import model_card
from unisono.methods.model_card import CARD, digest
from unisono.methods.packages import Package
from unisono.methods.training import model_file
from unisono.methods.training.model_file import TENSORS, read
from unisono.methods.training.tasks import Cox, Hazard, Multiclass, Number, Task

DOCS = Path(__file__).parents[1] / "docs" / "methods" / "models.md"
TASKS: list[Task] = [
    Multiclass(outcome="stage", classes=("I", "II", "III", "IV")),
    Number(outcome="kg_lost", unit="kg", centre=4.0, scale=2.5),
    Cox(time="months", event="died"),
    Hazard(time="months", event="died", unit="mo", step=6.0, intervals=5, resolution=1.0),
]


def card_of(files: dict[str, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files[CARD])
    return found


def changed(files: dict[str, bytes], change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    """With another card."""
    card = card_of(files)
    change(card)
    return {**files, CARD: json.dumps(card).encode()}


def with_tensors(files: dict[str, bytes], content: bytes) -> dict[str, bytes]:
    """With other tensors, and a card that names them."""
    return {**changed(files, lambda card: card["files"].update({TENSORS: digest(content)})), TENSORS: content}


def refused(files: dict[str, bytes]) -> UnisonoError:
    with pytest.raises(UnisonoError) as error:
        read(files)
    return error.value


# -- plain PyTorch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_the_documentations_few_lines_of_plain_pytorch_predict_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    files = models.files({"kind": "mlp", "hidden": [8, 4], "dropout": 0.2, "norm": norm})
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (snippet,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.S)
    assert "unisono" not in snippet
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(snippet, space)
    table = models.patients()
    levels = card_of(files)["preprocessing"]["categories"][0]["levels"]
    plain = [
        space["predict"]({k: levels[int(table[k][i])] if k == "stage" else table[k][i] for k in models.FEATURES})
        for i in range(table.n)
    ]
    np.testing.assert_allclose(plain, read(files).predict(table)[:, 0], rtol=1e-6)


def test_plain_pytorch_opens_a_cnn() -> None:
    files = models.files({"kind": "cnn", "channels": [4, 6], "hidden": 7, "norm": "batch"})
    card, table = card_of(files), models.patients()
    size, setting = card["architecture"]["inputs"], card["architecture"]["model"]
    channels = [size["image"][0], *setting["channels"]]
    convolutions = nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in pairwise(channels)
        )
    )
    embedding = nn.Embedding(5, 3)
    body, head = nn.Linear(6 * 2 * 2 + 3 + 3, setting["hidden"]), nn.Linear(setting["hidden"], 1)
    parts = {"convolutions.": convolutions, "embeddings.0.": embedding, "body.0.": body, "head.": head}
    weights = load(files[TENSORS])
    for prefix, part in parts.items():
        part.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    made = models.prepared(models.study(), "scan")
    with torch.no_grad():
        maps = convolutions.eval()(torch.from_numpy(table.images["scan"])).flatten(1)
        beside = torch.from_numpy(made.numbers(table)), embedding(torch.from_numpy(made.categories(table)[:, 0]))
        f = head(torch.relu(body(torch.cat([maps, *beside], dim=1))))
    np.testing.assert_allclose(torch.sigmoid(f).numpy(), read(files).predict(table), rtol=1e-5)


def test_every_tensor_is_in_the_file_under_its_name() -> None:
    files = models.files({"kind": "resnet", "blocks": [1, 1], "width": 4, "norm": "batch"})
    found = read(files)
    module = found.module  # type: ignore[attr-defined]
    assert set(load(files[TENSORS])) == set(module.state_dict())
    assert found.predict(models.patients()).shape == (9, 1)


# -- what is in it ----------------------------------------------------------------------------------------------------


def test_the_card_says_where_the_model_is_from_and_how_it_was_protected() -> None:
    of = models.study()
    card = card_of(models.files(of=of))
    assert card["format"] == "unisono-network-1"
    assert card["provenance"] | {"unisono": ""} == {
        "study": of.digest(),
        "study_id": "risk",
        "question": "Who is ill?",
        "analysis": "model",
        "method": "describe",
        "method_version": 1,
        "packages": [],
        "unisono": "",
        "rounds": 12,
        "sites": ["padua", "turin", "leiden"],
        "patients": 400,
    }
    assert card["protection"] == {"hide": "secagg", "threat": "semi-honest", "colluding": 1}
    assert card["privacy_spent"] is None
    assert card["architecture"]["model"] == {"kind": "mlp", "hidden": [8, 4], "dropout": 0.2, "norm": "none"}
    assert card["task"] == {"kind": "binary", "outcome": "malignant"}
    assert (card["missing"]["age"], card["imputed"], card["missing"]["bmi"]) == (
        "mean",
        {"age": 61.0},
        "complete-cases",
    )
    assert set(card["variables"]) == set(models.VARIABLES)


def test_the_same_network_gives_the_same_bytes() -> None:
    assert models.files() == models.files()
    assert models.files() != models.files(seed=4)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_every_task_comes_back_with_its_predictions(task: Task) -> None:
    found = read(models.files(task=task))
    assert found.card.task == task  # type: ignore[attr-defined]
    assert found.predict(models.patients()).shape == (9, len(found.columns()))
    assert np.isfinite(found.predict(models.patients())).all()


def test_a_model_predicts_for_nobody_and_for_more_than_one_pass() -> None:
    found = read(models.files())
    many = models.patients(2500)
    whole = found.predict(many)
    np.testing.assert_allclose(whole[2000:2001], found.predict(many.rows(np.arange(2500) == 2000)), rtol=1e-5)
    assert found.predict(many.rows(np.zeros(2500, bool))).shape == (0, 1)


# -- what is refused --------------------------------------------------------------------------------------------------

ALTERED: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("an unknown key", lambda c: c.update(extra=1)),
    ("a missing key", lambda c: c.pop("preprocessing")),
    ("another format", lambda c: c.update(format="unisono-network-2")),
    ("a scale of 0", lambda c: c["preprocessing"]["numbers"][0].update(scale=0)),
    ("a text for a number", lambda c: c["preprocessing"]["numbers"][0].update(centre="61")),
    ("bounds that are not the variable's", lambda c: c["preprocessing"]["numbers"][0].update(max=120.0)),
    ("a unit that is not the variable's", lambda c: c["preprocessing"]["numbers"][1].update(unit="g/m2")),
    ("levels that are not the variable's", lambda c: c["preprocessing"]["categories"][0]["levels"].reverse()),
    ("an unknown other level", lambda c: c["preprocessing"]["categories"][0]["other"].append("V")),
    ("a boolean that is a number", lambda c: c["preprocessing"]["booleans"].append("height")),
    ("a feature that is not preprocessed", lambda c: c["features"].append("height")),
    ("an unknown feature", lambda c: c["features"].__setitem__(0, "years")),
    ("no value to impute", lambda c: c["imputed"].clear()),
    ("more inputs than are made", lambda c: c["architecture"]["inputs"]["numbers"].append("x")),
    ("outputs that are not the task's", lambda c: c["architecture"].update(outputs=2)),
    ("another task", lambda c: c.update(task={"kind": "multiclass", "outcome": "x", "classes": ["a", "b"]})),
    ("a privacy budget", lambda c: c.update(privacy_spent=0.0)),
    ("settings that do not exist", lambda c: c["architecture"]["model"].update(depth=3)),
    ("a digest that is none", lambda c: c["files"].update({TENSORS: "0" * 63})),
    ("a file that is not there", lambda c: c.update(files={"weights.safetensors": "0" * 64})),
    ("a wider network", lambda c: c["architecture"]["model"].update(hidden=[9, 4])),
    ("a norm it has not", lambda c: c["architecture"]["model"].update(norm="batch")),
    ("a derivation that cannot be read", lambda c: c["variables"]["bmi"].update(derive="__import__('os')")),
]


@pytest.mark.parametrize("change", [c for _, c in ALTERED], ids=[name for name, _ in ALTERED])
def test_a_card_that_was_altered_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    found = refused(changed(models.files(), change))
    assert isinstance(found, StorageError)
    assert found.rule == "model-file"


def test_one_flipped_bit_in_the_tensors_is_noticed() -> None:
    files = models.files()
    content = bytearray(files[TENSORS])
    content[-1] ^= 1
    found = refused({**files, TENSORS: bytes(content)})
    assert found.rule == "model-file"
    assert "was written with another model.safetensors" in found.what


def test_the_tensors_of_another_model_are_refused() -> None:
    assert "another model.safetensors" in refused({**models.files(), TENSORS: models.files(seed=9)[TENSORS]}).what
    other = models.files({"kind": "linear"})[TENSORS]
    assert "does not fit its tensors" in refused(with_tensors(models.files(), other)).what


def test_tensors_of_another_type_or_not_finite_are_refused() -> None:
    files = models.files()
    tensors = load(files[TENSORS])
    double = save({name: tensor.double() for name, tensor in tensors.items()})
    assert "does not fit its tensors" in refused(with_tensors(files, double)).what
    tensors["head.bias"] = tensors["head.bias"] * float("nan")
    assert "not finite" in refused(with_tensors(files, save(tensors))).what


class Bomb:
    """What pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the file was executed",))


def test_a_pickle_is_not_opened() -> None:
    pickled = io.BytesIO()
    torch.save({"head.weight": torch.zeros(1)}, pickled)
    for content in (pickle.dumps(Bomb()), pickled.getvalue(), b"", b"\xff" * 64):
        assert "cannot be read" in refused(with_tensors(models.files(), content)).what


def test_a_folder_without_card_or_tensors_says_what_is_missing() -> None:
    files = models.files()
    assert "is missing" in refused({TENSORS: files[TENSORS]}).what
    assert "comes without model.safetensors" in refused({CARD: files[CARD]}).what


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 3}', b"\x00", b"[" * 100_000], ids=range(6))
def test_what_is_no_card_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(StorageError, match="is not the card of a model") as error:
        model_card.format_of(content)
    assert error.value.rule == "model-file"


def test_a_kind_that_is_not_installed_here_is_named() -> None:
    found = refused(changed(models.files(), lambda c: c["architecture"]["model"].update(kind="retina-net")))
    assert found.rule == "known-models"
    assert "retina-net" in found.what


def test_a_packages_model_is_read_with_that_package_only(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (Package(name="retina-models", version=v, sha256=d * 64) for v, d in (("1.0", "a"), ("1.1", "b")))
    monkeypatch.setattr(model_file, "installed", lambda: {"mlp": one})
    files = models.files()
    assert card_of(files)["architecture"]["package"]["version"] == "1.0"
    read(files)
    monkeypatch.setattr(model_file, "installed", lambda: {"mlp": two})
    found = refused(files)
    assert (
        "'retina-models' version 1.0 (sha256 aaaaaaaaaaaa); here it is of the package 'retina-models' version 1.1"
        in found.what
    )
    monkeypatch.setattr(model_file, "installed", dict)
    assert "here it is of no package" in refused(files).what
