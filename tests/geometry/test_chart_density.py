"""Densities seen through charts: normalised by quadrature, marginals and conditionals against it, ends, errors, records."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import constraints as C

from ttvi.flow import Flow, default_transforms
from ttvi.geometry.atlas import Atlas
from ttvi.geometry.candidates import in_chart
from ttvi.geometry.chart import Chart
from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.density import ChartDensity, StretchedDensity, chart_from_record, chart_record
from ttvi.geometry.product import product_density
from ttvi.records import cast, load_record, pack, save_record, unpack
from ttvi.supports import Support, categorical, circular, interval, positive, real
from ttvi.tt import TTDensity


def seed(value):
    return torch.Generator().manual_seed(value)


E = torch.randn(600, generator=seed(0), dtype=torch.float64)
U = torch.rand(600, generator=seed(1), dtype=torch.float64)
# name: support, log-density, draws that are right in nothing but their place and tails
SINGLE = {
    "gamma": (positive, lambda x: 2 * x.log() - x, (1 + E).exp()),
    "half-line": (C.greater_than(3.0), lambda x: -(x - 3), 3 + E.exp()),
    "below": (C.less_than(-1.0), lambda x: x + 1, -1 - E.exp()),
    "interval": (interval(-1.0, 3.0), lambda x: -x.square(), -1 + 4 * U),
    "corner": (interval(0.0, 1.0), lambda x: -200 * x, 0.02 * U),
    "logistic": (real, lambda x: -2 * torch.cosh(0.5 * x).log(), 2 * E),
    "cauchy": (real, lambda x: -torch.log1p(x.square()), torch.tan(math.pi * (U - 0.5))),
    "angle": (circular(0.0, 360.0), lambda x: 2 * torch.cos(torch.deg2rad(x)), 360 * U),
}


def fitted(support, log_density, draws, *, tol=1e-4):
    """A train in the axis chart of draws."""
    coordinates = Coordinates(Support.parse(support))
    chart = Chart.axis(coordinates, coordinates.to_t(draws))
    target = Pullback(coordinates, log_density)
    return ChartDensity(TTDensity.fit(in_chart(target, chart), chart.bases(), tol=tol, seed=0), chart)


def line_of(constraint, count=4001):
    """Points of a support and weights of the trapezoidal rule, chosen without looking at any chart."""
    if isinstance(constraint, circular | C.interval):
        x, w = np.polynomial.legendre.leggauss(400)
        lower, upper = float(constraint.lower_bound), float(constraint.upper_bound)
        half = 0.5 * (upper - lower)
        return torch.from_numpy(lower + half * (x + 1)), torch.from_numpy(half * w)
    y = torch.linspace(-60, 60, count, dtype=torch.float64)
    step = float(y[1] - y[0])
    if constraint is real:
        return torch.sinh(y / 3), step * torch.cosh(y / 3) / 3
    if isinstance(constraint, C.less_than):
        return constraint.upper_bound - y.exp(), step * y.exp()
    return constraint.lower_bound + y.exp(), step * y.exp()


@pytest.fixture(scope="module")
def single():
    return {
        name: fitted([support], lambda x, f=f: f(x[:, 0]), draws[:, None])
        for name, (support, f, draws) in SINGLE.items()
    }


def tilted(x):
    """Positive scale x₀ and interval x₁, dependent."""
    return 1.5 * x[:, 0].log() - x[:, 0] * (0.5 + x[:, 1] ** 2) + torch.sin(2 * x[:, 1])


def mixed(x):
    s, u, w, k = x.unbind(1)
    return -0.5 * (s.log() - u) ** 2 - s.log() + torch.cos(w - u) + 0.3 * k * torch.sin(w) - 0.2 * k


MIXED = {"s": positive, "u": interval(0.0, 2.0), "w": circular(), "k": categorical(3)}


@pytest.fixture(scope="module")
def plane():
    return fitted([positive, interval(-1.0, 2.0)], tilted, torch.stack([E.exp(), 3 * U - 1], 1))


@pytest.fixture(scope="module")
def four():
    draws = torch.stack([E.exp(), 2 * U, 6 * U.flip(0) - 3, (3 * U).floor()], 1)
    return fitted(MIXED, mixed, draws, tol=1e-3)


def whitened(base_of=product_density):
    coordinates = Coordinates(Support.parse([positive, interval(0, 10), real]))
    points = torch.randn(300, 3, generator=seed(1), dtype=torch.float64)
    points[:, 1] = 0.5 + 0.1 * points[:, 1]
    matrix = torch.eye(3, dtype=torch.float64) + 0.4 * torch.randn(3, 3, generator=seed(2), dtype=torch.float64)
    matrix[1] *= 0.2  # or most of the mass would be at the ends of the interval
    chart = Chart.affine(coordinates, points, torch.tensor([0.0, 0.5, 0.0]).double(), matrix, label="whitened")
    return ChartDensity(base_of(chart, chart.from_t(points)[0]), chart)


def triangular():
    coordinates = Coordinates(Support.parse([real, circular(), positive]))
    points = torch.randn(500, 3, generator=seed(1), dtype=torch.float64)
    points[:, 2] = points[:, 0] ** 2 + points[:, 2] * points[:, 0].exp()
    chart, _ = Chart.triangular(coordinates, points, torch.arange(3), label="triangular")
    return ChartDensity(product_density(chart, chart.from_t(points)[0]), chart)


# -- one dimension ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SINGLE)
def test_normalised_and_right(name, single):
    support, log_density, _ = SINGLE[name]
    x, weight = line_of(support)
    values = single[name].log_prob(x[:, None]).exp()
    assert float(values @ weight) == pytest.approx(1.0, abs=1e-5)
    exact = log_density(x).exp()
    exact = exact / (exact @ weight)
    assert float((values - exact).abs() @ weight) < 1e-3  # twice the total variation


@pytest.mark.parametrize("name", SINGLE)
def test_draws_follow_the_density(name, single):
    """Their cumulative distribution, by quadrature, is uniform (Kolmogorov's distance)."""
    support = SINGLE[name][0]
    density = single[name]
    x, weight = line_of(support)
    mass = density.log_prob(x[:, None]).exp() * weight
    cdf = mass.cumsum(0) - 0.5 * mass
    at = x if x[-1] > x[0] else x.flip(0)
    cdf = cdf if x[-1] > x[0] else 1 - cdf.flip(0)
    for sobol in (False, True):
        draws = density.sample((4096,), generator=seed(1), sobol=sobol)[:, 0]
        assert bool(density.domain.contains(draws[:, None]).all())
        found = torch.searchsorted(draws.sort().values, at) / 4096
        assert float((found - cdf).abs().max()) < (0.01 if sobol else 0.03)


@pytest.mark.parametrize("name", SINGLE)
def test_gradients_by_differences(name, single):
    x = single[name].sample((5,), generator=seed(2)).requires_grad_(True)
    assert torch.autograd.gradcheck(single[name].log_prob, (x,), eps=1e-7, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_point_gives_a_nan(name, dtype, single):
    """Outside, on the ends, next to them, far out, infinite, not a number."""
    density = unpack(*recast(single[name], dtype))
    ends = [v for v in (-1.0, 3.0, 0.0, 1.0, 360.0)]
    near = [math.nextafter(v, s * math.inf) for v in ends for s in (-1, 1)]
    x = torch.tensor(
        ends + near + [1e-300, 1e-30, -1e30, 1e30, 1e300, -1e300, math.inf, -math.inf, math.nan], dtype=dtype
    )
    leaf = x[:, None].requires_grad_(True)
    values = density.log_prob(leaf)
    assert values.dtype == dtype
    assert not bool(values.isnan().any())
    assert not bool((values == math.inf).any())
    assert bool((values[~density.domain.contains(x[:, None])] == -math.inf).all())
    (grad,) = torch.autograd.grad(values[torch.isfinite(values)].sum(), leaf)
    assert not bool(grad[~torch.isfinite(values.detach())].any())


def recast(density, dtype):
    spec, tensors = pack(density)
    return spec, cast(tensors, dtype=dtype)


def test_closed_ends_of_a_filled_interval_have_their_density():
    """exp(x) on [0, 1] at 0 and 1."""
    density = fitted([interval(0.0, 1.0)], lambda x: x[:, 0], U[:, None], tol=1e-6)
    ends = density.log_prob(torch.tensor([[0.0], [1.0]], dtype=torch.float64)).exp()
    assert ends.tolist() == pytest.approx([1 / (math.e - 1), math.e / (math.e - 1)], rel=1e-4)


# -- two and more ----------------------------------------------------------------------------------------------------------


def test_normalised_in_the_plane(plane):
    (x0, w0), (x1, w1) = line_of(positive, 2001), line_of(interval(-1.0, 2.0))
    grid = torch.cartesian_prod(x0, x1)
    weight = (w0[:, None] * w1).flatten()
    values = plane.log_prob(grid).exp()
    assert float(values @ weight) == pytest.approx(1.0, abs=1e-5)
    exact = tilted(grid).exp()
    assert float((values - exact / (exact @ weight)).abs() @ weight) < 2e-3


def test_minus_infinity_outside(plane):
    x = torch.tensor([[1.0, 0.5], [-1.0, 0.5], [1.0, 2.5], [0.0, 0.5], [1.0, math.nan]], dtype=torch.float64)
    values = plane.log_prob(x)
    assert bool(torch.isfinite(values[0]))
    assert bool((values[1:] == -math.inf).all())
    assert plane.log_prob(x.view(5, 1, 2)).shape == (5, 1)


def on_grids(gone):
    """Points and weights of the coordinates ``gone``: Gauss and equispaced points are few where the density is smooth."""
    y = torch.linspace(-8, 8, 161, dtype=torch.float64)
    node, gauss = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))
    turn = torch.arange(40, dtype=torch.float64) * 2 * math.pi / 40 - math.pi
    points = [y.exp(), node + 1, turn, torch.arange(3, dtype=torch.float64)]
    weights = [0.1 * y.exp(), gauss, torch.full_like(turn, 2 * math.pi / 40), torch.ones(3, dtype=torch.float64)]
    grid = torch.cartesian_prod(*(points[k] for k in gone)).view(-1, len(gone))
    return grid, torch.cartesian_prod(*(weights[k] for k in gone)).view(-1, len(gone)).prod(1)


