"""Halves that cut what acts on each other, and networks that see what is near: on lattices, where both are known, and in a flow."""

import pytest
import torch

import ttvi
from ttvi.flow import SplineCoupling
from ttvi.flow.conditioner import Conditioner, LocalConditioner
from ttvi.flow.defaults import default_transforms
from ttvi.flow.halves import cutting_halves, interactions, moving_halves
from ttvi.flow.neighbours import SEEN, nearness, neighbours


def lattice(side, periodic=False):
    """Ones between neighbours."""
    weights = torch.zeros(side, side, side, side, dtype=torch.float64)
    for i in range(side):
        for j in range(side):
            for a, b in ((i + 1, j), (i, j + 1)):
                if periodic or (a < side and b < side):
                    weights[i, j, a % side, b % side] = weights[a % side, b % side, i, j] = 1
    return weights.view(side * side, side * side)


def cut(weights, half):
    side = torch.zeros(len(weights), dtype=torch.float64)
    side[half] = 1
    return float(side @ weights @ (1 - side))


@pytest.mark.parametrize(("side", "periodic"), [(4, False), (6, True), (8, False), (5, False)])
def test_the_checkerboard_is_found_under_noise(side, periodic):
    noise = 0.1 * torch.rand(side**2, side**2, generator=torch.Generator().manual_seed(side), dtype=torch.float64)
    weights = lattice(side, periodic)
    halves = cutting_halves(weights + noise + noise.T, range(side**2), 2)
    assert cut(weights, halves[0]) == float(weights.sum() / 2)  # every bond
    assert sorted(halves[0] + halves[1]) == list(range(side**2))


def test_nothing_known_leaves_halves_by_rank():
    flat = torch.ones(12, 12, dtype=torch.float64) - torch.eye(12, dtype=torch.float64)
    assert cutting_halves(flat, range(12), 6) == [moving_halves(range(12), layer) for layer in range(6)]


def test_positions_that_do_not_move_are_in_no_half():
    weights = lattice(4)
    moving = [k for k in range(16) if k not in (3, 7)]
    halves = cutting_halves(weights, moving, 4)
    assert all(sorted(halves[n] + halves[n + 1]) == moving for n in (0, 2))
    assert default_transforms(
        16, kinds=[("discrete", 0, 1) if k in (3, 7) else "real" for k in range(16)], dependence=weights
    )


def test_interactions_are_second_derivatives_in_units_of_the_scales():
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    precision = matrix @ matrix.T
    scale = torch.tensor([1.0, 2.0, 0.5, 10.0, 0.1], dtype=torch.float64)
    found = interactions(lambda x: -x @ precision, torch.randn(3, 5, dtype=torch.float64), scale)
    expected = (precision * scale[:, None] * scale).abs()
    torch.testing.assert_close(found, expected - torch.diag(expected.diagonal()), rtol=1e-6, atol=1e-6)


def test_a_flow_finds_out_which_halves_to_move():
    """Sixteen sites, neighbours correlated. Second derivatives cost an evaluation per site and one, at sixteen draws."""
    precision = 2.5 * torch.eye(16, dtype=torch.float64) - 0.55 * lattice(4)

    def log_density(x):
        return -0.5 * ((x @ precision) * x).sum(-1)

    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(16).double(), 0.75), 1)
    options = {"steps": 100, "pool_size": 16_384, "seed": 0}
    known = ttvi.flow.fit(base, log_density, **options)
    given = ttvi.flow.fit(base, log_density, transforms=default_transforms(16, hidden=(128,)), **options)
    assert known.info.num_evaluations - given.info.num_evaluations == 16 * 17
    checkerboard = {k for k in range(16) if (k // 4 + k % 4) % 2 == 0}
    moved = known.transforms[0].partition.order[: known.transforms[0].partition.sizes[0]]
    assert set(moved.tolist()) in (checkerboard, set(range(16)) - checkerboard)
    assert known.info.ess_after > 0.9


def test_a_small_budget_is_kept():
    calls = []

    def log_density(x):
        calls.append(len(x))
        return -0.5 * (x**2).sum(-1)

    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(16).double(), 1.5), 1)
    flow = ttvi.flow.fit(base, log_density, budget=20_000, seed=0)
    assert flow.info.num_evaluations <= 20_000
    assert sum(calls) <= 20_000 + 2  # and the look whether there is a gradient


@pytest.mark.parametrize(("side", "periodic"), [(4, False), (6, True), (8, False)])
def test_on_a_lattice_the_bonds_come_first(side, periodic):
    weights = lattice(side, periodic) * (
        1 + torch.rand(side**2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    weights = weights + weights.T
    moved = [k for k in range(side**2) if (k // side + k % side) % 2]
    seen = neighbours(nearness(weights), moved, side**2)
    for site, near in zip(moved, seen, strict=True):
        bonds = set(weights[site].nonzero()[:, 0].tolist())
        assert set(near[: len(bonds)]) == bonds
        assert len(near) == min(SEEN, side**2 // 2)
        assert not set(near) & set(moved)


def test_dense_interactions_are_not_local():
    noise = torch.rand(30, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert nearness(noise + noise.T) is None
    assert nearness(torch.zeros(5, 5)) is None


def test_each_moved_coordinate_depends_on_its_neighbours_alone():
    layer = SplineCoupling(5, moved=[0, 1], neighbours=[[2], [3, 4]], hidden=(8,))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    z = torch.randn(5, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v)[0], z)
    acts = torch.tensor(
        [[1, 0, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]], dtype=torch.bool
    )
    assert torch.equal(jacobian != 0, acts)


@pytest.mark.parametrize("given", [[[2]], [[2], [0]], [[2], [5]]])
def test_neighbours_that_do_not_fit(given):
    with pytest.raises(ValueError, match=r"Choose among \[2, 3, 4\]"):
        SplineCoupling(5, moved=[0, 1], neighbours=given)


def test_defaults_are_local_where_interactions_are():
    kinds = ["real"] * 16
    assert isinstance(default_transforms(16, dependence=lattice(4))[0].conditioner, LocalConditioner)
    assert isinstance(default_transforms(16)[0].conditioner, Conditioner)
    assert isinstance(default_transforms(16, dependence=torch.ones(16, 16))[0].conditioner, Conditioner)
    kinds[3] = ("discrete", 0, 1)  # has no derivatives, so that nobody knows
    assert isinstance(default_transforms(16, kinds=kinds, dependence=lattice(4))[0].conditioner, Conditioner)
