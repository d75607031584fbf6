"""Coordinates that end at walls: quantiles against scipy and quadrature, regression against the truth, marginals against sums."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from ttvi.geometry.assessment import Assessment, assess
from ttvi.geometry.bounded import Bounded
from ttvi.geometry.candidates import in_chart
from ttvi.geometry.chart import Chart
from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.density import ChartDensity
from ttvi.geometry.mixing import Triangular
from ttvi.geometry.product import product_density
from ttvi.geometry.truncated_normal import from_normal, log_mass, scored, to_normal
from ttvi.problems import get
from ttvi.records import pack, unpack
from ttvi.supports import Support, interval, positive, real

INF = math.inf
WALLS = [
    (-1.0, INF), (-1.0, 1.0), (8.0, INF), (5.0, 6.0), (-6.0, -5.0), (-50.0, INF), (-50.0, 50.0), (-0.03, 0.0), (-8.0, -7.9),
    (-1000.0, 3.0), (0.0, 1e9), (-10.0, 12.0),
]  # fmt: skip


def seed(value: int) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def normal(*shape: int, at: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seed(at), dtype=torch.float64)


def walls(like: torch.Tensor, lower: float, upper: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full_like(like, lower), torch.full_like(like, upper)


# -- quantiles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lower", "upper"), WALLS)
def test_quantiles_are_those_of_scipy(lower, upper):
    s = torch.linspace(-4.5, 4.5, 37, dtype=torch.float64)
    y, distance, slope = from_normal(s, *walls(s, lower, upper))
    expected = scipy.stats.truncnorm(lower, upper).ppf(scipy.stats.norm.cdf(s.numpy()))
    torch.testing.assert_close(y, torch.from_numpy(expected), rtol=0, atol=1e-10)
    torch.testing.assert_close(distance, y - lower, rtol=1e-9, atol=1e-12)
    density = scipy.stats.norm.logpdf(s) - scipy.stats.truncnorm(lower, upper).logpdf(y.numpy())
    torch.testing.assert_close(slope, torch.from_numpy(density), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("lower", "upper"), WALLS)
def test_quantiles_and_back(lower, upper):
    s = torch.linspace(-5, 5, 41, dtype=torch.float64)
    y, distance, forth = from_normal(s, *walls(s, lower, upper))
    again, back = to_normal(y, distance, *walls(s, lower, upper))
    torch.testing.assert_close(again, s, rtol=0, atol=1e-7)  # an upper end has the digits that are left there
    torch.testing.assert_close(back, -forth, rtol=0, atol=1e-6)
    slope = torch.autograd.functional.jacobian(lambda x: from_normal(x, *walls(s, lower, upper))[0].sum(), s)
    torch.testing.assert_close(slope.log(), forth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lower", [-3.0, 0.0, 4.0])
def test_the_distance_from_a_wall_keeps_its_digits(lower):
    """∫₀ᵈ φ(a + u) du / Φ(-a) is the probability, down to 1e-30."""
    s = torch.tensor([-11.0, -8.0, -5.0, -2.0], dtype=torch.float64)
    _, distance, _ = from_normal(s, *walls(s, lower, INF))
    x, w = np.polynomial.legendre.leggauss(60)
    d = distance.numpy()[:, None]
    mass = (0.5 * d * w * scipy.stats.norm.pdf(lower + 0.5 * d * (x + 1))).sum(1) / scipy.stats.norm.sf(lower)
    np.testing.assert_allclose(mass, scipy.stats.norm.cdf(s), rtol=1e-8)
    again, _ = to_normal(lower + distance, distance, *walls(s, lower, INF))
    torch.testing.assert_close(again, s, rtol=1e-8, atol=0)


@pytest.mark.parametrize(("lower", "upper"), [(-1.0, INF), (-1.0, 1.0), (8.0, INF), (-50.0, INF), (-1e3, 1e3)])
def test_far_out_everything_is_finite(lower, upper):
    s = torch.tensor([-300.0, -40.0, 40.0, 300.0], dtype=torch.float64, requires_grad=True)
    y, distance, slope = from_normal(s, *walls(s, lower, upper))
    again, back = to_normal(y, distance, *walls(s, lower, upper))
    for value in (y, distance, slope, again, back, *torch.autograd.grad((y + distance + slope).sum(), s)):
        assert torch.isfinite(value).all()
    assert bool((y.diff() >= 0).all())
    assert float(y.detach().min()) >= lower
    assert float(y.detach().max()) <= upper


@pytest.mark.parametrize("lower", [-1.0, 3.7, 8.0])
def test_long_tails_keep_their_mass(lower):
    """If s has a Cauchy density, y has one that integrates to one, whatever s is far out."""
    log_distance = torch.linspace(-300, 60, 200_001, dtype=torch.float64)
    distance = log_distance.exp()
    s, slope = to_normal(lower + distance, distance, *walls(distance, lower, INF))
    density = torch.exp(slope + log_distance) / (math.pi * (1 + s.square()))
    outside = 0.5 + math.atan(float(s[0])) / math.pi  # below the nearest distance, and hardly any beyond the farthest
    assert float(torch.trapezoid(density, log_distance)) == pytest.approx(1 - outside, abs=1e-6)


def test_mass_between_walls():
    a, b = torch.tensor([-1.0, 5.0, -40.0, 6.0]).double(), torch.tensor([1.0, 6.0, 40.0, INF]).double()
    expected = torch.from_numpy(np.log(scipy.stats.norm.sf(a) - scipy.stats.norm.sf(b)))
    torch.testing.assert_close(log_mass(a, b), expected, rtol=1e-9, atol=1e-15)


# -- regression ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upper", [INF, 2.0])
def test_what_is_cut_off_is_found(upper):
    """z ~ N(0.3 + u, exp(-0.2 + 0.3 v)²) between walls; least squares has a slope of three quarters."""
    u, v = normal(20_000, 2).unbind(1)
    mean, scale = 0.3 + u, torch.exp(-0.2 + 0.3 * v)
    lower, top = -mean / scale, (upper - mean) / scale
    z = mean + scale * from_normal(normal(20_000, at=1), lower, top)[0]
    one = torch.ones_like(u)
    a, b = torch.stack([one, u], 1), torch.stack([one, v], 1)
    least = torch.linalg.lstsq(a, z[:, None]).solution[:, 0]
    assert float(least[1]) < 0.8
    beta, gamma = scored(z, 0.0, upper, a, b, (least, torch.tensor([math.log(float(z.std())), 0.0]).double()))
    torch.testing.assert_close(beta, torch.tensor([0.3, 1.0]).double(), rtol=0, atol=0.06)
    torch.testing.assert_close(gamma, torch.tensor([-0.2, 0.3]).double(), rtol=0, atol=0.04)


def test_an_exponential_and_a_uniform_density_are_at_the_edge_of_it():
    """Neither is a normal one; both are approached, and nothing overflows on the way."""
    one = torch.ones(5000, 1, dtype=torch.float64)
    uniform = torch.rand(5000, generator=seed(0), dtype=torch.float64)
    start = (torch.zeros(1).double(), torch.zeros(1).double())
    for z, upper, entropy in ((-uniform.log(), INF, 1.0), (uniform, 1.0, 0.0)):
        beta, gamma = scored(z, 0.0, upper, one, one, start)
        chart = Bounded(_one(float(beta), float(gamma)), torch.tensor([1 if upper == INF else 2]))
        t = z.log() if upper == INF else _to_line(z)
        log_density = chart.contributions(t[:, None])[:, 0] - 0.5 * math.log(2 * math.pi)
        jacobian = -z.log() if upper == INF else -_slope(t)
        assert float((log_density + jacobian).mean()) == pytest.approx(-entropy, abs=0.03)


def _one(mean: float, log_scale: float) -> Triangular:
    nothing = torch.zeros(1, dtype=torch.float64)
    return Triangular(
        torch.zeros(1).long(), nothing, nothing + 1, nothing + mean, torch.zeros(1, 1).double(), nothing + log_scale,
        torch.zeros(1, 1).double(), torch.zeros(0, 3).long(), nothing[:0],
    )  # fmt: skip


def _to_line(z: torch.Tensor) -> torch.Tensor:
    return Coordinates(Support.parse([interval(0.0, 1.0)])).to_t(z[:, None])[:, 0]


def _slope(t: torch.Tensor) -> torch.Tensor:
    return Coordinates(Support.parse([interval(0.0, 1.0)])).to_x(t[:, None])[1]


# -- charts --------------------------------------------------------------------------------------------------------------


def gibbs(dim: int, count: int) -> torch.Tensor:
    """Draws of the positive chain, every coordinate from its conditional in turn."""
    index = torch.arange(dim, dtype=torch.float64)
    precision = torch.linalg.inv(0.95 ** (index[:, None] - index).abs())
    x = torch.ones(count, dim, dtype=torch.float64)
    for sweep in range(300):
        for i in range(dim):
            scale = float(precision[i, i]) ** -0.5
            mean = x[:, i] - (x - 0.5) @ precision[i] / precision[i, i]
            noise = normal(count, at=1000 * sweep + i)
            x[:, i] = scale * from_normal(noise, -mean / scale, torch.full_like(mean, INF))[1]
    return x


@pytest.fixture(scope="module")
def chain() -> tuple[Pullback, torch.Tensor]:
    problem = get("positive-chain-16")
    coordinates = Coordinates(Support.parse(problem.fit_arguments["support"]))
    return Pullback(coordinates, problem.log_density), coordinates.to_t(gibbs(16, 2048))


def weighed(target: Pullback, chart: Chart, t: torch.Tensor) -> Assessment:
    return assess(product_density(chart, chart.from_t(t)[0]), in_chart(target, chart), 8192, seed(3))


def test_a_chain_at_a_wall_is_nearly_a_product(chain):
    """In logarithms its product has half of the effective share."""
    target, t = chain
    chart, score = Chart.triangular(target.coordinates, t, torch.arange(16), label="triangular")
    assert isinstance(chart.mixing, Bounded)
    found = weighed(target, chart, t)
    assert found.ess > 0.8
    assert found.log_evidence == pytest.approx(-0.94291, abs=0.02)
    mixing, as_lines = Triangular.fit(t, target.coordinates.line, torch.arange(16))
    lines = weighed(target, replace(chart, mixing=mixing), t)
    assert lines.ess < 0.6
    assert score > as_lines + 0.3


def test_lines_are_kept_where_they_are_better():
    """Log-normal coordinates, an interval that nothing comes near the ends of, and a line."""
    x = normal(2000, 4)
    x[:, 1] += x[:, 0]
    places = torch.stack([x[:, 0].exp(), x[:, 1].exp(), 0.5 + 0.05 * x[:, 2].clamp(-4, 4), x[:, 3]], 1)
    coordinates = Coordinates(Support.parse([positive, positive, interval(0.0, 1.0), real]))
    chart, _ = Chart.triangular(coordinates, coordinates.to_t(places), torch.arange(4), label="triangular")
    assert isinstance(chart.mixing, Triangular)


@pytest.fixture(scope="module")
def mixed() -> ChartDensity:
    """A log-normal one, a half-normal one that follows a line, an interval cut on the right that follows both."""
    e, count = normal(4000, 4), 4000
    line, rate = e[:, 0], e[:, 1].exp()
    half = from_normal(e[:, 2], -line, torch.full((count,), INF).double())[0] + line
    mean, scale = 3.5 + 0.3 * half + 0.3 * line, torch.full((count,), 0.4).double()
    part = mean + scale * from_normal(e[:, 3], -mean / scale, (4 - mean) / scale)[0]
    coordinates = Coordinates(Support.parse([positive, real, positive, interval(0.0, 4.0)]))
    points = coordinates.to_t(torch.stack([rate, line, half, part], 1))
    chart, _ = Chart.triangular(coordinates, points, torch.arange(4), label="triangular")
    assert isinstance(chart.mixing, Bounded)
    assert chart.mixing.ends.tolist() == [0, 0, 1, 2]
    return ChartDensity(product_density(chart, chart.from_t(points)[0]), chart)


def integral(log_prob, x: torch.Tensor, at: int, y: np.ndarray, weight: np.ndarray) -> torch.Tensor:
    """∫ exp(log_prob) over one more coordinate at a position."""
    grid, weights = torch.from_numpy(y), torch.from_numpy(weight)
    rows = [torch.cat([r[:at].expand(len(y), -1), grid[:, None], r[at:].expand(len(y), -1)], 1) for r in x]
    return torch.stack([log_prob(row).exp() @ weights for row in rows])


def nodes(lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Crowded at both ends, where tails of columns have their poles."""
    y, step = np.linspace(-34, 34, 4001, retstep=True)
    u = 1 / (1 + np.exp(-y))
    return lower + (upper - lower) * u, (upper - lower) * step * u / (1 + np.exp(y))


