"""The reference and the moves: normalised, consistent with its sampler; every move keeps a density it starts from exactly."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.moves import Population, differential, hamiltonian
from ttvi.geometry.reference import Reference
from ttvi.supports import Support, categorical, circular, real

COUNT = 4000
COVARIANCE = torch.tensor([[1.0, 1.6], [1.6, 4.0]], dtype=torch.float64)
GAUSSIAN = torch.distributions.MultivariateNormal(torch.tensor([1.0, -2.0], dtype=torch.float64), COVARIANCE)
CONCENTRATION = 1.5
WEIGHTS = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)


def seed(value):
    return torch.Generator().manual_seed(value)


def reference_of(coordinates, *, components=2):
    dim = coordinates.dim
    centres = torch.randn(components, dim, generator=seed(1), dtype=torch.float64)
    factors = torch.eye(dim, dtype=torch.float64).repeat(components, 1, 1)
    lines = coordinates.line.double()
    slant = torch.randn(components, dim, dim, generator=seed(2), dtype=torch.float64).tril(-1)
    factors = (factors + 0.5 * slant * lines * lines[:, None]) * torch.linspace(1.0, 2.0, components)[:, None, None]
    factors = torch.where(
        (coordinates.line[:, None] & coordinates.line)[None], factors, torch.eye(dim, dtype=torch.float64)
    )
    return Reference(
        coordinates, centres, factors, torch.linspace(-1, 0, components, dtype=torch.float64).log_softmax(0)
    )


def differentiated(log_density):
    def both(x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            values = log_density(leaf)
            return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]

    return both


# -- the reference -----------------------------------------------------------------------------------------------------------


def test_reference_on_a_line_by_quadrature():
    """Normalised; its draws have its cumulative distribution."""
    reference = reference_of(Coordinates(Support.parse(dim=1)))
    y = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    t, weight = torch.sinh(y), torch.cosh(y) * float(y[1] - y[0])
    mass = reference.log_prob(t[:, None]).exp() * weight
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-4)
    draws = reference.sample(20_000, seed(3))[:, 0].sort().values
    found = torch.searchsorted(draws, t) / 20_000
    assert float((found - mass.cumsum(0)).abs().max()) < 0.015


MIXED = [real, circular(0.0, 3.0), real, categorical(3)]


def test_reference_of_mixed_coordinates_by_importance():
    """Weights of its own draws for a normalised density average to one, and give that density's moments."""
    reference = reference_of(Coordinates(Support.parse(MIXED)))
    t = reference.sample(100_000, seed(4))
    lines = t[:, [0, 2]]
    log_prob = GAUSSIAN.log_prob(lines + GAUSSIAN.loc)  # centred, correlated
    log_prob = (
        log_prob + torch.log1p(torch.cos(2 * math.pi * t[:, 1] / 3)) - math.log(3.0) + WEIGHTS[t[:, 3].long()].log()
    )
    weights = (log_prob - reference.log_prob(t)).exp()
    assert float(weights.mean()) == pytest.approx(1.0, abs=0.03)
    second = lines.T @ (lines * weights[:, None]) / len(t)
    torch.testing.assert_close(second, COVARIANCE, rtol=0, atol=0.25)
    for k in range(3):
        assert float(weights[t[:, 3] == k].sum() / len(t)) == pytest.approx(float(WEIGHTS[k]), abs=0.03)


def test_reference_draws_stay_on_the_support():
    coordinates = Coordinates(Support.parse(MIXED))
    t = reference_of(coordinates).sample(1000, seed(5))
    assert torch.equal(coordinates.wrap(t), t)
    assert torch.equal(t, reference_of(coordinates).sample(1000, seed(5)))


