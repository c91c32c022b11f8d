"""The partial likelihood of Cox (1972) as a loss of network outputs (DeepSurv: Katzman et al. 2018), ties by Efron or Breslow.

For the d events at time t, D their sum of exp(f), R the sum of exp(f) over everybody with a time >= t (censored at t included:
events come before censorings):

    Breslow (1974)   -sum f_i + d log R
    Efron (1977)     -sum f_i + sum_{l=0}^{d-1} log(R - l/d D)

All of it in logarithms: a network's outputs may be large. The d events of one time share the second term evenly.
"""

from __future__ import annotations

from typing import Literal

import torch


def partial_likelihood(
    f: torch.Tensor, time: torch.Tensor, event: torch.Tensor, ties: Literal["efron", "breslow"] = "efron"
) -> torch.Tensor:
    """(n,) each event's part of the negative log partial likelihood; 0 for the censored. f (n,): log relative hazards. Its sum
    over the events is what the pooled Cox model of these n patients maximises (negated); without events all is 0."""
    f = f.to(torch.promote_types(f.dtype, torch.float32))
    order = torch.argsort(time, stable=True)
    happened = event[order] > 0.5
    f_, sorted_ = f[order], time[order]
    _, group = torch.unique_consecutive(sorted_, return_inverse=True)
    first = torch.searchsorted(sorted_, sorted_, right=False)  # of one's time: from here on everybody is at risk
    log_at_risk = torch.logcumsumexp(f_.flip(0), 0).flip(0)[first]  # log R
    second = log_at_risk
    if ties == "efron":
        second = _efron(f_, group, happened, log_at_risk)
    losses = torch.where(happened, second - f_, torch.zeros_like(f_))
    return torch.empty_like(losses).scatter(0, order, losses)


def _efron(f: torch.Tensor, group: torch.Tensor, happened: torch.Tensor, log_at_risk: torch.Tensor) -> torch.Tensor:
    """(n,) the mean over l of log(R - l/d D) at each event's time; anything for the censored."""
    groups = int(group[-1]) + 1 if len(group) else 0
    among = happened.nonzero()[:, 0]
    if len(among) == 0:
        return log_at_risk
    g, fe = group[among], f[among]
    size = torch.zeros(groups, dtype=f.dtype, device=f.device).index_add(0, g, torch.ones_like(fe))
    most = torch.full((groups,), -torch.inf, dtype=f.dtype, device=f.device)
    most = most.scatter_reduce(0, g, fe.detach(), "amax", include_self=True)
    log_tied = torch.zeros_like(size).index_add(0, g, torch.exp(fe - most[g]))[g].log() + most[g]  # log D
    start = torch.searchsorted(g, g, right=False)  # events are sorted by time, so by group
    rank = torch.arange(len(g), device=f.device) - start  # l = 0 .. d-1 among the events of one time
    terms = log_at_risk[among] + torch.log1p(-(rank / size[g]) * torch.exp(log_tied - log_at_risk[among]))
    mean = torch.zeros_like(size).index_add(0, g, terms)[g] / size[g]
    return log_at_risk.scatter(0, among, mean)
