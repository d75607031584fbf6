"""Compositions of Rosenblatt transports against quadrature, their own draws and closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.errors import BudgetExhausted
from ttvi.geometry.bridge import Bridge, Reference
from ttvi.geometry.bridging import build_bridge
from ttvi.geometry.chart import Chart
from ttvi.geometry.coordinates import Coordinates
from ttvi.geometry.density import ChartDensity
from ttvi.records import cast, load_record, pack, save_record, unpack
from ttvi.supports import Support, real
from ttvi.tt import Categorical, Fourier, Legendre, TTDensity

WIDTH = 0.1
LOG_EVIDENCE = math.log(2 * math.pi * WIDTH)
BASES = [Legendre(-4.0, 4.0), Legendre(-2.0, 10.0)]


def seed(value):
    return torch.Generator().manual_seed(value)


def ridge(x):
    """A parabola with a normal profile: x0 ~ N(0, 1), x1 | x0 ~ N(x0², WIDTH²)."""
    return -0.5 * x[:, 0].square() - 0.5 * ((x[:, 1] - x[:, 0].square()) / WIDTH).square()


def grid(*axes):
    """Points of a tensor grid, shape (n, d)."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def line(lower, upper, count):
    return torch.linspace(lower, upper, count, dtype=torch.float64)


def layers(log_density, bases):
    """Two rough layers: the density tempered to a half, and what pulls it back to itself."""
    first = TTDensity.fit(lambda x: 0.5 * log_density(x), bases, tol=0.05, max_rank=8, seed=0)
    begun = Bridge([first])

    def pulled(v):
        x, volume = begun.push(v)
        return log_density(x) + volume

    second = TTDensity.fit(pulled, begun.reference.bases(), tol=0.05, max_rank=6, seed=0)
    return [first, second]


def gentle(x):
    return -0.5 * x[:, 0].square() - 2 * (x[:, 1] - 0.3 * x[:, 0].square()).square()


@pytest.fixture(scope="module")
def bridge():
    return Bridge(layers(gentle, [Legendre(-6.0, 6.0), Legendre(-4.0, 10.0)]))


@pytest.fixture(scope="module")
def fit():
    return build_bridge(ridge, BASES, seed=0, checks=1000)


# -- the reference -----------------------------------------------------------------------------------------------------------


def test_reference_round_trip():
    reference = Reference(torch.tensor([False, False, True]))
    u = torch.rand(500, 3, generator=seed(0), dtype=torch.float64)
    torch.testing.assert_close(reference.level(reference.point(u)), u, rtol=0, atol=1e-12)
    assert reference.log_density == pytest.approx(math.log(1 / 8))
    assert [type(basis) for basis in reference.bases()] == [Legendre, Legendre, Fourier]


# -- the density -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(bridge):
    """Points of a grid and the density there times the area of a cell."""
    a, b = line(-6, 6, 161), line(-4, 10, 281)
    points = grid(a, b)
    return points, bridge.log_prob(points).exp() * float((a[1] - a[0]) * (b[1] - b[0]))


def test_normalised(table):
    assert float(table[1].sum()) == pytest.approx(1.0, abs=1e-3)


def test_the_second_layer_brings_it_nearer(bridge):
    def share(density):
        x = density.sample((4000,), generator=seed(1))
        weights = (gentle(x) - density.log_prob(x)).softmax(0)
        return float(1 / weights.square().sum() / 4000)

    assert share(bridge) > 0.97 > share(Bridge(bridge.layers[:1]))


def test_draws_have_the_density(bridge, table):
    """Averages over draws are integrals of the density by quadrature."""
    points, weights = table
    for sobol, tolerance in ((False, 0.05), (True, 0.01)):
        x = bridge.sample((8192,), generator=seed(2), sobol=sobol)
        torch.testing.assert_close(x.mean(0), weights @ points, rtol=0, atol=tolerance)
        torch.testing.assert_close(x.T @ x / 8192, points.T @ (points * weights[:, None]), rtol=0, atol=4 * tolerance)


