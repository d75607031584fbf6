"""Local maxima of quadratics, of Rosenbrock's valley and of mixtures, from many starts; curvature; distinct points."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.geometry.ascent import ascend, curvature, distinct, newton


def seed(value):
    return torch.Generator().manual_seed(value)


def normal(*shape, at=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seed(at), dtype=dtype)


class Counted:
    """A log-density with its gradient by autograd, and how many points it was asked for."""

    def __init__(self, log_density):
        self.log_density, self.points = log_density, 0

    def __call__(self, x):
        self.points += len(x)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            values = self.log_density(leaf)
            return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


def quadratic(condition):
    """A precision of the condition number given, in random axes."""
    axes = torch.linalg.qr(normal(6, 6, at=5))[0]
    values = torch.logspace(0, math.log10(condition), 6, dtype=torch.float64)
    return axes @ torch.diag(values) @ axes.T


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
def test_quadratics(condition):
    precision, centre = quadratic(condition), normal(6, at=7)
    function = Counted(lambda x: 3 - 0.5 * ((x - centre) @ precision * (x - centre)).sum(-1))
    starts = 10 * normal(16, 6)
    points, values = ascend(function, starts)
    torch.testing.assert_close(values, torch.full((16,), 3.0, dtype=torch.float64), rtol=0, atol=1e-4)
    error = points - centre
    assert float((error @ precision * error).sum(1).max()) < 1e-3
    assert function.points < 16 * 120


@pytest.mark.parametrize("dim", [2, 10])
def test_rosenbrock(dim):
    """From all over the valley to (1, ..., 1), or, in ten dimensions, to the one other maximum there is."""

    def log_density(x):
        return -(100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)

    points, values = ascend(Counted(log_density), 2 * normal(32, dim), max_steps=400)
    best = values > -1e-3
    assert float(best.double().mean()) > (0.95 if dim == 2 else 0.5)
    torch.testing.assert_close(points[best], torch.ones_like(points[best]), rtol=0, atol=0.1)
    assert float(values.min()) > (-1e-2 if dim == 2 else -5.0)


def test_every_start_finds_the_mode_of_its_valley():
    """Three modes on a line; nothing else than a maximum is returned."""
    centres = torch.tensor([-6.0, 0.0, 9.0], dtype=torch.float64)

    def log_density(x):
        return torch.logsumexp(-0.5 * (x - centres).square(), 1)

    starts = torch.linspace(-12, 15.5, 40, dtype=torch.float64)[:, None]
    points, values = ascend(Counted(log_density), starts)
    nearest = (points - centres).abs().min(1).values
    assert float(nearest.max()) < 1e-2
    for centre in centres:
        assert bool(((points[:, 0] - centre).abs() < 1e-2).any())
    assert bool((values >= log_density(starts) - 1e-12).all())


def test_regions_without_density():
    """Steps stop at the edge of x > 0; a start beyond it has the value -inf and stays; NaN is no better."""

    def log_density(x):
        inside = (x > 0).all(1)
        safe = torch.where(inside[:, None], x, 1.0)
        values = torch.where(inside, (2 * safe.log() - safe).sum(1), -math.inf)
        return torch.where(x[:, 0] > 50, math.nan, values)

    starts = torch.tensor([[0.01, 20.0], [1.0, 1.0], [-1.0, 1.0], [60.0, 1.0]], dtype=torch.float64)
    points, values = ascend(Counted(log_density), starts)
    torch.testing.assert_close(points[:2], torch.full((2, 2), 2.0, dtype=torch.float64), rtol=0, atol=1e-2)
    assert torch.equal(points[2:], starts[2:])
    assert float(values[2]) == -math.inf
    assert not math.isfinite(float(values[3]))


def test_a_flat_density_costs_next_to_nothing():
    function = Counted(lambda x: 0 * x.sum(1))
    points, _ = ascend(function, normal(8, 3))
    assert torch.equal(points, normal(8, 3))
    assert function.points == 8


def test_float32():
    points, _ = ascend(Counted(lambda x: -(x - 1).square().sum(1)), normal(4, 3, dtype=torch.float32))
    assert points.dtype == torch.float32
    torch.testing.assert_close(points, torch.ones(4, 3), rtol=0, atol=1e-2)


def test_starts_are_left_alone():
    starts = normal(4, 3)
    ascend(Counted(lambda x: -x.square().sum(1)), starts)
    assert torch.equal(starts, normal(4, 3))


@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_curvature_of_a_quadratic_is_exact(condition):
    precision = quadratic(condition)
    points = normal(5, 6)
    function = Counted(lambda x: -0.5 * (x @ precision * x).sum(1))
    found = curvature(function, points, torch.logspace(-2, 0, 6, dtype=torch.float64))
    torch.testing.assert_close(found, precision.expand(5, 6, 6), rtol=1e-8, atol=1e-8 * condition)
    assert function.points == 5 * 12


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e8])
def test_newton_from_a_rough_curvature(condition):
    """Curvature known to a factor of two: twice, and both are exact, however long and thin the maximum."""
    precision, centre = quadratic(condition), normal(6, at=7)
    function = Counted(lambda x: 3 - 0.5 * ((x - centre) @ precision * (x - centre)).sum(-1))
    factor = torch.linalg.cholesky(torch.linalg.inv(precision))
    points = centre + normal(4, 6) @ factor.T
    guess = (2 * precision).expand(4, 6, 6)
    values = function(points)[0]
    function.points = 0
    for _ in range(2):
        points, values, guess = newton(function, points, values, guess)
    assert function.points <= 2 * 4 * (12 + 4)
    error = points - centre
    assert float((error @ precision * error).sum(1).max()) < 1e-12
    torch.testing.assert_close(values, torch.full((4,), 3.0, dtype=torch.float64))
    round_ = factor.T @ guess @ factor
    torch.testing.assert_close(round_, torch.eye(6, dtype=torch.float64).expand(4, 6, 6), rtol=0, atol=1e-4)


def test_newton_leaves_what_is_no_maximum():
    """On a saddle no curvature is that of a maximum, and one that does not hold at all raises nothing."""
    function = Counted(lambda x: x[:, 0] ** 2 - x[:, 1] ** 2)
    start, guess = torch.zeros(1, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[None]
    points, values, found = newton(function, start, function(start)[0], guess)
    assert torch.equal(points, start)
    assert torch.equal(values, torch.zeros(1, dtype=torch.float64))
    assert torch.equal(found, guess)


def test_curvature_by_autograd():
    def log_density(x):
        return torch.sin(x).prod(1) - x.pow(4).sum(1)

    points = normal(3, 3)
    found = curvature(Counted(log_density), points, torch.full((3,), 1e-3, dtype=torch.float64))
    for row, wanted in zip(points, found, strict=True):
        hessian = torch.autograd.functional.hessian(lambda x: log_density(x[None])[0], row)
        torch.testing.assert_close(-hessian, wanted, rtol=1e-4, atol=1e-4)


def test_distinct_points():
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.1, 0.0], [5.0, 0.0], [9.0, 9.0]])
    values = torch.tensor([1.0, 0.5, 2.0, 0.0, -math.inf])
    unit = torch.ones(2)
    assert distinct(points, values, unit, radius=0.5, limit=9).tolist() == [2, 1, 3]
    assert distinct(points, values, unit, radius=0.5, limit=2).tolist() == [2, 1]
    assert distinct(points, values, torch.tensor([1.0, 100.0]), radius=0.5, limit=9).tolist() == [2, 3]
    assert distinct(points[:0], values[:0], unit, radius=0.5, limit=9).tolist() == []
