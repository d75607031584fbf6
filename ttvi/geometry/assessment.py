"""A density judged by the weights of its own draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diagnostics import effective_sample_size, log_evidence, pareto_k

__all__ = ["Assessment", "Pooled", "assess"]

WORST = 100.0  # nats that one draw may cost


@dataclass(frozen=True)
class Assessment:
    """Weighted draws of a density and what they say.

    Attributes:
        points: draws, shape (N, m).
        log_weights: log p̃ - log q, shape (N,).
        ess: effective fraction.
        log_evidence: of the weights.
        elbo: mean log weight without the smallest twentieth, which a few stray draws decide.
        pareto_k: of the tail.
    """

    points: Tensor
    log_weights: Tensor
    ess: float
    log_evidence: float
    elbo: float
    pareto_k: float

    @classmethod
    def of(cls, points: Tensor, log_weights: Tensor) -> Assessment:
        """The numbers that follow from weighted draws.

        Args:
            points: shape (N, m).
            log_weights: shape (N,); what is not a number counts as zero weight.

        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(1000, generator=generator, dtype=torch.float64)
        >>> a = Assessment.of(z[:, None], 3.0 + 0.5 * z)  # lognormal weights: mean exp(3 + 1/8), ess exp(-1/4)
        >>> round(a.log_evidence, 1), round(a.ess, 1)
        (3.1, 0.8)
        """
        bad = log_weights.isnan() | (log_weights == math.inf)
        log_weights = torch.where(bad, -math.inf, log_weights)
        if not bool(torch.isfinite(log_weights).any()):
            return cls(points, log_weights, 0.0, -math.inf, -math.inf, math.inf)
        ordered = log_weights.sort().values[len(log_weights) // 20 :]
        return cls(
            points, log_weights, effective_sample_size(log_weights), log_evidence(log_weights)[0],
            float(ordered.mean()), pareto_k(log_weights),
        )  # fmt: skip

    @property
    def divergence(self) -> float:
        """KL(q ‖ p) in nats: of all the draws, those of no density with so many nats that one of them in a thousand counts."""
        return self.log_evidence - float(self.log_weights.clamp_min(self.log_evidence - WORST).mean())

    def population(self, count: int, generator: torch.Generator, *, least: float = 300.0) -> tuple[Tensor, float]:
        """Resampled points, with the weights flattened to a power that keeps ``least`` of them effective.

        Args:
            count: how many.
            generator: source of randomness.
            least: at most half of the draws are asked for.

        Returns:
            Points (count, m) and the power, 1 when the weights could be taken as they are.
        """
        power = 1.0
        wanted = min(least, 0.5 * int(torch.isfinite(self.log_weights).sum()))
        while power > 1e-3 and effective_sample_size(power * self.log_weights) * len(self.log_weights) < wanted:
            power *= 0.8
        weights = torch.softmax(power * self.log_weights, 0)
        if not bool(torch.isfinite(weights).all()):  # no draw has any weight
            weights = torch.ones_like(weights)
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
        return self.points[chosen], power


@dataclass(frozen=True)
class Pooled:
    r"""Draws of two densities of the same coordinates as draws of their even mixture m.

    What a density puts nothing in never shows in its own draws, but in those of another: for any density q

    .. math:: 1/\mathrm{ESS} - 1 = \int (\pi - q)^2 / q = E_m[(\pi - q)^2 / (q m)].

    Attributes:
        points: shape (N, m).
        log_target: log π, normalised by the draws themselves, shape (N,).
        log_proposal: log m, shape (N,).

    References:
        Veach and Guibas, "Optimally combining sampling techniques for Monte Carlo rendering" (1995).

    >>> generator = torch.Generator().manual_seed(0)
    >>> normal, wide = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.0, 2.0)
    >>> left_out = lambda x: torch.where(x[:, 0] < 3, normal.log_prob(x[:, 0]), -20.0)  # a thousandth of the mass
    >>> def target(x): return normal.log_prob(x[:, 0])
    >>> x, y = torch.randn(4000, 1, generator=generator).clamp(max=2.9), 2 * torch.randn(4000, 1, generator=generator)
    >>> own, other = (Assessment.of(z, target(z) - q(z)) for z, q in ((x, left_out), (y, lambda z: wide.log_prob(z[:, 0]))))
    >>> pooled = Pooled.of(own, left_out, other, lambda z: wide.log_prob(z[:, 0]))
    >>> own.ess > 0.99, pooled.ess(left_out(pooled.points)) < 0.1
    (True, True)
    """

    points: Tensor
    log_target: Tensor
    log_proposal: Tensor

    @classmethod
    def of(
        cls,
        first: Assessment,
        first_log_prob: Callable[[Tensor], Tensor],
        second: Assessment,
        second_log_prob: Callable[[Tensor], Tensor],
    ) -> Pooled:
        """The draws of two assessments.

        Args:
            first, second: with as many draws each.
            first_log_prob, second_log_prob: of the densities that they are of.
        """
        points = torch.cat([first.points, second.points])
        with torch.no_grad():
            one, other = first_log_prob(points), second_log_prob(points)
        count = len(first.points)
        log_density = torch.cat([first.log_weights + one[:count], second.log_weights + other[count:]])
        log_proposal = torch.logaddexp(one, other) - math.log(2)
        log_density = log_density.nan_to_num(-math.inf, posinf=-math.inf)
        total = torch.logsumexp(log_density - log_proposal, 0) - math.log(len(points))
        return cls(points, log_density - total, log_proposal)

    def ess(self, log_q: Tensor) -> float:
        """Effective fraction of the draws of a density with ``log_q`` at the points, shape (N,)."""
        terms = torch.expm1(self.log_target - log_q).square() * (log_q - self.log_proposal).exp()
        unbounded = terms.isnan() & torch.isfinite(self.log_target)  # next to nothing where the target has something
        return float(1 / (1 + torch.where(unbounded, math.inf, terms.nan_to_num(0.0, posinf=math.inf)).mean()))


def assess(density: Any, log_density: Callable[[Tensor], Tensor], count: int, generator: torch.Generator) -> Assessment:
    """Draw from a density and weigh the draws.

    Args:
        density: with ``sample`` and ``log_prob``.
        log_density: log p̃, (batch, m) to (batch,).
        count: how many draws, and evaluations.
        generator: source of randomness.
    """
    with torch.no_grad():
        points = density.sample(torch.Size([count]), generator=generator)
        return Assessment.of(points, log_density(points) - density.log_prob(points))
