"""Fits of densities against exact answers, and the promises of a fit: budgets, reports, reproducibility."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.special import ive

from ttvi.errors import ConvergenceWarning
from ttvi.tt import Categorical, CrossInfo, CrossOptions, Fourier, Hermite, Legendre, Piecewise, SweepRecord, TTDensity
from ttvi.tt.sweep import _split


class Recorder:
    """A log-density that remembers every row it saw."""

    def __init__(self, function):
        self.function, self.batches = function, []

    def __call__(self, x):
        self.batches.append(x.clone())
        return self.function(x)

    @property
    def rows(self):
        return torch.cat(self.batches)


def chain_precision(d, coupling=0.7):
    off = torch.full((d - 1,), -coupling, dtype=torch.float64)
    return torch.diag(torch.full((d,), 1 + coupling**2, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)


def gaussian_chain(d):
    """Log-density of a correlated Gaussian and its log evidence on the whole space."""
    precision = chain_precision(d)
    log_z = 0.5 * d * math.log(2 * math.pi) - 0.5 * float(torch.logdet(precision))
    return (lambda x: -0.5 * ((x @ precision.to(x.dtype)) * x).sum(1)), log_z


def ginzburg_landau(x):
    """Double wells at -1 and 1, squared differences of neighbours, both ends (which carry a well, too) held at zero."""
    padded = torch.nn.functional.pad(x, (1, 1))
    h = 1 / (x.shape[1] + 1)
    bonds = 0.5 * 0.03 * (padded.diff(dim=1) / h).square().sum(1)
    wells = (1 - padded[:, 1:].square()).square().sum(1) / (4 * 0.03)
    return -(bonds + wells) / 8


# -- exact answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "basis",
    [Legendre(-8.0, 8.0, size=48), Hermite(size=24), Legendre(-8.0, 8.0)],
    ids=["legendre", "hermite", "unsized"],
)
def test_gaussian_chain(basis):
    log_density, log_z = gaussian_chain(5)
    density = TTDensity.fit(log_density, [basis] * 5, tol=1e-5, seed=1)
    assert density.info.status == "converged"
    assert density.info.error < 3e-5
    assert density.info.ess > 0.999
    assert float(density.log_evidence) == pytest.approx(log_z, abs=2e-5)
    torch.testing.assert_close(density.covariance, torch.linalg.inv(chain_precision(5)), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(density.mean, torch.zeros(5, dtype=torch.float64), atol=1e-4, rtol=0)


def test_two_separated_gaussians():
    centers = torch.tensor([[-5.0, 4.0, -4.0, 5.0], [5.0, -4.0, 4.0, -5.0]], dtype=torch.float64)
    widths, masses = torch.tensor([0.6, 0.9], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)

    def log_density(x):
        squares = (x[:, None] - centers).square().sum(2) / widths.square()
        return torch.logsumexp(-0.5 * squares - 4 * widths.log() - 2 * math.log(2 * math.pi) + masses.log(), 1)

    density = TTDensity.fit(log_density, [Legendre(-10.0, 10.0, size=80)] * 4, seed=2)
    assert density.info.converged
    assert float(density.log_evidence) == pytest.approx(0.0, abs=1e-4)
    first = density.marginal([0])
    grid = torch.linspace(-10, 0, 4001, dtype=torch.float64)[:, None]
    left = float(torch.trapezoid(first.log_prob(grid).exp(), grid[:, 0]))
    assert left == pytest.approx(0.3, rel=0.01)
    assert 1 - left == pytest.approx(0.7, rel=0.01)


def test_ring_of_angles():
    # The XY model on a ring: the transfer operator is a convolution, its eigenvalues are Bessel functions.
    d, coupling = 8, 1.0
    log_z = float(
        d * (math.log(2 * math.pi) + coupling) + math.log(sum(float(ive(k, coupling)) ** d for k in range(-40, 41)))
    )
    density = TTDensity.fit(
        lambda x: coupling * torch.cos(x - x.roll(1, 1)).sum(1),
        [Fourier(-math.pi, math.pi, size=15)] * d,
        tol=1e-3,
        seed=3,
    )
    assert density.info.converged
    assert float(density.log_evidence) == pytest.approx(log_z, abs=3e-4)


def test_spins_in_a_random_field():
    # Spins -1, +1 on a chain, each pulled by a continuous field h_0: enumerate the spins, integrate the field.
    d = 6
    fields = torch.randn(d, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def log_density(x):
        field, spins = x[:, 0], 2 * x[:, 1:] - 1
        return (
            (0.8 * spins[:, 1:] * spins[:, :-1]).sum(1)
            + (spins * fields.to(x.dtype)).sum(1)
            + field * spins.sum(1) / d
            - 0.5 * field.square()
        )

    bases = [Legendre(-9.0, 9.0, size=50), *[Categorical(2)] * d]
    density = TTDensity.fit(log_density, bases, tol=1e-6, seed=4)
    t, w = np.polynomial.legendre.leggauss(200)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=d)), dtype=torch.float64)
    nodes, weights = torch.as_tensor(9 * t), torch.as_tensor(9 * w)
    table = torch.stack(
        [
            log_density(torch.cat([torch.full((len(states), 1), float(h), dtype=torch.float64), states], 1)).exp()
            for h in nodes
        ]
    )
    joint = weights @ table
    assert density.info.converged
    assert float(density.log_evidence) == pytest.approx(math.log(float(joint.sum())), abs=1e-5)
    spins = density.marginal(range(1, d + 1))
    torch.testing.assert_close(spins.log_prob(states).exp(), joint / joint.sum(), atol=1e-5, rtol=1e-4)


def test_ginzburg_landau():
    # The exact number by a transfer operator on a fine grid.
    d = 8
    t, w = np.polynomial.legendre.leggauss(400)
    x, w = 2.5 * t, 2.5 * w
    h = 1 / (d + 1)
    bond = lambda a, b: 0.125 * 0.03 * 0.5 * ((a - b) / h) ** 2  # noqa: E731
    well = np.exp(-0.125 * (1 - x**2) ** 2 / (4 * 0.03)) * w
    state = np.exp(-bond(0.0, x))
    for _ in range(d - 1):
        state = np.exp(-bond(x[:, None], x[None])) @ (well * state)
    log_z = math.log(np.sum(np.exp(-bond(x, 0.0)) * well * state)) - 0.125 / (4 * 0.03)
    assert log_z == pytest.approx(2.5445525071, abs=1e-9)
    density = TTDensity.fit(ginzburg_landau, [Legendre(-2.5, 2.5, size=48)] * d, tol=1e-5, seed=5)
    assert density.info.converged
    assert float(density.log_evidence) == pytest.approx(log_z, abs=2e-5)
    assert density.info.ess > 0.9999


def test_one_dimension():
    density = TTDensity.fit(lambda x: -x[:, 0].square() / 2, [Legendre(-9.0, 9.0, size=60)], seed=6)
    assert density.info.converged
    assert float(density.log_evidence) == pytest.approx(0.5 * math.log(2 * math.pi), abs=1e-7)
    unsized = TTDensity.fit(lambda x: torch.cos(x[:, 0]), [Fourier(-math.pi, math.pi)], seed=6)
    assert float(unsized.log_evidence) == pytest.approx(math.log(2 * math.pi * ive(0, 1.0)) + 1, abs=1e-6)


def test_one_category():
    density = TTDensity.fit(lambda x: torch.log(x[:, 0] + 1), [Categorical(4)], seed=6)
    torch.testing.assert_close(
        density.log_prob(torch.arange(4.0)[:, None]).exp(),
        torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64),
        atol=1e-6,
        rtol=0,
    )


def test_float32():
    log_density, log_z = gaussian_chain(4)
    density = TTDensity.fit(log_density, [Legendre(-8.0, 8.0, size=40)] * 4, tol=1e-3, seed=7, dtype=torch.float32)
    assert density.dtype == torch.float32
    assert density.info.points().dtype == torch.float32
    assert float(density.log_evidence) == pytest.approx(log_z, abs=1e-3)
    assert density.info.converged


def test_far_from_zero_and_far_below_it():
    # Adding a constant to the log-density adds it to the log evidence, however large.
    log_density, log_z = gaussian_chain(3)
    for shift in (-1e4, 1e4):
        density = TTDensity.fit(lambda x, s=shift: log_density(x) + s, [Legendre(-8.0, 8.0, size=48)] * 3, seed=8)
        assert float(density.log_evidence) == pytest.approx(log_z + shift, abs=1e-4)


def test_holes_of_zero_density():
    # A uniform density on the part of a square where both coordinates have the same sign: area 2.
    density = TTDensity.fit(
        lambda x: torch.where(x.prod(1) > 0, 0.0, -torch.inf).to(x.dtype),
        [Piecewise(-1.0, 1.0, size=8)] * 2,
        seed=9,
        defensive=0.0,
    )
    assert float(density.log_evidence) == pytest.approx(math.log(2), abs=1e-10)
    x = density.sample((1000,), generator=torch.Generator().manual_seed(0))
    assert (x.prod(1) > 0).all()


def test_nan_is_counted_and_zero():
    def log_density(x):
        return torch.where(x[:, 0] > 0, torch.log(x[:, 0]) * 0, torch.nan)

    record = Recorder(log_density)
    density = TTDensity.fit(record, [Piecewise(-1.0, 1.0, size=8), Legendre(0.0, 1.0, size=4)], seed=10)
    assert density.info.num_invalid == int((record.rows[:, 0] <= 0).sum()) > 0
    assert float(density.log_evidence) == pytest.approx(0.0, abs=1e-8)
    assert not torch.isnan(density.info.values).any()


# -- sizes, starts -----------------------------------------------------------------------------------------------------


def test_sizes_are_chosen_per_coordinate():
    # Widths 0.1 and 1 on the same interval, and a coordinate whose size was given.
    def log_density(x):
        return -0.5 * ((x[:, 0] / 0.1).square() + x[:, 1].square() + x[:, 2].square())

    density = TTDensity.fit(
        log_density, [Legendre(-6.0, 6.0), Legendre(-6.0, 6.0), Legendre(-6.0, 6.0, size=41)], seed=11
    )
    sizes = density.info.mode_sizes
    assert sizes[2] == 41
    assert sizes[0] > 2 * sizes[1]
    assert tuple(basis.size for basis in density.bases) == sizes == density.train.mode_sizes
    assert density.info.converged
    assert float(density.log_evidence) == pytest.approx(1.5 * math.log(2 * math.pi) + math.log(0.1), abs=1e-5)


def needle(x):
    """A wide hill, and a needle of the same mass in a corner of the cube."""
    d = x.shape[1]
    wide = -0.5 * (x + 2.0).square().sum(1)
    narrow = -0.5 * ((x - 3.5) / 0.15).square().sum(1) - d * math.log(0.15)
    return torch.logaddexp(wide, narrow)


def test_init_points_find_a_needle():
    d = 6
    bases = [Piecewise(-8.0, 8.0, size=160)] * d
    point = torch.full((1, d), 3.5, dtype=torch.float64)
    found = TTDensity.fit(needle, bases, tol=1e-2, seed=12, init_points=point)
    exact = math.log(2) + 0.5 * d * math.log(2 * math.pi)
    assert float(found.log_evidence) == pytest.approx(exact, abs=0.01)
    missed = TTDensity.fit(needle, bases, tol=1e-2, seed=12)  # three in ten million of the volume
    assert float(missed.log_evidence) == pytest.approx(exact - math.log(2), abs=0.01)


def test_init_points_also_choose_the_sizes():
    """Far narrower than the cells of the pilot grid: only slices through the point itself see the needle."""

    def narrow(x):
        d = x.shape[1]
        wide, thin = -0.5 * x.square().sum(1), -0.5 * ((x - 1.7) / 0.05).square().sum(1) - d * math.log(0.05)
        return torch.logaddexp(wide, thin)

    point = torch.full((1, 4), 1.7, dtype=torch.float64)
    density = TTDensity.fit(narrow, [Legendre(-6.0, 6.0)] * 4, tol=1e-3, seed=0, init_points=point)
    assert density.info.converged
    assert min(density.info.mode_sizes) > 200
    assert float(density.log_evidence) == pytest.approx(math.log(2) + 2 * math.log(2 * math.pi), abs=1e-2)


# -- reports -----------------------------------------------------------------------------------------------------------


def test_every_point_is_counted_and_none_on_the_grid_is_paid_twice():
    log_density, _ = gaussian_chain(4)
    record = Recorder(log_density)
    bases = [Legendre(-8.0, 8.0, size=32)] * 4
    info = TTDensity.fit(record, bases, tol=1e-3, seed=13).info
    assert info.num_evaluations == len(record.rows)
    assert torch.equal(info.points(), record.rows)
    assert torch.allclose(info.values, log_density(record.rows), rtol=1e-12)  # sums may depend on the batch
    on_grid = torch.isin(record.rows, bases[0].nodes()).all(1)
    seen = [tuple(row) for row in record.rows[on_grid].tolist()]
    assert len(seen) == len(set(seen))
    assert int((~on_grid).sum()) <= 1000  # the check between the nodes
    assert info.mode_sizes == (32,) * 4
    assert info.seconds > 0


def test_points_of_a_fit_that_chose_its_sizes():
    log_density, _ = gaussian_chain(2)
    record = Recorder(log_density)
    info = TTDensity.fit(record, [Legendre(-8.0, 8.0)] * 2, tol=1e-3, seed=13).info
    assert info.num_evaluations == len(record.rows)
    assert torch.equal(info.points(), record.rows)


def test_callback_sees_every_half_sweep():
    log_density, _ = gaussian_chain(3)
    records = []
    density = TTDensity.fit(log_density, [Legendre(-8.0, 8.0, size=32)] * 3, seed=14, callback=records.append)
    assert isinstance(density.info, CrossInfo)
    assert tuple(records) == density.info.history
    assert all(isinstance(record, SweepRecord) for record in records)
    counts = [record.num_evaluations for record in records]
    assert counts == sorted(counts)
    assert counts[-1] <= density.info.num_evaluations
    betas = [record.beta for record in records]
    assert betas == sorted(betas)
    assert betas[-1] == 1.0
    assert [record.sweep for record in records] == list(range(len(records)))
    assert {record.stage for record in records} <= {"ladder", "refine"}


def test_max_batch():
    log_density, _ = gaussian_chain(3)
    record = Recorder(log_density)
    TTDensity.fit(record, [Legendre(-8.0, 8.0, size=32)] * 3, seed=15, max_batch=100)
    assert max(len(batch) for batch in record.batches) == 100


@pytest.mark.parametrize("budget", [1, 10, 500, 20_000])
@pytest.mark.parametrize("size", [32, None])
def test_budgets(budget, size):
    log_density, log_z = gaussian_chain(6)
    record = Recorder(log_density)
    with pytest.warns(ConvergenceWarning, match="fit: budget exhausted"):
        density = TTDensity.fit(record, [Legendre(-8.0, 8.0, size=size)] * 6, tol=1e-9, seed=16, budget=budget)
    assert density.info.status == "budget exhausted"
    assert not density.info.converged
    assert density.info.num_evaluations == len(record.rows) <= budget
    x = density.sample((20,), generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(density.log_prob(x)).all()
    assert torch.isfinite(density.log_evidence)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    mass = torch.trapezoid(density.marginal([2]).log_prob(grid[:, None]).exp(), grid)
    assert float(mass) == pytest.approx(1.0, abs=1e-4)
    if budget == 20_000 and size is not None:
        assert float(density.log_evidence) == pytest.approx(log_z, abs=0.05)


def test_rank_limited():
    correlated = torch.distributions.MultivariateNormal(
        torch.zeros(4, dtype=torch.float64), 0.1 * torch.eye(4, dtype=torch.float64) + 0.9
    )
    with pytest.warns(ConvergenceWarning, match=r"fit: rank-limited: .*max_rank=2; raise max_rank"):
        density = TTDensity.fit(correlated.log_prob, [Legendre(-6.0, 6.0, size=40)] * 4, tol=1e-4, max_rank=2, seed=17)
    assert density.info.status == "rank-limited"
    assert max(density.info.ranks) <= 2
    assert max(density.train.ranks) <= 2


def test_basis_limited():
    # On 8 nodes the square root is matched exactly, between them it is not.
    with pytest.warns(ConvergenceWarning, match=r"fit: basis-limited: .*raise the basis sizes \(now 8 to 8\)"):
        density = TTDensity.fit(lambda x: -8 * x.square().sum(1), [Legendre(-2.0, 2.0, size=8)] * 3, seed=18)
    assert density.info.status == "basis-limited"
    assert density.info.error > 1e-2


def test_no_warning_when_converged():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_density, _ = gaussian_chain(3)
        TTDensity.fit(log_density, [Legendre(-8.0, 8.0, size=40)] * 3, seed=19)


def test_the_warning_points_at_the_caller():
    with pytest.warns(ConvergenceWarning) as caught:
        TTDensity.fit(lambda x: -x.square().sum(1), [Legendre(-2.0, 2.0, size=8)] * 3, seed=19, budget=10)
    assert caught[0].filename == __file__
    assert len(caught) == 1


def test_the_same_seed_gives_the_same_bits():
    log_density, _ = gaussian_chain(3)
    bases = [Legendre(-8.0, 8.0, size=32)] * 3
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, two = (TTDensity.fit(log_density, bases, seed=20) for _ in range(2))
    three = TTDensity.fit(log_density, bases, generator=torch.Generator().manual_seed(20))
    other = TTDensity.fit(log_density, bases, seed=21)
    assert torch.equal(one.log_prob(x), two.log_prob(x))
    assert torch.equal(one.log_prob(x), three.log_prob(x))
    assert not torch.equal(one.log_prob(x), other.log_prob(x))
    assert one.info.num_evaluations == two.info.num_evaluations


def test_options_are_overridden_by_arguments():
    log_density, _ = gaussian_chain(3)
    options = CrossOptions(tol=0.5, max_rank=1, guard_rounds=1)
    density = TTDensity.fit(
        log_density, [Legendre(-8.0, 8.0, size=32)] * 3, seed=22, tol=1e-3, max_rank=20, options=options
    )
    assert density.info.error < 3e-3
    assert max(density.info.ranks) > 1


@pytest.mark.parametrize("scale", [1e-200, 1e-290])
def test_a_half_sweep_far_from_everything_seen(scale, generator):
    """Entries whose squares are zero span the same columns as ordinary ones."""
    values = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64, device=generator.device)
    frames = torch.eye(3).to(values), torch.ones(5).to(values), torch.eye(2).to(values), torch.ones(5).to(values)
    plain, tiny = (_split(v, *frames, 1e-6, 20) for v in (values, scale * values))
    spans = [(q := torch.linalg.qr(part.basis).Q) @ q.T for part in (plain, tiny)]
    torch.testing.assert_close(spans[1], spans[0])
    assert tiny.residual == pytest.approx(plain.residual)


def test_pivots_of_next_to_nothing_beside_test_columns(generator):
    """A current train of 1e-310 has singular values without reciprocals: the test columns alone are kept."""
    values = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64, device=generator.device)
    values[..., :2] *= 1e-310
    frames = torch.eye(3).to(values), torch.ones(5).to(values), torch.eye(2).to(values), torch.ones(5).to(values)
    split = _split(values, *frames, 1e-6, 20)
    assert split.basis.shape == (15, 5)
    assert bool(torch.isfinite(split.basis).all())


@pytest.mark.parametrize("share", [1e-35, 1e-60, 0.0])
def test_pivots_of_next_to_nothing_and_test_columns_of_nothing(generator, share):
    """Beside the largest entry, which lies where no frame looks, there is nothing to divide by."""
    values = torch.zeros(3, 5, 7, dtype=torch.float64, device=generator.device)
    values[..., :2] = share * torch.rand(3, 5, 2, generator=generator, dtype=torch.float64, device=generator.device)
    values[2, 4, 6] = 1.0
    frame = torch.diag(torch.tensor([1.0, 1.0, 0.0])).to(values)
    split = _split(
        values, frame, torch.ones(5).to(values), share * torch.eye(2).to(values), torch.ones(5).to(values), 1e-6, 20
    )
    assert math.isfinite(split.residual)
    assert bool(torch.isfinite(split.basis).all())
