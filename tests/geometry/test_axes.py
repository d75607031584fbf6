"""Directions of independent coordinates against the normal densities they come from."""

from __future__ import annotations

import pytest
import torch

from ttvi.geometry.axes import axes, markov_order


def regressions(dim, parents, generator):
    """A precision in which coordinate i depends on ``parents(i)``, and its strictly triangular matrix of regressions."""
    matrix = torch.zeros(dim, dim, dtype=torch.float64)
    for i in range(dim):
        for j in parents(i):
            matrix[i, j] = 0.3 + 0.4 * torch.rand((), generator=generator, dtype=torch.float64)
    widths = 0.5 + torch.rand(dim, generator=generator, dtype=torch.float64)
    factor = (torch.eye(dim, dtype=torch.float64) - matrix) / widths[:, None]
    return factor.T @ factor, matrix


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", [None, torch.randperm(9, generator=torch.Generator().manual_seed(0))])
def test_axes_are_a_factor_of_the_covariance(seed, order):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(9, 9, generator=generator, dtype=torch.float64)
    covariance = root @ root.T
    matrix = axes(covariance, order)
    torch.testing.assert_close(matrix @ matrix.T, covariance)
    if order is not None:
        torch.testing.assert_close(matrix[order], matrix[order].tril())


def test_principal_axes_come_widest_first():
    covariance = torch.diag(torch.tensor([1.0, 9.0, 4.0], dtype=torch.float64))
    assert axes(covariance).norm(dim=0).tolist() == pytest.approx([3.0, 2.0, 1.0])


@pytest.mark.parametrize(
    "parents",
    [
        lambda i: [],
        lambda i: range(max(0, i - 1), i),
        lambda i: range(max(0, i - 4), i),
        lambda i: [(i - 1) // 2] if i else [],
        lambda i: [0, i - 1] if i > 1 else range(i),
    ],
    ids=["independent", "chain", "order four", "tree", "hyperparameter and chain"],
)
def test_few_dependences_keep_their_order(parents):
    """And each column then moves a coordinate and what follows from it: none that comes before."""
    precision, _ = regressions(20, parents, torch.Generator().manual_seed(1))
    order = markov_order(precision)
    assert order is not None
    assert order.tolist() == list(range(20))
    columns = axes(torch.linalg.inv(precision), order)
    torch.testing.assert_close(columns, columns.tril())


def test_a_chain_that_is_given_backwards():
    """Every coordinate but the last depends on a common effect that comes at the end."""
    precision, _ = regressions(20, lambda i: range(max(0, i - 1), i) if i else [], torch.Generator().manual_seed(2))
    star, _ = regressions(20, lambda i: [0] if i else [], torch.Generator().manual_seed(3))
    assert markov_order(precision.flip(0, 1)) is not None
    backwards = markov_order(star.flip(0, 1))
    assert backwards is not None
    assert backwards.tolist() == list(range(19, -1, -1))


@pytest.mark.parametrize("dim", [2, 8])
def test_too_few_coordinates_to_tell(dim):
    assert markov_order(torch.eye(dim, dtype=torch.float64)) is None


def test_everything_on_everything():
    precision, _ = regressions(20, range, torch.Generator().manual_seed(4))
    assert markov_order(precision) is None


def test_noise_of_differences_is_no_dependence():
    precision, _ = regressions(20, lambda i: range(max(0, i - 1), i), torch.Generator().manual_seed(5))
    noise = 1e-6 * torch.randn(20, 20, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    assert markov_order(precision + noise + noise.T) is not None
