"""Named problems against independent small computations: transfer operators, quadrature, an adaptive ODE solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from ttvi import problems
from ttvi.problems.posteriors import lotka_volterra_parameters, lynx_hare, predator_prey_path
from ttvi.supports import Support

SMALL = [
    "ginzburg-landau-8",
    "double-well-chain-8",
    "free-ends-chain-6",
    "ising-fields-3",
    "xy-ring-6",
    "two-modes-4",
    "two-modes-8-sigma-0.5",
    "shells-3",
    "many-well-4",
    "egg-box",
    "funnel-4",
    "stretched-funnel-4",
    "lotka-volterra",
    "antiferromagnetic-chain-5",
    "spin-glass-chain-5",
    "free-ends-chain-6-temperature-16",
    "five-modes-4",
    "rosenbrock-4",
    "double-rosenbrock-4",
    "rosenbrock-chain-3",
    "rosenbrock-pairs-4",
    "boundary-lattice-3-temperature-1",
]
"""With recommended bases."""

FOR_FIT = [
    "brownian",
    "coal-mining",
    "eight-schools",
    "eight-schools-centred",
    "garch",
    "ginzburg-landau-2d-3",
    "gmm40",
    "half-cauchy-simplex",
    "ionosphere",
    "lotka-volterra-natural",
    "phi4-3-lambda-6.975",
    "positive-chain-4",
    "rotated-mixture-10",
    "von-mises-mixture",
    "xy-lattice-3",
]
"""Meant for `ttvi.fit`, which finds the coordinates."""


def typical_points(problem: problems.Problem, count: int, generator: torch.Generator) -> torch.Tensor:
    """Points near the middle of the box (or integers and small numbers where there is none), (count, dim)."""
    u = torch.rand((count, problem.dim), generator=generator, device=generator.device, dtype=torch.float64)
    if problem.lower is None or problem.upper is None:
        u[:, 0::2] = (u[:, 0::2] > 0.5).to(u.dtype)
        return u
    lower, upper = problem.lower.to(u.device), problem.upper.to(u.device)
    return lower + (upper - lower) * (0.45 + 0.1 * u)


def points_inside(problem: problems.Problem, count: int, generator: torch.Generator) -> torch.Tensor:
    """Points of the support: near the reference moments where there are some, else small numbers."""
    z = 0.1 * torch.randn((count, problem.dim), generator=generator, device=generator.device, dtype=torch.float64)
    if problem.name == "coal-mining":
        return torch.tensor([1890.0, 3.0, 1.0], dtype=torch.float64, device=z.device) + z.abs() * (
            torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64, device=z.device)
        )
    if problem.name == "half-cauchy-simplex":
        return torch.cat((z[:, :1].exp(), (3 * z[:, 1:]).softmax(1)), 1)
    if problem.name == "garch":
        return torch.tensor([5.0, 1.4, 0.5, 0.3], dtype=torch.float64, device=z.device) + 0.2 * z
    if problem.name == "lotka-volterra-natural":
        return problem.moments.mean.to(z.device) * (0.3 * z).exp()
    if problem.name.startswith("eight-schools"):
        z[:, 1] = z[:, 1].exp()
    if problem.name.startswith("positive-chain"):
        return 0.5 + z.abs()
    return z


@pytest.mark.parametrize("name", SMALL + FOR_FIT)
def test_every_problem_is_consistent(name, generator):
    problem = problems.get(name)
    x = points_inside(problem, 5, generator) if name in FOR_FIT else typical_points(problem, 5, generator)
    value = problem.log_density(x)
    assert value.shape == (5,)
    assert value.dtype == torch.float64
    assert bool(value.isfinite().all())
    assert problem.name == name
    assert len(problem.names) == len(set(problem.names)) == problem.dim
    # A row's value does not depend on the rows around it.
    torch.testing.assert_close(torch.cat([problem.log_density(row[None]) for row in x]), value)
    single = problem.log_density(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), value, rtol=2e-3, atol=4e-3)
    if problem.modes is not None:
        count = len(problem.modes.weights)
        assert problem.modes.centres.shape == (count, problem.dim)
        assert float(problem.modes.weights.sum()) == pytest.approx(1.0)
        torch.testing.assert_close(problem.modes.responsibilities(x).sum(1), torch.ones_like(value))
    if problem.moments is not None:
        assert problem.moments.quantities(x).shape == (5, len(problem.moments.names))
        assert problem.moments.mean.shape == problem.moments.sd.shape == (len(problem.moments.names),)


@pytest.mark.parametrize("name", SMALL + FOR_FIT)
def test_log_densities_have_finite_gradients(name, generator):
    problem = problems.get(name)
    x = points_inside(problem, 3, generator) if name in FOR_FIT else typical_points(problem, 3, generator)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(problem.log_density(x).sum(), x)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("name", SMALL)
def test_recommended_bases(name):
    problem = problems.get(name)
    assert len(problem.bases()) == problem.dim


@pytest.mark.parametrize("name", FOR_FIT)
def test_problems_for_fit_say_so(name):
    with pytest.raises(ValueError, match="expected a problem with recommended bases"):
        problems.get(name).bases()


@pytest.mark.parametrize("name", SMALL + FOR_FIT)
def test_every_support_has_the_dimension_and_holds_the_points(name, generator):
    problem = problems.get(name)
    arguments = problem.fit_arguments
    if "dim" in arguments:
        assert arguments == {"dim": problem.dim}
        return
    support = Support.parse(arguments["support"], caller="test")
    x = points_inside(problem, 5, generator) if name in FOR_FIT else typical_points(problem, 5, generator)
    assert bool(support.contains(x).all())
    assert not bool(support.contains(torch.full_like(x, torch.inf)).any())


def test_registry_lists_problems_that_exist():
    listed = problems.names()
    assert "lotka-volterra" in listed
    assert listed.index("shells-2") < listed.index("shells-10")
    for name in listed:
        assert problems.get(name).name == name


@pytest.mark.parametrize(
    "bad",
    [
        "ginzburg",
        "ginzburg-landau-",
        "ginzburg-landau-1",
        "shells-2.5",
        "phi4-6",
        "phi4-6-lambda-0",
        "phi4-1-lambda-2",
        "",
    ],
)
def test_unknown_name(bad):
    with pytest.raises(ValueError, match="expected the name of a problem"):
        problems.get(bad)


# -- chains: Gauss-Legendre quadrature of the transfer operator -----------------------------------------------


def nodes(lower: float, upper: float, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.legendre.leggauss(count)
    return lower + (upper - lower) * (x + 1) / 2, (upper - lower) / 2 * w


def chain_log_integral(first: np.ndarray, log_bond: np.ndarray, last: np.ndarray, w: np.ndarray, count: int) -> float:
    """log ∫ exp(first(x_1) + Σ bond(x_i, x_{i+1}) + last(x_d)) over `count` coordinates on nodes with weights `w`."""
    vector, log_scale, transfer = w * np.exp(first), 0.0, np.exp(log_bond) * w
    for _ in range(count - 1):
        vector = vector @ transfer
        log_scale += math.log(vector.sum())
        vector /= vector.sum()
    return log_scale + math.log(vector @ np.exp(last))


@pytest.mark.parametrize("dim", [8, 16, 32])
def test_ginzburg_landau_evidence(dim):
    problem = problems.get(f"ginzburg-landau-{dim}")
    x, w = nodes(-2.5, 2.5)
    bond = 0.03 / 2 * (dim + 1) ** 2 / 8

    def well(y):
        return -((1 - y**2) ** 2) / (4 * 0.03 * 8)

    matrix = -bond * (x[:, None] - x) ** 2 + well(x)
    value = chain_log_integral(-bond * x**2 + well(x), matrix, -bond * x**2 + well(0.0), w, dim)
    assert problem.log_evidence == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("dim", [8, 64])
def test_double_well_evidence(dim):
    x, w = nodes(-2.25, 2.25)
    well = -4 * (x**2 - 1) ** 2
    value = chain_log_integral(well, well - (x[:, None] - x) ** 2, 0 * x, w, dim)
    assert problems.get(f"double-well-chain-{dim}").log_evidence == pytest.approx(value, abs=1e-6)


def test_free_ends_evidence():
    x, w = nodes(-1, 1)
    bond = 0.04 / 2 * 51**2 * (2 * x[:, None] - 2 * x) ** 2
    matrix = -(bond + (1 - 4 * x**2) ** 2 / 0.16) / 8
    value = chain_log_integral(0 * x, matrix, 0 * x, w, 50)
    assert problems.get("free-ends-chain-50").log_evidence == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("dim", [16, 64])
def test_positive_chain_evidence(dim):
    x, w = nodes(0, 10)
    first, step = scipy.stats.norm(0.5, 1).logpdf(x), math.sqrt(1 - 0.95**2)
    bond = scipy.stats.norm.logpdf(x, 0.5 + 0.95 * (x[:, None] - 0.5), step)
    value = chain_log_integral(first, bond, 0 * x, w, dim)
    assert problems.get(f"positive-chain-{dim}").log_evidence == pytest.approx(value, abs=1e-8)


def ising_log_integral(sites: int) -> float:
    """The transfer operator over pairs (s, h): two blocks of field nodes."""
    x, w = nodes(-7, 7, 200)
    s, h, weights = np.repeat([-1.0, 1.0], x.size), np.tile(x, 2), np.tile(w, 2)
    field = s * h - h**2
    return chain_log_integral(field, field + 0.8 * np.outer(s, s) + 0.3 * np.outer(h, h), 0 * h, weights, sites)


def test_ising_fields_evidence():
    assert problems.get("ising-fields-64").log_evidence == pytest.approx(ising_log_integral(64), abs=1e-6)


@pytest.mark.parametrize(("dim", "value"), [(16, 33.1806677698), (64, 132.7226511947)])
def test_xy_ring_evidence(dim, value):
    theta = np.linspace(-math.pi, math.pi, 64, endpoint=False)
    transfer = np.exp(np.cos(theta[:, None] - theta)) * 2 * math.pi / 64
    trace = math.log(np.sum((np.linalg.eigvalsh(transfer) / 7.9) ** dim)) + dim * math.log(7.9)
    evidence = problems.get(f"xy-ring-{dim}").log_evidence
    assert evidence == pytest.approx(value, abs=1e-9)
    assert evidence == pytest.approx(trace, abs=1e-9)


# -- two-dimensional members of each family, by plain tensor quadrature of their own log-density --------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ginzburg-landau-2", 60),
        ("double-well-chain-2", 60),
        ("xy-ring-2", 80),
        ("two-modes-2", 120),
        ("shells-2", 1000),
        ("many-well-2", 100),
        ("egg-box", 700),
        ("stretched-funnel-2", 800),
    ],
)
def test_quadrature_of_the_log_density(name, count):
    """The log-density itself integrates to the table's value (or, for a chain, to the transfer operator's)."""
    problem = problems.get(name)
    (x, wx), (y, wy) = (nodes(float(a), float(b), count) for a, b in zip(problem.lower, problem.upper, strict=True))
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2))
    value = float(torch.logsumexp(problem.log_density(grid) + torch.from_numpy(np.outer(wx, wy).reshape(-1)).log(), 0))
    expected = problem.log_evidence
    if name == "ginzburg-landau-2":
        fine, w = nodes(-2.5, 2.5)
        bond = 0.03 / 2 * 9 / 8
        well = -((1 - fine**2) ** 2) / 0.96
        operator = -bond * (fine[:, None] - fine) ** 2 + well
        expected = chain_log_integral(-bond * fine**2 + well, operator, -bond * fine**2 - 1 / 0.96, w, 2)
    if name == "double-well-chain-2":
        fine, w = nodes(-2.25, 2.25)
        well = -4 * (fine**2 - 1) ** 2
        expected = chain_log_integral(well, well - (fine[:, None] - fine) ** 2, 0 * fine, w, 2)
    assert value == pytest.approx(expected, abs=2e-6)


def test_ising_log_density_sums_to_the_operator():
    problem = problems.get("ising-fields-2")
    x, w = nodes(-7, 7, 60)
    grid = np.stack(np.meshgrid([0.0, 1.0], x, [0.0, 1.0], x, indexing="ij"), -1).reshape(-1, 4)
    weights = np.einsum("i,j,k,l->ijkl", [1, 1], w, [1, 1], w).reshape(-1)
    value = torch.logsumexp(problem.log_density(torch.from_numpy(grid)) + torch.from_numpy(weights).log(), 0)
    assert float(value) == pytest.approx(ising_log_integral(2), abs=1e-8)


@pytest.mark.parametrize("dim", [10, 20])
def test_shells_evidence_by_radius(dim):
    """Each shell integrates to S_{d-1} ∫ r^{d-1} N(r; 2, 0.1²) dr, and the two hardly overlap."""
    r, w = nodes(1.0, 3.0, 400)
    log_sphere = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
    radial = math.log(np.sum(w * r ** (dim - 1) * scipy.stats.norm.pdf(r, 2, 0.1)))
    value = math.log(2) + log_sphere + radial - dim * math.log(12)
    assert problems.get(f"shells-{dim}").log_evidence == pytest.approx(value, abs=1e-8)


def test_funnel_against_scipy(generator):
    problem = problems.get("funnel-3")
    x = torch.randn((6, 3), generator=generator, device=generator.device, dtype=torch.float64)
    v, rest = x.cpu().numpy()[:, 0], x.cpu().numpy()[:, 1:]
    expected = scipy.stats.norm.logpdf(v, 0, 3) + scipy.stats.norm.logpdf(rest, 0, np.exp(v / 2)[:, None]).sum(1)
    np.testing.assert_allclose(problem.log_density(x).cpu().numpy(), expected, rtol=1e-12)


# -- Lotka-Volterra -------------------------------------------------------------------------------------------


def lotka_volterra_points() -> np.ndarray:
    """The reference posterior mean and a few points around it, in natural coordinates (5, 8)."""
    reference = lynx_hare()["reference"]
    mean, sd = np.array(reference["mean"]), np.array(reference["sd"])
    steps = np.random.default_rng(3).standard_normal((4, 8))
    return np.vstack([mean, mean + 0.25 * sd * steps])


def reference_log_posterior(theta: np.ndarray) -> float:
    """The model as written, with an adaptive solver and scipy's distributions, plus the Jacobian 2 Π θ of the coordinates."""
    alpha, beta, gamma, delta, z1, z2, *sigma = theta
    data = lynx_hare()

    def rate(_, z):
        return [(alpha - beta * z[1]) * z[0], (-gamma + delta * z[0]) * z[1]]

    path = scipy.integrate.solve_ivp(rate, (0, 20), [z1, z2], t_eval=range(21), method="DOP853", rtol=1e-12, atol=1e-12)
    counts = np.vstack([data["initial"], data["counts"]])
    norm, log_normal = scipy.stats.norm.logpdf, scipy.stats.lognorm.logpdf
    value = log_normal(counts, s=np.array(sigma), scale=path.y.T).sum()
    value += norm([alpha, gamma], 1, 0.5).sum() + norm([beta, delta], 0.05, 0.05).sum()
    value += log_normal([z1, z2], s=1, scale=10).sum() + log_normal(sigma, s=1, scale=math.exp(-1)).sum()
    return float(value + np.log(theta).sum() + math.log(2))


