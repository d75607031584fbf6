"""Contractions on cached ``opt_einsum`` paths: one compiled expression per (equation, shapes)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import opt_einsum
from torch import Tensor

__all__ = ["contract"]


@lru_cache(maxsize=4096)
def _expression(equation: str, shapes: tuple[tuple[int, ...], ...]) -> Any:
    return opt_einsum.contract_expression(equation, *shapes, optimize="optimal")


def contract(equation: str, *tensors: Tensor) -> Tensor:
    """Contract ``tensors`` along ``equation`` in the cheapest pairwise order.

    The order is searched once per equation and shapes and cached, so calls in a loop over modes pay for the arithmetic
    only. Runs on whatever device the tensors live on.

    Args:
        equation: an einsum equation, e.g. ``"br,rns,bn->bs"``.
        tensors: the operands, in the order of the equation.

    Returns:
        The contracted tensor.

    References:
        Smith, Gray: opt_einsum - A Python package for optimizing contraction order for einsum-like expressions (2018).

    >>> import torch
    >>> contract("ij,j->i", torch.eye(2), torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    return _expression(equation, tuple(tuple(t.shape) for t in tensors))(*tensors, backend="torch")
