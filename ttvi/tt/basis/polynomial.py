"""Polynomials on [-1, 1]: Lagrange functions at Gauss nodes, and the tables that interpolatory bases are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import chebyshev as cheb
from torch import Tensor

__all__ = ["PolynomialTables", "barycentric", "lagrange", "polynomial_tables"]


class _Lagrange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, table: PolynomialTables) -> Tensor:
        ctx.save_for_backward(t)
        ctx.table = table
        terms = barycentric(t, table.nodes, table.node_barycentric)
        return terms * terms.sum(-1, keepdim=True).reciprocal() * table.root_weights.reciprocal()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # The derivative lies in the span of the functions: exact, finite everywhere, differentiable to any order.
        (t,) = ctx.saved_tensors
        slope = _Lagrange.apply(t, ctx.table) @ ctx.table.derivative
        return (grads[0] * slope).sum(-1), None


def lagrange(t: Tensor, table: PolynomialTables) -> Tensor:
    """The orthonormal Lagrange functions at ``t`` in [-1, 1], by the barycentric formula: ``(...)`` to ``(..., n)``.

    References:
        Berrut, Trefethen: Barycentric Lagrange interpolation (2004).
    """
    return _Lagrange.apply(t, table)


@dataclass(frozen=True)
class PolynomialTables:
    """Everything a basis of n Lagrange functions at Gauss-Legendre nodes on [-1, 1] needs; computed once per size."""

    nodes: Tensor  # (n,)
    weights: Tensor  # (n,)
    root_weights: Tensor  # (n,)
    node_barycentric: Tensor  # (n,): barycentric weights of the nodes
    derivative: Tensor  # (n, n): phi'(t) = phi(t) @ derivative
    legendre: Tensor  # (n, n): orthonormal Legendre coefficients from nodal ones (orthogonal matrix)
    lobatto: Tensor  # (2n,): ascending Chebyshev-Lobatto points, enough for the antiderivative of a square
    barycentric: Tensor  # (2n,): their barycentric weights
    at_lobatto: Tensor  # (2n, n): phi at those points
    antiderivative: Tensor  # (2n, 2n): values of p at those points -> values of its antiderivative

    def to(self, dtype: torch.dtype, device: torch.device) -> PolynomialTables:
        return PolynomialTables(**{k: v.to(dtype=dtype, device=device) for k, v in vars(self).items()})


def _legendre_derivative(n: int) -> np.ndarray:
    """The matrix D with P'(t) = P(t) D for the Legendre polynomials of degree below n."""
    matrix = np.zeros((n, n))
    for k in range(1, n):
        matrix[:k, k] = np.polynomial.legendre.legder(np.eye(k + 1)[k])
    return matrix


@lru_cache(maxsize=512)
def _tables64(n: int) -> PolynomialTables:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    norms = np.sqrt(np.arange(n) + 0.5)
    orthogonal = (np.polynomial.legendre.legvander(nodes, n - 1) * norms * np.sqrt(weights)[:, None]).T  # (k, i)
    points = -np.cos(np.pi * np.arange(2 * n) / (2 * n - 1))
    at_points = (np.polynomial.legendre.legvander(points, n - 1) * norms) @ orthogonal
    # Values at Lobatto points -> Chebyshev coefficients: the discrete cosine matrix.
    m = 2 * n - 1
    halved = np.ones(2 * n)
    halved[[0, -1]] = 0.5
    transform = 2.0 / m * halved[:, None] * cheb.chebvander(points, m).T * halved[None, :]
    slopes = np.polynomial.legendre.legvander(nodes, n - 1) @ _legendre_derivative(n) @ (norms[:, None] * orthogonal)
    integrate = np.stack([cheb.chebint(np.eye(2 * n)[k], lbnd=-1) for k in range(2 * n)], 1)
    antiderivative = cheb.chebvander(points, 2 * n) @ integrate @ transform
    signs = halved * np.where(np.arange(2 * n) % 2 == 0, 1.0, -1.0)
    arrays = {
        "nodes": nodes,
        "weights": weights,
        "root_weights": np.sqrt(weights),
        "node_barycentric": (-1.0) ** np.arange(n) * np.sqrt((1 - nodes**2) * weights),
        "derivative": np.sqrt(weights)[:, None] * slopes,
        "legendre": orthogonal,
        "lobatto": points,
        "barycentric": signs,
        "at_lobatto": at_points,
        "antiderivative": antiderivative,
    }
    return PolynomialTables(**{k: torch.as_tensor(np.ascontiguousarray(v)) for k, v in arrays.items()})


@lru_cache(maxsize=1024)
def polynomial_tables(n: int, dtype: torch.dtype, device: torch.device) -> PolynomialTables:
    """The tables for ``n`` Gauss-Legendre nodes, in float64 precision rounded once to ``dtype``."""
    return _tables64(n).to(dtype, device)


def barycentric(t: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Unnormalised barycentric terms w_l / (t - y_l): shape ``(...)`` to ``(..., l)``."""
    # A hit on a point is moved off it by next to nothing: its term then dominates the sum, as it should. Elsewhere the
    # addition changes no bit.
    return weights / (t.unsqueeze(-1) - points).add_(math.sqrt(torch.finfo(t.dtype).tiny))
