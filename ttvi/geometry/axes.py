"""Columns in which a normal density is a product: its principal axes, or every coordinate given the few it depends on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["axes", "markov_order"]

MOST_PARENTS = 4
NEGLIGIBLE = 1e-3  # deviations of a coordinate per deviation of one it depends on


def axes(covariance: Tensor, order: Tensor | None = None) -> Tensor:
    r"""A factor :math:`A A^\top = \Sigma`, whose columns are the directions of independent coordinates of deviation one.

    Args:
        covariance: shape (m, m).
        order: a permutation in which every coordinate is written given the earlier ones (:func:`markov_order`); None
            for principal axes, widest first.

    Returns:
        Shape (m, m).
    """
    if order is None:
        values, vectors = torch.linalg.eigh(covariance)
        widest = values.argsort(descending=True)
        return vectors[:, widest] * values[widest].clamp_min(1e-24).sqrt()
    matrix = torch.zeros_like(covariance)
    matrix[order] = torch.linalg.cholesky(covariance[order][:, order])
    return matrix


def markov_order(precision: Tensor) -> Tensor | None:
    r"""The order, as given or reversed, in which every coordinate of a normal density depends on at most four earlier ones.

    Along a chain, a time series or a tree such coordinates forget: what is not normal about one is felt by few that follow,
    and a train needs the rank of that alone, where principal axes, waves over the whole chain, tie everything to everything. With
    :math:`\Lambda = (I - B)^\top D (I - B)`, the rows of the triangular ``B`` are the regressions on earlier coordinates.

    Args:
        precision: shape (m, m).

    Returns:
        Shape (m,); None where some coordinate depends on more, or there are no more than eight. Of two orders, the one with fewer dependences.

    >>> walk = 2 * torch.eye(10, dtype=torch.float64)
    >>> walk -= torch.diag(torch.ones(9, dtype=torch.float64), 1) + torch.diag(torch.ones(9, dtype=torch.float64), -1)
    >>> markov_order(walk).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    >>> markov_order(torch.eye(10, dtype=torch.float64) + 1) is None
    True
    """
    given = torch.arange(len(precision))
    found = [(_dependences(precision[order][:, order]), order) for order in (given, given.flip(0))]
    fitting = [(int(of.sum()), k) for k, (of, _) in enumerate(found) if int(of.max()) <= MOST_PARENTS]
    return found[min(fitting)[1]][1] if fitting and len(given) > 2 * MOST_PARENTS else None


def _dependences(precision: Tensor) -> Tensor:
    """How many earlier coordinates each depends on, shape (m,)."""
    factor = torch.linalg.cholesky(precision.flip(0, 1)).flip(0, 1)  # upper triangular: Λ = F F'
    on = -factor.mT / factor.diagonal()[:, None]
    deviations = torch.linalg.inv(precision).diagonal().sqrt()
    scaled = on * deviations / deviations[:, None]
    return (scaled.tril(-1).abs() > NEGLIGIBLE).sum(1)
