"""What densities that are made of others have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch.distributions import Distribution, constraints

__all__ = ["Composed"]


class Composed(Distribution):
    """A density made of others: it computes where, and in the precision in which, the first of them does."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, event_shape: torch.Size) -> None:
        super().__init__(torch.Size(), event_shape, validate_args=False)

    @property
    @abstractmethod
    def _first(self) -> Any:
        """The density, or the first of them."""

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the draws."""
        return getattr(self._first, "dtype", torch.float64)

    @property
    def device(self) -> torch.device:
        """Device of the draws."""
        return getattr(self._first, "device", torch.device("cpu"))

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws can be reparameterised."""
        return bool(getattr(self._first, "has_rsample", False))
