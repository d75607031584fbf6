"""Protocols shared by the whole package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["BatchFunction", "Dims", "LogDensity"]


class LogDensity(Protocol):
    """An unnormalised log-density, evaluated on a batch of points: ``(batch, dim) -> (batch,)``."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


BatchFunction = Callable[[Tensor], Tensor]
"""A function of a batch of points, ``(batch, dim) -> (batch,)``."""

Dims = Sequence[int] | torch.Tensor
"""Positions of coordinates; negative ones count from the end."""
