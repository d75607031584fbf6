"""Thin shells, many wells and strong changes of scale."""

from __future__ import annotations

import math

import torch

from ..tt.basis import Legendre, Piecewise
from .problem import Problem, box_problem, numbered

__all__ = ["egg_box", "funnel", "many_well", "shells", "stretched_funnel"]

_LOG_2PI = math.log(2 * math.pi)


def shells(dim: int = 10) -> Problem:
    """Two Gaussian shells of radius 2 and thickness 0.1 under a uniform prior on [−6, 6]^d.

    log p̃ = logaddexp_± [ −½ ((‖x ∓ c‖ − 2)/0.1)² ] − ½ log(2π·0.01) − d log 12, c = (3.5, 0, …).

    References:
        Feroz, Hobson and Bridges, "MultiNest: an efficient and robust Bayesian inference tool" (2009).
    """
    offset, radius, width = 3.5, 2.0, 0.1
    constant = -0.5 * (_LOG_2PI + 2 * math.log(width)) - dim * math.log(12.0)

    def log_density(x: torch.Tensor) -> torch.Tensor:
        rest = x[:, 1:].square().sum(1)
        distances = torch.stack([((x[:, 0] - c).square() + rest).sqrt() for c in (-offset, offset)])
        return torch.logsumexp(-0.5 * ((distances - radius) / width).square(), 0) + constant

    return box_problem(
        f"shells-{dim}",
        log_density,
        [-6.0] * dim,
        [6.0] * dim,
        [256 if dim < 6 else 128] * dim,
        names=numbered("x", dim),
        log_evidence={2: -1.7456418720, 10: -14.5904910744, 20: -36.0865476408}.get(dim),
        reference="Gaussian shells; log evidence by quadrature in the radius",
        bounded=True,
    )


def many_well(dim: int = 32) -> Problem:
    """Independent pairs (u, v) with two wells in u: log p̃ = Σ ½u + 6u² − u⁴ − ½v²; 2^{d/2} modes.

    Raises:
        ValueError: for an odd `dim`.

    References:
        Noé, Olsson, Köhler and Wu, "Boltzmann generators" (2019).
    """
    if dim % 2:
        raise ValueError(f"many_well: expected an even `dim`; got {dim}. Coordinates come in pairs.")

    def log_density(x: torch.Tensor) -> torch.Tensor:
        u, v = x[:, 0::2], x[:, 1::2]
        return (0.5 * u + 6 * u.square() - u.square().square() - 0.5 * v.square()).sum(1)

    pairs = dim // 2
    return box_problem(
        f"many-well-{dim}",
        log_density,
        [-3.0, -7.0] * pairs,
        [3.0, 7.0] * pairs,
        [64, 40] * pairs,
        names=tuple(f"{letter}{i}" for i in range(1, pairs + 1) for letter in "uv"),
        log_evidence=pairs * 164.6956753132 / 16,
        reference="many-well; log evidence by quadrature of one pair",
    )


def egg_box() -> Problem:
    """Egg-box: log p̃ = (2 + cos(x_1/2) cos(x_2/2))⁵ − 2 log 10π on [0, 10π]², eighteen equal peaks.

    References:
        Feroz, Hobson and Bridges, "MultiNest: an efficient and robust Bayesian inference tool" (2009).
    """
    side = 10 * math.pi

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return (2 + torch.cos(0.5 * x).prod(1)).pow(5) - 2 * math.log(side)

    return box_problem(
        "egg-box",
        log_density,
        [0.0, 0.0],
        [side, side],
        [640, 640],
        names=("x1", "x2"),
        log_evidence=235.8559403323,
        reference="egg-box; log evidence by quadrature",
        bounded=True,
    )


def funnel(dim: int = 10) -> Problem:
    """Neal's funnel: v ~ N(0, 3²), x_i | v ~ N(0, e^v) for i < d; normalised.

    The widths of the x_i run over four orders of magnitude, which no one-dimensional basis on a fixed grid resolves
    everywhere: the recommended bases cover v ∈ [−9, 9] and lose the narrow end. `stretched_funnel` is the same
    distribution in coordinates that suit a train.

    References:
        Neal, "Slice sampling" (2003).
    """

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return _funnel_log_density(x[:, 0], x[:, 1:])

    return Problem(
        name=f"funnel-{dim}",
        dim=dim,
        log_density=log_density,
        lower=torch.tensor([-9.0] + [-400.0] * (dim - 1), dtype=torch.float64),
        upper=torch.tensor([9.0] + [400.0] * (dim - 1), dtype=torch.float64),
        make_bases=lambda: [Legendre(-9.0, 9.0, size=48)] + [Piecewise(-400.0, 400.0, size=513)] * (dim - 1),
        log_evidence=0.0,
        names=("v", *numbered("x", dim - 1)),
        reference="Neal's funnel; normalised by construction",
    )


def stretched_funnel(dim: int = 10) -> Problem:
    """Neal's funnel in v and y_i = asinh(100 x_i), the Jacobian Π cosh(y_i)/100 included; normalised.

    The box cuts v at five of its standard deviations, which costs 6e-7 of the mass.
    """
    scale = 0.01

    def log_density(x: torch.Tensor) -> torch.Tensor:
        y = x[:, 1:]
        # log cosh y = |y| + log(1 + e^{-2|y|}) - log 2, without overflow
        log_cosh = y.abs() + torch.log1p(torch.exp(-2 * y.abs())) - math.log(2.0)
        log_jacobian = log_cosh.sum(1) + (dim - 1) * math.log(scale)
        return _funnel_log_density(x[:, 0], scale * torch.sinh(y)) + log_jacobian

    return box_problem(
        f"stretched-funnel-{dim}",
        log_density,
        [-15.0] + [-15.0] * (dim - 1),
        [15.0] + [15.0] * (dim - 1),
        [48] + [96] * (dim - 1),
        names=("v", *numbered("y", dim - 1)),
        log_evidence=0.0,
        reference="Neal's funnel in asinh coordinates; normalised by construction",
    )


def _funnel_log_density(v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """log N(v; 0, 9) + Σ log N(x_i; 0, e^v); shapes (batch,), (batch, d − 1)."""
    head = -0.5 * (v / 3).square() - 0.5 * _LOG_2PI - math.log(3.0)
    # Scale before squaring: e^{-v} x² of far points would overflow in float32.
    tail = -0.5 * (x * torch.exp(-0.5 * v)[:, None]).square().sum(1) - 0.5 * x.shape[1] * (_LOG_2PI + v)
    return head + tail
