"""The transport both ways, and draws of every kind, against the distribution functions of dense quadrature."""

import math

import pytest
import scipy.stats
import torch
from cases import CASES, DEFENSIVE, TABLE, random_train

from ttvi.tt import Categorical, Fourier, Legendre, TensorTrain, TTDensity

EVERY = pytest.mark.parametrize(("name", "share"), TABLE, ids=[f"{name}-{share}" for name, share in TABLE])
CONTINUOUS = [name for name, case in CASES.items() if not any(basis.discrete for basis in case.bases)]
COUNT = 20_000


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def cube(count, dim, seed):
    return torch.rand(count, dim, generator=seeded(seed), dtype=torch.float64)


def assert_uniform(u):
    """Kolmogorov-Smirnov per coordinate, and no correlation between coordinates."""
    for k in range(u.shape[1]):
        assert scipy.stats.kstest(u[:, k].numpy(), "uniform").pvalue > 1e-4, k
    if u.shape[1] > 1:
        correlation = torch.corrcoef(u.T) - torch.eye(u.shape[1])
        assert float(correlation.abs().max()) < 5 / math.sqrt(len(u))


def spread(density, x, seed):
    """Levels of draws, the atoms of finite coordinates smeared over their jumps: uniform again."""
    u = density.rosenblatt(x)
    for k, basis in enumerate(density.bases):
        if basis.discrete:
            keep = list(range(k + 1))
            jump = (
                density.marginal(keep).log_prob(x[:, keep])
                - (density.marginal(keep[:-1]).log_prob(x[:, keep[:-1]]) if k else 0)
            ).exp()
            u[:, k] += jump * (cube(len(x), 1, seed + k)[:, 0] - 0.5)
    return u


# -- the map -----------------------------------------------------------------------------------------------------------


