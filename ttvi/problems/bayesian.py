"""Bayesian posteriors of textbook models on real or published data, in the coordinates a user would write."""

from __future__ import annotations

import functools
import math

import torch
from torch.distributions import constraints

from ..typing import LogDensity
from .problem import Array, Moments, Problem, load_data, numbered, reference_moments

__all__ = ["brownian", "eight_schools", "eight_schools_centred", "garch", "ionosphere", "log_normal"]

_LOG_2PI = math.log(2 * math.pi)
_EIGHT_SCHOOLS_EVIDENCE = -32.0044945329
_SCHOOLS = 8


def log_normal(value: torch.Tensor, mean: torch.Tensor | float, sd: torch.Tensor | float) -> torch.Tensor:
    """log N(value; mean, sd²), elementwise."""
    log_sd = sd.log() if isinstance(sd, torch.Tensor) else math.log(sd)
    return -0.5 * ((value - mean) / sd).square() - 0.5 * _LOG_2PI - log_sd


# -- logistic regression --------------------------------------------------------------------------------------


def ionosphere() -> Problem:
    """Logistic regression on the ionosphere data: intercept and 34 standardised features, N(0, 1) priors; d = 35.

    Features are centred and divided by their standard deviation (over n, not n − 1); one is constant and stays zero.

    References:
        Sigillito, Wing, Hutton and Baker, "Classification of radar returns from the ionosphere using neural networks"
        (1989).
    """
    data = load_data("ionosphere")
    features = torch.tensor(data["features"], dtype=torch.float64)
    features = features - features.mean(0)
    deviations = features.std(0, correction=0)
    features = features / torch.where(deviations > 0, deviations, torch.ones_like(deviations))
    design = torch.cat((torch.ones(len(features), 1, dtype=torch.float64), features), 1)
    # y logit for a good return, −y logit for a bad one: the sign is folded into the design.
    signed = Array(design * (2 * torch.tensor(data["good"], dtype=torch.float64) - 1)[:, None])

    def log_density(x: torch.Tensor) -> torch.Tensor:
        likelihood = torch.nn.functional.logsigmoid(x @ signed.like(x).T).sum(1)
        return likelihood - 0.5 * x.square().sum(1) - 0.5 * x.shape[1] * _LOG_2PI

    dim = design.shape[1]
    return Problem(
        name="ionosphere",
        dim=dim,
        log_density=log_density,
        lower=None,
        upper=None,
        make_bases=None,
        log_evidence=-111.6144,
        names=("intercept", *numbered("w", dim - 1)),
        reference="ionosphere data of the UCI repository; log evidence by long HMC and bridge sampling, ± 0.004",
        log_evidence_error=0.004,
    )


# -- Brownian motion ------------------------------------------------------------------------------------------


def brownian() -> Problem:
    """Brownian motion observed with noise, the middle ten of thirty steps missing; d = 32.

    Coordinates (log s_in, log s_obs, loc_1, …, loc_30): s_in, s_obs ~ LogNormal(0, 2), the log Jacobian included;
    loc_t ~ N(loc_{t−1}, s_in²), loc_0 = 0; y_t ~ N(loc_t, s_obs²) where observed.

    References:
        Sountsov, Radul and contributors, "Inference Gym" (2020).
    """
    observations = load_data("brownian_motion")["observations"]
    steps = len(observations)
    where = [t for t, y in enumerate(observations) if y is not None]
    seen = Array([observations[t] for t in where])

    def log_density(x: torch.Tensor) -> torch.Tensor:
        log_scales, path = x[:, :2], x[:, 2:]
        scales = log_scales.exp()
        increments = torch.nn.functional.pad(path, (1, 0)).diff(dim=1)
        prior = log_normal(log_scales, 0.0, 2.0).sum(1)
        motion = log_normal(increments, 0.0, scales[:, :1]).sum(1)
        likelihood = log_normal(seen.like(x), path[:, where], scales[:, 1:]).sum(1)
        return prior + motion + likelihood

    return Problem(
        name="brownian",
        dim=2 + steps,
        log_density=log_density,
        lower=None,
        upper=None,
        make_bases=None,
        log_evidence=1.1877491032,
        names=("log innovation scale", "log observation scale", *numbered("loc", steps)),
        reference="Brownian motion with missing observations of the Inference Gym; log evidence by quadrature",
    )


# -- eight schools --------------------------------------------------------------------------------------------


