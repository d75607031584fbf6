"""Piecewise polynomials: local, for sharp features and many nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .base import GridSquareIntegral
from .legendre import IntervalBasis
from .polynomial import PolynomialTables, barycentric, lagrange, polynomial_tables

__all__ = ["Piecewise"]


@dataclass(frozen=True)
class Piecewise(IntervalBasis):
    r"""Equal elements of ``[lower, upper]``, each carrying ``degree + 1`` Lagrange polynomials at its Gauss nodes.

    Discontinuous at the element ends, orthonormal, of order ``degree + 1`` in the element length. Only ``degree + 1``
    functions are non-zero at a point, so evaluation costs the same however many nodes there are.

    Args:
        lower, upper: the ends of the interval.
        size: number of functions, rounded up to a whole number of elements; ``None`` lets a fit choose it.
        degree: polynomial degree in an element.

    >>> Piecewise(0.0, 1.0, size=64).elements
    16
    """

    lower: float
    upper: float
    size: int | None = field(default=None, kw_only=True)
    degree: int = field(default=3, kw_only=True)
    min_size: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if int(self.degree) != self.degree or self.degree < 0:
            raise ValueError(f"Piecewise: expected a degree of at least 0; got {self.degree}. Use the default, 3.")
        if self.size is not None:
            local = self.degree + 1
            object.__setattr__(self, "size", -(-int(self.size) // local) * local)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self._require_size() // (self.degree + 1)

    @property
    def element_length(self) -> float:
        """Length of one element, in units of the coordinate."""
        return self.length / self.elements

    def _tables(self, dtype: torch.dtype, device: torch.device | str | None) -> PolynomialTables:
        return polynomial_tables(self.degree + 1, dtype, torch.device(device or "cpu"))

    def _locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Element of each point, and its coordinate in [-1, 1] there."""
        position = (x - self.lower) / self.element_length
        element = position.detach().floor().clamp(0, self.elements - 1)
        return element.long(), (2 * (position - element) - 1).clamp(-1, 1)

    def _starts(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.lower + self.element_length * torch.arange(self.elements, dtype=dtype, device=device)

    def nodes(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        local = 0.5 * self.element_length * (self._tables(dtype, device).nodes + 1)
        return (self._starts(dtype, local.device)[:, None] + local).reshape(-1)

    def weights(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return (0.5 * self.element_length * self._tables(dtype, device).weights).repeat(self.elements)

    def _local(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Element of each point and the functions that do not vanish there, ``(...)`` and ``(..., degree + 1)``."""
        element, t = self._locate(x)
        return element, lagrange(t, self._tables(x.dtype, x.device)) * (2 / self.element_length) ** 0.5

    def _spread(self, element: Tensor, local: Tensor) -> Tensor:
        columns = element.unsqueeze(-1) * (self.degree + 1) + torch.arange(self.degree + 1, device=local.device)
        return local.new_zeros(*element.shape, self._require_size()).scatter(-1, columns, local)

    def __call__(self, x: Tensor) -> Tensor:
        return self._spread(*self._local(x))

    def derivative(self, x: Tensor) -> Tensor:
        element, local = self._local(x)
        slope = self._tables(x.dtype, x.device).derivative * (2 / self.element_length)
        return self._spread(element, local @ slope)

    def interpolate(self, x: Tensor, coefficients: Tensor) -> Tensor:
        element, local = self._local(x)
        blocks = coefficients.unflatten(-2, (self.elements, self.degree + 1))
        chosen = blocks[torch.arange(len(x), device=x.device), element]
        return (local.unsqueeze(-2) @ chosen).squeeze(-2)

    def integrals(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return self.weights(dtype=dtype, device=device).sqrt()

    def multiplication(self, power: int = 1) -> Tensor:
        fine = Piecewise(
            self.lower, self.upper, size=self.elements * (self.degree + 1 + power), degree=self.degree + power
        )
        x, phi = fine.nodes(), self(fine.nodes())
        return phi.T @ (phi * (x**power * fine.weights())[:, None])

    def modal(self, coefficients: Tensor) -> Tensor:
        # Low degrees of all elements first: the tail then shows whether the elements are fine enough.
        table = self._tables(coefficients.dtype, coefficients.device)
        blocks = coefficients.unflatten(0, (self.elements, self.degree + 1))
        return torch.einsum("ki,ei...->ke...", table.legendre, blocks).flatten(0, 1)

    def square_integral(self, coefficients: Tensor) -> _PiecewiseSquare:
        return _PiecewiseSquare(self, coefficients)


class _PiecewiseSquare(GridSquareIntegral):
    """Element-wise antiderivatives, chained by the cumulative element masses."""

    def __init__(self, basis: Piecewise, coefficients: Tensor) -> None:
        table = basis._tables(coefficients.dtype, coefficients.device)
        self.basis, self._table = basis, table
        blocks = coefficients.unflatten(-2, (basis.elements, basis.degree + 1))  # (batch, e, p + 1, m)
        density = (table.at_lobatto @ blocks).square().sum(-1)
        inner = density @ table.antiderivative.T
        before = inner[..., -1].cumsum(-1) - inner[..., -1]
        self.grid = (
            basis._starts(coefficients.dtype, coefficients.device)[:, None]
            + 0.5 * basis.element_length * (table.lobatto + 1)
        ).reshape(-1)
        self._blocks = (inner + before.unsqueeze(-1), density * (2 / basis.element_length))
        self.cumulative, self.density = (block.flatten(-2) for block in self._blocks)
        self.total = self.cumulative[:, -1]

    def evaluate(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        element, t = self.basis._locate(x)  # type: ignore[attr-defined]
        terms = barycentric(t, self._table.lobatto, self._table.barycentric)
        norm = terms.sum(-1)
        batch = torch.arange(len(x), device=x.device) if rows is None else rows
        cumulative, density = (block[batch, element] for block in self._blocks)
        return torch.linalg.vecdot(terms, cumulative) / norm, torch.linalg.vecdot(terms, density) / norm
