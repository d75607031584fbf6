"""Indicator functions on a finite set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from .base import Basis, SquareIntegral

__all__ = ["Categorical"]


@dataclass(frozen=True)
class Categorical(Basis):
    """The indicator functions of ``0, 1, ..., size - 1``, orthonormal under the counting measure.

    Densities over such a coordinate are probabilities; values travel as floating-point integers in the same tensor as
    the continuous coordinates.

    Args:
        size: number of categories.

    >>> Categorical(3)(torch.tensor([2.0]))
    tensor([[0., 0., 1.]])
    """

    size: int
    discrete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size is None or int(self.size) != self.size or self.size < 1:
            raise ValueError(
                f"Categorical: expected at least one category; got {self.size}. Pass the number of categories."
            )

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.size - 1)

    def with_size(self, size: int) -> Categorical:
        return self

    def nodes(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return torch.arange(self.size, dtype=dtype, device=device)

    def weights(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return torch.ones(self.size, dtype=dtype, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        categories = torch.arange(self.size, dtype=x.dtype, device=x.device)
        return (x.unsqueeze(-1) == categories).to(x.dtype)

    def derivative(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape, self.size)

    def integrals(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return torch.ones(self.size, dtype=dtype, device=device)

    def multiplication(self, power: int = 1) -> Tensor:
        return torch.diag(self.nodes() ** power)

    def modal(self, coefficients: Tensor) -> Tensor:
        return coefficients

    def interpolate(self, x: Tensor, coefficients: Tensor) -> Tensor:
        return coefficients[torch.arange(len(x), device=x.device), x.long()]

    def square_integral(self, coefficients: Tensor) -> _CategoricalSquare:
        return _CategoricalSquare(coefficients)

    def reference_log_prob(self, x: Tensor) -> Tensor:
        return torch.full_like(x, -math.log(self.size))

    def reference_cdf(self, x: Tensor) -> Tensor:
        return (x + 0.5) / self.size

    def reference_icdf(self, u: Tensor) -> Tensor:
        return (u * self.size).floor().clamp(0, self.size - 1)

    def reference_moments(self) -> tuple[float, float]:
        values = self.nodes()
        return float(values.mean()), float((values**2).mean())

    def spec(self) -> dict[str, Any]:
        return {"family": "Categorical", "size": self.size}


class _CategoricalSquare(SquareIntegral):
    """Cumulative sums. At an atom ``F`` takes the middle of its jump, so that the inverse finds the atom again."""

    def __init__(self, coefficients: Tensor) -> None:
        self._masses = coefficients.square().sum(-1)
        self._ends = self._masses.cumsum(-1)
        self.total = self._ends[:, -1]

    def evaluate(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        masses, ends = (self._masses, self._ends) if rows is None else (self._masses[rows], self._ends[rows])
        atom = x.detach().long().unsqueeze(-1)
        mass = masses.gather(-1, atom).squeeze(-1)
        return ends.gather(-1, atom).squeeze(-1) - 0.5 * mass, mass

    def inverse(self, u: Tensor, *, share: Tensor | None = None) -> Tensor:
        levels = self._ends.detach() / self.total.detach().clamp_min(torch.finfo(u.dtype).tiny)[:, None]
        if share is not None:
            n = levels.shape[-1]
            uniform = torch.arange(1, n + 1, dtype=u.dtype, device=u.device) / n
            levels = share.detach()[:, None] * levels + (1 - share.detach())[:, None] * uniform
        atoms = torch.searchsorted(levels, u.detach()[:, None].contiguous(), right=True).squeeze(-1)
        return atoms.clamp(max=levels.shape[-1] - 1).to(u.dtype)
