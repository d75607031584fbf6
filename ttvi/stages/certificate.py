"""What is said about the answer: fresh draws and their weights, and whether the known maxima are covered."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..diagnostics import WeightedDraws, bridge_log_evidence, log_evidence
from ..errors import BudgetExhausted
from ..geometry.candidates import Candidate
from ..geometry.exploration import Cloud
from ..verdict import MODE_GAP, CensusMode
from .plan import PARTICLES
from .search import Fitted, Search

__all__ = ["census", "certify", "lacking", "loses_modes", "unseen", "unseen_by"]

NETS = 16  # independently scrambled, whose spread is the standard error
LEAST_NET = 64  # points of a net
SIGNIFICANT = 3.0  # standard errors
NONE = 500.0  # nats by which a weight exceeds the mean where a density has nothing
MOST_POINTS = 32  # of those that a density misses


def certify(search: Search, density: Any) -> WeightedDraws | None:
    """Fresh draws and their weights, by randomised quasi-Monte Carlo where there is a transport; None when the budget has ended."""
    account = search.account
    count = int(min(search.plan.certificate, account.remaining))
    if count < 2:
        return None
    with account.stage("certificate"), torch.no_grad():
        x, nets = _drawn(density, count, search.generator)
        try:
            log_weights = (account(x) - density.log_prob(x)).to(torch.float64)
        except BudgetExhausted:
            return None
    bad = log_weights.isnan() | (log_weights == math.inf)
    return WeightedDraws(x, torch.where(bad, -math.inf, log_weights), nets, 0, int(bad.sum()))


def _drawn(density: Any, count: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """No more than so many draws, in nets of equal size if the density has these; and the number of nets."""
    if count >= NETS * LEAST_NET:
        try:
            nets = [density.sample((count // NETS,), generator=generator, sobol=True) for _ in range(NETS)]
            return torch.cat(nets), NETS
        except (TypeError, ValueError):
            pass  # somewhere in it there is no transport
    return density.sample((count,), generator=generator), 1


def census(search: Search, density: Any, log_evidence: float) -> tuple[CensusMode, ...]:
    """Whether the density covers the local maxima that independent starts found; costs nothing."""
    cloud, line = search.cloud, search.coordinates.line
    if not len(cloud.modes) or not math.isfinite(log_evidence):
        return ()
    with torch.no_grad():
        x, slope = search.coordinates.to_x(cloud.modes)
        log_prob = density.log_prob(x)
    return tuple(
        CensusMode.judge(
            x[k], log_density=float(cloud.mode_values[k] - slope[k]), log_prob=float(log_prob[k]),
            log_evidence=log_evidence, log_volume=_log_volume(cloud, k, line) + float(slope[k]),
        )
        for k in range(len(cloud.modes))
    )  # fmt: skip


def unseen(search: Search, density: Any, log_evidence: float) -> tuple[float, Tensor]:
    """The share of the population where the target has twenty times the density, and those points; costs nothing.

    A density is never drawn where it has nothing, so its own weights cannot tell. NaN without an equilibrated population.
    """
    cloud = search.cloud
    if search.chart is None or not math.isfinite(log_evidence):
        return math.nan, cloud.points[:0]
    with torch.no_grad():
        x, slope = search.coordinates.to_x(cloud.points)
        gap = cloud.values - slope - density.log_prob(x) - log_evidence
    missed = gap > MODE_GAP
    return float(missed.double().mean()), cloud.points[missed]


def lacking(search: Search, density: Any, draws: WeightedDraws) -> float:
    """The share of the mass that a density lacks, by what its draws and the population each say of the evidence; costs nothing.

    What is less than three standard errors is noise. It may be much though the target nowhere has twenty times the density. NaN without an
    equilibrated population.
    """
    cloud = search.cloud
    own, error = log_evidence(draws.log_weights, replicates=draws.replicates)
    if search.chart is None or not math.isfinite(own):
        return math.nan
    with torch.no_grad():
        x, slope = search.coordinates.to_x(cloud.points)
        at_population = cloud.values - slope - density.log_prob(x)
    at_population = at_population.nan_to_num(own).clamp_max(own + NONE)
    value, other = bridge_log_evidence(draws.log_weights, at_population, independent=min(len(at_population), PARTICLES))
    return -math.expm1(min(0.0, own - value + SIGNIFICANT * math.hypot(error, other)))


def unseen_by(search: Search, density: Any, witness: Candidate) -> tuple[float, Tensor]:
    """The share of the mass where the target has twenty times the density, by the weighted draws of another; and such points."""
    a = witness.assessment
    with torch.no_grad():
        t, inner = witness.chart.to_t(a.points)
        x, outer = search.coordinates.to_x(t)
        value = a.log_weights + witness.density.log_prob(a.points) - inner - outer
        gap = value - density.log_prob(x) - a.log_evidence
    weights = torch.softmax(a.log_weights, 0)
    missed = (gap > MODE_GAP) & (weights > 0)
    worst = torch.where(missed, weights, 0.0).argsort(descending=True)[: int(missed.sum())][:MOST_POINTS]
    return float(weights[missed].sum()), t[worst]


def loses_modes(search: Search, fitted: Fitted) -> bool:
    """Whether a local maximum of some mass is missing from a density."""
    log_evidence = fitted.candidate.assessment.log_evidence if fitted.candidate else fitted.elbo
    return any(mode.lost for mode in census(search, fitted.density, log_evidence))


def _log_volume(cloud: Cloud, k: int, line: Tensor) -> float:
    """Log of the Gaussian volume around a maximum: by its curvature, else by the population; nan if neither is known."""
    if cloud.precisions is not None:
        inner = cloud.precisions[k][line][:, line]
        return 0.5 * len(inner) * math.log(2 * math.pi) - 0.5 * float(torch.linalg.slogdet(inner)[1])
    if cloud.beta < 1:
        return math.nan
    number = int(line.sum())
    if not number:
        return 0.0
    return -0.5 * float(torch.logdet(torch.cov(cloud.points[:, line].T).view(number, -1).inverse()))
