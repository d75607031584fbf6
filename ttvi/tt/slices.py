"""Basis sizes from the decay of the coefficients along one-dimensional slices, walked through by Gibbs steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from .basis import Basis
from .cache import GridFunction

__all__ = ["PILOT_SIZE", "SLICE_TOL", "WALKERS", "pilot_bases", "sized_bases"]

PILOT_SIZE = 17
WALKERS = 4
SLICE_SIZES = (65, 129, 257, 513)
SLICE_TOL = 0.3  # of the tolerance: a few walkers do not see the sharpest slice


def pilot_bases(bases: Sequence[Basis]) -> tuple[Basis, ...]:
    """The bases with a small size where none was given."""
    return tuple(basis.with_size(PILOT_SIZE) if basis.size is None else basis for basis in bases)


def sized_bases(
    bases: Sequence[Basis],
    grid: GridFunction,
    walkers: Tensor,
    tol: float,
    generator: torch.Generator | None,
    amplitude: Callable[[Tensor], Tensor],
) -> tuple[Basis, ...]:
    """The bases with the sizes that slices through the walkers ask for, in two passes over the coordinates.

    Args:
        bases: one per coordinate; those with a size keep it.
        grid: pays for the slices. A budget that ends early gives the remaining coordinates the largest size.
        walkers: points, shape ``(walkers, d)``; moved in place.
        tol: relative norm of the coefficients left out along one coordinate.
        generator: source of randomness.
        amplitude: turns the values on the slices, shape ``(walkers, n)``, into the functions that are to be resolved.
    """
    unsized = [k for k, basis in enumerate(bases) if basis.size is None]
    sizes: dict[int, int] = {}
    try:
        for sweep in range(2):
            for k in unsized:
                needed = _slice_size(bases[k], k, grid, walkers, tol, generator, amplitude)
                sizes[k] = needed if sweep == 0 else max(needed, sizes[k])
    except BudgetExhausted:
        unseen = max(sizes.values(), default=PILOT_SIZE)  # coordinates not reached are taken to be like the worst one
        sizes = {k: sizes.get(k, unseen) for k in unsized}
    return tuple(basis.with_size(sizes[k]) if k in sizes else basis for k, basis in enumerate(bases))


def _slice_size(
    basis: Basis,
    k: int,
    grid: GridFunction,
    walkers: Tensor,
    tol: float,
    generator: torch.Generator | None,
    amplitude: Callable[[Tensor], Tensor],
) -> int:
    """Functions needed along coordinate ``k`` through every walker; each walker then takes a Gibbs step there."""
    for fine_size in SLICE_SIZES:
        fine = basis.with_size(fine_size)
        x = fine.nodes(dtype=grid.dtype, device=grid.device)
        weight = fine.weights(dtype=grid.dtype, device=grid.device)
        points = walkers.repeat_interleave(len(x), 0)
        points[:, k] = x.repeat(len(walkers))
        root = amplitude(grid.off_grid(points).view(len(walkers), len(x))) * weight.sqrt()
        usable = root.norm(dim=1) > 0
        if not bool(usable.any()):
            return PILOT_SIZE
        root = root[usable]
        modes = fine.modal(root.T)
        tails = modes.square().flip(0).cumsum(0).flip(0).sqrt() / modes.norm(dim=0)
        needed = int((tails > tol).sum(0).max())
        if needed < 0.75 * fine_size:
            break
    chosen = torch.multinomial(root.square(), 1, generator=generator)[:, 0]
    walkers[usable, k] = x[chosen]
    return max(8, math.ceil(1.1 * needed) + 2)
