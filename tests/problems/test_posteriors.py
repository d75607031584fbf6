"""Posteriors against scipy's distributions, quadrature over what cannot be integrated by hand, and importance sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from ttvi import problems
from ttvi.problems.problem import load_data

norm = scipy.stats.norm.logpdf


def panels(lower: float, upper: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Twenty Gauss-Legendre nodes on each of `count` panels."""
    x, w = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(lower, upper, count + 1)
    half = 0.5 * (edges[1] - edges[0])
    return (edges[:-1, None] + half * (x + 1)).reshape(-1), np.tile(half * w, count)


def importance_log_evidence(
    log_density, start: torch.Tensor, generator: torch.Generator, draws: int, freedom: int
) -> tuple[float, float]:
    """Log evidence and its standard error by Student draws around the mode: Newton steps, then weights."""
    with torch.enable_grad():
        point = start.clone()
        for _ in range(30):
            gradient = torch.autograd.functional.jacobian(lambda x: log_density(x[None])[0], point)
            hessian = torch.autograd.functional.hessian(lambda x: log_density(x[None])[0], point)
            step = torch.linalg.solve(-hessian, gradient)
            point = point + step / max(1.0, float(step.norm()))
            if float(step.norm()) < 1e-6:
                break
    dim = point.numel()
    factor = torch.linalg.cholesky(torch.linalg.inv(-hessian))
    z = torch.randn((draws, dim), generator=generator, dtype=torch.float64)
    # χ² as a sum of squares
    stretch = torch.randn((draws, freedom), generator=generator, dtype=torch.float64).square().mean(1)
    t = z / stretch.sqrt()[:, None]
    log_q = math.lgamma((freedom + dim) / 2) - math.lgamma(freedom / 2) - dim / 2 * math.log(freedom * math.pi)
    log_q = log_q - (freedom + dim) / 2 * torch.log1p(t.square().sum(1) / freedom) - factor.diagonal().log().sum()
    log_w = log_density(point + t @ factor.T) - log_q
    log_w = torch.where(log_w.isnan(), -math.inf, log_w)
    weights = (log_w - log_w.max()).exp()
    return float(log_w.max() + weights.mean().log()), float(weights.std() / weights.mean() / math.sqrt(draws))


# -- ionosphere -----------------------------------------------------------------------------------------------


def test_ionosphere_density_against_scipy():
    data = load_data("ionosphere")
    features = np.array(data["features"], dtype=float)
    sd = features.std(0)
    design = np.column_stack([np.ones(len(features)), (features - features.mean(0)) / np.where(sd > 0, sd, 1)])
    points = np.random.default_rng(1).standard_normal((3, 35))
    signs = np.where(np.array(data["good"]) == 1, 1, -1)
    likelihood = scipy.special.log_expit(signs * (points @ design.T)).sum(1)
    value = problems.get("ionosphere").log_density(torch.from_numpy(points))
    np.testing.assert_allclose(value.numpy(), likelihood + norm(points).sum(1), rtol=1e-10)


def test_ionosphere_evidence():
    problem, generator = problems.get("ionosphere"), torch.Generator().manual_seed(4)
    value, error = importance_log_evidence(
        problem.log_density, torch.zeros(35, dtype=torch.float64), generator, 60_000, 60
    )
    assert error < 0.06
    assert problem.log_evidence == pytest.approx(value, abs=4 * error + problem.log_evidence_error)


# -- Brownian motion ------------------------------------------------------------------------------------------


def brownian_data() -> tuple[np.ndarray, np.ndarray]:
    observations = load_data("brownian_motion")["observations"]
    seen = np.array([t for t, y in enumerate(observations) if y is not None])
    return seen, np.array([observations[t] for t in seen])


