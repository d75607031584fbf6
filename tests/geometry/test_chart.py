"""Coordinates and charts of every support: round trips, log-determinants by autograd, bounds, pulled-back densities."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import constraints as C

from ttvi.geometry.chart import Chart
from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.interval import to_line
from ttvi.supports import Support, categorical, circular, interval, positive, real

PI = math.pi
SUPPORTS = {
    "real": [real] * 3,
    "half-lines": [positive, C.greater_than(2.0), C.less_than(-1.0)],
    "intervals": [interval(-1.0, 4.0), C.unit_interval, interval(1e-3, 2e-3)],
    "circles": [circular(), real, circular(0, 360)],
    "mixed": {"a": real, "s": positive, "u": interval(0, 2), "w": circular(), "k": categorical(4), "j": C.integer_interval(-1, 1)},
    "simplex": {"w": (C.simplex, 3), "x": real, "u": interval(0, 1)},
    "correlations": {"c": (C.corr_cholesky, 2), "x": (real, 2)},
}  # fmt: skip
MAKERS = ["axis", "axis reversed", "affine", "plain affine", "boxed affine", "triangular"]


def seed(value):
    return torch.Generator().manual_seed(value)


def coordinates_of(name):
    return Coordinates(Support.parse(SUPPORTS[name]))


def points_of(coordinates, count, spread=1.0, dtype=torch.float64):
    """Correlated draws ``t`` on the lines, uniform ones in the middle of intervals and elsewhere."""
    t = spread * torch.randn(count, coordinates.dim, generator=seed(3), dtype=dtype)
    t = t + 0.5 * t[:, :1] * coordinates.line
    u = torch.rand(count, coordinates.dim, generator=seed(4), dtype=dtype)
    t = torch.where(coordinates.interval, to_line(0.02 + 0.96 * u), t)
    lower, length = coordinates.bounds.to(t)
    t = torch.where(coordinates.circle, lower + length * u, t)
    return torch.where(coordinates.sizes > 0, (u * coordinates.sizes).floor(), t)


def made(maker, coordinates):
    points = points_of(coordinates, 400)
    order = torch.arange(coordinates.dim).flip(0)
    line = coordinates.line.double()
    matrix = torch.eye(coordinates.dim, dtype=torch.float64)
    matrix = matrix + 0.3 * torch.randn(matrix.shape, generator=seed(5), dtype=torch.float64) * line * line[:, None]
    if maker == "axis":
        return Chart.axis(coordinates, points)
    if maker == "axis reversed":
        return Chart.axis(coordinates, points, order=order)
    if maker == "affine":
        return Chart.affine(coordinates, points, 0.5 * line, matrix, label="whitened")
    if maker in ("plain affine", "boxed affine"):
        plain = Chart.plain_affine(coordinates, 0.5 * line, matrix, label="region 0")
        return plain if maker == "plain affine" else plain.boxed(20.0)
    return Chart.triangular(coordinates, points, order, label="triangular")[0]


def free_entries(support):
    """Entries of x that can be chosen freely: the first of a simplex, the strictly lower ones of a Cholesky factor."""
    kept = []
    for block in support.blocks:
        entries = list(range(block.x_slice.start, block.x_slice.stop))
        if block.constraint.event_dim == 1:
            entries = entries[:-1]
        elif block.constraint.event_dim == 2:
            side = math.isqrt(len(entries))
            entries = [entries[i * side + j] for i in range(side) for j in range(i)]
        kept += entries
    return kept


@pytest.mark.parametrize("name", SUPPORTS)
def test_coordinates_there_and_back(name):
    coordinates = coordinates_of(name)
    t = points_of(coordinates, 50)
    x, slope = coordinates.to_x(t)
    assert bool(coordinates.support.contains(x).all())
    torch.testing.assert_close(coordinates.to_t(x), t, rtol=1e-9, atol=1e-9)
    free = free_entries(coordinates.support)
    for row, wanted in zip(t[:3], slope[:3], strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda y: coordinates.to_x(y)[0][free], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize("maker", MAKERS)
def test_charts_there_and_back(name, maker):
    coordinates = coordinates_of(name)
    chart = made(maker, coordinates)
    t = points_of(coordinates, 50)
    w, slope = chart.from_t(t)
    stretched = ~chart.stretch.fixed
    assert bool((w[:, stretched].abs() <= 1).all())
    for k, basis in enumerate(chart.bases()):
        assert bool(basis.support.check(w[:, k]).all())
    back, forth = chart.to_t(w)
    torch.testing.assert_close(back, t, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(forth, -slope, rtol=1e-7, atol=1e-7)
    x, outward = chart.forward(w)
    torch.testing.assert_close(chart.inverse(x)[0], w, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(chart.inverse(x)[1], -outward, rtol=1e-7, atol=1e-7)
    free = free_entries(coordinates.support)
    for row, wanted in zip(w[:3], outward[:3], strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: chart.forward(v)[0][free], row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize("maker", MAKERS)
def test_charts_in_float32(name, maker):
    coordinates = coordinates_of(name)
    chart = made(maker, coordinates)
    w64 = chart.from_t(points_of(coordinates, 50, spread=0.3))[0]
    x, slope = chart.forward(w64.float())
    assert x.dtype == slope.dtype == torch.float32
    torch.testing.assert_close(slope.double(), chart.forward(w64)[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(chart.inverse(x)[0].double(), w64, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("maker", MAKERS)
def test_kinds_follow_the_order(maker):
    """Angles and finite sets meet their own bases whatever the order, and are left alone."""
    coordinates = coordinates_of("mixed")
    chart = made(maker, coordinates)
    for k, basis in enumerate(chart.bases()):
        at = int(chart.order[k])
        name = type(basis).__name__
        assert (name == "Fourier") == bool(coordinates.circle[at])
        assert (name == "Categorical") == bool(coordinates.sizes[at] > 0)
        assert bool(chart.stretch.fixed[k]) == (name != "Legendre")
        assert bool(chart.stretch.ending[k]) == (name == "Legendre" and maker == "boxed affine")


def test_a_filled_interval_is_covered_as_it_is():
    """Uniform draws: w is 2u - 1; draws in a corner: the line."""
    coordinates = Coordinates(Support.parse([interval(0.0, 4.0), interval(0.0, 4.0)]))
    u = torch.rand(500, 2, generator=seed(0), dtype=torch.float64) * torch.tensor([1.0, 1e-3])
    chart = Chart.axis(coordinates, to_line(u))
    assert chart.stretch.native.tolist() == [True, False]
    w, slope = chart.inverse(4 * u)
    torch.testing.assert_close(w[:, 0], 2 * u[:, 0] - 1)
    only = chart.select(*selected(coordinates, [0]))
    torch.testing.assert_close(only.inverse(4 * u[:, :1])[1].exp(), torch.full((500,), 0.5, dtype=torch.float64))
    assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize(("dim", "native"), [(40, False), (41, True)])
def test_in_many_coordinates_narrower_intervals_are_covered_as_they_are(dim, native):
    """Slopes of stretched columns add up: what is a few deviations out in many of them would tower over the maximum."""
    u = 0.4 + 0.15 * torch.rand(500, dim, generator=seed(0), dtype=torch.float64)
    chart = Chart.axis(Coordinates(Support.parse([interval(0.0, 1.0)] * dim)), to_line(u))
    assert chart.stretch.native.tolist() == [native] * dim
    middle, out = torch.full((1, dim), 0.475, dtype=torch.float64), torch.full((1, dim), 0.9, dtype=torch.float64)
    gained = chart.inverse(middle)[1] - chart.inverse(out)[1]  # of log |dx/dw|, where the density falls off
    assert (float(gained) < 1e-9) == native


def test_columns_end_where_they_are_told_to():
    """The others are as they were; far out a point has no more density per working coordinate than in the middle."""
    coordinates = Coordinates(Support.parse(dim=3))
    points = 3 + 0.1 * torch.randn(1000, 3, generator=seed(0), dtype=torch.float64)
    lower = torch.tensor([2.0, -math.inf, -9.0], dtype=torch.float64)
    upper = torch.tensor([4.0, 4.0, 5.0], dtype=torch.float64)
    order = torch.tensor([2, 0, 1])
    chart = Chart.axis(coordinates, points, ends=(lower, upper), order=order)
    assert chart.stretch.ending.tolist() == [True, True, False]
    columns = chart.from_t(torch.stack([lower.clamp_min(0.0), torch.tensor([4.0, 4.0, 5.0]).double()]))[0]
    assert columns[:, 1].tolist() == pytest.approx([-1, 1])
    assert float(columns[1, 0]) == pytest.approx(1)
    s = chart.mixing.inverse(points)[0]
    assert s.std(0).tolist() == pytest.approx([1, 1, 1], rel=0.1)  # a flow that starts there finds deviations
    ended = Chart.axis(coordinates, points, ends=(lower[[0, 0, 0]], upper[[0, 0, 0]]))
    slope = ended.from_t(torch.cat([points[:5], torch.full((1, 3), 3.99).double()]))[1]
    torch.testing.assert_close(slope, slope[:1].expand(6))


def test_columns_of_no_width_are_numbers():
    coordinates = Coordinates(Support.parse(dim=2))
    points = torch.full((100, 2), 2.0, dtype=torch.float64)
    w, slope = Chart.axis(coordinates, points, ends=(points[0], points[0])).from_t(points)
    assert bool(torch.isfinite(w).all())
    assert bool(torch.isfinite(slope).all())


def selected(coordinates, kept):
    support, columns = coordinates.support.select(kept)
    return support, torch.tensor(columns)


@pytest.mark.parametrize("maker", ["axis", "axis reversed"])
def test_select_keeps_each_column(maker):
    coordinates = coordinates_of("mixed")
    chart = made(maker, coordinates)
    part = chart.select(*selected(coordinates, [1, 2, 4]))
    w = chart.from_t(points_of(coordinates, 20))[0]
    columns = [k for k in range(chart.dim) if int(chart.order[k]) in (1, 2, 4)]
    assert torch.equal(part.forward(w[:, columns])[0], chart.forward(w)[0][:, [1, 2, 4]])


def test_unstretched_is_the_same_map_from_s():
    coordinates = coordinates_of("mixed")
    chart = made("affine", coordinates)
    w = chart.from_t(points_of(coordinates, 20))[0]
    s, slope = chart.stretch.forward(w)
    t, rest = chart.unstretched().to_t(s)
    assert torch.equal(t, chart.to_t(w)[0])
    torch.testing.assert_close(rest + slope.sum(-1), chart.to_t(w)[1])


def test_boxed_columns_have_one_slope():
    """However far out a column is: a stretch would add to the density of its coordinates with every one of them."""
    coordinates = coordinates_of("real")
    chart = made("boxed affine", coordinates)
    t, slope = chart.to_t(torch.tensor([[0.0, 0.0, 0.0], [0.9, -0.9, 0.9]], dtype=torch.float64))
    assert torch.equal(slope[0], slope[1])
    deviations = made("plain affine", coordinates).mixing.inverse(t)[0]
    torch.testing.assert_close(deviations[1].abs(), torch.full((3,), 18.0, dtype=torch.float64))


def test_ends_of_an_interval_are_numbers():
    coordinates = Coordinates(Support.parse([interval(-1.0, 3.0)]))
    t = coordinates.to_t(torch.tensor([[-1.0], [3.0]], dtype=torch.float64))
    assert bool(torch.isfinite(t).all())
    torch.testing.assert_close(coordinates.to_x(t)[0], torch.tensor([[-1.0], [3.0]], dtype=torch.float64))


def test_wrap():
    coordinates = Coordinates(Support.parse([circular(0.0, 1.0), categorical(3), real]))
    wrapped = coordinates.wrap(torch.tensor([[2.25, 4.2, -7.0], [-0.25, -1.0, 0.5]]))
    torch.testing.assert_close(wrapped, torch.tensor([[0.25, 1.0, -7.0], [0.75, 2.0, 0.5]]))


# -- pulled-back densities -----------------------------------------------------------------------------------------------


def differentiated(log_density):
    def both(x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            values = log_density(leaf)
            return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]

    return both


def test_pullback_integrates_to_the_same_evidence():
    """Of exp(-x) on half a line and of x² on (0, 3), in the coordinates t: 1 and 9."""
    t = torch.linspace(-20, 20, 40_001, dtype=torch.float64)[:, None]
    for support, log_density, evidence in [
        (positive, lambda x: -x[:, 0], 1.0),
        (interval(0, 3), lambda x: 2 * x[:, 0].log(), 9.0),
    ]:
        pulled = Pullback(Coordinates(Support.parse([support])), log_density)
        assert float(torch.trapezoid(pulled(t).exp(), t[:, 0])) == pytest.approx(evidence, rel=1e-8)


@pytest.mark.parametrize("name", SUPPORTS)
def test_pullback_gradients_by_autograd(name):
    coordinates = coordinates_of(name)

    def log_density(x):
        return -(x - 0.3).square().sum(-1) + x.sin().prod(-1)

    target = Pullback(coordinates, log_density, differentiated(log_density))
    t = points_of(coordinates, 20)
    values, slopes = target.value_and_gradient(t)
    leaf = t.clone().requires_grad_(True)
    x, slope = coordinates.to_x(leaf)
    wanted = log_density(x) + slope
    torch.testing.assert_close(values, wanted.detach())
    torch.testing.assert_close(target(t), wanted.detach())
    (grad,) = torch.autograd.grad(wanted.sum(), leaf)
    torch.testing.assert_close(
        slopes, torch.where(coordinates.sizes > 0, 0.0, grad)
    )  # a finite coordinate does not move


def test_pullback_where_numbers_end():
    """exp(1000) stands for the largest point that a half-line has: it is evaluated there, and never at infinity."""

    def log_density(x):
        assert bool(torch.isfinite(x).all())
        return -x.log()[:, 0].square()

    target = Pullback(Coordinates(Support.parse([positive])), log_density, differentiated(log_density))
    t = torch.tensor([[1000.0], [0.0]], dtype=torch.float64)
    assert float(target(t)[0]) < -1e5
    assert float(target(t)[1]) == 0.0
    values, slopes = target.value_and_gradient(t)
    assert bool(torch.isfinite(values).all())
    assert bool(torch.isfinite(slopes).all())


def test_pullback_of_values_that_are_no_numbers():
    def both(x):
        return torch.tensor([math.nan, math.inf, -math.inf]), torch.full_like(x, math.nan)

    target = Pullback(Coordinates(Support.parse(dim=1)), lambda x: both(x)[0], both)
    values, slopes = target.value_and_gradient(torch.zeros(3, 1, dtype=torch.float64))
    assert values.tolist() == [-math.inf] * 3
    assert not bool(slopes.any())
