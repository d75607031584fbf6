"""Orthogonality, truncation and the TT-SVD against dense singular value decompositions."""

import math

import pytest
import torch
from cases import random_train

from ttvi.tt import TensorTrain, from_dense, norm, orthogonalize, to_dense, truncate
from ttvi.tt.canonical import choose_rank


def cut_errors(tensor, ranks):
    """Frobenius norms of the singular values beyond ``ranks``, one per cut: the best any train of those ranks can do."""
    sizes = tensor.shape
    tails = []
    for k in range(1, len(sizes)):
        values = torch.linalg.svdvals(tensor.reshape(math.prod(sizes[:k]), -1))
        tails.append(float(values[ranks[k] :].norm()))
    return tails


def assert_center(train, center):
    for k, core in enumerate(train.cores):
        r, s = core.shape[-3], core.shape[-1]
        if k < center:
            flat = core.flatten(-3, -2)
            torch.testing.assert_close(flat.mT @ flat, torch.eye(s, dtype=core.dtype).expand(*core.shape[:-3], s, s))
        elif k > center:
            flat = core.flatten(-2)
            torch.testing.assert_close(flat @ flat.mT, torch.eye(r, dtype=core.dtype).expand(*core.shape[:-3], r, r))


@pytest.mark.parametrize("center", [-4, -1, 0, 1, 2, 3])
def test_orthogonalize_at_every_center(center):
    train = random_train((3, 4, 2, 5), (3, 6, 4), seed=1, log_scale=0.5)
    result = orthogonalize(train, center)
    torch.testing.assert_close(to_dense(result), to_dense(train))
    assert_center(result, center % 4)
    torch.testing.assert_close(result.cores[center].norm() * result.log_scale.exp(), to_dense(train).norm())


def test_orthogonalize_lowers_ranks_that_cannot_be():
    train = random_train((2, 3, 2), (7, 9), seed=2)
    result = orthogonalize(train)
    assert result.ranks == (1, 6, 2, 1)  # from the right: 2, then 3 * 2
    assert orthogonalize(train, 2).ranks == (1, 2, 6, 1)  # from the left: 2, then 2 * 3
    torch.testing.assert_close(to_dense(result), to_dense(train))


def test_orthogonalize_a_batch_member_by_member():
    train = random_train((3, 4, 2), (2, 3), batch=(4,), seed=3)
    result = orthogonalize(train, 1)
    assert_center(result, 1)
    for b in range(4):
        member, expected = (
            TensorTrain([c[b] for c in t.cores], s) for t, s in ((result, result.log_scale[b]), (train, 0.0))
        )
        torch.testing.assert_close(to_dense(member), to_dense(expected))


def test_orthogonalize_refuses_other_centers():
    with pytest.raises(IndexError, match=r"orthogonalize: expected a center in \[0, 2\); got 2"):
        orthogonalize(random_train((2, 2), (2,)), 2)


@pytest.mark.parametrize("tol", [0.5, 0.2, 1e-2, 1e-6, 0.0])
def test_truncate_keeps_its_bound(tol):
    generator = torch.Generator().manual_seed(4)
    shape = (5, 4, 6, 5)
    grids = [torch.linspace(0, 1, n, dtype=torch.float64) for n in shape]
    total = sum(x.view(-1, *[1] * (3 - k)) for k, x in enumerate(grids))
    tensor = 1 / (0.3 + total) + 1e-3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    result = truncate(from_dense(tensor).train, tol=tol)
    error = float((to_dense(result) - tensor).norm() / tensor.norm())
    assert error <= tol + 1e-13
    assert_center(result, 0)
    if tol >= 1e-2:
        assert max(result.ranks) < 5  # the noise is gone
    again = truncate(result, tol=tol)
    assert float((to_dense(again) - tensor).norm() / tensor.norm()) <= 2 * tol + 1e-13
    assert truncate(result, tol=1e-13).ranks == result.ranks


def test_truncate_finds_the_true_ranks():
    train = random_train((4, 5, 4), (2, 3), seed=5)
    doubled = TensorTrain(
        [
            torch.cat([train.cores[0]] * 2, -1),
            torch.block_diag(*[train.cores[1].reshape(2, -1)] * 2)
            .reshape(4, 2, 5, 3)
            .permute(0, 2, 1, 3)
            .reshape(4, 5, 6),
            torch.cat([train.cores[2]] * 2, 0),
        ]
    )
    torch.testing.assert_close(to_dense(doubled), 2 * to_dense(train))
    result = truncate(doubled, tol=1e-12)
    assert result.ranks == train.ranks
    torch.testing.assert_close(to_dense(result), 2 * to_dense(train))


