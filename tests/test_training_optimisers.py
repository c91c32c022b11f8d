"""The federated optimisers: what each does in a round, against the formulas of its paper."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tests.support import training
from tests.support.training import FEATURES, light, study, weights
from unisono.errors import Abstention
from unisono.methods.training.benefit import alone
from unisono.methods.training.progress import Progress
from unisono.methods.training.workplace import Workplace

LINEAR = {"kind": "linear"}
NORMED = {"kind": "mlp", "hidden": [4], "norm": "batch"}
WHOLE = {"batch": "all", "rate": 0.3}
DECAY = 0.1
ROUNDING = 1e-6
"""fixed32 rounds to about 1e-9, and the model is in single precision."""

Vector = NDArray[np.float32]


def unequal() -> dict[str, pd.DataFrame]:
    """Sites of 30, 60 and 90 patients; of the first almost all, of the last few are malignant."""
    order = training.breast_cancer().sort_values("radius", ascending=False, kind="stable")
    parts = {"leiden": slice(0, 150, 5), "padua": slice(100, 400, 5), "turin": slice(110, 560, 5)}
    return {site: order.iloc[rows].reset_index(drop=True) for site, rows in parts.items()}


def prepared(place: training.Light) -> NDArray[np.float64]:
    sums = asyncio.run(place.federation.sum(place.method.preprocessing))
    vector: NDArray[np.float64] = place.method.columns.prepared(sums, "standardise", 5)
    return vector


def pooled_descent(frames: Mapping[str, pd.DataFrame], rounds: int, rate: float) -> NDArray[np.float64]:
    """Logistic regression on everybody's patients, by as many steps of gradient descent: (5,) slopes and intercept."""
    whole = pd.concat(frames.values())
    x = whole[list(FEATURES)].to_numpy()
    x = np.column_stack([(x - x.mean(axis=0)) / x.std(axis=0), np.ones(len(x))])
    y = whole["malignant"].to_numpy(float)
    w = np.zeros(5)
    w[:4] = light(study({"model": LINEAR})).method.network.first[:4]
    for _ in range(rounds):
        w -= rate * x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(y)
    return w


