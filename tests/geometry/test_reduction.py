"""Marginals and conditionals in triangular coordinates: against quadrature and against the joint density."""

import math

import pytest
import torch

from ttvi.geometry.chart import Chart
from ttvi.geometry.coordinates import Coordinates
from ttvi.geometry.density import ChartDensity
from ttvi.geometry.mixing import Triangular
from ttvi.geometry.reduction import reduced
from ttvi.geometry.stretch import Stretch
from ttvi.supports import Support
from ttvi.tt import TTDensity

DIM = 3


@pytest.fixture(scope="module")
def density() -> ChartDensity:
    """Coordinates 1, 0, 2 in turn; the last knows both by a product, a bend and a bent product."""
    slope, log_slope = torch.zeros(2, DIM, DIM, dtype=torch.float64)
    slope[1, 0], slope[2, 1], log_slope[2, 0] = 0.7, -0.4, 0.3
    mixing = Triangular(
        torch.tensor([1, 0, 2]), torch.tensor([0.5, -1.0, 0.0]).double(), torch.tensor([1.0, 2.0, 0.5]).double(),
        torch.tensor([0.1, 0.2, -0.3]).double(), slope, torch.tensor([0.0, -0.5, 0.2]).double(), log_slope,
        torch.tensor([[1, 0, 0], [2, 0, 1], [2, 3, 5], [2, 7, 0]]), torch.tensor([0.3, 0.2, 0.4, 0.1]).double(),
        torch.tensor([[1, 0, 1], [2, 1, 2]]), torch.tensor([0.3, -0.4]).double(),
    )  # fmt: skip
    flat = torch.zeros(DIM, dtype=torch.bool)
    chart = Chart(
        Coordinates(Support.parse(dim=DIM)),
        mixing,
        Stretch(torch.zeros(DIM).double(), flat, flat),
        mixing.order,
        "triangular",
    )

    def log_density(w: torch.Tensor) -> torch.Tensor:
        s, slope = chart.stretch.forward(w)
        return -0.5 * s.square().sum(1) - 0.3 * s[:, 0] * s[:, 2] - 0.2 * s[:, 0] * s[:, 1] + slope.sum(1)

    return ChartDensity(TTDensity.fit(log_density, chart.bases(), tol=1e-6, seed=0), chart)


def points(count: int, dim: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def integral(log_prob, x: torch.Tensor, column: int) -> torch.Tensor:
    """∫ exp(log_prob) over one column, by the trapezoidal rule after a sinh map."""
    y = torch.linspace(-6, 6, 3001, dtype=torch.float64)
    grid, weight = torch.sinh(y), torch.cosh(y) * (y[1] - y[0])
    total = []
    for row in x:
        full = torch.cat([row[:column].expand(len(grid), -1), grid[:, None], row[column:].expand(len(grid), -1)], 1)
        total.append((log_prob(full).exp() * weight).sum())
    return torch.stack(total)


def test_first_coordinates_apart(density: ChartDensity) -> None:
    pair = density.marginal([0, 1])
    x = points(20, 2)
    torch.testing.assert_close(pair.log_prob(x).exp(), integral(density.log_prob, x, 2), rtol=1e-6, atol=1e-10)
    first = density.marginal([1])
    x = points(20, 1)
    torch.testing.assert_close(first.log_prob(x).exp(), integral(pair.log_prob, x, 0), rtol=1e-6, atol=1e-10)
    draws = pair.sample((4000,), generator=torch.Generator().manual_seed(0))
    joint = density.sample((4000,), generator=torch.Generator().manual_seed(1))[:, :2]
    assert (draws.mean(0) - joint.mean(0)).abs().max() < 5 * math.sqrt(2 / 4000) * float(joint.std(0).max())


@pytest.mark.parametrize("values", [{1: 0.7}, {1: -0.4, 0: 1.1}])
def test_given_the_first(density: ChartDensity, values: dict[int, float]) -> None:
    """q(rest | given) = q(rest, given) / q(given)."""
    rest = [k for k in range(DIM) if k not in values]
    conditional, given = density.condition(values), density.marginal(sorted(values))
    x = points(20, len(rest))
    full = torch.empty(20, DIM, dtype=torch.float64)
    full[:, rest] = x
    for k, value in values.items():
        full[:, k] = value
    expected = density.log_prob(full) - given.log_prob(full[:, sorted(values)])
    torch.testing.assert_close(conditional.log_prob(x), expected, rtol=1e-8, atol=1e-8)


def test_others_are_an_error_that_says_what_to_do(density: ChartDensity) -> None:
    with pytest.raises(ValueError, match="triangular ones, which mix"):
        density.marginal([0, 2])
    with pytest.raises(ValueError, match="geometry='axis'"):
        density.condition({2: 0.0})


def test_a_coordinate_that_nobody_needs_may_go(density: ChartDensity) -> None:
    """Not prefixes alone: of the mixing, what the rows kept depend on must be kept."""
    mixing = density.chart.mixing
    assert isinstance(mixing, Triangular)
    loose = Triangular(**{**mixing.tensors(), "slope": 0 * mixing.slope, "log_slope": 0 * mixing.log_slope})
    loose = Triangular(**{**loose.tensors(), "pairs": mixing.pairs[:1], "weights": mixing.weights[:1]})
    loose = Triangular(**{**loose.tensors(), "hinges": mixing.hinges[:1], "hinge_weights": mixing.hinge_weights[:1]})
    assert reduced(loose, torch.tensor([0, 2])) is not None
    assert reduced(loose, torch.tensor([1, 2])) is None
