"""The far ends of a train or a product cut off, where its error or its safety is all there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from ..geometry.assessment import assess
from ..geometry.candidates import Candidate, in_chart
from ..geometry.chart import Chart
from ..geometry.conditional import ConditionallyAffine
from ..geometry.density import ChartDensity
from ..geometry.truncation import bounds_of_mass, truncated
from ..tt.density import TTDensity
from .search import Fitted, Search

__all__ = ["far_ends_cut", "tighten", "with_those_beyond"]

EFFECTIVE = 500  # draws and more, by whose weights the ends are found
MANY = 32_768  # draws, of which only those beyond the ends are evaluated
FURTHER = 8.0  # deviations of a column, of the second cut
NEAR_STEPS, FAR_STEPS = 4, 12  # of the grid of leading coordinates, past its edge
LOST = 0.02  # of the effective share that may get lost by it, which is within its noise


def tighten(search: Search, fitted: Fitted) -> Fitted:
    """Cut the columns of a train, or of a product that is the answer, off where neither weighted draws nor the population go.

    A train is wrong by its tolerance anywhere, so that a few of ten thousand draws lie far out on the line: by their
    weights they are nothing, but a plain mean over draws of a scale parameter is ruined by one. A product was judged with half
    of its draws far out in some column, and has its narrow tails instead. What the cut may take from the target, a small share
    of a density cut much further out gives back.
    """
    candidate = fitted.candidate
    if candidate is None or not isinstance(candidate.density, TTDensity):
        return fitted
    whole = candidate.with_narrow_tails()
    a, chart = candidate.assessment, candidate.chart
    if a.ess * len(a.points) < EFFECTIVE:
        return fitted
    points, log_weights = _weighted(search, candidate)
    try:
        with search.account.stage("train"):
            points, log_weights = with_those_beyond(
                search, whole, in_chart(search.target, chart), chart, points, log_weights
            )
            near = _within_grid(chart, *bounds_of_mass(chart.stretch, points, log_weights), NEAR_STEPS)
            density = truncated(whole, *near)
            seen = assess(density, in_chart(search.target, chart), search.plan.checks, search.generator)
    except BudgetExhausted:
        return fitted
    ends = _within_grid(chart, *bounds_of_mass(chart.stretch, points, log_weights, further=FURTHER), FAR_STEPS)
    wide = truncated(whole, *ends)
    if seen.ess < (1 - LOST) * a.ess:
        return fitted
    cut = replace(candidate, density=density, assessment=seen)
    search.record(cut)
    return replace(Fitted.of(cut), uncut=ChartDensity(wide, chart), ends=ends)


def far_ends_cut(search: Search, candidate: Candidate, *, safe: float) -> Any:
    """A candidate cut off far beyond where its mass ends, in working coordinates, for a flow to start from or to be mixed with.

    Its narrow tails, of that share, reach to any number; and what the flow makes of them is a density too small to be missed, with
    draws that ruin a plain mean. Without enough effective draws nothing is cut.
    """
    density, a, chart = candidate.with_narrow_tails(safe), candidate.assessment, candidate.chart
    if not isinstance(density, TTDensity) or a.ess * len(a.points) < EFFECTIVE:
        return density
    ends = bounds_of_mass(chart.stretch, *_weighted(search, candidate), further=FURTHER)
    return truncated(density, *_within_grid(chart, *ends, FAR_STEPS))


def _weighted(search: Search, candidate: Candidate) -> tuple[Tensor, Tensor]:
    """Draws of a candidate and, where that is of the target, the population: as much weight in all; in working coordinates."""
    a = candidate.assessment
    population = candidate.chart.from_t(search.cloud.points)[0]
    population = population[torch.isfinite(population).all(1)] if search.cloud.beta == 1 else population[:0]
    share = a.log_weights.logsumexp(0) - torch.tensor(float(max(1, len(population)))).log()
    return torch.cat([a.points, population]), torch.cat([a.log_weights, share.expand(len(population))])


def with_those_beyond(
    search: Search,
    density: TTDensity,
    log_density: Callable[[Tensor], Tensor],
    chart: Chart,
    w: Tensor,
    log_weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Weighted draws, and of many more draws of a density those beyond the ends of these: what the few may have missed.

    Next to the end of an interval a thousandth of the mass may lie in a tail that has no end within five thousand draws.

    Args:
        search: the fit.
        density: that the draws are of.
        log_density: of the working coordinates of ``chart``.
        chart: whose columns end.
        w, log_weights: shape (N, m) and (N,).
    """
    lower, upper = bounds_of_mass(chart.stretch, w, log_weights)
    more = density.sample((MANY,), generator=search.generator)
    more = more[((more < lower) | (more > upper)).any(1)][: search.plan.checks]
    if not len(more):
        return w, log_weights
    return torch.cat([w, more]), torch.cat([log_weights, log_density(more) - density.log_prob(more)])


def _within_grid(chart: Chart, lower: Tensor, upper: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Bounds no further out than some steps past the grid of leading coordinates, at whose edge the mass has ended."""
    mixing = chart.mixing
    if not isinstance(mixing, ConditionallyAffine):
        return lower, upper
    low, high = torch.zeros_like(lower), torch.zeros_like(upper)
    lead = len(mixing.loc)
    low[:lead] = mixing.lower - steps * mixing.step
    high[:lead] = mixing.lower + (mixing.counts - 1 + steps) * mixing.step
    leads = torch.arange(len(lower)) < lead
    low, high = chart.stretch.inverse(low)[0], chart.stretch.inverse(high)[0]
    return torch.where(leads, torch.maximum(lower, low), lower), torch.where(leads, torch.minimum(upper, high), upper)