@pytest.mark.parametrize("keep", [[0], [1], [3], [1, 3], [2, 0, 3]])
def test_marginals_by_quadrature(keep, four):
    marginal = four.marginal(keep)
    keep = sorted(keep)
    assert marginal.domain.names == tuple("suwk"[k] for k in keep)
    gone = [k for k in range(4) if k not in keep]
    grid, weight = on_grids(gone)
    for point in four.sample((2,), generator=seed(4))[:, keep]:
        x = torch.empty(len(grid), 4, dtype=torch.float64)
        x[:, keep], x[:, gone] = point, grid
        wanted = float(four.log_prob(x).exp() @ weight)
        assert float(marginal.log_prob(point).exp()) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("fixed", [{0: 1.3}, {3: 2.0}, {1: 0.4, 3: 0.0}, {-2: 1.0, 0: 0.7}])
def test_conditionals_are_joint_over_marginal(fixed, four):
    conditional = four.condition(fixed)
    given = {k % 4: v for k, v in fixed.items()}
    rest = [k for k in range(4) if k not in given]
    assert conditional.domain.names == tuple("suwk"[k] for k in rest)
    x = four.sample((20,), generator=seed(5))
    for k, value in given.items():
        x[:, k] = value
    evidence = four.marginal(sorted(given)).log_prob(x[:1, sorted(given)])
    torch.testing.assert_close(conditional.log_prob(x[:, rest]), four.log_prob(x) - evidence, rtol=1e-8, atol=1e-8)
    draws = conditional.sample((50,), generator=seed(6))
    assert bool(torch.isfinite(conditional.log_prob(draws)).all())


