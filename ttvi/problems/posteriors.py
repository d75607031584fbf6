"""The Lotka-Volterra posterior on the lynx and hare counts."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch.distributions import constraints

from .problem import Problem, box_problem, load_data, reference_moments

__all__ = [
    "lotka_volterra",
    "lotka_volterra_natural",
    "lotka_volterra_parameters",
    "lynx_hare",
    "predator_prey_path",
]

_LOG_2PI = math.log(2 * math.pi)
_LOG_EVIDENCE = -147.070
_LOG_EVIDENCE_ERROR = 0.004
_REFERENCE = "lynx-hare posterior of posteriordb; log evidence by long HMC and bridge sampling, ± 0.004"
_NAMES = (
    "log frequency",
    "log z1(0)",
    "log hare equilibrium",
    "log asymmetry",
    "log z2(0)",
    "log lynx equilibrium",
    "log sigma1",
    "log sigma2",
)

# Central 99 % of each prior in those coordinates, rounded outwards (see `lotka_volterra`).
_PRIOR_LOWER = (-2.1, -0.3, -0.5, -1.65, -0.3, -0.5, -3.6, -3.6)
_PRIOR_UPPER = (0.65, 4.9, 7.1, 1.65, 4.9, 7.1, 1.6, 1.6)

# Symmetric splitting of order six with ten stages: drifts and kicks, each list a palindrome.
_DRIFTS = (0.0502627644003922, 0.413514300428344, 0.0450798897943977, -0.188054853819569, 0.541960678450780)
_KICKS = (0.148816447901042, -0.132385865767784, 0.067307604692185, 0.432666402578175)
_STEPS_PER_YEAR = 4

_CACHE_ROWS = 16_384
"""Rows integrated at once on a CPU: the hundreds of stages then work in cache, almost twice as fast."""


def lotka_volterra() -> Problem:
    """Predator and prey: the posterior of a Lotka-Volterra model given the lynx and hare pelts of 1900-1920.

    dz₁/dt = (α − β z₂) z₁, dz₂/dt = (−γ + δ z₁) z₂; y_k(t) ~ LogNormal(log z_k(t), σ_k) at t = 0, …, 20 years;
    α, γ ~ N(1, 0.5²), β, δ ~ N(0.05, 0.05²), both on the positive half-line and not renormalised there;
    z_k(0) ~ LogNormal(log 10, 1), σ_k ~ LogNormal(−1, 1).

    The coordinates are what the data see, the Jacobian included: the frequency √(αγ) of small oscillations (per year),
    their asymmetry √(α/γ), the equilibria γ/δ and α/β (thousands of pelts), z₁(0), z₂(0), σ₁ and σ₂, all as logarithms.
    The four rates themselves are correlated up to −0.96, these coordinates up to 0.6, and neighbours in this order more
    than others: what a tensor train likes. The box holds the central 99 % of every coordinate's prior.

    `lotka_volterra_parameters` maps draws to (α, β, γ, δ, z₁(0), z₂(0), σ₁, σ₂).

    References:
        Howard, "Modeling basic population dynamics: Lotka-Volterra" (2009); Carpenter, "Predator-prey population
        dynamics: the Lotka-Volterra model in Stan" (2018).
    """
    return box_problem(
        "lotka-volterra",
        _log_posterior,
        _PRIOR_LOWER,
        _PRIOR_UPPER,
        None,
        names=_NAMES,
        log_evidence=_LOG_EVIDENCE,
        reference=_REFERENCE,
        log_evidence_error=_LOG_EVIDENCE_ERROR,
        moments=reference_moments("lynx_hare", lotka_volterra_parameters),
    )


def lotka_volterra_natural() -> Problem:
    """The posterior of `lotka_volterra` in the coordinates in which the model is written.

    (α, β, γ, δ, z₁(0), z₂(0), σ₁, σ₂), all positive; the four rates are correlated up to −0.96.
    """
    return Problem(
        name="lotka-volterra-natural",
        dim=8,
        log_density=_log_posterior_natural,
        lower=None,
        upper=None,
        make_bases=None,
        log_evidence=_LOG_EVIDENCE,
        names=("alpha", "beta", "gamma", "delta", "z1(0)", "z2(0)", "sigma1", "sigma2"),
        reference=_REFERENCE,
        make_support=lambda: [constraints.positive] * 8,
        log_evidence_error=_LOG_EVIDENCE_ERROR,
        moments=reference_moments("lynx_hare", lambda x: x),
    )


def lotka_volterra_parameters(x: torch.Tensor) -> torch.Tensor:
    """Draws of `lotka_volterra` as (α, β, γ, δ, z₁(0), z₂(0), σ₁, σ₂): shape (..., 8) to the same."""
    return _log_parameters(x).exp()


def _log_parameters(x: torch.Tensor) -> torch.Tensor:
    """The linear map to the logarithms of the parameters; its determinant is 2."""
    frequency, prey, hare, asymmetry, predator, lynx, sigma1, sigma2 = x.unbind(-1)
    alpha, gamma = frequency + asymmetry, frequency - asymmetry
    return torch.stack((alpha, alpha - lynx, gamma, gamma - hare, prey, predator, sigma1, sigma2), -1)


def lynx_hare() -> dict[str, Any]:
    """The lynx and hare counts with their licence and the posterior's reference moments."""
    return load_data("lynx_hare")