def to_coordinates(theta: torch.Tensor) -> torch.Tensor:
    """Frequency, z₁(0), hare equilibrium, asymmetry, z₂(0), lynx equilibrium, σ₁, σ₂ as logarithms, written out."""
    alpha, beta, gamma, delta, z1, z2, sigma1, sigma2 = theta.unbind(-1)
    columns = ((alpha * gamma).sqrt(), z1, gamma / delta, (alpha / gamma).sqrt(), z2, alpha / beta, sigma1, sigma2)
    return torch.stack(columns, -1).log()


def test_lotka_volterra_against_scipy(device):
    points = lotka_volterra_points()
    expected = [reference_log_posterior(theta) for theta in points]
    x = to_coordinates(torch.from_numpy(points))
    torch.testing.assert_close(lotka_volterra_parameters(x), torch.from_numpy(points))
    value = problems.get("lotka-volterra").log_density(x.to(device))
    np.testing.assert_allclose(value.cpu().numpy(), expected, rtol=0, atol=1e-6)


def test_lotka_volterra_conserves_its_invariant():
    """δ z₁ − γ log z₁ + β z₂ − α log z₂ is constant along every path."""
    rates = torch.tensor([[0.55, 0.028, 0.80, 0.024]], dtype=torch.float64)
    path = predator_prey_path(rates.log(), torch.tensor([[34.0, 5.9]], dtype=torch.float64).log(), 20)[0]
    z = path.exp()
    energy = 0.024 * z[:, 0] - 0.80 * path[:, 0] + 0.028 * z[:, 1] - 0.55 * path[:, 1]
    assert float((energy - energy[0]).abs().max()) < 1e-6


def test_lotka_volterra_never_gives_nan(generator):
    problem = problems.get("lotka-volterra")
    u = torch.rand((4000, 8), generator=generator, device=generator.device, dtype=torch.float64)
    lower, upper = problem.lower.to(u.device), problem.upper.to(u.device)
    for scale in (1.0, 3.0):
        value = problem.log_density(lower + (upper - lower) * (0.5 + scale * (u - 0.5)))
        assert not bool(value.isnan().any())
        assert bool(value.isfinite().any())


def test_lotka_volterra_box_holds_the_posterior():
    problem = problems.get("lotka-volterra")
    centre = to_coordinates(torch.tensor(lynx_hare()["reference"]["mean"], dtype=torch.float64))
    assert bool((problem.lower < centre - 0.5).all())  # the posterior's largest deviation is 0.15
    assert bool((problem.upper > centre + 0.5).all())
