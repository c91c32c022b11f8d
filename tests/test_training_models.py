"""Models: what each kind computes, that its first weights follow from the seed alone, and how it becomes a vector."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from unisono.errors import MethodError, MissingExtra, ProtocolError, StudyError
from unisono.methods.training.models import registry
from unisono.methods.training.models.base import Batch, Inputs, ModelSpec
from unisono.methods.training.models.initialise import initialise, network
from unisono.methods.training.models.layers import Dropout, embedding_width, set_generator
from unisono.methods.training.models.registry import kinds, model_spec
from unisono.methods.training.models.vector import Layout

TABLE = Inputs(numbers=("age", "size", "smoker"), categories=(4, 3))
PICTURE = Inputs(numbers=("age",), categories=(3,), image=(1, 8, 8))
SPECS: list[tuple[dict[str, Any], Inputs]] = [
    ({"kind": "linear"}, TABLE),
    ({"kind": "mlp", "hidden": [8, 5], "dropout": 0.5}, TABLE),
    ({"kind": "mlp", "hidden": [8], "norm": "batch"}, TABLE),
    ({"kind": "mlp", "hidden": [8], "norm": "layer"}, TABLE),
    ({"kind": "cnn", "channels": [4, 6], "hidden": 7, "norm": "batch", "dropout": 0.3}, PICTURE),
    ({"kind": "cnn", "channels": [4], "norm": "group"}, PICTURE),
    ({"kind": "resnet", "blocks": [1, 2], "width": 4}, PICTURE),
    ({"kind": "resnet", "blocks": [1, 1], "width": 4, "norm": "batch"}, PICTURE),
]
NAMES = [f"{spec['kind']}-{spec.get('norm', 'default')}" for spec, _ in SPECS]


def batch(inputs: Inputs, n: int = 6, seed: int = 1) -> Batch:
    rng = np.random.default_rng(seed)
    numbers = torch.from_numpy(rng.normal(size=(n, len(inputs.numbers))).astype(np.float32))
    codes = np.stack([rng.integers(0, c, n) for c in inputs.categories], axis=1)
    image = None if inputs.image is None else torch.from_numpy(rng.random((n, *inputs.image)).astype(np.float32))
    return Batch(numbers, torch.from_numpy(codes), image)


def built(written: dict[str, Any], inputs: Inputs, outputs: int = 2, seed: int = 7) -> nn.Module:
    return network(model_spec(written), inputs, outputs, seed)


# -- what they compute ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("written", "inputs"), SPECS, ids=NAMES)
def test_a_model_gives_its_outputs_has_a_head_and_every_weight_learns(written: dict[str, Any], inputs: Inputs) -> None:
    module = built(written, inputs)
    set_generator(module, torch.Generator().manual_seed(3))
    outputs = module(batch(inputs, n=64))
    assert outputs.shape == (64, 2)
    assert isinstance(module.head, nn.Linear)
    (outputs**2).sum().backward()
    unmoved = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unmoved == []


def test_linear_is_the_formula() -> None:
    module, patients = built({"kind": "logistic"}, TABLE, 1), batch(TABLE)
    hot = [np.eye(c)[patients.categories[:, j].numpy()] for j, c in enumerate(TABLE.categories)]
    x = np.concatenate([patients.numbers.numpy(), *hot], axis=1)
    expected = x @ module.head.weight.detach().numpy().T + module.head.bias.detach().numpy()
    np.testing.assert_allclose(module(patients).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_mlp_is_the_formula() -> None:
    module, patients = built({"kind": "mlp", "hidden": [5], "dropout": 0.4}, TABLE, 1).eval(), batch(TABLE)
    w = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    embedded = [w[f"embeddings.{j}.weight"][patients.categories[:, j].numpy()] for j in range(2)]
    x = np.concatenate([patients.numbers.numpy(), *embedded], axis=1)
    hidden = np.maximum(x @ w["body.0.0.weight"].T + w["body.0.0.bias"], 0.0)
    expected = hidden @ w["head.weight"].T + w["head.bias"]
    np.testing.assert_allclose(module(patients).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert [embedding_width(c) for c in (2, 3, 4, 300)] == [1, 2, 2, 50]


def test_a_resnet_block_adds_its_input() -> None:
    module = built({"kind": "resnet", "blocks": [1], "width": 4}, Inputs(image=(1, 4, 4)), 1).eval()
    block = module.stages[0][0]
    with torch.no_grad():
        block.conv2.weight.zero_()  # nothing beside the shortcut, and the norm of 0 is 0
        maps = torch.rand(2, 4, 4, 4)
        np.testing.assert_array_equal(block(maps).numpy(), maps.numpy())


def test_models_say_what_does_not_fit() -> None:
    tiny = Inputs(image=(1, 3, 3))
    large = Inputs(image=(1, 512, 512))
    assert model_spec({"kind": "mlp"}).check(PICTURE) == ["an mlp reads no image: use kind cnn or resnet"]
    assert "needs an image" in model_spec({"kind": "cnn"}).check(TABLE)[0]
    assert "leave nothing of an image of 3 x 3" in model_spec({"kind": "cnn"}).check(tiny)[0]
    assert "features would go into the dense layer" in model_spec({"kind": "cnn"}).check(large)[0]
    assert model_spec({"kind": "resnet"}).check(large) == []
    assert model_spec({"kind": "linear"}).check(Inputs()) == ["the model has no input"]
    with pytest.raises(StudyError, match="an mlp reads no image") as error:
        built({"kind": "mlp"}, PICTURE)
    assert error.value.rule == "model-inputs"


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden": []},
        {"hidden": [0]},
        {"dropout": 1.0},
        {"dropout": float("nan")},
        {"norm": "group"},
        {"width": 3},
        {"hidden": ["8"]},
    ],
    ids=str,
)
def test_settings_that_a_kind_does_not_have_are_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model_spec({"kind": "mlp", **wrong})


# -- first weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("written", "inputs"), SPECS, ids=NAMES)
def test_first_weights_follow_from_the_seed_and_from_nothing_else(written: dict[str, Any], inputs: Inputs) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = built(written, inputs)
    assert torch.equal(torch.get_rng_state(), before), "the global generator was drawn from"
    torch.manual_seed(99)
    two, other = built(written, inputs), built(written, inputs, seed=8)
    layout = Layout.of(one)
    np.testing.assert_array_equal(layout.flatten(one), layout.flatten(two))
    assert not np.array_equal(layout.flatten(one), layout.flatten(other))


def test_first_weights_are_the_same_on_every_machine() -> None:
    module = built({"kind": "mlp", "hidden": [3]}, Inputs(numbers=("a", "b")), 1, seed=2026)
    key = _key("unisono-training first-weights 2026 body.0.0.weight")
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little") >> 1))
    expected = rng.standard_normal((3, 2)) * np.sqrt(2 / 2)  # He et al. 2015: variance 2 / fan-in
    np.testing.assert_array_equal(module.body[0][0].weight.detach().numpy(), expected.astype(np.float32))
    assert module.body[0][0].bias.abs().sum().item() == 0.0


def _key(text: str) -> bytes:
    import hashlib

    return hashlib.sha256(text.encode()).digest()[:8]


def test_a_further_layer_changes_no_other_layers_first_weights() -> None:
    shallow, deep = built({"kind": "mlp", "hidden": [4]}, TABLE), built({"kind": "mlp", "hidden": [4, 4]}, TABLE)
    assert torch.equal(shallow.body[0][0].weight, deep.body[0][0].weight)
    assert torch.equal(shallow.head.weight, deep.head.weight)


def test_initialising_again_forgets_what_a_norm_has_seen() -> None:
    module = built({"kind": "mlp", "hidden": [4], "norm": "batch"}, TABLE)
    first = Layout.of(module).flatten(module)
    module.train()(batch(TABLE, 32))
    assert not np.array_equal(Layout.of(module).flatten(module), first)
    initialise(module, 7)
    np.testing.assert_array_equal(Layout.of(module).flatten(module), first)


def test_a_model_beyond_the_largest_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.methods.training.models.initialise.MOST_PARAMETERS", 50)
    with pytest.raises(StudyError, match="at most 50 are allowed") as error:
        built({"kind": "mlp", "hidden": [30]}, TABLE)
    assert error.value.rule == "model-size"


# -- dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_draws_from_its_own_generator_and_keeps_the_mean() -> None:
    layer, x = Dropout(0.25), torch.ones(400, 50)
    layer.generator = torch.Generator().manual_seed(5)
    before = torch.get_rng_state()
    first = layer(x)
    assert torch.equal(torch.get_rng_state(), before)
    layer.generator = torch.Generator().manual_seed(5)
    assert torch.equal(layer(x), first)
    assert set(first.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(first.mean().item() - 1.0) < 0.02
    assert torch.equal(layer.eval()(x), x)


def test_dropout_without_a_generator_is_an_error_and_not_global_randomness() -> None:
    with pytest.raises(MethodError) as error:
        Dropout(0.5)(torch.ones(2, 2))
    assert error.value.rule == "declared-randomness"


# -- vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("written", "inputs"), SPECS, ids=NAMES)
def test_a_vector_is_the_whole_network(written: dict[str, Any], inputs: Inputs) -> None:
    one, other = built(written, inputs), built(written, inputs, seed=8)
    set_generator(one, torch.Generator().manual_seed(1))
    one.train()(batch(inputs, 32))  # running statistics move
    layout = Layout.of(one)
    assert layout == Layout.of(other)
    layout.load(other, layout.flatten(one))
    assert torch.equal(one.eval()(batch(inputs)), other.eval()(batch(inputs)))
    assert layout.size == sum(t.numel() for t in one.state_dict().values() if t.is_floating_point())


def test_weights_come_before_buffers_and_integers_are_left_out() -> None:
    layout = Layout.of(built({"kind": "mlp", "hidden": [8], "norm": "batch"}, TABLE))
    kinds_ = [entry.kind for entry in layout.entries]
    assert kinds_ == ["weight"] * kinds_.count("weight") + ["buffer"] * 2
    assert [entry.name for entry in layout.entries][-2:] == ["body.0.1.running_mean", "body.0.1.running_var"]
    assert layout.weights == layout.size - 16


def test_norm_layers_and_the_head_can_be_selected() -> None:
    layout = Layout.of(built({"kind": "mlp", "hidden": [8], "norm": "batch"}, TABLE))
    norm = layout.mask(lambda entry: entry.is_norm)
    assert {e.name for e in layout.entries if norm[e.start : e.stop].all()} == {
        "body.0.1.weight",
        "body.0.1.bias",
        "body.0.1.running_mean",
        "body.0.1.running_var",
    }
    assert norm.sum() == 32
    (head,) = layout.select(lambda entry: entry.is_head)  # weight and bias lie side by side
    assert head.stop - head.start == 8 * 2 + 2


@pytest.mark.parametrize("size", [0, 1, -1])
def test_a_vector_of_another_length_is_refused(size: int) -> None:
    module = built({"kind": "linear"}, TABLE)
    layout = Layout.of(module)
    with pytest.raises(ProtocolError) as error:
        layout.load(module, np.zeros(size if size == 0 else layout.size + size, np.float32))
    assert error.value.rule == "model-shape"


# -- kinds ------------------------------------------------------------------------------------------------------------


class Constant(ModelSpec):
    """A package's model."""

    kind: Literal["constant"] = "constant"

    def build(self, inputs: Inputs, outputs: int) -> nn.Module:
        raise NotImplementedError


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "unisono.models" else [])
    registry.spec_type.cache_clear()
    yield points
    registry.spec_type.cache_clear()


