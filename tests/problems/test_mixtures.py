"""Mixtures and targets on other spaces than R^d: quadrature, scipy's densities, and sums over everything discrete."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from ttvi import problems
from ttvi.problems.problem import load_data

# -- Gaussian mixtures ----------------------------------------------------------------------------------------


def mixture_by_scipy(weights, means, covariances, x: np.ndarray) -> np.ndarray:
    parts = [
        math.log(w) + scipy.stats.multivariate_normal.logpdf(x, m, c) for w, m, c in zip(weights, means, covariances)
    ]
    return scipy.special.logsumexp(parts, axis=0)


def test_gmm40_against_scipy():
    data = load_data("gaussian_mixture_40")
    means = np.array(data["means"])
    assert means.shape == (40, 2)
    x = means[:6] + np.random.default_rng(0).standard_normal((6, 2))
    expected = mixture_by_scipy([1 / 40] * 40, means, [data["deviation"] ** 2 * np.eye(2)] * 40, x)
    problem = problems.get("gmm40")
    np.testing.assert_allclose(problem.log_density(torch.from_numpy(x)).numpy(), expected, rtol=1e-10)


def test_rotated_mixture_against_scipy():
    data = load_data("rotated_mixture_10")
    weights, means = np.array(data["weights"]), np.array(data["means"])
    covariances = np.array(data["covariances"]).reshape(10, 10, 10)
    assert weights.sum() == pytest.approx(1, abs=1e-4)
    x = means + 0.5 * np.random.default_rng(0).standard_normal((10, 10))
    expected = mixture_by_scipy(weights / weights.sum(), means, covariances, x)
    problem = problems.get("rotated-mixture-10")
    np.testing.assert_allclose(problem.log_density(torch.from_numpy(x)).numpy(), expected, rtol=1e-9)
    assert problem.modes.assign(torch.from_numpy(means)).tolist() == list(range(10))


def test_responsibilities_average_to_the_weights(generator):
    """Over exact draws of the mixture, overlapping modes included."""
    problem = problems.get("gmm40")
    centres = problem.modes.centres.to(generator.device)
    index = torch.randint(0, 40, (40_000,), generator=generator, device=generator.device)
    noise = torch.randn((40_000, 2), generator=generator, device=generator.device, dtype=torch.float64)
    x = centres[index] + load_data("gaussian_mixture_40")["deviation"] * noise
    shares = problem.modes.responsibilities(x).mean(0).cpu()
    torch.testing.assert_close(shares, problem.modes.weights, rtol=0, atol=5 * math.sqrt(1 / 40 / 40_000))


def test_five_modes_density_and_evidence():
    """Twenty-eight coordinates are Gaussian on [−2, 2]; the last two by quadrature of the mixture itself."""
    problem = problems.get("five-modes-3")
    x, w = np.polynomial.legendre.leggauss(160)
    grid = np.stack(np.meshgrid([0.0], x, x, indexing="ij"), -1).reshape(-1, 3)
    log_values = problem.log_density(torch.from_numpy(grid)).numpy()
    plane = scipy.special.logsumexp(log_values, b=np.outer(w, w).reshape(-1))
    # At θ_1 = 0 the first factor is 1/(0.2 √2π) in u; over θ it integrates to ½.
    assert plane + math.log(0.2 * math.sqrt(2 * math.pi) / 2) == pytest.approx(-3 * math.log(2), abs=2e-6)
    centres = problem.modes.centres
    assert centres[1].tolist() == [0, 0.5, 0.5]
    covariance = 0.04 * np.array([[1, 0, 0], [0, 1, -0.95], [0, -0.95, 1]])
    expected = math.log(0.2) + scipy.stats.multivariate_normal.logpdf([0.0, 0, 0], [0, 0, 0], covariance)
    assert float(problem.log_density(centres[3:4])) == pytest.approx(expected, rel=1e-6)


# -- circles --------------------------------------------------------------------------------------------------


def test_von_mises_mixture_is_normalised():
    """Equispaced nodes on both circles are spectrally accurate; the modes' shares come out as their weights."""
    problem = problems.get("von-mises-mixture")
    theta = torch.arange(128, dtype=torch.float64) * (2 * math.pi / 128) - math.pi
    grid = torch.cartesian_prod(theta, theta)
    mass = problem.log_density(grid).exp() * (2 * math.pi / 128) ** 2
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(mass @ problem.modes.responsibilities(grid), problem.modes.weights)
    torch.testing.assert_close(problem.log_density(grid + 2 * math.pi), problem.log_density(grid))


