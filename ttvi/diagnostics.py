"""Log-weights in, numbers out: log evidence, effective sample size, Pareto k, smoothed weights, the certificate of a fit.

Importance weights w = p̃(x)/q(x) of draws x ~ q say how well a normalised density q stands for an unnormalised one p̃.
Everything here works on ``log w``; a NaN is counted as weight zero, never silently kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

__all__ = [
    "Certificate",
    "WeightedDraws",
    "bridge_log_evidence",
    "certify",
    "draw_weights",
    "effective_sample_size",
    "expected_kl",
    "log_evidence",
    "pareto_k",
    "smooth_log_weights",
]

_SMALLEST_TAIL = 5
"""A generalised Pareto fit to fewer tail weights than this says nothing."""

_BRIDGE_STEPS, _BRIDGE_CLOSE = 200, 1e-9


class Sampleable(Protocol):
    """A normalised density that can be drawn from: what `certify` needs, and no more."""

    @property
    def sample(self) -> Callable[..., torch.Tensor]:
        """Draws ``sample_shape`` points, shape ``sample_shape + (dim,)``; takes ``generator=``, and perhaps ``sobol=``."""
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
        expected_kl: estimate of KL(q ‖ p), the evidence less the evidence lower bound (nats).
        num_invalid: draws at which the target was NaN or +inf; they weigh nothing.
    """

    log_evidence: float
    standard_error: float
    ess: float
    pareto_k: float
    num_samples: int
    expected_kl: float = math.nan
    num_invalid: int = 0


@dataclass(frozen=True, eq=False)
class WeightedDraws:
    """Draws of q with what the target says about each of them.

    Attributes:
        x: the draws, shape (S, dim); with replicates, one net after the other.
        log_weights: log p̃ − log q, shape (S,), in nats; −inf where the target was NaN or +inf.
        replicates: number of independently scrambled Sobol nets; 1 for independent draws.
        num_nan: draws at which the target was NaN.
        num_infinite: draws at which the target was +inf, or q found no mass at its own draw.
    """

    x: torch.Tensor
    log_weights: torch.Tensor
    replicates: int = 1
    num_nan: int = 0
    num_infinite: int = 0

    def certificate(self) -> Certificate:
        """The numbers that follow from the weights."""
        value, standard_error = log_evidence(self.log_weights, replicates=self.replicates)
        return Certificate(
            value,
            standard_error,
            effective_sample_size(self.log_weights),
            pareto_k(self.log_weights),
            len(self.log_weights),
            expected_kl(self.log_weights),
            self.num_nan + self.num_infinite,
        )


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


def log_evidence(log_weights: torch.Tensor, *, replicates: int = 1) -> tuple[float, float]:
    """Log of the mean weight and its standard error by the delta method.

    log Ẑ = log (1/S) Σ w, and sd(log Ẑ) ≈ sd(w) / (√S · mean(w)) for independent draws. Points of a scrambled net are
    not independent of each other, but the nets are: with R of them, sd(w) is that of the R means, and √S is √R.

    Args:
        log_weights: log w, shape (S,) (nats).
        replicates: number R of nets of equal size, one after the other; 1 for independent draws.

    Returns:
        ``(value, standard_error)`` in nats; ``(-inf, nan)`` when every weight is zero, and a standard error of NaN
        for a single draw, which says nothing about its own spread.

    Raises:
        ValueError: for an empty tensor, one that is not one-dimensional, one that holds +inf, or one that does not divide
            into `replicates`.

    References:
        Owen, "Scrambled net variance for integrals of smooth functions" (1997).

    >>> log_evidence(torch.full((4,), 2.5, dtype=torch.float64))
    (2.5, 0.0)
    """
    values = _checked(log_weights, "log_evidence")
    if replicates < 1 or values.numel() % replicates:
        raise ValueError(
            f"log_evidence: expected `replicates` that divide {values.numel()} log-weights; got {replicates}. "
            "Draw nets of equal size."
        )
    peak = values.max()
    if bool(torch.isneginf(peak)):
        return -math.inf, math.nan
    weights = (values - peak).exp()
    if replicates > 1:
        weights = weights.view(replicates, -1).mean(1)
    count = weights.numel()
    mean = weights.mean()
    value = float(peak + mean.log())
    if count == 1:
        return value, math.nan
    return value, float(weights.std() / (mean * math.sqrt(count)))


