"""An order in which coordinates that depend on each other are near each other, where the given one scatters them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from .curvature_rank import cut_information

__all__ = ["Ordering", "better_order"]

LITTLE = 0.3  # nats across a cut, below which any order will do
GAIN = 0.6  # of the information in the given order, that another one must fall below
TIED = 0.02  # partial correlation from which on two coordinates are neighbours


class Ordering(NamedTuple):
    """An order, and the mean information across its cuts and those of the given one (nats)."""

    order: Tensor
    information: float
    given: float


def better_order(points: Tensor, precision: Tensor | None) -> Ordering | None:
    """An order in which a train needs far less rank than in the given one; None where there is no such order.

    Tried are the reverse Cuthill-McKee order of the graph of partial correlations at a maximum, the order of the second
    eigenvector of the Laplacians of these and of the correlations of a population, and the walk from its end that always goes on
    to the coordinate that is tied most to the last one. What decides is the information across the cuts (:func:`.cut_information`), which costs no evaluation.

    Args:
        points: a population, shape (N, m).
        precision: the negative Hessian at a maximum, shape (m, m); None where there is none.

    References:
        Cuthill and McKee, Reducing the bandwidth of sparse symmetric matrices (1969).
        Fiedler, A property of eigenvectors of nonnegative symmetric matrices and its application to graph theory (1975).

    >>> walk = torch.randn(4000, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(1)
    >>> scattered = torch.tensor([7, 2, 9, 0, 4, 11, 5, 1, 8, 3, 10, 6])
    >>> found = better_order(walk[:, scattered], None)
    >>> scattered[found.order].diff().abs().tolist()
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    >>> better_order(walk, None) is None
    True
    """
    given = cut_information(points)
    if given < LITTLE:
        return None
    weights = [_correlations(torch.cov(points.T)).square()]
    tried = []
    if precision is not None:
        partial = _correlations(precision).abs()
        weights.append(partial)
        tried.append(_narrow(partial))
    tried += [order for weight in weights for order in (_smooth(weight), _followed(weight))]
    found = min(tried, key=lambda order: cut_information(points[:, order]))
    least = cut_information(points[:, found])
    return Ordering(found, least, given) if least < GAIN * given else None


def _correlations(matrix: Tensor) -> Tensor:
    """Scaled to a diagonal of ones, which is then left out."""
    scale = matrix.diagonal().clamp_min(1e-300).sqrt()
    return (matrix / scale / scale[:, None]).fill_diagonal_(0.0)


def _narrow(weights: Tensor) -> Tensor:
    """The order of Cuthill and McKee, which keeps neighbours near each other."""
    graph = csr_matrix((weights > TIED).numpy())
    return torch.from_numpy(np.array(reverse_cuthill_mckee(graph, symmetric_mode=True), dtype=np.int64))


def _smooth(weights: Tensor) -> Tensor:
    """The order of the second eigenvector of the Laplacian."""
    degree = weights.sum(1).clamp_min(1e-12).rsqrt()
    laplacian = torch.eye(len(weights), dtype=weights.dtype) - degree * weights * degree[:, None]
    return (torch.linalg.eigh(laplacian)[1][:, 1] * degree).argsort()


def _followed(weights: Tensor) -> Tensor:
    """From the end that the smooth order finds, always on to the coordinate that depends most on the last one."""
    weights = weights.clone()
    last = int(_smooth(weights)[0])
    order = [last]
    for _ in range(len(weights) - 1):
        weights[:, last] = -1.0
        last = int(weights[last].argmax())
        order.append(last)
    return torch.tensor(order)