def test_errors_of_marginals_and_conditionals(four):
    for density, label, k in ((whitened(), "whitened", 0), (triangular(), "triangular", 2)):
        with pytest.raises(
            ValueError, match=f"marginal: expected coordinates that the approximation keeps apart; got {label} ones"
        ):
            density.marginal([k])
        with pytest.raises(ValueError, match="Use columns of `sample`, or fit with geometry='axis'"):
            density.condition({k: 1.0})
    with pytest.raises(ValueError, match="at least one coordinate to keep"):
        four.marginal([])
    with pytest.raises(IndexError, match="marginal: expected positions in"):
        four.marginal([4])
    with pytest.raises(ValueError, match="Leave one free"):
        four.condition({})
    with pytest.raises(ValueError, match="Leave one free"):
        four.condition(dict.fromkeys(range(4), 1.0))
    with pytest.raises(
        ValueError, match="condition: expected values inside the support; got {0: -1.0}. Check the bounds."
    ):
        four.condition({0: -1.0})
    with pytest.raises(ValueError, match=r"log_prob: expected a tensor of shape \(..., 4\)"):
        four.log_prob(torch.zeros(3))


def test_a_simplex_is_one_object():
    """Dirichlet(2, 3, 4) beside a line: the block goes together, its density is with respect to its first entries."""
    alpha = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)

    def log_density(x):
        return torch.distributions.Dirichlet(alpha, validate_args=False).log_prob(x[:, :3]) - 0.5 * x[:, 3].square()

    draws = torch.cat([torch.stack([E, E.flip(0), -E], 1).softmax(1), 2 * U[:, None] - 1], 1)
    density = fitted({"w": (C.simplex, 3), "x": real}, log_density, draws, tol=1e-3)
    dirichlet = density.marginal([0, 1, 2])
    w = torch.distributions.Dirichlet(alpha).sample((50,))
    torch.testing.assert_close(
        dirichlet.log_prob(w), torch.distributions.Dirichlet(alpha).log_prob(w), rtol=0, atol=0.1
    )
    given = density.condition({0: 0.2, 1: 0.3, 2: 0.5})
    assert float(given.log_prob(torch.zeros(1)).exp()) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-2)
    with pytest.raises(ValueError, match="marginal: expected all entries of `w` together"):
        density.marginal([0, 3])
    with pytest.raises(ValueError, match="condition: expected all entries of `w` together"):
        density.condition({0: 0.2})
    outside = torch.tensor([0.5, 0.6, -0.1, 0.0], dtype=torch.float64)
    assert float(density.log_prob(outside)) == -math.inf


