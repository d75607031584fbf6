"""Hermite functions on the line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import torch
from scipy.special import roots_hermite
from torch import Tensor
from torch.distributions import constraints

from ...errors import SupportError
from .base import Basis, GridSquareIntegral

__all__ = ["Hermite"]

REFERENCE_SCALE = 1.0  # of the logistic reference, in units of the basis' scale


def _functions(z: Tensor, n: int) -> Tensor:
    """Orthonormal Hermite functions psi_0, ..., psi_{n-1} at z: shape (..., n), by the stable three-term recurrence."""
    current = math.pi**-0.25 * torch.exp(-0.5 * z * z)
    previous = torch.zeros_like(z)
    columns = [current]
    for k in range(n - 1):
        previous, current = current, math.sqrt(2 / (k + 1)) * z * current - math.sqrt(k / (k + 1)) * previous
        columns.append(current)
    return torch.stack(columns, -1)


def _antiderivatives(z: Tensor, psi: Tensor) -> Tensor:
    """The integrals of psi_0, ..., psi_{n-1} from minus infinity to z: shape (..., n); factors below one, so stable."""
    columns = [math.pi**0.25 * math.sqrt(0.5) * torch.special.erfc(-z / math.sqrt(2))]
    if psi.shape[-1] > 1:
        columns.append(-math.sqrt(2) * psi[..., 0])
    for k in range(1, psi.shape[-1] - 1):
        columns.append(math.sqrt(k / (k + 1)) * columns[k - 1] - math.sqrt(2 / (k + 1)) * psi[..., k])
    return torch.stack(columns, -1)


@dataclass(frozen=True)
class _HermiteTables:
    nodes: Tensor  # (n,)
    weights: Tensor  # (n,): 1 / sum_k psi_k(z_i)^2, so that value^2 * weight sums to the squared norm
    orthogonal: Tensor  # (n, n): psi coefficients from nodal ones
    slopes: Tensor  # (n + 1, n): phi' in psi_0 .. psi_n
    integrals: Tensor  # (n,)
    fine_values: Tensor  # (q, n): phi at the q = 2n - 1 nodes y / sqrt(2)
    density: Tensor  # (q, q): values of p there -> coefficients in psi_k(sqrt(2) z)
    grid: Tensor  # (g,): the fine nodes and four far ends
    grid_values: Tensor  # (g, n): phi on the grid
    grid_antiderivatives: Tensor  # (g, q)


@lru_cache(maxsize=256)
def _tables(n: int, dtype: torch.dtype, device: torch.device) -> _HermiteTables:
    def gauss(m: int) -> tuple[Tensor, Tensor, Tensor]:
        points = torch.as_tensor(roots_hermite(m)[0])
        values = _functions(points, m)
        weights = 1 / values.square().sum(-1)
        return points, weights, (values * weights.sqrt()[:, None]).T  # the last is an orthogonal matrix

    nodes, weights, orthogonal = gauss(n)
    slopes = torch.zeros(n + 1, n, dtype=torch.float64)
    for k in range(n):
        if k > 0:
            slopes[k - 1] += math.sqrt(k / 2) * orthogonal[k]
        slopes[k + 1] -= math.sqrt((k + 1) / 2) * orthogonal[k]
    total = torch.zeros(n, dtype=torch.float64)
    total[0] = math.sqrt(2) * math.pi**0.25
    for k in range(2, n, 2):
        total[k] = math.sqrt((k - 1) / k) * total[k - 2]
    q = 2 * n - 1
    fine, fine_weights, fine_orthogonal = gauss(q)
    inner = fine / math.sqrt(2)
    far = float(inner.abs().max()) + 9.0
    ends = torch.tensor([far, far + 45 * REFERENCE_SCALE], dtype=torch.float64)
    grid = torch.cat([-ends.flip(0), inner, ends])
    psi = _functions(math.sqrt(2) * grid, q)
    arrays = (
        nodes,
        weights,
        orthogonal,
        slopes,
        orthogonal.T @ total,
        _functions(inner, n) @ orthogonal,
        fine_orthogonal * fine_weights.sqrt(),
        grid,
        _functions(grid, n) @ orthogonal,
        _antiderivatives(math.sqrt(2) * grid, psi) / math.sqrt(2),
    )
    return _HermiteTables(*(a.to(device=device, dtype=dtype) for a in arrays))


@dataclass(frozen=True)
class Hermite(Basis):
    r"""Interpolating combinations of the Hermite functions :math:`\psi_0, \dots, \psi_{n-1}` of :math:`(x - loc)/scale`.

    A density whose square root lies in their span decays like :math:`e^{-z^2}` times a polynomial. The reference is the
    logistic distribution of the same location and scale: its tails are heavier, so importance weights stay bounded
    for Gaussian-like targets.

    Args:
        loc, scale: the standard deviation of the ground state :math:`\psi_0^2` is ``scale / sqrt(2)``.
        size: number of functions; ``None`` lets a fit choose it.

    >>> basis = Hermite(1.0, 2.0, size=8)
    >>> x = torch.tensor([0.3], dtype=torch.float64)
    >>> gram = basis.multiplication(0)
    >>> bool(torch.allclose(gram, torch.eye(8, dtype=torch.float64), atol=1e-12))
    True
    """

    loc: float = 0.0
    scale: float = 1.0
    size: int | None = field(default=None, kw_only=True)
    min_size: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in ("loc", "scale"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if not (math.isfinite(self.loc) and math.isfinite(self.scale) and self.scale > 0):
            raise SupportError(
                f"Hermite: expected a finite loc and a positive finite scale; got loc={self.loc}, scale={self.scale}. "
                "Use the rough location and spread of the coordinate."
            )
        if self.size is not None and (int(self.size) != self.size or self.size < 1):
            raise ValueError(
                f"Hermite: expected an integer size of at least 1; got {self.size}. Use size=None to have it chosen."
            )

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real

    def _tables(self, dtype: torch.dtype, device: torch.device | str | None) -> _HermiteTables:
        return _tables(self._require_size(), dtype, torch.device(device or "cpu"))

    def _unit(self, x: Tensor) -> Tensor:
        return (x - self.loc) / self.scale

    def nodes(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return self.loc + self.scale * self._tables(dtype, device).nodes

    def weights(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return self.scale * self._tables(dtype, device).weights

    def __call__(self, x: Tensor) -> Tensor:
        table = self._tables(x.dtype, x.device)
        return _functions(self._unit(x), self._require_size()) @ table.orthogonal * self.scale**-0.5

    def derivative(self, x: Tensor) -> Tensor:
        table = self._tables(x.dtype, x.device)
        return _functions(self._unit(x), self._require_size() + 1) @ table.slopes * self.scale**-1.5

    def integrals(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return self._tables(dtype, device).integrals * self.scale**0.5

    def multiplication(self, power: int = 1) -> Tensor:
        n = self._require_size()
        fine = _tables(n + power, torch.float64, torch.device("cpu"))
        psi = _functions(fine.nodes, n) @ self._tables(torch.float64, None).orthogonal
        x = self.loc + self.scale * fine.nodes
        return psi.T @ (psi * (x**power * fine.weights)[:, None])

    def modal(self, coefficients: Tensor) -> Tensor:
        return torch.tensordot(self._tables(coefficients.dtype, coefficients.device).orthogonal, coefficients, 1)

    def square_integral(self, coefficients: Tensor) -> _HermiteSquare:
        return _HermiteSquare(self, coefficients)

    def reference_log_prob(self, x: Tensor) -> Tensor:
        z = self._unit(x) / REFERENCE_SCALE
        return (
            torch.nn.functional.logsigmoid(z)
            + torch.nn.functional.logsigmoid(-z)
            - math.log(self.scale * REFERENCE_SCALE)
        )

    def reference_cdf(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self._unit(x) / REFERENCE_SCALE)

    def reference_icdf(self, u: Tensor) -> Tensor:
        tiny = torch.finfo(u.dtype).tiny
        eps = torch.finfo(u.dtype).eps / 2
        return self.loc + self.scale * REFERENCE_SCALE * torch.logit(u.clamp(tiny, 1 - eps))

    def reference_moments(self) -> tuple[float, float]:
        return self.loc, self.loc**2 + (math.pi * self.scale * REFERENCE_SCALE) ** 2 / 3


class _HermiteSquare(GridSquareIntegral):
    """p lies in the span of the Hermite functions of sqrt(2) z, whose antiderivatives obey a stable recurrence."""

    def __init__(self, basis: Hermite, coefficients: Tensor) -> None:
        table = basis._tables(coefficients.dtype, coefficients.device)
        self.basis, self._hermite = basis, basis
        values = (table.fine_values @ coefficients).square().sum(-1)
        self._modes = values @ table.density.T
        self.grid = basis.loc + basis.scale * table.grid
        self.cumulative = self._modes @ table.grid_antiderivatives.T
        self.density = (table.grid_values @ coefficients).square().sum(-1) / basis.scale
        self.total = self.cumulative[:, -1]

    def evaluate(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        modes = self._modes if rows is None else self._modes[rows]
        z = math.sqrt(2) * self._hermite._unit(x)
        psi = _functions(z, modes.shape[-1])
        cumulative = torch.linalg.vecdot(_antiderivatives(z, psi), modes) / math.sqrt(2)
        return cumulative, torch.linalg.vecdot(psi, modes) / self._hermite.scale
