"""Marginals and conditionals in triangular coordinates: against quadrature and against the joint density."""

import math

import pytest
import torch

from ttvi.geometry.chart import Chart
from ttvi.geometry.conditional import ConditionallyAffine
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


@pytest.fixture(scope="module")
def hierarchy() -> ChartDensity:
    """Coordinates 2 and 0 lead; 1 and 3 are Gaussian given them, 3 tied to 1."""
    nodes = torch.cartesian_prod(*(torch.linspace(-4, 4, 9, dtype=torch.float64),) * 2)
    both = torch.stack([nodes[:, 0], nodes[:, 1].sin()], 1)
    mixing = ConditionallyAffine(
        torch.tensor([2, 0, 1, 3]), torch.tensor([0.5, -1.0]).double(), torch.tensor([1.0, 0.7]).double(),
        torch.tensor([-4.0, -4.0]).double(), torch.tensor([1.0, 1.0]).double(), torch.tensor([9, 9]),
        both, -0.3 * both.flip(1), torch.tensor([[1, 0]]), 0.5 + 0.2 * both[:, :1],
    )  # fmt: skip
    flat = torch.zeros(4, dtype=torch.bool)
    stretch = Stretch(torch.zeros(4).double(), flat, flat)
    chart = Chart(Coordinates(Support.parse(dim=4)), mixing, stretch, mixing.order, "nested")

    def log_density(w: torch.Tensor) -> torch.Tensor:
        s, slope = chart.stretch.forward(w)
        return -0.5 * s.square().sum(1) - 0.3 * s[:, 0] * s[:, 2] - 0.2 * s[:, 2] * s[:, 3] + slope.sum(1)

    return ChartDensity(TTDensity.fit(log_density, chart.bases(), tol=1e-6, seed=0), chart)


@pytest.mark.parametrize("kept", [[0, 2], [2], [0, 1, 2]])
def test_marginals_of_leading_coordinates_and_of_rows_tied_to_these_are_exact(hierarchy, kept):
    """One coordinate fewer is one integral: against the trapezoidal rule."""
    bigger = hierarchy if len(kept) == 3 else hierarchy.marginal([0, 1, 2] if len(kept) == 2 else [0, 2])
    dropped = {3: 3, 2: 1, 1: 0}[len(kept)]
    x = points(4, len(kept))
    expected = integral(bigger.log_prob, x, dropped).log()
    torch.testing.assert_close(hierarchy.marginal(kept).log_prob(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("known", [[0, 2], [0], [2], [0, 1, 2]])
def test_conditionals_given_leading_coordinates_are_the_joint_over_its_integral(hierarchy, known):
    x = points(6, 4)
    x[:, known] = x[0, known]
    rest = [k for k in range(4) if k not in known]
    found = hierarchy.condition({k: float(x[0, k]) for k in known}).log_prob(x[:, rest])
    joint = hierarchy.log_prob(x)
    torch.testing.assert_close(found - found[0], joint - joint[0], rtol=1e-6, atol=1e-6)


def test_what_needs_a_coordinate_that_is_gone_is_refused(hierarchy):
    mixing = hierarchy.chart.mixing
    assert reduced(mixing, torch.tensor([0, 1, 3])) is None  # 3 is tied to 1
    assert reduced(mixing, torch.tensor([0, 2])) is None  # one leading coordinate alone does not carry the rest
    assert reduced(mixing, torch.tensor([1, 2, 3]), torch.zeros(4).double()) is not None
    assert reduced(mixing, torch.tensor([0, 1, 2]), torch.zeros(4).double()) is None  # what is known depends on 1
