"""Tasks: each loss against its formula, written down plainly; Cox against lifelines; censoring in discrete time case by case."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter, KaplanMeierFitter
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from unisono.methods.training.tasks import Binary, Cox, Hazard, Multiclass, Number, task_from
from unisono.study.table import Table

TIES: tuple[Literal["efron", "breslow"], ...] = ("efron", "breslow")
HAZARD = Hazard(time="months", event="died", unit="mo", step=6.0, intervals=4)


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values, np.float64))


def survival_data(n: int = 80, seed: int = 1, ties: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """f, time, event."""
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 15, n).astype(float) if ties else rng.permutation(n) + 1.0
    return tensor(rng.normal(size=n)), tensor(time), tensor(rng.random(n) < 0.6)


def cox_loss(task: Cox, f: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    return task.loss(f[:, None], torch.stack([time, event], dim=1))


# -- classes and numbers ----------------------------------------------------------------------------------------------


def test_binary_is_the_bernoulli_log_likelihood_weighted_by_class() -> None:
    task, f, y = Binary(outcome="ill"), tensor([[-2.0], [0.5], [60.0], [-60.0]]), tensor([[0.0], [1.0], [1.0], [1.0]])
    p = 1 / (1 + np.exp(-f.numpy()[:, 0]))
    expected = [-math.log(1 - p[0]), -math.log(p[1]), 0.0, 60.0]
    np.testing.assert_allclose(task.loss(f, y).numpy(), expected, rtol=1e-9, atol=1e-12)
    weighted = task.loss(f, y, tensor([3.0, 0.5]))
    np.testing.assert_allclose(weighted.numpy(), np.array([3.0, 0.5, 0.5, 0.5]) * expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(task.predict(f.numpy())["probability"], p, rtol=1e-12)
    assert task.columns() == ("probability[ill]",)


def test_multiclass_is_the_softmax_log_likelihood_weighted_by_class() -> None:
    task = Multiclass(outcome="stage", classes=("I", "II", "III"))
    f = tensor(np.random.default_rng(0).normal(size=(6, 3)) * 5)
    y, weights = tensor([[0], [1], [2], [2], [1], [0]]), tensor([1.0, 2.0, 0.5])
    expected = cross_entropy(f, y[:, 0].long(), reduction="none") * weights[y[:, 0].long()]
    torch.testing.assert_close(task.loss(f, y, weights), expected)
    probabilities = task.predict(f.numpy())["probabilities"]
    np.testing.assert_allclose(probabilities, torch.softmax(f, 1).numpy(), rtol=1e-12)
    assert task.table({"probabilities": probabilities}).shape == (6, 3)
    assert task.columns()[1] == "probability[stage=II]"


def test_a_number_is_learnt_standardised_and_predicted_in_its_unit() -> None:
    task = Number(outcome="bmi", unit="kg/m2", centre=25.0, scale=4.0)
    table = Table({"bmi": np.array([25.0, 33.0])}, 2)
    loss = task.loss(tensor([[0.0], [1.0]]), tensor(task.targets(table)))
    np.testing.assert_allclose(loss.numpy(), [0.0, 0.5])
    np.testing.assert_allclose(task.predict(np.array([[2.0]]))["mean"], [33.0])
    assert task.columns() == ("bmi [kg/m2]",)


# -- Cox --------------------------------------------------------------------------------------------------------------


def partial_likelihood(f: torch.Tensor, time: torch.Tensor, event: torch.Tensor, ties: str) -> torch.Tensor:
    """The definition, time by time."""
    total = torch.zeros((), dtype=f.dtype)
    for t in torch.unique(time[event > 0]):
        at_risk = torch.exp(f[time >= t]).sum()
        tied = (time == t) & (event > 0)
        d = int(tied.sum())
        total = total - f[tied].sum()
        for k in range(d):
            share = k / d if ties == "efron" else 0.0
            total = total + torch.log(at_risk - share * torch.exp(f[tied]).sum())
    return total


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("seed", range(3))
def test_cox_is_the_partial_likelihood_and_so_is_its_gradient(ties: Literal["efron", "breslow"], seed: int) -> None:
    f, time, event = survival_data(seed=seed)
    f.requires_grad_()
    mine, plain = (
        cox_loss(Cox(time="t", event="e", ties=ties), f, time, event).sum(),
        partial_likelihood(f, time, event, ties),
    )
    torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(loss, f)[0] for loss in (mine, plain)), rtol=1e-10, atol=1e-12)


def test_cox_with_efrons_ties_is_lifelines() -> None:
    _, time, event = survival_data(n=150, seed=4)
    x = np.random.default_rng(4).normal(size=150)
    frame = pd.DataFrame({"x": x, "t": time.numpy(), "e": event.numpy()})
    fitted = CoxPHFitter().fit(frame, "t", "e")
    beta = tensor([fitted.params_["x"]]).requires_grad_()
    loss = cox_loss(Cox(time="t", event="e"), tensor(x) * beta, time, event).sum()
    np.testing.assert_allclose(-loss.item(), fitted.log_likelihood_, rtol=1e-9)
    assert abs(torch.autograd.grad(loss, beta)[0].item()) < 1e-4, "lifelines' estimate is its stationary point"


def test_cox_is_a_loss_of_each_event_and_of_nobody_censored() -> None:
    f, time, event = survival_data()
    losses = cox_loss(Cox(time="t", event="e"), f, time, event)
    assert (losses[event == 0] == 0).all()
    for t in torch.unique(time[event > 0]):  # the second term is shared evenly among the events of one time
        tied = (time == t) & (event > 0)
        torch.testing.assert_close(losses[tied] + f[tied], (losses[tied] + f[tied]).mean().expand(int(tied.sum())))


def test_cox_does_not_depend_on_the_order_of_patients() -> None:
    f, time, event = survival_data()
    shuffled = torch.tensor(np.random.default_rng(0).permutation(len(f)))
    task = Cox(time="t", event="e")
    torch.testing.assert_close(
        cox_loss(task, f, time, event)[shuffled], cox_loss(task, f[shuffled], time[shuffled], event[shuffled])
    )


@pytest.mark.parametrize("ties", TIES)
def test_cox_without_events_is_zero_and_with_large_outputs_finite(ties: Literal["efron", "breslow"]) -> None:
    f, time, event = survival_data()
    task = Cox(time="t", event="e", ties=ties)
    f.requires_grad_()
    nothing = cox_loss(task, f, time, torch.zeros_like(event)).sum()
    assert nothing.item() == 0.0
    assert torch.autograd.grad(nothing, f)[0].abs().sum() == 0
    wide = (f.detach() * 300).float().requires_grad_()
    far = cox_loss(task, wide, time, event).sum()
    assert torch.isfinite(far)
    assert torch.isfinite(torch.autograd.grad(far, wide)[0]).all()


def test_one_patient_has_a_cox_loss_of_zero() -> None:
    assert cox_loss(Cox(time="t", event="e"), tensor([3.0]), tensor([5.0]), tensor([1.0])).tolist() == [0.0]


def test_half_precision_outputs_are_summed_in_single() -> None:
    f, time, event = survival_data()
    half = cox_loss(Cox(time="t", event="e"), f.bfloat16(), time, event)
    assert half.dtype == torch.float32


# -- logistic hazard --------------------------------------------------------------------------------------------------

CASES = [
    # months, died, intervals survived whole, event in the next
    (3.0, 1, 0, 1),  # in (0, 6]
    (6.0, 1, 0, 1),  # an event at the end of an interval is in it
    (6.1, 1, 1, 1),
    (24.0, 1, 3, 1),
    (24.1, 1, 4, 0),  # after the last interval: event-free in all of them
    (3.0, 0, 0, 0),  # censored within the first: nothing is known of any whole interval
    (6.0, 0, 1, 0),  # censored at its end: survived it
    (11.9, 0, 1, 0),
    (18.0, 0, 3, 0),
    (99.0, 0, 4, 0),
    (0.0, 1, 0, 1),
    (0.0, 0, 0, 0),
]


@pytest.mark.parametrize(("months", "died", "survived", "event"), CASES)
def test_events_move_to_the_end_of_their_interval_and_censorings_to_its_beginning(
    months: float, died: int, survived: int, event: int
) -> None:
    table = Table({"months": np.array([months]), "died": np.array([float(died)])}, 1)
    assert HAZARD.targets(table).tolist() == [[survived, event]]


def test_a_censoring_on_the_studys_grid_is_known_of_only_until_the_grid_time_before() -> None:
    table = Table({"months": np.array([6.0, 12.0, 13.0, 12.0]), "died": np.array([0.0, 0.0, 0.0, 1.0])}, 4)
    monthly = HAZARD.model_copy(
        update={"resolution": 1.0}
    )  # 12 is a time in (11, 12]: the second interval is not known whole
    assert monthly.targets(table).tolist() == [[0, 0], [1, 0], [2, 0], [1, 1]]
    same = HAZARD.model_copy(update={"resolution": 6.0})  # the grid is the intervals' own
    on_grid = Table({"months": np.array([6.0, 12.0]), "died": np.array([0.0, 0.0])}, 2)
    assert same.targets(on_grid).tolist() == [[0, 0], [1, 0]]


def test_the_grid_may_not_be_coarser_than_the_intervals() -> None:
    with pytest.raises(ValidationError, match="at least as long as the study's grid"):
        Hazard(time="t", event="e", step=1.0, intervals=3, resolution=2.0)


def test_rounding_does_not_move_a_time_on_the_end_of_an_interval() -> None:
    task = Hazard(time="t", event="e", step=0.1, intervals=10)
    times = np.array([0.1 * k for k in range(1, 11)])  # 0.30000000000000004
    events = task.targets(Table({"t": times, "e": np.ones(10)}, 10))
    censored = task.targets(Table({"t": times, "e": np.zeros(10)}, 10))
    assert events[:, 0].tolist() == list(range(10))
    assert censored[:, 0].tolist() == list(range(1, 11))


@given(st.lists(st.tuples(st.floats(0, 40), st.booleans()), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_hazard_is_the_likelihood_written_out(patients: list[tuple[float, bool]], seed: int) -> None:
    table = Table(
        {"months": np.array([t for t, _ in patients]), "died": np.array([float(e) for _, e in patients])}, len(patients)
    )
    f = np.random.default_rng(seed).normal(size=(len(patients), 4)) * 3
    losses = HAZARD.loss(tensor(f), tensor(HAZARD.targets(table))).numpy()
    h = 1 / (1 + np.exp(-f))
    for i, (time, died) in enumerate(patients):
        inside = died and time <= 24.0
        before = max(math.ceil(time / 6) - 1, 0) if inside else (4 if died else min(math.floor(time / 6), 4))
        expected = -sum(math.log(1 - h[i, j]) for j in range(before)) - (math.log(h[i, before]) if inside else 0.0)
        assert losses[i] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_hazard_net_without_covariates_is_kaplan_meier_on_its_intervals() -> None:
    rng = np.random.default_rng(3)
    months = rng.integers(1, 9, 500) * 6.0 * 0.5  # ends and middles of intervals
    died = rng.random(500) < 0.4
    targets = HAZARD.targets(Table({"months": months, "died": died.astype(float)}, 500))
    f = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [f], max_iter=100, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = HAZARD.loss(f.expand(500, 4), tensor(targets)).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    # Events at the end of their interval, censorings at its beginning, where they are no longer at risk within it.
    moved = np.where(died, np.ceil(months / 6), np.floor(months / 6)) * 6
    curve = KaplanMeierFitter().fit(moved, died).predict([6.0, 12.0, 18.0, 24.0])
    survival = HAZARD.predict(f.detach().numpy()[None, :])["survival"][0]
    np.testing.assert_allclose(survival, curve.to_numpy(), atol=1e-6)


def test_hazard_predicts_survival_and_a_risk_that_orders_like_it() -> None:
    f = np.array([[-3.0, -3.0, -3.0, -3.0], [0.0, 0.0, 0.0, 0.0]])
    found = HAZARD.predict(f)
    np.testing.assert_allclose(found["survival"][1], [0.5, 0.25, 0.125, 0.0625])
    assert (np.diff(found["survival"], axis=1) < 0).all()
    assert found["risk"][1] == -(6 * (0.5 * 1 + 0.5 + 0.25 + 0.125 + 0.5 * 0.0625))
    assert found["risk"][1] > found["risk"][0]
    assert HAZARD.columns() == ("survival[6 mo]", "survival[12 mo]", "survival[18 mo]", "survival[24 mo]", "risk")
    assert HAZARD.table(found).shape == (2, 5)


def test_outputs_far_out_have_finite_losses_and_gradients() -> None:
    f = (torch.tensor([[200.0, -200.0, 200.0, -200.0]]) * 1.0).requires_grad_()
    loss = HAZARD.loss(f, tensor([[3, 1]])).sum()
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, f)[0]).all()


# -- as they are written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [
        Binary(outcome="ill"),
        Multiclass(outcome="stage", classes=("I", "II")),
        Number(outcome="bmi", unit="kg/m2", centre=1.5, scale=2.0),
        Cox(time="t", event="e", ties="breslow"),
        HAZARD,
    ],
    ids=lambda task: task.kind,
)
def test_a_task_is_what_was_written_of_it(task: Any) -> None:
    assert task_from(task.model_dump(mode="json")) == task
    with pytest.raises(ValidationError):
        task_from({**task.model_dump(mode="json"), "extra": 1})
