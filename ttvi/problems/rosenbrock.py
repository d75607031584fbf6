"""Rosenbrock functions: curved, narrow valleys."""

from __future__ import annotations

import math

import torch

from ..typing import LogDensity
from .problem import Array, Modes, Problem, box_problem, numbered

__all__ = ["double_rosenbrock", "rosenbrock", "rosenbrock_chain", "rosenbrock_pairs"]


def rosenbrock_chain(dim: int = 10) -> Problem:
    """Rosenbrock function along a chain under a uniform prior on [−5, 5]^d.

    log p̃ = −Σ_{i<d} [ 100 (x_{i+1} − x_i²)² + (1 − x_i)² ] − d log 10.

    References:
        Rosenbrock, "An automatic method for finding the greatest or least value of a function" (1960).
    """

    def log_density(x: torch.Tensor) -> torch.Tensor:
        head, tail = x[:, :-1], x[:, 1:]
        valley = 100 * (tail - head.square()).square() + (1 - head).square()
        return -valley.sum(1) - dim * math.log(10.0)

    return box_problem(
        f"rosenbrock-chain-{dim}",
        log_density,
        [-5.0] * dim,
        [5.0] * dim,
        None,
        names=numbered("x", dim),
        log_evidence={10: -43.1083552147}.get(dim),
        reference="Rosenbrock chain on a box; log evidence by a transfer operator",
        bounded=True,
    )


def rosenbrock_pairs(dim: int = 20) -> Problem:
    """Independent Rosenbrock pairs (a, b) under a uniform prior on [−10, 10]^d.

    log p̃ = −Σ [ 10 (a² − b)² + (a − 1)² ] − d log 20.

    Raises:
        ValueError: for an odd `dim`.

    References:
        Handley, Hobson and Lasenby, "PolyChord: next-generation nested sampling" (2015).
    """
    if dim % 2:
        raise ValueError(f"rosenbrock_pairs: expected an even `dim`; got {dim}. Coordinates come in pairs.")

    def log_density(x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, 0::2], x[:, 1::2]
        valley = 10 * (a.square() - b).square() + (a - 1).square()
        return -valley.sum(1) - dim * math.log(20.0)

    pairs = dim // 2
    return box_problem(
        f"rosenbrock-pairs-{dim}",
        log_density,
        [-10.0] * dim,
        [10.0] * dim,
        None,
        names=tuple(f"{letter}{i}" for i in range(1, pairs + 1) for letter in "ab"),
        log_evidence=-59.9915758512 * pairs / 10,
        reference="Rosenbrock pairs on a box; log evidence by quadrature of one pair",
        bounded=True,
    )


def rosenbrock(dim: int = 11) -> Problem:
    """A Rosenbrock density whose valley is steep and far from the origin, on the box [−1, 1]^d.

    With x_k = R_k θ_k, R = (2, …, 2, 7, 200):
    log p̃(θ) = −½ Σ_{k<d} [ x_k² + (x_{k+1} + 5 (x_k² + 1))² ], a density in θ.

    References:
        Khoo, Lindsey and Zhao, "Tensorizing flows: a tool for variational inference" (2023).
    """
    scales = _scales(dim)
    return _valley_problem(f"rosenbrock-{dim}", dim, lambda x: _valley(x * scales.like(x)), None)


def double_rosenbrock(dim: int = 11) -> Problem:
    """½ `rosenbrock` + ½ its mirror image under x_d → −x_d: two modes of equal weight, far apart.

    References:
        Khoo, Lindsey and Zhao, "Tensorizing flows: a tool for variational inference" (2023).
    """
    scales = _scales(dim)

    def components(x: torch.Tensor) -> torch.Tensor:
        x = x * scales.like(x)
        mirrored = torch.cat((x[:, :-1], -x[:, -1:]), 1)
        return torch.stack((_valley(x), _valley(mirrored)), 1)

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(components(x), 1) - math.log(2.0)

    centres = torch.zeros(2, dim, dtype=torch.float64)
    # The valley's floor at x_{d−1} = 0 is x_d = ∓5.
    centres[:, -1] = torch.tensor([-5.0, 5.0], dtype=torch.float64) / 200
    modes = Modes(centres, torch.full((2,), 0.5, dtype=torch.float64), lambda x: components(x).softmax(1))
    return _valley_problem(f"double-rosenbrock-{dim}", dim, log_density, modes)


def _scales(dim: int) -> Array:
    return Array([2.0] * (dim - 2) + [7.0, 200.0])


def _valley(x: torch.Tensor) -> torch.Tensor:
    """−½ Σ_{k<d} [x_k² + (x_{k+1} + 5(x_k² + 1))²], (batch, d) -> (batch,)."""
    squares = x[:, :-1].square()
    return -0.5 * (squares + (x[:, 1:] + 5 * (squares + 1)).square()).sum(1)


def _valley_problem(name: str, dim: int, log_density: LogDensity, modes: Modes | None) -> Problem:
    return box_problem(
        name,
        log_density,
        [-1.0] * dim,
        [1.0] * dim,
        None,
        names=numbered("theta", dim),
        log_evidence={11: -125.416985}.get(dim),
        reference="Rosenbrock density of 'Tensorizing flows' (2023); log evidence by a transfer operator",
        bounded=True,
        modes=modes,
    )
