"""Exploration through its result: modes, proportions, spread and evidence, with and without gradients; early ends."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.errors import BudgetExhausted
from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.exploration import Exploration, explore
from ttvi.supports import Support, categorical, circular, interval, positive, real

CENTRES = torch.tensor([[-15.0, 10.0, 0.0], [12.0, -8.0, 5.0]], dtype=torch.float64)
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)


def seed(value):
    return torch.Generator().manual_seed(value)


def differentiated(log_density):
    def both(x):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            values = log_density(leaf)
            return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]

    return both


def target_of(log_density, support, *, gradient):
    coordinates = Coordinates(Support.parse(support))
    return Pullback(coordinates, log_density, differentiated(log_density) if gradient else None)


def settings(dim, gradient, **changes):
    plain = Exploration.within(None, dim, gradient)
    return Exploration(**{**vars(plain), **changes})


def two_modes(x):
    terms = -0.5 * (x[:, None] - CENTRES).square().sum(2) + SHARES.log()
    return torch.logsumexp(terms, 1)


@pytest.mark.parametrize("gradient", [True, False])
def test_two_far_modes_in_their_proportion(gradient):
    """27 standard deviations apart; no mode is named, no box given."""
    cloud = explore(target_of(two_modes, [real] * 3, gradient=gradient), settings(3, gradient), seed(0))
    assert cloud.beta == 1
    right = cloud.points[:, 0] > 0
    assert float(right.double().mean()) == pytest.approx(0.7, abs=0.1)
    for k, mine in enumerate((~right, right)):
        torch.testing.assert_close(cloud.points[mine].mean(0), CENTRES[k], rtol=0, atol=0.4)
        torch.testing.assert_close(cloud.points[mine].std(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=0.3)
        assert float((cloud.modes - CENTRES[k]).norm(dim=1).min()) < (0.01 if gradient else 2.0)
    assert cloud.log_evidence == pytest.approx(1.5 * math.log(2 * math.pi), abs=0.5)
    torch.testing.assert_close(cloud.values, two_modes(cloud.points))


def test_curvature_at_the_modes():
    precision = torch.tensor([[4.0, 1.0], [1.0, 0.5]], dtype=torch.float64)

    def log_density(x):
        return -0.5 * ((x - 3) @ precision * (x - 3)).sum(1)

    cloud = explore(target_of(log_density, [real] * 2, gradient=True), settings(2, True), seed(0))
    assert len(cloud.modes) == 1
    torch.testing.assert_close(cloud.modes[0], torch.full((2,), 3.0, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(cloud.precisions[0], precision, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cov(cloud.points.T), precision.inverse(), rtol=0.25, atol=0.1)


@pytest.mark.parametrize("gradient", [True, False])
def test_mixed_coordinates(gradient):
    """A gamma scale, a beta share, an angle and a finite coordinate, each with the mean it must have."""
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)

    def log_density(x):
        s, u, w, k = x.unbind(1)
        return 2 * s.log() - 4 * s + u.log() + 3 * torch.log1p(-u) + 2 * torch.cos(w - 1) + weights[k.long()].log()

    target = target_of(log_density, [positive, interval(0, 1), circular(), categorical(3)], gradient=gradient)
    cloud = explore(target, settings(4, gradient), seed(1))
    x, _ = target.coordinates.to_x(cloud.points)
    assert bool(target.coordinates.support.contains(x).all())
    assert float(x[:, 0].mean()) == pytest.approx(0.75, abs=0.08)
    assert float(x[:, 1].mean()) == pytest.approx(1 / 3, abs=0.04)
    assert float(torch.sin(x[:, 2] - 1).mean()) == pytest.approx(0.0, abs=0.1)
    frequencies = torch.bincount(x[:, 3].long(), minlength=3) / len(x)
    torch.testing.assert_close(frequencies, weights, rtol=0, atol=0.08, check_dtype=False)
    # Γ(3)/4³ · B(2, 4) · 2π I₀(2)
    evidence = math.log(2 / 64 / 20 * 2 * math.pi * float(torch.special.i0(torch.tensor(2.0))))
    assert cloud.log_evidence == pytest.approx(evidence, abs=0.4)


def test_finite_coordinates_stay_on_their_values_in_the_search_for_modes():
    """A formula that grows without bound between and beyond the values of k must not carry a search away."""

    def log_density(x):
        return -0.5 * x[:, 0].square() + 3.0 * x[:, 1] * torch.tanh(x[:, 0])

    target = target_of(log_density, [real, categorical(3)], gradient=True)
    cloud = explore(target, settings(2, True), seed(2))
    assert set(cloud.modes[:, 1].tolist()) <= {0.0, 1.0, 2.0}
    assert float(cloud.modes[:, 0].abs().max()) < 5
    torch.testing.assert_close(cloud.mode_values, target(cloud.modes))


def test_scales_that_differ_by_orders_of_magnitude():
    scales = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)

    def log_density(x):
        return -0.5 * (x / scales).square().sum(1)

    cloud = explore(target_of(log_density, [real] * 3, gradient=True), settings(3, True), seed(2))
    assert cloud.beta == 1
    torch.testing.assert_close(cloud.points.std(0) / scales, torch.ones(3, dtype=torch.float64), rtol=0, atol=0.3)


def test_named_points_lead_to_a_mode_that_nothing_else_finds():
    """A needle at 300, a hundred times heavier than the hill at zero."""

    def log_density(x):
        hill = -0.5 * x.square().sum(1)
        needle = -0.5 * ((x - 300) / 0.1).square().sum(1) + math.log(1e4)
        return torch.logaddexp(hill, needle)

    target = target_of(log_density, [real] * 2, gradient=True)
    named = torch.full((1, 2), 300.05, dtype=torch.float64)
    cloud = explore(target, settings(2, True), seed(3), init=named)
    assert float((cloud.modes - 300).norm(dim=1).min()) < 1e-2
    assert float((cloud.points[:, 0] > 100).double().mean()) == pytest.approx(100 / 101, abs=0.05)


def test_a_prior_is_where_it_starts():
    """A likelihood far out in a heavy-tailed prior whose draws are given."""
    prior = 1000 + 100 * torch.randn(500, 2, generator=seed(4), dtype=torch.float64)

    def log_density(x):
        return -0.5 * ((x - 1000) / 100).square().sum(1) - 0.5 * ((x - 1150) / 5).square().sum(1)

    cloud = explore(target_of(log_density, [real] * 2, gradient=False), settings(2, False), seed(5), prior=prior)
    assert cloud.beta == 1
    expected = (1000 / 100**2 + 1150 / 25) / (1 / 100**2 + 1 / 25)
    torch.testing.assert_close(cloud.points.mean(0), torch.full((2,), expected, dtype=torch.float64), rtol=0, atol=1.5)


def test_nothing_anywhere():
    cloud = explore(
        target_of(lambda x: torch.full((len(x),), -math.inf), [real] * 2, gradient=False), settings(2, False), seed(6)
    )
    assert cloud.log_evidence == -math.inf
    assert not bool(torch.isfinite(cloud.values).any())


@pytest.mark.parametrize("allowed", [2500, 6000, 15_000])
@pytest.mark.parametrize("gradient", [True, False])
def test_a_budget_that_ends_leaves_the_best_so_far(allowed, gradient):
    spent = 0

    def log_density(x):
        nonlocal spent
        if spent + len(x) > allowed:
            raise BudgetExhausted("no more")
        spent += len(x)
        return two_modes(x)

    cloud = explore(
        target_of(log_density, [real] * 3, gradient=gradient), settings(3, gradient, particles=512), seed(7)
    )
    assert spent <= allowed
    assert 0 <= cloud.beta <= 1
    assert any("budget ended" in note for note in cloud.notes)
    torch.testing.assert_close(cloud.values, two_modes(cloud.points))


def test_the_same_seed_gives_the_same_cloud():
    made = [
        explore(target_of(two_modes, [real] * 3, gradient=True), settings(3, True, particles=128, ascents=8), seed(8))
        for _ in range(2)
    ]
    assert torch.equal(made[0].points, made[1].points)
    assert torch.equal(made[0].modes, made[1].modes)


def test_settings_stay_within_a_budget():
    for budget in (1000, 20_000, 10**6):
        chosen = Exploration.within(budget, 10, True)
        assert 32 <= chosen.particles <= 1024
        assert chosen.particles <= max(32, budget // 100)


def stiff_chain(x):
    """Two modes, all coordinates at +1 or all at -1, bound to their neighbours a hundred times more tightly than to them."""
    bonds = 200 * (x[:, 1:] - x[:, :-1]).square().sum(1)
    return -bonds - 3 * (1 - x.square()).square().mean(1)


def test_a_stiff_chain_comes_to_order_and_keeps_both_modes():
    """The bonds have 39 quadratic directions: ½ kT in each, so that the log-density of a typical point is -20."""
    cloud = explore(target_of(stiff_chain, [real] * 40, gradient=True), settings(40, True, ascents=24), seed(9))
    assert abs(float((cloud.points.mean(1) > 0).double().mean()) - 0.5) < 0.3
    assert -30 < float(cloud.values.median()) < -15
    torch.testing.assert_close(cloud.values, stiff_chain(cloud.points))