def predator_prey_path(log_rates: torch.Tensor, log_start: torch.Tensor, years: int) -> torch.Tensor:
    """log z at t = 0, 1, …, years.

    In u = log z₁ and v = log z₂ the system is u' = α − β eᵛ, v' = −γ + δ eᵘ: each derivative knows the other variable
    only, so a splitting into drifts of u and kicks of v is explicit, symplectic and keeps both positive. Four
    sixth-order steps a year leave an error below 1e-7 in the log-likelihood at the posterior mean.

    Args:
        log_rates: log (α, β, γ, δ), shape (batch, 4); rates per year (β and δ per year and thousand).
        log_start: log z(0), shape (batch, 2); thousands.
        years: number of years.

    Returns:
        Shape (batch, years + 1, 2). Paths that overflow hold infinities or NaN.

    References:
        Blanes and Moan, "Practical symplectic partitioned Runge-Kutta and Runge-Kutta-Nyström methods" (2002).
    """
    alpha, beta, gamma, delta = log_rates.exp().unbind(1)
    u, v = log_start.unbind(1)
    path = [log_start]
    for _ in range(years):
        for _ in range(_STEPS_PER_YEAR):
            for drift, kick in _stages():
                u = u + drift * (alpha - beta * v.exp())
                if kick:
                    v = v + kick * (delta * u.exp() - gamma)
        path.append(torch.stack((u, v), 1))
    return torch.stack(path, 1)


@functools.cache
def _stages() -> tuple[tuple[float, float], ...]:
    """(drift, kick) pairs of one step in years; the last drift has no kick."""
    drifts = (*_DRIFTS, 1 - 2 * math.fsum(_DRIFTS), *_DRIFTS[::-1])
    half = (*_KICKS, 0.5 - math.fsum(_KICKS))
    kicks = (*half, *half[::-1], 0.0)
    return tuple((a / _STEPS_PER_YEAR, b / _STEPS_PER_YEAR) for a, b in zip(drifts, kicks, strict=True))


@functools.lru_cache(maxsize=16)
def _log_counts(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """log y at t = 0, …, 20 (hare, lynx), shape (21, 2)."""
    data = lynx_hare()
    return torch.tensor([data["initial"], *data["counts"]], dtype=dtype, device=device).log()


def _log_normal(value: torch.Tensor, mean: float, sd: float) -> torch.Tensor:
    """log N(value; mean, sd²), elementwise."""
    return -0.5 * ((value - mean) / sd).square() - 0.5 * _LOG_2PI - math.log(sd)


def _log_posterior(x: torch.Tensor) -> torch.Tensor:
    """Log-prior + log-likelihood + log-Jacobian in the coordinates of `lotka_volterra`, (batch, 8) -> (batch,)."""
    return _log_posterior_of_logs(_log_parameters(x)) + math.log(2.0)


def _log_posterior_natural(x: torch.Tensor) -> torch.Tensor:
    """Log-prior + log-likelihood in the parameters themselves, (batch, 8) -> (batch,)."""
    logs = x.log()
    return _log_posterior_of_logs(logs) - logs.sum(1)


def _log_posterior_of_logs(x: torch.Tensor) -> torch.Tensor:
    """The same in the logarithms of the parameters."""
    if x.device.type == "cpu" and x.shape[0] > _CACHE_ROWS:
        return torch.cat([_log_posterior_of_logs(block) for block in x.split(_CACHE_ROWS)])
    observed = _log_counts(x.dtype, x.device)
    path = predator_prey_path(x[:, :4], x[:, 4:6], observed.shape[0] - 1)
    log_sigma = x[:, None, 6:8]
    residual = (observed - path) * torch.exp(-log_sigma)
    # A log-normal density in y carries 1/y.
    likelihood = (-0.5 * residual.square() - log_sigma - 0.5 * _LOG_2PI - observed).sum((1, 2))
    rates = x[:, :4].exp()
    prior = _log_normal(rates[:, 0::2], 1.0, 0.5) + _log_normal(rates[:, 1::2], 0.05, 0.05)
    # In log coordinates a log-normal is a normal; the rates' own Jacobian is Π e^{x_k}.
    latent = _log_normal(x[:, 4:6], math.log(10.0), 1.0) + _log_normal(x[:, 6:8], -1.0, 1.0)
    value = likelihood + prior.sum(1) + latent.sum(1) + x[:, :4].sum(1)
    return torch.where(value.isnan(), -math.inf, value)
