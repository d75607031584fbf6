"""One-dimensional monotone maps of (-1, 1) onto the line, one per coordinate, applied to all columns at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .interval import from_line, to_line

__all__ = ["WIDTH", "Stretch", "tail_exponent"]

WIDTH = 3.0
"""Half of the nodes lie within 3/√3 standard deviations: a Gaussian then needs 15 functions for 1e-3, a logistic 11."""

_TAIL_QUANTILES = (0.1587, 0.005)
_NORMAL_RATIO = 2.5758  # of the outer to the inner normal quantile
_LIGHT = 0.6  # how far that ratio must fall below the normal one for the middle to be that of the ends
_MAX_EXPONENT = 4.0
_LOG_WIDTH = math.log(WIDTH)
_LOG_TWO = math.log(2.0)


@dataclass(frozen=True)
class Stretch:
    r"""Columns :math:`t = \sinh(\tau v)/\tau` with :math:`v = c\,w/\sqrt{1-w^2}`, or the native interval, or the identity.

    The algebraic map covers the whole line, so nothing has to be known about where the tails end; the uniform density
    in ``w`` has tails :math:`|v|^{-3}`, heavier than almost any target. The hyperbolic sine makes power laws exponential
    and puts scales of several orders of magnitude side by side. A *native* column
    undoes the map of an interval to the line, which is then covered as it is. A column that *ends* is :math:`t = h w`, and covers
    :math:`[-h, h]` alone.

    Attributes:
        exponents: :math:`\tau \ge 0` of every column, shape (m,).
        native: columns that stand for an interval as it is, shape (m,), bool.
        fixed: columns left alone (angles, finite sets), shape (m,), bool.
        ends: :math:`h` of the columns that end, zero elsewhere, shape (m,); None where no column does.

    References:
        Boyd, Chebyshev and Fourier Spectral Methods (2001), chapter 17: rational Chebyshev functions on the line.
        Jones and Pewsey, Sinh-arcsinh distributions (2009).

    >>> stretch = Stretch(torch.zeros(1), torch.tensor([False]), torch.tensor([False]))
    >>> t, log_slope = stretch.forward(torch.tensor([[0.0]], dtype=torch.float64))
    >>> float(t), round(float(log_slope.exp()), 6)
    (0.0, 3.0)
    """

    exponents: Tensor
    native: Tensor
    fixed: Tensor
    ends: Tensor | None = None

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The map, column by column.

        Args:
            w: in [-1, 1], anything in the columns left alone; shape (..., m). The ends of a line count as the last number inside.

        Returns:
            Points ``t`` on the line and ``log |dt/dw|``, both of the shape of ``w``.
        """
        tau, native, fixed, ends = self._like(w)
        inner = self.within(torch.where(fixed | (ends > 0), 0.0, w))
        gap = (1 - inner) * (1 + inner)
        v = WIDTH * inner / gap.sqrt()
        t, slope = v, _LOG_WIDTH - 1.5 * gap.log()
        if self._any_curved:
            curved = tau > 0
            # `where` on both sides: what overflows in a branch that is not taken must not reach the gradients.
            safe = torch.where(curved, tau, 1.0)
            scaled = safe * torch.where(curved, v, 0.0)
            t = torch.where(curved, torch.sinh(scaled) / safe, v)
            slope = slope + torch.where(curved, _log_cosh(scaled), 0.0)
        if self._any_native:
            line = to_line(0.5 * (1 + inner))
            t = torch.where(native, line, t)
            slope = torch.where(native, -_LOG_TWO - from_line(line)[1], slope)
        if self.ends is not None:
            t = torch.where(ends > 0, ends * w, t)
            slope = torch.where(ends > 0, torch.where(ends > 0, ends, 1.0).log(), slope)
        return torch.where(fixed, w, t), torch.where(fixed, 0.0, slope)

    def inverse(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse map, column by column.

        Args:
            t: points on the line, shape (..., m).

        Returns:
            Points ``w`` and ``log |dw/dt|``, both of the shape of ``t``; in [-1, 1], unless they lie beyond where a column
            ends. Far out on a line ``w`` rounds to an end.
        """
        tau, native, fixed, ends = self._like(t)
        line = torch.where(fixed, 0.0, t)
        v, bent = line, torch.zeros_like(line)
        if self._any_curved:
            curved = tau > 0
            safe = torch.where(curved, tau, 1.0)
            v = torch.where(curved, torch.asinh(safe * line) / safe, line)
            bent = torch.where(curved, _log_cosh(safe * v), 0.0)
        # From v, not from w: 1 - w² loses its digits in the tails. A hypotenuse does not overflow where v² would.
        long = torch.hypot(v, torch.full_like(v, WIDTH))
        w, slope = v / long, 3 * long.log() - 2 * _LOG_WIDTH + bent
        if self._any_native:
            u, inner_slope = from_line(line)
            w = torch.where(native, 2 * u - 1, w)
            slope = torch.where(native, -_LOG_TWO - inner_slope, slope)
        if self.ends is not None:
            half = torch.where(ends > 0, ends, 1.0)
            w, slope = torch.where(ends > 0, line / half, w), torch.where(ends > 0, half.log(), slope)
        return torch.where(fixed, t, w), torch.where(fixed, 0.0, -slope)

    def within(self, w: Tensor) -> Tensor:
        """Points with every column that goes to a line inside (-1, 1), where the map is finite; the same shape (..., m)."""
        edge = 1 - 2 * torch.finfo(w.dtype).eps
        return torch.where((self.fixed | self.ending).to(w.device), w, w.clamp(-edge, edge))

    def columns(self, chosen: Tensor) -> Stretch:
        """The same maps of some columns alone.

        Args:
            chosen: numbers of columns, shape (m',).
        """
        ends = None if self.ends is None else self.ends[chosen]
        return Stretch(self.exponents[chosen], self.native[chosen], self.fixed[chosen], ends)

    def tensors(self) -> dict[str, Tensor]:
        """All that it takes to make it again, by the names of the arguments."""
        ends = {} if self.ends is None else {"ends": self.ends}
        return {"exponents": self.exponents, "native": self.native, "fixed": self.fixed, **ends}

    @cached_property
    def ending(self) -> Tensor:
        """The columns that end, shape (m,), bool."""
        return torch.zeros_like(self.fixed) if self.ends is None else self.ends > 0

    @cached_property
    def _any_curved(self) -> bool:
        return bool((self.exponents > 0).any())

    @cached_property
    def _any_native(self) -> bool:
        return bool(self.native.any())

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ends = torch.zeros_like(self.exponents) if self.ends is None else self.ends
        return self.exponents.to(x), self.native.to(x.device), self.fixed.to(x.device), ends.to(x)


def tail_exponent(columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Location, scale and :math:`\tau` of every column, from its quantiles.

    A standard normal ``v`` has the outer quantile 2.58 times the inner one; :math:`\tau` is what makes
    :math:`\sinh(2.58\,\tau)/\sinh(\tau)` the ratio found, 0 when the tails are no heavier than normal. Where they are lighter, as
    beside two modes, the location is the middle of the outer quantiles: the median may be in either mode, and functions
    that are fine there are coarse in the other.

    Args:
        columns: draws, shape (N, m).

    Returns:
        Three tensors of shape (m,); scales are positive.

    >>> normal = torch.special.ndtri(torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64))
    >>> loc, scale, tau = tail_exponent(torch.stack([2 + 3 * normal, torch.sinh(normal)], 1))
    >>> [round(float(x), 1) for x in (*loc.abs(), *scale, *tau)]
    [2.0, 0.0, 3.0, 1.0, 0.0, 1.0]
    """
    levels = torch.tensor([_TAIL_QUANTILES[1], _TAIL_QUANTILES[0], 0.5], dtype=columns.dtype, device=columns.device)
    levels = torch.cat([levels, 1 - levels[:2].flip(0)])
    q = torch.quantile(columns, levels, dim=0)
    inner, outer = 0.5 * (q[3] - q[1]), 0.5 * (q[4] - q[0])
    inner = torch.where(inner > 0, inner, columns.std(0)).clamp_min(1e-12)
    ratio = outer / inner
    light = ((_NORMAL_RATIO - ratio) / _LIGHT).clamp(0, 1)
    loc = q[2] + light * (0.5 * (q[0] + q[4]) - q[2])
    low, high = torch.zeros_like(ratio), torch.full_like(ratio, _MAX_EXPONENT)
    for _ in range(40):
        middle = 0.5 * (low + high)
        reached = torch.sinh(_NORMAL_RATIO * middle) / torch.sinh(middle).clamp_min(1e-30)
        low, high = torch.where(reached < ratio, middle, low), torch.where(reached < ratio, high, middle)
    tau = torch.where(ratio > 1.15 * _NORMAL_RATIO, 0.5 * (low + high), 0.0)
    scale = torch.where(tau > 0, inner * tau / torch.sinh(tau).clamp_min(1e-30), torch.maximum(inner, columns.std(0)))
    return loc, scale, tau


def _log_cosh(x: Tensor) -> Tensor:
    return x.abs() + torch.nn.functional.softplus(-2 * x.abs()) - _LOG_TWO
