"""Moves in fitted columns: they keep the target, and walk down a neck that the first points did not reach."""

import math

import pytest
import torch

from ttvi.geometry.chart import Chart
from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.equilibration import Latent, equilibrate
from ttvi.supports import Support


def funnel(x: torch.Tensor) -> torch.Tensor:
    return -0.5 * (x[:, 0] / 3) ** 2 - 0.5 * (x[:, 1:] ** 2 * torch.exp(-x[:, :1]) + x[:, :1]).sum(1)


def values_and_slopes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        values = funnel(leaf)
        (slopes,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), slopes


@pytest.fixture
def target() -> Pullback:
    return Pullback(Coordinates(Support.parse(dim=5)), funnel, values_and_slopes)


def draws(v: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(len(v), 4, generator=generator, dtype=torch.float64)
    return torch.cat([v[:, None], noise * torch.exp(0.5 * v[:, None])], 1)


def fitted(target: Pullback, points: torch.Tensor, order: list[int]) -> Chart:
    return Chart.triangular(target.coordinates, points, torch.tensor(order), label="triangular")[0]


def test_gradient_of_the_columns(target: Pullback) -> None:
    generator = torch.Generator().manual_seed(0)
    points = draws(torch.randn(1000, generator=generator, dtype=torch.float64), generator)
    latent = Latent(target, fitted(target, points, [0, 2, 1, 3, 4]))
    z = latent.from_t(points[:20])
    assert torch.allclose(latent.to_t(z)[0], points[:20])
    values, slopes = latent.value_and_gradient(z)
    assert torch.allclose(values, latent(z))
    step = 1e-6 * torch.eye(5, dtype=torch.float64)
    for k in range(5):
        difference = (latent(z + step[k]) - latent(z - step[k])) / 2e-6
        assert torch.allclose(slopes[:, k], difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", [True, False])
def test_a_neck_is_walked_down(target: Pullback, gradient: bool) -> None:
    """Points that end at v = -1.5 where a third of the mass begins; N(0, 3) is where they belong."""
    if not gradient:
        target = Pullback(target.coordinates, funnel, None)
    generator = torch.Generator().manual_seed(1)
    v = 3 * torch.randn(1024, generator=generator, dtype=torch.float64)
    points = ahead = draws(v.abs() - 1.5, generator)
    for _ in range(5):
        chart = fitted(target, points[:4096], [0, 1, 2, 3, 4])
        moved = equilibrate(target, chart, points[:1024], ahead[:1024], 6, generator)
        points, ahead = moved.points, moved.ahead
    assert torch.allclose(moved.values, funnel(points))
    found = torch.quantile(points[:, 0], torch.tensor([0.02, 0.16, 0.5, 0.84], dtype=torch.float64)) / 3
    # Six thousand points, of which a few hundred are independent.
    assert (found - torch.tensor([-2.05, -0.99, 0.0, 0.99], dtype=torch.float64)).abs().max() < 0.35


def test_angles_and_finite_sets_keep_their_kind() -> None:
    from ttvi.supports import categorical, circular, real

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return torch.cos(x[:, 0]) - 0.5 * x[:, 1] ** 2 - 0.5 * (x[:, 3] - x[:, 1]) ** 2 + 0.5 * x[:, 2]

    target = Pullback(Coordinates(Support.parse([circular(), real, categorical(2), real])), log_density)
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(1024, 4, generator=generator, dtype=torch.float64)
    points[:, 2] = points[:, 2].round()
    chart = fitted(target, points, [0, 3, 2, 1])
    history = equilibrate(target, chart, points, points, 30, generator).points[: 10 * 1024]
    assert set(history[:, 2].tolist()) == {0.0, 1.0}
    assert bool((history[:, 0].abs() <= math.pi).all())
    assert abs(float(history[:, 2].mean()) - 1 / (1 + math.exp(-0.5))) < 0.04
    assert abs(float(torch.cos(history[:, 0]).mean()) - 0.4464) < 0.05  # I1(1) / I0(1)
    assert abs(float(history[:, 3].var()) - 2.0) < 0.25
