"""Angles given earlier ones: von Mises quantiles against scipy, regression against the truth, marginals against sums."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from ttvi.geometry.angles import Angles
from ttvi.geometry.assessment import assess
from ttvi.geometry.candidates import charts, differences, in_chart
from ttvi.geometry.chart import Chart
from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.density import ChartDensity
from ttvi.geometry.product import product_density
from ttvi.geometry.von_mises import features, from_uniform, regress, to_uniform
from ttvi.problems import get
from ttvi.records import pack, unpack
from ttvi.supports import Support, circular, real
from ttvi.tt import TTDensity

TURN = 2 * math.pi


def seed(value: int) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def uniform(*shape: int, at: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=seed(at), dtype=torch.float64)


# -- quantiles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.0, 0.01, 1.0, 5.0, 12.0])
def test_quantiles_are_those_of_scipy(kappa):
    angle = torch.linspace(-3.1, 3.1, 41, dtype=torch.float64)
    u, slope = to_uniform(angle, torch.full_like(angle, kappa))
    # scipy's own series stops at 1e-6 or so
    expected = torch.from_numpy(scipy.stats.vonmises(max(kappa, 1e-12)).cdf(angle.numpy()))
    torch.testing.assert_close(u / TURN + 0.5, expected, rtol=0, atol=1e-6)
    density = torch.from_numpy(scipy.stats.vonmises(max(kappa, 1e-12)).logpdf(angle.numpy()))
    torch.testing.assert_close(slope - math.log(TURN), density, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kappa", [100.0, 1e4, 1e6])
def test_concentrated_quantiles_are_normal(kappa):
    """Two and a half deviations out, to eight per cent, three in the middle: the Möbius map makes tails heavier."""
    level = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    angle, _ = from_uniform(TURN * (level - 0.5), torch.full_like(level, kappa))
    torch.testing.assert_close(angle * math.sqrt(kappa), torch.special.ndtri(level), rtol=0.08, atol=1e-9)
    near, _ = from_uniform(torch.tensor([0.1], dtype=torch.float64), torch.tensor([kappa], dtype=torch.float64))
    assert float(near * math.sqrt(kappa)) == pytest.approx(
        float(torch.special.ndtri(torch.tensor(0.5 + 0.1 / TURN))), rel=0.03
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 4.0, 40.0, 1e5])
def test_round_trip(kappa, dtype, tolerance):
    u = (math.pi * (2 * uniform(300) - 1)).to(dtype)
    angle, forth = from_uniform(u, torch.full_like(u, kappa))
    again, back = to_uniform(angle, torch.full_like(u, kappa))
    assert again.dtype == dtype
    torch.testing.assert_close(again, u, rtol=0, atol=tolerance)
    torch.testing.assert_close(back, -forth, rtol=0, atol=30 * tolerance)


def test_gradients():
    u = torch.tensor([1.0, -2.0, 0.3, 2.5], dtype=torch.float64, requires_grad=True)
    kappa = torch.tensor([0.5, 3.0, 30.0, 400.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(from_uniform, (u, kappa))
    assert torch.autograd.gradcheck(lambda u, kappa: to_uniform(0.3 * u, kappa), (u, kappa))


# -- regression ----------------------------------------------------------------------------------------------------------


def drawn(pull: torch.Tensor, at: int) -> torch.Tensor:
    """Von Mises draws around the direction of a pull."""
    u = TURN * (uniform(len(pull), at=at) - 0.5)
    return torch.exp(1j * (from_uniform(u, pull.abs())[0] + pull.angle()))


def test_what_an_angle_follows_is_found():
    others = torch.exp(1j * TURN * uniform(20_000, 5))
    unit = drawn(0.5 + 1.5j * others[:, 1] + 0.8 * others[:, 4].conj(), at=1)
    found, _ = regress(unit, features(others))
    expected = torch.zeros(11, dtype=found.dtype)
    expected[0], expected[2], expected[10] = 0.5, 1.5j, 0.8
    assert (found[expected != 0] - expected[expected != 0]).abs().max() < 0.08
    assert (found[expected == 0] != 0).sum() <= 2  # useless ones come in by chance, two in a hundred
    assert found[expected == 0].abs().max() < 0.08


def test_one_alone():
    others = torch.exp(1j * TURN * uniform(4000, 3))
    unit = drawn(0.5 * others[:, 0] + 2 * others[:, 2], at=1)
    found, _ = regress(unit, features(others), single=True)
    assert found.nonzero()[:, 0].tolist() == [3]


def test_a_perfect_fit_stays_finite():
    others = torch.exp(1j * TURN * uniform(500, 1))
    found, _ = regress(others[:, 0] * 1j, features(others))
    assert torch.isfinite(found.abs()).all()
    assert float(found[1].angle()) == pytest.approx(math.pi / 2, abs=1e-3)


# -- charts --------------------------------------------------------------------------------------------------------------


def spins(neighbours: list[list[int]], count: int) -> torch.Tensor:
    """Heat-bath draws of an XY model on a graph, angles in [-π, π]."""
    theta = TURN * (uniform(count, len(neighbours)) - 0.5)
    for sweep in range(100):
        for i, near in enumerate(neighbours):
            pull = torch.exp(1j * theta[:, near]).sum(1)
            theta[:, i] = drawn(pull, at=1000 * sweep + i).angle()
    return theta


@pytest.fixture(scope="module")
def lattice() -> tuple[Pullback, torch.Tensor]:
    """The 4 × 4 lattice and draws of it."""
    problem = get("xy-lattice-4")
    near = [
        [4 * ((r + a) % 4) + (c + b) % 4 for a, b in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        for r in range(4)
        for c in range(4)
    ]
    coordinates = Coordinates(Support.parse(problem.fit_arguments["support"]))
    return Pullback(coordinates, problem.log_density), spins(near, 4096)


def test_a_lattice_is_nearly_a_product(lattice):
    """In the user's angles a product of marginals has two draws in a thousand."""
    target, theta = lattice
    chart, _ = Chart.triangular(target.coordinates, theta, torch.arange(16), label="triangular")
    density = product_density(chart, chart.from_t(theta)[0])
    found = assess(density, in_chart(target, chart), 4096, seed(3))
    assert found.ess > 0.85
    assert found.log_evidence == pytest.approx(40.05352, abs=0.03)
    assert not chart.smooth


