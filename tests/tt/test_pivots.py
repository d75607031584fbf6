"""Maximum-volume rows against brute force over all subsets."""

import itertools

import pytest
import torch

from ttvi.tt import maxvol


def random_matrix(m, r, seed):
    matrix = torch.randn(m, r, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(matrix).Q


def largest_volume(matrix):
    m, r = matrix.shape
    subsets = torch.tensor(list(itertools.combinations(range(m), r)))
    return float(torch.linalg.det(matrix[subsets]).abs().max())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("m", "r"), [(4, 1), (8, 2), (10, 3), (12, 4), (5, 5)])
def test_volume_dominance_and_interpolation(m, r, seed):
    matrix = random_matrix(m, r, seed)
    rows, interpolation = maxvol(matrix)
    assert len(set(rows.tolist())) == r
    assert float(interpolation.abs().max()) <= 1.1 + 1e-12
    torch.testing.assert_close(interpolation[rows], torch.eye(r, dtype=torch.float64))
    torch.testing.assert_close(interpolation @ matrix[rows], matrix)
    # A dominant submatrix has at least r^(-r/2) of the largest volume; in practice nearly all of it.
    volume = float(torch.linalg.det(matrix[rows]).abs())
    assert volume >= 0.5 * largest_volume(matrix)


def test_rank_one_takes_the_largest_entry():
    rows, interpolation = maxvol(torch.tensor([[1.0], [-8.0], [4.0]]), dominance=1.0)
    assert rows.tolist() == [1]
    assert interpolation.flatten().tolist() == [-0.125, 1.0, -0.5]


def test_start_is_kept_when_nothing_dominates_it():
    matrix = random_matrix(30, 4, 7)
    rows, _ = maxvol(matrix)
    start = rows[torch.tensor([2, 0, 3, 1])]
    kept, interpolation = maxvol(matrix, start=start)
    assert kept.tolist() == start.tolist()
    torch.testing.assert_close(interpolation @ matrix[start], matrix)


def test_start_that_is_dominated_is_improved():
    matrix = random_matrix(30, 3, 8)
    volumes = {s: float(torch.linalg.det(matrix[list(s)]).abs()) for s in itertools.combinations(range(30), 3)}
    ranked = sorted(volumes, key=volumes.get)
    start = torch.tensor(ranked[len(ranked) // 4])
    rows, interpolation = maxvol(matrix, start=start, max_swaps=100)
    assert float(interpolation.abs().max()) <= 1.1 + 1e-9
    assert float(torch.linalg.det(matrix[rows]).abs()) > volumes[tuple(start.tolist())]


def test_a_singular_start_is_replaced():
    matrix = random_matrix(12, 3, 9)
    matrix[5] = matrix[4]
    rows, interpolation = maxvol(matrix, start=torch.tensor([4, 5, 6]))
    assert not {4, 5} <= set(rows.tolist())
    torch.testing.assert_close(interpolation @ matrix[rows], matrix)


def test_max_swaps_bounds_the_work():
    matrix = random_matrix(40, 4, 10)
    start = torch.tensor([0, 1, 2, 3])
    rows, interpolation = maxvol(matrix, start=start, max_swaps=0)
    assert rows.tolist() == start.tolist()
    torch.testing.assert_close(interpolation @ matrix[start], matrix)
