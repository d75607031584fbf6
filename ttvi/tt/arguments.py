"""Checks of arguments that several public callables share; each raises with the remedy."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from ..typing import Dims

__all__ = ["check_columns", "check_positions", "seeded"]


def check_columns(x: object, dim: int, caller: str) -> Tensor:
    """``x``, a tensor of shape ``(..., dim)``.

    Raises:
        ValueError: it is something else.

    >>> check_columns(torch.zeros(5, 3), 2, "log_prob")
    Traceback (most recent call last):
    ...
    ValueError: log_prob: expected a tensor of shape (..., 2); got (5, 3). One column per coordinate.
    """
    if not isinstance(x, Tensor) or x.dim() == 0 or x.shape[-1] != dim:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{caller}: expected a tensor of shape (..., {dim}); got {got}. One column per coordinate.")
    return x


def check_positions(dims: Dims, dim: int, caller: str) -> list[int]:
    """Positions of distinct coordinates, negative ones counted from the end.

    Raises:
        IndexError: a position does not exist.
        ValueError: one is named twice.

    >>> check_positions([0, -1], 4, "marginal")
    [0, 3]
    """
    given = [operator.index(k) for k in dims]
    for k in given:
        if not -dim <= k < dim:
            raise IndexError(f"{caller}: expected positions in [0, {dim}); got {k}. Count coordinates from zero.")
    positions = [k % dim for k in given]
    if len(set(positions)) < len(positions):
        raise ValueError(f"{caller}: expected distinct positions; got {given}. Name each coordinate once.")
    return positions


def seeded(
    generator: torch.Generator | None, seed: int | None, device: torch.device, caller: str
) -> torch.Generator | None:
    """The generator given, or one made from the seed.

    Raises:
        ValueError: both were given.
    """
    if generator is not None and seed is not None:
        raise ValueError(f"{caller}: expected generator= or seed=, not both. Drop one.")
    return generator if seed is None else torch.Generator(device).manual_seed(seed)
