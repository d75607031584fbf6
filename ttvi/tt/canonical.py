"""Canonical forms: orthogonalization, truncation, and the TT-SVD of a dense tensor."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .algebra import unit_scale
from .train import TensorTrain

__all__ = ["Decomposition", "choose_rank", "from_dense", "orthogonalize", "truncate"]

DEGENERATE = 0.98  # singular values closer than this are a pair that truncation must not split


def orthogonalize(train: TensorTrain, center: int = 0) -> TensorTrain:
    """The same tensor with orthonormal cores on both sides of the orthogonality center. Cost O(d · n · r³).

    Cores left of ``center`` have orthonormal columns, those right of it orthonormal rows, so the Frobenius norm of the
    tensor is that of the center core (times ``exp(log_scale)``). Batched trains are orthogonalized member by member.

    Args:
        train: any train.
        center: the mode that keeps the norm; negative values count from the end.

    Raises:
        IndexError: there is no such mode.
    """
    if not -train.dim <= center < train.dim:
        raise IndexError(f"orthogonalize: expected a center in [0, {train.dim}); got {center}. Name an existing mode.")
    center %= train.dim
    train = _sweep(train, center)
    return _sweep(train.reversed(), train.dim - 1 - center).reversed()


def _sweep(train: TensorTrain, stop: int) -> TensorTrain:
    """Orthonormal columns for every core before ``stop``; what remains is pushed into the next core."""
    cores = list(train.cores)
    logs = train.log_scale
    for k in range(stop):
        r, n, s = cores[k].shape[-3:]
        q, remainder = torch.linalg.qr(cores[k].reshape(*cores[k].shape[:-3], r * n, s))
        remainder, log = unit_scale(remainder, (-2, -1))
        logs = logs + log
        cores[k] = q.unflatten(-2, (r, n))
        cores[k + 1] = (remainder @ cores[k + 1].flatten(-2)).unflatten(-1, cores[k + 1].shape[-2:])
    cores[stop], log = unit_scale(cores[stop], (-3, -2, -1))
    return TensorTrain(cores, logs + log)


def choose_rank(singular_values: Tensor, tol: float, max_rank: int | None = None) -> int:
    """The smallest rank whose discarded tail has a Euclidean norm of at most ``tol``.

    A cap that would separate two nearly equal singular values steps down instead: half of a degenerate pair is worse
    than none of it, because it breaks a symmetry of the tensor.

    Args:
        singular_values: descending, shape ``(m,)``.
        tol: absolute bound on the discarded norm.
        max_rank: the cap.

    Returns:
        A rank of at least one.
    """
    values = singular_values.detach()
    tails = values.square().flip(0).cumsum(0).flip(0).sqrt()
    rank = max(1, int((tails > tol).sum()))
    if max_rank is None or rank <= max_rank:
        return rank
    kept = int((DEGENERATE * values[:max_rank] >= values[max_rank]).sum())  # those above the multiplet that is cut
    return kept if kept > 0 else max_rank


def truncate(train: TensorTrain, *, tol: float = 0.0, max_rank: int | None = None) -> TensorTrain:
    r"""The train of lowest ranks within ``tol`` of the given one: :math:`\lVert A - B \rVert \le tol \lVert A \rVert`.

    The bound holds unless ``max_rank`` cuts in. Cost O(d · n · r³). The result is right-orthogonal (center 0).

    Args:
        train: an unbatched train.
        tol: relative error in the Frobenius norm.
        max_rank: a cap on every rank.

    References:
        Oseledets: Tensor-train decomposition, algorithm 2 (2011).
    """
    train = orthogonalize(train, train.dim - 1)
    cores = list(train.cores)
    allowed = tol / math.sqrt(max(1, train.dim - 1)) * float(cores[-1].detach().norm())
    for k in range(train.dim - 1, 0, -1):
        r, n, s = cores[k].shape
        u, values, vh = torch.linalg.svd(cores[k].reshape(r, n * s), full_matrices=False)
        rank = choose_rank(values, allowed, max_rank)
        cores[k] = vh[:rank].reshape(rank, n, s)
        cores[k - 1] = torch.tensordot(cores[k - 1], u[:, :rank] * values[:rank], 1)
    return TensorTrain(cores, train.log_scale)


class Decomposition(NamedTuple):
    """A train and a bound on its distance from the tensor it came from."""

    train: TensorTrain
    error_bound: float
    """Upper bound on the relative error in the Frobenius norm."""


def from_dense(tensor: Tensor, *, tol: float = 0.0, max_rank: int | None = None) -> Decomposition:
    r"""TT-SVD of a dense tensor: quasi-optimal, error at most :math:`\sqrt{\sum_k \varepsilon_k^2}` of the cut errors.

    Args:
        tensor: shape ``(n_1, ..., n_d)``.
        tol: relative error in the Frobenius norm.
        max_rank: a cap on every rank.

    Returns:
        The right-orthogonal train, and its error bound.

    Raises:
        ValueError: the tensor has no dimensions or an entry is not finite.

    References:
        Oseledets: Tensor-train decomposition, algorithm 1 (2011).

    >>> grid = torch.linspace(0, 1, 8, dtype=torch.float64)
    >>> train, bound = from_dense(torch.sin(grid[:, None, None] + grid[:, None] + grid), tol=1e-12)
    >>> train.ranks
    (1, 2, 2, 1)
    """
    if tensor.dim() == 0 or not bool(torch.isfinite(tensor).all()):
        raise ValueError(
            f"from_dense: expected a tensor of finite values with at least one dimension; got shape {tuple(tensor.shape)}. "
            "Remove NaN and infinite entries."
        )
    sizes = tensor.shape
    total = float(tensor.norm())
    allowed = tol / math.sqrt(max(1, len(sizes) - 1)) * total
    cores: list[Tensor] = []
    discarded = 0.0
    remainder = tensor.reshape(1, -1)
    for n in reversed(sizes[1:]):
        s = cores[0].shape[0] if cores else 1
        u, values, vh = torch.linalg.svd(remainder.reshape(-1, n * s), full_matrices=False)
        rank = choose_rank(values, allowed, max_rank)
        discarded += float(values[rank:].square().sum())
        cores.insert(0, vh[:rank].reshape(rank, n, s))
        remainder = u[:, :rank] * values[:rank]
    cores.insert(0, remainder.reshape(1, sizes[0], -1))
    return Decomposition(TensorTrain(cores), math.sqrt(discarded) / total if total > 0 else 0.0)