def bridge_log_evidence(
    log_weights: torch.Tensor, at_population: torch.Tensor, *, independent: int | None = None
) -> tuple[float, float]:
    r"""Log evidence by bridge sampling between q and a population of the target, and its standard error.

    .. math:: Z = \frac{E_q[w / (w/Z + 1)]}{E_p[1 / (w/Z + 1)]}, \qquad w = \tilde p / q

    Both means are of bounded numbers, so no draw is heavy. Where q lacks a part of the mass, and therefore has too much everywhere
    else, its own weights give the evidence without that part until one of them falls there; the population has it.

    Args:
        log_weights: log w of draws of q, shape (S,) (nats).
        at_population: log w of points of the target, shape (N,).
        independent: how many independent points these are worth; all of them if None.

    Returns:
        ``(value, standard_error)`` in nats; ``(-inf, nan)`` when every weight is zero.

    Raises:
        ValueError: for an empty tensor, one that is not one-dimensional, or one that holds +inf.

    References:
        Meng and Wong, "Simulating ratios of normalizing constants via a simple identity" (1996).

    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(4000, generator=generator, dtype=torch.float64).abs()  # half of a normal density, normalised
    >>> population = torch.randn(4000, generator=generator, dtype=torch.float64)
    >>> at_population = torch.where(population > 0, torch.full_like(population, math.log(0.5)), 50.0)
    >>> round(log_evidence(torch.full_like(x, math.log(0.5)))[0], 2)
    -0.69
    >>> abs(bridge_log_evidence(torch.full_like(x, math.log(0.5)), at_population)[0]) < 0.05
    True
    """
    own, other = _checked(log_weights, "bridge_log_evidence"), _checked(at_population, "bridge_log_evidence")
    value, _ = log_evidence(own)
    if not math.isfinite(value):
        return value, math.nan
    for _ in range(_BRIDGE_STEPS):
        # log of w / (w/Z + 1) under q and of 1 / (w/Z + 1) under p
        above = own - torch.nn.functional.softplus(own - value)
        below = -torch.nn.functional.softplus(other - value)
        before, value = value, float(_log_mean(above) - _log_mean(below))
        if not abs(value - before) > _BRIDGE_CLOSE:
            break
    spread = [float(terms.exp().std() / terms.exp().mean()) for terms in (above - above.max(), below - below.max())]
    counts = len(own), independent or len(other)
    return value, math.sqrt(sum(s * s / n for s, n in zip(spread, counts, strict=True)))