def eight_schools() -> Problem:
    """Eight schools, non-centred: coordinates (μ, τ, z_1, …, z_8) with θ_j = μ + τ z_j; d = 10.

    y_j ~ N(θ_j, σ_j²), z_j ~ N(0, 1), μ ~ N(0, 5²), τ > 0 with the density of Cauchy(0, 5): a half-Cauchy prior without
    its factor 2, as probabilistic programs write it.

    References:
        Rubin, "Estimation in parallel randomized experiments" (1981); Gelman, Carlin, Stern, Dunson, Vehtari and
        Rubin, "Bayesian Data Analysis" (2013).
    """

    def log_density(x: torch.Tensor) -> torch.Tensor:
        mu, tau, z = x[:, :1], x[:, 1:2], x[:, 2:]
        return _schools_likelihood(mu + tau * z) + log_normal(z, 0.0, 1.0).sum(1) + _schools_prior(mu, tau)

    def quantities(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x[:, :1] + x[:, 1:2] * x[:, 2:], x[:, :2]), 1)

    return _schools_problem("eight-schools", log_density, "z", reference_moments("eight_schools", quantities))


def eight_schools_centred() -> Problem:
    """Eight schools, centred: coordinates (μ, τ, θ_1, …, θ_8), a funnel in τ; the model of `eight_schools`."""

    def log_density(x: torch.Tensor) -> torch.Tensor:
        mu, tau, theta = x[:, :1], x[:, 1:2], x[:, 2:]
        return _schools_likelihood(theta) + log_normal(theta, mu, tau).sum(1) + _schools_prior(mu, tau)

    def quantities(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x[:, 2:], x[:, :2]), 1)

    return _schools_problem(
        "eight-schools-centred", log_density, "theta", reference_moments("eight_schools", quantities)
    )


@functools.cache
def _schools_data() -> tuple[Array, Array]:
    """Effects y and standard errors σ, shape (8,) each."""
    data = load_data("eight_schools")
    return Array(data["effects"]), Array(data["standard_errors"])


def _schools_likelihood(theta: torch.Tensor) -> torch.Tensor:
    """Σ_j log N(y_j; θ_j, σ_j²), (batch, 8) -> (batch,)."""
    effects, errors = _schools_data()
    return log_normal(effects.like(theta), theta, errors.like(theta)).sum(1)


def _schools_prior(mu: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """log N(μ; 0, 25) + log Cauchy(τ; 0, 5), two (batch, 1) -> (batch,)."""
    cauchy = -torch.log1p((tau / 5).square()) - math.log(5 * math.pi)
    return (log_normal(mu, 0.0, 5.0) + cauchy)[:, 0]


def _schools_problem(name: str, log_density: LogDensity, letter: str, moments: Moments) -> Problem:
    return Problem(
        name=name,
        dim=2 + _SCHOOLS,
        log_density=log_density,
        lower=None,
        upper=None,
        make_bases=None,
        log_evidence=_EIGHT_SCHOOLS_EVIDENCE,
        names=("mu", "tau", *numbered(letter, _SCHOOLS)),
        reference="eight schools of posteriordb; log evidence by quadrature over tau",
        make_support=lambda: [constraints.real, constraints.positive] + [constraints.real] * _SCHOOLS,
        moments=moments,
    )


# -- GARCH ----------------------------------------------------------------------------------------------------


def garch() -> Problem:
    """GARCH(1, 1): coordinates (μ, α₀, α₁, β₁) under a flat prior; the density is zero where α₁ + β₁ ≥ 1.

    y_t ~ N(μ, σ_t²), σ_t² = α₀ + α₁ (y_{t−1} − μ)² + β₁ σ_{t−1}², σ_1 given, T = 200;
    α₀ > 0, 0 < α₁ < 1, 0 < β₁ < 1 − α₁.

    References:
        Bollerslev, "Generalized autoregressive conditional heteroskedasticity" (1986).
    """
    data = load_data("garch")
    series, first = Array(data["series"]), float(data["first_deviation"])

    def log_density(x: torch.Tensor) -> torch.Tensor:
        mu, alpha0, alpha1, beta1 = x.unbind(1)
        stationary = alpha1 + beta1 < 1
        # Where it is not, the variances may overflow and the gradient of a masked NaN is a NaN.
        beta1 = torch.where(stationary, beta1, torch.zeros_like(beta1))
        squares = (series.like(x)[:, None] - mu).square()
        variances = [torch.full_like(mu, first**2)]
        for shock in (alpha0 + alpha1 * squares[:-1]).unbind(0):
            variances.append(shock + beta1 * variances[-1])
        variance = torch.stack(variances)
        value = -0.5 * (squares / variance + variance.log() + _LOG_2PI).sum(0)
        return torch.where(stationary, value, -math.inf)

    return Problem(
        name="garch",
        dim=4,
        log_density=log_density,
        lower=None,
        upper=None,
        make_bases=None,
        log_evidence=-450.994,
        names=("mu", "alpha0", "alpha1", "beta1"),
        reference="GARCH(1,1) of posteriordb; log evidence by long HMC and bridge sampling, ± 0.005",
        make_support=lambda: [
            constraints.real,
            constraints.positive,
            constraints.unit_interval,
            constraints.unit_interval,
        ],
        log_evidence_error=0.005,
        moments=reference_moments("garch", lambda x: x),
    )
