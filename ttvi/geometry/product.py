"""The rank-one density of a population in working coordinates: smoothed marginals, with safe tails."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..tt.basis import Basis, Categorical, Fourier
from ..tt.density import TTDensity
from ..tt.train import TensorTrain
from .chart import Chart
from .stretch import WIDTH

__all__ = ["product_density"]

NODES = 49
SAFE_SHARE = 0.5  # of one column in all: wide draws in one of many columns spoil the whole point
SAFE_WIDTH = 2.0
MOST_POINTS = 4096
NARROWEST_ANGLE = 0.1  # radians: what so many nodes can show


def product_density(chart: Chart, w: Tensor, *, safe: float = SAFE_SHARE) -> TTDensity:
    """Independent columns, each a kernel estimate of its marginal with a share of a wider density mixed in.

    Costs no evaluation. Where a chart makes the columns nearly independent it is already a good approximation.

    Args:
        chart: the chart.
        w: points in its working coordinates, shape (N, m), N at least two; the first 4096 are used.
        safe: share of the draws that have some column from its wider density.

    Returns:
        A density of the working coordinates, of ranks one.

    References:
        Silverman, Density estimation for statistics and data analysis (1986).

    >>> from ttvi.geometry.coordinates import Coordinates
    >>> from ttvi.supports import Support
    >>> generator = torch.Generator().manual_seed(0)
    >>> normal = torch.randn(2000, 1, generator=generator, dtype=torch.float64)
    >>> chart = Chart.axis(Coordinates(Support.parse(dim=1)), normal)
    >>> density = product_density(chart, chart.from_t(normal)[0])
    >>> quartiles = chart.to_t(density.sample((4000,), generator=generator))[0].quantile(torch.tensor([0.25, 0.75]).double())
    >>> bool((quartiles.abs() - 0.67).abs().max() < 0.1)
    True
    """
    w = w[:MOST_POINTS]
    ending = chart.stretch.ending
    stretched = ~chart.stretch.fixed & ~chart.stretch.native & ~ending
    ends = torch.ones_like(chart.stretch.exponents) if chart.stretch.ends is None else chart.stretch.ends
    share = min(0.1, safe / chart.dim)
    cores: list[Tensor] = []
    bases: list[Basis] = []
    for k, basis in enumerate(chart.bases()):
        sized = basis if isinstance(basis, Categorical) else basis.with_size(NODES)
        nodes, weights = sized.nodes(dtype=w.dtype, device=w.device), sized.weights(dtype=w.dtype, device=w.device)
        if isinstance(basis, Categorical):
            marginal = _histogram(w[:, k], len(nodes), share)
        elif bool(ending[k]):
            marginal = ends[k] * _on_the_line(ends[k] * w[:, k], ends[k] * nodes, share)
        elif bool(stretched[k]):
            slope = WIDTH * ((1 - nodes) * (1 + nodes)) ** -1.5
            v, at = _algebraic(w[:, k]), _algebraic(nodes)
            marginal = slope * _on_the_line(v, at, share, curved=bool(chart.stretch.exponents[k] > 0))
        elif isinstance(basis, Fourier):
            marginal = _on_the_circle(w[:, k], nodes, basis.upper - basis.lower, share)
        else:
            marginal = _on_the_interval(w[:, k], nodes, share)
        cores.append((marginal * weights).sqrt().view(1, -1, 1))
        bases.append(sized)
    return TTDensity(TensorTrain(cores, w.new_zeros(())), bases)


def _bandwidth(spread: Tensor, count: int) -> Tensor:
    """Silverman's rule."""
    return (0.9 * spread * count**-0.2).clamp_min(1e-3)


def _algebraic(w: Tensor) -> Tensor:
    """The variable v, in which a standard normal is expected."""
    return WIDTH * w / ((1 - w) * (1 + w)).clamp_min(1e-15).sqrt()


def _on_the_line(v: Tensor, x: Tensor, share: float, *, curved: bool = False) -> Tensor:
    """The estimate at x from points v, where a standard normal is expected, with a share of a wider density."""
    low, high = torch.quantile(v, 0.16), torch.quantile(v, 0.84)
    width = 1.5 * _bandwidth(torch.minimum(v.std(), 0.5 * (high - low).clamp_min(1e-3)), len(v))
    # Drawn together so that the kernel leaves the variance as it is.
    v = v.mean() + (v - v.mean()) * (1 - (width / v.std().clamp_min(1e-3)).square()).clamp_min(0.0).sqrt()
    kernel = torch.exp(-0.5 * ((x[:, None] - v[None]) / width).square()).mean(1) / (width * math.sqrt(2 * math.pi))
    spread = SAFE_WIDTH * v.std().clamp_min(1e-3)
    far = (x - v.mean()) / spread
    # Student with four degrees of freedom: its square root is still smooth in w. Heavy tails are in the sinh already.
    safe = torch.exp(-0.5 * far.square()) / math.sqrt(2 * math.pi) if curved else 0.375 * (1 + far.square() / 4) ** -2.5
    return (1 - share) * kernel + share * safe / spread


def _on_the_interval(column: Tensor, nodes: Tensor, share: float) -> Tensor:
    """On [-1, 1], the kernels reflected at the ends."""
    width = _bandwidth(column.std(), len(column))
    mirrored = torch.cat([column, 2 - column, -2 - column])
    kernel = torch.exp(-0.5 * ((nodes[:, None] - mirrored[None]) / width).square()).sum(1) / len(column)
    return (1 - share) * kernel / (width * math.sqrt(2 * math.pi)) + share * 0.5


def _on_the_circle(column: Tensor, nodes: Tensor, period: float, share: float) -> Tensor:
    """With von Mises kernels."""
    angle = 2 * math.pi / period
    resultant = torch.stack([torch.cos(angle * column).mean(), torch.sin(angle * column).mean()]).norm()
    spread = (-2 * resultant.clamp(1e-6, 1 - 1e-6).log()).sqrt().clamp_max(1.5)
    concentration = _bandwidth(spread, len(column)).clamp_min(NARROWEST_ANGLE) ** -2
    cosine = torch.cos(angle * (nodes[:, None] - column[None]))
    kernel = torch.exp(concentration * (cosine - 1)).mean(1)
    kernel = kernel / (kernel.mean() * period)
    return (1 - share) * kernel + share / period


def _histogram(column: Tensor, size: int, share: float) -> Tensor:
    """Frequencies."""
    counts = torch.bincount(column.long().clamp(0, size - 1), minlength=size).to(column.dtype)
    return (1 - share) * counts / len(column) + share / size