def test_brownian_density_against_scipy():
    seen, y = brownian_data()
    assert seen.tolist() == [*range(10), *range(20, 30)]
    points = 0.5 * np.random.default_rng(2).standard_normal((3, 32))
    expected = []
    for u in points:
        scales, path = np.exp(u[:2]), u[2:]
        value = sum(scipy.stats.lognorm.logpdf(s, 2) + math.log(s) for s in scales)
        value += sum(norm(b, a, scales[0]) for a, b in zip([0.0, *path], path))
        expected.append(value + norm(y, path[seen], scales[1]).sum())
    value = problems.get("brownian").log_density(torch.from_numpy(points))
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-10)


def test_brownian_evidence():
    """The path integrates out: y ~ N(0, s_in² min(t, t') + s_obs² I); quadrature over both log scales."""
    seen, y = brownian_data()
    u, w = panels(-6.5, 1.5, 8)
    walk = np.minimum(seen[:, None] + 1.0, seen + 1.0)
    # one eigendecomposition serves all: s_in² W + s_obs² I
    values, vectors = np.linalg.eigh(walk)
    variances = np.exp(2 * u)[:, None, None] * values + np.exp(2 * u)[:, None]
    log_values = -0.5 * (np.log(2 * math.pi * variances) + (vectors.T @ y) ** 2 / variances).sum(2)
    log_values += norm(u, 0, 2)[:, None] + norm(u, 0, 2)
    value = scipy.special.logsumexp(log_values, b=np.outer(w, w))
    assert problems.get("brownian").log_evidence == pytest.approx(value, abs=1e-3)


# -- eight schools --------------------------------------------------------------------------------------------


def schools_quadrature() -> tuple[float, np.ndarray, np.ndarray]:
    """Log evidence, and means and standard deviations of (θ_1, …, θ_8, μ, τ); only τ needs nodes, μ and θ are Gaussian."""
    data = load_data("eight_schools")
    y, sigma = np.array(data["effects"], dtype=float), np.array(data["standard_errors"], dtype=float)
    # τ = sinh(s): the Cauchy tail needs τ of thousands
    s, w = panels(0.0, 16.0, 60)
    tau = np.sinh(s)
    variance = sigma**2 + tau[:, None] ** 2
    precision = 1 / 25 + (1 / variance).sum(1)
    mu = (y / variance).sum(1) / precision
    log_values = norm(y, mu[:, None], np.sqrt(variance)).sum(1) + norm(mu, 0, 5) + 0.5 * np.log(2 * math.pi / precision)
    log_values += scipy.stats.cauchy.logpdf(tau, 0, 5) + np.log(w * np.cosh(s))
    log_evidence = scipy.special.logsumexp(log_values)
    share = np.exp(log_values - log_evidence)
    # θ_j | μ, τ has mean μ + k_j (y_j − μ) and variance k_j σ_j²
    pull = tau[:, None] ** 2 / variance
    theta = mu[:, None] + pull * (y - mu[:, None])
    theta_square = theta**2 + pull * sigma**2 + (1 - pull) ** 2 / precision[:, None]
    first = np.column_stack([theta, mu, tau])
    second = np.column_stack([theta_square, mu**2 + 1 / precision, tau**2])
    mean = share @ first
    return log_evidence, mean, np.sqrt(share @ second - mean**2)


@pytest.mark.parametrize("name", ["eight-schools", "eight-schools-centred"])
def test_eight_schools_evidence_and_moments(name):
    problem = problems.get(name)
    value, mean, sd = schools_quadrature()
    assert problem.log_evidence == pytest.approx(value, abs=1e-8)
    np.testing.assert_allclose(problem.moments.mean.numpy(), mean, atol=0.05 * sd.min())
    np.testing.assert_allclose(problem.moments.sd.numpy(), sd, rtol=0.05)


