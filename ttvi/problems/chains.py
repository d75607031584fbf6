"""Chains: coordinates bound to their neighbours in a line or a ring."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.distributions import constraints

from ..supports import categorical
from ..tt.basis import Basis, Categorical, Fourier, Legendre
from .problem import Array, Problem, box_problem, circles, numbered

__all__ = [
    "antiferromagnetic_chain",
    "double_well_chain",
    "free_ends_chain",
    "ginzburg_landau",
    "ising_fields",
    "positive_chain",
    "spin_glass_chain",
    "xy_ring",
]

_TRANSFER = "log evidence by a transfer operator"

_GINZBURG_LANDAU_EVIDENCE = {
    8: 2.5445525071,
    16: 0.8005151059,
    32: -12.9956562163,
    64: -56.8821323489,
    128: -183.0871928345,
    256: -522.2736579111,
    512: -1377.1556976075,
    1024: -3441.2109438470,
}
_POSITIVE_CHAIN_EVIDENCE = {16: -0.9429065508, 32: -1.4079356466, 64: -2.3019566590}
_DOUBLE_WELL_EVIDENCE = {
    8: -5.4810693470,
    64: -48.8880168413,
    128: -98.4959568347,
    256: -197.7118368217,
    512: -396.1435967956,
    1024: -793.0071167433,
}


def ginzburg_landau(dim: int = 32) -> Problem:
    """Ginzburg-Landau chain with both ends held at zero.

    log p̃ = −(1/T) Σ_{i=1}^{d+1} [ (λ/2) ((x_i − x_{i−1})/h)² + (1 − x_i²)²/(4λ) ],
    λ = 0.03, T = 8, h = 1/(d+1), x_0 = x_{d+1} = 0. Neighbours are bound more tightly as d grows: the standard
    deviation of one coordinate between its neighbours is about √(T/2λ) h.

    References:
        E, Ren and Vanden-Eijnden, "Minimum action method for the study of rare events" (2004).
    """
    stiffness, temperature, step = 0.03, 8.0, 1.0 / (dim + 1)

    def log_density(x: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(x, (1, 1))
        bonds = 0.5 * stiffness * (padded.diff(dim=1) / step).square().sum(1)
        wells = (1 - padded[:, 1:].square()).square().sum(1) / (4 * stiffness)
        return -(bonds + wells) / temperature

    size = 40 if dim <= 32 else 64 if dim <= 64 else 96
    return box_problem(
        f"ginzburg-landau-{dim}",
        log_density,
        [-2.5] * dim,
        [2.5] * dim,
        [size] * dim,
        names=numbered("x", dim),
        log_evidence=_GINZBURG_LANDAU_EVIDENCE.get(dim),
        reference=f"Ginzburg-Landau chain, fixed ends; {_TRANSFER}",
    )


def double_well_chain(dim: int = 64) -> Problem:
    """Open chain of double wells: log p̃ = −Σ 4 (x_i² − 1)² − Σ_{i<d} (x_i − x_{i+1})²."""

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return -4 * (x.square() - 1).square().sum(1) - x.diff(dim=1).square().sum(1)

    return box_problem(
        f"double-well-chain-{dim}",
        log_density,
        [-2.25] * dim,
        [2.25] * dim,
        [56] * dim,
        names=numbered("x", dim),
        log_evidence=_DOUBLE_WELL_EVIDENCE.get(dim),
        reference=f"double-well chain, open ends; {_TRANSFER}",
    )


def free_ends_chain(dim: int = 50, temperature: float = 8.0) -> Problem:
    """Ginzburg-Landau chain with free ends, scaled to the box [−1, 1]^d.

    With u = 2θ, δ = 0.04, h = 1/(d+1):
    log p̃(θ) = −(1/T) Σ_{i<d} [ (δ/2) ((u_{i+1} − u_i)/h)² + (1 − u_{i+1}²)²/(4δ) ], a density in θ.
    The first coordinate has no well of its own, and the box cuts the density where it is still about e^{−7}.

    Args:
        dim: number of coordinates d.
        temperature: T.

    References:
        Khoo, Lindsey and Zhao, "Tensorizing flows: a tool for variational inference" (2023).
    """
    stiffness, step, scale = 0.04, 1.0 / (dim + 1), 2.0

    def log_density(x: torch.Tensor) -> torch.Tensor:
        u = scale * x
        bonds = 0.5 * stiffness * (u.diff(dim=1) / step).square().sum(1)
        wells = (1 - u[:, 1:].square()).square().sum(1) / (4 * stiffness)
        return -(bonds + wells) / temperature

    return box_problem(
        f"free-ends-chain-{dim}" if temperature == 8 else f"free-ends-chain-{dim}-temperature-{temperature:g}",
        log_density,
        [-1.0] * dim,
        [1.0] * dim,
        [32 if dim <= 50 else 64] * dim,
        names=numbered("theta", dim),
        log_evidence={(50, 8.0): -66.873307, (50, 16.0): -46.654907}.get((dim, temperature)),
        reference=f"Ginzburg-Landau chain, free ends, of 'Tensorizing flows' (2023); {_TRANSFER}",
        bounded=True,
    )


def antiferromagnetic_chain(dim: int = 25) -> Problem:
    """Ginzburg-Landau chain with negative couplings, on the box [−1, 1]^d.

    With u = 4.5 θ, δ = 0.04, h = 1/(d+1), T = 16, u_0 = u_{d+1} = 0:
    log p̃(θ) = −(1/T) Σ_{i=1}^{d+1} [ −(δ/2) ((u_i − u_{i−1})/h)² + (1 − u_i²)²/(4δ) ], a density in θ.
    Neighbours repel each other and take opposite signs.

    References:
        Khoo, Lindsey and Zhao, "Tensorizing flows: a tool for variational inference" (2023).
    """
    return _coupled_chain(
        f"antiferromagnetic-chain-{dim}",
        [-1.0] * (dim + 1),
        4.5,
        {25: 208.014293}.get(dim),
        f"antiferromagnetic chain of 'Tensorizing flows' (2023); {_TRANSFER}",
    )


def spin_glass_chain(dim: int = 35) -> Problem:
    """Ginzburg-Landau chain with random couplings, on the box [−1, 1]^d.

    With u = 3.5 θ, δ = 0.04, h = 1/(d+1), T = 16, u_0 = u_{d+1} = 0:
    log p̃(θ) = −(1/T) Σ_{i=1}^{d+1} [ (δ/2) c_i ((u_i − u_{i−1})/h)² + (1 − u_i²)²/(4δ) ], a density in θ;
    c_1 = c_{d+1} = 1 and the others are uniform on (−1, 1), from ``numpy.random.default_rng(2)``.

    References:
        Khoo, Lindsey and Zhao, "Tensorizing flows: a tool for variational inference" (2023).
    """
    couplings = [1.0, *np.random.default_rng(2).uniform(-1.0, 1.0, dim - 1).tolist(), 1.0]
    return _coupled_chain(
        f"spin-glass-chain-{dim}",
        couplings,
        3.5,
        {35: 102.198346}.get(dim),
        f"spin glass of 'Tensorizing flows' (2023); {_TRANSFER}",
    )


def _coupled_chain(
    name: str, couplings: list[float], scale: float, log_evidence: float | None, reference: str
) -> Problem:
    """A chain with both ends held at zero and one coupling per bond, d + 1 of them, in θ = u/scale ∈ [−1, 1]."""
    dim, stiffness, temperature = len(couplings) - 1, 0.04, 16.0
    weights = Array(couplings)

    def log_density(x: torch.Tensor) -> torch.Tensor:
        u = torch.nn.functional.pad(scale * x, (1, 1))
        bonds = 0.5 * stiffness * (dim + 1) ** 2 * (u.diff(dim=1).square() @ weights.like(x))
        wells = (1 - u[:, 1:].square()).square().sum(1) / (4 * stiffness)
        return -(bonds + wells) / temperature

    return box_problem(
        name,
        log_density,
        [-1.0] * dim,
        [1.0] * dim,
        None,
        names=numbered("theta", dim),
        log_evidence=log_evidence,
        reference=reference,
        bounded=True,
    )


def ising_fields(sites: int = 64) -> Problem:
    """Ising chain in continuous fields: binary and real coordinates in one chain.

    log p̃ = Σ_{i<n} (0.8 s_i s_{i+1} + 0.3 h_i h_{i+1}) + Σ_i (s_i h_i − h_i²), order s_1, h_1, s_2, h_2, …, so
    d = 2n. A categorical coordinate takes the values 0 and 1, and s = 2·value − 1. The evidence is the sum over the
    spins of the integral over the fields.
    """

    def log_density(x: torch.Tensor) -> torch.Tensor:
        s, h = 2 * x[:, 0::2] - 1, x[:, 1::2]
        bonds = 0.8 * s[:, 1:] * s[:, :-1] + 0.3 * h[:, 1:] * h[:, :-1]
        return bonds.sum(1) + (s * h - h.square()).sum(1)

    def bases() -> list[Basis]:
        return [Categorical(2) if k % 2 == 0 else Legendre(-7.0, 7.0, size=32) for k in range(2 * sites)]

    return Problem(
        name=f"ising-fields-{sites}",
        dim=2 * sites,
        log_density=log_density,
        lower=None,
        upper=None,
        make_bases=bases,
        log_evidence={64: 120.7140875286}.get(sites),
        names=tuple(f"{letter}{i}" for i in range(1, sites + 1) for letter in "sh"),
        reference=f"Ising chain with continuous fields; {_TRANSFER}",
        make_support=lambda: [categorical(2), constraints.real] * sites,
    )


def positive_chain(dim: int = 16) -> Problem:
    """A stationary Gaussian chain where all of it is positive: x_1 ~ N(m, 1), x_{i+1} ~ N(m + ρ (x_i − m), 1 − ρ²), x > 0.

    ρ = 0.95, m = 0.5, normalised without the restriction: the evidence is the probability of the orthant, half a deviation of every coordinate from its mean.
    """
    mean, correlation = 0.5, 0.95
    variance = 1 - correlation**2

    def log_density(x: torch.Tensor) -> torch.Tensor:
        y = x - mean
        steps = y[:, 1:] - correlation * y[:, :-1]
        constant = -0.5 * dim * math.log(2 * math.pi) - 0.5 * (dim - 1) * math.log(variance)
        return constant - 0.5 * y[:, 0].square() - 0.5 * steps.square().sum(1) / variance

    return Problem(
        name=f"positive-chain-{dim}",
        dim=dim,
        log_density=log_density,
        lower=None,
        upper=None,
        make_bases=None,
        log_evidence=_POSITIVE_CHAIN_EVIDENCE.get(dim),
        names=numbered("x", dim),
        reference=f"Gaussian chain in the positive orthant; {_TRANSFER}",
        make_support=lambda: [constraints.positive] * dim,
    )


def xy_ring(dim: int = 16) -> Problem:
    """Ring of angles: log p̃ = Σ cos(θ_i − θ_{i+1}), indices modulo d, θ on the circle.

    Z = Σ_k (2π I_k(1))^d over all integers k, with I_k the modified Bessel functions.
    """

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return torch.cos(x - x.roll(1, dims=1)).sum(1)

    return Problem(
        name=f"xy-ring-{dim}",
        dim=dim,
        log_density=log_density,
        lower=torch.full((dim,), -math.pi, dtype=torch.float64),
        upper=torch.full((dim,), math.pi, dtype=torch.float64),
        make_bases=lambda: [Fourier(-math.pi, math.pi, size=21)] * dim,
        log_evidence=_xy_ring_evidence(dim),
        names=numbered("theta", dim),
        reference="XY ring; log evidence in closed form (Bessel functions)",
        make_support=lambda: circles(dim),
    )


def _xy_ring_evidence(dim: int) -> float:
    """dim·log 2π + log Σ_k I_k(1)^dim; I_k(1) by its power series, which needs a dozen terms."""

    def bessel(order: int) -> float:
        return math.fsum(0.5 ** (2 * m + order) / (math.factorial(m) * math.factorial(m + order)) for m in range(12))

    first = bessel(0)
    ratios = 1 + 2 * math.fsum((bessel(k) / first) ** dim for k in range(1, 24))
    return dim * math.log(2 * math.pi * first) + math.log(ratios)