@EVERY
def test_there_and_back(name, share):
    case = CASES[name]
    density = case.density(share)
    u = cube(500, case.dim, seed=1)
    x = density.inverse_rosenblatt(u)
    assert all(basis.support.check(x[:, k]).all() for k, basis in enumerate(case.bases))
    again = density.rosenblatt(x)
    torch.testing.assert_close(density.inverse_rosenblatt(again), x, atol=1e-9, rtol=1e-9)
    smooth = [k for k, basis in enumerate(case.bases) if not basis.discrete]
    torch.testing.assert_close(again[:, smooth], u[:, smooth], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("share", DEFENSIVE)
def test_there_and_back_of_marginals_and_conditionals(share):
    density = CASES["mixed-5"].density(share)
    for other in (
        density.marginal([1, 2, 4]),
        density.marginal([0, 3]),
        density.condition({0: 1.0, 2: 1.0}),
        density.condition({4: 3.0}).marginal([0, 2]),
    ):
        x = other.inverse_rosenblatt(cube(200, len(other.bases), seed=2))
        torch.testing.assert_close(other.inverse_rosenblatt(other.rosenblatt(x)), x, atol=1e-9, rtol=1e-9)
    batch = density.condition({2: torch.tensor([0.0, 1.0, 2.0])})
    x = batch.inverse_rosenblatt(cube(200 * 3, 4, seed=3).view(200, 3, 4))
    torch.testing.assert_close(batch.inverse_rosenblatt(batch.rosenblatt(x)), x, atol=1e-9, rtol=1e-9)
    single = density.condition({2: 1.0})
    torch.testing.assert_close(batch.rosenblatt(x)[:, 1], single.rosenblatt(x[:, 1]), atol=1e-9, rtol=1e-9)


@EVERY
def test_the_first_level_is_the_distribution_function(name, share):
    case = CASES[name]
    density = case.density(share)
    x, w = case.grids[0]
    mass = case.integrate(case.dense(share), tuple(range(1, case.dim))) * w
    if case.bases[0].discrete:  # the middle of every jump
        expected, points = mass.cumsum(0) - 0.5 * mass, x
    else:
        # Gauss rule on [lower, t], mapped: the marginal is a polynomial or nearly one on every part
        points = density.inverse_rosenblatt(cube(5, case.dim, seed=4))[:, 0]
        marginal = density.marginal([0])
        lower = x.min() - 1 if not math.isfinite(getattr(case.bases[0], "lower", math.inf)) else case.bases[0].lower
        fractions = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
        inner = lower + (points - lower)[:, None] * fractions
        expected = marginal.log_prob(inner.unsqueeze(-1)).exp().mean(1) * (points - lower)
    rows = points[:, None].expand(-1, case.dim).clone()
    rows[:, 1:] = density.inverse_rosenblatt(cube(1, case.dim, seed=5))[:, 1:]
    torch.testing.assert_close(density.rosenblatt(rows)[:, 0], expected, atol=1e-4, rtol=0)


def test_the_jacobian_is_the_density():
    # A triangular map has the determinant of its diagonal: |du/dx| = q(x).
    for share in DEFENSIVE:
        density = CASES["line-and-circle-3"].density(share)
        x = density.sample((5,), generator=seeded(6))
        for point in x:
            jacobian = torch.autograd.functional.jacobian(density.rosenblatt, point)
            assert jacobian.triu(1).abs().max() < 1e-12
            torch.testing.assert_close(jacobian.diagonal().log().sum(), density.log_prob(point), atol=1e-8, rtol=1e-8)
            level = density.rosenblatt(point)
            inverse = torch.autograd.functional.jacobian(density.inverse_rosenblatt, level)
            torch.testing.assert_close(inverse @ jacobian, torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=1e-6)


def test_a_uniform_density_is_the_identity():
    bases = [Legendre(0.0, 1.0, size=3), Fourier(0.0, 1.0, size=3)]
    density = TTDensity.from_values(torch.ones(3, 3, dtype=torch.float64), bases, defensive=0.0)
    u = cube(50, 2, seed=7)
    torch.testing.assert_close(density.rosenblatt(u), u, atol=1e-12, rtol=0)
    torch.testing.assert_close(density.inverse_rosenblatt(u), u, atol=1e-12, rtol=0)


def test_a_linear_density_by_hand():
    # g = x on [0, 1]: q = 3 x², u = x³.
    basis = Legendre(0.0, 1.0, size=2)
    density = TTDensity(TensorTrain([(basis.nodes() * basis.weights().sqrt())[None, :, None]]), [basis], defensive=0.0)
    u = torch.tensor([[0.0], [0.001], [0.125], [0.729], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(
        density.inverse_rosenblatt(u),
        torch.tensor([[0.0], [0.1], [0.5], [0.9], [1.0]], dtype=torch.float64),
        atol=2e-5,
        rtol=0,
    )
    torch.testing.assert_close(density.inverse_rosenblatt(u[1:]), u[1:] ** (1 / 3), atol=1e-12, rtol=0)
    torch.testing.assert_close(float(density.log_prob(torch.tensor([0.5]))), math.log(0.75))


def test_the_ends_of_the_cube():
    density = CASES["mixed-4"].density(0.05)
    corners = torch.tensor([[0.0] * 4, [1.0] * 4], dtype=torch.float64)
    x = density.inverse_rosenblatt(corners)
    assert torch.isfinite(x).all()
    assert all(basis.support.check(x[:, k]).all() for k, basis in enumerate(density.bases))


# -- draws -------------------------------------------------------------------------------------------------------------


@EVERY
def test_levels_of_draws_are_uniform(name, share):
    density = CASES[name].density(share)
    x = density.sample((COUNT,), generator=seeded(8))
    assert_uniform(spread(density, x, seed=9))


@EVERY
def test_draws_follow_their_marginals(name, share):
    # Mode by mode against the cumulative sums of the dense density.
    case = CASES[name]
    x = case.density(share).sample((COUNT,), generator=seeded(10))
    for k, basis in enumerate(case.bases):
        grid, w = case.grids[k]
        mass = case.integrate(case.dense(share), tuple(j for j in range(case.dim) if j != k)) * w
        if basis.discrete:
            observed = torch.bincount(x[:, k].long(), minlength=basis.size)
            assert torch.equal(x[:, k], x[:, k].round())
            assert scipy.stats.chisquare(observed.numpy(), (COUNT * mass).numpy()).pvalue > 1e-4
        else:
            # Gauss weights separate the distribution function: at node i it lies between two cumulative sums.
            below = (x[:, k][None] < grid[:, None]).double().mean(1)
            noise = 4.5 * 0.5 / math.sqrt(COUNT)
            ends = mass.cumsum(0)
            assert ((below >= ends - mass - noise) & (below <= ends + noise)).all()


@pytest.mark.parametrize("name", CASES)
def test_sobol_points_are_uniform_and_better(name):
    case = CASES[name]
    density = case.density(0.05)
    x = density.sample((1 << 14,), generator=seeded(11), sobol=True)
    u = density.rosenblatt(x)
    for k, basis in enumerate(case.bases):
        if not basis.discrete:
            assert scipy.stats.kstest(u[:, k].numpy(), "uniform").statistic < 1e-3  # independent draws: 0.008
    scale = density.stddev
    assert ((x.mean(0) - density.mean).abs() / scale).max() < 3e-3  # independent draws: 1 / 128


@pytest.mark.parametrize("share", DEFENSIVE)
def test_draws_of_marginals_and_conditionals(share):
    density = CASES["mixed-5"].density(share)
    for other in (
        density.marginal([1, 2, 4]),
        density.condition({0: 1.0, 2: 1.0}),
        density.condition({4: 3.0}).marginal([0, 1, 3]),
    ):
        x = other.sample((COUNT,), generator=seeded(12))
        assert_uniform(spread(other, x, seed=13))
    marginal = density.marginal([0, 3])
    assert_uniform(marginal.rosenblatt(density.sample((COUNT,), generator=seeded(14))[:, [0, 3]]))
    batch = density.condition({2: torch.tensor([0.0, 2.0])})
    x = batch.sample((COUNT,), generator=seeded(15))
    for b, value in enumerate((0.0, 2.0)):
        assert_uniform(density.condition({2: value}).rosenblatt(x[:, b]))


def test_pairs_of_categories_chi_square():
    density = CASES["discrete-first-4"].density(0.05)
    table = torch.cartesian_prod(torch.arange(2.0), torch.arange(4.0)).double()
    probabilities = density.marginal([0, 2]).log_prob(table).exp()
    torch.testing.assert_close(float(probabilities.sum()), 1.0)
    x = density.sample((COUNT,), generator=seeded(16)).long()
    observed = torch.bincount(4 * x[:, 0] + x[:, 2], minlength=8)
    assert scipy.stats.chisquare(observed.numpy(), (COUNT * probabilities).numpy()).pvalue > 1e-4


def test_a_chain_of_categories_chi_square():
    bases = [Categorical(3), Categorical(2), Categorical(4)]
    train = random_train((3, 2, 4), (2, 3), seed=17)
    density = TTDensity(train, bases, defensive=0.1)
    table = torch.cartesian_prod(*[basis.nodes() for basis in bases])
    probabilities = density.log_prob(table).exp()
    x = density.sample((COUNT,), generator=seeded(18)).long()
    observed = torch.bincount(8 * x[:, 0] + 4 * x[:, 1] + x[:, 2], minlength=24)
    assert scipy.stats.chisquare(observed.numpy(), (COUNT * probabilities).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("share", DEFENSIVE)
def test_rsample_draws_from_the_density(name, share):
    density = CASES[name].density(share)
    assert_uniform(density.rosenblatt(density.rsample((COUNT,), generator=seeded(19))))


@pytest.mark.parametrize("sobol", [False, True])
def test_draws_follow_the_generator(sobol):
    density = CASES["mixed-5"].density(0.05)
    first, second = (density.sample((64,), generator=seeded(20), sobol=sobol) for _ in range(2))
    other = density.sample((64,), generator=seeded(21), sobol=sobol)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    torch.manual_seed(3)
    a = density.sample((8,), sobol=sobol)
    torch.manual_seed(3)
    assert torch.equal(density.sample((8,), sobol=sobol), a)


def test_float32_there_and_back():
    density = CASES["mixed-4"].density(0.05).to(dtype=torch.float32)
    u = cube(500, 4, seed=22).float()
    x = density.inverse_rosenblatt(u)
    assert x.dtype == torch.float32
    smooth = [0, 2, 3]
    torch.testing.assert_close(density.rosenblatt(x)[:, smooth], u[:, smooth], atol=1e-4, rtol=0)
