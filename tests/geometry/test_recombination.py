"""Domains exchanged between local maxima: ground states of frustrated and of ordered chains of wells."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from ttvi.geometry import exploration
from ttvi.geometry.ascent import ascend, curvature
from ttvi.geometry.coordinates import Coordinates, Pullback
from ttvi.geometry.recombination import _clusters, recombined
from ttvi.supports import Support, interval, real

SIDE = 6


def lattice(bonds):
    """Wells at about -1 and 1 on a square lattice without wrapping, coupled by ``bonds`` (d, d), upper triangular."""

    def value_and_gradient(x):
        leaf = x.detach().requires_grad_()
        value = -6 * (leaf.square() - 1).square().sum(1) + torch.einsum("ni,ij,nj->n", leaf, bonds, leaf)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    return value_and_gradient


def bonds(seed=None):
    """All equal, or of random signs."""
    found = torch.zeros(SIDE**2, SIDE**2, dtype=torch.float64)
    signs = torch.Generator().manual_seed(seed or 0)
    for i, j in itertools.product(range(SIDE), repeat=2):
        for k, m in ((i + 1, j), (i, j + 1)):
            if max(k, m) < SIDE:
                sign = 1.0 if seed is None else 2.0 * float(torch.rand(1, generator=signs) < 0.5) - 1
                found[SIDE * i + j, SIDE * k + m] = sign
    return found


def ground_state(coupling):
    """The highest sum of signs, row by row."""
    states = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=SIDE)), dtype=torch.float64)
    best = torch.zeros(len(states), dtype=torch.float64)
    for row in range(SIDE):
        sites = slice(SIDE * row, SIDE * (row + 1))
        inside = torch.einsum("ni,ij,nj->n", states, coupling[sites, sites], states)
        if row:
            above = slice(SIDE * (row - 1), SIDE * row)
            best = (best[None] + states @ coupling[above, sites].T @ states.T).amax(1)
        best = best + inside
    return float(best.max())


def searched(coupling, ascents, generations):
    """Maxima of random ascents and their values, and what recombination makes of them."""
    function = lattice(coupling)
    generator = torch.Generator().manual_seed(7)
    points, tops = ascend(function, 0.3 * torch.randn(ascents, SIDE**2, generator=generator, dtype=torch.float64))
    found, values = recombined(
        function, points, tops, lambda x: curvature(function, x[None], torch.full_like(x, 1e-3))[0],
        torch.zeros(SIDE**2, dtype=torch.float64), generator, generations=generations, same=1e-2, limit=64,
    )  # fmt: skip
    return points, tops, found, values


@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4, 5])
def test_the_ground_state_of_a_lattice_of_wells(seed):
    """None of 32 random ascents ends there; what is right about one is combined with what is right about another."""
    coupling = bonds(seed)
    points, _, found, values = searched(coupling, ascents=32, generations=8)
    best = ground_state(coupling)
    energy = torch.einsum("ni,ij,nj->n", found.sign(), coupling, found.sign())
    assert float(torch.einsum("ni,ij,nj->n", points.sign(), coupling, points.sign()).max()) < best
    assert float(energy[0]) == best
    # Its reflection weighs the same.
    assert float(values[1]) == pytest.approx(float(values[0]), abs=1e-3)
    torch.testing.assert_close(found[1], -found[0], atol=1e-2, rtol=0)
    assert bool((values.diff() <= 0).all())
    assert len(found) <= 64


def test_soft_directions_alone_find_where_neighbours_agree():
    """With signs of bonds that can all be satisfied, one pattern does; no exchange of clusters is needed for it."""
    gauge = torch.where(torch.rand(SIDE**2, generator=torch.Generator().manual_seed(3)) < 0.5, -1.0, 1.0).double()
    coupling = gauge[:, None] * bonds() * gauge
    _, tops, found, values = searched(coupling, ascents=8, generations=0)
    assert float(tops.max()) < float(values[0]) - 1
    for top in found[:2]:
        assert float((top.sign() * gauge).sum().abs()) == SIDE**2
    assert float((found[0].sign() * found[1].sign()).sum()) == -(SIDE**2)


def test_clusters_are_connected_and_inside():
    near = torch.diag(torch.ones(7), 1).bool() | torch.diag(torch.ones(7), -1).bool()
    differs = torch.tensor([1, 1, 1, 0, 0, 1, 1, 0]).bool()
    found = [tuple(cluster.nonzero()[:, 0].tolist()) for cluster in _clusters(differs, near, 5, torch.Generator())]
    assert {(0, 1, 2), (5, 6)} <= set(found)
    for cluster in found:
        assert set(cluster) <= {0, 1, 2} or set(cluster) <= {5, 6}
        assert list(cluster) == list(range(cluster[0], cluster[-1] + 1))


def test_intervals_are_reflected_about_their_middle(monkeypatch):
    seen = {}
    monkeypatch.setattr(exploration, "recombined", lambda *a, **k: seen.update(centre=a[4], **k) or a[1:3])
    coordinates = Coordinates(Support.parse([interval(2.0, 6.0), real]))
    target = Pullback(coordinates, lambda x: x.sum(1), lambda x: (x.sum(1), torch.ones_like(x)))
    points = torch.zeros(9, 2, dtype=torch.float64)
    settings = SimpleNamespace(generations=5, modes=64)
    exploration._recombined(target, settings, points, points[:, 0], torch.Generator())
    assert seen["centre"].tolist() == pytest.approx([0.5, 0.0])
    assert seen["generations"] == 5
