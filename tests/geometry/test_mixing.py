"""Mixings: one table × (round trip, log-determinant by autograd, float32, records); what a triangular one recovers."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.geometry.angles import Angles
from ttvi.geometry.bounded import Bounded
from ttvi.geometry.chart import Chart
from ttvi.geometry.conditional import ConditionallyAffine
from ttvi.geometry.coordinates import Coordinates
from ttvi.geometry.density import ChartDensity
from ttvi.geometry.mixing import Affine, Scaled, Triangular
from ttvi.geometry.mixing_record import mixing_from_record
from ttvi.geometry.product import product_density
from ttvi.geometry.regression import fit_row
from ttvi.supports import Support

DIM = 4


def seed(value):
    return torch.Generator().manual_seed(value)


def normal(*shape, at=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seed(at), dtype=dtype)


def scaled():
    return Scaled(normal(DIM, at=1), normal(DIM, at=2).exp(), torch.tensor([2, 0, 3, 1]))


def affine():
    return Affine(normal(DIM, at=1), torch.eye(DIM, dtype=torch.float64) + 0.3 * normal(DIM, DIM, at=2))


def triangular():
    """Every kind of term: slopes, log slopes, a square, products with a saturating column or alone, bends."""
    slope, log_slope = (0.4 * normal(DIM, DIM, at=k).tril(-1) for k in (3, 4))
    return Triangular(
        torch.tensor([2, 0, 3, 1]), normal(DIM, at=1), normal(DIM, at=2).exp(), normal(DIM, at=5), slope,
        0.3 * normal(DIM, at=6), log_slope, torch.tensor([[1, 0, 0], [2, 4, 5], [3, 0, 2], [3, 1, 9], [3, 1, 1]]), 0.5 * normal(5, at=7),
        torch.tensor([[1, 0, 2], [3, 2, 0], [3, 1, 1]]), 0.5 * normal(3, at=8),
    )  # fmt: skip


def conditional():
    """Two leading coordinates on a grid of five by seven nodes that most points fall into; a tie between the other two."""
    return ConditionallyAffine(
        torch.tensor([2, 0, 3, 1]), normal(2, at=1), normal(2, at=2).exp(), torch.tensor([-2.0, -3.0]).double(),
        torch.tensor([1.0, 0.9]).double(), torch.tensor([5, 7]), normal(35, 2, at=3), 0.3 * normal(35, 2, at=4),
        torch.tensor([[1, 0]]), normal(35, 1, at=5),
    )  # fmt: skip


def angles():
    """A line and three angles, each of a period that no point leaves; the others follow the first, with it and against it."""
    nothing, order = torch.zeros(DIM, DIM).double(), torch.tensor([2, 0, 3, 1])
    of_the_line = torch.tensor([0.0, 0.0, 0.0, 1.0]).double()
    inner = Triangular(
        order, 0.3 * of_the_line, 1 + of_the_line, 0.5 * of_the_line, nothing, -0.2 * of_the_line, nothing,
        torch.zeros(0, 3).long(), torch.zeros(0).double(),
    )  # fmt: skip
    coefficients = normal(2, 3, 7, at=9)
    for k in range(3):
        coefficients[:, k, 1 + k : 4] = coefficients[:, k, 4 + k :] = 0
    return Angles(
        inner,
        torch.tensor([2, 0, 3]),
        torch.tensor([-9.0, -8, -7]).double(),
        torch.tensor([17.0, 18, 19]).double(),
        coefficients,
    )


def bounded():
    """The triangular one of a line, a half-line and two intervals: means that lie inside, outside, and near both ends."""
    return Bounded(triangular(), torch.tensor([1, 2, 0, 2]))


TABLE = {
    "scaled": scaled,
    "affine": affine,
    "triangular": triangular,
    "conditional": conditional,
    "angles": angles,
    "bounded": bounded,
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_round_trip(name, dtype, tolerance):
    mixing = TABLE[name]()
    s = normal(5, 7, DIM, dtype=dtype)
    t, forth = mixing.forward(s)
    back, slope = mixing.inverse(t)
    assert t.dtype == back.dtype == forth.dtype == slope.dtype == dtype
    assert forth.shape == slope.shape == (5, 7)
    torch.testing.assert_close(back, s, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(slope, -forth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", TABLE)
def test_no_points(name):
    mixing = TABLE[name]()
    for way in (mixing.forward, mixing.inverse):
        t, slope = way(normal(0, DIM))
        assert t.shape == (0, DIM)
        assert slope.shape == (0,)


@pytest.mark.parametrize("name", TABLE)
def test_log_determinant_by_autograd(name):
    mixing = TABLE[name]()
    for s in normal(5, DIM):
        t, forth = mixing.forward(s)
        jacobian = torch.autograd.functional.jacobian(lambda x: mixing.forward(x)[0], s)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], forth, rtol=1e-10, atol=1e-10)
        jacobian = torch.autograd.functional.jacobian(lambda x: mixing.inverse(x)[0], t)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], mixing.inverse(t)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TABLE)
def test_made_again(name):
    mixing = TABLE[name]()
    again = mixing_from_record(type(mixing).__name__, mixing.tensors())
    s = normal(3, DIM)
    assert torch.equal(again.forward(s)[0], mixing.forward(s)[0])


def test_a_scaled_permutation_by_hand():
    t, _ = scaled().forward(torch.eye(DIM, dtype=torch.float64)[1])
    moved = (t - scaled().loc).nonzero()[:, 0]
    assert moved.tolist() == [0]  # column 1 is coordinate order[1] = 0
    assert scaled().axis_aligned
    assert not affine().axis_aligned


def test_triangular_along_its_order():
    """The first k columns decide the first k coordinates of the order."""
    mixing = triangular()
    s = normal(DIM)
    jacobian = torch.autograd.functional.jacobian(lambda x: mixing.forward(x)[0], s)[mixing.order]
    assert torch.equal(jacobian, jacobian.tril())


# -- regression ----------------------------------------------------------------------------------------------------------


def test_a_row_by_hand():
    r"""y = 1 - 2 z₀ + 0.7 z₁ z₂ + exp(0.2 + 0.4 z₁) ε: every coefficient, and nothing else."""
    z, noise = normal(20_000, 4), normal(20_000, at=1)
    y = 1 - 2 * z[:, 0] + 0.7 * z[:, 1] * z[:, 2] + torch.exp(0.2 + 0.4 * z[:, 1]) * noise
    row = fit_row(y, z)
    assert row.intercept == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(row.slope, torch.tensor([-2.0, 0, 0, 0], dtype=torch.float64), rtol=0, atol=0.05)
    assert row.pairs == [(1, 2)]
    assert row.weights == pytest.approx([0.7], abs=0.05)
    assert row.log_intercept == pytest.approx(0.2, abs=0.02)
    torch.testing.assert_close(row.log_slope, torch.tensor([0, 0.4, 0, 0], dtype=torch.float64), rtol=0, atol=0.02)
    assert row.num_coefficients == 5
    assert row.log_likelihood == pytest.approx(-0.5 - 0.2, abs=0.02)


def test_a_weak_slope_beside_a_strong_square():
    """The slope drowns in the square at first, and is found once the square is known."""
    z, noise = normal(1000, 1), normal(1000, at=1)
    row = fit_row(0.1 * z[:, 0] + z[:, 0] ** 2 + 0.05 * noise, z)
    assert row.pairs == [(0, 0)]
    assert float(row.slope) == pytest.approx(0.1, abs=0.02)


def test_rows_without_anything_to_find():
    row = fit_row(3 + 2 * normal(1000), normal(1000, 5, at=1))
    assert (row.pairs, int((row.slope != 0).sum()), int((row.log_slope != 0).sum())) == ([], 0, 0)
    first = fit_row(3 + 2 * normal(1000), normal(1000, 0, at=1))
    assert first.intercept == pytest.approx(3, abs=0.3)
    assert first.log_intercept == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.parametrize("value", [0.0, 1.0])  # whose residuals are exactly zero, and zero up to rounding
def test_rows_of_degenerate_draws_are_finite(value):
    constant = torch.ones(50, dtype=torch.float64)
    row = fit_row(value * constant, torch.stack([constant, normal(50)], 1))
    assert math.isfinite(row.intercept)
    assert math.isfinite(row.log_intercept)
    assert bool(torch.isfinite(row.slope).all())


# -- targets that become independent columns -----------------------------------------------------------------------------


def gaussian(e):
    """Dense correlations, scales 1e-2 to 1e2."""
    factor = torch.eye(5, dtype=torch.float64) + normal(5, 5, at=9).tril(-1)
    factor = torch.logspace(-2, 2, 5, dtype=torch.float64)[:, None] * factor
    normals = torch.distributions.MultivariateNormal(torch.arange(5.0, dtype=torch.float64), scale_tril=factor)
    return normals.loc + e[:, :5] @ factor.T, normals.log_prob


def funnel(e):
    """Neal's: v ~ N(0, 9), the others N(0, exp v)."""
    x = torch.cat([3 * e[:, :1], torch.exp(1.5 * e[:, :1]) * e[:, 1:5]], 1)

    def log_prob(x):
        v = x[:, 0]
        return (
            -0.5 * (v / 3) ** 2
            - math.log(3)
            - 0.5 * (x[:, 1:].square() * (-v).exp()[:, None]).sum(1)
            - 2 * v
            - 2.5 * math.log(2 * math.pi)
        )

    return x, log_prob


