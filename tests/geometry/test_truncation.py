"""Trains cut off at their far ends, against integrals over the box by quadrature."""

import torch

from ttvi.geometry.stretch import Stretch
from ttvi.geometry.truncation import bounds_of_mass, truncated
from ttvi.tt import Fourier, Legendre, TTDensity


def test_a_truncated_density_is_the_conditional_one_of_its_box():
    bases = [Legendre(-1.0, 1.0, size=20), Fourier(0.0, 6.0, size=15), Legendre(-1.0, 1.0, size=20)]
    density = TTDensity.fit(
        lambda w: -6 * (w[:, 0] - 0.5 * w[:, 2]).square() + torch.cos(w[:, 1] * torch.pi / 3) - w[:, 2].square(),
        bases, seed=0,
    )  # fmt: skip
    lower = torch.tensor([-0.3, -torch.inf, -0.9])
    upper = torch.tensor([0.8, torch.inf, 0.4])
    cut = truncated(density, lower, upper)
    x, a = torch.linspace(-1, 1, 401, dtype=torch.float64), torch.linspace(0, 6, 61, dtype=torch.float64)[:-1]
    pair = density.marginal([0, 2])
    grid = torch.cartesian_prod(x, x)
    inside = ((grid >= lower[[0, 2]]) & (grid <= upper[[0, 2]])).all(1)
    mass = float((pair.log_prob(grid).exp() * inside).sum() * (x[1] - x[0]) ** 2)
    w = torch.tensor([[0.2, float(a[7]), 0.1], [0.7, float(a[50]), -0.8]], dtype=torch.float64)
    assert torch.allclose(cut.log_prob(w), density.log_prob(w) - torch.tensor(mass).log(), atol=1e-2)
    outside = torch.tensor([[0.9, 1.0, 0.0], [0.0, 1.0, 0.5]], dtype=torch.float64)
    assert cut.log_prob(outside).tolist() == [-torch.inf, -torch.inf]
    draws = cut.sample((2000,), generator=torch.Generator().manual_seed(0))
    assert bool(((draws >= lower) & (draws <= upper)).all())


def test_bounds_leave_out_draws_without_weight_and_only_those():
    generator = torch.Generator().manual_seed(0)
    stretch = Stretch(torch.tensor([0.0, 0.5]), torch.tensor([False, False]), torch.tensor([False, False]))
    s = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    log_weights = torch.zeros(4000, dtype=torch.float64)
    s[0, 0], log_weights[0] = 40.0, -60.0  # noise of a train
    s[1, 1] = -12.0  # a draw that counts
    w = stretch.inverse(s)[0]
    lower, upper = bounds_of_mass(stretch, w, log_weights)
    assert float(w[0, 0]) > float(upper[0]) > float(w[1:, 0].max())
    assert float(lower[1]) < float(w[1, 1])
    reach = stretch.forward(upper)[0]
    assert 4.5 < float(reach[0]) < 6.0  # three and a half deviations, and the margin


def test_columns_left_alone_have_no_bounds():
    stretch = Stretch(torch.zeros(2), torch.tensor([True, False]), torch.tensor([False, True]))
    lower, upper = bounds_of_mass(stretch, torch.zeros(10, 2, dtype=torch.float64), torch.zeros(10))
    assert lower.tolist() == [-torch.inf] * 2
    assert upper.tolist() == [torch.inf] * 2
