"""Log-weights in, numbers out: log evidence, effective sample size, Pareto k, and the certificate of a fit.

Importance weights w = p̃(x)/q(x) of draws x ~ q say how well a normalised density q stands for an unnormalised one p̃.
Everything here works on ``log w``; a NaN is counted as weight zero, never silently kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

__all__ = ["Certificate", "certify", "effective_sample_size", "log_evidence", "pareto_k"]

_SMALLEST_TAIL = 5
"""A generalised Pareto fit to fewer tail weights than this says nothing."""


class Sampleable(Protocol):
    """A normalised density that can be drawn from: what `certify` needs, and no more."""

    def sample(self, sample_shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw ``sample_shape`` points, shape ``sample_shape + (dim,)``."""
        ...

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Normalised log-density of points of shape (batch, dim), shape (batch,)."""
        ...


@dataclass(frozen=True)
class Certificate:
    """What fresh importance weights say about a fit.

    Attributes:
        log_evidence: estimate of log ∫ p̃ (nats).
        standard_error: its standard error (nats).
        ess: effective sample size as a fraction of the draws, in [0, 1]; 1 means q ∝ p̃.
        pareto_k: shape of the weights' tail; below 0.7 the estimates can be trusted.
        num_samples: number of draws.
    """

    log_evidence: float
    standard_error: float
    ess: float
    pareto_k: float
    num_samples: int


def effective_sample_size(log_weights: torch.Tensor) -> float:
    """Effective sample size as a fraction of the number of draws.

    ESS = (Σ w)² / (S Σ w²) ∈ [1/S, 1]; 0 when every weight is zero.

    Args:
        log_weights: log w, shape (S,), up to a common additive constant (nats).

    Returns:
        The fraction; for weights with coefficient of variation c it tends to 1/(1 + c²).

    Raises:
        ValueError: for an empty tensor, one that is not one-dimensional, or one that holds +inf.

    References:
        Kong, "A note on importance sampling using standardized weights" (1992).

    >>> effective_sample_size(torch.zeros(100, dtype=torch.float64))
    1.0
    >>> effective_sample_size(torch.tensor([0.0, -math.inf, -math.inf, 0.0], dtype=torch.float64))
    0.5
    """
    values = _checked(log_weights, "effective_sample_size")
    if bool(torch.isneginf(values).all()):
        return 0.0
    log_ess = 2 * torch.logsumexp(values, 0) - torch.logsumexp(2 * values, 0) - math.log(values.numel())
    return min(1.0, float(log_ess.exp()))


def log_evidence(log_weights: torch.Tensor) -> tuple[float, float]:
    """Log of the mean weight and its standard error by the delta method.

    log Ẑ = log (1/S) Σ w, and sd(log Ẑ) ≈ sd(w) / (√S · mean(w)).

    Args:
        log_weights: log w, shape (S,) (nats).

    Returns:
        ``(value, standard_error)`` in nats; ``(-inf, nan)`` when every weight is zero, and a standard error of NaN
        for a single draw, which says nothing about its own spread.

    Raises:
        ValueError: for an empty tensor, one that is not one-dimensional, or one that holds +inf.

    >>> log_evidence(torch.full((4,), 2.5, dtype=torch.float64))
    (2.5, 0.0)
    """
    values = _checked(log_weights, "log_evidence")
    count = values.numel()
    peak = values.max()
    if bool(torch.isneginf(peak)):
        return -math.inf, math.nan
    weights = (values - peak).exp()
    mean = weights.mean()
    value = float(peak + mean.log())
    if count == 1:
        return value, math.nan
    return value, float(weights.std() / (mean * math.sqrt(count)))


def pareto_k(log_weights: torch.Tensor) -> float:
    """Shape k̂ of a generalised Pareto distribution fitted to the largest weights.

    The M = ⌈min(0.2 S, 3 √S)⌉ largest weights, less the next smaller one, are fitted by the quasi-Bayesian estimate of
    Zhang and Stephens, drawn towards ½ by a prior worth ten observations. Moments of w of order below 1/k exist:
    k̂ < 0.5 means a finite variance, k̂ < 0.7 estimates that can be trusted, k̂ > 1 not even a mean.

    Args:
        log_weights: log w, shape (S,), up to a common additive constant.

    Returns:
        k̂; ``-inf`` when the largest weights are all equal (a constant has no tail, q ∝ p̃ to rounding), ``inf`` when
        every weight is zero or the tail has fewer than five weights that differ from its threshold.

    Raises:
        ValueError: for an empty tensor, one that is not one-dimensional, or one that holds +inf.

    References:
        Zhang and Stephens, "A new and efficient estimation method for the generalized Pareto distribution" (2009);
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling" (2024).

    >>> pareto_k(torch.zeros(1000))
    -inf
    """
    values = _checked(log_weights, "pareto_k").sort().values
    count = values.numel()
    if bool(torch.isneginf(values[-1])):
        return math.inf
    tail_size = min(math.ceil(min(0.2 * count, 3 * math.sqrt(count))), count - 1)
    values = values - values[-1]
    # A threshold of exactly zero weight is as good as the smallest representable one, and keeps the logarithm finite.
    threshold = values[count - tail_size - 1].clamp_min(math.log(torch.finfo(values.dtype).tiny))
    if _is_rounding(float(threshold)):
        return -math.inf
    tail = values[values > threshold]
    if tail.numel() < _SMALLEST_TAIL:
        return math.inf
    return _generalised_pareto_shape(tail.exp() - threshold.exp())


def certify(
    density: Sampleable,
    log_density: Callable[[torch.Tensor], torch.Tensor],
    *,
    num_samples: int = 10_000,
    generator: torch.Generator | None = None,
) -> Certificate:
    """Judge a density by fresh draws from it, independent of whatever built it.

    Draws x ~ q, forms w = p̃(x)/q(x), and returns the log evidence with its standard error, the effective sample size
    and Pareto k. Costs `num_samples` evaluations of `log_density`.

    Args:
        density: normalised q, with ``sample`` and ``log_prob``.
        log_density: unnormalised log p̃, (batch, dim) -> (batch,), in nats.
        num_samples: number of draws.
        generator: source of randomness; None is torch's global one.

    Raises:
        ValueError: if `num_samples` is not positive, or `log_density` returns a wrong shape or +inf.

    >>> class Uniform:
    ...     def sample(self, shape, *, generator=None):
    ...         return torch.rand((*shape, 2), generator=generator, dtype=torch.float64)
    ...     def log_prob(self, value):
    ...         return torch.zeros(value.shape[0], dtype=torch.float64)
    >>> certify(Uniform(), lambda x: torch.full((x.shape[0],), 3.0), num_samples=100)
    Certificate(log_evidence=3.0, standard_error=0.0, ess=1.0, pareto_k=-inf, num_samples=100)
    """
    if num_samples < 1:
        raise ValueError(f"certify: expected a positive `num_samples`; got {num_samples}. Use a few thousand.")
    with torch.no_grad():
        points = density.sample((num_samples,), generator=generator)
        target = log_density(points)
        if target.shape != (num_samples,):
            raise ValueError(
                f"certify: expected `log_density` to return shape ({num_samples},); got {tuple(target.shape)}. "
                "Sum over the last dimension."
            )
        log_weights = target - density.log_prob(points)
    value, standard_error = log_evidence(log_weights)
    return Certificate(value, standard_error, effective_sample_size(log_weights), pareto_k(log_weights), num_samples)


def _checked(log_weights: torch.Tensor, caller: str) -> torch.Tensor:
    """Detached float64 log-weights with every NaN turned into -inf (weight zero)."""
    if log_weights.ndim != 1 or log_weights.numel() == 0:
        raise ValueError(
            f"{caller}: expected `log_weights` of shape (S,), S > 0; got {tuple(log_weights.shape)}. "
            "Pass one log-weight per draw."
        )
    values = log_weights.detach().to(torch.float64)
    values = torch.where(values.isnan(), -math.inf, values)
    if bool(torch.isposinf(values).any()):
        raise ValueError(
            f"{caller}: expected log-weights below +inf; got +inf. "
            "A target must be finite wherever it is evaluated, and a density positive wherever it draws."
        )
    return values


def _is_rounding(threshold: float) -> bool:
    """Whether a tail reaching from `threshold` up to 0 (log-weights) is only as wide as float64 rounding."""
    return threshold > -64 * torch.finfo(torch.float64).eps


def _generalised_pareto_shape(excess: torch.Tensor) -> float:
    """Zhang-Stephens estimate of the shape from ascending, positive exceedances (M,); memory M (30 + √M)."""
    size = excess.numel()
    num_grid = 30 + int(math.sqrt(size))
    steps = torch.arange(1, num_grid + 1, dtype=excess.dtype, device=excess.device)
    quartile = excess[int(size / 4 + 0.5) - 1]
    # θ = -k/σ on a grid of prior quantiles; the profile likelihood of each weighs it.
    theta = 1 / excess[-1] + (1 - torch.sqrt(num_grid / (steps - 0.5))) / (3 * quartile)
    shape = torch.log1p(-theta[:, None] * excess).mean(1)
    log_likelihood = size * (torch.log(-theta / shape) - shape - 1)
    weight = torch.softmax(log_likelihood, 0)
    estimate = float(torch.log1p(-(theta * weight).sum() * excess).mean())
    # Weak prior: ten observations' worth of k = ½ (Vehtari et al., appendix C).
    return (size * estimate + 10 * 0.5) / (size + 10)
