"""A density judged by the weights of its own draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..diagnostics import effective_sample_size, log_evidence, pareto_k

__all__ = ["Assessment", "assess"]

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