def test_eight_schools_densities_against_scipy():
    data = load_data("eight_schools")
    y, sigma = np.array(data["effects"]), np.array(data["standard_errors"])
    points = np.random.default_rng(5).standard_normal((4, 10))
    points[:, 1] = np.exp(points[:, 1])
    mu, tau, z = points[:, :1], points[:, 1:2], points[:, 2:]
    prior = (norm(mu, 0, 5) + scipy.stats.cauchy.logpdf(tau, 0, 5))[:, 0]
    theta = mu + tau * z
    likelihood = norm(y, theta, sigma).sum(1)
    value = problems.get("eight-schools").log_density(torch.from_numpy(points))
    np.testing.assert_allclose(value.numpy(), prior + likelihood + norm(z).sum(1), rtol=1e-10)
    centred = torch.from_numpy(np.column_stack([mu, tau, theta]))
    value = problems.get("eight-schools-centred").log_density(centred)
    np.testing.assert_allclose(value.numpy(), prior + likelihood + norm(theta, mu, tau).sum(1), rtol=1e-10)
    for name, x in (("eight-schools", torch.from_numpy(points)), ("eight-schools-centred", centred)):
        quantities = problems.get(name).moments.quantities(x)
        np.testing.assert_allclose(quantities.numpy(), np.column_stack([theta, mu, tau]), rtol=1e-10)


# -- GARCH ----------------------------------------------------------------------------------------------------


def test_garch_density_by_loop():
    data = load_data("garch")
    y, points = data["series"], [[5.0, 1.4, 0.5, 0.3], [4.7, 0.2, 0.1, 0.85], [5.2, 3.0, 0.6, 0.5]]
    expected = []
    for mu, alpha0, alpha1, beta1 in points:
        value, sigma = 0.0, data["first_deviation"]
        for t in range(len(y)):
            if t:
                sigma = math.sqrt(alpha0 + alpha1 * (y[t - 1] - mu) ** 2 + beta1 * sigma**2)
            value += norm(y[t], mu, sigma)
        expected.append(value if alpha1 + beta1 < 1 else -math.inf)
    x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    value = problems.get("garch").log_density(x)
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-10)
    (gradient,) = torch.autograd.grad(value[:2].sum() + torch.where(value[2:].isfinite(), value[2:], 0.0).sum(), x)
    assert bool(gradient.isfinite().all())


def test_garch_evidence():
    """Importance sampling in (μ, log α₀, log-ratios of α₁, β₁ and the rest), the Jacobian included."""
    problem, generator = problems.get("garch"), torch.Generator().manual_seed(6)

    def log_density(u: torch.Tensor) -> torch.Tensor:
        shares = torch.cat((u[:, 2:], torch.zeros_like(u[:, :1])), 1).log_softmax(1)
        x = torch.cat((u[:, :1], u[:, 1:2].exp(), shares[:, :2].exp()), 1)
        return problem.log_density(x) + u[:, 1] + shares.sum(1)

    value, error = importance_log_evidence(
        log_density, torch.tensor([5.0, 0.3, 1.3, 0.6], dtype=torch.float64), generator, 40_000, 12
    )
    assert error < 0.02
    assert problem.log_evidence == pytest.approx(value, abs=4 * error + problem.log_evidence_error)


# -- Lotka-Volterra -------------------------------------------------------------------------------------------


def test_lotka_volterra_in_natural_coordinates(generator):
    """The two forms differ by the Jacobian of the coordinates: log 2 + Σ log θ."""
    log_form, natural = problems.get("lotka-volterra"), problems.get("lotka-volterra-natural")
    mean, sd = (torch.as_tensor(v, device=generator.device) for v in (natural.moments.mean, natural.moments.sd))
    noise = torch.randn((5, 8), generator=generator, device=generator.device, dtype=torch.float64)
    theta = mean + 0.2 * sd * noise
    logs = theta.log()
    alpha, beta, gamma, delta = logs[:, :4].unbind(1)
    columns = [(alpha + gamma) / 2, logs[:, 4], gamma - delta, (alpha - gamma) / 2, logs[:, 5], alpha - beta]
    x = torch.cat((torch.stack(columns, 1), logs[:, 6:]), 1)
    torch.testing.assert_close(log_form.moments.quantities(x), theta)
    expected = natural.log_density(theta) + logs.sum(1) + math.log(2)
    torch.testing.assert_close(log_form.log_density(x), expected)