def test_a_packages_model_is_found_by_its_entry_point(packaged: list[EntryPoint]) -> None:
    packaged.append(EntryPoint("constant", f"{__name__}:Constant", "unisono.models"))
    assert isinstance(model_spec({"kind": "constant"}), sys.modules[__name__].Constant)
    assert "constant" in kinds()


def test_two_models_of_one_name_are_refused(packaged: list[EntryPoint]) -> None:
    packaged.append(EntryPoint("mlp", f"{__name__}:Constant", "unisono.models"))
    with pytest.raises(StudyError, match="Two models are called 'mlp'"):
        model_spec({"kind": "mlp"})


def test_an_entry_point_that_is_no_model_is_refused(packaged: list[EntryPoint]) -> None:
    packaged.append(EntryPoint("sum", "builtins:sum", "unisono.models"))
    with pytest.raises(StudyError, match="is no ModelSpec"):
        model_spec({"kind": "sum"})


@pytest.mark.parametrize("written", [{"kind": "mpl"}, {"kind": 3}, {}], ids=str)
def test_an_unknown_kind_names_those_that_there_are(written: dict[str, Any]) -> None:
    with pytest.raises(StudyError) as error:
        model_spec(written)
    assert error.value.rule == "known-models"
    assert "mlp" in error.value.remedy


def test_without_pytorch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    registry.spec_type.cache_clear()
    with pytest.raises(MissingExtra, match="pip install 'unisono\\[torch\\]'"):
        model_spec({"kind": "mlp"})