def test_a_ring_cut_open_needs_little_rank():
    """Differences along a ring: one bond more, which is a function of their sum."""
    problem = get("xy-ring-16")
    theta = spins([[(i - 1) % 16, (i + 1) % 16] for i in range(16)], 1024)
    target = Pullback(Coordinates(Support.parse(problem.fit_arguments["support"])), problem.log_density)
    chart = differences(target.coordinates, theta, torch.arange(16))
    assert chart.smooth
    density = TTDensity.fit(in_chart(target, chart), chart.bases(), tol=3e-2, max_rank=8, seed=0)
    assert density.info.status == "converged"
    assert assess(density, in_chart(target, chart), 4096, seed(3)).ess > 0.995


@pytest.fixture(scope="module")
def mixed() -> ChartDensity:
    """Two lines, one bent by the other, and four angles: the second follows the first, the third both, the last none."""
    a = TURN * uniform(4000)
    b = drawn(3 * torch.exp(-1j * a), at=1).angle() % TURN
    c = drawn(2 * torch.exp(1j * a) + 1j * torch.exp(1j * b), at=2).angle()
    x = torch.randn(4000, 2, generator=seed(3), dtype=torch.float64)
    points = torch.stack([x[:, 0], a, x[:, 1] + x[:, 0] ** 2, b, c / TURN, uniform(4000, at=4)], 1)
    support = Support.parse([real, circular(0.0, TURN), real, circular(0.0, TURN), circular(-0.5, 0.5), circular(0, 1)])
    chart, _ = Chart.triangular(Coordinates(support), points, torch.arange(6), label="triangular")
    assert isinstance(chart.mixing, Angles)
    return ChartDensity(product_density(chart, chart.from_t(points)[0]), chart)


def integral(log_prob, x: torch.Tensor, at: int, lower: float, upper: float) -> torch.Tensor:
    """∫ exp(log_prob) over one more angle at a position, by the trapezoidal rule."""
    grid = lower + (upper - lower) * (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    rows = [torch.cat([r[:at].expand(400, -1), grid[:, None], r[at:].expand(400, -1)], 1) for r in x]
    return torch.stack([log_prob(row).exp().sum() * (upper - lower) / 400 for row in rows])


def test_angles_leave_exact_marginals(mixed):
    marginal = mixed.marginal([0, 1, 2, 3])
    x = marginal.sample((20,), generator=seed(1))
    expected = integral(mixed.marginal([0, 1, 2, 3, 4]).log_prob, x, 4, -0.5, 0.5)
    torch.testing.assert_close(marginal.log_prob(x).exp(), expected, rtol=1e-3, atol=1e-12)
    alone = mixed.marginal([0, 2])
    assert not isinstance(alone.chart.mixing, Angles)
    pair = mixed.marginal([1, 3])
    y = pair.sample((20,), generator=seed(2))
    torch.testing.assert_close(
        mixed.marginal([1]).log_prob(y[:, :1]).exp(), integral(pair.log_prob, y[:, :1], 1, 0.0, TURN), rtol=1e-6, atol=0
    )
    with pytest.raises(ValueError, match="marginal"):
        mixed.marginal([4])


def test_angles_leave_exact_conditionals(mixed):
    known = {0: 0.3, 1: 1.0}
    conditional = mixed.condition(known)
    x = conditional.sample((50,), generator=seed(1))
    full = torch.cat([torch.tensor([[0.3, 1.0]]).double().expand(50, -1), x], 1)
    expected = mixed.log_prob(full) - mixed.marginal([0, 1]).log_prob(full[:1, :2])
    torch.testing.assert_close(conditional.log_prob(x), expected, rtol=1e-7, atol=1e-7)
    with pytest.raises(ValueError, match="condition"):
        mixed.condition({4: 0.1})


def test_few_angles_stay_as_they_are():
    coordinates = Coordinates(Support.parse([circular(0.0, TURN)] * 3))
    points = TURN * uniform(500, 3)
    assert [chart.label for chart in charts(coordinates, points, "auto")] == ["axis"]
    chart, _ = Chart.triangular(coordinates, points, torch.arange(3), label="triangular")
    assert torch.equal(chart.forward(points)[0], points)


def test_angles_are_saved(mixed):
    again = unpack(*pack(mixed))
    x = mixed.sample((10,), generator=seed(1))
    assert torch.equal(again.log_prob(x), mixed.log_prob(x))


def test_draws_agree_with_the_density(mixed):
    """A circle's share by counting and by the marginal."""
    x = mixed.sample((40_000,), generator=seed(1))
    marginal = mixed.marginal([1, 3])
    grid = (torch.arange(200, dtype=torch.float64) + 0.5) * TURN / 200
    cells = torch.cartesian_prod(grid, grid)
    inside = torch.cos(cells.sum(1)) > 0.8
    expected = float((marginal.log_prob(cells).exp() * inside).sum() * (TURN / 200) ** 2)
    assert float((torch.cos(x[:, 1] + x[:, 3]) > 0.8).double().mean()) == pytest.approx(expected, abs=0.012)
