"""Targets on other spaces than R^d: circles, half-lines, simplices, integers, and products of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.distributions import constraints

from .problem import Array, Modes, Moments, Problem, Support, circles, load_data

__all__ = ["coal_mining", "half_cauchy_simplex", "von_mises_mixture"]


# -- circles --------------------------------------------------------------------------------------------------

# Per component: weight, centre (φ, ψ), concentrations (κ₁, κ₂), interaction λ.
_VON_MISES = (
    (0.5, (-2.0, 1.0), (6.0, 4.0), 3.0),
    (0.3, (0.5, -1.5), (10.0, 10.0), -6.0),
    (0.2, (3.0, 3.0), (3.0, 8.0), 0.0),
)


def von_mises_mixture() -> Problem:
    """Three bivariate von Mises distributions (sine model) on a product of two circles; normalised.

    p = Σ_k w_k exp[κ₁ cos(φ − μ) + κ₂ cos(ψ − ν) + λ sin(φ − μ) sin(ψ − ν)] / C_k. The third component straddles the
    seam of both circles.

    References:
        Singh, Hnizdo and Demchuk, "Probabilistic model for two dependent circular variables" (2002).
    """
    weights, centres, concentrations, interactions = (Array(list(column)) for column in zip(*_VON_MISES, strict=True))
    norms = Array([math.log(w) - _log_sine_constant(*kappa, lam) for w, _, kappa, lam in _VON_MISES])

    def components(x: torch.Tensor) -> torch.Tensor:
        offsets = x[:, None] - centres.like(x)
        aligned = (concentrations.like(x) * torch.cos(offsets)).sum(2)
        return norms.like(x) + aligned + interactions.like(x) * torch.sin(offsets).prod(2)

    return Problem(
        name="von-mises-mixture",
        dim=2,
        log_density=lambda x: torch.logsumexp(components(x), 1),
        lower=torch.full((2,), -math.pi, dtype=torch.float64),
        upper=torch.full((2,), math.pi, dtype=torch.float64),
        make_bases=None,
        log_evidence=0.0,
        names=("phi", "psi"),
        reference="bivariate von Mises mixture; normalised in closed form (Bessel functions)",
        make_support=lambda: circles(2),
        modes=Modes(centres.values, weights.values, lambda x: components(x).softmax(1)),
    )


def _log_sine_constant(kappa1: float, kappa2: float, interaction: float) -> float:
    """log C = log 4π² Σ_m binom(2m, m) (λ²/(4κ₁κ₂))^m I_m(κ₁) I_m(κ₂)."""
    ratio = interaction**2 / (4 * kappa1 * kappa2)
    terms = [math.comb(2 * m, m) * ratio**m * _bessel(m, kappa1) * _bessel(m, kappa2) for m in range(60)]
    return math.log(4 * math.pi**2) + math.log(math.fsum(terms))


def _bessel(order: int, x: float) -> float:
    """The modified Bessel function I_m(x) by its power series; for x of order ten."""
    half = 0.5 * x
    return math.fsum(half ** (2 * j + order) / (math.factorial(j) * math.factorial(j + order)) for j in range(60))


# -- a half-line and a simplex --------------------------------------------------------------------------------

_DIRICHLET = (2.0, 3.0, 4.0)


def half_cauchy_simplex() -> Problem:
    """A half-Cauchy scale τ and shares w on the simplex of three, coupled; the evidence is in closed form.

    p̃ = HalfCauchy(τ; 1) Dirichlet(w; 2, 3, 4) (1 + 4 w_1 τ/(1 + τ)). As E[τ/(1 + τ)] = ½ and E[w_1] = 2/9 under the
    two factors, Z = 13/9. The tail of τ is heavy: it has no mean, so the moments are those of t = τ/(1 + τ) and w.
    Coordinates (τ, w_1, w_2, w_3); the measure on the simplex is dw_1 dw_2.
    """
    concentrations = Array(_DIRICHLET)
    log_constant = math.log(2 / math.pi) + math.lgamma(math.fsum(_DIRICHLET)) - math.fsum(map(math.lgamma, _DIRICHLET))

    def log_density(x: torch.Tensor) -> torch.Tensor:
        tau, shares = x[:, 0], x[:, 1:]
        dirichlet = ((concentrations.like(x) - 1) * shares.log()).sum(1)
        # t = τ/(1 + τ) and log(1 + τ²) without overflow
        inverse = 1 / (1 + tau)
        cauchy = -torch.log(inverse.square() + (1 - inverse).square()) + 2 * inverse.log()
        return log_constant + dirichlet + cauchy + torch.log1p(4 * shares[:, 0] * (1 - inverse))

    def quantities(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x[:, :1] / (1 + x[:, :1]), x[:, 1:]), 1)

    return Problem(
        name="half-cauchy-simplex",
        dim=4,
        log_density=log_density,
        lower=None,
        upper=None,
        make_bases=None,
        log_evidence=math.log(13 / 9),
        names=("tau", "w1", "w2", "w3"),
        reference="half-Cauchy scale and Dirichlet shares, coupled; closed form",
        make_support=lambda: {"tau": constraints.positive, "w": (constraints.simplex, 3)},
        moments=_half_cauchy_moments(quantities),
    )


def _half_cauchy_moments(quantities: Callable[[torch.Tensor], torch.Tensor]) -> Moments:
    """Moments of (t, w_1, w_2, w_3) under the weight 1 + 4 w_1 t, from those of the two independent factors."""
    # E[t], E[t²] and E[t³] of t = τ/(1 + τ), τ half-Cauchy, by partial fractions.
    t1, t2, t3 = 0.5, 1 / math.pi, 1.5 / math.pi - 0.25
    a, total = _DIRICHLET, math.fsum(_DIRICHLET)
    z = 1 + 4 * (a[0] / total) * t1
    mean = [(t1 + 4 * (a[0] / total) * t2) / z]
    square = [(t2 + 4 * (a[0] / total) * t3) / z]
    for k in range(3):
        # E[w_k^p], then E[w_1 w_k^p], by raising one concentration after the other
        for p, store in ((1, mean), (2, square)):
            plain = math.prod((a[k] + i) / (total + i) for i in range(p))
            raised = (a[0] / total) * math.prod((a[k] + (k == 0) + i) / (total + 1 + i) for i in range(p))
            store.append((plain + 4 * raised * t1) / z)
    means = torch.tensor(mean, dtype=torch.float64)
    sds = (torch.tensor(square, dtype=torch.float64) - means.square()).sqrt()
    return Moments(means, sds, quantities, ("tau/(1+tau)", "w1", "w2", "w3"))


# -- an integer and two rates ---------------------------------------------------------------------------------


def coal_mining() -> Problem:
    """The change point of the coal-mining disasters: the year it came, and the rates before and after.

    Coordinates (year, early, late): year uniform on 1851, …, 1961; early, late ~ Gamma(2, 1) (shape, rate) per year;
    counts Poisson(early) before that year and Poisson(late) from it on. All moments are exact by summing over the year.

    References:
        Jarrett, "A note on the intervals between coal-mining disasters" (1979); Carlin, Gelfand and Smith,
        "Hierarchical Bayesian analysis of changepoint problems" (1992).
    """
    data = load_data("coal_disasters")
    counts, first = data["counts"], data["first_year"]
    years = len(counts)
    before = Array([math.fsum(counts[:k]) for k in range(years + 1)])
    constant = -math.log(years) - math.fsum(math.lgamma(count + 1) for count in counts)

    def log_density(x: torch.Tensor) -> torch.Tensor:
        index = (x[:, 0].detach() - first).round().long().clamp(0, years - 1)
        early, late = x[:, 1], x[:, 2]
        events, total = before.like(x)[index], before.like(x)[-1]
        elapsed = index.to(x.dtype)
        # A Gamma(2, 1) prior is one more event and one more year on either side.
        first_part = (events + 1) * early.log() - (elapsed + 1) * early
        second_part = (total - events + 1) * late.log() - (years - elapsed + 1) * late
        return first_part + second_part + constant

    value, mean, sd = _coal_mining_posterior(before.values.tolist(), years, constant)
    mean[0] += first
    names = ("year", "early", "late")
    return Problem(
        name="coal-mining",
        dim=3,
        log_density=log_density,
        lower=None,
        upper=None,
        make_bases=None,
        log_evidence=value,
        names=names,
        reference="coal-mining disasters, 1851-1961; everything by enumeration of the year",
        make_support=lambda: _coal_mining_support(first, years),
        moments=Moments(
            torch.tensor(mean, dtype=torch.float64), torch.tensor(sd, dtype=torch.float64), lambda x: x, names
        ),
    )


def _coal_mining_support(first: int, years: int) -> Support:
    return {
        "year": constraints.integer_interval(first, first + years - 1),
        "early": constraints.positive,
        "late": constraints.positive,
    }


def _coal_mining_posterior(before: list[float], years: int, constant: float) -> tuple[float, list[float], list[float]]:
    """Log evidence, and means and standard deviations of (index of the year, early, late)."""
    # Given the year, the rates are Gamma(shape, rate), independent of each other.
    gammas = [((before[k] + 2, k + 1), (before[-1] - before[k] + 2, years - k + 1)) for k in range(years)]
    logs = [math.fsum(math.lgamma(a) - a * math.log(b) for a, b in pair) for pair in gammas]
    peak = max(logs)
    total = math.fsum(math.exp(value - peak) for value in logs)
    shares = [math.exp(value - peak) / total for value in logs]

    def expectation(values: list[float]) -> float:
        return math.fsum(share * value for share, value in zip(shares, values, strict=True))

    firsts = [[float(k) for k in range(years)]] + [[pair[i][0] / pair[i][1] for pair in gammas] for i in (0, 1)]
    seconds = [[float(k * k) for k in range(years)]]
    seconds += [[pair[i][0] * (pair[i][0] + 1) / pair[i][1] ** 2 for pair in gammas] for i in (0, 1)]
    mean = [expectation(values) for values in firsts]
    sd = [math.sqrt(expectation(values) - m**2) for values, m in zip(seconds, mean, strict=True)]
    return peak + math.log(total) + constant, mean, sd