def test_walls_leave_exact_marginals(mixed):
    marginal = mixed.marginal([1, 2])
    x = marginal.sample((20,), generator=seed(1))
    three = mixed.marginal([1, 2, 3])
    # A thousandth rounds to the upper end: one column in twenty of a product has long tails.
    expected = integral(three.log_prob, x, 2, *nodes(0.0, 4.0))
    torch.testing.assert_close(marginal.log_prob(x).exp(), expected, rtol=2e-3, atol=1e-12)
    y, step = np.linspace(-60, 30, 4001, retstep=True)
    expected = integral(marginal.log_prob, x[:, :1], 1, np.exp(y), step * np.exp(y))
    torch.testing.assert_close(mixed.marginal([1]).log_prob(x[:, :1]).exp(), expected, rtol=1e-3, atol=1e-12)
    with pytest.raises(ValueError, match="marginal"):
        mixed.marginal([3])


def test_walls_leave_exact_conditionals(mixed):
    conditional = mixed.condition({1: 0.3, 2: 0.8})
    x = conditional.sample((50,), generator=seed(1))
    full = torch.cat([x[:, :1], torch.tensor([[0.3, 0.8]]).double().expand(50, -1), x[:, 1:]], 1)
    expected = mixed.log_prob(full) - mixed.marginal([1, 2]).log_prob(full[:1, 1:3])
    torch.testing.assert_close(conditional.log_prob(x), expected, rtol=1e-7, atol=1e-7)
    with pytest.raises(ValueError, match="condition"):
        mixed.condition({3: 3.0})


def test_walls_are_saved(mixed):
    again = unpack(*pack(mixed))
    x = mixed.sample((10,), generator=seed(1))
    assert torch.equal(again.log_prob(x), mixed.log_prob(x))


def test_draws_stay_inside(mixed):
    x = mixed.sample((20_000,), generator=seed(2))
    assert bool(mixed.chart.support.contains(x).all())
    assert bool(torch.isfinite(mixed.log_prob(x)).all())
    share = integral(lambda y: mixed.marginal([1, 2]).log_prob(y), torch.zeros(1, 1).double(), 1, *nodes(0.0, 0.2))
    density = float(mixed.marginal([1]).log_prob(torch.zeros(1, 1).double()).exp())
    near = x[:, 1].abs() < 0.1
    found = float((x[near, 2] < 0.2).double().mean())
    assert found == pytest.approx(float(share) / density, abs=0.04)
