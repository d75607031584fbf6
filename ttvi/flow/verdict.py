"""Whether a trained flow is better than its base: paired, on fresh draws, so that a fit never leaves worse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diagnostics import effective_sample_size
from .flow import Flow
from .loop import Look
from .objectives import Counted

__all__ = ["Comparison", "compare", "compare_samples", "look_at_draws"]

RESAMPLES = 200  # of the bootstrap
LEVEL = 0.05  # quantile of the bootstrap that must show a gain


@dataclass(frozen=True)
class Comparison:
    """Base and flow beside each other.

    Attributes:
        ess_before, ess_after: effective sample fractions.
        elbo_before, elbo_after: evidence lower bounds, or mean log-likelihoods.
        better: whether the flow is, significantly.
    """

    ess_before: float
    ess_after: float
    elbo_before: float
    elbo_after: float
    better: bool


def look_at_draws(flow: Flow, target: Counted, z: Tensor, base_log_prob: Tensor) -> Look:
    """The score of a flow from its images of fixed draws of its base."""
    with torch.no_grad():
        x, log_det = flow(z)
        log_weights = target.values(x) - base_log_prob + log_det
    usable = torch.isfinite(log_weights)
    if not bool(usable.any()):
        return Look(math.inf, -math.inf, 0.0)
    finite = log_weights[usable]
    elbo = finite.mean()
    score = (torch.softmax(finite, 0) * finite).sum() - elbo
    return Look(float(score), float(elbo), _ess(log_weights))


def compare(flow: Flow, original: Flow, target: Counted, size: int, generator: torch.Generator) -> Comparison:
    r"""Effective sample fractions of base and flow from the same draws.

    Half the draws come from the base, half from the flow, weighted by :math:`u = \tilde p / m`,
    :math:`m = (q_0 + q) / 2`. With :math:`\mathrm{ESS}_q = (\mathrm{E}_m u)^2 / \mathrm{E}_m[u\, \tilde p / q]` a mode that
    one of the two has lost counts against it, which its own draws would never show. Weights p̃/q are truncated at
    :math:`\sqrt N` times their mean. The flow is better if the ratio of the two fractions exceeds one for all but the lowest
    share of bootstrap resamples. Costs twice ``size`` evaluations.

    References:
        Ionides: Truncated importance sampling (2008).
        Veach, Guibas: Optimally combining sampling techniques for Monte Carlo rendering (1995).
    """
    with torch.no_grad():
        z = original.sample((size,), generator=generator)
        x, log_own = flow.sample_and_log_prob((size,), generator=generator)
        log_base = torch.cat([original.log_prob(z), original.log_prob(x)]).double()
        log_flow = torch.cat([flow.log_prob(z), log_own]).double()
        log_target = torch.cat([target.values(z), target.values(x)]).double()
    log_mixture = torch.logaddexp(log_base, log_flow) - math.log(2)
    u = torch.where(torch.isfinite(log_target - log_mixture), log_target - log_mixture, -torch.inf)
    # A region of one draw in thousands must not decide: no weight counts for more than √N times the mean.
    most = torch.logsumexp(u, 0) - math.log(len(u)) + 0.5 * math.log(len(u))
    weights = [(log_target - log_q).clamp_max(most).nan_to_num(-torch.inf) for log_q in (log_base, log_flow)]
    terms = torch.stack([u, u + weights[0], u + weights[1]])
    terms = torch.logaddexp(terms[:, :size], terms[:, size:]) - math.log(2)  # the strata stay equal in the bootstrap
    shift = terms.amax(1, keepdim=True)
    if not bool(torch.isfinite(shift).all()):
        return Comparison(0.0, 0.0, -math.inf, -math.inf, False)
    index = torch.randint(size, (RESAMPLES, size), device=terms.device, generator=generator)
    terms = (terms - shift).exp()
    means = torch.cat([terms.mean(1, keepdim=True), torch.stack([row[index].mean(1) for row in terms])], 1)
    logs = means.clamp_min(1e-300).log() + shift
    before, after = 2 * logs[0] - logs[1], 2 * logs[0] - logs[2]
    gain = torch.quantile((after - before)[1:], LEVEL)
    return Comparison(
        min(1.0, float(before[0].exp())),
        min(1.0, float(after[0].exp())),
        _bound(log_target[:size] - log_base[:size]),
        _bound(log_target[size:] - log_flow[size:]),
        bool(gain > 0),
    )


def compare_samples(before: Tensor, after: Tensor) -> Comparison:
    """Held-out log-likelihoods of the same points under base and flow: better by more than two standard errors?"""
    gain = (after - before).double()
    certain = bool(torch.isneginf(before).any()) and not bool(torch.isneginf(after).any())
    finite = bool(torch.isfinite(gain).all())
    better = certain or (finite and bool(gain.mean() > 2 * gain.std() / math.sqrt(len(gain))))
    return Comparison(math.nan, math.nan, float(before.double().mean()), float(after.double().mean()), better)


def _bound(log_weights: Tensor) -> float:
    usable = torch.isfinite(log_weights)
    return float(log_weights[usable].mean()) if bool(usable.any()) else -math.inf


def _ess(log_weights: Tensor) -> float:
    return effective_sample_size(torch.where(torch.isfinite(log_weights), log_weights, -torch.inf))
