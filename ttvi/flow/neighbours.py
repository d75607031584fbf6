"""Which coordinates a network should see: where each acts on a few others only, those and what is near them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["nearness", "neighbours"]

FEW = 8.0  # partners of a coordinate on average, up to which interactions are local: six in a cubic lattice
SEEN = 16  # coordinates that each network sees: on a square lattice those up to three bonds away
STEPS = 4  # bonds from one coordinate to another
PER_STEP = 0.5  # of what a path of one bond less counts


def nearness(weights: Tensor) -> Tensor | None:
    r"""How near coordinates are to each other along their interactions; None where each acts on many others.

    With W the interactions, :math:`K = D^{-1/2} W D^{-1/2}` and D the row sums, paths of n bonds count :math:`2^{1-n} K^n`. The
    number of partners of a coordinate is :math:`(\sum_j w_j)^2 / \sum_j w_j^2`.

    Args:
        weights: shape (d, d), as :func:`.halves.interactions` gives them.

    >>> chain = torch.diag(torch.ones(4), 1) + torch.diag(torch.ones(4), -1)
    >>> nearness(chain)[0].argsort(descending=True, stable=True).tolist()
    [1, 0, 2, 3, 4]
    >>> nearness(torch.ones(20, 20)) is None
    True
    """
    weights = weights.detach().double().cpu()
    total = weights.sum(1)
    coupled = total > 0
    partners = total.square() / weights.square().sum(1).clamp_min(1e-300)
    if not bool(coupled.any()) or float(partners[coupled].mean()) > FEW:
        return None
    root = torch.where(coupled, total, 1.0).sqrt()
    bond = weights / (root[:, None] * root)
    paths, found = bond, bond.clone()
    for n in range(1, STEPS):
        paths = paths @ bond
        found += PER_STEP**n * paths
    return found


def neighbours(near: Tensor, moved: Sequence[int], dim: int) -> list[list[int]]:
    """For each coordinate that moves the nearest of those that do not.

    Args:
        near: shape (d, d), from :func:`nearness`.
        moved: positions that move.
        dim: number of coordinates.

    >>> chain = torch.diag(torch.ones(4), 1) + torch.diag(torch.ones(4), -1)
    >>> neighbours(nearness(chain), [0, 2, 4], 5)
    [[1, 3], [1, 3], [3, 1]]
    """
    rest = torch.tensor([k for k in range(dim) if k not in set(moved)], dtype=torch.long)
    order = near[list(moved)][:, rest].argsort(dim=1, descending=True, stable=True)[:, :SEEN]
    return [[int(rest[k]) for k in row] for row in order]