def _log_mean(values: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(values, 0) - math.log(len(values))


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
    return _tail(_checked(log_weights, "pareto_k").sort().values)[0]


def smooth_log_weights(log_weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Pareto-smoothed importance weights: the largest ones replaced by quantiles of the distribution fitted to them.

    The j-th largest of the M tail weights becomes the (j − ½)/M quantile of the generalised Pareto distribution of
    `pareto_k`, at most the largest weight seen. Self-normalised estimates with these weights have a far smaller variance
    for a small bias, and their k̂ says when not to use them.

    Args:
        log_weights: log w, shape (S,), up to a common additive constant.

    Returns:
        The smoothed log-weights with the same constant (dtype float64), and k̂; the weights as they came, NaN turned
        into −inf, where there is no tail to fit.

    Raises:
        ValueError: for an empty tensor, one that is not one-dimensional, or one that holds +inf.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling" (2024).

    >>> smoothed, k = smooth_log_weights(torch.linspace(0, 1, 1000, dtype=torch.float64))
    >>> bool((smoothed.diff() >= 0).all()), k < 0.5
    (True, True)
    """
    values = _checked(log_weights, "smooth_log_weights")
    ordered, positions = values.sort()
    k, scale, threshold, size = _tail(ordered)
    if not math.isfinite(k):
        return values, k
    levels = (torch.arange(size, dtype=values.dtype, device=values.device) + 0.5) / size
    shape = torch.as_tensor(k, dtype=values.dtype, device=values.device)
    excess = scale * (torch.expm1(-shape * torch.log1p(-levels)) / shape if abs(k) > 1e-9 else -torch.log1p(-levels))
    smoothed = values.clone()
    smoothed[positions[-size:]] = (math.exp(threshold) + excess).log().clamp_max(0.0) + ordered[-1]
    return smoothed, k


def expected_kl(log_weights: torch.Tensor) -> float:
    """Estimate of KL(q ‖ p) = log Z − E_q[log w]: how far the evidence lower bound of q stays below the evidence.

    Args:
        log_weights: log w of draws from q, shape (S,) (nats); any additive constant cancels.

    Returns:
        Nats, at least 0; ``inf`` if q draws points of zero density, NaN when every weight is zero.

    Raises:
        ValueError: for an empty tensor, one that is not one-dimensional, or one that holds +inf.

    >>> expected_kl(torch.zeros(10))
    0.0
    """
    values = _checked(log_weights, "expected_kl")
    value, _ = log_evidence(values)
    return max(0.0, value - float(values.mean())) if math.isfinite(value) else math.nan


def _tail(ordered: torch.Tensor) -> tuple[float, float, float, int]:
    """Shape k̂ and scale of the Pareto tail of ascending log-weights, its threshold relative to the largest, its size.

    The shape is infinite, and the rest void, where there is no tail to fit.
    """
    count = ordered.numel()
    void = (0.0, 0.0, 0)
    if bool(torch.isneginf(ordered[-1])):
        return math.inf, *void
    tail_size = min(math.ceil(min(0.2 * count, 3 * math.sqrt(count))), count - 1)
    values = ordered - ordered[-1]
    # A threshold of exactly zero weight is as good as the smallest representable one, and keeps the logarithm finite.
    threshold = values[count - tail_size - 1].clamp_min(math.log(torch.finfo(values.dtype).tiny))
    if _is_rounding(float(threshold)):
        return -math.inf, *void
    tail = values[values > threshold]
    if tail.numel() < _SMALLEST_TAIL:
        return math.inf, *void
    shape, scale = _generalised_pareto(tail.exp() - threshold.exp())
    return shape, scale, float(threshold), tail.numel()


def draw_weights(
    density: Sampleable,
    log_density: Callable[[torch.Tensor], torch.Tensor],
    *,
    num_samples: int = 10_000,
    generator: torch.Generator | None = None,
    sobol: bool = False,
    replicates: int = 8,
) -> WeightedDraws:
    """Fresh draws from a density with their importance weights for a target.

    Costs `num_samples` evaluations of `log_density`, in one batch.

    Args:
        density: normalised q, with ``sample`` and ``log_prob``.
        log_density: unnormalised log p̃, (batch, dim) -> (batch,), in nats.
        num_samples: number of draws.
        generator: source of randomness; None is torch's global one.
        sobol: randomised quasi-Monte Carlo: `replicates` independently scrambled Sobol nets of equal size (powers of two
            do best), whose spread gives the standard error. `num_samples` is rounded down to a multiple of `replicates`.
        replicates: number of nets, at least two.

    Raises:
        ValueError: if `num_samples` is not positive, there are fewer than two nets or draws per net, or `log_density`
            returns a wrong shape.
    """
    if num_samples < 1:
        raise ValueError(f"certify: expected a positive `num_samples`; got {num_samples}. Use a few thousand.")
    if sobol and (replicates < 2 or num_samples < 2 * replicates):
        raise ValueError(
            f"certify: expected at least 2 nets of at least 2 points; got {replicates} for {num_samples} draws. "
            "Use replicates=8 and a few thousand draws."
        )
    nets = replicates if sobol else 1
    arguments: dict[str, Any] = {"sobol": True} if sobol else {}
    with torch.no_grad():
        shape = (num_samples // nets,)
        x = torch.cat([density.sample(shape, generator=generator, **arguments) for _ in range(nets)])
        target = log_density(x)
        if target.shape != x.shape[:1]:
            raise ValueError(
                f"certify: expected `log_density` to return shape ({len(x)},); got {tuple(target.shape)}. "
                "Sum over the last dimension."
            )
        log_weights = (target - density.log_prob(x)).to(torch.float64)
    nan, infinite = log_weights.isnan(), torch.isposinf(log_weights)
    log_weights = torch.where(nan | infinite, -math.inf, log_weights)
    return WeightedDraws(x, log_weights, nets, int(nan.sum()), int(infinite.sum()))


def certify(
    density: Sampleable,
    log_density: Callable[[torch.Tensor], torch.Tensor],
    *,
    num_samples: int = 10_000,
    generator: torch.Generator | None = None,
    sobol: bool = False,
    replicates: int = 8,
) -> Certificate:
    """Judge a density by fresh draws from it, independent of whatever built it.

    Draws x ~ q, forms w = p̃(x)/q(x), and returns the log evidence with its standard error, the effective sample size
    and Pareto k. Costs `num_samples` evaluations of `log_density`.

    Args:
        density: normalised q, with ``sample`` and ``log_prob``.
        log_density: unnormalised log p̃, (batch, dim) -> (batch,), in nats.
        num_samples: number of draws.
        generator: source of randomness; None is torch's global one.
        sobol: several scrambled Sobol nets instead of independent draws: a smaller error of the evidence where the weights
            vary smoothly; q must take ``sample(..., sobol=True)``.
        replicates: number of nets; the standard error comes from their spread.

    Returns:
        The certificate; NaN and +inf of the target weigh nothing and are counted.

    Raises:
        ValueError: if `num_samples` is not positive, or `log_density` returns a wrong shape.

    >>> class Uniform:
    ...     def sample(self, shape, *, generator=None):
    ...         return torch.rand((*shape, 2), generator=generator, dtype=torch.float64)
    ...     def log_prob(self, value):
    ...         return torch.zeros(value.shape[0], dtype=torch.float64)
    >>> certificate = certify(Uniform(), lambda x: torch.full((x.shape[0],), 3.0), num_samples=100)
    >>> certificate.log_evidence, certificate.standard_error, certificate.ess, certificate.expected_kl
    (3.0, 0.0, 1.0, 0.0)
    """
    draws = draw_weights(
        density, log_density, num_samples=num_samples, generator=generator, sobol=sobol, replicates=replicates
    )
    return draws.certificate()


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


def _generalised_pareto(excess: torch.Tensor) -> tuple[float, float]:
    """Zhang-Stephens estimates of shape and scale from ascending, positive exceedances (M,); memory M (30 + √M)."""
    size = excess.numel()
    num_grid = 30 + int(math.sqrt(size))
    steps = torch.arange(1, num_grid + 1, dtype=excess.dtype, device=excess.device)
    quartile = excess[int(size / 4 + 0.5) - 1]
    # θ = -k/σ on a grid of prior quantiles; the profile likelihood of each weighs it.
    theta = 1 / excess[-1] + (1 - torch.sqrt(num_grid / (steps - 0.5))) / (3 * quartile)
    shape = torch.log1p(-theta[:, None] * excess).mean(1)
    log_likelihood = size * (torch.log(-theta / shape) - shape - 1)
    weight = torch.softmax(log_likelihood, 0)
    centre = (theta * weight).sum()
    estimate = float(torch.log1p(-centre * excess).mean())
    # Weak prior: ten observations' worth of k = ½ (Vehtari et al., appendix C).
    return (size * estimate + 10 * 0.5) / (size + 10), -estimate / float(centre)
