"""Which coordinates a coupling moves: halves that cut what acts on each other most."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["cutting_halves", "interactions", "moving_halves"]

CUT = 0.25  # of an interaction that the last two layers cut is left for the next two
SMALLEST = 0.25  # share of the coordinates that a half has at least
BETTER = 1.3  # times what halves by rank cut, or those are kept: any graph has a cut that is a little better
NUDGE = 1e-3  # of the scales


def moving_halves(positions: Sequence[int], layer: int) -> list[int]:
    """Which of the positions layer number ``layer`` moves, where nothing is known of them.

    Two layers that follow each other move complementary halves. The halves go by the bits of the rank: odd and even
    first, then pairs, then fours, so that any two coordinates are apart in some layer.

    >>> [moving_halves([0, 1, 2, 3], layer) for layer in range(4)]
    [[0, 2], [1, 3], [0, 1], [2, 3]]
    """
    bits = max((len(positions) - 1).bit_length(), 1)
    bit = (layer // 2) % bits
    chosen = [k for rank, k in enumerate(positions) if (rank >> bit) % 2 == layer % 2]
    return chosen or list(positions)


def interactions(gradient: Callable[[Tensor], Tensor], points: Tensor, scale: Tensor) -> Tensor:
    r"""How strongly coordinates act on each other: the mean of :math:`|\partial_i \partial_j \log \tilde p|` in units of the scales.

    Args:
        gradient: of log p̃, shape (batch, d) to (batch, d); called with ``len(points) * (d + 1)`` points.
        points: where, shape (k, d).
        scale: of the coordinates, shape (d,).

    Returns:
        Shape (d, d), symmetric, zero on the diagonal; what is not a number counts as nothing.

    >>> chain = lambda x: -(2 * x - torch.roll(x, 1, -1) * torch.tensor([0.0, 1.0, 1.0]) - torch.roll(x, -1, -1) * torch.tensor([1.0, 1.0, 0.0]))
    >>> interactions(chain, torch.zeros(2, 3), torch.ones(3)).round(decimals=2).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    count, dim = points.shape
    moved = points[:, None] + NUDGE * torch.cat([torch.zeros_like(scale)[None], torch.diag(scale)])
    slopes = gradient(moved.flatten(0, 1)).view(count, dim + 1, dim) * scale
    second = ((slopes[:, 1:] - slopes[:, :1]) / NUDGE).abs().nan_to_num(0.0, 0.0, 0.0).mean(0)
    second = 0.5 * (second + second.T)
    return second - torch.diag(second.diagonal())


def cutting_halves(weights: Tensor, positions: Sequence[int], num_layers: int) -> list[list[int]]:
    """The positions that each layer moves: a large cut of the interactions, its other side, a cut of what is left, and so on.

    A coupling moves one half given the other, so it can only act on what lies across. On a lattice the best cut is the
    checkerboard; along a chain it is odd and even, as without knowing.

    Args:
        weights: shape (d, d), as :func:`interactions` gives them.
        positions: which coordinates move.
        num_layers: how many layers.

    References:
        Poljak and Rendl, Solving the max-cut problem using eigenvalues (1995).

    >>> square = torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]])  # sites of a two by two lattice
    >>> cutting_halves(square, [0, 1, 2, 3], 2)
    [[0, 3], [1, 2]]
    """
    chosen = torch.tensor(positions)
    left = weights.detach().double().cpu()[chosen][:, chosen]
    halves: list[list[int]] = []
    for layer in range(num_layers):
        if layer % 2:
            halves.append([k for k in positions if k not in set(halves[-1])] or list(positions))
            continue
        known = set(moving_halves(range(len(positions)), layer))
        usual = torch.tensor([1.0 if k in known else -1.0 for k in range(len(positions))], dtype=torch.float64)
        side = _largest_cut(left, usual)
        halves.append(chosen[side > 0].tolist())
        left = torch.where(side[:, None] != side, CUT * left, left)
    return halves


def _largest_cut(weights: Tensor, usual: Tensor) -> Tensor:
    """Sides ±1, shape (n,): from the eigenvector of the lowest eigenvalue and single flips, or the usual ones if hardly worse."""
    least = max(1, int(SMALLEST * len(usual)))
    spectral = torch.where(torch.linalg.eigh(weights)[1][:, 0] >= 0, 1.0, -1.0).double()
    best, best_cut = usual, BETTER * _cut(weights, usual)
    for start in (spectral, usual):
        side = start.clone()
        if int(min((side > 0).sum(), (side < 0).sum())) < least:
            continue
        for _ in range(4 * len(side)):
            gain = side * (weights @ side)  # of flipping each: what it is not cut from less what it is
            small = torch.sign(side.sum()) != side if int(min((side > 0).sum(), (side < 0).sum())) <= least else None
            if small is not None:
                gain = torch.where(small, -1.0, gain)
            k = int(gain.argmax())
            if float(gain[k]) <= 1e-12 * float(weights.sum()):
                break
            side[k] = -side[k]
        if _cut(weights, side) > best_cut:
            best, best_cut = side, _cut(weights, side)
    return best if float(best[0]) > 0 else -best


def _cut(weights: Tensor, side: Tensor) -> float:
    return float(0.25 * (weights * (side[:, None] - side).square()).sum() / 2)