@pytest.mark.parametrize("density", [whitened, triangular])
def test_mixed_charts_are_normalised(density):
    """The mean of one over the density, on a box that holds every draw used, is the volume of the box times their share."""
    q = density()
    draws = q.sample((40_000,), generator=seed(7))
    lower, upper = draws.quantile(0.2, dim=0), draws.quantile(0.8, dim=0)
    inside = ((draws > lower) & (draws < upper)).all(1)
    u = torch.rand(40_000, 3, generator=seed(8), dtype=torch.float64)
    mass = q.log_prob(lower + u * (upper - lower)).exp().mean() * (upper - lower).prod()
    assert float(mass) == pytest.approx(float(inside.double().mean()), rel=0.05)


# -- from s --------------------------------------------------------------------------------------------------------------


def test_stretched_densities(single):
    """Of a line: normalised over s; with the unstretched chart it is the same density of x; a flow may start from it."""
    chart, base = single["logistic"].chart, single["logistic"].base
    density = StretchedDensity(base, chart.stretch)
    s, weight = line_of(real)
    assert float(density.log_prob(s[:, None]).exp() @ weight) == pytest.approx(1.0, abs=1e-5)
    again = ChartDensity(density, chart.unstretched())
    x = single["logistic"].sample((100,), generator=seed(1))
    torch.testing.assert_close(again.log_prob(x), single["logistic"].log_prob(x), rtol=1e-10, atol=1e-10)
    assert torch.equal(again.sample((100,), generator=seed(1)), x)
    odd = torch.tensor([[math.inf], [math.nan], [1e300]], dtype=torch.float64)
    values = density.log_prob(odd)
    assert values[:2].tolist() == [-math.inf, -math.inf]
    assert bool(torch.isfinite(values[2]))
    assert again.has_rsample
    assert again.rsample((7,), generator=seed(1)).shape == (7, 1)


