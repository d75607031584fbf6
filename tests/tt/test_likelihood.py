"""Densities from samples: against densities known in closed form, on rows that no fit has seen."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from ttvi.errors import ConvergenceWarning, SupportError
from ttvi.tt import Categorical, Fourier, Hermite, Legendre, Piecewise, SampleOptions, TTDensity
from ttvi.tt.ascent import Rows, Sweeper, log_mixture, log_square
from ttvi.tt.sample_bases import chosen_basis, frequencies, mode_matrix

BASES = [
    Legendre(-1.0, 2.0, size=9),
    Hermite(0.5, 2.0, size=9),
    Fourier(0.0, 1.0, size=9),
    Piecewise(0.0, 3.0, size=12),
]


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def normal(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - torch.log(torch.as_tensor(sd, dtype=x.dtype)) - 0.5 * math.log(2 * math.pi)


def gaussian(count, g, rho=0.8):
    z = torch.randn(count, 2, generator=g, dtype=torch.float64)
    return torch.stack([z[:, 0], rho * z[:, 0] + math.sqrt(1 - rho**2) * z[:, 1]], 1)


def gaussian_log_prob(x, rho=0.8):
    return normal(x[:, 0], 0.0, 1.0) + normal(x[:, 1], rho * x[:, 0], math.sqrt(1 - rho**2))


def ring(count, g):
    angle = torch.randint(8, (count,), generator=g) * math.pi / 4
    center = 2 * torch.stack([angle.cos(), angle.sin()], 1).double()
    return center + 0.2 * torch.randn(count, 2, generator=g, dtype=torch.float64)


def ring_log_prob(x):
    angle = torch.arange(8) * math.pi / 4
    center = 2 * torch.stack([angle.cos(), angle.sin()], 1).double()
    return torch.logsumexp(normal(x[:, None], center, 0.2).sum(-1), 1) - math.log(8)


# -- the parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", [*BASES, Categorical(5)], ids=lambda b: type(b).__name__)
def test_modes_are_orthonormal_and_sorted_by_frequency(basis):
    matrix = mode_matrix(basis)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64))
    assert bool((frequencies(basis).diff() >= -1e-9).all())


def test_frequencies_count_half_periods():
    """Piecewise: the eigenvalues of minus the second derivative with free ends, jumps punished."""
    torch.testing.assert_close(
        frequencies(Piecewise(0.0, 3.0, size=64))[:6], torch.arange(6.0).double() ** 2, rtol=0.01, atol=1e-6
    )
    assert frequencies(Fourier(0.0, 1.0, size=5)).tolist() == [0, 4, 4, 16, 16]


def test_every_sweep_raises_the_penalised_likelihood(g):
    x, bases, weight, share = gaussian(500, g), [Legendre(-6.0, 6.0, size=8)] * 2, 1e-2, 1e-2
    rows = Rows(
        [b(x[:, k]) @ mode_matrix(b).T for k, b in enumerate(bases)],
        torch.full((500,), -2 * math.log(12.0), dtype=torch.float64),
        torch.full((500,), 1 / 500, dtype=torch.float64),
    )
    penalties = [frequencies(b) for b in bases]
    sweeper, cores = Sweeper(penalties, 4, g), [torch.eye(8, dtype=torch.float64)[:1].unsqueeze(-1)] * 2
    scores = []
    for _ in range(6):
        cores = sweeper.sweep(cores, rows, weight, share, 1)  # growing, it prunes nothing
        table = torch.einsum("rns,smt->nm", *cores)
        rough = (table.square() * (penalties[0][:, None] + penalties[1])).sum() / table.square().sum()
        values = torch.einsum("mi,ij,mj->m", rows.features[0], table / table.norm(), rows.features[1])
        torch.testing.assert_close(log_square(cores, rows), values.square().log(), rtol=1e-6, atol=1e-6)
        score = rows.weight @ log_mixture(log_square(cores, rows), rows, share)
        scores.append(float(score - torch.log1p(weight * rough)))
    assert all(after > before - 1e-12 for before, after in zip(scores, scores[1:], strict=False))


def test_penalties_follow_what_the_modes_carry():
    """Evidence: lambda nu^2 = gamma / 2mE. At E = gamma / 4m, the energy of pure noise, that is 2; bounded where E = 0."""
    sweeper = Sweeper([torch.arange(4, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)], 1, None)
    count, gamma = 1000.0, 3.0
    sweeper.freedom = [torch.full((4,), gamma, dtype=torch.float64), torch.ones(2, dtype=torch.float64)]
    sweeper.energies = [torch.full((4,), gamma / (4 * count), dtype=torch.float64), torch.ones(2, dtype=torch.float64)]
    sweeper.learn(count, 1.0, 1e-3)
    torch.testing.assert_close(1e-3 * sweeper.penalties[0], torch.full((4,), 2.0, dtype=torch.float64))
    assert not sweeper.penalties[1].any()  # a finite set
    sweeper.energies[0] = torch.zeros(4, dtype=torch.float64)
    sweeper.learn(count, 1.0, 1e-3)
    assert bool(torch.isfinite(sweeper.penalties[0]).all())
    assert float(1e-3 * sweeper.penalties[0].min()) > 10


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("Legendre", lambda u: u.rand()),
        ("Hermite", lambda u: u.normal()),
        ("Hermite", lambda u: u.normal().sinh()),
        ("Legendre", lambda u: u.rand() ** 2),
    ],
)
def test_the_ends_of_the_data_choose_the_basis(name, column, g):
    class Draws:
        def rand(self):
            return torch.rand(5000, generator=g, dtype=torch.float64)

        def normal(self):
            return torch.randn(5000, generator=g, dtype=torch.float64)

    basis = chosen_basis(column(Draws()), 1e-3)
    assert type(basis).__name__ == name
    if isinstance(basis, Legendre):
        assert -0.01 < basis.lower < 1e-3
        assert 0.999 < basis.upper < 1.01


# -- fits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 0.03), (torch.float32, 0.03)])
def test_gaussian(dtype, limit, g):
    x, fresh = gaussian(4000, g), gaussian(4000, g)
    density = TTDensity.fit_samples(x, dtype=dtype, seed=0)
    assert density.dtype == dtype
    value = density.log_prob(fresh).double()
    assert float((gaussian_log_prob(fresh) - value).mean()) < limit
    info = density.info
    assert info.converged
    assert info.num_held_out == 400
    assert info.ranks == density.train.ranks
    together = 0.9 * info.log_likelihood + 0.1 * info.held_out  # the report speaks of the density that is returned
    assert float(density.log_prob(x).mean()) == pytest.approx(together, abs=1e-9 if dtype == torch.float64 else 1e-4)


def test_tables_of_finite_columns_are_frequencies(g):
    """Indicators carry no penalty: the square of a train of full rank can be any table of probabilities."""
    table = torch.tensor([[0.3, 0.0, 0.1], [0.05, 0.25, 0.3]], dtype=torch.float64)
    x = torch.multinomial(table.flatten(), 20_000, replacement=True, generator=g)
    x = torch.stack([x // 3, x % 3], 1).double()
    density = TTDensity.fit_samples(x, [Categorical(2), Categorical(3)], seed=0)
    cells = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0)).double()
    torch.testing.assert_close(density.log_prob(cells).exp().view(2, 3), table, atol=0.01, rtol=0)


def test_weights_count_rows(g):
    """Samples of N(0, 1) weighted into samples of N(1, 1)."""
    x = torch.randn(20_000, 1, generator=g, dtype=torch.float64)
    density = TTDensity.fit_samples(x, weights=(x[:, 0] - 0.5).exp(), seed=0)
    assert float(density.mean) == pytest.approx(1.0, abs=0.05)
    assert float(density.variance) == pytest.approx(1.0, abs=0.08)


def test_a_label_and_a_measurement(g):
    """p(label | x) of two overlapping classes is a logistic curve."""
    label = (torch.rand(8000, generator=g) < 0.3).double()
    x = torch.stack([label, 2 * label + torch.randn(8000, generator=g, dtype=torch.float64)], 1)
    density = TTDensity.fit_samples(x, [Categorical(2), None], seed=0)
    at = torch.linspace(-1, 3, 9, dtype=torch.float64)
    share = density.condition({1: at}).log_prob(torch.ones(1, dtype=torch.float64)).exp()
    torch.testing.assert_close(share, torch.sigmoid(2 * at - 2 + math.log(3 / 7)), atol=0.06, rtol=0)


@pytest.mark.filterwarnings("ignore::ttvi.errors.ConvergenceWarning")
def test_a_long_chain_does_not_underflow(g):
    steps = [torch.randn(2000, generator=g, dtype=torch.float64)]
    for _ in range(19):
        steps.append(0.6 * steps[-1] + 0.8 * torch.randn(2000, generator=g, dtype=torch.float64))
    x = 1e-6 * torch.stack(steps, 1)
    options = SampleOptions(search=False, sweeps=2)
    density = TTDensity.fit_samples(x[:1000], [Hermite(0.0, 1e-6, size=5)] * 20, max_rank=2, seed=0, options=options)
    exact = normal(x[:, 0], 0.0, 1e-6) + normal(x[:, 1:], 0.6 * x[:, :-1], 0.8e-6).sum(-1)
    product = normal(x, 0.0, 1e-6).sum(-1)
    gained = (density.log_prob(x[1000:]) - product[1000:]).mean() / (exact - product)[1000:].mean()
    assert 0.8 < float(gained) < 1.0


@pytest.mark.filterwarnings("ignore::ttvi.errors.ConvergenceWarning")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: torch.cat([x, torch.full_like(x[:1], 1e8)]),
        lambda x: x / x[:, :1].square(),  # tails without a mean
        lambda x: x.round(),
        lambda x: x[:1].expand(len(x), -1) + 1e-9 * x,
        lambda x: x[:20],
        lambda x: x.clamp(-0.5, 0.5),
    ],
    ids=["outlier", "heavy tails", "ties", "far from zero", "few", "clipped"],
)
def test_awkward_data_give_finite_densities(spoil, g):
    x = spoil(gaussian(600, g))
    density = TTDensity.fit_samples(x, max_rank=4, seed=0)
    assert bool(torch.isfinite(density.log_prob(x)).all())
    assert bool(torch.isfinite(density.sample((100,), generator=g)).all())
    assert math.isfinite(density.info.held_out)


@pytest.mark.filterwarnings("ignore::ttvi.errors.ConvergenceWarning")
def test_the_same_seed_gives_the_same_density(g):
    x = gaussian(500, g)
    first, second = (TTDensity.fit_samples(x, seed=3, max_rank=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.train.cores, second.train.cores, strict=True))


def test_noise_stays_rank_one(g):
    x = torch.rand(2000, 3, generator=g, dtype=torch.float64)
    density = TTDensity.fit_samples(x, seed=0)
    fresh = 0.01 + 0.98 * torch.rand(2000, 3, generator=g, dtype=torch.float64)
    assert abs(float(density.log_prob(fresh).mean())) < 0.03  # the truth is zero
    assert max(density.train.ranks) <= 2


# -- what it says ----------------------------------------------------------------------------------------------------------


def test_limits_are_reported(g, capsys):
    x = ring(3000, g)
    with pytest.warns(ConvergenceWarning, match="fit_samples: rank-limited: .*raise max_rank"):
        density = TTDensity.fit_samples(x, max_rank=2, seed=0, options=SampleOptions(search=False), progress=True)
    assert density.info.status == "rank-limited"
    assert not density.info.converged
    assert [max(record.ranks) for record in density.info.history][:2] == [1, 2]
    assert capsys.readouterr().err.count("fit_samples: rank") == len(density.info.history)
    with pytest.warns(ConvergenceWarning, match="out of time: .*raise seconds"):
        density = TTDensity.fit_samples(x, seconds=1e-9, seed=0)
    assert bool(torch.isfinite(density.log_prob(x)).all())


X = torch.linspace(0.1, 0.9, 40, dtype=torch.float64)[:, None].expand(-1, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [[1.0]]}, TypeError, "expected a real tensor; got list"),
        ({"x": X[:5]}, ValueError, r"m >= 20; got \(5, 2\)"),
        ({"x": X[:, 0]}, ValueError, r"shape \(m, d\).*One row per sample"),
        ({"x": torch.where(X > 0.85, torch.nan, X)}, ValueError, "got 3 rows with NaN.*Drop those rows"),
        ({"x": X * 0}, ValueError, "expected column 0 to vary; got the value 0.0"),
        ({"bases": [Legendre(0.0, 1.0)]}, ValueError, "expected 2 bases.*One per column"),
        ({"bases": [None, "Legendre"]}, ValueError, "expected 2 bases"),
        ({"bases": [None, Legendre(0.0, 0.5)]}, SupportError, "expected column 1 in the support of.*Widen the basis"),
        ({"bases": [None, Categorical(3)]}, SupportError, "column 1"),
        ({"weights": torch.ones(3)}, ValueError, r"weights of shape \(40,\); got \(3,\)"),
        ({"weights": -torch.ones(40)}, ValueError, "expected finite weights >= 0"),
        ({"max_rank": 0}, ValueError, "max_rank to be a positive integer; got 0"),
        ({"tol": -1.0}, ValueError, "tol >= 0"),
        ({"validation": 1.0}, ValueError, "0 < validation < 1"),
        ({"seconds": 0.0}, ValueError, "seconds > 0"),
        ({"dtype": torch.int64}, TypeError, "floating-point dtype"),
        ({"seed": 0, "generator": torch.Generator()}, ValueError, "generator= or seed="),
    ],
)
def test_errors_say_what_to_do(arguments, error, message):
    with pytest.raises(error, match=f"fit_samples: .*{message}"):
        TTDensity.fit_samples(**{"x": X, **arguments})


# -- what it must show ----------------------------------------------------------------------------------------------------


def test_eight_modes(g):
    fresh = ring(5000, g)
    density = TTDensity.fit_samples(ring(8000, g), seed=0)
    assert float((ring_log_prob(fresh) - density.log_prob(fresh)).mean()) < 0.05


@pytest.mark.slow
def test_checkerboard(g):
    def board(count):
        x = 8 * torch.rand(count, generator=g, dtype=torch.float64) - 4
        row = 2 * torch.randint(2, (count,), generator=g) + (torch.floor((x + 4) / 2).long() % 2)
        return torch.stack([x, 2 * (row + torch.rand(count, generator=g, dtype=torch.float64)) - 4], 1)

    density = TTDensity.fit_samples(board(50_000), seed=0)
    assert -math.log(32) - float(density.log_prob(board(10_000).clamp(-3.999, 3.999)).mean()) < 0.06


def test_one_fit_serves_every_observation(g):
    """y = θ² + noise: p(θ | y) has two modes; coverage of highest-density sets and log-likelihood against quadrature."""

    def joint(count):
        theta = 4 * torch.rand(count, generator=g, dtype=torch.float64) - 2
        return torch.stack([theta, theta**2 + 0.4 * torch.randn(count, generator=g, dtype=torch.float64)], 1)

    density = TTDensity.fit_samples(joint(15_000), seed=0)
    theta, y = joint(1000).unbind(1)
    grid = torch.linspace(-2, 2, 401, dtype=torch.float64)[:-1] + 0.005
    exact = normal(y, (grid**2)[:, None], 0.4).softmax(0)  # (grid, observations)
    posterior = density.condition({1: y})
    fitted = posterior.log_prob(grid[:, None, None]).softmax(0)
    order = fitted.argsort(0, descending=True)
    for level in (0.5, 0.8, 0.9, 0.95):
        inside = fitted.gather(0, order).cumsum(0) <= level
        covered = torch.where(inside, exact.gather(0, order), 0).sum(0)
        assert float(covered.mean()) == pytest.approx(level, abs=0.02)
    log_exact = normal(y, theta**2, 0.4) - torch.logsumexp(normal(y, (grid**2)[:, None], 0.4), 0) - math.log(0.01)
    assert float((log_exact - posterior.log_prob(theta[:, None])).mean()) < 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert posterior.sample((3,), generator=g).shape == (3, 1000, 1)
