"""Polynomials on an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

from ...errors import SupportError
from .base import Basis, GridSquareIntegral
from .polynomial import PolynomialTables, barycentric, lagrange, polynomial_tables

__all__ = ["Legendre"]


class IntervalBasis(Basis):
    """What bases on an interval share: validation, the affine map to [-1, 1], and the uniform reference."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        for bound in ("lower", "upper"):
            object.__setattr__(self, bound, float(getattr(self, bound)))
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper):
            raise SupportError(
                f"{name}: expected finite lower < upper; got lower={self.lower}, upper={self.upper}. "
                "Swap the ends, or use Hermite for an unbounded coordinate."
            )
        if self.size is not None and (int(self.size) != self.size or self.size < self.min_size):
            raise ValueError(
                f"{name}: expected an integer size of at least {self.min_size}; got {self.size}. Use size=None to have it chosen."
            )

    @property
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.lower, self.upper)

    @property
    def length(self) -> float:
        return self.upper - self.lower

    def reference_log_prob(self, x: Tensor) -> Tensor:
        return torch.full_like(x, -math.log(self.length))

    def reference_cdf(self, x: Tensor) -> Tensor:
        return (x - self.lower) / self.length

    def reference_icdf(self, u: Tensor) -> Tensor:
        return self.lower + self.length * u

    def reference_moments(self) -> tuple[float, float]:
        mean = 0.5 * (self.lower + self.upper)
        return mean, mean**2 + self.length**2 / 12


@dataclass(frozen=True)
class Legendre(IntervalBasis):
    r"""Lagrange polynomials at ``size`` Gauss-Legendre nodes of ``[lower, upper]``, each divided by :math:`\sqrt{w_i}`.

    They are an orthonormal basis of the polynomials of degree ``size - 1``. The square of a function in their span is
    integrated, and the integral inverted, exactly.

    Args:
        lower, upper: the ends of the interval.
        size: number of functions; ``None`` lets a fit choose it.

    Raises:
        SupportError: the interval is empty, reversed or unbounded.

    >>> basis = Legendre(-1.0, 3.0, size=5)
    >>> coefficients = basis.nodes() ** 2 * basis.weights().sqrt()
    >>> round(float(basis(torch.tensor(2.0, dtype=torch.float64)) @ coefficients), 12)
    4.0
    """

    lower: float
    upper: float
    size: int | None = field(default=None, kw_only=True)
    min_size: ClassVar[int] = 1

    def _tables(self, dtype: torch.dtype, device: torch.device | str | None) -> PolynomialTables:
        return polynomial_tables(self._require_size(), dtype, torch.device(device or "cpu"))

    def _unit(self, x: Tensor) -> Tensor:
        return ((2 * x - (self.lower + self.upper)) / self.length).clamp(-1, 1)

    def nodes(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return 0.5 * (self.lower + self.upper) + 0.5 * self.length * self._tables(dtype, device).nodes

    def weights(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return 0.5 * self.length * self._tables(dtype, device).weights

    def __call__(self, x: Tensor) -> Tensor:
        return lagrange(self._unit(x), self._tables(x.dtype, x.device)) * (2 / self.length) ** 0.5

    def derivative(self, x: Tensor) -> Tensor:
        table = self._tables(x.dtype, x.device)
        return lagrange(self._unit(x), table) @ table.derivative * (2 / self.length) ** 1.5

    def integrals(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return self.weights(dtype=dtype, device=device).sqrt()

    def multiplication(self, power: int = 1) -> Tensor:
        fine = polynomial_tables(self._require_size() + power, torch.float64, torch.device("cpu"))
        x = 0.5 * (self.lower + self.upper) + 0.5 * self.length * fine.nodes
        phi = self(x)
        return phi.T @ (phi * (x**power * fine.weights * 0.5 * self.length)[:, None])

    def modal(self, coefficients: Tensor) -> Tensor:
        table = self._tables(coefficients.dtype, coefficients.device)
        return torch.tensordot(table.legendre, coefficients, 1)

    def square_integral(self, coefficients: Tensor) -> _LegendreSquare:
        return _LegendreSquare(self, coefficients)


class _LegendreSquare(GridSquareIntegral):
    """F is a polynomial of degree 2n - 1: its values at 2n Lobatto points, read by the barycentric formula."""

    def __init__(self, basis: Legendre, coefficients: Tensor) -> None:
        table = basis._tables(coefficients.dtype, coefficients.device)
        self.basis, self._weights = basis, table.barycentric
        self.grid = 0.5 * (basis.lower + basis.upper) + 0.5 * basis.length * table.lobatto
        if coefficients.shape[-1] == 1:
            values = coefficients[..., 0] @ table.at_lobatto.T
            density = values * values
        else:
            # One large product instead of a small one per row: several times faster.
            count, size, columns = coefficients.shape
            values = coefficients.mT.reshape(-1, size) @ table.at_lobatto.T
            density = values.square().view(count, columns, -1).sum(1)
        self.density = density * (2 / basis.length)
        self.cumulative = density @ table.antiderivative.T
        self.total = self.cumulative[:, -1]
        self._both = torch.stack([self.cumulative, self.density], 1)

    def evaluate(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        terms = barycentric(x, self.grid, self._weights)  # the formula does not change under affine maps
        both = self._both if rows is None else self._both[rows]
        value, slope = ((both * terms.unsqueeze(1)).sum(-1) / terms.sum(-1, keepdim=True)).unbind(1)
        return value, slope