def slopes(tensors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.concatenate([tensors["head.weight"].ravel(), tensors["head.bias"]]).astype(float)


def test_fedavg_with_one_step_on_all_patients_is_gradient_descent_on_the_pooled_patients() -> None:
    frames = unequal()
    asked = study({"model": LINEAR, "local": {**WHOLE, "steps": 1}, "rounds": {"most": 4}, "validate": {"fraction": 0}})
    found = light(asked, training.tables(asked, frames)).run()
    assert slopes(weights(found)) == pytest.approx(pooled_descent(frames, 4, 0.3), abs=ROUNDING)


def test_fedprox_without_a_spring_is_fedavg_and_with_one_stays_nearer() -> None:
    local = {"epochs": 3, "rate": 0.2}
    average = light(study({"local": local}))
    given = prepared(average)
    model = average.method.network.first
    changes = {}
    for mu in (0.0, 1.0, 10.0):
        sprung = light(study({"local": local, "method": "fedprox", "proximal": mu}))
        changes[mu] = sprung.method.update.compute(sprung.data("padua"), model, 1, given)["update"]
    plain = average.method.update.compute(average.data("padua"), model, 1, given)["update"]
    assert (changes[0.0] == plain).all()
    sizes = [float(np.linalg.norm(change)) for change in changes.values()]
    assert sizes[0] > sizes[1] > sizes[2] > 0


# -- SCAFFOLD -----------------------------------------------------------------------------------------------------------


def mean_control(found: training.Light) -> NDArray[np.float64]:
    """The patients' mean of what the sites remember."""
    members = found.federation.members.values()
    total = sum(site.patients for site in members)
    return sum(site.patients / total * site.memory["control"].astype(float) for site in members)


def test_scaffold_with_one_site_is_fedavg() -> None:
    settings = {"local": {"epochs": 2, "rate": 0.2}}
    one = {"padua": training.tables(study())["padua"]}
    plain = light(study(settings), one).run()
    controlled = light(study({**settings, "method": "scaffold"}), one).run()
    for name, tensor in weights(plain).items():
        assert weights(controlled)[name] == pytest.approx(tensor, abs=ROUNDING)


def test_the_servers_control_variate_is_the_mean_of_the_sites_also_when_one_was_not_in_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = Workplace.trained

    def sometimes(self: Workplace, start: Vector, round: int, **rest: Any) -> Any:
        if round == 2 and self.train.n + self.valid.n == 30:
            raise Abstention("Not in this round.", rule="memory", remedy="None.")
        return trained(self, start, round, **rest)

    monkeypatch.setattr(Workplace, "trained", sometimes)
    asked = study({"method": "scaffold", "local": {"epochs": 2, "rate": 0.2}, "rounds": {"most": 4}})
    found = light(asked, training.tables(asked, unequal()))
    result = found.run()
    assert [len(entry["counted"]) for entry in result.estimates["rounds"][1:]] == [3, 2, 3, 3]
    # The control that was broadcast in round 4 is the mean of what the sites remembered before it.
    following: list[NDArray[np.float64]] = []
    method = found.method
    step = asyncio.run(method.step(found.federation, _progress(method, found)))  # type: ignore[arg-type]
    following.append(step.memory["control"])
    assert following[0] == pytest.approx(mean_control(found), abs=1e-5)
    assert np.abs(mean_control(found)).max() > 0.01


def _progress(method: Any, found: training.Light) -> Progress:
    """Where the training stood after its last round, with the control variate that the sites' memories make."""
    control = mean_control(found).astype(np.float32)
    given = np.asarray(found.federation.asked["update"][2])
    return Progress(3, method.network.first, {"control": control}, given, method.network.first)


def gradient(frames: Mapping[str, pd.DataFrame], w: NDArray[np.float64]) -> float:
    """Norm of the gradient of the pooled loss with its weight decay, at slopes and intercept."""
    whole = pd.concat(frames.values())
    x = whole[list(FEATURES)].to_numpy()
    x = np.column_stack([(x - x.mean(axis=0)) / x.std(axis=0), np.ones(len(x))])
    y = whole["malignant"].to_numpy(float)
    return float(np.linalg.norm(x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(y) + DECAY * w))


def test_scaffold_goes_to_the_pooled_optimum_where_fedavg_drifts() -> None:
    """20 local steps on sites of which one has hardly any but malignant patients."""
    frames = unequal()
    local = {"steps": 20, "batch": "all", "rate": 0.3, "weight_decay": DECAY}
    left = {}
    for name in ("fedavg", "scaffold"):
        analysis = {"model": LINEAR, "method": name, "local": local, "rounds": {"most": 15}}
        asked = study({**analysis, "update_bound": 10.0, "validate": {"fraction": 0}})
        found = light(asked, training.tables(asked, frames)).run()
        left[name] = gradient(frames, slopes(weights(found)))
    assert left["scaffold"] < left["fedavg"] / 10


# -- server optimisers --------------------------------------------------------------------------------------------------


class Canned:
    """A federation whose rounds have these mean changes."""

    counted = ("leiden", "padua", "turin")

    def __init__(self, changes: list[NDArray[np.float64]]) -> None:
        self.changes = changes

    async def mean(self, contribution: Any, model: Vector, round: int, prepared: Any) -> dict[str, Any]:
        told = {"loss": 1.0, "steps": 1.0, "clipped": 0.0}
        nothing = {f"validation_{name}": 0.0 for name in ("loss", "correct", "patients")}
        return {"update": self.changes[round - 1], **told, **nothing}


def reference(name: str, first: Vector, changes: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Algorithm 2 of Reddi et al. (2021), element by element."""
    w, rate, tau, beta1, beta2 = first.astype(float), 0.1, 0.01, 0.8, 0.9
    m, v = np.zeros(len(w)), np.full(len(w), tau**2)
    for change in changes:
        for j, d in enumerate(change):
            m[j] = beta1 * m[j] + (1 - beta1) * d
            if name == "fedadagrad":
                v[j] += d**2
            elif name == "fedadam":
                v[j] = beta2 * v[j] + (1 - beta2) * d**2
            else:
                v[j] -= (1 - beta2) * d**2 * np.sign(v[j] - d**2)
            w[j] += rate * m[j] / (np.sqrt(v[j]) + tau)
    return w


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_server_optimisers_step_as_in_the_paper(name: str) -> None:
    server = {"rate": 0.1, "tau": 0.01, "beta1": 0.8, **({} if name == "fedadagrad" else {"beta2": 0.9})}
    method = light(study({"method": name, "server": server})).method
    changes = [np.random.default_rng(k).normal(scale=0.1, size=method.p) for k in range(4)]
    progress = Progress(0, method.network.first, method.begin(), np.zeros(0), method.network.first)
    for _ in changes:
        step = asyncio.run(method.step(Canned(changes), progress))  # type: ignore[arg-type]
        progress = progress.next(step.model, step.memory, step.answered)
    assert progress.model == pytest.approx(reference(name, method.network.first, changes), abs=1e-6)


def test_what_a_server_carries_is_in_the_snapshot() -> None:
    method = light(study({"method": "fedyogi"})).method
    begun = Progress(3, method.network.first, method.begin(), np.ones(2), method.network.first, stopped="early")
    again = Progress.from_tree(begun.to_tree())
    assert (again.memory["v"] == begun.memory["v"]).all() and again.stopped == "early" and again.best_value == np.inf


# -- personal models ------------------------------------------------------------------------------------------------------


def test_fedbn_keeps_norm_layers_at_the_site() -> None:
    found = light(study({"method": "fedbn", "model": NORMED, "rounds": {"most": 3}}))
    result, method = found.run(), found.method
    norms = method.network.layout.mask(lambda entry: entry.is_norm)
    assert norms.sum() == 16  # weight, bias, mean and variance of four
    parts = found.federation.parts["update"]
    assert all(part["update"].shape == (method.p - 16,) and "statistics" not in part for part in parts.values())
    mine = [found.memory(site)["mine"] for site in found.federation.sites]
    assert not np.allclose(mine[0], mine[1]) and not np.allclose(mine[1], mine[2])
    assert set(weights(result)) == {"body.0.0.weight", "body.0.0.bias", "head.weight", "head.bias"}
    for site in found.federation.sites:  # each has a model of its own that predicts
        (kept,) = found.federation.members[site].kept
        assert set(kept.files) == {"model.json", "model.safetensors"} and kept.sheet["personal"]


def test_norm_statistics_are_averaged_by_the_others() -> None:
    found = light(study({"model": NORMED, "rounds": {"most": 1}}))
    tensors = weights(found.run())
    assert np.abs(tensors["body.0.1.running_mean"]).max() > 1e-3
    part = found.federation.parts["update"]["padua"]
    assert part["statistics"].shape == (8,)


def test_fedrep_keeps_the_head_at_the_site_and_trains_it_first() -> None:
    found = light(study({"method": "fedrep", "rounds": {"most": 2}}))
    result, method = found.run(), found.method
    heads = [found.memory(site)["mine"] for site in found.federation.sites]
    assert heads[0].shape == (7,) and not np.allclose(heads[0], heads[1])
    assert found.federation.parts["update"]["padua"]["update"].shape == (method.p - 7,)
    assert set(weights(result)) == {"body.0.0.weight", "body.0.0.bias"}


def test_dittos_personal_model_is_the_sites_own_without_a_spring_and_the_joint_one_with_a_strong_one() -> None:
    local = {"steps": 3, "batch": "all", "rate": 0.05}
    free = light(study({"method": "ditto", "proximal": 0.0, "local": local}))
    result = free.run()
    given = np.asarray(free.federation.asked["update"][2])
    for site in free.federation.sites:
        single, _ = alone(free.method.workplace(free.data(site), given), 3)
        assert (free.memory(site)["mine"] == single).all()
    held = light(study({"method": "ditto", "proximal": 19.0, "local": {**local, "steps": 60}}))
    joint = np.asarray(held.federation.asked["update"][0]) if held.run() else None
    assert joint is not None
    distances = [float(np.abs(held.memory(site)["mine"] - joint).max()) for site in held.federation.sites]
    loose = [float(np.abs(free.memory(site)["mine"] - joint).max()) for site in free.federation.sites]
    assert max(distances) < 0.3 * max(loose)
    assert set(result.files()) == {"model.json", "model.safetensors"}


def test_a_site_remembers_its_part_of_the_best_round() -> None:
    """Also one that was not in some rounds."""
    method: Any = light(study({"method": "fedrep"})).method
    parts = {k: np.full(7, float(k), np.float32) for k in range(8)}
    memory: Any = {}
    assert (method.part_of(memory, 0) == method.network.first[method.own_part]).all()
    for round, best in ((1, 0), (2, 0), (3, 1), (5, 3), (6, 3), (7, 3)):  # not in round 4
        memory = method.remembered(memory, parts[round], round, best)
    assert (method.part_of(memory, 7) == 7).all()
    assert (method.part_of(memory, 6) == 6).all()
    assert (method.part_of(memory, 3) == 3).all()


def test_personal_methods_need_a_part_to_keep_and_a_part_to_share() -> None:
    from unisono.errors import StudyError

    with pytest.raises(StudyError, match="this model has none"):
        study({"method": "fedbn"})
    with pytest.raises(StudyError, match="Nothing of this model is shared"):
        study({"method": "fedrep", "model": LINEAR})
    with pytest.raises(StudyError, match="plain SGD"):
        study({"method": "scaffold", "local": {"epochs": 1, "optimiser": "adam"}})


def test_every_leaf_says_in_a_sentence_what_it_is() -> None:
    for name in ("fedavg", "fedprox", "scaffold", "fedadam", "fedyogi", "fedadagrad", "fedbn", "ditto", "fedrep"):
        method = light(study({"method": name, "model": NORMED})).method
        facts = SimpleNamespace(patients=180, imputed={})
        planned = {ask.contribution.name: ask for ask in method.plan()}
        assert set(planned) == {"preprocessing", "update", "evaluation"}
        for ask in planned.values():
            declared = ask.contribution.declaration(facts, *ask.arguments)  # type: ignore[arg-type]
            assert all(leaf.meaning.endswith(".") for leaf in declared.leaves.values())
            assert set(declared.arguments) == set(ask.contribution.contribution.parameters)