def test_a_flow_on_a_stretched_base(four):
    """It starts as the identity; the density of x has no exact marginals any more and says so."""
    chart = four.chart
    base = StretchedDensity(four.base, chart.stretch)
    flow = Flow(base, default_transforms(4, kinds=["real", "real", ("circle", -math.pi, math.pi), ("discrete", 0, 2)]))
    density = ChartDensity(flow, chart.unstretched())
    x = four.sample((50,), generator=seed(2))
    torch.testing.assert_close(density.log_prob(x), four.log_prob(x), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="marginal: expected a base with exact marginals; got Flow"):
        density.marginal([0])
    assert torch.equal(unpack(*pack(density)).log_prob(x), density.log_prob(x))
    assert bool(base.support.check(base.sample((20,), generator=seed(3))).all())


# -- records -------------------------------------------------------------------------------------------------------------


def atlas():
    return Atlas([whitened(), whitened()], torch.tensor([0.3, -1.0], dtype=torch.float64))


@pytest.mark.parametrize("make", ["four", whitened, triangular, atlas, "stretched"])
def test_records(make, four, tmp_path):
    """Bit for bit in memory; equal from a file, where tensors are laid out anew; close in float32."""
    if make == "stretched":
        made = StretchedDensity(four.base, four.chart.stretch)
    else:
        made = four if make == "four" else make()
    x = made.sample((20,), generator=seed(1))
    again = unpack(*pack(made))
    assert torch.equal(again.log_prob(x), made.log_prob(x))
    assert torch.equal(again.sample((5,), generator=seed(2)), made.sample((5,), generator=seed(2)))
    save_record(made, tmp_path)
    loaded = load_record(tmp_path)
    torch.testing.assert_close(loaded.log_prob(x), made.log_prob(x), rtol=1e-12, atol=1e-12)
    if make != "stretched":
        parts = made.parts if make is atlas else [made]
        for old, new in zip(parts, loaded.parts if make is atlas else [loaded], strict=True):
            assert new.chart.label == old.chart.label
            assert new.domain.names == old.domain.names
    small = load_record(tmp_path, dtype=torch.float32)
    assert small.dtype == torch.float32
    # In the middle: close to the end of an interval float32 has no digits left.
    x = made.sample((401,), generator=seed(1)).sort(0).values[[150, 200, 250]]
    torch.testing.assert_close(small.log_prob(x).double(), made.log_prob(x), rtol=1e-2, atol=1e-2)
    assert small.sample((5,), generator=seed(2)).dtype == torch.float32


def test_draws_that_rounded_to_the_end_of_an_interval_are_drawn_again():
    """Where all that lies beyond has the same number, the density there is that of none of them."""
    coordinates = Coordinates(Support.parse([interval(0, 1), real]))
    points = 0.5 + 0.2 * torch.randn(500, 2, generator=seed(1), dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    chart = Chart.affine(coordinates, points, torch.full((2,), 0.5).double(), 0.3 * eye, label="whitened")
    q = ChartDensity(product_density(chart, chart.from_t(points)[0], safe=0.2), chart)
    plain = chart.forward(q.base.sample((20_000,), generator=seed(2)))[0]
    assert int(coordinates.rounded(plain).sum()) > 20
    draws = q.sample((20_000,), generator=seed(2))
    assert not bool(coordinates.rounded(draws).any())
    assert bool(torch.isfinite(q.log_prob(draws)).all())
    same = ~coordinates.rounded(plain)
    torch.testing.assert_close(draws[same], plain[same], rtol=0, atol=0)
    assert q.sample((), generator=seed(3)).shape == (2,)


def test_a_record_of_another_map_of_intervals_is_refused():
    """Its density would be another one, and nothing would show it."""
    spec, tensors = chart_record(whitened().chart)
    assert torch.equal(chart_from_record(spec, tensors).order, whitened().chart.order)
    for other in ({**spec, "sharpness": 60.0}, {k: v for k, v in spec.items() if k != "sharpness"}):
        with pytest.raises(ValueError, match="load: expected intervals mapped with sharpness 120; got [36]0"):
            chart_from_record(other, tensors)
    assert "sharpness" not in chart_record(triangular().chart)[0]