def banana(e):
    """x₁ = x₀² + noise, x₂ = x₀ x₁ + noise."""
    x0 = e[:, 0]
    x1 = x0**2 - 1 + 0.3 * e[:, 1]
    x = torch.stack([x0, x1, 0.5 * x0 * x1 + e[:, 2]], 1)

    def log_prob(x):
        r = torch.stack([x[:, 0], (x[:, 1] - x[:, 0] ** 2 + 1) / 0.3, x[:, 2] - 0.5 * x[:, 0] * x[:, 1]], 1)
        return -0.5 * r.square().sum(1) - math.log(0.3) - 1.5 * math.log(2 * math.pi)

    return x, log_prob


@pytest.mark.parametrize(("target", "least"), [(gaussian, 0.8), (funnel, 0.75), (banana, 0.75)])
def test_triangular_charts_leave_independent_columns(target, least):
    """The product of the columns' marginals is then nearly the target: effective share of its draws, and the evidence."""
    x, log_prob = target(normal(2000, 5))
    dim = x.shape[1]
    coordinates = Coordinates(Support.parse(dim=dim))
    chart, score = Chart.triangular(coordinates, x, torch.arange(dim), label="triangular")
    reversed_score = Chart.triangular(coordinates, x, torch.arange(dim).flip(0), label="triangular")[1]
    assert score > reversed_score - 1e-6  # the order in which the target was made is the better one
    density = ChartDensity(product_density(chart, chart.from_t(x)[0]), chart)
    draws = density.sample((4000,), generator=seed(1))
    log_weights = log_prob(draws) - density.log_prob(draws)
    weights = log_weights.exp()
    assert float(weights.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(weights.mean() ** 2 / weights.square().mean()) > least


def test_fixed_coordinates_stay_out_of_it():
    """A column that does not take part is neither moved nor looked at."""
    points = normal(500, 3)
    points[:, 2] = points[:, 0] + 0.1 * points[:, 1]
    movable = torch.tensor([True, False, True])
    mixing, _ = Triangular.fit(points, movable, torch.tensor([1, 0, 2]))
    s, _ = mixing.inverse(points)
    assert torch.equal(s[:, 0], points[:, 1])
    assert not bool(mixing.slope[:, 0].any())
    assert float(torch.corrcoef(s[:, 1:].T)[0, 1].abs()) < 0.1


def test_far_points_of_a_funnel_have_a_density():
    """exp of a log scale that is linear without bound would overflow; it is linear as far as anything was seen."""
    x, _ = funnel(normal(2000, 5))
    chart, _ = Chart.triangular(Coordinates(Support.parse(dim=5)), x, torch.arange(5), label="triangular")
    density = ChartDensity(product_density(chart, chart.from_t(x)[0]), chart)
    far = torch.zeros(6, 5, dtype=torch.float64)
    far[:, 0] = torch.tensor([-1e9, -1e3, -50.0, 50.0, 1e3, 1e9])
    values = density.log_prob(far)
    assert bool(torch.isfinite(values).all())
    back = chart.forward(chart.stretch.within(torch.ones(1, 5, dtype=torch.float64)))[0]
    assert bool(torch.isfinite(back).all())


def test_a_constant_log_scale_needs_one_round_only():
    """Nothing is found, so a second look would see the same: the result is that of plain least squares."""
    z, noise = normal(1000, 2), normal(1000, at=1)
    y = 2 + 3 * z[:, 0] + 0.5 * noise
    row = fit_row(y, z)
    design = torch.stack([torch.ones(1000, dtype=torch.float64), z[:, 0]], 1)
    wanted = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    assert [row.intercept, float(row.slope[0])] == pytest.approx(wanted.tolist(), rel=1e-6)
    assert row.log_intercept == pytest.approx(math.log(float((y - design @ wanted).square().mean().sqrt())), abs=1e-6)
