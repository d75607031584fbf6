"""Coordinates that the user's order scatters are fitted in one in which they follow from their neighbours."""

import math

import pytest
import torch

import ttvi
from ttvi.geometry.coordinates import Coordinates
from ttvi.geometry.exploration import Cloud
from ttvi.geometry.ordering import better_order
from ttvi.geometry.symmetry import SignedPermutation
from ttvi.stages.arrange import Arranged, arrange, in_given_order
from ttvi.stages.plan import Plan
from ttvi.stages.search import Fitted, Search
from ttvi.target import Target

DIM = 14
NOTE = "another order"
SCATTERED = torch.randperm(DIM, generator=torch.Generator().manual_seed(5))
PLAN = Plan(budget=None, tol=0.03, max_rank=64, geometry="auto", flow=True, certificate=1024)


def chain(x):
    """A random walk of unit steps from zero, normalised."""
    steps = torch.cat([x[:, :1], x.diff(dim=1)], 1)
    return -0.5 * steps.square().sum(1) - 0.5 * DIM * math.log(2 * math.pi)


def scattered(x):
    """Site k of the walk is coordinate SCATTERED[k]."""
    return chain(x[:, SCATTERED])


def walks(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, DIM, generator=generator, dtype=torch.float64).cumsum(1)


def search_of(log_density, support, points):
    """A search whose exploration has found these points."""
    target = Target(log_density, support=support)
    search = Search(
        target.session(), Coordinates(target.support), PLAN, torch.Generator().manual_seed(0), gradient=True
    )
    modes = torch.zeros(1, points.shape[1], dtype=torch.float64)
    values = search.target(points)
    search.cloud = Cloud(points, values, modes, search.target(modes), None, 1.0, 0.0)
    return search


def test_the_walk_is_found():
    found = better_order(walks(4000)[:, SCATTERED.argsort()], None)
    assert found is not None
    assert SCATTERED.argsort()[found.order].diff().abs().tolist() == [1] * (DIM - 1)
    assert found.information < 0.6 * found.given


def test_the_curvature_finds_it_too():
    """By a tridiagonal precision; the population says which order is better, and needs no more."""
    factor = torch.eye(DIM, dtype=torch.float64) - torch.diag(torch.ones(DIM - 1, dtype=torch.float64), -1)
    there = SCATTERED.argsort()
    found = better_order(walks(200)[:, there], (factor.T @ factor)[there][:, there])
    assert found is not None
    assert there[found.order].diff().abs().tolist() == [1] * (DIM - 1)


@pytest.mark.parametrize(
    "points", [walks(4000), torch.randn(4000, DIM, generator=torch.Generator().manual_seed(1)).double()]
)
def test_a_good_order_is_kept(points):
    assert better_order(points, None) is None


def test_slopes_in_another_order():
    target = Target(scattered, dim=DIM)
    nothing = torch.zeros(DIM, dtype=torch.float64)
    arranged = Arranged(target.session(), SignedPermutation(SCATTERED, 1, nothing, nothing))
    x = walks(5).requires_grad_(True)
    values, slopes = arranged.value_and_gradient(x.detach())
    torch.testing.assert_close(values, chain(x).detach())
    torch.testing.assert_close(slopes, torch.autograd.grad(chain(x).sum(), x)[0])
    torch.testing.assert_close(arranged(x.detach()), values)


def test_there_and_back():
    points = walks(2000)[:, SCATTERED.argsort()]
    search = search_of(scattered, [(ttvi.real, DIM)], points)
    arranged = arrange(search)
    assert arranged is not None
    torch.testing.assert_close(search.target(search.cloud.points), search.cloud.values)
    assert not torch.equal(search.cloud.points, points)
    base = torch.distributions.MultivariateNormal(torch.arange(DIM).double(), torch.eye(DIM).double())
    fitted = in_given_order(search, arranged, Fitted(base, 1.0, 0.0, "normal"))
    torch.testing.assert_close(search.cloud.points, points)
    assert search.density is search.account
    mean = torch.empty(DIM, dtype=torch.float64)
    mean[arranged.order.permutation] = torch.arange(DIM).double()
    torch.testing.assert_close(fitted.density.log_prob(mean), base.log_prob(base.mean))


@pytest.mark.parametrize(
    "support",
    [
        [ttvi.real] * (DIM - 1) + [ttvi.positive],
        [ttvi.circular(-40.0, 40.0)] * DIM,
        [ttvi.interval(-90.0, 90.0 + k) for k in range(DIM)],
    ],
)
def test_coordinates_of_several_kinds_stay(support):
    search = search_of(scattered, support, walks(2000)[:, SCATTERED.argsort()])
    assert arrange(search) is None
    assert search.density is search.account


@pytest.fixture(scope="module")
def posterior():
    return ttvi.fit(scattered, dim=DIM, seed=0)


def test_a_scattered_walk(posterior):
    assert any(NOTE in note for note in posterior.diagnostics.geometry)
    assert posterior.verdict.level == "good"
    assert abs(posterior.log_evidence[0]) < 3e-3
    x = posterior.sample((20_000,), seed=1)
    variance = x.var(0)[SCATTERED]
    torch.testing.assert_close(variance, torch.arange(1, DIM + 1).double(), rtol=0.05, atol=0)
    assert float((posterior.log_prob(x) - scattered(x)).abs().mean()) < 0.05


def test_it_is_kept(posterior, tmp_path):
    posterior.save(tmp_path / "walk")
    loaded = ttvi.load(tmp_path / "walk")
    x = posterior.sample((50,), seed=3)
    torch.testing.assert_close(loaded.log_prob(x), posterior.log_prob(x))
    torch.testing.assert_close(loaded.sample((5,), seed=4), posterior.sample((5,), seed=4))