def test_round_trip_and_volume(bridge):
    u = torch.rand(200, 2, generator=seed(3), dtype=torch.float64)
    x = bridge.inverse_rosenblatt(u)
    torch.testing.assert_close(bridge.rosenblatt(x), u, rtol=0, atol=1e-9)
    v = bridge.reference.point(u)
    pushed, volume = bridge.push(v)
    torch.testing.assert_close(pushed, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(volume, bridge.reference.log_density - bridge.log_prob(x), rtol=0, atol=1e-9)
    leaf = v[0].clone().requires_grad_(True)
    jacobian = torch.autograd.functional.jacobian(lambda z: bridge.push(z)[0], leaf)
    assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(volume[0]), abs=1e-6)


def test_gradients(bridge):
    x = torch.tensor([[0.3, 0.2], [-1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bridge.log_prob, (x,), atol=1e-5)
    outside = torch.tensor([[9.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = bridge.log_prob(torch.cat([x, outside]))
    assert value[2] == -math.inf
    assert torch.autograd.grad(value[:2].sum(), outside)[0].tolist() == [[0.0, 0.0]]
    assert bridge.rsample((3,), generator=seed(0)).shape == (3, 2)


def test_shapes(bridge):
    assert bridge.sample(generator=seed(0)).shape == (2,)
    assert bridge.sample((0,), generator=seed(0)).shape == (0, 2)
    assert bridge.sample((2, 3), generator=seed(0), sobol=True).shape == (2, 3, 2)
    assert bridge.log_prob(torch.zeros(4, 5, 2, dtype=torch.float64)).shape == (4, 5)
    with pytest.raises(ValueError, match="log_prob: expected a tensor of shape"):
        bridge.log_prob(torch.zeros(3))


def test_angles():
    """A von Mises ridge around a circle: normalised, and the same at both ends of the period."""

    def twisted(x):
        return 3 * torch.cos(x[:, 0] - 2.5) - 8 * (x[:, 1] - 0.5 * torch.cos(x[:, 0])).square()

    bridge = Bridge(layers(twisted, [Fourier(-math.pi, math.pi), Legendre(-3.0, 3.0)]))
    assert [type(basis) for basis in bridge.layers[1].bases] == [Fourier, Legendre]
    a, b = line(-math.pi, math.pi, 62)[:-1], line(-3, 3, 241)
    density = bridge.log_prob(grid(a, b)).exp().view(61, 241)
    total = torch.trapezoid(density, b).mean() * 2 * math.pi
    assert float(total) == pytest.approx(1.0, abs=1e-3)
    ends = torch.tensor([[-math.pi, 0.1], [math.pi, 0.1]], dtype=torch.float64)
    left, right = bridge.log_prob(ends).tolist()
    assert left == pytest.approx(right, abs=1e-6)


def test_prefixes(bridge):
    """The marginal of the first coordinate and the conditional given it, by quadrature."""
    b = line(-4, 10, 1401)
    for value in (-0.7, 1.3):
        joint = bridge.log_prob(torch.stack([torch.full_like(b, value), b], 1)).exp()
        mass = torch.trapezoid(joint, b)
        found = bridge.marginal([0]).log_prob(torch.tensor([[value]], dtype=torch.float64)).exp()
        assert float(found) == pytest.approx(float(mass), abs=1e-4)
        conditional = bridge.condition({0: value}).log_prob(b[:, None]).exp()
        torch.testing.assert_close(conditional, joint / mass, rtol=0, atol=1e-3)
    assert bridge.marginal([1, 0]) is bridge


@pytest.mark.parametrize(("verb", "argument"), [("marginal", [1]), ("condition", {1: 0.0}), ("marginal", [])])
def test_other_coordinates_are_mixed(bridge, verb, argument):
    with pytest.raises(ValueError, match=f"{verb}: expected the first coordinates.*Use columns of `sample`"):
        getattr(bridge, verb)(argument)
    with pytest.raises(ValueError, match="Leave one free"):
        bridge.condition({0: 0.0, 1: 0.0})


def test_layers_that_do_not_fit(bridge):
    first = bridge.layers[0]
    with pytest.raises(ValueError, match="at least one layer"):
        Bridge([])
    with pytest.raises(ValueError, match="coordinates of the reference"):
        Bridge([first, first])
    with pytest.raises(TypeError, match="got str"):
        Bridge(["train"])
    finite = TTDensity.fit(lambda x: x[:, 0], [Categorical(3)], seed=0)
    with pytest.raises(TypeError, match="no bijection"):
        Bridge([finite])
    with pytest.raises(TypeError, match="build_bridge: expected continuous coordinates"):
        build_bridge(lambda x: x[:, 0], [Categorical(3)], seed=0)


def test_record_and_single_precision(bridge, tmp_path):
    x = bridge.sample((50,), generator=seed(4))
    again = unpack(*pack(bridge))
    assert torch.equal(again.log_prob(x), bridge.log_prob(x))
    save_record(bridge, tmp_path / "bridge")
    assert torch.equal(load_record(tmp_path / "bridge", kind="Bridge").log_prob(x), bridge.log_prob(x))
    description, tensors = pack(bridge)
    single = unpack(description, cast(tensors, dtype=torch.float32))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.log_prob(x.float()).double(), bridge.log_prob(x), rtol=0, atol=2e-2)
    draws = single.sample((2000,), generator=seed(5))
    assert draws.dtype == torch.float32
    torch.testing.assert_close(draws.double().mean(0), x.mean(0), rtol=0, atol=0.4)


# -- building ----------------------------------------------------------------------------------------------------------------


def test_a_ridge_that_a_small_train_cannot_hold(fit):
    assert fit.assessment.ess > 0.85
    assert fit.assessment.log_evidence == pytest.approx(LOG_EVIDENCE, abs=0.05)
    assert list(fit.betas) == sorted(fit.betas)
    assert fit.betas[-1] == 1.0
    assert len(fit.ranks) == len(fit.density.layers)
    assert sum(layer.num_evaluations for layer in fit.layers) <= fit.num_evaluations


def test_a_chart_on_top():
    """In the coordinates of a chart, and seen through it."""
    coordinates = Coordinates(Support.parse([real, real]))
    normal = torch.randn(2000, 2, generator=seed(6), dtype=torch.float64)
    points = torch.stack([normal[:, 0], normal[:, 0].square() + WIDTH * normal[:, 1]], 1)
    chart = Chart.axis(coordinates, points)

    def working(w):
        x, slope = chart.forward(w)
        return ridge(x) + slope

    fit = build_bridge(working, chart.bases(), seed=0, checks=1000)
    density = ChartDensity(fit.density, chart)
    x = density.sample((4000,), generator=seed(7))
    log_weights = ridge(x) - density.log_prob(x)
    assert float(torch.logsumexp(log_weights, 0)) - math.log(4000) == pytest.approx(LOG_EVIDENCE, abs=0.1)
    assert float(density.marginal([0]).log_prob(torch.zeros(1, 1, dtype=torch.float64))) == pytest.approx(
        -0.92, abs=0.1
    )
    assert torch.equal(unpack(*pack(density)).log_prob(x), density.log_prob(x))


def test_a_budget_leaves_the_best_so_far():
    seen = 0

    def counted(x):
        nonlocal seen
        seen += len(x)
        return ridge(x)

    fit = build_bridge(counted, BASES, seed=0, budget=12_000, checks=500)
    assert seen == fit.num_evaluations <= 12_000
    x = fit.density.sample((10,), generator=seed(0))
    assert bool(torch.isfinite(fit.density.log_prob(x)).all())
    with pytest.raises(BudgetExhausted):
        build_bridge(ridge, BASES, seed=0, budget=300)


def test_an_account_that_runs_dry():
    """BudgetExhausted, raised by the function itself, ends the climb, or is passed on when there is nothing yet."""
    left = 0

    def limited(x):
        nonlocal left
        left -= len(x)
        if left < 0:
            raise BudgetExhausted("empty")
        return ridge(x)

    left = 10_000
    fit = build_bridge(limited, BASES, seed=0, checks=500, start=1e-3)
    assert "stopped" in fit.message
    left = 100
    with pytest.raises(BudgetExhausted):
        build_bridge(limited, BASES, seed=0, checks=500, start=1e-3)


def test_same_seed_same_bridge():
    once, twice = (build_bridge(gentle, BASES, seed=3, checks=500, start=0.2, most_layers=2) for _ in range(2))
    x = once.density.sample((20,), generator=seed(0))
    assert torch.equal(once.density.log_prob(x), twice.density.log_prob(x))
