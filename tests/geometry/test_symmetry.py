"""Symmetries: found for what has them and not for what has none; images of densities against sums and the chain rule."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.geometry.symmetry import Mirrored, SignedPermutation, candidates
from ttvi.problems import get
from ttvi.records import pack, unpack
from ttvi.tt import Legendre, TTDensity

DIM = 4


def seed(value: int) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def normal(*shape: int, at: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seed(at), dtype=torch.float64)


def cycle() -> SignedPermutation:
    """No involution: places move round, signs turn about points that differ."""
    return SignedPermutation(torch.tensor([2, 0, 3, 1]), -1, normal(DIM, at=1), normal(DIM, at=2))


@pytest.fixture(scope="module")
def mirrored() -> Mirrored:
    factor = torch.eye(DIM, dtype=torch.float64) + 0.4 * normal(DIM, DIM, at=3).tril(-1)
    centre = torch.tensor([0.5, -0.3, 0.0, 0.8], dtype=torch.float64)
    bases = [Legendre(-7.0, 7.0, size=40)] * DIM
    base = TTDensity.fit(lambda x: -((x - centre) @ factor.T).square().sum(1), bases, tol=1e-4, seed=0)
    return Mirrored(base, cycle())


# -- the map -----------------------------------------------------------------------------------------------------------------


def test_round_trip():
    x = normal(3, 5, DIM)
    torch.testing.assert_close(cycle().inverse(cycle()(x)), x)
    torch.testing.assert_close(cycle()(cycle().inverse(x)), x)


def test_one_number_at_a_time():
    m, x = cycle(), normal(DIM)
    expected = [float(m.image[i] - (x[j] - m.source[j])) for i, j in enumerate(m.permutation.tolist())]
    assert m(x).tolist() == pytest.approx(expected)


def test_involutions():
    swap, centre = torch.tensor([1, 0]), torch.zeros(2)
    assert SignedPermutation(swap, -1, centre, centre).is_involution
    assert not SignedPermutation(swap, -1, centre, centre + 1).is_involution
    assert not cycle().is_involution


# -- the density of images ---------------------------------------------------------------------------------------------------


def test_the_density_of_images(mirrored):
    y = mirrored.sample((20_000,), generator=seed(4))
    torch.testing.assert_close(mirrored.log_prob(y), mirrored.base.log_prob(mirrored.symmetry.inverse(y)))
    # An independent density, by draws: the mean of each number is that of the place it came from.
    x = mirrored.base.sample((20_000,), generator=seed(5))
    assert float((y.mean(0) - mirrored.symmetry(x.mean(0))).abs().max()) < 0.05


@pytest.mark.parametrize("dims", [[0], [2], [0, 2], [1, 3], [0, 1, 3]])
def test_a_marginal_times_its_conditional_is_the_whole(mirrored, dims):
    rest = [k for k in range(DIM) if k not in dims]
    for y in mirrored.sample((3,), generator=seed(6)):
        marginal, conditional = mirrored.marginal(dims), mirrored.condition({k: y[k] for k in dims})
        parts = marginal.log_prob(y[dims]) + conditional.log_prob(y[rest])
        torch.testing.assert_close(parts, mirrored.log_prob(y), rtol=1e-8, atol=1e-8)
        # Draws of either are of the density that they are said to be of.
        for density in (marginal, conditional):
            draws = density.sample((4000,), generator=seed(7))
            assert draws.shape == (4000, density.event_shape[0])
            assert bool(torch.isfinite(density.log_prob(draws)).all())


def test_a_marginal_is_the_sum_over_the_others(mirrored):
    """The first number of the image is the third of the train, turned round."""
    y = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    x = mirrored.symmetry.source[2] - (y - mirrored.symmetry.image[0])
    torch.testing.assert_close(mirrored.marginal([0]).log_prob(y), mirrored.base.marginal([2]).log_prob(x))


def test_record(mirrored):
    back = unpack(*pack(mirrored))
    y = mirrored.sample((9,), generator=seed(8))
    torch.testing.assert_close(back.log_prob(y), mirrored.log_prob(y))
    assert back.symmetry.is_involution == mirrored.symmetry.is_involution


# -- what is found -----------------------------------------------------------------------------------------------------------


def held_to(u: torch.Tensor, side: int) -> torch.Tensor:
    """The gradient flow of the boundary lattice from a start; its log-density at the end is a maximum."""
    problem = get(f"boundary-lattice-{side}-temperature-1")
    for _ in range(4000):
        leaf = u.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(problem.log_density(leaf).sum(), leaf)
        u = u + 2e-4 * slope
    return u


def curvature(name: str, at: torch.Tensor) -> torch.Tensor:
    density = get(name).log_density
    return -torch.func.hessian(lambda x: density(x[None])[0])(at)


def test_the_lattice_between_its_sides():
    """u → −uᵀ. A mode is symmetrical itself, so that its places cannot be told apart one by one."""
    side, name = 4, "boundary-lattice-4-temperature-1"
    top = held_to(torch.full((1, side * side), 0.25, dtype=torch.float64), side)[0]
    bottom = -top.reshape(side, side).T.flatten()
    modes = torch.stack([top, bottom])
    precisions = torch.stack([curvature(name, mode) for mode in modes])
    nothing, alike = torch.zeros(side * side, dtype=torch.float64), torch.zeros(side * side)
    density, x = get(name).log_density, 0.4 * normal(20, side * side)
    found = [s for s in candidates(modes, precisions, nothing, alike) if torch.allclose(density(s(x)), density(x))]
    assert found
    assert all(s.sign == -1 and s.is_involution for s in found)
    torch.testing.assert_close(found[0](top), bottom, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_any_exchange_of_places(sign):
    swaps = torch.tensor([3, 1, 5, 0, 4, 2, 6])
    mode = normal(7, at=11)
    root = normal(7, 7, at=12)
    precision = root @ root.T + torch.eye(7, dtype=torch.float64)
    modes = torch.stack([mode, sign * mode[swaps]])
    precisions = torch.stack([precision, precision[swaps][:, swaps]])
    found = candidates(modes, precisions, torch.zeros(7, dtype=torch.float64), torch.zeros(7))
    assert any(s.sign == sign and torch.equal(s.permutation, swaps) for s in found)
    # Places of different kinds do not change.
    apart = torch.tensor([0, 0, 0, 1, 0, 0, 0])
    assert not candidates(modes, precisions, torch.zeros(7, dtype=torch.float64), apart)


def test_nothing_is_found_where_curvatures_differ():
    modes = torch.stack([normal(5), -normal(5)])
    precisions = torch.stack([torch.eye(5), torch.diag(torch.arange(1.0, 6.0))]).double()
    assert candidates(modes, precisions, torch.zeros(5, dtype=torch.float64), torch.zeros(5)) == []


def test_words():
    assert "4 coordinates change places" in str(cycle())
    still = SignedPermutation(torch.arange(2), -1, torch.zeros(2), torch.zeros(2))
    assert str(still) == "every coordinate stays in its place, signs turn round"
    assert math.isclose(float(still(torch.ones(2)).sum()), -2)
