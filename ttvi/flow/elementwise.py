"""Monotone maps of single coordinates, given their parameters: what couplings and autoregressive layers apply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from .conditioner import is_plain

__all__ = ["Affine", "Elementwise", "Shift"]


class Elementwise(nn.Module, ABC):
    """A monotone map of each of ``size`` columns, the identity where its parameters are zero.

    Args:
        loc: typical location of each column.
        scale: typical spread of each column.

    Attributes:
        size: number of columns.
        num_parameters: parameters per column.
    """

    num_parameters: int
    bends: ClassVar[bool] = True
    """Whether the derivative depends on the argument."""
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.size = len(loc)
        self.register_buffer("loc", loc.clone())
        self.register_buffer("scale", scale.clone())

    @abstractmethod
    def columns(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Image and log-derivative of every column.

        Args:
            z: columns, shape ``(..., size)``.
            parameters: shape ``(..., size * num_parameters)``, in the layout that `owners` tells.

        Returns:
            x: shape ``(..., size)``.
            log dx/dz: shape ``(..., size)``.
        """

    def forward(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Image, and log-derivative summed over the columns, shape ``(...)``; arguments as in `columns`."""
        x, log_slopes = self.columns(z, parameters)
        return x, log_slopes.sum(-1)

    @abstractmethod
    def inverse(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Preimage and log-derivative of the inverse."""

    @abstractmethod
    def owners(self) -> Tensor:
        """The column that each of the ``size * num_parameters`` parameters belongs to."""


class Shift(Elementwise):
    """x = z + scale·t.

    References:
        Dinh, Krueger, Bengio: NICE: non-linear independent components estimation (2014)
    """

    num_parameters = 1
    bends = False

    def columns(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addcmul(z, self.scale, parameters), torch.zeros_like(z)

    def inverse(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addcmul(x, self.scale, parameters, value=-1), x.new_zeros(x.shape[:-1])

    def owners(self) -> Tensor:
        return torch.arange(self.size)


class Affine(Elementwise):
    """x − loc = (z − loc)·eˢ + scale·t with s between ±`limit`, written as a correction to z so that zero adds nothing.

    References:
        Dinh, Sohl-Dickstein, Bengio: Density estimation using Real NVP (2016)
    """

    num_parameters = 2
    bends = False
    limit = 5.0

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale)
        self._plain = is_plain(loc, scale)

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = parameters.split(self.size, -1)
        return shift, (raw / self.limit).tanh() * self.limit

    def columns(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_slope = self._split(parameters)
        if self._plain:
            return torch.addcmul(shift, z, log_slope.exp()), log_slope
        x = torch.addcmul(z, z - self.loc, torch.expm1(log_slope))
        return torch.addcmul(x, self.scale, shift), log_slope

    def inverse(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_slope = self._split(parameters)
        if self._plain:
            return (x - shift) * log_slope.neg().exp(), -log_slope.sum(-1)
        z = torch.addcmul(x, self.scale, shift, value=-1)
        return torch.addcmul(z, z - self.loc, torch.expm1(-log_slope)), -log_slope.sum(-1)

    def owners(self) -> Tensor:
        return torch.arange(self.size).repeat(2)