def test_truncate_at_max_rank_is_quasi_optimal():
    tensor = to_dense(random_train((4, 5, 4, 3), (4, 6, 3), seed=6))
    result = truncate(from_dense(tensor).train, max_rank=2)
    assert max(result.ranks) == 2
    best = cut_errors(tensor, result.ranks)
    error = float((to_dense(result) - tensor).norm())
    assert max(best) <= error <= math.sqrt(sum(b**2 for b in best)) * (1 + 1e-12)


def test_truncate_with_a_scale_far_outside_of_the_numbers():
    train = random_train((3,) * 6, (3,) * 5, seed=7, log_scale=-900.0)
    result = truncate(train, tol=1e-10)
    torch.testing.assert_close(norm(result, log=True), norm(train, log=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_rank", [None, 3])
@pytest.mark.parametrize("tol", [0.3, 1e-2, 0.0])
def test_from_dense_bound_holds_and_is_tight(tol, max_rank, dtype):
    generator = torch.Generator().manual_seed(8)
    tensor = (
        torch.randn(4, 5, 3, 4, generator=generator, dtype=torch.float64)
        .cumsum(0)
        .cumsum(1)
        .cumsum(2)
        .cumsum(3)
        .to(dtype)
    )
    train, bound = from_dense(tensor, tol=tol, max_rank=max_rank)
    error = float((to_dense(train) - tensor).norm() / tensor.norm())
    slack = 1e-5 if dtype == torch.float32 else 1e-13
    assert error <= bound * (1 + 1e-9) + slack
    assert bound <= math.sqrt(3) * error * (1 + 1e-9) + slack  # sequential cuts are orthogonal errors, so far tighter
    if max_rank is None:
        assert error <= tol + slack
    else:
        assert max(train.ranks) <= max_rank
    assert_center(train.to(dtype=torch.float64), 0) if dtype == torch.float64 else None


def test_from_dense_refuses():
    with pytest.raises(ValueError, match="from_dense: expected a tensor of finite values"):
        from_dense(torch.tensor(1.0))
    with pytest.raises(ValueError, match="from_dense: expected a tensor of finite values"):
        from_dense(torch.tensor([1.0, float("nan")]))


def test_from_dense_of_zeros():
    train, bound = from_dense(torch.zeros(3, 4))
    assert (train.ranks, bound) == ((1, 1, 1), 0.0)
    assert to_dense(train).abs().max() == 0


@pytest.mark.parametrize(
    ("values", "tol", "max_rank", "expected"),
    [
        ([4.0, 3.0, 0.0], 0.0, None, 2),
        ([4.0, 3.0, 1e-3], 1e-2, None, 2),
        ([4.0, 3.0, 4e-3, 3e-3], 5.1e-3, None, 2),  # the tail is 5e-3: a 3-4-5 triangle
        ([4.0, 3.0, 4e-3, 3e-3], 4.9e-3, None, 3),
        ([1.0], 10.0, None, 1),
        ([5.0, 4.0, 3.0, 2.0], 0.0, 2, 2),
        ([5.0, 3.0, 3.0, 1.0], 0.0, 2, 1),  # a cap between the equal ones steps down
        ([5.0, 3.0, 2.98, 2.96, 1.0], 0.0, 3, 1),  # ... below the whole multiplet
        ([0.99**k for k in range(20)], 0.0, 10, 8),  # a slow decay is no multiplet: no further than its own 2 %
        ([5.0, 3.0, 3.0, 1.0], 0.0, 3, 3),
        ([3.0, 3.0, 3.0, 3.0], 0.0, 2, 2),  # nothing but a multiplet: the cap stays
        ([5.0, 3.0, 3.0], 0.0, 8, 3),
    ],
)
def test_choose_rank(values, tol, max_rank, expected):
    assert choose_rank(torch.tensor(values), tol, max_rank) == expected


def test_max_rank_does_not_break_a_symmetry():
    # Symmetric under exchanging the values 1 and 2 of both modes; the pair of unit vectors is degenerate.
    tensor = torch.diag(torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64))
    swap = [0, 2, 1]
    result = to_dense(truncate(from_dense(tensor).train, max_rank=2))
    torch.testing.assert_close(result, result[swap][:, swap])
    torch.testing.assert_close(result, torch.diag(torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)))
