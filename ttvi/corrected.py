"""Exact draws from a good approximation: independence Metropolis-Hastings, and resampling by importance weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["independence_chains", "log_ratio", "resample"]


def log_ratio(
    x: Tensor, log_density: Callable[[Tensor], Tensor], log_prob: Callable[[Tensor], Tensor], caller: str
) -> Tensor:
    """log p̃ − log q at points (S, dim), shape (S,), float64; −inf where either is not a number or p̃ is +inf.

    Raises:
        ValueError: the target returns a wrong shape.
    """
    with torch.no_grad():
        target = log_density(x)
        if target.shape != x.shape[:1]:
            raise ValueError(
                f"{caller}: expected `log_density` to return shape ({len(x)},); got {tuple(target.shape)}. "
                "Sum over the last dimension."
            )
        value = (target - log_prob(x)).to(torch.float64)
    return torch.where(value.isnan() | torch.isposinf(value), -math.inf, value)


def independence_chains(log_weights: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Independence Metropolis-Hastings: one chain per column, all of them stepped together.

    A chain at y moves to its next proposal x with probability min(1, w(x)/w(y)); its law converges to p ∝ w q at the
    rate 1 − 1/max w, uniformly. Cost: one comparison per proposal.

    Args:
        log_weights: log w of the states to start from and of the proposals after them, which are independent draws of q;
            shape (1 + steps, chains).
        generator: source of randomness.

    Returns:
        Which row each chain holds after each step, shape (steps, chains).

    References:
        Tierney, "Markov chains for exploring posterior distributions" (1994).
    """
    steps, chains = log_weights.shape[0] - 1, log_weights.shape[1]
    levels = torch.rand(steps, chains, dtype=log_weights.dtype, device=log_weights.device, generator=generator).log()
    at = torch.zeros(chains, dtype=torch.long, device=log_weights.device)
    weight = log_weights[0]
    path = []
    for step in range(1, steps + 1):
        move = levels[step - 1] < log_weights[step] - weight  # two weights of zero compare false: the chain stays
        at = torch.where(move, step, at)
        weight = torch.where(move, log_weights[step], weight)
        path.append(at)
    return torch.stack(path)


def resample(weights: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Positions drawn in proportion to weights, by systematic resampling, in random order.

    Every position comes ⌊count · w⌋ or ⌈count · w⌉ times: less variance than independent choices.

    Args:
        weights: shape (S,), non-negative.
        count: how many.
        generator: source of randomness.

    Returns:
        Shape (count,).

    References:
        Kitagawa, "Monte Carlo filter and smoother for non-Gaussian nonlinear state space models" (1996).

    >>> resample(torch.tensor([0.0, 1.0, 0.0]), 3)
    tensor([1, 1, 1])
    """
    total = weights.to(torch.float64).cumsum(0)
    offset = torch.rand((), dtype=total.dtype, device=total.device, generator=generator)
    levels = (torch.arange(count, dtype=total.dtype, device=total.device) + offset) / count * total[-1]
    chosen = torch.searchsorted(total, levels, right=True).clamp(max=len(total) - 1)
    return chosen[torch.randperm(count, generator=generator, device=total.device)]
