"""Trigonometric functions on a circle."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .base import GridSquareIntegral
from .legendre import IntervalBasis

__all__ = ["Fourier"]


def _trigonometric(theta: Tensor, degree: int, *, sines: int | None = None) -> Tensor:
    """1, cos(theta), ..., cos(degree theta), sin(theta), ..., sin(sines theta): shape (..., 1 + degree + sines)."""
    sines = degree if sines is None else sines
    angles = theta.unsqueeze(-1) * torch.arange(degree + 1, dtype=theta.dtype, device=theta.device)
    return torch.cat([torch.cos(angles), torch.sin(angles[..., 1 : sines + 1])], -1)


@dataclass(frozen=True)
class _FourierTables:
    transform: Tensor  # (f, n): phi(theta) = features @ transform, unit circle of length 2 pi
    derivative: Tensor  # (f, n): phi'(theta), in the same features (one sine more when n is even)
    orthogonal: Tensor  # (n, n): orthonormal trigonometric coefficients from nodal ones
    fine_angles: Tensor  # (q,): q = 4 * degree + 1 equispaced angles
    fine_values: Tensor  # (q, n): phi at those angles
    density: Tensor  # (q, q): values of p at those angles -> its trigonometric coefficients
    antiderivative: Tensor  # (q, q): ... -> coefficients of its periodic antiderivative (the mean apart)


@lru_cache(maxsize=512)
def _tables(n: int, dtype: torch.dtype, device: torch.device) -> _FourierTables:
    degree, sines = n // 2, (n - 1) // 2
    frequencies = np.concatenate([np.arange(degree + 1), np.arange(1, sines + 1)])
    angles = 2 * np.pi * np.arange(n) / n

    def features(theta: np.ndarray, top: int, top_sine: int) -> np.ndarray:
        return np.concatenate(
            [np.cos(np.outer(theta, np.arange(top + 1))), np.sin(np.outer(theta, np.arange(1, top_sine + 1)))], 1
        )

    norms = np.full(n, 1 / math.sqrt(math.pi))
    norms[0] = 1 / math.sqrt(2 * math.pi)
    discrete = norms.copy()
    if n % 2 == 0:
        discrete[degree] = 1 / math.sqrt(2 * math.pi)  # the Nyquist cosine has norm 2 pi on the nodes, pi on the circle
    orthogonal = (features(angles, degree, sines) * discrete).T * math.sqrt(2 * math.pi / n)
    transform = norms[:, None] * orthogonal
    slopes = np.zeros((1 + 2 * degree, n))
    for row, k in enumerate(frequencies):
        if row > degree:
            slopes[k] += k * transform[row]
        elif k > 0:
            slopes[degree + k] -= k * transform[row]

    top = 2 * degree
    q = 2 * top + 1
    fine = 2 * np.pi * np.arange(q) / q
    modes = np.concatenate([np.arange(top + 1), np.arange(1, top + 1)])
    analysis = features(fine, top, top).T * np.where(modes[:, None] == 0, 1.0, 2.0) / q
    integrate = np.zeros((q, q))
    for k in range(1, top + 1):
        integrate[top + k, k] = 1 / k  # cos -> sin / k
        integrate[k, top + k] = -1 / k  # sin -> -cos / k
    arrays = (
        transform,
        slopes,
        orthogonal[np.argsort(frequencies, kind="stable")],
        fine,
        features(fine, degree, sines) @ transform,
        analysis,
        integrate @ analysis,
    )
    return _FourierTables(*(torch.as_tensor(np.ascontiguousarray(a)).to(device=device, dtype=dtype) for a in arrays))


@dataclass(frozen=True)
class Fourier(IntervalBasis):
    r"""Trigonometric interpolation functions at ``size`` equispaced nodes of the circle ``[lower, upper)``.

    Points are taken modulo the period. An odd size spans all frequencies up to ``(size - 1) / 2``; an even size adds the
    Nyquist cosine (orthonormal too, but not interpolating in that one mode).

    Args:
        lower, upper: one period.
        size: number of functions; ``None`` lets a fit choose it.

    >>> basis = Fourier(-math.pi, math.pi, size=9)
    >>> values = torch.cos(3 * basis.nodes())
    >>> x = torch.tensor(0.4, dtype=torch.float64)
    >>> round(float(basis(x) @ (values * basis.weights().sqrt()) - torch.cos(3 * x)), 12)
    0.0
    """

    lower: float
    upper: float
    size: int | None = field(default=None, kw_only=True)
    min_size: ClassVar[int] = 1
    periodic: ClassVar[bool] = True

    def _tables(self, dtype: torch.dtype, device: torch.device | str | None) -> _FourierTables:
        return _tables(self._require_size(), dtype, torch.device(device or "cpu"))

    def _angle(self, x: Tensor) -> Tensor:
        return (x - self.lower) * (2 * math.pi / self.length)

    @property
    def _degree(self) -> int:
        return self._require_size() // 2

    def nodes(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        n = self._require_size()
        return self.lower + self.length * torch.arange(n, dtype=dtype, device=device) / n

    def weights(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        n = self._require_size()
        return torch.full((n,), self.length / n, dtype=dtype, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        features = _trigonometric(self._angle(x), self._degree, sines=(self._require_size() - 1) // 2)
        return features @ self._tables(x.dtype, x.device).transform * (2 * math.pi / self.length) ** 0.5

    def derivative(self, x: Tensor) -> Tensor:
        features = _trigonometric(self._angle(x), self._degree)
        return features @ self._tables(x.dtype, x.device).derivative * (2 * math.pi / self.length) ** 1.5

    def integrals(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        return self.weights(dtype=dtype, device=device).sqrt()

    def multiplication(self, power: int = 1) -> Tensor:
        # x is not periodic: composite Gauss quadrature, fine enough for every product of two functions.
        t, w = np.polynomial.legendre.leggauss(24)
        panels = self._require_size() + 2
        h = self.length / panels
        x = torch.as_tensor((self.lower + h * (np.arange(panels)[:, None] + (t + 1) / 2)).reshape(-1))
        weight = torch.as_tensor(np.tile(w * h / 2, panels))
        phi = self(x)
        return phi.T @ (phi * (x**power * weight)[:, None])

    def modal(self, coefficients: Tensor) -> Tensor:
        return torch.tensordot(self._tables(coefficients.dtype, coefficients.device).orthogonal, coefficients, 1)

    def square_integral(self, coefficients: Tensor) -> _FourierSquare:
        return _FourierSquare(self, coefficients)


class _FourierSquare(GridSquareIntegral):
    """p is a trigonometric polynomial of twice the degree; its antiderivative is one too, plus the mean times x."""

    def __init__(self, basis: Fourier, coefficients: Tensor) -> None:
        table = basis._tables(coefficients.dtype, coefficients.device)
        self.basis, self._fourier, self._top = basis, basis, 2 * basis._degree
        values = (table.fine_values @ coefficients).square().sum(-1)  # (batch, q)
        self._density = values @ table.density.T
        self._periodic = values @ table.antiderivative.T
        end = table.fine_angles.new_full((1,), 2 * math.pi)
        angles = torch.cat([table.fine_angles, end])
        features = _trigonometric(angles, self._top)
        self._start = self._periodic @ features[0]
        self.grid = basis.lower + basis.length * angles / (2 * math.pi)
        self.cumulative = self._periodic @ features.T + self._density[:, :1] * angles - self._start[:, None]
        self.density = torch.cat([values, values[:, :1]], 1) * (2 * math.pi / basis.length)
        self.total = self.cumulative[:, -1]

    def evaluate(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        periodic, density, start = self._periodic, self._density, self._start
        if rows is not None:
            periodic, density, start = periodic[rows], density[rows], start[rows]
        theta = self._fourier._angle(x)
        features = _trigonometric(theta, self._top)
        cumulative = torch.linalg.vecdot(features, periodic) + density[:, 0] * theta - start
        return cumulative, torch.linalg.vecdot(features, density) * (2 * math.pi / self._fourier.length)
