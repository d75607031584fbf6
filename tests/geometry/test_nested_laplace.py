"""Grids of a few leading coordinates and Laplace's method for the others: against exact marginals and precisions."""

import math
from types import SimpleNamespace

import pytest
import torch

import ttvi
from ttvi.geometry.assessment import Assessment
from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.mixing import Triangular
from ttvi.geometry.nested_laplace import _continued, leading_columns, nested_laplace
from ttvi.stages.nest import MISSED, _missed
from ttvi.supports import Support


def pullback(log_density, dim):
    def value_and_gradient(x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            values = log_density(leaf)
            (slopes,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), slopes

    return Pullback(Coordinates(Support.parse(dim=dim)), log_density, value_and_gradient)


def funnel(x):
    """Normalised: v is coordinate 2, of standard deviation 3."""
    v = x[:, 2]
    others = x[:, [0, 1, 3]]
    return (
        -0.5 * (v / 3).square()
        - math.log(3)
        - 0.5 * others.square().sum(1) * torch.exp(-v)
        - 1.5 * v
        - 2 * math.log(2 * math.pi)
    )


def draws(count, lowest):
    """Of the funnel, but without the part below ``lowest``, as a population that never got there."""
    noise = torch.randn(4 * count, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = 3 * noise[:, 2]
    x = noise * torch.exp(0.5 * v)[:, None]
    x[:, 2] = v
    return x[v > lowest][:count]


def test_a_neck_is_followed_to_its_end_whether_or_not_the_population_has_been_there():
    found = nested_laplace(pullback(funnel, 4), [2], draws(1000, lowest=-1.0), 10_000)
    v = found.mixing.loc + found.mixing.scale * found.nodes[:, 0]
    assert float(v.min()) < -12
    assert float(v.max()) > 12
    exact = -0.5 * (v / 3).square() - math.log(3) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found.log_marginal, exact, rtol=0, atol=1e-6)
    s, log_prob = found.sample(4000, torch.Generator().manual_seed(1))
    t, volume = found.mixing.forward(s)
    log_weights = funnel(t) + volume - log_prob
    assert abs(float(torch.logsumexp(log_weights, 0)) - math.log(4000)) < 0.01
    assert float(log_weights.std()) < 0.2


@pytest.mark.parametrize("both", [True, False])
def test_a_population_that_it_has_nothing_for_is_noticed(both):
    """A second funnel far away, which Laplace's method from inside the first knows nothing of: half of the population, or none."""

    def two(x):
        return torch.logaddexp(funnel(x), funnel(x - 40 * torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=x.dtype)))

    points = draws(1000, lowest=-6.0)
    points = points[points[:, 2] < 3]
    target = pullback(two, 4)
    made = nested_laplace(target, [2], points, 10_000)
    s, log_prob = made.sample(2000, torch.Generator().manual_seed(1))
    t, volume = made.mixing.forward(s)
    weighed = SimpleNamespace(made=made, weights=Assessment.of(s, target(t) + volume - log_prob))
    if both:
        points = torch.cat([points, points + 40 * torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)])
    search = SimpleNamespace(cloud=SimpleNamespace(points=points, values=target(points)))
    missed = _missed(search, weighed)
    assert 0.4 < missed < 0.6 if both else missed < MISSED


