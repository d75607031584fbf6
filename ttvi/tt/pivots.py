"""Row subsets that span a matrix well: matrix in, row indices out."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["maxvol"]


def maxvol(
    matrix: Tensor, *, start: Tensor | None = None, dominance: float = 1.1, max_swaps: int | None = None
) -> tuple[Tensor, Tensor]:
    r"""Rows whose submatrix has nearly the largest volume, and the interpolation from them to all rows.

    Begins with the pivots of a partially pivoted (rank-revealing) LU factorisation, or with the rows in ``start``, and
    swaps rows while an entry of :math:`A\,A[\text{rows}]^{-1}` exceeds ``dominance``.

    Args:
        matrix: shape ``(m, r)`` with ``m >= r`` and full column rank; orthonormal columns are best.
        start: ``r`` incumbent rows, kept unless others dominate them.
        dominance: stop when no entry is larger.
        max_swaps: bound on the number of swaps, ``4 r`` by default.

    Returns:
        Rows of shape ``(r,)``, and the interpolation matrix of shape ``(m, r)``, the identity on those rows.

    References:
        Goreinov, Oseledets, Savostyanov, Tyrtyshnikov, Zamarashkin: How to find a good submatrix (2010).

    >>> rows, interpolation = maxvol(torch.tensor([[1.0], [4.0], [2.0]]))
    >>> rows.tolist(), interpolation.flatten().tolist()
    ([1], [0.25, 1.0, 0.5])
    """
    m, r = matrix.shape
    rows = _lu_rows(matrix) if start is None else start
    interpolation = _interpolation(matrix, rows)
    if start is not None and not bool(interpolation.abs().max() < 1e3):
        rows = _lu_rows(matrix)
        interpolation = _interpolation(matrix, rows)
    for _ in range(4 * r if max_swaps is None else max_swaps):
        position = int(interpolation.abs().argmax())
        row, column = divmod(position, r)
        pivot = interpolation[row, column]
        if not bool(pivot.abs() > dominance):
            break
        # Exchanging one row is a rank-one change of the interpolation matrix.
        update = interpolation[row].clone()
        update[column] -= 1.0
        interpolation = interpolation - torch.outer(interpolation[:, column], update / pivot)
        rows = rows.clone()
        rows[column] = row
    return rows, interpolation


def _lu_rows(matrix: Tensor) -> Tensor:
    permutation = torch.linalg.lu(matrix)[0]  # matrix = P L U
    return permutation.argmax(0)[: matrix.shape[1]]


def _interpolation(matrix: Tensor, rows: Tensor) -> Tensor:
    solution, info = torch.linalg.solve_ex(matrix[rows].mT, matrix.mT)
    return torch.where(info == 0, solution.mT, torch.inf)