def test_von_mises_component_by_hand():
    """Without interaction a component is a product of two von Mises densities: the third dominates at its centre."""
    x = np.array([3.0, 3.0])
    total = 0.2 * scipy.stats.vonmises.pdf(0, 3) * scipy.stats.vonmises.pdf(0, 8)
    value = problems.get("von-mises-mixture").log_density(torch.from_numpy(x)[None])
    assert float(value) == pytest.approx(math.log(total), abs=1e-2)


# -- a half-line and a simplex --------------------------------------------------------------------------------


def half_cauchy_simplex_grid() -> tuple[torch.Tensor, np.ndarray]:
    """Nodes in τ = tan(πu/2), and in (w_1, w_2) by a square folded onto the triangle; weights with the Jacobians."""
    x, w = np.polynomial.legendre.leggauss(30)
    u, v = (x + 1) / 2, w / 2
    a, b, c = np.meshgrid(u, u, u, indexing="ij")
    tau = np.tan(0.5 * math.pi * a)
    points = np.stack([tau, b, (1 - b) * c, (1 - b) * (1 - c)], -1).reshape(-1, 4)
    jacobian = 0.5 * math.pi * (1 + tau**2) * (1 - b)
    return torch.from_numpy(points), (np.einsum("i,j,k->ijk", v, v, v) * jacobian).reshape(-1)


def test_half_cauchy_simplex_evidence_and_moments():
    problem = problems.get("half-cauchy-simplex")
    points, weights = half_cauchy_simplex_grid()
    mass = problem.log_density(points).exp().numpy() * weights
    assert math.log(mass.sum()) == pytest.approx(problem.log_evidence, abs=1e-9)
    quantities = problem.moments.quantities(points).numpy()
    mean = mass @ quantities / mass.sum()
    sd = np.sqrt(mass @ quantities**2 / mass.sum() - mean**2)
    np.testing.assert_allclose(problem.moments.mean.numpy(), mean, rtol=1e-8)
    np.testing.assert_allclose(problem.moments.sd.numpy(), sd, rtol=1e-7)


def test_half_cauchy_simplex_density_by_scipy():
    tau, shares = 2.5, np.array([0.2, 0.5, 0.3])
    expected = scipy.stats.halfcauchy.logpdf(tau) + scipy.stats.dirichlet.logpdf(shares, [2, 3, 4])
    expected += math.log(1 + 4 * 0.2 * 2.5 / 3.5)
    x = torch.tensor([[tau, *shares]], dtype=torch.float64)
    assert float(problems.get("half-cauchy-simplex").log_density(x)) == pytest.approx(expected, rel=1e-12)


# -- an integer and two rates ---------------------------------------------------------------------------------


def test_coal_mining_density_by_scipy():
    counts = np.array(load_data("coal_disasters")["counts"])
    assert counts.size == 111
    for year in (1851, 1890, 1961):
        switch = year - 1851
        expected = scipy.stats.poisson.logpmf(counts[:switch], 3.1).sum()
        expected += scipy.stats.poisson.logpmf(counts[switch:], 0.9).sum() - math.log(111)
        expected += scipy.stats.gamma.logpdf([3.1, 0.9], 2).sum()
        x = torch.tensor([[year, 3.1, 0.9]], dtype=torch.float64)
        assert float(problems.get("coal-mining").log_density(x)) == pytest.approx(expected, rel=1e-12)


def test_coal_mining_evidence_and_moments():
    """Sum over the years, Gauss-Legendre over both rates of the density itself."""
    problem = problems.get("coal-mining")
    x, w = np.polynomial.legendre.leggauss(140)
    rates, weights = 12 * (x + 1), 12 * w
    grid = np.stack(np.meshgrid(np.arange(1851.0, 1962.0), rates, rates, indexing="ij"), -1).reshape(-1, 3)
    mass = np.exp(problem.log_density(torch.from_numpy(grid)).numpy() + 170) * np.tile(
        np.outer(weights, weights).reshape(-1), 111
    )
    assert math.log(mass.sum()) - 170 == pytest.approx(problem.log_evidence, abs=1e-8)
    mean = mass @ grid / mass.sum()
    np.testing.assert_allclose(problem.moments.mean.numpy(), mean, rtol=1e-8)
    sd = np.sqrt(mass @ (grid - mean) ** 2 / mass.sum())
    np.testing.assert_allclose(problem.moments.sd.numpy(), sd, rtol=1e-6)