def test_reference_around_what_was_found():
    """Components at the modes and over all scales: no mode and no start is far from it."""
    coordinates = Coordinates(Support.parse(dim=2))
    starts = 20 * torch.randn(400, 2, generator=seed(6), dtype=torch.float64)
    modes = torch.tensor([[-5.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    precisions = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    values = -starts.square().sum(1)
    reference = Reference.around(coordinates, starts, values, modes, torch.zeros(2).double(), precisions, None)
    assert float(reference.log_shares.exp().sum()) == pytest.approx(1.0, abs=1e-6)
    t = reference.sample(4000, seed(7))
    for mode in modes:
        assert float(((t - mode).norm(dim=1) < 2).double().mean()) > 0.1
    assert float(reference.log_prob(starts).min()) > -25


# -- the moves ---------------------------------------------------------------------------------------------------------------


def mixed_log_density(x):
    """A correlated Gaussian, a von Mises angle tied to it, and a finite coordinate that shifts the angle."""
    return (
        GAUSSIAN.log_prob(x[:, :2]) + CONCENTRATION * torch.cos(x[:, 2] - 0.5 * x[:, 3]) + WEIGHTS[x[:, 3].long()].log()
    )


def exact(count, generator):
    root = torch.linalg.cholesky(COVARIANCE)
    lines = GAUSSIAN.loc + torch.randn(count, 2, generator=generator, dtype=torch.float64) @ root.T
    label = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator).double()
    grid = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)
    cdf = torch.exp(CONCENTRATION * torch.cos(grid)).cumsum(0)
    u = torch.rand(count, generator=generator, dtype=torch.float64) * cdf[-1]
    angle = grid[torch.searchsorted(cdf, u).clamp_max(20_000)] + 0.5 * label
    return torch.cat([lines, torch.remainder(angle + math.pi, 2 * math.pi)[:, None] - math.pi, label[:, None]], 1)


def statistics(t):
    """Means and second moments, of the angle about its own centre, and frequencies; with their standard errors."""
    centred = t[:, :2] - GAUSSIAN.loc
    turned = t[:, 2] - 0.5 * t[:, 3]
    columns = [
        centred[:, 0], centred[:, 1], centred[:, 0] ** 2, centred[:, 1] ** 2, centred.prod(1), turned.cos(), turned.sin(),
        *[(t[:, 3] == k).double() for k in range(3)],
    ]  # fmt: skip
    return torch.stack([c.mean() for c in columns]), torch.stack([c.std() for c in columns])


def wanted():
    bessel = torch.special.i1(torch.tensor(CONCENTRATION)) / torch.special.i0(torch.tensor(CONCENTRATION))
    return torch.tensor([0, 0, 1.0, 4.0, 1.6, float(bessel), 0, *WEIGHTS.tolist()], dtype=torch.float64)


COORDINATES = Coordinates(Support.parse([real, real, circular(), categorical(3)]))
TARGET = Pullback(COORDINATES, mixed_log_density, differentiated(mixed_log_density))


def population(points, beta):
    reference = reference_of(COORDINATES)
    return Population(reference, points, TARGET(points), reference.log_prob(points), beta)


@pytest.mark.parametrize("move", [differential, hamiltonian])
def test_moves_keep_the_target(move):
    generator = seed(8)
    state = population(exact(COUNT, generator), 1.0)
    before = state.points.clone()
    for _ in range(15):
        move(state, TARGET, generator)
    moved = (state.points != before).any(1).double().mean()
    assert float(moved) > 0.9
    assert torch.equal(COORDINATES.wrap(state.points), state.points)
    torch.testing.assert_close(state.values, TARGET(state.points))
    torch.testing.assert_close(state.anchors, state.reference.log_prob(state.points))
    mean, spread = statistics(state.points)
    error = (mean - wanted()) / (spread / math.sqrt(COUNT))
    assert float(error.abs().max()) < 5


@pytest.mark.parametrize("move", [differential, hamiltonian])
def test_moves_keep_the_reference(move):
    """At temperature zero: draws of the reference stay draws of it, whatever the target."""
    generator = seed(9)
    reference = reference_of(COORDINATES)
    state = population(reference.sample(COUNT, generator), 0.0)
    levels = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    before = reference.sample(100_000, seed(10))
    for _ in range(15):
        move(state, TARGET, generator)
    for k in range(3):
        found = torch.searchsorted(state.points[:, k].sort().values, before[:, k].quantile(levels)) / COUNT
        torch.testing.assert_close(found, levels, rtol=0, atol=0.045, check_dtype=False)


def test_differential_moves_visit_every_value_of_a_finite_coordinate():
    """From one value only; angles and lines are given their distribution too."""
    generator = seed(11)
    points = exact(COUNT, generator)
    points[:, 3] = 1.0
    state = population(points, 1.0)
    for _ in range(60):
        differential(state, TARGET, generator)
    mean, spread = statistics(state.points)
    error = (mean - wanted()) / (spread / math.sqrt(COUNT))
    assert float(error.abs().max()) < 6


def test_differential_moves_cross_between_modes():
    """Two modes eight standard deviations apart, unevenly filled at first, come to their shares."""
    centres = torch.tensor([[-8.0, 0.0], [8.0, 0.0]], dtype=torch.float64)

    def log_density(x):
        terms = -0.5 * (x[:, None] - centres).square().sum(2) + torch.tensor([0.25, 0.75]).double().log()
        return torch.logsumexp(terms, 1)

    coordinates = Coordinates(Support.parse(dim=2))
    target = Pullback(coordinates, log_density)
    generator = seed(12)
    points = centres[(torch.arange(COUNT) % 2)] + torch.randn(COUNT, 2, generator=generator, dtype=torch.float64)
    reference = reference_of(coordinates)
    state = Population(reference, points, target(points), reference.log_prob(points), 1.0)
    for _ in range(100):
        differential(state, target, generator)
    assert float((state.points[:, 0] > 0).double().mean()) == pytest.approx(0.75, abs=0.05)


def test_cooling_from_the_reference_to_the_target():
    """Only by weights and resampling: the evidence of a normalised target is one, its moments come out."""
    generator = seed(13)
    reference = reference_of(COORDINATES)
    state = Population.draw(reference, TARGET, 20_000, generator, seeds=torch.zeros(0, 4))
    while state.beta < 1:
        state.cool(generator)
        for _ in range(2):
            differential(state, TARGET, generator)
    exact_evidence = math.log(2 * math.pi) + float(torch.special.i0(torch.tensor(CONCENTRATION)).log())
    assert state.log_evidence == pytest.approx(exact_evidence, abs=0.1)
    mean, _ = statistics(state.points)
    torch.testing.assert_close(mean, wanted(), rtol=0.05, atol=0.1)


def test_density_zero_is_never_entered():
    def log_density(x):
        return torch.where((x > 0).all(1), -x.sum(1), -math.inf)

    coordinates = Coordinates(Support.parse(dim=2))
    target = Pullback(coordinates, log_density, differentiated(log_density))
    generator = seed(14)
    points = -torch.rand(1000, 2, generator=generator, dtype=torch.float64).log()
    reference = reference_of(coordinates)
    for move in (differential, hamiltonian):
        state = Population(reference, points, target(points), reference.log_prob(points), 1.0)
        for _ in range(10):
            move(state, target, generator)
        assert bool((state.points > 0).all())
        torch.testing.assert_close(state.points.mean(0), torch.ones(2, dtype=torch.float64), rtol=0, atol=0.15)


def test_trajectories_with_a_given_covariance_keep_the_density():
    """Of a Gaussian with scales from 1 to 1000, from exact draws; with the right covariance the step grows to order one."""
    scales = torch.logspace(0, 3, 6, dtype=torch.float64)

    def values_and_slopes(t):
        return -0.5 * (t / scales).square().sum(1), -t / scales.square()

    target = Pullback(Coordinates(Support.parse(dim=6)), lambda t: values_and_slopes(t)[0], values_and_slopes)
    reference = reference_of(target.coordinates)
    points = scales * torch.randn(COUNT, 6, generator=seed(20), dtype=torch.float64)
    population = Population(reference, points, target(points), reference.log_prob(points), beta=1.0)
    generator = seed(21)
    for _ in range(20):
        hamiltonian(population, target, generator, factor=torch.diag(scales))
    assert population.other_step > 0.5
    assert population.step == 0.3
    torch.testing.assert_close(population.points.std(0), scales, rtol=0.06, atol=0)
    assert float((population.points * points).mean(0).abs().div(scales.square()).max()) < 0.3
