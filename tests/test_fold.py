"""Densities that are their own image: one half is fitted, the answer is the even mixture of that and its image."""

import math

import pytest
import torch

import ttvi
from ttvi.geometry.coordinates import Coordinates
from ttvi.geometry.symmetry import SignedPermutation
from ttvi.stages.explore import explore
from ttvi.stages.fold import Half, fold
from ttvi.stages.plan import Plan
from ttvi.stages.search import Search
from ttvi.target import Target

DIM = 14
FOLDED = "its own image"


def factor():
    """Of a chain: every coordinate given the one before it."""
    lower = torch.eye(DIM, dtype=torch.float64)
    for k in range(DIM - 1):
        lower[k + 1, k] = 0.3 + 0.02 * k
    return lower / torch.linspace(0.5, 2, DIM, dtype=torch.float64)[:, None]


CENTRE = torch.linspace(3, 6, DIM, dtype=torch.float64)
TURN = SignedPermutation(torch.arange(DIM).flip(0), -1, torch.zeros(DIM).double(), torch.zeros(DIM).double())


def two_modes(weight):
    """A normalised mixture of a normal density and of its image under x ↦ −(x reversed)."""
    lower = factor()
    constant = float(lower.diagonal().log().sum()) - 0.5 * DIM * math.log(2 * math.pi)

    def log_density(x):
        one, two = (-0.5 * ((y - CENTRE) @ lower.T).square().sum(-1) + constant for y in (x, -x.flip(-1)))
        return torch.logaddexp(one + math.log(weight), two + math.log(1 - weight))

    return log_density


@pytest.fixture(scope="module")
def folded():
    return ttvi.fit(two_modes(0.5), dim=DIM, seed=0)


def test_the_even_mixture(folded):
    assert any(FOLDED in note for note in folded.diagnostics.geometry)
    assert folded.verdict.level == "good"
    assert folded.diagnostics.ess > 0.99
    assert abs(folded.log_evidence[0]) < 3e-3
    x = folded.sample((20_000,), seed=1)
    assert abs(float((x.sum(-1) > 0).double().mean()) - 0.5) < 0.02
    assert float((folded.log_prob(x) - two_modes(0.5)(x)).abs().mean()) < 0.05


def test_the_answer_is_its_own_image(folded):
    x = folded.sample((500,), seed=2)
    torch.testing.assert_close(folded.log_prob(TURN(x)), folded.log_prob(x))


def test_it_is_kept(folded, tmp_path):
    folded.save(tmp_path / "posterior")
    loaded = ttvi.load(tmp_path / "posterior")
    x = folded.sample((50,), seed=3)
    torch.testing.assert_close(loaded.log_prob(x), folded.log_prob(x))
    torch.testing.assert_close(loaded.sample((5,), seed=4), folded.sample((5,), seed=4))


def test_weights_that_differ_are_no_symmetry():
    posterior = ttvi.fit(two_modes(0.7), dim=DIM, seed=0, budget=60_000)
    assert not any(FOLDED in note for note in posterior.diagnostics.geometry)
    x = posterior.sample((20_000,), seed=1)
    assert abs(float((x.sum(-1) > 0).double().mean()) - 0.7) < 0.05


def low_barrier(x):
    """Two modes of one coordinate, an oblique one, half a nat above what is between them."""
    return -0.5 * x.square().sum(-1) + 0.5 * torch.log(torch.cosh(2.5 * x.mean(-1) * math.sqrt(DIM)))


def filled_between(x):
    """A tenth of the mass lies around both modes and between them."""
    wide = -0.5 * (x / 4).square().sum(-1) - DIM * (0.5 * math.log(2 * math.pi) + math.log(4))
    return torch.logaddexp(two_modes(0.5)(x) + math.log(0.9), wide + math.log(0.1))


@pytest.mark.parametrize("log_density", [low_barrier, filled_between])
def test_modes_that_touch_are_not_parted(log_density):
    """The cut would pass through the mass."""
    posterior = ttvi.fit(log_density, dim=DIM, seed=0, budget=60_000)
    assert not any(FOLDED in note for note in posterior.diagnostics.geometry)


def half():
    account = Target(two_modes(0.5), dim=DIM).session()
    return Half(account, TURN, CENTRE, factor())


def test_a_half_and_its_image_are_the_whole():
    x = torch.randn(200, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = half()
    torch.testing.assert_close(torch.logaddexp(one(x), one(TURN(x))) - math.log(2), two_modes(0.5)(x))


def test_a_half_has_one_mode():
    x = torch.stack([CENTRE, TURN(CENTRE)])
    share = half().log_share(x).exp()
    torch.testing.assert_close(share, torch.tensor([1.0, 0.0]).double(), atol=1e-6, rtol=0)


def test_the_other_half_is_the_image():
    x = torch.randn(200, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = half(), half().other()
    torch.testing.assert_close(other(TURN(x)), one(x))
    torch.testing.assert_close(other.centre, TURN(CENTRE))


def crosswise(x):
    """A 4 x 4 field whose rows are nearly constant where it is positive; its image under x ↦ −xᵀ has such columns."""

    def one(field):
        return -0.5 * (field.diff(dim=-1).square().sum((1, 2)) / 0.1 + (field - 4).square().sum((1, 2)))

    field = x.reshape(-1, 4, 4)
    return torch.logaddexp(one(field), one(-field.mT))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_half_of_less_rank_is_fitted(seed):
    """Neighbours in a row follow each other in the order of the coordinates, those in a column do not."""
    target = Target(crosswise, dim=16)
    plan = Plan(budget=None, tol=0.03, max_rank=64, geometry="auto", flow=True, certificate=1024)
    generator = torch.Generator().manual_seed(seed)
    search = Search(target.session(), Coordinates(target.support), plan, generator, gradient=True)
    explore(search, init=None, prior=None)
    assert fold(search) is not None
    assert float(search.cloud.points.mean()) > 3
    assert float(search.cloud.modes[0].mean()) > 3
    torch.testing.assert_close(search.cloud.values, search.target(search.cloud.points))


def test_slopes_of_a_half():
    x = torch.randn(20, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = half()
    values, slopes = one.value_and_gradient(x)
    torch.testing.assert_close(values, one(x))
    step = 1e-5
    for k in (0, 5, DIM - 1):
        h = step * torch.eye(DIM, dtype=torch.float64)[k]
        torch.testing.assert_close(slopes[:, k], (one(x + h) - one(x - h)) / (2 * step), rtol=1e-6, atol=1e-6)
