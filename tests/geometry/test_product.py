"""Product densities of populations: normalised, right marginals, safe tails; assessments of lognormal weights."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.geometry.assessment import Assessment, assess
from ttvi.geometry.chart import Chart
from ttvi.geometry.coordinates import Coordinates
from ttvi.geometry.density import ChartDensity
from ttvi.geometry.product import product_density
from ttvi.records import pack, unpack
from ttvi.supports import Support, categorical, circular, interval, positive, real
from ttvi.tt.basis import Categorical


def seed(value):
    return torch.Generator().manual_seed(value)


def normal(*shape, at=0):
    return torch.randn(*shape, generator=seed(at), dtype=torch.float64)


def uniform(*shape, at=0):
    return torch.rand(*shape, generator=seed(at), dtype=torch.float64)


def made(support, x):
    coordinates = Coordinates(Support.parse(support))
    t = coordinates.to_t(x)
    chart = Chart.axis(coordinates, t)
    return ChartDensity(product_density(chart, chart.from_t(t)[0]), chart)


MIXED = [real, positive, interval(0.0, 3.0), circular(), categorical(4)]


def population():
    columns = [
        5 + 0.01 * normal(2000, at=1), normal(2000, at=2).exp(), 3 * uniform(2000, at=3).sqrt(),
        0.5 * normal(2000, at=4), torch.multinomial(torch.tensor([0.5, 0.0, 0.2, 0.3]), 2000, True, generator=seed(5)),
    ]  # fmt: skip
    return torch.stack(columns, 1)


def test_ranks_are_one_and_bases_those_of_the_chart():
    density = made(MIXED, population())
    assert set(density.base.train.ranks) == {1}
    for basis, asked in zip(density.base.bases, density.chart.bases(), strict=True):
        assert type(basis) is type(asked)


def test_quantiles_are_those_of_the_population():
    x = population()
    draws = made(MIXED, x).sample((8000,), generator=seed(6))
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    spread = x[:, :4].std(0)
    error = (draws[:, :4].quantile(levels, dim=0) - x[:, :4].quantile(levels, dim=0)) / spread
    assert float(error.abs().max()) < 0.15
    frequencies = torch.bincount(draws[:, 4].long(), minlength=4) / 8000
    torch.testing.assert_close(frequencies, torch.tensor([0.475, 0.025, 0.205, 0.295]), rtol=0, atol=0.03)


def test_every_value_has_a_chance():
    """A value of a finite set that the population lacks, a far tail, the other side of a circle: bounded weights."""
    density = made(MIXED, population())
    x = population()[:1].repeat(4, 1)
    x[0, 4], x[1, 0], x[2, 3], x[3, 1] = 1.0, 5 + 0.01 * 20, 3.1, 1e-9
    drop = density.log_prob(population()[:1]) - density.log_prob(x)
    assert float(drop.max()) < 25


@pytest.mark.parametrize("basis", range(5))
def test_columns_are_normalised(basis):
    density = made(MIXED, population()).base.marginal([basis])
    own = density.bases[0]
    if isinstance(own, Categorical):
        total = density.log_prob(torch.arange(4.0, dtype=torch.float64)[:, None]).exp().sum()
    else:
        sized = own.with_size(400)
        total = density.log_prob(sized.nodes()[:, None]).exp() @ sized.weights()
    assert float(total) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 10])
def test_a_standard_normal_population(dim):
    density = made([real] * dim, normal(2000, dim))
    seen = assess(density, lambda x: -0.5 * x.square().sum(1), 4000, seed(1))
    assert seen.ess > (0.9 if dim == 1 else 0.75)
    assert seen.pareto_k < 0.5
    assert seen.log_evidence == pytest.approx(0.5 * dim * math.log(2 * math.pi), abs=0.05)


def test_few_points_and_equal_ones():
    for x in (normal(2, 2), torch.ones(50, 2, dtype=torch.float64)):
        draws = made([real, real], x).sample((100,), generator=seed(1))
        assert bool(torch.isfinite(draws).all())


# -- assessments -----------------------------------------------------------------------------------------------------------


def test_lognormal_weights():
    """Of log-weights N(m, s²): evidence m + s²/2, effective share exp(-s²)."""
    z = normal(200_000)
    seen = Assessment.of(z[:, None], -7 + 0.6 * z)
    assert seen.log_evidence == pytest.approx(-7 + 0.18, abs=0.01)
    assert seen.ess == pytest.approx(math.exp(-0.36), abs=0.02)
    assert -7 < seen.elbo < -6.9  # without the smallest twentieth


def test_what_is_no_number_weighs_nothing():
    z = normal(1000)
    odd = torch.cat([0.1 * z, torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.float64)])
    seen = Assessment.of(torch.zeros(1003, 1), odd)
    assert math.isfinite(seen.log_evidence)
    assert seen.ess == pytest.approx(1000 / 1003 * math.exp(-0.01), abs=5e-3)
    nothing = Assessment.of(torch.arange(4.0)[:, None], torch.full((4,), -math.inf))
    assert (nothing.ess, nothing.log_evidence) == (0.0, -math.inf)
    assert nothing.population(10, seed(0))[0].shape == (10, 1)


def test_populations():
    """Even weights are taken as they are; one heavy draw among many is flattened."""
    x = normal(4000, 1)
    even = Assessment.of(x, 0.5 * x[:, 0])  # tilts N(0, 1) to N(1/2, 1)
    points, power = even.population(4000, seed(1))
    assert power == 1
    assert float(points.mean()) == pytest.approx(0.5, abs=0.1)
    heavy = Assessment.of(x, 20 * x[:, 0])
    points, power = heavy.population(1000, seed(1))
    assert power < 1
    assert len(torch.unique(points)) > 150


def test_assess_counts_and_measures():
    """A normal density of standard deviation 2 against one of 1: the weights integrate exactly."""
    seen = []

    def log_density(x):
        seen.append(len(x))
        return -0.5 * x.square().sum(1)

    wide = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1).double(), 2.0), 1)

    class Wide:
        def sample(self, shape, *, generator=None):
            return 2 * torch.randn(*shape, 1, generator=generator, dtype=torch.float64)

        log_prob = staticmethod(wide.log_prob)

    found = assess(Wide(), log_density, 50_000, seed(0))
    assert sum(seen) == 50_000
    assert found.log_evidence == pytest.approx(0.5 * math.log(2 * math.pi), abs=0.01)
    assert found.ess == pytest.approx(math.sqrt(7) / 4, abs=0.01)  # E[w]²/E[w²] for 1 against 2


def test_columns_that_end_are_like_those_that_do_not():
    """Normal columns and columns of two modes, in many coordinates; no density beyond the ends; the same from a file."""
    sign = torch.randint(0, 2, (2000, 50), generator=seed(0)).double() * 2 - 1
    t = torch.where(torch.arange(50) % 2 == 0, 0.0, sign) + 0.1 * normal(2000, 50)
    coordinates = Coordinates(Support.parse(dim=50))
    chart = Chart.axis(coordinates, t, ends=(t.amin(0) - 0.4, t.amax(0) + 0.4))
    assert bool(chart.stretch.ending.all())
    density = ChartDensity(product_density(chart, chart.from_t(t)[0]), chart)
    endless = Chart.axis(coordinates, t)
    other = ChartDensity(product_density(endless, endless.from_t(t)[0]), endless)
    draws, wanted = (q.sample((20_000,), generator=seed(1)) for q in (density, other))
    levels = torch.tensor([0.02, 0.25, 0.75, 0.98], dtype=torch.float64)
    assert float((draws.quantile(levels, dim=0) - wanted.quantile(levels, dim=0)).abs().max()) < 0.1
    grid = torch.linspace(-3, 3, 20_001, dtype=torch.float64)[:, None]
    for k in (0, 1):
        heights = density.marginal([k]).log_prob(grid).exp()
        assert float(torch.trapezoid(heights, grid[:, 0])) == pytest.approx(1, abs=1e-4)
        assert heights[[0, -1]].tolist() == [0.0, 0.0]
    again = unpack(*pack(density))
    assert torch.equal(again.log_prob(draws[:10]), density.log_prob(draws[:10]))
