"""Two-dimensional lattices, site (i, j) at coordinate i L + j."""

from __future__ import annotations

import math

import torch

from ..typing import LogDensity
from .problem import Modes, Problem, box_problem, circles, numbered

__all__ = ["boundary_lattice", "ginzburg_landau_2d", "phi4", "xy_lattice"]

_PHI4_EVIDENCE = {
    (6, 6.975): (6.98495, 2e-4),
    (6, 8.0): (5.24305, 2e-4),
    (8, 8.0): (9.29136, 2e-4),
    (8, 6.008): (15.98646, 2e-4),
}
"""(L, λ) at m² = −4: log evidence and its error."""

_BOUNDARY_EVIDENCE = {(8, 5.0): -64.78367, (8, 1.0): -235.0419}
"""(L, T): log evidence."""


def phi4(side: int = 6, coupling: float = 6.975) -> Problem:
    """Lattice φ⁴ theory at m² = −4 on a periodic L × L lattice.

    log p̃ = −Σ_x [ m² φ_x² + λ φ_x⁴ + Σ_{μ=1,2} (φ_{x+μ} − φ_x)² ].

    Args:
        side: L.
        coupling: λ; positive.

    References:
        Albergo, Kanwar and Shanahan, "Flow-based generative models for Markov chain Monte Carlo in lattice field
        theory" (2019).
    """
    mass = -4.0

    def log_density(x: torch.Tensor) -> torch.Tensor:
        squares = x.square()
        sites = (mass * squares + coupling * squares.square()).sum(1)
        field = x.reshape(-1, side, side)
        bonds = [(field.roll(-1, axis) - field).square().sum((1, 2)) for axis in (1, 2)]
        return -(sites + bonds[0] + bonds[1])

    value, error = _PHI4_EVIDENCE.get((side, float(coupling)), (None, 0.0))
    return _line_problem(
        f"phi4-{side}-lambda-{coupling:g}",
        log_density,
        "phi",
        side,
        value,
        error,
        "lattice φ⁴; log evidence computed independently",
    )


def ginzburg_landau_2d(side: int = 4) -> Problem:
    """Ginzburg-Landau model on an open L × L lattice: log p̃ = −Σ_bonds (x − y)² − Σ_sites (1 − x²)²."""

    def log_density(x: torch.Tensor) -> torch.Tensor:
        field = x.reshape(-1, side, side)
        bonds = field.diff(dim=1).square().sum((1, 2)) + field.diff(dim=2).square().sum((1, 2))
        return -bonds - (1 - x.square()).square().sum(1)

    return _line_problem(
        f"ginzburg-landau-2d-{side}",
        log_density,
        "x",
        side,
        {4: -3.99928, 6: -11.26506, 8: -21.72441}.get(side),
        1e-5,
        "two-dimensional Ginzburg-Landau model; log evidence by a transfer operator",
    )


def xy_lattice(side: int = 4) -> Problem:
    """XY model on a periodic L × L lattice at β = 1: log p̃ = Σ_bonds cos(θ_x − θ_y), θ on the circle."""

    def log_density(x: torch.Tensor) -> torch.Tensor:
        field = x.reshape(-1, side, side)
        bonds = [torch.cos(field.roll(-1, axis) - field).sum((1, 2)) for axis in (1, 2)]
        return bonds[0] + bonds[1]

    dim = side * side
    return Problem(
        name=f"xy-lattice-{side}",
        dim=dim,
        log_density=log_density,
        lower=torch.full((dim,), -math.pi, dtype=torch.float64),
        upper=torch.full((dim,), math.pi, dtype=torch.float64),
        make_bases=None,
        log_evidence={4: 40.05352, 6: 88.55961}.get(side),
        names=numbered("theta", dim),
        reference="XY lattice; log evidence by a transfer operator",
        make_support=lambda: circles(dim),
        log_evidence_error=1e-5,
    )


def boundary_lattice(side: int = 8, temperature: float = 5.0) -> Problem:
    """Ginzburg-Landau lattice held at +1 on two opposite sides and at −1 on the other two, on the box [−1, 1]^d.

    With u = 2θ on L × L interior points, δ = 0.04, h = 1/(L+1):
    log p̃(θ) = −(1/T) [ (δ/2) Σ_bonds ((u − u')/h)² + Σ_interior (1 − u²)²/(4δ) ], a density in θ. Bonds to the
    boundary count: u = +1 beyond the first and the last row, −1 beyond the first and the last column; so do those along
    the boundary, which are a constant: one at each corner is not zero. The symmetry u → −uᵀ makes two modes of equal
    weight, well apart at T = 1.

    References:
        Khoo, Lindsey and Zhao, "Tensorizing flows: a tool for variational inference" (2023).
    """
    stiffness, step, scale = 0.04, 1.0 / (side + 1), 2.0

    def log_density(x: torch.Tensor) -> torch.Tensor:
        u = scale * x.reshape(-1, side, side)
        framed = torch.nn.functional.pad(u, (0, 0, 1, 1), value=1.0)
        framed = torch.nn.functional.pad(framed, (1, 1), value=-1.0)
        bonds = framed.diff(dim=1).square().sum((1, 2)) + framed.diff(dim=2).square().sum((1, 2))
        wells = (1 - u.square()).square().sum((1, 2)) / (4 * stiffness)
        return -(0.5 * stiffness * bonds / step**2 + wells) / temperature

    def responsibilities(x: torch.Tensor) -> torch.Tensor:
        positive = (x.sum(1) > 0).to(x.dtype)
        return torch.stack((positive, 1 - positive), 1)

    dim = side * side
    # Each mode follows one pair of sides inside: the sign of the mean tells which.
    centres = torch.stack([torch.full((dim,), s, dtype=torch.float64) for s in (0.25, -0.25)])
    return box_problem(
        f"boundary-lattice-{side}-temperature-{temperature:g}",
        log_density,
        [-1.0] * dim,
        [1.0] * dim,
        None,
        names=_site_names("theta", side),
        log_evidence=_BOUNDARY_EVIDENCE.get((side, float(temperature))),
        reference="Ginzburg-Landau lattice of 'Tensorizing flows' (2023); log evidence by contraction of its rows",
        bounded=True,
        modes=Modes(centres, torch.full((2,), 0.5, dtype=torch.float64), responsibilities),
    )


def _site_names(letter: str, side: int) -> tuple[str, ...]:
    """("x1,1", "x1,2", …)."""
    return tuple(f"{letter}{i},{j}" for i in range(1, side + 1) for j in range(1, side + 1))


def _line_problem(
    name: str, log_density: LogDensity, letter: str, side: int, log_evidence: float | None, error: float, reference: str
) -> Problem:
    """A lattice of real numbers without a box."""
    return Problem(
        name=name,
        dim=side * side,
        log_density=log_density,
        lower=None,
        upper=None,
        make_bases=None,
        log_evidence=log_evidence,
        names=_site_names(letter, side),
        reference=reference,
        log_evidence_error=error,
    )