def test_two_leading_coordinates_and_a_precision_that_depends_on_both():
    def log_density(x):
        a, b, others = x[:, 3], x[:, 0], x[:, [1, 2, 4]]
        steps = torch.diff(torch.cat([b[:, None], others], 1), dim=1)
        return (
            -0.5 * (a**2 + b**2)
            - 0.5 * steps.square().sum(1) * torch.exp(-a)
            - 0.5 * (others - 1).square().sum(1)
            - torch.log1p(torch.exp(-a))
        )

    points = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = nested_laplace(pullback(log_density, 5), [3, 0], points, 100_000)
    assert found.mixing.order.tolist() == [3, 0, 1, 2, 4]
    s = torch.tensor([[0.7, -0.4, 0.0, 0.0, 0.0]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: found.mixing.forward(z)[0], s[0])[:, 2:]
    t = found.mixing.forward(s)[0]
    rows = [1, 2, 4]
    hessian = torch.autograd.functional.hessian(lambda z: log_density(z[None])[0], t[0])[rows][:, rows]
    torch.testing.assert_close(jacobian[rows].T @ -hessian @ jacobian[rows], torch.eye(3).double(), rtol=0, atol=5e-3)
    # The maximum, between nodes: the gradient is a small part of a standard deviation.
    leaf = t.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(log_density(leaf).sum(), leaf)
    assert float((slope[0, rows] @ jacobian[rows]).abs().max()) < 5e-3


def test_a_limit_that_does_not_hold_the_grid_gives_nothing():
    assert nested_laplace(pullback(funnel, 4), [2], draws(1000, lowest=-1.0), 50) is None


def test_the_column_that_the_scales_of_others_depend_on_leads():
    points = draws(4000, lowest=-20.0)
    mixing, _ = Triangular.fit(points, torch.ones(4, dtype=torch.bool), torch.tensor([2, 0, 1, 3]))
    assert leading_columns(mixing) == [2]
    plain = torch.randn(4000, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert leading_columns(Triangular.fit(plain, torch.ones(4, dtype=torch.bool), torch.arange(4))[0]) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_the_evidence_of_a_hierarchical_model_with_a_neck_is_that_of_quadrature(seed):
    """Eight groups, three observations near each other in all: the scale of the groups may be anything down to zero."""
    data = torch.tensor([0.3, -0.2, 0.5, 0.1, -0.4, 0.2, 0.0, 0.4], dtype=torch.float64)
    noise = 0.5

    def log_density(x):
        log_scale, groups = x[:, 0], x[:, 1:]
        prior = -0.5 * (groups * torch.exp(-log_scale)[:, None]).square().sum(1) - 8 * log_scale
        return -0.5 * (log_scale / 1.5).square() + prior - 0.5 * ((data - groups) / noise).square().sum(1)

    grid = torch.linspace(-15, 15, 20_001, dtype=torch.float64)
    total = torch.exp(2 * grid) + noise**2  # of the variance, with the groups integrated out
    log_integrand = (
        -0.5 * (grid / 1.5).square()
        - 0.5 * (data.square()[:, None] / total).sum(0)
        - 4 * total.log()
        + 8 * math.log(noise)
        + 4 * math.log(2 * math.pi)
    )
    exact = float(torch.logsumexp(log_integrand, 0) + torch.log(grid[1] - grid[0]))
    posterior = ttvi.fit(log_density, dim=9, seed=seed)
    assert abs(posterior.log_evidence[0] - exact) < 0.005
    assert posterior.diagnostics.ess > 0.98
    assert posterior.verdict.level == "good"


def test_scales_go_on_where_the_grid_ends_early():
    """Corners that the limit left out: flat there, the map would be flat for ever beyond, and the density a spike."""
    slopes = torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=torch.float64)  # of two log scales in two leading columns

    def node(*key):
        log_scales = 3 + torch.tensor(key, dtype=torch.float64) @ slopes
        return torch.zeros(2), torch.diag(log_scales.exp()), 0.0

    known = {key: node(*key) for key in [(0, 0), (1, 0), (0, 1), (1, 1)]}
    gain = _continued(known, [-2, 4], [0, 1])
    torch.testing.assert_close(gain, torch.tensor([-2.0, 3.0], dtype=torch.float64) @ slopes)
    assert float(_continued(known, [1, 0], [1, 0]).abs().max()) == 0
    assert float(_continued({(0, 0): node(0, 0)}, [0, 3], [0, 0]).abs().max()) == 0  # nothing to continue from
